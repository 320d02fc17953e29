"""Try it: one prompt, two variants or two devices, the texts side by side as they come."""

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QComboBox, QPlainTextEdit, QTextEdit, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.jobs import GenerateJob
from kl_lens_desktop.gui.bench.figures import sorted_variants, variant_title
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Elided, JobButton, column, combo, hint, label, row, spin
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.process.events import Failed, Finished, Generated

NOTHING = "Export a model first"
_HINT = (
    "Each side continues the prompt with the most likely token, using the model's chat "
    "template if it has one. The two sides run in turn, so neither slows the other. From "
    "the first difference on, the text is tinted."
)


class Trial(QWidget):
    """The prompt, and a side for each of two variants; they run one after the other."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._folders: dict[str, str] = {}
        self._steps: list[Step] = []
        self.prompt = QPlainTextEdit("The captain looked at the sea and")
        self.prompt.setAccessibleName("Prompt")
        self.prompt.setMinimumHeight(40)
        self.prompt.setMaximumHeight(96)
        self.prompt.setTabChangesFocus(True)
        self.tokens = spin("Maximum number of new tokens", 8, 1024, 64)
        self.sides = (Side("First variant"), Side("Second variant"))
        self.go = JobButton(
            "Generate",
            session,
            self._missing,
            self._start,
            "Continue the prompt with both variants, one after the other",
        )
        self.prompt.textChanged.connect(self.go.refresh)
        options = row(label("New tokens", "secondary"), self.tokens, hint(_HINT), self.go)
        head = row(self.prompt, column(options, None), spacing=16)
        head.setStretch(0, 1)
        whole = column(head, row(*self.sides, spacing=16))
        whole.setStretch(0, 1)
        whole.setStretch(1, 3)
        self.setLayout(whole)
        job = session.job
        job.generated.connect(self._take)
        job.step_started.connect(self._begin)
        job.step_finished.connect(self._finish)
        job.failed.connect(self._fail)
        job.cancelled.connect(lambda _: self._stop("cancelled"))

    def show_variants(self, folders: dict[str, str], devices: list[str]) -> None:
        """Offer these variants and devices; what was picked stays picked."""
        self._folders = folders
        names = sorted_variants(folders)
        for side, usual in zip(self.sides, (names[:1], names[-1:]), strict=True):
            side.offer(names, usual[0] if usual else "", devices)
        self.go.refresh()

    def _missing(self) -> str:
        if not self._folders:
            return NOTHING
        return "" if self.prompt.toPlainText().strip() else "Enter a prompt first"

    def _start(self) -> None:
        self._steps = []
        for side in self.sides:
            name, device = side.variant.currentData(), side.device.currentText()
            side.clear()
            folder, prompt = Path(self._folders[name]), self.prompt.toPlainText()
            job = GenerateJob(folder, device, prompt, self.tokens.value(), name)
            about = f"{variant_title(name)} on {device}"
            self._steps.append(Step(job, about, label=f"{name} on {device}"))
        self._session.job.start(*self._steps)

    def _side_of(self, step: Step | None) -> "Side | None":
        own = (side for side, mine in zip(self.sides, self._steps, strict=False) if mine is step)
        return next(own, None)

    def _begin(self, step: Step) -> None:
        if side := self._side_of(step):
            side.say("loading …")

    def _take(self, piece: Generated) -> None:
        if side := self._side_of(self._session.job.current):
            side.append(piece.text)
            side.say("generating …")

    def _finish(self, step: Step, finished: Finished) -> None:
        if (side := self._side_of(step)) and isinstance(step.job, GenerateJob):
            result = step.job.result(finished)
            speed = result["tokens_per_s"]
            words = f"{quantities.significant(speed)} tokens/s" if speed else "too short to time"
            first = quantities.significant(result["ttft_ms"])
            side.say(f"{words} · {quantities.plural(result['tokens'], 'token')} · first after {first} ms")
            if side is self.sides[1]:
                self._compare()

    def _fail(self, step: Step, failure: Failed) -> None:
        if side := self._side_of(step):
            side.say(f"failed: {failure.why or failure.what}", bad=True)
            self._stop("not run")

    def _stop(self, words: str) -> None:
        """Nothing goes on waiting for a job that has ended."""
        for side in self.sides:
            if side.waits:
                side.say(words)

    def _compare(self) -> None:
        texts = [side.text.toPlainText() for side in self.sides]
        alike = _common(*texts)
        for side, text in zip(self.sides, texts, strict=True):
            side.tint(alike, len(text))
        if texts[0] == texts[1]:
            self.sides[1].say(f"{self.sides[1].said} · the same text")


class Side(QWidget):
    """One variant on one device: its text, and its speed under it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.variant = combo(name, [])
        self.variant.setMinimumContentsLength(9)
        self.variant.activated.connect(lambda _: setattr(self, "_picked", True))
        self.device = combo(f"{name}: device", [])
        self.device.setMinimumContentsLength(5)
        self._picked = False
        self.waits = False
        self.said = ""
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(f"{name}: generated text")
        self.text.setPlaceholderText("Generated text appears here")
        self.text.setTabChangesFocus(True)
        self.text.setMinimumHeight(48)
        self.figures = Elided("", "secondary")
        whole = column(
            row(self.variant, label("on", "secondary"), self.device, None), self.text, self.figures, spacing=4
        )
        whole.setStretch(1, 1)
        self.setLayout(whole)

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
        self.text.clear()
        self.text.setExtraSelections([])
        self.say("waiting")

    def say(self, words: str, *, bad: bool = False) -> None:
        self.waits = words in ("waiting", "loading …", "generating …")
        self.said = words
        self.figures.setProperty("role", "bad" if bad else "secondary")
        self.figures.style().polish(self.figures)
        self.figures.set_text(words)

    def append(self, piece: str) -> None:
        self.text.moveCursor(QTextCursor.MoveOperation.End)
        self.text.insertPlainText(piece)

    def tint(self, start: int, end: int) -> None:
        """Show that the text from `start` on is not the other's."""
        cursor = QTextCursor(self.text.document())
        cursor.setPosition(start)
        cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
        mark = QTextEdit.ExtraSelection()
        mark.cursor = cursor
        mark.format = QTextCharFormat()
        mark.format.setBackground(QColor(theme.colours().tint))
        mark.format.setForeground(QColor(theme.colours().text))
        self.text.setExtraSelections([mark] if end > start else [])


def _offer(box: QComboBox, choices: list[str]) -> None:
    if [box.itemText(i) for i in range(box.count())] != choices:
        kept = box.currentText()
        box.clear()
        box.addItems(choices)
        box.setCurrentIndex(max(box.findText(kept, Qt.MatchFlag.MatchExactly), 0))


def _common(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
