"""Text that is not ours, such as names, paths and libraries' errors, made safe to show.

A terminal obeys control characters, and marks of direction reorder what stands beside them on any screen.
"""

import unicodedata

_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, marks of direction and other formats, line separators
_LETTERS = "\u200c\u200d"  # joiners, without which Persian and Indic words are misspelt


def printable(text: str) -> str:
    """`text` on one line, with whatever steers a screen spelt out: ``\\x1b``, ``\\n``, ``\\u202e``."""
    return text if text.isprintable() else "".join(map(_spelt, text))


def printable_lines(text: str) -> str:
    """The same for text of several lines, whose line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def is_steering(character: str) -> bool:
    """Whether a screen obeys `character` instead of showing it."""
    return unicodedata.category(character) in _STEERING and character not in _LETTERS


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if is_steering(character) else character
