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

FIT_TOKENS, JUDGE_TOKENS = 8192, 2048  # from which a rounding learns, and by which it is judged
_SPREAD_TOKENS = 2**20  # of a longer text no more is tokenized, which is millions of characters
_LEAST_WINDOWS = 5  # four to fit to and one to judge by
_SPARE_TOKENS = 64  # behind the last that is used: where a text is cut, its last tokens may change


@dataclass(frozen=True, slots=True)
class TextIdentity:
    """What was read: `sha256` is over the texts as `read_text` gives them, `tokens` what was used of them.

    `files` are the same of each text alone, where there are several.
    """

    name: str
    sha256: str
    tokens: int
    window: int
    files: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For files, which name `files` only where there are several."""
        about = {**asdict(self), "files": list(self.files)}
        if not self.files:
            del about["files"]
        return about


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
    digest, pieces, alone = hashlib.sha256(), [], []
    for file in files:
        text = read_text(file)
        digest.update(text.encode("utf-8"))
        alone.append(hashlib.sha256(text.encode("utf-8")).hexdigest())
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
    several = tuple(alone) if len(alone) > 1 else ()
    return rows, TextIdentity(name[:300], digest.hexdigest(), rows.numel(), window, several)


def calibration_windows(
    loaded: LoadedModel,
    file: Path,
    window: int,
    skip: int | None = None,
    scored: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, int] | None:
    """Windows to fit a rounding to and others to judge it by, spread evenly over a text.

    Parameters
    ----------
    skip : int, optional
        Tokens at the start that are left out. Without it, the first quarter and the first `scored` tokens
        are: a rounding must not be scored on the text it was fitted to, and more may be scored later.
    seed : int
        Which of the windows are judged by.

    Returns
    -------
    (Tensor, Tensor, int) or None
        Token ids (windows, window) of both, without a window in common, and what was skipped; None if the
        rest of the text has fewer than five windows.
    """
    ids = first_ids(loaded, read_text(file), max(skip or 0, scored) + _SPREAD_TOKENS, str(file))
    skip = max(scored, len(ids) // 4) if skip is None else skip
    room = (len(ids) - skip) // window
    count = min(room, max((FIT_TOKENS + JUDGE_TOKENS) // window, _LEAST_WINDOWS))
    if count < _LEAST_WINDOWS:
        return None
    starts = [skip + window * (place * room // count) for place in range(count)]
    rows = torch.tensor([ids[start : start + window] for start in starts], dtype=torch.long)
    every = FIT_TOKENS // JUDGE_TOKENS + 1
    judged = torch.arange(count) % every == every - 1 - seed % every
    return rows[~judged], rows[judged], skip


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
