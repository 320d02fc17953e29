"""The configuration of a model folder. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.families import FAMILIES


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
    if kind not in FAMILIES:
        raise ModelError(
            f"Cannot open {folder}",
            f"the architecture {kind!r} is not supported; these are: {', '.join(FAMILIES)}",
            "Choose another model",
        )
    if "quantization_config" in config:
        raise ModelError(
            f"Cannot open {folder}",
            "its weights are quantized already",
            "Choose the model in full precision that it was made from",
        )
    return dict(config)
