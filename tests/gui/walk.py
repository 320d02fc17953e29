"""Walk all pages of a window, and print as JSON the words that are seen there and those that are cut.

python -m tests.gui.walk INSPECTED SCORES
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from typing import Any

from PySide6.QtCore import QAbstractListModel, QPoint, Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QComboBox,
    QLabel,
    QLineEdit,
    QTabBar,
    QToolButton,
    QWidget,
)

from kl_lens_desktop.files import MODEL_XML, WEIGHTS, read_json, write_json
from kl_lens_desktop.gui.kit.controls import Elided
from kl_lens_desktop.gui.shell.window import PAGES
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.events import Finished
from tests.contact_sheet import SIZE, opened_window, wait
from tests.gui.test_benchmark import TABLE, bench_document

MARK = "⟦"
_WORD = re.compile(r"[a-z]{3,}")
_MOST_ROWS = 30


def main(inspected: Path, scores: Path) -> None:
    """Walk with no model, with one, and with all its results."""
    found: dict[str, set[str]] = {"translated": set(), "plain": set(), "cut": set()}
    with opened_window() as window:
        session = window.session
        walk(window, "empty", found)
        session.job.step_finished.emit(Step(InspectJob("sample")), Finished(read_json(inspected)))
        walk(window, "opened", found)
        session.workspace.folder.mkdir(parents=True, exist_ok=True)
        copy(scores, session.workspace.scores)
        leave_results(session)
        walk(window, "done", found)
    print(json.dumps({name: sorted(texts) for name, texts in found.items()}, ensure_ascii=False))


def leave_results(session: Any) -> None:
    """Put exports that are names alone, and a made-up benchmark, beside the scores of the open model."""
    workspace = session.workspace
    for name in TABLE:
        variant = workspace.variant(name)
        variant.mkdir(parents=True)
        (variant / MODEL_XML).write_text("<net/>", encoding="utf-8")
        (variant / WEIGHTS).touch()
    write_json(workspace.bench, bench_document())
    session.devices = bench_document()["environment"]["devices"]
    session.reload()
    wait(lambda: bool(session.bench))


def walk(window: Any, state: str, found: dict[str, set[str]]) -> None:
    for name, _, _ in PAGES:
        window.show_page(name)
        wait(lambda: False, 0.2)
        place = f"{name}, {state}"
        if (window.width(), window.height()) != SIZE:
            found["cut"].add(f"{place}: the window is pushed to {window.width()} × {window.height()}")
        for widget in (window, *window.findChildren(QWidget)):
            if not widget.isVisible():
                continue
            for text in texts(widget):
                if MARK in text:
                    found["translated"].add(text)
                elif _WORD.search(text):
                    found["plain"].add(f"{place}: {text}")
            if words := cut(window, widget):
                found["cut"].add(f"{place}: {words}")


def texts(widget: QWidget) -> Iterator[str]:
    """What a person sees or hears of a widget."""
    yield from (widget.toolTip(), widget.accessibleName(), widget.accessibleDescription())
    if isinstance(widget, (QLabel, QAbstractButton)):
        yield widget.text()
    elif isinstance(widget, QComboBox):
        yield from (widget.itemText(place) for place in range(widget.count()))
    elif isinstance(widget, QTabBar):
        yield from (widget.tabText(place) for place in range(widget.count()))
    elif isinstance(widget, QLineEdit):
        yield widget.placeholderText()
    elif isinstance(widget, QAbstractItemView) and widget.model() is not None:
        model = widget.model()
        columns = 1 if isinstance(model, QAbstractListModel) else model.columnCount()
        for place in range(columns):
            yield str(model.headerData(place, Qt.Orientation.Horizontal) or "")
            for line in range(min(model.rowCount(), _MOST_ROWS)):
                yield str(model.index(line, place).data() or "")


def cut(window: QWidget, widget: QWidget) -> str:
    """The words of a widget that has no room for them; empty where it has."""
    if isinstance(widget, QLabel) and not isinstance(widget, Elided) and widget.text():
        if widget.wordWrap():
            short = widget.height() < widget.heightForWidth(widget.width())
        else:
            widest = max(map(widget.fontMetrics().horizontalAdvance, widget.text().split("\n")))
            short = widget.width() < widest
        return widget.text() if short else ""
    if isinstance(widget, QAbstractButton) and not isinstance(widget, QToolButton) and widget.text():
        right = widget.mapTo(window, QPoint(widget.width(), 0)).x()
        short = widget.width() < widget.fontMetrics().horizontalAdvance(widget.text())
        return widget.text() if short or right > window.width() else ""
    return ""


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
