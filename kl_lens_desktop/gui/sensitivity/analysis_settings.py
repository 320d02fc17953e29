"""What an analysis measures: text, tokens, formats."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QWidget,
    QWidgetAction,
)

from kl_lens_desktop.gui.kit.controls import button, column, label, row, spin
from kl_lens_desktop.gui.kit.words import caption, plain_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.printable import printable
from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.sensitivity.jobs import Analysis

_ALL = tr(
    "Every weight is measured in INT4 g64 and predicted in all other formats. "
    "Where a prediction is too rough for the plan, that format is measured too."
)
# What the button says, and the menu.
_SOURCES = {
    "novels": (tr("Bundled novels"), tr("The bundled novels (public domain, English)")),
    "wikitext-2": ("WikiText-2", tr("WikiText-2, from the Hugging Face Hub")),
    "generated": (tr("Model's own text"), tr("Text that the model writes itself")),
}


class AnalysisSettings(QWidget):
    """The choices in a row.

    Signals
    -------
    changed
        A person chose otherwise.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._shown = Analysis()
        self.text = self._make_texts()
        self.tokens = spin(tr("Tokens of text to measure on"), 512, 262_144, self._shown.tokens, step=512)
        self.tokens.setToolTip(tr("More text makes the error bars smaller and the wait longer"))
        self.minutes = spin(tr("Minutes to measure at most"), 0, 1440, 0)
        self.minutes.setSpecialValueText(tr("no limit"))
        self.minutes.setToolTip(
            tr("When the time is up, every weight has its best known figures. Continue to improve them.")
        )
        self.formats = QPushButton()
        self.formats.setAutoDefault(False)
        self.formats.setProperty("menu", "true")
        self.formats.setAccessibleName(tr("Formats to measure"))
        menu = QMenu(self.formats)
        self._all = menu.addAction(tr("All, predicted from INT4 g64"))
        self._all.setCheckable(True)
        self._all.triggered.connect(lambda _: self._take_all())
        menu.addSeparator()
        self._actions = {name: self._format_action(menu, name) for name in all_formats() if name != "fp16"}
        self.formats.setMenu(menu)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        self.exhaustive = QCheckBox(tr("Use all text"))
        self.exhaustive.setToolTip(
            tr(
                "Measure every weight on all of the text. Otherwise, a weight stops when "
                "more text would not change its rank. That takes about half the time."
            )
        )
        self.by_data = QCheckBox(tr("Round by data"))
        self.by_data.setToolTip(
            tr(
                "Choose the integers of INT4 and smaller formats by what the text gives each "
                "weight. The model stays as small and as fast, and loses about half as much "
                "as with numbers rounded to nearest."
            )
        )
        self.by_data.setChecked(self._shown.rounding == "data")
        for words, widget in (
            (tr("Text"), self.text),
            (tr("Tokens"), self.tokens),
            (tr("Formats"), self.formats),
        ):
            layout.addWidget(label(words, "secondary"))
            layout.addWidget(widget)
            layout.addSpacing(8)
        layout.addWidget(self._make_more())
        layout.addStretch(1)
        self.by_data.toggled.connect(lambda _: self._changed())
        self.exhaustive.toggled.connect(lambda _: self._changed())
        for each in (self.tokens, self.minutes):
            each.valueChanged.connect(lambda _: self._changed())
        session.job.started.connect(lambda _: self._lock(True))
        session.job.ended.connect(lambda _: self._lock(False))

    def _make_texts(self) -> QPushButton:
        text = button("", lambda: None)
        text.setProperty("menu", "true")
        text.setAccessibleName(tr("Calibration text"))
        texts = QMenu(text)
        for source, (_, words) in _SOURCES.items():
            texts.addAction(words, partial(self._set_text, (), source))
        texts.addAction(tr("Own text files…"), self._choose_text)
        text.setMenu(texts)
        return text

    def _make_more(self) -> QPushButton:
        """What is seldom changed, in a menu that stays open while one chooses: the row is full."""
        more = button(
            tr("More"), lambda: None, tip=tr("How long, how thoroughly, and how integers are chosen")
        )
        more.setProperty("menu", "true")
        menu, inside = QMenu(more), QWidget()
        at_most = row(label(tr("Minutes at most"), "secondary"), self.minutes, None)
        choices = column(at_most, self.exhaustive, self.by_data)
        choices.setContentsMargins(12, 8, 12, 8)
        inside.setLayout(choices)
        whole = QWidgetAction(menu)
        whole.setDefaultWidget(inside)
        menu.addAction(whole)
        more.setMenu(menu)
        return more

    @property
    def analysis(self) -> Analysis:
        formats = tuple(name for name, action in self._actions.items() if action.isChecked())
        return replace(
            self._shown,
            tokens=self.tokens.value(),
            formats=formats,
            exhaustive=self.exhaustive.isChecked(),
            rounding="data" if self.by_data.isChecked() else "nearest",
            minutes=float(self.minutes.value()) or None,
        )

    def take_rounding(self, rounding: str) -> None:
        """Go on rounding as the scores at hand were: nobody chooses it here."""
        self._shown = replace(self._shown, rounding=rounding)

    def _take_all(self) -> None:
        for action in self._actions.values():
            action.setChecked(False)
        self._changed()

    def show_analysis(self, analysis: Analysis) -> None:
        self._shown = analysis
        for widget in (self.tokens, self.minutes, self.exhaustive, self.by_data):
            widget.blockSignals(True)
        self.tokens.setValue(analysis.tokens)
        self.minutes.setValue(math.ceil(analysis.minutes or 0))
        self.exhaustive.setChecked(analysis.exhaustive)
        self.by_data.setChecked(analysis.rounding == "data")
        for widget in (self.tokens, self.minutes, self.exhaustive, self.by_data):
            widget.blockSignals(False)
        for name, action in self._actions.items():
            action.setChecked(name in analysis.formats)
        self._show_words()

    def _format_action(self, menu: QMenu, name: str) -> QAction:
        action = menu.addAction(parse_format(name).label)
        action.setCheckable(True)
        action.triggered.connect(lambda _: self._changed())
        return action

    def _set_text(self, text: tuple[Path, ...], source: str = Analysis().source) -> None:
        self._shown = replace(self._shown, text=text, source=source)
        self._changed()

    def _choose_text(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(
            self, tr("Text to measure on"), "", tr("Text (*.txt *.md);;All files (*)")
        )
        if files:
            self._set_text(tuple(map(Path, files)))

    def _changed(self) -> None:
        self._show_words()
        self.changed.emit()

    def _show_words(self) -> None:
        texts = self._shown.text
        names = [path.name for path in texts]
        short, long = _SOURCES.get(self._shown.source, _SOURCES[Analysis().source])
        words = short if not names else names[0] if len(names) == 1 else f"{len(names)} files"
        self.text.setText(caption(words))
        self.text.setToolTip(plain_tip("\n".join(printable(str(text)) for text in texts) or long))
        labels = [parse_format(name).label for name in self.analysis.formats]
        self._all.setChecked(not labels)
        words = ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} formats"
        self.formats.setText(words or tr("All"))
        tip = tr("Each chosen format is measured for every weight: {labels}").format(labels=", ".join(labels))
        self.formats.setToolTip(plain_tip(tip if labels else _ALL))

    def _lock(self, locked: bool) -> None:
        for widget in (self.text, self.tokens, self.formats, self.minutes, self.exhaustive, self.by_data):
            widget.setEnabled(not locked)
