"""An exported folder opened in `openvino_genai.LLMPipeline`, as its users run it."""

from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench.stateful import plugin_words
from kl_lens_desktop.bench.static import check_made_for_npu, needs_fixed_shapes
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.files import NPU_MODEL
from kl_lens_desktop.model.families import read_config

# Parts of a graph that the NPU plugin would compile apart do not fit together again for some of the families.
_NPU = {"NPUW_LLM_PREFILL_CHUNK_SIZE": "256", "NPUW_ONLINE_PIPELINE": "NONE"}
# Scales taken out of weights that two layers share would not fit both (2026.4).
_NPU_OF = {"zamba2": {"NPUW_DCOFF_SCALE": "NO"}}


def open_pipeline(folder: Path, device: str, **properties: Any) -> tuple[Any, str]:
    """An `LLMPipeline` and its attention backend: ``PA`` (paged), ``SDPA`` or, on an NPU, ``static``.

    LLMPipeline itself tries paged attention first and falls back to the other; doing it here tells which.
    `properties` are OpenVINO's, for the device.

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
            return _static_pipeline(folder, device, properties), "static"
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
    weights = np.memmap(folder / "openvino_model.bin", np.uint8, "c")
    family = read_config(folder)["model_type"]
    properties = {**_NPU, **_NPU_OF.get(family, {}), **given}
    if 'type="TensorIterator"' in graph:  # the plugin would look for the head in the loops of Mamba-1
        properties["NPUW_LLM_SHARED_HEAD"] = "NO"
    return openvino_genai.LLMPipeline(
        graph,
        openvino.Tensor(weights, shared_memory=True),
        openvino_genai.Tokenizer(str(folder)),
        device,
        openvino_genai.GenerationConfig(str(folder / "generation_config.json")),
        **properties,
    )
