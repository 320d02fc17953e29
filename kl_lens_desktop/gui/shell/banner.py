"""One sentence that wants to be read, above the page, until it is dismissed."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QWidget

from kl_lens_desktop.gui.kit.controls import Picture, label, tool

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
        layout = QHBoxLayout(self._frame)
        layout.setContentsMargins(12, 6, 6, 6)
        layout.setSpacing(8)
        layout.addWidget(self._picture, 0, Qt.AlignmentFlag.AlignVCenter)
        layout.addWidget(self.text, 1)
        layout.addWidget(tool("close", "Dismiss this message", self.hide))
        outer = QHBoxLayout(self)
        outer.setContentsMargins(24, 12, 24, 0)
        outer.addWidget(self._frame)
        self.hide()

    def say(self, level: str, sentence: str) -> None:
        self._level = level if level in _ICONS else "info"
        self.text.setText(sentence)
        self.text.setAccessibleName(sentence)
        self._frame.setProperty("level", self._level)
        self._frame.style().unpolish(self._frame)
        self._frame.style().polish(self._frame)
        self._picture.set_icon(*_ICONS[self._level])
        self.show()
