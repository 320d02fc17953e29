"""What is dropped on the window opens, and what somebody shared is shown before it is used."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDrag, QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtWidgets import QApplication, QLineEdit, QPlainTextEdit, QTextEdit
from pytestqt.qtbot import QtBot

from kl_lens_desktop.files import write_json
from kl_lens_desktop.gui.bench.difference import BenchDifferenceDialog
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.kit.share import ShareButton, file_mime
from kl_lens_desktop.gui.shell.bundle import BundleDialog
from kl_lens_desktop.gui.shell.window import PAGES, Window
from kl_lens_desktop.plan.document import save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.sensitivity.scores import Scores, save_scores
from kl_lens_desktop.sharing import load_bundle, share
from tests.gui.conftest import JOB_MS
from tests.test_sharing import bench_of

pytestmark = pytest.mark.qt_log_ignore(
    "This plugin does not support"
)  # Qt's offscreen platform, of any dialog


@pytest.fixture
def theirs(sample_scores: Scores, tmp_path: Path) -> Path:
    """A bundle of the sample, from a computer twice as fast."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_scores(folder / "scores.json", sample_scores)
    save_plan(folder / "plan.json", propose(sample_scores, bits=9))
    bench = bench_of(sample_scores)
    for row in bench["rows"]:
        if row["tokens_per_s"]:
            rounds = [2 * each for each in row["tokens_per_s"]["rounds"]]
            row["tokens_per_s"] |= {"mean": 2 * row["tokens_per_s"]["mean"], "rounds": rounds}
    bench["environment"]["cpu"] = "Their processor"
    write_json(folder / "bench.json", bench)
    return share(folder, tmp_path / "theirs.kl-lens.json").path


