"""What a tokenizer's file may do to a text, found out before it is used. Needs no torch."""

import base64
import itertools
import math
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import ModelError

_MOST_GROWTH = 256  # characters or tokens that come of one character; real tokenizers stay below 40
_LONGEST_AFFIX = 64
_CHILDREN = ("normalizers", "pretokenizers", "decoders", "processors")


def check_tokenizer(described: dict[str, Any], path: Path) -> None:
    """Raise `ModelError` if a ``tokenizer.json`` would make a text many times longer, or is not like one.

    Steps follow one another, so that a few dozen that double a text would fill any memory with one letter.
    """
    try:
        growth = max(
            _growth(described.get("normalizer")) * _growth(described.get("pre_tokenizer")),
            _growth(described.get("decoder")),
            _growth(described.get("post_processor")),
        )
        model = described["model"]
        affixes = [model.get(name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")]
        longest = max(len(affix) for affix in affixes)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ModelError(
            f"Cannot read {path}", "it does not describe a tokenizer", "Download the model again"
        ) from error
    if growth > _MOST_GROWTH or longest > _LONGEST_AFFIX:
        raise ModelError(
            f"Cannot use {path}",
            f"it makes a text more than {_MOST_GROWTH} times longer, which would fill the memory",
            "Use the tokenizer of the original model",
        )


def _growth(step: Any) -> float:
    """How many characters may come of one, at most."""
    if step is None:
        return 1.0
    kind = step["type"]
    if kind == "Sequence":
        return math.prod(_growth(child) for name in _CHILDREN for child in step.get(name, ()))
    if kind == "Replace":
        ((how, pattern),) = step["pattern"].items()
        shortest = len(pattern) if how == "String" else 0  # an expression may match nothing, between letters
        content = len(step["content"])
        return max(1.0, content / shortest) if shortest else 1.0 + content
    if kind == "Prepend":
        return 1.0 + len(step["prepend"])
    if kind == "ByteLevel":
        return 4.0  # a letter for every byte
    if kind == "Precompiled":
        return float(max(1, _longest_replacement(base64.b64decode(step["precompiled_charsmap"]))))
    if kind == "TemplateProcessing":
        return float(max(1, *(sum("Sequence" in part for part in step[name]) for name in ("single", "pair"))))
    return 1.0


def _longest_replacement(table: bytes) -> int:
    """Of SentencePiece's table: the length of a trie in four bytes, the trie, texts that end in a zero."""
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    ends = [-1, *(at for at, byte in enumerate(texts) if not byte), len(texts)]
    return max(end - start - 1 for start, end in itertools.pairwise(ends))
