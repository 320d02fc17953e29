"""Starting: quick, without the heavy libraries, and in words when something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QAbstractButton, QApplication, QLabel, QPushButton
from pytestqt.qtbot import QtBot

from kl_lens_desktop.gui.model.page import ModelPage
from kl_lens_desktop.gui.more.help import HelpPage
from kl_lens_desktop.gui.more.log import LogPage
from kl_lens_desktop.gui.shell import application
from kl_lens_desktop.gui.shell.window import PAGES, Window
from kl_lens_desktop.gui.state.settings import Settings

HEAVY = ("torch", "transformers", "openvino", "openvino_genai", "nncf")
BARE = """
import time
import pyqtgraph
from PySide6.QtWidgets import QApplication
app = QApplication([])
chart = pyqtgraph.PlotWidget()
chart.show()
app.processEvents()
print("busy", time.process_time())
"""
PROBE = f"""
import sys, time
from PySide6.QtCore import QTimer
from kl_lens_desktop.gui.shell import application
app = application.make_application()
window = application.make_window()
window.show()
app.processEvents()
print("busy", time.process_time())
for name in {[page[0] for page in PAGES]!r}:
    window.show_page(name)
    app.processEvents()
print("heavy", [name for name in {HEAVY!r} if name in sys.modules])
window.close()
"""


def test_the_first_window_comes_soon_and_needs_no_torch(tmp_path: Path) -> None:
    """In some times the processor time of a window with an empty chart."""
    started = [(_start(tmp_path, BARE), _start(tmp_path, PROBE)) for _ in range(3)]
    assert {ours["heavy"] for _, ours in started} == {"[]"}
    bare, busy = (min(float(each["busy"]) for each in starts) for starts in zip(*started, strict=True))
    assert busy < 6 * bare


def _start(home: Path, code: str) -> dict[str, str]:
    environment = {**os.environ, "KL_LENS_HOME": str(home), "QT_QPA_PLATFORM": "offscreen"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return dict(line.split(" ", 1) for line in run.stdout.splitlines())


def test_a_folder_that_is_no_model_is_refused_in_one_sentence(
    window: Window, qtbot: QtBot, tmp_path: Path
) -> None:
    with qtbot.waitSignal(window.session.job.ended, timeout=60_000):
        application.open_in(window, str(tmp_path))
    assert window.banner.isVisible()
    assert str(tmp_path) in window.banner.text.text()
    assert "Traceback" not in window.banner.text.text()
    assert window.session.log[-1].level == "error"
    log = window.page("Log")
    assert isinstance(log, LogPage)
    assert str(tmp_path) in log.text.toPlainText()
    assert "Traceback" not in log.text.toPlainText()
    log.copy_diagnostics()
    assert "Traceback" in QGuiApplication.clipboard().text(), "a report has it all the same"


def test_while_another_model_is_read_nothing_claims_to_be_done(
    opened: Window, qtbot: QtBot, tmp_path: Path
) -> None:
    page, entry = opened.page("Model"), opened.rail_entry(0)
    assert isinstance(page, ModelPage)
    assert page.next.isEnabled()
    assert entry.accessibleName() == "Model, done"
    with qtbot.waitSignal(opened.session.job.ended, timeout=60_000):
        page.open(str(tmp_path))
        assert not page.next.isEnabled()
        assert str(tmp_path) in page.next.toolTip()
        assert entry.accessibleName() == "Model, running"
    assert page.next.isEnabled()  # what was open is open still
    assert entry.accessibleName() == "Model, done"


def test_an_unforeseen_error_is_logged_and_told(
    home: Path, qtbot: QtBot, capsys: pytest.CaptureFixture[str]
) -> None:
    from kl_lens_desktop.gui.shell import crash

    told: list[str] = []
    crash.install(told.append)
    try:
        sys.excepthook(ZeroDivisionError, ZeroDivisionError("no such share"), None)
    finally:
        crash.uninstall()
    assert told
    assert "no such share" in told[0]
    assert "no such share" in (home / "logs" / crash.LOG_NAME).read_text(encoding="utf-8")
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_enter_presses_the_button_in_focus_and_the_window_fits_the_screen(
    window: Window, qtbot: QtBot
) -> None:
    window.show_page("Settings")
    entry = window.rail_entry(3)
    entry.setFocus()
    qtbot.keyClick(entry, Qt.Key.Key_Return)
    assert window.shown == "Export"
    screen = window.screen().availableSize()
    least = window.minimumSize()
    assert window.width() <= max(screen.width(), least.width())
    assert window.height() <= max(screen.height(), least.height())


def test_a_message_that_goes_gives_the_focus_back_to_where_it_was(opened: Window, qtbot: QtBot) -> None:
    entry, pressed = opened.rail_entry(2), list[bool]()
    entry.setFocus()
    opened.banner.offer("Something happened.", "Do it", lambda: pressed.append(True))
    for button in opened.banner.findChildren(QAbstractButton):
        opened.banner.show()
        button.setFocus()
        qtbot.keyClick(button, Qt.Key.Key_Space)
        assert not opened.banner.isVisible()
        assert QApplication.focusWidget() is entry
    assert pressed == [True]


def test_ctrl_enter_compresses_and_ctrl_q_closes(opened: Window, qtbot: QtBot) -> None:
    pressed: list[bool] = []
    opened.compress.clicked.disconnect()
    opened.compress.clicked.connect(lambda: pressed.append(True))
    qtbot.keyClick(opened, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert pressed == [True]
    qtbot.keyClick(opened, Qt.Key.Key_Q, Qt.KeyboardModifier.ControlModifier)
    assert not opened.isVisible()


def test_who_has_opened_nothing_yet_is_welcomed_and_led_to_answers(window: Window) -> None:
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    said = " ".join(words.text() or words.accessibleName() for words in page.details.findChildren(QLabel))
    assert "Nothing leaves this computer unless" in said
    assert str(window.session.settings.work_folder) in " ".join(
        words.accessibleName() for words in page.details.findChildren(QLabel)
    )
    ask = next(b for b in page.details.findChildren(QPushButton) if b.text() == "Questions and answers")
    ask.click()
    assert window.shown == "Help"
    help_page = window.page("Help")
    assert isinstance(help_page, HelpPage)
    assert help_page.text.file == "questions.md"
    assert "What do I do with the exported folder?" in help_page.text.toPlainText()


def test_a_chosen_work_folder_that_is_gone_is_said_at_once(
    home: Path, tmp_path: Path, qapp: QApplication, qtbot: QtBot
) -> None:
    Settings().work_folder = tmp_path / "another drive"
    application.make_application()
    window = application.make_window()
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(window.banner.action.isVisible)
    assert window.banner.text.text() == (
        f"The work folder {tmp_path / 'another drive'} is missing. "
        "Connect its drive, or choose another folder."
    )
    window.banner.action.click()
    assert window.shown == "Settings"
    window.close()
