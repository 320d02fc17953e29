"""Chat: two models answer side by side, each in a process that stays, and out of the way of jobs."""

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from kl_lens_desktop.bench import memory
from kl_lens_desktop.gui.bench.chat_panel import ChatPanel, difference
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.chat import BUSY
from tests.gui.conftest import JOB_MS
from tests.machine import slowness


@pytest.fixture
def panel(opened: Window, short_ir: dict[str, Path], qtbot: QtBot) -> ChatPanel:
    """The chat, with two exports of a short model to choose from."""
    threads = opened.session.background._threads
    qtbot.waitUntil(lambda: not any(thread.is_alive() for thread in threads))
    QApplication.processEvents()  # what was read of the work folder is taken, and changes nothing later
    opened.session.devices = [{"name": "CPU", "full_name": "CPU", "available": True, "reason": ""}]
    opened.session.exports = {"fp16": short_ir["fp16"], "int4_sym_g64": short_ir["int4"]}
    opened.session.exports_changed.emit()
    opened.show_page("Benchmark")
    page = opened.page("Benchmark")
    assert isinstance(page, BenchmarkPage)
    page._open_chat()
    page.chat.tokens.setValue(16)
    return page.chat


@pytest.fixture
def ask(panel: ChatPanel, qtbot: QtBot) -> Callable[[str], None]:
    def ask(text: str) -> None:
        panel.prompt.setPlainText(text)
        qtbot.keyClick(panel.prompt, Qt.Key.Key_Return)
        qtbot.waitUntil(lambda: not panel._chat.busy, timeout=JOB_MS)
        qtbot.waitUntil(lambda: all(turn.differs for side in panel.sides for turn in side.turns[-1:]))

    return ask


def test_both_answer_at_once_and_what_differs_is_marked(panel: ChatPanel, ask: Callable[[str], None]) -> None:
    ask("The captain looked at the sea and")
    first, second = panel.sides
    assert first.last is not None
    assert second.last is not None
    assert first.last.text.strip()
    assert second.last.text.strip()
    assert first.last.text != second.last.text, "INT4 of two blocks changes much"
    for side, other in ((first, second), (second, first)):
        assert side.last is not None
        assert len(side.last.tokens) == 16
        assert side.last.text in side.text.toPlainText()
        assert "tokens/s" in side.said
        assert "both at once" in side.said
        assert "16 tokens" in side.said
        assert side.how.accessibleName() == "No template, continues text"
        assert f"{sum(side.last.differs)} only here" in side.said
        kept = [t for t, d in zip(side.last.tokens, side.last.differs, strict=True) if not d]
        assert kept == [
            t
            for t, d in zip(other.last.tokens, other.last.differs, strict=True)
            if not d  # type: ignore[union-attr]
        ], "what is not marked is the same on both sides"
    assert panel.prompt.toPlainText() == ""


def test_what_was_said_stays_and_is_read_again(
    panel: ChatPanel, ask: Callable[[str], None], qtbot: QtBot
) -> None:
    ask("The captain")
    partners = dict(panel._chat._partners)
    ask("Then")
    assert panel._chat._partners == partners, "the models stayed loaded"
    for side in panel.sides:
        assert len(side.turns) == 2
        answer, again = side.turns[0].text, side.turns[1].text
        assert [message.text for message in side.messages] == ["The captain", answer, "Then", again]
        shown = side.text.toPlainText()
        assert shown.index("The captain") < shown.index("Then")
    qtbot.keyClick(panel.prompt, Qt.Key.Key_Up)
    assert panel.prompt.toPlainText() == "Then"
    qtbot.keyClick(panel.prompt, Qt.Key.Key_Up)
    assert panel.prompt.toPlainText() == "The captain"
    qtbot.keyClick(panel.prompt, Qt.Key.Key_Down)
    assert panel.prompt.toPlainText() == "Then"
    panel.anew.click()
    assert not panel._chat._partners
    assert all(not side.turns and not side.text.toPlainText() for side in panel.sides)