def drop(window: Window, path: Path) -> None:
    """Drag a file from a file manager over the window and let it go there."""
    data, copy = file_mime(path), Qt.DropAction.CopyAction
    given = (copy, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(QPoint(600, 400), *given)
    QApplication.sendEvent(window, enter)
    assert enter.isAccepted()
    let_go = QDropEvent(QPointF(600, 400), *given)
    QApplication.sendEvent(window, let_go)
    assert let_go.isAccepted()


def dialog_of(window: Window, qtbot: QtBot) -> BundleDialog:
    qtbot.waitUntil(lambda: window.findChild(BundleDialog) is not None, timeout=60_000)
    found = window.findChild(BundleDialog)
    assert isinstance(found, BundleDialog)
    return found


def test_a_bundle_that_is_dropped_is_shown_and_its_plan_used(
    scored: Window, theirs: Path, qtbot: QtBot
) -> None:
    drop(scored, theirs)
    dialog = dialog_of(scored, qtbot)
    assert "sample" in dialog.card.text()
    assert not dialog.use_scores.isEnabled(), "these weights were measured here"
    assert dialog.heading.text() == "Their laptop"
    assert dialog.table.rowCount() > 3
    before = scored.session.plan
    dialog.use_plan.click()
    qtbot.waitUntil(lambda: scored.session.plan is not before, timeout=60_000)
    assert scored.session.plan is not None
    bundle = load_bundle(theirs)
    assert bundle.plan is not None
    assert scored.session.plan.assignments == bundle.plan.assignments
    assert scored.shown == "Plan"
    scored.page("Plan").undo.undo()  # type: ignore[attr-defined]
    assert scored.session.plan.assignments == before.assignments  # type: ignore[union-attr]


def test_their_laptop_stands_against_yours(
    opened: Window, theirs: Path, sample_scores: Scores, qtbot: QtBot
) -> None:
    write_json(opened.session.workspace.bench, bench_of(sample_scores))
    with qtbot.waitSignal(opened.session.bench_changed):
        opened.session.reload()
    opened.session.open_path(theirs)
    dialog = dialog_of(opened, qtbot)
    assert dialog.heading.text() == "Their laptop against yours"
    lines = [
        [dialog.table.item(line, place).text() for place in range(dialog.table.columnCount())]  # type: ignore[union-attr]
        for line in range(dialog.table.rowCount())
    ]
    speeds = [line for line in lines if "okens/s" in line[2] and line[0] == "Plan"]
    assert speeds
    assert all(line[5].startswith("×2") and "better" in line[6] for line in speeds)
    assert "Their processor" in dialog.note.text()
    dialog.all_figures.click()
    assert dialog.findChild(BenchDifferenceDialog) is not None


def test_scores_of_the_same_weights_are_used_where_none_are(
    opened: Window, theirs: Path, qtbot: QtBot, sample_scores: Scores
) -> None:
    opened.session.open_path(theirs)
    dialog = dialog_of(opened, qtbot)
    assert dialog.use_scores.isEnabled()
    with qtbot.waitSignal(opened.session.scores_changed, timeout=JOB_MS):
        dialog.use_scores.click()
    assert opened.session.scores is not None
    assert opened.session.scores.entries == sample_scores.entries


def test_scores_of_other_weights_are_refused(opened: Window, theirs: Path, qtbot: QtBot) -> None:
    bundle = load_bundle(theirs)
    strange = replace(bundle, model=replace(bundle.model, sha256="b" * 64))
    with qtbot.waitSignal(opened.session.said):
        opened.session.use_scores(strange)
    assert "for another model" in opened.banner.text.text()
    assert not opened.session.workspace.scores.exists()


def test_a_hostile_bundle_shows_a_sentence_and_nothing_else(
    opened: Window, theirs: Path, qtbot: QtBot
) -> None:
    value = json.loads(theirs.read_text(encoding="utf-8"))
    value["plan"]["assignments"]["../../evil.weight"] = "fp16"
    theirs.write_text(json.dumps(value), encoding="utf-8")
    with qtbot.waitSignal(opened.session.said):
        drop(opened, theirs)
    assert "is not the name of a weight" in opened.banner.text.text()
    assert opened.findChild(BundleDialog) is None


def test_what_a_card_says_is_no_markup(opened: Window, theirs: Path, qtbot: QtBot) -> None:
    value = json.loads(theirs.read_text(encoding="utf-8"))
    value["card"] = "<b>best</b> model\u202e"
    theirs.write_text(json.dumps(value), encoding="utf-8")
    opened.session.open_path(theirs)
    dialog = dialog_of(opened, qtbot)
    assert dialog.card.text() == "<b>best</b> model\\u202e"
    assert dialog.card.textFormat() == Qt.TextFormat.PlainText


def test_plans_benchmarks_and_folders_open_too(
    scored: Window,
    qtbot: QtBot,
    tmp_path: Path,
    plan_of: Callable[..., Any],
    sample_scores: Scores,
    short_ir: dict[str, Path],
) -> None:
    session = scored.session
    plan = plan_of(bits=9.0)
    save_plan(tmp_path / "p.json", plan)
    with qtbot.waitSignal(session.plan_changed, timeout=60_000):
        drop(scored, tmp_path / "p.json")
    assert session.plan is not None
    assert session.plan.assignments == plan.assignments
    write_json(tmp_path / "bench.json", bench_of(sample_scores))
    with qtbot.waitSignal(session.said, timeout=60_000):
        drop(scored, tmp_path / "bench.json")
    assert "benchmark a model of your own first" in scored.banner.text.text()
    write_json(session.workspace.bench, bench_of(sample_scores))
    with qtbot.waitSignal(session.bench_changed):
        session.reload()
    drop(scored, tmp_path / "bench.json")
    benchmark = scored.page("Benchmark")
    assert isinstance(benchmark, BenchmarkPage)
    qtbot.waitUntil(lambda: benchmark.comparison is not None, timeout=60_000)
    assert scored.shown == "Benchmark"
    with qtbot.waitSignal(session.said, timeout=60_000):
        drop(scored, short_ir["int4"])
    assert "its model, short, is not on this computer" in scored.banner.text.text()
    drop(scored, tmp_path)
    qtbot.waitUntil(
        lambda: not session.job.running and "Cannot open" in scored.banner.text.text(), timeout=JOB_MS
    )


def test_an_export_that_is_dropped_stands_beside_the_others(
    opened: Window, sample_ir: dict[str, Path], qtbot: QtBot
) -> None:
    with qtbot.waitSignal(opened.session.export_opened, timeout=60_000):
        drop(opened, sample_ir["int4"])
    assert opened.session.exports["int4_sym_g64"] == sample_ir["int4"]
    assert opened.shown == "Benchmark"


def test_no_text_field_keeps_a_dropped_file_to_itself(scored: Window) -> None:
    for name, _, _ in PAGES:
        page = scored.page(name)
        for kind in (QLineEdit, QPlainTextEdit, QTextEdit):
            for field in page.findChildren(kind):
                assert not field.acceptDrops(), f"{field.accessibleName()} on {name}"
    words = QMimeData()
    words.setUrls([QUrl("https://example.org/x.json")])
    enter = QDragEnterEvent(
        QPoint(9, 9),
        Qt.DropAction.CopyAction,
        words,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(scored, enter)
    assert not enter.isAccepted(), "nothing is fetched"


def test_the_results_are_saved_and_dragged_as_one_file(
    scored: Window, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with qtbot.waitSignal(scored.session.said):
        scored.session.share(tmp_path / "mine.kl-lens.json")
    assert "It holds no weights and no paths" in scored.banner.text.text()
    bundle = load_bundle(tmp_path / "mine.kl-lens.json")
    assert bundle.plan is not None
    assert scored.session.plan is not None
    assert bundle.plan.assignments == scored.session.plan.assignments, "the plan that is shown"

    dragged: list[list[str]] = []
    monkeypatch.setattr(
        QDrag, "exec", lambda drag, _: dragged.append([u.fileName() for u in drag.mimeData().urls()])
    )
    monkeypatch.setattr(QGuiApplication, "mouseButtons", lambda: Qt.MouseButton.LeftButton)
    button = ShareButton(scored.session)
    qtbot.addWidget(button)
    button.show()
    qtbot.mousePress(button, Qt.MouseButton.LeftButton, pos=QPoint(5, 5))
    qtbot.mouseMove(button, QPoint(60, 5))
    qtbot.waitUntil(lambda: bool(dragged), timeout=60_000)
    assert dragged == [["sample.kl-lens.json"]]
    qtbot.mouseRelease(button, Qt.MouseButton.LeftButton, pos=QPoint(60, 5))


def test_a_card_of_any_length_leaves_the_buttons_on_the_screen(
    opened: Window, theirs: Path, qtbot: QtBot
) -> None:
    value = json.loads(theirs.read_text(encoding="utf-8"))
    value["card"] = "line\n" * 3_000 + "x" * 4_000
    value["model"]["id"], value["bench"]["environment"]["cpu"] = 300 * "m", 300 * "p"
    theirs.write_text(json.dumps(value), encoding="utf-8")
    opened.session.open_path(theirs)
    dialog = dialog_of(opened, qtbot)
    qtbot.waitExposed(dialog)
    room = dialog.screen().availableSize()
    assert dialog.height() <= room.height()
    assert dialog.minimumSizeHint().width() <= 980
    assert dialog.use_plan.mapTo(dialog, QPoint(0, 0)).y() < dialog.height()
    assert dialog.table.height() > 60
