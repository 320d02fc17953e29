"""The configuration of a model folder. Needs no torch."""

import re
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.repository.model_files import (
    CONFIG,
    INDEX,
    ModelFiles,
    UnusableError,
    listed,
    read_object,
)
from kl_lens_desktop.repository.support import check_architecture, check_unquantized, parts
from kl_lens_desktop.repository.text_part import text_config

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
    try:
        published = read_object(folder / CONFIG)
        config = text_config(published)
        check_architecture(config)
        check_unquantized(published, {path.name for path in folder.iterdir()})
    except UnusableError as error:
        raise ModelError(f"Cannot open {folder}", error.why, error.next_step) from error
    check_sizes(folder, config)
    named = config.get("transformers_weights")
    used = INDEX if files.index else listed(file.name for file in files.weights)
    if named not in (None, used):
        raise ModelError(
            f"Cannot open {folder}",
            f"its config.json names other weights ({str(named)[:80]}) than {used}",
            "Remove transformers_weights from config.json, or keep only the weights that it names",
        )
    return config


def vocabulary(config: dict[str, Any]) -> int | None:
    """How many tokens a configuration has embeddings for, if it says so."""
    found = (part.get("vocab_size") for _, part in reversed(list(parts(config))))
    return next((size for size in found if isinstance(size, int)), None)


def check_sizes(folder: Path, config: dict[str, Any]) -> None:
    """Raise `ModelError` if a configuration asks for more of anything than any published model has."""
    for prefix, part in parts(config):
        for name, value in part.items():
            most = next((most for pattern, most in _MOST if pattern.fullmatch(name)), None)
            if most is not None and isinstance(value, int | float) and value > most:
                raise ModelError(
                    f"Cannot open {folder}",
                    f"its config.json sets {prefix}{name} to {str(value)[:20]}, and no published model has "
                    f"more than {most:,}",
                    "Download the model again",
                )
