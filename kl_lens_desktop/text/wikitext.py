"""WikiText as lm-eval's task ``wikitext`` reads it: documents, their detokenization, rolling windows.

Source: EleutherAI/lm-evaluation-harness, ``lm_eval/tasks/wikitext`` and ``lm_eval/utils.py``; the documents
are those of the data set EleutherAI/wikitext_document_level. Word perplexity is exp of the summed negative
log-likelihood of all documents over the number of their words.
"""

import re
from collections.abc import Iterator

_PLAIN_BEFORE = (("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
_PUNCTUATION = ":;.!?,"
_PAIRS = (r"\(\s*([^\)]*?)\s*\)", r"\[\s*([^\]]*?)\s*\]", r"{\s*([^}]*?)\s*}", r"\"\s*([^\"]*?)\s*\"",
          r"'\s*([^']*?)\s*'")  # fmt: skip
_CLOSED = (r"(\1)", r"[\1]", r"{\1}", r'"\1"', r"'\1'")
_PLAIN_AFTER = (("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°"), (" \n", "\n"),
                ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"))  # fmt: skip


def is_wikitext(text: str) -> bool:
    """Whether a text is WikiText in its raw form: headings between equals signs, and ``@-@`` for a hyphen."""
    heading = re.search(r"^ = [^=\n]+ = ?$", text[:10_000], re.MULTILINE)
    return heading is not None and re.search(r" @[-,.]@ ", text[:100_000]) is not None


def documents(text: str) -> Iterator[str]:
    """The articles, each with its heading of the first level."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        bare = line.replace("= = =", "===").replace("= =", "==").strip()
        if bare.startswith("= ") and bare.endswith(" ="):
            if (document := "\n".join(lines)).strip():
                yield document
            lines = []
        lines.append(line)
    yield "\n".join(lines)


def detokenized(document: str) -> str:
    """The text that is scored."""
    for old, new in _PLAIN_BEFORE:
        document = document.replace(old, new)
    for mark in _PUNCTUATION:
        document = document.replace(f" {mark} ", f"{mark} ")
    for pair, closed in zip(_PAIRS, _CLOSED, strict=True):
        document = re.sub(pair, closed, document)
    for old, new in _PLAIN_AFTER:
        document = document.replace(old, new)
    return document


def word_count(document: str) -> int:
    """Words of the document as it is in the data set, before anything is undone."""
    return len(re.split(r"\s+", document))


def rolling_windows(ids: list[int], prefix: int, window: int) -> Iterator[tuple[list[int], list[int]]]:
    """(context, predicted) such that each id is predicted once, from at most `window` ids.

    Full windows follow each other with one id of context; the last takes as much context as fits.
    """
    if not ids:
        return
    first = ids[:window]
    yield [prefix], first
    done = len(first)
    while done < len(ids):
        end = min(done + window, len(ids))
        yield ids[max(0, end - window - 1) : done], ids[done:end]
        done = end
