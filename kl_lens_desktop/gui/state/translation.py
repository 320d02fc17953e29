"""The window's words in the person's language: each of them passes through `tr`.

English is the source. ``pyside6-lupdate`` collects the words into ``resources/translations/kl-lens.ts``, Qt
Linguist translates them, and ``pyside6-lrelease`` makes the ``kl-lens_LANGUAGE.qm`` that is read here. What
measures and writes (errors of the stages, reports, names of formats and units) knows no Qt and stays English.
"""

import os
import re

from PySide6.QtCore import QLocale, QTranslator

from kl_lens_desktop import resources

CHOSEN = "KL_LENS_LANGUAGE"  # a language such as ``de``, or PSEUDO; the system's without it
PSEUDO = "pseudo"
_LONGER = 0.3  # as German and French are than English
_ACCENTED = str.maketrans("aceinorsuyzACEINORSUYZ", "åçéîñôřšûýžÅÇÉÎÑÔŘŠÛÝŽ")
_PLACE = re.compile(r"(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\{\{|\}\})")


class Pseudo(QTranslator):
    """A language that anybody reads and nobody writes: accented, longer, and marked at both ends."""

    def translate(self, context: str, source: str, disambiguation: str | None = None, n: int = -1) -> str:
        """`source` with its places for figures as they are."""
        if not source.strip() or source.startswith("⟦"):
            return source
        parts = _PLACE.split(source)
        words = "".join(part if place % 2 else part.translate(_ACCENTED) for place, part in enumerate(parts))
        more = "~" * round(_LONGER * len("".join(parts[::2])))
        return f"⟦{words}{more}⟧"

    def isEmpty(self) -> bool:
        return False


def _translator() -> QTranslator | None:
    """Of the language that is wanted; none for English, and where nobody has translated yet."""
    wanted = os.environ.get(CHOSEN, "")
    if wanted == PSEUDO:
        return Pseudo()
    found = QTranslator()
    locale = QLocale(wanted) if wanted else QLocale.system()
    folder = str(resources.path("translations"))
    return found if found.load(locale, "kl-lens", "_", folder) else None


TRANSLATOR = _translator()  # for good: words that stand in tables are made once, at import


def mark(text: str) -> str:
    """The same text, which ``pyside6-lupdate`` finds: a name in the code that `tr` gives to be shown."""
    return text


def tr(text: str) -> str:
    """A text in the language of the window.

    Parameters
    ----------
    text : str
        English, as a literal: what is filled in stands in braces, and `str.format` follows.
    """
    return (TRANSLATOR and TRANSLATOR.translate("", text)) or text
