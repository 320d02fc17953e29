"""Text as windows of token ids."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.text.bundled import CHARACTERS_PER_TOKEN, check_windows, read_text

_SPARE_TOKENS = 64  # behind the last that is used: where a text is cut, its last tokens may change


@dataclass(frozen=True, slots=True)
class TextIdentity:
    """What was read: `sha256` is over the texts as `read_text` gives them, `tokens` what was used of them."""

    name: str
    sha256: str
    tokens: int
    window: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def windows(
    loaded: LoadedModel, files: Sequence[Path], tokens: int, window: int, name: str | None = None
) -> tuple[Tensor, TextIdentity]:
    """Consecutive windows from the start of each file's token ids, no special tokens added.

    Files take turns, a window each, so that a longer text begins with a shorter one.

    Parameters
    ----------
    tokens : int
        How many to use at most, shared evenly between the files and rounded down to whole windows.
    window : int
        Tokens per window.
    name : str, optional
        What to call the text; the files' names if not given.

    Returns
    -------
    Tensor, TextIdentity
        Token ids (windows, window), and what they came from.

    Raises
    ------
    InputError
        If a file cannot be read, or is shorter than one window, or there are fewer than two windows in all,
        from which no standard error can be told, or one contains a token that the model has no embedding for.
    """
    check_windows(tokens, window, len(files))
    digest, pieces = hashlib.sha256(), []
    for file in files:
        text = read_text(file)
        digest.update(text.encode("utf-8"))
        read = first_ids(loaded, text, tokens // len(files), str(file))
        if len(read) < window:
            raise InputError(
                f"Cannot use {file}",
                f"it has {len(read)} tokens, and one window needs {window}",
                "Choose a longer text or a shorter window",
            )
        count = min(len(read), tokens // len(files)) // window
        pieces.append(torch.tensor(read[: count * window], dtype=torch.long).view(count, window))
    turns = itertools.zip_longest(*pieces)
    rows = torch.stack([row for turn in turns for row in turn if row is not None])
    if len(rows) < 2:
        raise InputError(
            f"Cannot use {', '.join(map(str, files))}",
            f"it fills only one window of {window} tokens, and error bars need two",
            "Choose a longer text or a shorter window",
        )
    name = name or " + ".join(file.name for file in files)
    return rows, TextIdentity(name[:300], digest.hexdigest(), rows.numel(), window)


def first_ids(loaded: LoadedModel, text: str, count: int, source: str) -> list[int]:
    """The first `count` token ids of `text`, or more: a long text is not tokenized to its end.

    Raises
    ------
    InputError
        As `LoadedModel.ids` does.
    """
    length = CHARACTERS_PER_TOKEN * (count + _SPARE_TOKENS)
    while True:
        ids = loaded.ids(text[:length], source)
        if length >= len(text) or len(ids) >= count + _SPARE_TOKENS:
            return ids
        length *= 4
