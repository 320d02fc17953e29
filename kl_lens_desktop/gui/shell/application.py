"""Start the window and stay until it closes."""

import os
import sys
from pathlib import Path

from PySide6.QtCore import QObject, Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QMessageBox

from kl_lens_desktop import __version__
from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.kit.words import message_box
from kl_lens_desktop.gui.shell import crash
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.settings import Settings, use_endpoint
from kl_lens_desktop.process.signals import answered

BASE_POINTS = 10
SCALE = "QT_SCALE_FACTOR"
_NAME = "kl-lens"
_SWITCH_S = 0.0001


class _Told(QObject):
    """Carries a sentence from whatever thread broke to the one that may open a dialog, one at a time.

    The same sentence comes once: what breaks at every redraw would never let the window be used again.
    """

    sentence = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()
        self._is_open = False
        self.sentence.connect(self._show, Qt.ConnectionType.QueuedConnection)

    def _show(self, sentence: str) -> None:
        if self._is_open or sentence in self._shown or QApplication.instance() is None:
            return
        self._shown.add(sentence)
        self._is_open = True
        try:
            message_box(QApplication.activeWindow(), QMessageBox.Icon.Critical, "KL Lens", sentence).exec()
        finally:
            self._is_open = False


def run(open_path: str | None = None) -> int:
    """Show the window; `open_path` is a model (``sample``, folder or Hub id) or a plan file to open with it.

    Returns
    -------
    int
        The process's exit status.
    """
    told = _Told()
    crashed = crash.install(told.sentence.emit)
    try:
        settings = Settings()
        app = make_application(settings.size)
        window = make_window(settings)
        window.show()
        if crashed:
            window.tell_crash(crashed)
        if open_path is not None:
            QTimer.singleShot(0, lambda: open_in(window, open_path))
        # Python answers a signal when it next runs, which the header's timer sees to.
        with answered(lambda number: app.exit(128 + number)):
            return app.exec()
    finally:
        crash.uninstall()


def make_application(size: int = 100) -> QApplication:
    """The QApplication with its names, style and theme; all it shows is `size` percent as large.

    Qt reads the size once, and a person who has set ``QT_SCALE_FACTOR`` has the last word.
    """
    existing = QApplication.instance()
    if not isinstance(existing, QApplication):
        if size != 100:
            os.environ.setdefault(SCALE, str(size / 100))
        QGuiApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
        if sys.platform == "win32":  # the taskbar groups by this and shows our icon, not Python's
            import ctypes

            ctypes.windll.shell32.SetCurrentProcessExplicitAppUserModelID("kl-lens.desktop")
        existing = QApplication(sys.argv[:1])
    app = existing
    if app.applicationName() == _NAME:  # set up already: a style is not set anew under widgets that have it
        return app
    # A thread that reads a file in the background keeps the window waiting for so long at each system call.
    sys.setswitchinterval(_SWITCH_S)
    app.setApplicationName(_NAME)
    app.setApplicationDisplayName("KL Lens")
    app.setApplicationVersion(__version__)
    app.setDesktopFileName(_NAME)
    app.setWindowIcon(icons.app_icon())
    app.setStyle("Fusion")
    font = app.font()
    font.setPointSizeF(BASE_POINTS)
    app.setFont(font)
    return app


def make_window(settings: Settings | None = None) -> Window:
    """The window, dressed in the chosen theme and following the system's where that is the choice."""
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    settings = settings or Settings()
    if settings.endpoint:
        use_endpoint(settings.endpoint)
    theme.apply(app, settings.theme)
    window = Window(settings)
    app.styleHints().colorSchemeChanged.connect(window.follow_scheme)
    window.session.logged.connect(lambda line: crash.record(line.level, line.text, line.details))
    return window


def open_in(window: Window, open_path: str) -> None:
    """Open a model or a plan file in the window."""
    path = Path(open_path)
    if open_path == "sample" or not path.exists():
        window.session.open_model(open_path)
    else:
        window.session.open_path(path.resolve())