def test_stop_ends_both_answers_and_keeps_them(panel: ChatPanel, qtbot: QtBot) -> None:
    panel.tokens.setMaximum(100_000)
    panel.tokens.setValue(100_000)
    panel.prompt.setPlainText("The captain")
    panel.go.setFocus()
    panel.go.click()
    assert panel.stop.isVisible()
    assert panel.window().focusWidget() is panel.stop
    assert not panel.go.isVisible()
    qtbot.waitUntil(lambda: all(side.last and side.last.text for side in panel.sides), timeout=JOB_MS)
    panel.stop.click()
    qtbot.waitUntil(lambda: not panel._chat.busy, timeout=JOB_MS)
    for side in panel.sides:
        assert side.last is not None
        assert side.last.text
        assert "stopped" in side.said
    assert panel.go.isVisible()
    assert panel.window().focusWidget() is panel.prompt


def test_a_job_and_an_answer_keep_out_of_each_others_way(
    panel: ChatPanel, opened: Window, qtbot: QtBot
) -> None:
    panel.tokens.setMaximum(100_000)
    panel.tokens.setValue(100_000)
    panel.prompt.setPlainText("The captain")
    panel.go.click()
    qtbot.waitUntil(lambda: bool(panel.sides[0].last and panel.sides[0].last.text), timeout=JOB_MS)
    assert opened.compress.reason == BUSY
    opened.session.job.started.emit("inspect")
    assert not panel._chat.busy
    assert panel.sides[0].said == "Another job started."
    assert opened.compress.reason == ""
    opened.session.job.occupy("something else")
    panel.prompt.setPlainText("Again")
    assert not panel.go.isEnabled()
    opened.session.job.occupy("")


def test_a_side_that_fails_says_so_and_the_other_answers(
    panel: ChatPanel, qtbot: QtBot, tmp_path: Path
) -> None:
    panel._folders = {**panel._folders, "int4_sym_g64": str(tmp_path)}
    panel.at_once.setChecked(False)
    panel.prompt.setPlainText("The captain")
    panel.go.click()
    qtbot.waitUntil(lambda: not panel._chat.busy, timeout=JOB_MS)
    first, second = panel.sides
    assert first.last is not None
    assert first.last.text
    assert "both at once" not in first.said
    assert "cannot open" in second.said
    assert not second.waits


def test_where_memory_is_short_one_is_loaded_at_a_time(
    panel: ChatPanel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_TOGETHER_SHARE", 0.0)
    loaded: list[int] = []
    panel._chat.opened.connect(lambda side, _: loaded.append(len(panel._chat._partners)))
    panel.prompt.setPlainText("The captain")
    panel.go.click()
    qtbot.waitUntil(lambda: not panel._chat.busy, timeout=JOB_MS)
    assert loaded == [1, 1]
    assert not panel._chat._partners
    assert all("memory does not hold both" in side.said for side in panel.sides)


def test_the_window_stays_quick_while_both_answer(panel: ChatPanel, qtbot: QtBot) -> None:
    late: list[float] = []
    timer = QTimer(panel, interval=10)
    last = [time.thread_time(), time.monotonic()]

    def tick() -> None:
        busy = time.thread_time() - last[0]
        late.append(busy)
        last[0] = time.thread_time()

    timer.timeout.connect(tick)
    panel.tokens.setValue(256)
    panel.prompt.setPlainText("The captain")
    timer.start()
    panel.go.click()
    qtbot.waitUntil(lambda: not panel._chat.busy, timeout=JOB_MS)
    timer.stop()
    assert max(late) < 0.1 * slowness(), "of this thread's own time between two ticks"


def test_closing_in_mid_answer_leaves_nothing(panel: ChatPanel, qtbot: QtBot) -> None:
    panel.prompt.setPlainText("The captain")
    panel.go.click()
    qtbot.waitUntil(lambda: bool(panel.sides[1].last and panel.sides[1].last.text), timeout=JOB_MS)
    # The fixture closes the window now and looks for threads and children.


def test_tokens_that_are_not_marked_are_the_same_on_both_sides() -> None:
    answers = [list(letters) for size in range(5) for letters in product("ab", repeat=size)]
    for first, second in product(answers, repeat=2):
        marks = difference(first, second)
        kept = [
            [token for token, differs in zip(side, marked, strict=True) if not differs]
            for side, marked in zip((first, second), marks, strict=True)
        ]
        assert kept[0] == kept[1]
        assert any(marks[0] + marks[1]) is (first != second)
