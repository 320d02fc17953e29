"""Chat: one message, two variants or devices, the answers side by side as they come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from PySide6.QtCore import QEvent, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QKeyEvent, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QCheckBox, QComboBox, QPlainTextEdit, QSizePolicy, QTextEdit, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.jobs import ChatOrder, ChatTurn, Message, Opened
from kl_lens_desktop.gui.bench.figures import sorted_variants, variant_title
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Elided, JobButton, button, column, combo, hint, label, row, spin
from kl_lens_desktop.gui.kit.words import explain
from kl_lens_desktop.gui.state.chat import Seat
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.printable import printable_lines

NOTHING = tr("Export a model first")
_HINT = tr(
    "Both sides answer with the most likely token at each step. A model with a "
    "chat template gets your messages in it; any other just continues the text. "
    "The tint marks tokens that only one answer has.\nWhen both answer at once, "
    "each is slower than alone. Clear the box to have them answer in turn, or "
    "use Benchmark to time them."
)
_TEMPLATE = tr("By its chat template")
_PLAIN = tr("No template, continues text")
_MOST_LINES = 4  # of a message in its box, which scrolls then


class ChatPanel(QWidget):
    """The message below, a side for each of two variants above; what was said stays until a new chat."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session, self._chat = session, session.chat
        self._folders: dict[str, str] = {}
        self._asked: list[str] = []
        self.sides = (Side(tr("First variant")), Side(tr("Second variant")))
        self.prompt = Prompt()
        self.tokens = spin(tr("Maximum number of new tokens"), 8, 1024, 128)
        self.tokens.setSuffix(tr(" tokens"))
        self.tokens.setToolTip(tr("An answer has at most this many tokens"))
        self.at_once = QCheckBox(tr("Both at once"))
        explain(self.at_once, tr("Both sides answer at the same time. Cleared, they answer in turn."))
        self.at_once.setChecked(True)
        self.go = JobButton(
            tr("Send"), session, self._missing, self._send, tr("Ask both sides (Enter)"), "primary"
        )
        self.stop = button(tr("Stop"), self._chat.stop, tip=tr("End the answers where they are"))
        self.stop.hide()
        self.anew = button(tr("New chat"), self.clear, tip=tr("Forget what was said, and unload both models"))
        self.prompt.entered.connect(self.go.click)
        self.prompt.textChanged.connect(self.go.refresh)
        self.prompt.recalled.connect(self._recall)
        foot = row(self.prompt, self.tokens, self.at_once, hint(_HINT), self.anew, self.go, self.stop)
        foot.setStretch(0, 1)
        self.tokens.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        whole = column(row(*self.sides, spacing=16), foot)
        whole.setStretch(0, 1)
        self.setLayout(whole)
        chat = self._chat
        chat.opened.connect(self._open)
        chat.piece.connect(lambda side, text: self.sides[side].append(text))
        chat.answered.connect(self._finish)
        chat.failed.connect(self._fail)
        chat.changed.connect(self._show_busy)
        session.model_changed.connect(self.clear)

    def show_variants(self, folders: dict[str, str], devices: list[str]) -> None:
        """Offer these variants and devices; what was picked stays picked."""
        self._folders = folders
        names = sorted_variants(folders)
        for side, usual in zip(self.sides, (names[:1], names[-1:]), strict=True):
            side.offer(names, usual[0] if usual else "", devices)
        self.go.refresh()

    def clear(self) -> None:
        """Begin a new chat."""
        self._chat.release()
        for side in self.sides:
            side.clear()

    def _missing(self) -> str:
        if not self._folders:
            return NOTHING
        return "" if self.prompt.toPlainText().strip() else tr("Enter a message first")

    def _send(self) -> None:
        text = self.prompt.toPlainText().strip()
        self._asked = [asked for asked in self._asked if asked != text] + [text]
        if self.go.hasFocus():  # without a message it cannot be pressed, and would hand the focus on
            self.prompt.setFocus()
        self.prompt.clear()
        seats = []
        for side in self.sides:
            side.ask(text)
            name = side.variant.currentData()
            seats.append(Seat(Path(self._folders[name]), side.device.currentText(), name))
        orders = [ChatOrder(tuple(side.messages), self.tokens.value()) for side in self.sides]
        self._chat.send(seats, orders, in_turn=not self.at_once.isChecked())

    def _recall(self, step: int) -> None:
        """Put an earlier message into the empty box again, or go on from the one that is there."""
        text = self.prompt.toPlainText()
        place = self._asked.index(text) + step if text in self._asked else len(self._asked) + min(step, 0)
        if (not text or text in self._asked) and 0 <= place < len(self._asked):
            self.prompt.setPlainText(self._asked[place])
            self.prompt.moveCursor(QTextCursor.MoveOperation.End)

    def _open(self, side: int, opened: Opened) -> None:
        self.sides[side].open(_TEMPLATE if opened["template"] else _PLAIN)

    def _finish(self, side: int, turn: ChatTurn) -> None:
        how = ""
        if self._chat.alone:
            how = tr("in turn, since memory does not hold both")
        elif not self._chat.in_turn:
            how = tr("both at once")
        self.sides[side].finish(turn, how)
        self._compare()

    def _fail(self, side: int, words: str) -> None:
        self.sides[side].fail(words)

    def _show_busy(self) -> None:
        busy = self._chat.busy
        held = self.window().focusWidget() in (self.prompt, self.go, self.stop)
        self.go.setVisible(not busy)
        self.stop.setVisible(busy)
        if held and self.isVisible():  # one who reads an answer or a table meanwhile is left there
            (self.stop if busy else self.prompt).setFocus()

    def _compare(self) -> None:
        """Once both have answered, find in the background where the answers differ."""
        last = [side.last for side in self.sides]
        if any(turn is None or not turn.done for turn in last) or len({len(s.turns) for s in self.sides}) > 1:
            return
        first, second = (turn.tokens for turn in last if turn is not None)

        def show(found: tuple[list[bool], list[bool]]) -> None:
            for side, turn, differs in zip(self.sides, last, found, strict=True):
                if side.last is turn and turn is not None:
                    side.mark(differs)

        self._session.background.run(lambda: difference(first, second), show, self._session.say_error)


