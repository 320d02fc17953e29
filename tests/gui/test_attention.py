"""Who looks elsewhere sees how far a job is in the taskbar, and is told when a long one ends."""

import pytest
from PySide6.QtWidgets import QSystemTrayIcon
from pytestqt.qtbot import QtBot

from kl_lens_desktop.gui.more.settings import SettingsPage
from kl_lens_desktop.gui.shell import attention
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.events import Progress
from tests.gui.conftest import JOB_MS


@pytest.fixture
def told(window: Window, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(attention, "LONG_S", 0.0)
    monkeypatch.setattr(window.attention, "tell", said.append)
    monkeypatch.setattr(window, "isActiveWindow", lambda: False)
    return said


def work(window: Window, how: str) -> None:
    """As a job that ends so; it would take a minute."""
    window.session.job.started.emit("analyze")
    window.session.job.ended.emit(how)


def test_the_title_says_how_far_a_job_is(window: Window, qtbot: QtBot) -> None:
    titles: list[str] = []
    window.windowTitleChanged.connect(titles.append)
    window.session.job.progress.emit(Progress("export", 3, 12, "Tracing"))
    assert titles == ["25 % Exporting – KL Lens"]
    with qtbot.waitSignal(window.session.job.ended, timeout=JOB_MS):
        window.session.job.start(Step(InspectJob("sample")))
    assert titles[1].endswith(" – KL Lens")
    assert window.windowTitle() == "KL Lens"


def test_the_end_of_a_long_job_is_told_while_the_window_is_behind(
    window: Window, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work(window, "finished")
    work(window, "failed")
    assert told == ["Measuring sensitivity is done.", "Measuring sensitivity has failed."]
    work(window, "cancelled")
    monkeypatch.setattr(window, "isActiveWindow", lambda: True)
    work(window, "finished")
    monkeypatch.setattr(window, "isActiveWindow", lambda: False)
    monkeypatch.setattr(attention, "LONG_S", 3600.0)
    work(window, "finished")
    assert len(told) == 2


def test_both_can_be_turned_off(window: Window, told: list[str]) -> None:
    page = window.page("Settings")
    assert isinstance(page, SettingsPage)
    assert page.awake.isChecked()
    page.awake.setChecked(False)
    page.notify.setChecked(False)
    assert not window.session.job.stay_awake
    work(window, "finished")
    assert told == []
    page.restore_defaults()
    assert page.awake.isChecked()
    assert page.notify.isChecked()
    assert window.session.job.stay_awake


def test_a_notice_without_a_tray_only_marks_the_window(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", lambda: False)
    window.attention.tell("The analysis is done.")
    assert window.findChildren(QSystemTrayIcon) == []


@pytest.mark.qt_log_ignore("systemTrayWindowChanged", r"support raise\(\)")
def test_a_notice_is_shown_where_there_is_a_tray_and_leads_back(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", lambda: True)
    monkeypatch.setattr(QSystemTrayIcon, "supportsMessages", lambda: True)
    monkeypatch.setattr(QSystemTrayIcon, "showMessage", lambda _, title, words, icon: shown.append(words))
    window.attention.tell("The analysis is done.")
    assert shown == ["The analysis is done."]
    window.showMinimized()
    (tray,) = window.attention.findChildren(QSystemTrayIcon)
    tray.messageClicked.emit()
    assert not window.isMinimized()
    assert not tray.isVisible()
