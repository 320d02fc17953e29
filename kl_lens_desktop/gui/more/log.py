"""Log: what was done and what went wrong, with the time, to be filtered and copied."""

from datetime import datetime

from PySide6.QtCore import QEvent
from PySide6.QtGui import QColor, QFontDatabase, QGuiApplication, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QLineEdit, QPlainTextEdit

from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Frame, Page, button, card, column, combo, row
from kl_lens_desktop.gui.kit.desktop import open_folder
from kl_lens_desktop.gui.more.about import diagnostics
from kl_lens_desktop.gui.state.session import LogLine, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import log_folder

LINE_LIMIT = 5000
LEVELS = ((tr("Everything"), "info"), (tr("Warnings and errors"), "warning"), (tr("Errors"), "error"))
RANK = {"info": 0, "warning": 1, "error": 2}
SPOKEN = {"warning": tr("warning"), "error": tr("error")}


class LogPage(Page):
    """The lines of this session; the file has those of earlier ones too."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("What happened"))
        self.level = combo(tr("Which lines"), LEVELS)
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Filter"))
        self.search.setAccessibleName(tr("Filter the log"))
        self.search.setClearButtonEnabled(True)
        self.text = QPlainTextEdit()
        self.text.setProperty("role", "plain")
        self.text.setReadOnly(True)
        self.text.setAccessibleName(tr("Log"))
        self.text.setMaximumBlockCount(LINE_LIMIT)
        self.text.setPlaceholderText(
            tr("Nothing yet. Jobs, warnings and errors of this session appear here.")
        )
        self.text.setTabChangesFocus(True)
        top = row(self.search, self.level)
        top.setStretch(0, 1)
        self.body.addLayout(top)
        self.body.addWidget(card(column(self.text)), 1)
        self.foot.addLayout(
            row(
                None,
                button(
                    tr("Copy diagnostics"),
                    self.copy_diagnostics,
                    tip=tr("Copy the log and all versions for a bug report, without any token"),
                ),
                button(tr("Copy"), self.copy, tip=tr("Copy the lines shown")),
                button(tr("Open log folder"), lambda: open_folder(session, log_folder(), make=True)),
            )
        )
        self.level.currentIndexChanged.connect(self._show)
        self.search.textChanged.connect(self._show)
        session.logged.connect(self._add)
        self._show()

    def copy(self) -> None:
        """Put the shown lines on the clipboard."""
        QGuiApplication.clipboard().setText(self.text.toPlainText())

    def copy_diagnostics(self) -> None:
        """Put everything of this session that a bug report needs on the clipboard."""
        QGuiApplication.clipboard().setText(diagnostics("\n".join(map(_words, self.session.log))))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "text"):
            self._show()

    def _show(self) -> None:
        self.text.clear()
        for line in self.session.log:
            self._add(line)

    def _add(self, line: LogLine) -> None:
        wanted = self.search.text().lower()
        if RANK.get(line.level, 0) < RANK[self.level.currentData()] or wanted not in _shown(line).lower():
            return
        colours = theme.colours()
        colour = {"error": colours.danger, "warning": colours.warning}.get(line.level, colours.text)
        style = QTextCharFormat()
        style.setForeground(QColor(colour))
        cursor = self.text.textCursor()
        cursor.movePosition(QTextCursor.MoveOperation.End)
        if not self.text.document().isEmpty():
            cursor.insertBlock()
        cursor.insertText(_sentence(line), style)
        if details := _shown_details(line):
            style.setFontFamilies([QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont).family()])
            cursor.insertText(details, style)
        bar = self.text.verticalScrollBar()
        bar.setValue(bar.maximum())


def _words(line: LogLine) -> str:
    return _sentence(line) + _details(line)


def _shown(line: LogLine) -> str:
    return _sentence(line) + _shown_details(line)


def _shown_details(line: LogLine) -> str:
    return "" if line.routine else _details(line)


def _sentence(line: LogLine) -> str:
    when = datetime.fromtimestamp(line.when).strftime("%H:%M:%S")
    level = "" if line.level == "info" else f"{SPOKEN.get(line.level, line.level)}: "
    return f"{when}  {level}{line.text}"


def _details(line: LogLine) -> str:
    """A traceback, whose signs stand below what they point at only in a font of one width."""
    return "".join(f"\n    {each}" for each in line.details.strip().splitlines())
