"""What a benchmark measures: asked in a dialog, kept between starts."""

from dataclasses import replace
from pathlib import Path

from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QGridLayout,
    QLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.gui.kit.controls import button, column, combo, label, row, spin
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.home import home

LENGTHS = (128, 512, 2048, 8192)
WIKITEXT = "wikitext-2-test.txt"
WIDTH = 660
_OWN = "own"
_TOGETHER = ("AUTO", "BATCH", "HETERO", "MULTI")


class BenchSettings(QDialog):
    """The choices, each with a sentence on what it is for."""

    def __init__(self, benchmark: Benchmark, *, quick: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("What the benchmark measures"))
        self._lines = 0
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self.minutes = spin(
            tr("Longest time for timing on each device, in minutes"), 1, 240, round(benchmark.speed_minutes)
        )
        self.lengths = {length: QCheckBox(f"{length:,}") for length in (*LENGTHS, *benchmark.contexts)}
        for length, box in self.lengths.items():
            box.setChecked(length in benchmark.contexts)
            box.setAccessibleName(tr("Prompts of {length:,} tokens").format(length=length))
        self.cache = QCheckBox(tr("With and without OpenVINO's model cache"))
        self.cache.setChecked(benchmark.cache)
        self.raw = QCheckBox(tr("Plain requests and memory bandwidth"))
        self.raw.setChecked(benchmark.raw)
        self._before = benchmark
        self._path = str(benchmark.text or "")
        self.text = combo(tr("Text"), [])
        self.tokens = spin(tr("Tokens of text"), 512, 1_000_000, benchmark.tokens, 1024)
        self.precision = combo(
            tr("Precision of the quality run"),
            [
                (tr("At the device's own precision"), "user"),
                (tr("In full precision (f32)"), "f32"),
            ],
        )
        self.precision.setCurrentIndex(self.precision.findData(benchmark.precision))
        self.devices = QLineEdit(" ".join(benchmark.combinations))
        self.devices.setPlaceholderText(tr("AUTO:GPU,CPU HETERO:GPU,CPU"))
        self.devices.setAccessibleName(tr("Combinations of devices"))
        self._fill()
        self._offer_texts()
        self.text.activated.connect(self._choose_text)
        self.problem = label("", "bad", wrap=True)
        self.problem.hide()
        buttons = QDialogButtonBox()
        buttons.addButton(button(tr("Cancel"), self.reject), QDialogButtonBox.ButtonRole.RejectRole)
        self.ok: QPushButton = button(tr("Use these"), self.accept, "primary")
        buttons.addButton(self.ok, QDialogButtonBox.ButtonRole.AcceptRole)
        usual = button(tr("Usual settings"), self._usual, "quiet")
        for widget in (self.minutes, self.cache, self.raw, self.tokens, *self.lengths.values()):
            widget.setEnabled(not quick)
        whole = column(self._grid, self.problem, row(usual, None, buttons), spacing=16)
        whole.setContentsMargins(16, 16, 16, 16)
        if quick:
            words = tr(
                "A quick look measures two rounds of short generations and 2,048 tokens of "
                "text. It ignores the settings that are greyed out; choose Thorough to use "
                "them."
            )
            whole.insertWidget(0, label(words, "secondary", wrap=True))
        self.setLayout(whole)
        self.setMinimumSize(WIDTH, whole.totalHeightForWidth(WIDTH))

    @property
    def benchmark(self) -> Benchmark:
        """As chosen."""
        return replace(
            self._before,
            speed_minutes=float(self.minutes.value()),
            contexts=tuple(sorted(length for length, box in self.lengths.items() if box.isChecked())),
            cache=self.cache.isChecked(),
            raw=self.raw.isChecked(),
            text=Path(self._path) if self._path else None,
            tokens=self.tokens.value(),
            precision=self.precision.currentData(),
            combinations=tuple(dict.fromkeys(self.devices.text().upper().split())),
        )

    def accept(self) -> None:
        """Close, unless a name cannot be a combination of devices."""
        wrong = next((name for name in self.benchmark.combinations if not _is_combination(name)), None)
        if wrong is None:
            super().accept()
            return
        self.problem.setText(
            tr(
                "{wrong} is not a combination of devices. Write combinations like "
                "AUTO:GPU,CPU, and put spaces between them."
            ).format(wrong=wrong)
        )
        self.problem.show()
        self.devices.setFocus()

    def use_text(self, path: str) -> None:
        """Measure quality on this text; empty for the bundled one."""
        self._path = path
        self._offer_texts()

    def _fill(self) -> None:
        self._add(
            tr("Time"),
            row(self.minutes, label(tr("minutes at most for each device")), None),
            tr(
                "Variants take turns until their speeds clearly differ or are known to be "
                "equal, but no longer than this."
            ),
        )
        self._add(
            tr("Prompts"),
            row(*self.lengths.values(), label("tokens"), None, spacing=12),
            tr("All variants are compared after a prompt of 256 tokens. These lengths are timed too."),
        )
        self._add(tr("Loading"), row(self.cache, None), tr("How long a model takes to load."))
        self._add(tr("Cross-check"), row(self.raw, None), tr("Checks the figures without openvino_genai."))
        self._add(
            tr("Quality"),
            row(self.text, self.tokens, label("tokens"), None),
            tr(
                "Text that was not used for scores or plans. WikiText is recognized and read "
                "as lm-eval reads it, including perplexity by words."
            ),
        )
        self._add("", row(self.precision, None), "")
        self._add(
            tr("Combinations"),
            row(self.devices),
            tr(
                "Combinations of devices, each measured like a device. AUTO chooses a "
                "device; HETERO splits a model across devices."
            ),
        )

    def _add(self, title: str, inside: QLayout, words: str) -> None:
        self._grid.addWidget(label(title, "heading"), self._lines, 0)
        self._grid.addLayout(inside, self._lines, 1)
        if words:
            self._grid.addWidget(label(words, "secondary", wrap=True), self._lines + 1, 1)
        self._grid.setRowMinimumHeight(self._lines + 2, 8)
        self._lines += 3

    def _offer_texts(self) -> None:
        wikitext = home() / "texts" / WIKITEXT
        choices = [(tr("Bundled text (Nostromo)"), "")]
        if wikitext.is_file():
            choices.append((tr("WikiText-2, test part"), str(wikitext)))
        if self._path and self._path != str(wikitext):
            choices.append((Path(self._path).name, self._path))
        self.text.clear()
        for words, value in [*choices, (tr("Another text…"), _OWN)]:
            self.text.addItem(words, value)
        self.text.setCurrentIndex(max(self.text.findData(self._path), 0))
        self.text.setToolTip(
            plain_tip(self._path or tr("The bundled text, which is never used for sensitivity"))
        )

    def _choose_text(self) -> None:
        if self.text.currentData() != _OWN:
            self.use_text(self.text.currentData())
            return
        path, _ = QFileDialog.getOpenFileName(
            self, tr("Text to measure quality on"), "", tr("Text (*.txt *.raw *.md);;All files (*)")
        )
        self.use_text(path or self._path)

    def _usual(self) -> None:
        usual = Benchmark()
        self.minutes.setValue(round(usual.speed_minutes))
        for length, box in self.lengths.items():
            box.setChecked(length in usual.contexts)
        self.cache.setChecked(usual.cache)
        self.raw.setChecked(usual.raw)
        self.tokens.setValue(usual.tokens)
        self.precision.setCurrentIndex(self.precision.findData(usual.precision))
        self.devices.clear()
        self.use_text(str(usual.text or ""))


def _is_combination(name: str) -> bool:
    from kl_lens_desktop.bench.devices import check_device_name
    from kl_lens_desktop.errors import InputError

    try:
        check_device_name(name)
    except InputError:
        return False
    return name.partition(":")[0] in _TOGETHER
