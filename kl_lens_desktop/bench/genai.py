"""An exported folder opened in `openvino_genai.LLMPipeline`, as its users run it."""

from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench.stateful_model import plugin_words
from kl_lens_desktop.bench.static_model import LONGEST_CALL, check_made_for_npu, needs_fixed_shapes
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.files import NPU_MODEL

# Parts of a graph that the NPU plugin would compile apart do not fit together again for some of the families,
# and it fails over scales taken out of weights in small groups, of experts, or that layers share (2026.4).
_NPU = {"NPUW_ONLINE_PIPELINE": "NONE", "NPUW_DCOFF_SCALE": "NO"}
_mapped: list[np.memmap[Any, Any]] = []  # weights of pipelines, which do not keep what they read them from


def open_pipeline(
    folder: Path,
    device: str,
    prompt_tokens: int = 1024,
    new_tokens: int = 128,
    backend: str = "",
    **properties: Any,
) -> tuple[Any, str]:
    """An `LLMPipeline` and its attention backend: ``PA`` (paged), ``SDPA`` or, on an NPU, ``static``.

    LLMPipeline itself tries paged attention first and falls back to the other; doing it here tells which.

    Parameters
    ----------
    prompt_tokens, new_tokens : int
        The most that will be asked for; on an NPU the graphs are made for it.
    backend : str
        The one to take, ``PA`` or ``SDPA``, instead of the first that opens.
    properties
        OpenVINO's, for the device.

    Raises
    ------
    ModelError
        If the folder cannot be opened on the device.
    """
    import openvino_genai

    def opened(**more: Any) -> Any:
        return openvino_genai.LLMPipeline(str(folder), device, **properties, **more)

    try:
        if needs_fixed_shapes(device):
            sizes = {
                "MAX_PROMPT_LEN": -(-prompt_tokens // LONGEST_CALL) * LONGEST_CALL,
                "MIN_RESPONSE_LEN": new_tokens,
                "NPUW_LLM_PREFILL_CHUNK_SIZE": str(LONGEST_CALL),
            }
            return _static_pipeline(folder, device, sizes | properties), "static"
        if backend:
            return opened(ATTENTION_BACKEND=backend), backend
        try:
            return opened(ATTENTION_BACKEND="PA"), "PA"
        except RuntimeError:
            return opened(ATTENTION_BACKEND="SDPA"), "SDPA"
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot open {folder.name} on {device}", plugin_words(error),
                         "Export it again or choose another device") from error  # fmt: skip


def _static_pipeline(folder: Path, device: str, given: dict[str, Any]) -> Any:
    import openvino
    import openvino_genai

    check_made_for_npu(folder, device)
    graph = (folder / NPU_MODEL).read_text(encoding="utf-8")
    # Read-only: a mapping to be changed would be charged as memory in full on Windows.
    weights = np.memmap(folder / "openvino_model.bin", np.uint8, "r")
    _mapped.append(weights)
    settings = folder / "generation_config.json"
    properties = {**_NPU, **given}
    if 'type="TensorIterator"' in graph:  # the plugin would look for the head in the loops of Mamba-1
        properties["NPUW_LLM_SHARED_HEAD"] = "NO"
    return openvino_genai.LLMPipeline(
        graph,
        openvino.Tensor(weights, [len(weights)], openvino.Type.u8),
        openvino_genai.Tokenizer(str(folder)),
        device,
        openvino_genai.GenerationConfig(*([str(settings)] if settings.is_file() else [])),
        **properties,
    )
