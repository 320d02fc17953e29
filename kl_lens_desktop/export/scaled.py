"""Inputs of matrices whose columns were multiplied by powers of two: divided by them, in a graph.

Where everything that reads a norm is such a matrix, the norm's own factors are divided, which costs nothing
when the graph runs; elsewhere a product is added. Powers of two are exact, so the function is that which was
measured.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from kl_lens_desktop.errors import ExportError

_Division = tuple[bytes, bool]  # exponents, and whether channels are the last axis but one
_BESIDE_WEIGHTS = ("Convert", "Subtract", "Multiply", "Reshape")  # what unpacks them


def divide_inputs(
    graph: ov.Model, constants: Mapping[str, ov.Node], exponents: Mapping[str, NDArray[np.int8]]
) -> None:
    """Divide what matrices are multiplied with, in place.

    Parameters
    ----------
    constants : mapping of str to ov.Node
        Weights of the graph, compressed, by name.
    exponents : mapping of str to array
        Of two, (channels,), of those that were multiplied.

    Raises
    ------
    ExportError
        If the graph uses one of them in another way than as the second factor of a product.
    """
    ports: dict[ov.Output, dict[_Division, list[ov.Input]]] = defaultdict(lambda: defaultdict(list))
    for name, powers in exponents.items():
        for port in _inputs_beside(name, constants[name].output(0)):
            is_turned = bool(port.get_node().get_attributes()["transpose_a"])
            ports[port.get_source_output()][powers.tobytes(), is_turned].append(port)
    for source, divisions in ports.items():
        users = [port for port in source.get_target_inputs() if not _reads_shape(port.get_node())]
        for (raw, is_turned), readers in divisions.items():
            factors = np.ldexp(np.float32(1), -np.frombuffer(raw, np.int8).astype(np.int32))
            alone = len(readers) == len(users) and not is_turned
            if not (alone and _divided_in_norm(source.get_node(), factors)):
                shape = [1] * len(source.get_partial_shape())
                shape[-2 if is_turned else -1] = len(factors)
                product = ops.multiply(source, ops.constant(factors.reshape(shape)))
                for port in readers:
                    port.replace_source_output(product.output(0))
    graph.validate_nodes_and_infer_types()


def _inputs_beside(name: str, weight: ov.Output) -> Iterator[ov.Input]:
    """The other inputs of the products that a weight is a factor of."""
    for target in weight.get_target_inputs():
        node = target.get_node()
        kind = node.get_type_name()
        if kind == "MatMul" and target.get_index() == 1 and node.get_attributes()["transpose_b"]:
            yield node.input(0)
        elif kind in _BESIDE_WEIGHTS:
            yield from _inputs_beside(name, node.output(0))
        else:
            raise ExportError(
                f"Cannot export {name} with scaled columns",
                f"the graph uses it in {kind}",
                "Report this as a bug, and choose rounding to nearest",
            )


def _divided_in_norm(norm: ov.Node, factors: NDArray[np.float32]) -> bool:
    """Whether the product that ends a norm has a constant of that many factors, which are divided then."""
    if norm.get_type_name() != "Multiply":
        return False
    for port in norm.inputs():
        source = port.get_source_output().get_node()
        unpacked = source.get_type_name() == "Convert"
        constant = source.input_value(0).get_node() if unpacked else source
        shape = list(constant.get_output_shape(0)) if constant.get_type_name() == "Constant" else []
        if shape[-1:] != [len(factors)] or np.prod(shape) != len(factors):
            continue
        values = constant.data.astype(np.float32) * factors.reshape(shape)
        halved: Any = values.astype(np.float16)
        if unpacked and len(source.output(0).get_target_inputs()) == 1 and (halved == values).all():
            made = ops.constant(halved)
            source.input(0).replace_source_output(made.output(0))
        else:
            made = ops.constant(values)
            port.replace_source_output(made.output(0))
        made.set_friendly_name(constant.get_friendly_name())
        return True
    return False


def _reads_shape(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "ShapeOf")
