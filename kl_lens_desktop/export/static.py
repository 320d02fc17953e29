"""Graphs of fixed shapes from a stateful one, for devices that compile no others: an NPU.

A second graph lies beside the main one and shares its weights file. `openvino_genai.LLMPipeline` makes of it
what an NPU needs; a loop that reads every position's logits takes `static_variant`.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from kl_lens_desktop.files import NPU_MODEL

_CACHED = ("key", "value")
_ALIGNMENT = 64
_BLOB = re.compile(r'offset="(\d+)" size="(\d+)"')


def free_of_beams(graph: ov.Model) -> None:
    """Let a graph traced in fixed form use ``beam_idx`` to reorder its states and for nothing else, in place.

    OpenVINO's NPU plugin removes that input with the reordering, and trips over what else reads it or a
    state.
    """
    beams, ids = (graph.input(name).get_node() for name in ("beam_idx", "input_ids"))
    whole = ops.shape_of(ids, output_type="i64")
    batch = ops.gather(whole, ops.constant([0]), ops.constant(np.int64(0)))
    for shape in _shapes_of(beams):
        shape.output(0).replace(batch.output(0))
    for read in _by_variable(graph, "ReadValue").values():
        reordered = _reordered(read)
        for shape in _shapes_of(read):
            shape.input(0).replace_source_output(reordered.output(0))
    graph.validate_nodes_and_infer_types()


def share_weights(graph: Path, main: Path) -> None:
    """Let the constants of a written graph be those of another one's weights file; its own file is removed.

    What the other file does not hold is added at its end.
    """
    weights, own = main.with_suffix(".bin"), graph.with_suffix(".bin")
    data = np.memmap(weights, np.uint8, "r")
    known: dict[tuple[int, bytes], int] = {}
    for offset, size in _blobs(main.read_text(encoding="utf-8")):
        known.setdefault((size, _digest(data[offset : offset + size])), offset)
    end, added = len(data), list[bytes]()
    del data
    text, moved = graph.read_text(encoding="utf-8"), dict[tuple[int, int], int]()
    source = np.memmap(own, np.uint8, "r")
    for offset, size in _blobs(text):
        content = source[offset : offset + size]
        key = size, _digest(content)
        if key not in known:
            padding = -end % _ALIGNMENT
            added += [bytes(padding), content.tobytes()]
            known[key] = end + padding
            end += padding + size
        moved[offset, size] = known[key]
    del source, content
    with weights.open("ab") as file:
        file.writelines(added)

    def placed(blob: re.Match[str]) -> str:
        offset, size = int(blob[1]), int(blob[2])
        return f'offset="{moved[offset, size]}" size="{size}"'

    graph.write_text(_BLOB.sub(placed, text), encoding="utf-8", newline="\n")
    own.unlink()


def read_shared(core: ov.Core, folder: Path) -> ov.Model:
    """The graph for an NPU of an exported folder."""
    return core.read_model(folder / NPU_MODEL, folder / "openvino_model.bin")


def static_variant(graph: ov.Model, tokens: int, capacity: int) -> ov.Model:
    """A graph for calls of exactly `tokens` tokens, without states and without a shape that is not known.

    Parameters
    ----------
    graph : ov.Model
        As `read_shared` returns it; left as it is.
    tokens : int
        Of a call. Fewer are padded before, where ``attention_mask`` is 0.
    capacity : int
        Tokens of the past that keys and values have room for. ``attention_mask`` (1, capacity + tokens) says
        which of them hold something.

    Returns
    -------
    ov.Model
        Each variable is an input, by its name before a call, and an output, by its name after it. Of keys
        and values only those of the new tokens come out, for the caller to write where there is room.
    """
    graph = graph.clone()
    parameters = [p for p in graph.get_parameters() if p.get_friendly_name() != "beam_idx"]
    results = [ops.result(graph.output("logits").get_node().input_value(0))]
    results[0].output(0).get_tensor().set_names({"logits"})
    assigns = _by_variable(graph, "Assign")
    for name, read in sorted(_by_variable(graph, "ReadValue").items()):
        past, reordered = name[: name.rindex("present")].removesuffix("cache_params."), _reordered(read)
        sizes = list(reordered.get_output_partial_shape(0))[1:]
        shape = [1, *(capacity if size.is_dynamic else size.get_length() for size in sizes)]
        parameter = ops.parameter(shape, reordered.get_output_element_type(0), past)
        parameter.output(0).get_tensor().set_names({past})
        reordered.output(0).replace(parameter.output(0))
        parameters.append(parameter)
        written = assigns[name].input_value(0)
        result = ops.result(written.get_node().input_value(1) if past.endswith(_CACHED) else written)
        result.output(0).get_tensor().set_names({present_name(past)})
        results.append(result)
    static = ov.Model(results, parameters, "static")
    tokens_of = {"input_ids": tokens, "attention_mask": capacity + tokens, "position_ids": tokens}
    static.reshape({name: [1, size] for name, size in tokens_of.items()})
    return static


def present_name(past: str) -> str:
    """Of the output that follows the input of that name."""
    return past.replace("past_key_values", "present").replace("cache_params.past", "cache_params.present")


def _by_variable(graph: ov.Model, kind: str) -> dict[str, ov.Node]:
    return {op.get_attributes()["variable_id"]: op for op in graph.get_ops() if op.get_type_name() == kind}


def _shapes_of(node: ov.Node) -> list[ov.Node]:
    consumers = [target.get_node() for target in node.output(0).get_target_inputs()]
    return [consumer for consumer in consumers if consumer.get_type_name() == "ShapeOf"]


def _reordered(read: ov.Node) -> ov.Node:
    consumers = [target.get_node() for target in read.output(0).get_target_inputs()]
    return next(consumer for consumer in consumers if consumer.get_type_name() == "Gather")


def _blobs(text: str) -> list[tuple[int, int]]:
    return [(int(blob[1]), int(blob[2])) for blob in _BLOB.finditer(text)]


def _digest(content: Any) -> bytes:
    return hashlib.sha256(content).digest()
