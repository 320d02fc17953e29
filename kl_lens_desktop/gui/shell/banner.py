"""One sentence that wants to be read, above the page, until it is dismissed."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QFrame, QHBoxLayout, QWidget
from shiboken6 import isValid

from kl_lens_desktop.gui.kit.controls import Picture, button, label, tool
from kl_lens_desktop.gui.state.translation import tr

_ICONS = {"error": ("error", "danger"), "warning": ("warning", "warning"), "info": ("done", "good")}


class Banner(QWidget):
    """What happened, why, and what to do; never a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._frame = QFrame()
        self._frame.setObjectName("banner")
        self._picture = Picture("done", "good", 20)
        self.text = label("", wrap=True, select=True)
        self._level = "info"
        self._before: QWidget | None = None  # what had the focus when the sentence came
        layout = QHBoxLayout(self._frame)
        layout.setContentsMargins(12, 6, 6, 6)
        layout.setSpacing(8)
        layout.addWidget(self._picture, 0, Qt.AlignmentFlag.AlignVCenter)
        layout.addWidget(self.text, 1)
        self.action = button("", self._act, "primary")
        self.action.hide()
        self._act_on: Callable[[], object] = lambda: None
        layout.addWidget(self.action)
        layout.addWidget(tool("close", tr("Dismiss this message"), self._leave))
        outer = QHBoxLayout(self)
        outer.setContentsMargins(24, 12, 24, 0)
        outer.addWidget(self._frame)
        self.hide()

    def say(self, level: str, sentence: str) -> None:
        focus = QApplication.focusWidget()
        if focus is None or not self.isAncestorOf(focus):
            self._before = focus
        self._level = level if level in _ICONS else "info"
        self.text.setText(sentence)
        self.text.setAccessibleName(sentence)
        self._frame.setProperty("level", self._level)
        self._frame.style().unpolish(self._frame)
        self._frame.style().polish(self._frame)
        self._picture.set_icon(*_ICONS[self._level])
        self.action.hide()
        self.show()

    def offer(self, sentence: str, words: str, action: Callable[[], object]) -> None:
        """Say a sentence with a button that does something about it."""
        self.say("info", sentence)
        self._picture.set_icon("info", "accent")
        self.action.setText(words)
        self.action.setAccessibleName(words)
        self._act_on = action
        self.action.show()

    def _act(self) -> None:
        self._leave()
        self._act_on()

    def _leave(self) -> None:
        """Hide, and give the focus back to where it was, not to whatever comes next in the window."""
        focus, before = QApplication.focusWidget(), self._before
        inside = focus is not None and self.isAncestorOf(focus)
        self.hide()
        if not inside:
            return
        if before is not None and isValid(before) and before.isVisible():
            before.setFocus()
        elif (now := QApplication.focusWidget()) is not None:
            now.clearFocus()
