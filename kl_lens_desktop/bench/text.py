"""Held-out text, as the token ids that a variant reads."""

from pathlib import Path

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.texts import read_text


def token_ids(folder: Path, text: str) -> list[int]:
    """Token ids of `text` by the `tokenizer.json` in `folder`, without special tokens or truncation.

    Raises
    ------
    InputError
        If the folder has no tokenizer that can be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    described = read_text(path)
    try:
        tokenizer = Tokenizer.from_str(described)
    except Exception as error:  # tokenizers raises no narrower type
        why = " ".join(str(error).split())[:200]
        raise InputError(f"Cannot read {path}", why, "Export the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def windows(ids: list[int], window: int, tokens: int) -> list[list[int]]:
    """As many whole windows of consecutive ids as fit into `tokens`, from the start and without overlap.

    Raises
    ------
    InputError
        If `window` is shorter than two or there is not one whole window.
    """
    if window < 2 or tokens < window:
        why = f"{tokens} tokens in windows of {window} give nothing to predict"
        raise InputError(
            "Cannot cut the text", why, "Choose a window of at least 2 and as many tokens or more"
        )
    count = min(tokens, len(ids)) // window
    if count == 0:
        why = f"it has {len(ids)} tokens and a window has {window}"
        raise InputError("The text is too short", why, "Choose a longer text or a shorter window")
    return [ids[start : start + window] for start in range(0, count * window, window)]
