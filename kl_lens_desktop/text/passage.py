"""Held-out text, as the token ids that a variant reads: windows, and which of their tokens count."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import InputError, in_words
from kl_lens_desktop.model.config import vocabulary
from kl_lens_desktop.model.tokenizer import check_tokenizer
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quantities import plural
from kl_lens_desktop.repository.model_files import CONFIG, TOKENIZER, TOKENIZER_CONFIG, listed, read_object
from kl_lens_desktop.text import wikitext
from kl_lens_desktop.text.bundled import CHARACTERS_PER_TOKEN

WINDOW, WIKITEXT_WINDOW = 256, 2048
_AGAIN = "Export the model again"


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """Consecutive token ids, of which the last `counted` are predicted and count, in one batch of errors."""

    ids: list[int]
    counted: int
    batch: int


@dataclass(frozen=True, slots=True)
class Passage:
    """What is read of a text.

    Attributes
    ----------
    windows : list of TokenWindow
    window, stride : int
        The most tokens that a window predicts from, and from one start to the next.
    words : list of int
        Of the original text, by batch; empty where words are not defined.
    documents : int
        Of WikiText; 0 for a text that is read as it is.
    """

    windows: list[TokenWindow]
    window: int
    stride: int
    words: list[int]
    documents: int

    @property
    def tokens(self) -> int:
        """Of the text, each once."""
        if self.documents:
            return self.predicted
        return (len(self.windows) - 1) * self.stride + self.window

    @property
    def predicted(self) -> int:
        return sum(window.counted for window in self.windows)


def passage(
    folder: Path, text: str, tokens: int, window: int | None, stride: int | None, cancel: Cancel
) -> Passage:
    """The windows of `text` by the tokenizer in `folder`.

    WikiText is read as lm-eval's task does (see `text.wikitext`), as many whole documents as fit into
    `tokens`, at least one. Any other text is cut into windows from its start, `stride` tokens apart (without
    it, side by side); each token counts once, with at least window − stride tokens before it but in the first
    window.

    Raises
    ------
    InputError
        If there is nothing to predict.
    Cancelled
        Between two documents of WikiText.
    """
    if wikitext.is_wikitext(text):
        return _documents(folder, text, tokens, window or WIKITEXT_WINDOW, cancel)
    window = window or WINDOW
    step = stride or window
    if not 1 <= step <= window:
        why = f"windows of {window} tokens cannot be {step} apart"
        raise InputError("Cannot cut the text", why, "Choose a stride from 1 to the window")
    ids = token_ids(folder, text[: CHARACTERS_PER_TOKEN * tokens])
    pieces = windows(ids, window, tokens, step)
    counted = [window - 1, *[step if step < window else window - 1] * (len(pieces) - 1)]
    found = [
        TokenWindow(piece, count, at) for at, (piece, count) in enumerate(zip(pieces, counted, strict=True))
    ]
    return Passage(found, window, step, [], 0)


def token_ids(folder: Path, text: str) -> list[int]:
    """Token ids of `text` by the `tokenizer.json` in `folder`, without special tokens or truncation.

    Raises
    ------
    ModelError
        If the folder has no tokenizer that can be read.
    InputError
        If the model has no embedding for a token of the text.
    """
    tokenizer = _tokenizer(folder)
    ids = _ids(tokenizer, text)
    _check_embedded(folder, tokenizer, ids)
    return ids


def windows(ids: list[int], window: int, tokens: int, stride: int | None = None) -> list[list[int]]:
    """As many whole windows of ids as fit into `tokens` from the start, `stride` apart or side by side.

    Raises
    ------
    InputError
        If `window` is shorter than two or there is not one whole window.
    """
    if window < 2 or tokens < window:
        verb = "leaves" if tokens == 1 else "leave"
        why = f"{plural(tokens, 'token')} in windows of {window} {verb} nothing to predict"
        raise InputError(
            "Cannot cut the text", why, "Choose a window of at least 2 and as many tokens or more"
        )
    last = min(tokens, len(ids)) - window
    if last < 0:
        why = f"it has {len(ids)} tokens, and a window needs {window}"
        raise InputError("The text is too short", why, "Choose a longer text or a shorter window")
    return [ids[start : start + window] for start in range(0, last + 1, stride or window)]


def _documents(folder: Path, text: str, tokens: int, window: int, cancel: Cancel) -> Passage:
    tokenizer = _tokenizer(folder)
    prefix = _prefix_token(folder, tokenizer)
    found: list[TokenWindow] = []
    words: list[int] = []
    read = 0
    for number, document in enumerate(wikitext.documents(text)):
        cancel.check()
        ids = _ids(tokenizer, wikitext.detokenized(document))
        read += len(ids)
        if found and read > tokens:
            break
        found += [
            TokenWindow(context + counted, len(counted), number)
            for context, counted in wikitext.rolling_windows(ids, prefix, window)
        ]
        words.append(wikitext.word_count(document))
    _check_embedded(folder, tokenizer, [number for window in found for number in window.ids])
    return Passage(found, window, window, words, len(words))


def _prefix_token(folder: Path, tokenizer: Any) -> int:
    """What lm-eval puts before a document: the tokenizer's token for a beginning or, without one, an end."""
    path = folder / TOKENIZER_CONFIG
    about = read_object(path) if path.is_file() else {}
    for name in ("bos_token", "eos_token"):
        said = about.get(name)
        token = said.get("content") if isinstance(said, dict) else said
        if isinstance(token, str) and (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    why = "its tokenizer has no beginning or end token"
    raise InputError(f"Cannot read WikiText with {folder.name}", why, "Choose another text")


def _ids(tokenizer: Any, text: str) -> list[int]:
    with in_words("Cannot read the text", "the model's tokenizer failed", _AGAIN):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _check_embedded(folder: Path, tokenizer: Any, ids: list[int]) -> None:
    """Refuse ids that the graph would look up beyond its table of embeddings."""
    most = vocabulary(read_object(folder / CONFIG)) if (folder / CONFIG).is_file() else None
    if most and (beyond := sorted({number for number in ids if number >= most})):
        raise InputError(
            f"Cannot use the text with {folder.name}",
            "it contains tokens that the model has no embedding for: "
            + listed(f"{tokenizer.id_to_token(number)} (id {number})" for number in beyond),
            "Remove them from the text",
        )


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    check_tokenizer(read_object(path), path)
    with in_words(f"Cannot read {path}", "it is damaged", _AGAIN):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
