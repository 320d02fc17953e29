"""Whatever a model, a text or a bench file is called, the window shows it as text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QAbstractItemModel, QModelIndex, Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QCheckBox,
    QLabel,
    QListView,
    QMessageBox,
    QWidget,
)
from pytestqt.qtbot import QtBot

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.kit.words import caption, message_box, plain_tip, wrapped_tip
from kl_lens_desktop.gui.sensitivity.weight_charts import TextSpread, ValueHistogram
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.printable import is_steering
from kl_lens_desktop.sensitivity.jobs import Analysis
from tests.strangers import NAMES, bench_document, bench_row

TAG = "<b>x</b><img src='file:///etc/passwd'>"


def shown(text: str) -> str:
    """What a tooltip or a label without a format shows of a text."""
    from PySide6.QtGui import Qt as GuiQt

    if not GuiQt.mightBeRichText(text):
        return text
    document = QTextDocument()
    document.setHtml(text)
    return document.toPlainText()


def test_words_are_shown_as_they_are(qapp: QApplication) -> None:
    assert plain_tip("Measure sensitivity first") == "Measure sensitivity first"
    for name in NAMES:
        for said in (plain_tip(name), wrapped_tip(name)):
            text = shown(said)
            assert ("<b>" in text) == ("<b>" in name)
            assert not any(is_steering(character) for character in text.replace("\n", ""))
    assert shown(plain_tip(f"{TAG}\nmore")) == f"{TAG}\nmore"
    assert wrapped_tip("", "") == ""
    assert caption("R&D\x1b") == r"R&&D\x1b"
    box = message_box(None, QMessageBox.Icon.Critical, "KL Lens", TAG)
    assert (box.text(), box.textFormat()) == (TAG, Qt.TextFormat.PlainText)


@pytest.fixture
def stranger(opened: Window, qtbot: QtBot) -> Window:
    """The window with the benchmark of somebody else, in which everything has a hostile name."""
    workspace, session = opened.session.workspace, opened.session
    rows = [bench_row(name, device, 100.0 + n) for n, name in enumerate(NAMES) for device in ("CPU", TAG)]
    rows += [{**bench_row("gone", name), "status": "unavailable", "reason": TAG} for name in NAMES]
    rows += [{**bench_row("failed", name), "status": f"failed: {TAG}"} for name in ("CPU", TAG)]
    document = bench_document(rows, TAG)
    document["environment"]["created"] = "2026-11-25T16:33:32+00:00"
    workspace.variant("fp16").mkdir(parents=True)
    (workspace.variant("fp16") / MODEL_XML).write_text("<net/>", encoding="utf-8")
    workspace.bench.write_text(json.dumps(document), encoding="utf-8")
    session.devices = [
        {"name": name, "full_name": TAG, "available": True, "reason": ""} for name in ("CPU", TAG, "R&D")
    ]
    with qtbot.waitSignal(session.bench_changed):
        session.reload()
    assert session.bench is not None
    opened.show_page("Benchmark")
    return opened


@pytest.mark.qt_log_ignore("This plugin does not support")  # Qt's offscreen platform, of any dialog
def test_no_name_is_read_as_html_or_as_a_shortcut_anywhere(
    stranger: Window, tmp_path: Path, qtbot: QtBot
) -> None:
    session, page = stranger.session, stranger.page("Benchmark")
    assert isinstance(page, BenchmarkPage)
    other = tmp_path / "<i>yours.json"
    other.write_bytes(session.workspace.bench.read_bytes())
    page.compare_with(other)
    qtbot.waitUntil(lambda: page.comparison is not None, timeout=20_000)
    session.set_analysis(Analysis(text=(Path(f"{TAG} & more.txt"),)))
    session.say_error(InputError(f"Cannot read {TAG}", "\x1b]0;x\x07", "\u202e"))
    stranger.show_page("Sensitivity")
    widgets = [stranger, *stranger.findChildren(QWidget)]
    seen = set()
    for widget in widgets:
        for tip in (widget.toolTip(), *_item_tips(widget)):
            _check(tip)
            seen |= {tip} if TAG in shown(tip) else set()
        if isinstance(widget, QLabel):
            assert widget.textFormat() == Qt.TextFormat.PlainText
            assert not any(is_steering(each) for each in widget.text().replace("\n", ""))
    assert len(seen) >= 3, "the names are there to be seen"
    assert "R&&D" in {box.text() for box in stranger.findChildren(QCheckBox)}
    assert page.comparison is not None
    page.comparison.accept()


def _check(tip: str) -> None:
    text = shown(tip)
    assert not any(is_steering(character) for character in text.replace("\n", ""))
    # A tag that was obeyed is gone from what is shown.
    assert "<b>x</b>" in text or ("<b>x" not in tip and "&lt;b&gt;x" not in tip)
    assert "<img" not in tip or text == tip


def _item_tips(widget: QWidget) -> Iterator[str]:
    if not isinstance(widget, QAbstractItemView):
        return
    model: QAbstractItemModel | None = widget.model()
    if model is None:
        return
    columns = 1 if isinstance(widget, QListView) else model.columnCount(QModelIndex())
    for row in range(model.rowCount(QModelIndex())):
        for column in range(columns):
            tip: Any = model.index(row, column).data(Qt.ItemDataRole.ToolTipRole)
            if isinstance(tip, str):
                yield tip


def test_why_a_weight_has_no_values_is_no_markup(qtbot: QtBot) -> None:
    for chart in (ValueHistogram(), TextSpread()):
        qtbot.addWidget(chart)
        if isinstance(chart, ValueHistogram):
            chart.show_words(f"Cannot read {TAG}")
        else:
            chart.show_windows([], 0.0, 0.0, f"Cannot read {TAG}")
        assert chart.plotItem.titleLabel.item.toPlainText() == f"Cannot read {TAG}"
