"""The configuration of a model folder. Needs no torch."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.hub.model_files import CONFIG, INDEX, ModelFiles, listed, read_object

# Several times what the largest published models have: beyond, building a model would never end.
_MOST = (
    (re.compile(r"num_hidden_layers|n_layers?|num_layers|\w+_layers|\w+_blocks"), 1_000),
    (re.compile(r"\w*(heads|experts|groups)(_per_tok)?"), 16_384),
    (re.compile(r"vocab_size"), 2**23),
    (re.compile(r"\w+_(size|dim|width|rank|state|conv)|d_\w+|\w+_d_\w+"), 2**20),
)


def read_config(files: ModelFiles) -> dict[str, Any]:
    """The configuration of a model folder, of a supported architecture and a possible size.

    Raises
    ------
    ModelError
        If it is damaged, its architecture is not supported, it asks for more than any published model, it
        names other weights, or its weights are quantized.
    """
    folder = files.folder
    config = read_object(folder / CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(
            f"Cannot open {folder}", "its config.json names no architecture", "Download the model again"
        )
    if kind not in FAMILIES:
        raise ModelError(
            f"Cannot open {folder}",
            f"the architecture {kind[:80]!r} is not supported; these are: {', '.join(FAMILIES)}",
            "Choose another model",
        )
    check_sizes(folder, config)
    named = config.get("transformers_weights")
    used = INDEX if files.index else listed(file.name for file in files.weights)
    if named not in (None, used):
        raise ModelError(
            f"Cannot open {folder}",
            f"its config.json names other weights ({str(named)[:80]}) than {used}",
            "Remove transformers_weights from config.json, or keep only the weights that it names",
        )
    if any(part.get("quantization_config") is not None for _, part in _parts(config)):
        raise ModelError(
            f"Cannot open {folder}",
            "its weights are quantized already",
            "Choose the model in full precision that it was made from",
        )
    return config


def vocabulary(config: dict[str, Any]) -> int | None:
    """How many tokens a configuration has embeddings for, if it says so."""
    found = (part.get("vocab_size") for _, part in reversed(list(_parts(config))))
    return next((size for size in found if isinstance(size, int)), None)


def _parts(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration and those in it, such as that of the text part, each with its prefix."""
    yield "", config
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config"):
            yield f"{name}.", value


def check_sizes(folder: Path, config: dict[str, Any]) -> None:
    """Raise `ModelError` if a configuration asks for more of anything than any published model has."""
    for prefix, part in _parts(config):
        for name, value in part.items():
            most = next((most for pattern, most in _MOST if pattern.fullmatch(name)), None)
            if most is not None and isinstance(value, int | float) and value > most:
                raise ModelError(
                    f"Cannot open {folder}",
                    f"its config.json sets {prefix}{name} to {str(value)[:20]}, and no published model has "
                    f"more than {most:,}",
                    "Download the model again",
                )
