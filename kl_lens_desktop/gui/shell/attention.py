"""What a person who looks elsewhere sees: progress in the window's title, a notice when a long job ends."""

import time

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QApplication, QSystemTrayIcon, QWidget

from kl_lens_desktop.gui.state.session import STAGE_NAMES, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.process.events import Progress

LONG_S = 60.0
NAME = "KL Lens"
_ENDINGS = {"finished": tr("is done"), "failed": tr("has failed"), "cancelled": tr("was cancelled")}


class Attention(QObject):
    """Keeps a window's title up to date, and speaks up if the window is not in front when a job ends."""

    def __init__(self, session: Session, window: QWidget) -> None:
        super().__init__(window)
        self._window, self._settings, self._session = window, session.settings, session
        self._began, self._name = 0.0, ""
        self._tray: QSystemTrayIcon | None = None
        session.job.started.connect(self._begin)
        session.job.progress.connect(self._show)
        session.job.ended.connect(self._end)

    def _begin(self, name: str) -> None:
        self._began, self._name = time.monotonic(), STAGE_NAMES.get(name, name.capitalize())
        self._window.setWindowTitle(f"{self._name} – {NAME}")

    def _show(self, progress: Progress) -> None:
        stage = STAGE_NAMES.get(progress.stage, progress.stage.capitalize())
        part = progress.done / progress.total if progress.total > 0 else None
        if course := self._session.course:
            shares = course.shares().values()
            part = (1 + sum(shares)) / (1 + len(shares))
        share = "" if part is None else f"{100 * min(part, 1):.0f} % "
        self._window.setWindowTitle(f"{share}{stage} – {NAME}")

    def _end(self, how: str) -> None:
        self._window.setWindowTitle(NAME)
        long = time.monotonic() - self._began >= LONG_S
        if long and how != "cancelled" and self._settings.notify and not self._window.isActiveWindow():
            self.tell(f"{self._name} {_ENDINGS[how]}.")

    def tell(self, words: str) -> None:
        """Mark the window in the taskbar, and show a notice where the desktop has a place for one."""
        QApplication.alert(self._window)
        if not (QSystemTrayIcon.isSystemTrayAvailable() and QSystemTrayIcon.supportsMessages()):
            return
        if self._tray is None:
            self._tray = QSystemTrayIcon(self._window.windowIcon(), self)
            self._tray.messageClicked.connect(self._come_forward)
            self._tray.activated.connect(lambda _: self._come_forward())
        self._tray.show()
        self._tray.showMessage(NAME, words, self._window.windowIcon())

    def _come_forward(self) -> None:
        if self._tray is not None:
            self._tray.hide()
        self._window.showNormal() if self._window.isMinimized() else self._window.show()
        self._window.raise_()
        self._window.activateWindow()
