"""An exported model on a device that takes fixed shapes only: every position's logits, as from `stateful`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.bench.devices import properties
from kl_lens_desktop.bench.stateful_model import (
    IN_FORCE,
    StatefulModel,
    bytes_per_token,
    pieces,
    plugin_words,
)
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.files import NPU_MODEL

_CACHE = "past_key_values"
LONGEST_CALL = 256  # tokens of the larger graph: a device's compiler takes hours over longer ones


class StaticModel:
    """A graph for one token and a graph for a chunk, of the same weights, and the state they share.

    Parameters
    ----------
    graph : openvino.Model
        As `export.static.read_shared` returns it.
    device, hints
        As of `StatefulModel`.
    chunk : int
        Tokens of a call of the larger graph; fewer are padded before.
    capacity : int
        The most tokens that it is given before it is reset.

    Attributes
    ----------
    settings, read_ms, compile_ms, bytes_per_token
        As of `StatefulModel`; the first of the times is whoever read the graph's to set.

    Raises
    ------
    RuntimeError
        OpenVINO's, if it cannot compile the graphs for the device.
    """

    read_ms = 0.0

    def __init__(self, graph: Any, device: str, hints: dict[str, str], chunk: int, capacity: int) -> None:
        import openvino

        from kl_lens_desktop.export.static import static_variant

        self._chunk, self._capacity, self._past = min(chunk, LONGEST_CALL), capacity, 0
        self._requests, self._held = dict[int, Any](), dict[str, NDArray[np.float32]]()
        core, started = openvino.Core(), time.perf_counter()
        for tokens in dict.fromkeys((self._chunk, 1)):
            compiled = core.compile_model(static_variant(graph, tokens, capacity), device, hints)
            request = self._requests[tokens] = compiled.create_infer_request()
            for port in compiled.inputs:
                if "past" in (name := port.get_any_name()):
                    held = self._held.setdefault(name, np.zeros(list(port.shape), np.float32))
                    request.set_tensor(port, openvino.Tensor(held, shared_memory=True))
        self.compile_ms = 1000 * (time.perf_counter() - started)
        self.settings = properties(compiled.get_property, IN_FORCE)
        self.bytes_per_token = bytes_per_token(graph)
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}

    def logits(self, ids: list[int], singly: int = 0) -> Iterator[NDArray[np.float32]]:
        """As `StatefulModel.logits`."""
        self.reset()
        for piece in pieces(ids, self._chunk, singly):
            yield self._call(piece)

    def reset(self) -> None:
        """Forget what came before."""
        for held in self._held.values():
            held[:] = 0
        self._past = 0

    def step(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits of the next tokens, [t, vocabulary]; more than a chunk take several calls."""
        parts = [self._call(piece).copy() for piece in pieces(ids, self._chunk, 0)]
        return np.concatenate(parts)

    def _call(self, ids: list[int]) -> NDArray[np.float32]:
        from kl_lens_desktop.export.static import present_name

        new, size = len(ids), 1 if len(ids) == 1 else self._chunk
        start, self._past = self._past, self._past + new
        tokens = np.zeros((3, 1, size), np.int64)  # ids, positions, mask
        tokens[:, 0, size - new :] = ids, range(start, start + new), [1] * new
        held = np.arange(self._capacity)[None] < start
        feeds = {
            "input_ids": tokens[0],
            "position_ids": tokens[1],
            "attention_mask": np.concatenate([held.astype(np.int64), tokens[2]], 1),
        }
        request = self._requests[size]
        request.infer({name: feeds[name] for name in feeds if name in self._inputs})
        for name, past in self._held.items():
            present = request.get_tensor(present_name(name)).data
            if name.startswith(_CACHE):
                past[:, :, start : start + new] = present[:, :, size - new :]
            else:
                past[:] = present
        logits: NDArray[np.float32] = request.get_tensor("logits").data[0, size - new :]
        return logits


LoadedModel = StatefulModel | StaticModel


def open_model(
    core: Any, folder: Path, device: str, hints: dict[str, str], chunk: int, capacity: int
) -> LoadedModel:
    """An exported model in the form that the device takes; see the two classes.

    Raises
    ------
    ModelError
        If OpenVINO cannot read the model or compile it for the device, or a device of fixed shapes finds no
        graph made for it.
    """
    if not needs_fixed_shapes(device):
        return StatefulModel(core, folder, device, hints, chunk)
    from kl_lens_desktop.export.static import read_shared

    check_made_for_npu(folder, device)
    started = time.perf_counter()
    try:
        graph = read_shared(core, folder)
        read_ms = 1000 * (time.perf_counter() - started)
        model = StaticModel(graph, device, hints, chunk, capacity)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot open {folder.name} on {device}", plugin_words(error),
                         "Export it again or choose another device") from error  # fmt: skip
    model.read_ms = read_ms
    return model


def needs_fixed_shapes(device: str) -> bool:
    """Whether a device compiles no graph with a size that is not known."""
    return device.partition(".")[0] == "NPU"


def has_graph_for_npu(folder: Path) -> bool:
    """Whether an exported folder holds what a device of fixed shapes needs."""
    return (folder / NPU_MODEL).is_file()


def check_made_for_npu(folder: Path, device: str) -> None:
    """Raise a `ModelError` if the folder holds no graph for an NPU."""
    if not has_graph_for_npu(folder):
        raise ModelError(
            f"Cannot open {folder.name} on {device}",
            "it was exported without a graph for an NPU",
            "Export it again for the NPU (--npu)",
        )
