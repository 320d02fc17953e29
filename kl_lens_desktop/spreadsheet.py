"""Tables as CSV that a spreadsheet opens rightly, and in which it runs nothing."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kl_lens_desktop.files import write_text
from kl_lens_desktop.printable import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_csv(path: Path, lines: Iterable[Iterable[Any]]) -> None:
    """Write lines of cells, with the byte order mark, by which Excel knows UTF-8."""
    write_text(path, "\ufeff" + csv_text(lines))


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    """Lines of cells as CSV; texts are defused where a spreadsheet would run them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # a spreadsheet runs text that starts like a formula; files come from strangers
    return f"'{printable(value)}" if value.startswith(_FORMULA) else printable(value)
