"""Weights of any numbers in the form that an export has: as fast and as large, and made in no time."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from kl_lens_desktop.export.compress import compress, weight_constants
from kl_lens_desktop.export.trace import CONSTANT_PREFIX
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import Format

_ROWS, _EXPERTS = 8, 2  # of the weight that NNCF compresses to see what comes of it
# Bytes between two stand-ins, and different ones: a plugin keeps one copy of weights that lie in one place,
# and a file one of equal weights.
_APART, _PLACES = 64, 4096
_STAND_IN = "stand_in.weight"


class StandIns:
    """Makes weights of any shape and format, which lie in one region of memory for as long as this lives.

    A plugin lays out each of them anew, so they are as many as they seem to be once a graph is compiled.
    """

    def __init__(self) -> None:
        self._made = 0
        self._regions: dict[tuple[Any, ...], NDArray[np.uint8]] = {}

    def weight(self, shape: Sequence[int], fmt: Format) -> ov.Output:
        """What a product reads in place of a weight of `shape` (…, rows, columns) in FP32."""
        graph = _pattern(len(shape) - 2, shape[-1], fmt).clone()
        product = graph.outputs[0].get_node().input_value(0).get_node()
        small = list(product.input_value(1).get_shape())
        self._made += 1
        for op in graph.get_ops():
            is_constant = op.get_type_name() == "Constant"
            if is_constant and (new := self._stretched(op, small, list(shape))) is not None:
                op.output(0).replace(new.output(0))
        graph.validate_nodes_and_infer_types()
        return product.input_value(1)

    def _stretched(self, constant: ov.Node, small: list[int], shape: list[int]) -> ov.Node | None:
        """The constant for a weight of `shape`; None where it is the same for all."""
        stacked, kind = len(small) - 1, constant.get_element_type()
        size = list(constant.get_output_shape(0))
        if kind in (ov.Type.i64, ov.Type.i32) and size == [constant.data.size]:
            target = constant.data.tolist()  # of a Reshape
            return ops.constant(np.array([*shape[:stacked], *target[stacked:]], constant.data.dtype))
        if size[:stacked] != small[:stacked]:
            return None
        wanted = [*shape[:stacked], *size[stacked:]]
        length = constant.get_byte_size() * math.prod(shape[:stacked]) // math.prod(small[:stacked])
        key = kind.get_type_name(), length
        if key not in self._regions:
            numbers = _any_numbers(kind, length + (_PLACES + 1) * _APART)
            # Plugins copy what begins elsewhere.
            self._regions[key] = numbers[-numbers.ctypes.data % _APART :]
        start = self._made % _PLACES * _APART
        values = ov.Tensor(self._regions[key][start : start + length], wanted, kind)
        return ov.op.Constant(values, shared_memory=True)


def _any_numbers(kind: ov.Type, size: int) -> NDArray[np.uint8]:
    """So many bytes; in FP16 as small as scales and weights are."""
    numbers = np.random.default_rng(0)
    if kind == ov.Type.f16:
        return numbers.uniform(0.005, 0.015, size // 2).astype(np.float16).view(np.uint8)
    return numbers.integers(0, 256, size, np.uint8)


@functools.cache
def _pattern(stacked: int, columns: int, fmt: Format) -> ov.Model:
    """A product with a small weight of so many columns, compressed as an export's are."""
    rows = [*[_EXPERTS] * stacked, _ROWS]
    values = np.random.default_rng(0).normal(0, 0.02, (*rows, columns)).astype(np.float16)
    constant = ops.constant(values)
    constant.set_friendly_name(f"{CONSTANT_PREFIX}{_STAND_IN}_compressed")
    widened = ops.convert(constant, "f32")
    widened.set_friendly_name(f"{CONSTANT_PREFIX}{_STAND_IN}")
    given = ops.parameter([*[-1] * stacked, 1, columns], np.float32)
    graph = ov.Model([ops.matmul(given, widened, False, True)], [given])
    compress(graph, {_STAND_IN: fmt.name}, Cancel())
    return graph


def fill_with_stand_ins(graph: ov.Model, fmt: Format) -> StandIns:
    """Give a hollow graph (`export.hollow`) weights of any numbers in one format, in place.

    Returns
    -------
    StandIns
        Which must live as long as the graph.
    """
    made = StandIns()
    for constant in weight_constants(graph).values():
        (widened,) = (port.get_node() for port in constant.output(0).get_target_inputs())
        widened.output(0).replace(made.weight(list(constant.get_output_shape(0)), fmt))
    graph.validate_nodes_and_infer_types()
    return made
