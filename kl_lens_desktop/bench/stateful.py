"""An exported model run by raw requests: every position's logits, the state carried from chunk to chunk."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.bench.devices import device_properties, properties
from kl_lens_desktop.errors import ModelError

# By default the CPU computes in bf16 where it can, keeps 8-bit keys and values and rounds activations to 8
# bits.
FULL_PRECISION = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
IN_FORCE = {
    "precision": "INFERENCE_PRECISION_HINT",
    "kv_cache_precision": "KV_CACHE_PRECISION",
    "dynamic_quantization_group_size": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "threads": "INFERENCE_NUM_THREADS",
}


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
        The most tokens given to the model at once; the graph's work grows with the square of it.

    Attributes
    ----------
    settings : dict
        ``precision``, ``kv_cache_precision``, ``dynamic_quantization_group_size`` and ``threads`` in force,
        as far as the device says.

    Raises
    ------
    ModelError
        If OpenVINO cannot read the model or compile it for the device.
    """

    def __init__(self, core: Any, folder: Path, device: str, hints: dict[str, str], chunk: int) -> None:
        try:
            compiled = core.compile_model(core.read_model(folder / "openvino_model.xml"), device, hints)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot open {folder.name} on {device}", plugin_words(error),
                             "Export it again or choose another device") from error  # fmt: skip
        self.settings = properties(compiled.get_property, IN_FORCE)
        self._request, self._chunk = compiled.create_infer_request(), chunk
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}

    def logits(self, ids: list[int], singly: int = 0) -> Iterator[NDArray[np.float32]]:
        """Forget what came before and feed `ids` in chunks, the last `singly` of them one by one.

        Yields the logits of each chunk, [t, vocabulary], in the model's own buffer: read it before asking
        for more.
        """
        self._request.reset_state()
        prefill = len(ids) - singly
        starts = [*range(0, prefill, self._chunk), *range(prefill, len(ids))]
        for start, end in itertools.pairwise([*starts, len(ids)]):
            feeds = {
                "input_ids": np.array([ids[start:end]], dtype=np.int64),
                "attention_mask": np.ones((1, end), dtype=np.int64),
                "position_ids": np.arange(start, end, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
            self._request.infer({name: feeds[name] for name in feeds if name in self._inputs})
            yield self._request.get_tensor("logits").data[0]


def defaults(core: Any, device: str) -> dict[str, Any]:
    """The settings that a model compiled for `device` without hints gets."""
    return device_properties(core, device, IN_FORCE)


def plugin_words(error: RuntimeError) -> str:
    """The line of an OpenVINO exception that says what went wrong, without source positions before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return " ".join((told or lines or [type(error).__name__])[-1].split())[:300]