def difference(first: Sequence[str], second: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """Of each token of two answers, whether only its own answer has it."""
    marks = [True] * len(first), [True] * len(second)
    for block in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        marks[0][block.a : block.a + block.size] = [False] * block.size
        marks[1][block.b : block.b + block.size] = [False] * block.size
    return marks


@dataclass(slots=True)
class Turn:
    """A message and its answer on one side; `differs` of each token, once both sides have answered."""

    asked: str
    by: str
    tokens: list[str] = field(default_factory=list)
    differs: list[bool] = field(default_factory=list)
    done: bool = False
    note: str = ""

    @property
    def text(self) -> str:
        return "".join(self.tokens)


class Side(QWidget):
    """One variant on one device: what was said, and the speed of the last answer under it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.variant = combo(name, [])
        self.variant.setMinimumContentsLength(9)
        self.variant.activated.connect(lambda _: setattr(self, "_picked", True))
        self.device = combo(tr("{name}: device").format(name=name), [])
        self.device.setMinimumContentsLength(5)
        self._picked = False
        self.turns: list[Turn] = []
        self.waits = False
        self.said = ""
        self.how = Elided("", "secondary")
        self.text = QTextEdit()
        self.text.setReadOnly(True)
        self.text.setAcceptRichText(False)
        self.text.setAccessibleName(tr("{name}: chat").format(name=name))
        self.text.setPlaceholderText(tr("The answers appear here"))
        self.text.setTabChangesFocus(True)
        self.text.setMinimumHeight(48)
        self.figures = Elided("", "secondary")
        head = row(self.variant, label(tr("on"), "secondary"), self.device, self.how)
        head.setStretch(3, 1)
        whole = column(head, self.text, self.figures, spacing=4)
        whole.setStretch(1, 1)
        self.setLayout(whole)

    @property
    def last(self) -> Turn | None:
        return self.turns[-1] if self.turns else None

    @property
    def messages(self) -> list[Message]:
        """The chat as this side knows it; messages that got no answer are left out, but for the last."""
        said = []
        for turn in self.turns:
            if turn.text or turn is self.last:
                said.append(Message("user", turn.asked))
            if turn.text:
                said.append(Message("assistant", turn.text))
        return said

    def offer(self, names: list[str], usual: str, devices: list[str]) -> None:
        kept = self.variant.currentData()
        if [self.variant.itemData(i) for i in range(self.variant.count())] != names:
            self.variant.clear()
            for name in names:
                self.variant.addItem(variant_title(name), name)
            wanted = kept if self._picked and kept in names else usual
            self.variant.setCurrentIndex(self.variant.findData(wanted))
        _offer(self.device, devices)

    def clear(self) -> None:
        self.turns = []
        self.how.set_text("")
        self.say("")
        self._write_all()

    def ask(self, text: str) -> None:
        """A message is sent to this side."""
        self.turns.append(Turn(text, f"{self.variant.currentText()} on {self.device.currentText()}"))
        self._write_all()
        self.say(tr("loading …"), waits=True)

    def open(self, how: str) -> None:
        """The model is loaded; `how` it reads messages."""
        self.how.set_text(how)
        self.say(tr("reading the message …"), waits=True)

    def append(self, piece: str) -> None:
        """More of the answer."""
        if self.last is not None:
            self.last.tokens.append(piece)
            self._insert((piece, _plain()))
            if self.said != tr("answering …"):
                self.say(tr("answering …"), waits=True)

    def finish(self, turn: ChatTurn, how: str) -> None:
        """The answer is whole, or was stopped; `how` it was timed."""
        if self.last is None:
            return
        self.last.tokens, self.last.done = list(turn["tokens"]), True
        speed = turn["tokens_per_s"]
        words = [
            f"{quantities.significant(speed)} tokens/s" if speed else tr("too short to time"),
            quantities.plural(len(turn["tokens"]), "token"),
            tr("first after {ttft_ms} ms").format(ttft_ms=quantities.significant(turn["ttft_ms"])),
            *([tr("stopped")] if turn["stopped"] else []),
            *([how] if how else []),
        ]
        self.say(" · ".join(words))

    def fail(self, words: str) -> None:
        """There is no answer, or no more of it."""
        if self.last is not None and not self.last.done:
            self.last.note = words
        self.say(words, bad=words != tr("Stopped."))

    def mark(self, differs: list[bool]) -> None:
        """Tint the tokens of the last answer that only this side has."""
        if self.last is None:
            return
        self.last.differs = differs
        count = sum(differs)
        self._write_all()
        alike = tr("{count:,} only here").format(count=count) if count else tr("the same answer")
        self.say(f"{self.said} · {alike}")

    def say(self, words: str, *, bad: bool = False, waits: bool = False) -> None:
        self.waits, self.said = waits, words
        self.figures.setProperty("role", "bad" if bad else "secondary")
        self.figures.style().polish(self.figures)
        self.figures.set_text(words)

    def tinted(self) -> str:
        """The marked tokens of the last answer, as they are shown."""
        turn = self.last
        return "".join(t for t, d in zip(turn.tokens, turn.differs, strict=False) if d) if turn else ""

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "text"):
            self._write_all()  # the marks' colours belong to the scheme

    def _write_all(self) -> None:
        pieces: list[tuple[str, QTextCharFormat]] = []
        for turn in self.turns:
            pieces += [(f"{turn.asked}\n", _quiet(bold=True)), (f"{turn.by}\n", _quiet())]
            differs = turn.differs or [False] * len(turn.tokens)
            marked = zip(turn.tokens, differs, strict=True)
            for tinted, run in groupby(marked, itemgetter(1)):
                pieces.append(("".join(token for token, _ in run), _tinted() if tinted else _plain()))
            if turn is not self.last:
                pieces.append(("\n\n", _plain()))
        self.text.clear()
        self._insert(*pieces)

    def _insert(self, *pieces: tuple[str, QTextCharFormat]) -> None:
        bar = self.text.verticalScrollBar()
        follows = bar.value() >= bar.maximum() - 4  # one who reads further up is left there
        cursor = QTextCursor(self.text.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.beginEditBlock()  # laid out once
        for text, style in pieces:
            cursor.insertText(printable_lines(text), style)
        cursor.endEditBlock()
        if follows:
            bar.setValue(bar.maximum())


class Prompt(QPlainTextEdit):
    """The box for a message, as high as its lines: Enter sends it, Shift+Enter is a new line, Up recalls.

    Signals
    -------
    entered()
    recalled(int)
        -1 for the one before, 1 for the one after.
    """

    entered = Signal()
    recalled = Signal(int)

    def __init__(self) -> None:
        super().__init__(tr("The captain looked at the sea and"))
        self.setAccessibleName(tr("Message"))
        self.setPlaceholderText(tr("Enter sends, Shift+Enter begins a new line, Up recalls earlier messages"))
        self.setTabChangesFocus(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.document().documentLayout().documentSizeChanged.connect(lambda _: self._fit())
        self._fit()

    def _fit(self) -> None:
        scrolls = round(self.document().size().height()) > _MOST_LINES
        policies = Qt.ScrollBarPolicy
        self.setVerticalScrollBarPolicy(
            policies.ScrollBarAsNeeded if scrolls else policies.ScrollBarAlwaysOff
        )
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        lines = min(max(round(self.document().size().height()), 1), _MOST_LINES)
        frame = self.height() - self.viewport().height() + 2 * round(self.document().documentMargin())
        return QSize(super().sizeHint().width(), max(lines * self.fontMetrics().lineSpacing() + frame, 30))

    def minimumSizeHint(self) -> QSize:
        return QSize(120, self.sizeHint().height())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        one_line = self.blockCount() == 1
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not shift:
            self.entered.emit()
        elif event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down) and one_line and not shift:
            self.recalled.emit(-1 if event.key() == Qt.Key.Key_Up else 1)
        else:
            super().keyPressEvent(event)


def _plain() -> QTextCharFormat:
    style = QTextCharFormat()
    style.setForeground(QColor(theme.colours().text))
    return style


def _quiet(*, bold: bool = False) -> QTextCharFormat:
    style = QTextCharFormat()
    style.setForeground(QColor(theme.colours().text if bold else theme.colours().secondary))
    style.setFontWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    return style


def _tinted() -> QTextCharFormat:
    """By colour and by a line below, so that the colour alone does not have to be seen."""
    style = _plain()
    style.setBackground(QColor(theme.colours().tint))
    style.setUnderlineStyle(QTextCharFormat.UnderlineStyle.DotLine)
    style.setUnderlineColor(QColor(theme.colours().accent))
    return style


def _offer(box: QComboBox, choices: list[str]) -> None:
    if [box.itemText(i) for i in range(box.count())] != choices:
        kept = box.currentText()
        box.clear()
        box.addItems(choices)
        box.setCurrentIndex(max(box.findText(kept, Qt.MatchFlag.MatchExactly), 0))
