"""The bundled texts, and reading a person's own. Needs no torch."""

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kl_lens_desktop import resources
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_start
from kl_lens_desktop.process.events import Note

FILE_LIMIT = 64 * 2**20  # bytes of a text that are read: more than any analysis or benchmark uses
# More characters than any text needs for a token: a prefix this long is tokenized instead of a whole book.
CHARACTERS_PER_TOKEN = 16
MOST_TOKENS, LONGEST_WINDOW = 10**9, 10**6  # that files of ours take
WINDOW = 256  # tokens, unless a person chooses; so are these
SCORED_TOKENS = 4096
HELD_OUT_TOKENS = 8192
REPAIR_TOKENS = 4096
REFINE_TOKENS = 4096  # that judge a plan rounded in sequence
HEAD = 16  # digits of a SHA-256 that tell texts apart
REPAIR_WINDOWS = 4  # at least: two to choose exchanges and two to judge them


def calibration_text() -> Path:
    """The bundled text for scoring: slices of twelve public-domain novels."""
    return resources.path("texts", "calibration-novels.txt")


def held_out_text() -> Path:
    """The bundled text that no sensitivity is measured on: a part of Conrad's *Nostromo*."""
    return resources.path("texts", "heldout-nostromo.txt")


def dialogue_text() -> Path:
    """The bundled text of another kind than the novels: Wilde's play *The Importance of Being Earnest*."""
    return resources.path("texts", "dialogue-earnest.txt")


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as it is used, and in sentences what sets it apart from its file."""

    text: str
    remarks: tuple[str, ...]


def read(path: Path) -> Reading:
    """A text file, or the first `FILE_LIMIT` bytes of a larger one, with line ends as ``\\n``.

    Raises
    ------
    InputError
        If it cannot be read, is no regular file or is not text in UTF-8.
    """
    content = read_start(path, FILE_LIMIT + 1)
    whole, content = len(content) <= FILE_LIMIT, content[:FILE_LIMIT]
    try:
        text, _ = codecs.utf_8_decode(content, "strict", whole)  # a character cut in two is left out
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read {path}", "it is not UTF-8 text", "Save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"Cannot read {path}", "it is not a text file", "Choose another text")
    said = [] if whole else [f"Read only the first {FILE_LIMIT // 2**20} MB of {path.name}."]
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        said.append(rf"Read the line ends \r\n of {path.name} as \n.")
    return Reading(text.removeprefix("\ufeff"), tuple(said))


def read_text(path: Path) -> str:
    """The text alone that `read` gives."""
    return read(path).text


def text_sha256(path: Path) -> str:
    """Of the text that `read` gives, as files name it."""
    return hashlib.sha256(read_text(path).encode("utf-8")).hexdigest()


def remarks(*paths: Path) -> Iterator[Note]:
    """What to know of texts before they are measured on: how they differ from their files."""
    for path in dict.fromkeys(paths):
        for remark in read(path).remarks:
            yield Note(remark)


def check_text(path: Path) -> None:
    """Raise `InputError` unless `read_text` can read the file and there is something in it."""
    if not read_text(path).strip():
        raise InputError(f"Cannot use {path}", "it is empty", "Choose another text")


def check_held_out(text: Path | None, tokens: int, window: int) -> Path:
    """The held-out text to measure on, the bundled one without `text`; `InputError` if it cannot be used."""
    held_out = text or held_out_text()
    check_windows(tokens, window)
    check_text(held_out)
    return held_out


def check_unseen(text: Path, scored: Iterable[object], fitted: object = None) -> None:
    """Raise `InputError` if scores or a plan would be judged by a text that made them.

    Parameters
    ----------
    scored : iterable
        SHA-256 of the texts that sensitivities were measured on, or the first `HEAD` digits.
    fitted
        SHA-256 of the text that integers were fitted to.
    """
    head = text_sha256(text)[:HEAD]
    for why, seen in (
        ("the sensitivities were measured on that text", scored),
        ("the integers were fitted to that text", [fitted]),
    ):
        if head in (str(each)[:HEAD] for each in seen):
            raise InputError(f"Cannot use {text}", why, "Choose another text")


def check_windows(tokens: int, window: int, files: int = 1) -> None:
    """Raise `InputError` unless so many tokens of so many files make two windows, and one of each file."""
    if window > LONGEST_WINDOW or tokens > MOST_TOKENS:
        raise InputError(
            f"Cannot use {tokens:,} tokens in windows of {window:,}",
            f"windows have at most {LONGEST_WINDOW:,} tokens, and a text {MOST_TOKENS:,}",
            "Choose fewer",
        )
    if window < 2 or tokens < 2 * window:
        raise InputError(
            f"Cannot use {tokens} tokens in windows of {window}",
            "error bars need two windows of two tokens or more",
            "Choose more tokens or shorter windows",
        )
    if tokens // files < window:
        raise InputError(
            f"Cannot divide {tokens} tokens among {files} texts",
            f"each text needs at least one window of {window}",
            f"Choose {window * files} tokens or more, or fewer texts",
        )


def check_repair_text(text: Path, held_out: Path) -> None:
    """Raise `InputError` if a repair on `text` would be judged by the text that it was made on."""
    if read_text(text) == read_text(held_out):
        raise InputError(
            f"Cannot repair on {text}", "the result is measured on that text", "Choose another text"
        )


def check_repair_tokens(tokens: int, window: int) -> None:
    """Raise `InputError` unless so many tokens make the windows that a repair needs."""
    if tokens // window < REPAIR_WINDOWS:
        raise InputError(
            f"Cannot repair on {tokens} tokens",
            f"repair needs four windows of {window}: two to choose exchanges and two to judge them",
            "Choose more tokens",
        )
