"""The architectures this program knows, by the `model_type` of their configuration. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import ModelError

# Tried by the tests from small configurations: analysis against full forwards, export against torch's logits.
SUPPORTED = {
    "granitemoehybrid": "Granite 4 hybrid (Mamba-2 and attention, with or without experts)",
    "mamba": "Mamba",
    "falcon_mamba": "Falcon Mamba",
    "mamba2": "Mamba-2",
    "jamba": "Jamba (Mamba, attention and experts)",
    "zamba": "Zamba (Mamba and a shared transformer block)",
    "nemotron_h": "Nemotron-H (Mamba-2 and attention, with or without experts)",
    "bamba": "Bamba (Mamba-2 and attention)",
    "zamba2": "Zamba2 (Mamba-2 and a shared transformer block)",
    "falcon_h1": "Falcon-H1 (Mamba-2 beside attention)",
    "lfm2": "LFM2 (short convolutions and attention)",
    "lfm2_moe": "LFM2 with experts",
    "lfm3": "LFM3 (short convolutions and attention)",
    "qwen3_next": "Qwen3-Next (gated delta nets, attention and experts)",
    "qwen3_5": "Qwen3.5 (gated delta nets and attention; its text part)",
    "qwen3_5_text": "Qwen3.5 (gated delta nets and attention)",
    "qwen3_5_moe": "Qwen3.5 with experts (its text part)",
    "qwen3_5_moe_text": "Qwen3.5 with experts",
    "recurrent_gemma": "RecurrentGemma (gated linear recurrences and local attention)",
    "olmo_hybrid": "OLMo Hybrid (gated delta nets and attention)",
}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model folder, of a supported architecture.

    Raises
    ------
    ModelError
        If there is none, it is damaged, its architecture is not supported, or its weights are quantized.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"Cannot open {folder}", "it holds no config.json", "Choose a folder with a Hugging Face model"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot open {folder}", "its config.json is damaged", "Download the model again"
        ) from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ModelError(
            f"Cannot open {folder}", "its config.json names no architecture", "Download the model again"
        )
    if kind not in SUPPORTED:
        raise ModelError(
            f"Cannot open {folder}",
            f"the architecture {kind!r} is not supported; these are: {', '.join(sorted(SUPPORTED))}",
            "Choose another model",
        )
    if "quantization_config" in config:
        raise ModelError(
            f"Cannot open {folder}",
            "its weights are quantized already",
            "Choose the model in full precision that it was made from",
        )
    return dict(config)
