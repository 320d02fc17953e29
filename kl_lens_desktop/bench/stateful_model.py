"""An exported model run by raw requests: every position's logits, the state carried from chunk to chunk."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.bench.devices import device_properties, properties
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export.calls import call_inputs

IN_FORCE = {
    "precision": "INFERENCE_PRECISION_HINT",
    "kv_cache_precision": "KV_CACHE_PRECISION",
    "dynamic_quantization_group_size": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "threads": "INFERENCE_NUM_THREADS",
    "core_type": "SCHEDULING_CORE_TYPE",
    "performance_hint": "PERFORMANCE_HINT",
    "execution_devices": "EXECUTION_DEVICES",
}
Shape = tuple[int, ...]
# What lies between a compressed weight and the operation that uses it.
_DECOMPRESSION = ("Convert", "Subtract", "Multiply", "Reshape")


class StatefulModel:
    """A compiled IR folder and its state.

    Parameters
    ----------
    core : openvino.Core
    folder : Path
    device : str
    hints : dict of str to str
        OpenVINO properties; empty for what a user gets.
    chunk : int
        The most tokens given to the model at once; it takes memory for the logits of all.

    Attributes
    ----------
    settings : dict
        ``precision``, ``kv_cache_precision``, ``dynamic_quantization_group_size``, ``threads``,
        ``core_type``, ``performance_hint`` and ``execution_devices`` in force, as far as the device says.
    read_ms, compile_ms : float
    bytes_per_token : int
        See `bytes_read`.

    Raises
    ------
    ModelError
        If OpenVINO cannot read the model or compile it for the device.
    """

    def __init__(self, core: Any, folder: Path, device: str, hints: dict[str, str], chunk: int) -> None:
        marks = [time.perf_counter()]
        try:
            graph = core.read_model(folder / "openvino_model.xml")
            marks.append(time.perf_counter())
            compiled = core.compile_model(graph, device, hints)
            marks.append(time.perf_counter())
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot open {folder.name} on {device}", plugin_words(error),
                             "Export it again or choose another device") from error  # fmt: skip
        self.settings = properties(compiled.get_property, IN_FORCE)
        self.read_ms, self.compile_ms = (1000 * (end - start) for start, end in itertools.pairwise(marks))
        self.bytes_per_token = bytes_read(graph, compiled)
        self._request, self._chunk, self._past = compiled.create_infer_request(), chunk, 0
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}

    def logits(self, ids: list[int], singly: int = 0) -> Iterator[NDArray[np.float32]]:
        """Forget what came before and feed `ids` in chunks, the last `singly` of them one by one.

        Yields the logits of each chunk, [t, vocabulary], in the model's own buffer: read it before asking
        for more.
        """
        self.reset()
        for piece in pieces(ids, self._chunk, singly):
            yield self.step(piece)

    def reset(self) -> None:
        """Forget what came before."""
        self._request.reset_state()
        self._past = 0

    def step(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits of the next tokens, all in one call: [t, vocabulary], in the model's own buffer."""
        feeds = call_inputs(ids, self._past)
        self._past += len(ids)
        self._request.infer({name: feeds[name] for name in feeds if name in self._inputs})
        logits: NDArray[np.float32] = self._request.get_tensor("logits").data[0]
        return logits


def pieces(ids: list[int], chunk: int, singly: int) -> Iterator[list[int]]:
    """`ids` in chunks, the last `singly` of them one by one."""
    prefill = len(ids) - singly
    starts = [*range(0, prefill, chunk), *range(prefill, len(ids))]
    for start, end in itertools.pairwise([*starts, len(ids)]):
        yield ids[start:end]


def bytes_per_token(graph: Any) -> int:
    """Bytes of the graph's constants that a token reads.

    Nothing is counted of tables of which a row is looked up, and of stacks of experts the chosen ones. A tied
    embedding is read whole, by the head.
    """
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    read: float = sum(op.get_byte_size() * _share_read(op.output(0)) for op in constants)
    return round(read)


def bytes_read(graph: Any, compiled: Any) -> int:
    """Bytes of weights that a token reads on a device: those of products as its plugin has laid them out.

    The CPU plugin (2026.4) unpacks INT3, and FP16 where the processor has no products of it, to 32 bits. Of a
    plugin that does not tell, `bytes_per_token` of the graph.
    """
    stored, found = Counter[Shape](), Counter[Shape]()
    stored_bits, found_bits = 0, 0
    for op in graph.get_ops():
        if op.get_type_name() == "MatMul" and (weight := _weight_of(op)) is not None:
            shape = _shape(op.input(1).get_partial_shape())
            stored[shape] += 1
            stored_bits += 8 * weight.get_byte_size()
    for op in compiled.get_runtime_model().get_ops():
        kind, inputs = _layer(op), op.inputs()
        told = kind == "FullyConnected" and len(inputs) > 1 and inputs[1].get_partial_shape().is_static
        if told and _layer(inputs[1].get_source_output().get_node()) == "Const":
            shape = _shape(inputs[1].get_partial_shape())
            found[shape] += 1
            found_bits += math.prod(shape) * inputs[1].get_element_type().bitwidth
    read = bytes_per_token(graph)
    return max(read + (found_bits - stored_bits) // 8, 0) if found == stored else read


def _weight_of(product: Any) -> Any:
    """The constant that a product reads through its decompression; None where it reads no weight."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in _DECOMPRESSION:
        node = node.input_value(0).get_node()
    is_weight = node.get_type_name() == "Constant" and len(product.input(1).get_partial_shape()) == 2
    return node if is_weight else None


def _shape(shape: Any) -> Shape:
    return tuple(int(size.get_length()) for size in shape)


def _layer(node: Any) -> str:
    """What a plugin calls an operation of its own graph."""
    info = node.get_rt_info()
    return str(info["layerType"].astype(str)) if "layerType" in info else str(node.get_type_name())


def _share_read(output: Any) -> float:
    return max((_share_read_by(port) for port in output.get_target_inputs()), default=1.0)


def _share_read_by(port: Any) -> float:
    user, index = port.get_node(), port.get_index()
    if user.get_type_name() in _DECOMPRESSION:
        return _share_read(user.output(0))
    if user.get_type_name() == "GroupedMatMul" and index == 1:
        return _share_chosen(user)
    return 0.0 if user.get_type_name() == "Gather" and index == 0 else 1.0


def _share_chosen(product: Any) -> float:
    """The choice (tokens, chosen) is what the ends of the experts' tokens are made from, flattened."""
    value = product.input_value(2)
    while len(value.get_partial_shape()) == 1:
        value = value.get_node().input_value(0)
    chosen = value.get_partial_shape()[1]
    experts = product.get_input_partial_shape(1)[0]
    return 1.0 if chosen.is_dynamic else float(chosen.get_length() / experts.get_length())


def defaults(core: Any, device: str) -> dict[str, Any]:
    """The settings that a model compiled for `device` without hints gets."""
    return device_properties(core, device, IN_FORCE)


def plugin_words(error: RuntimeError) -> str:
    """The line of an OpenVINO exception that says what went wrong, without source positions before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return " ".join((told or lines or [type(error).__name__])[-1].split())[:300].rstrip(" .!")
