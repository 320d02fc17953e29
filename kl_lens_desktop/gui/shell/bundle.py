"""What somebody shared: what is in it, their laptop against yours, and what can be done with it."""

from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QHeaderView,
    QScrollArea,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from kl_lens_desktop.bench.compare import compare
from kl_lens_desktop.bench.labels import LABELS
from kl_lens_desktop.bench.report import comparison_table, table
from kl_lens_desktop.gui.bench.difference import BenchDifferenceDialog
from kl_lens_desktop.gui.bench.figures import variant_title
from kl_lens_desktop.gui.kit.controls import (
    LEFT,
    RIGHT,
    Elided,
    NumberDelegate,
    align_heading,
    button,
    card,
    column,
    label,
    row,
    set_up_table,
)
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.sharing import Bundle

_WIDTH, _CARD_HEIGHT = 980, 140
_SHOWN = ("tokens_per_s", "ttft_ms", "perplexity", "peak_rss_mb")
_BOTH: tuple[str, ...] = (
    tr("Variant"),
    tr("Device"),
    tr("Figure"),
    tr("Yours"),
    tr("Theirs"),
    tr("Theirs ÷ yours"),
    tr("Theirs is"),
)
_THEIRS: tuple[str, ...] = (
    tr("Variant"),
    tr("Device"),
    tr("Tokens/s"),
    tr("Perplexity"),
    tr("KL to FP16"),
    tr("Size"),
)


class BundleDialog(QDialog):
    """One bundle, already checked."""

    def __init__(self, session: Session, bundle: Bundle, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._bundle = session, bundle
        self.setWindowTitle(tr("A result that was shared"))
        self.resize(_WIDTH, 560)
        model = session.model
        self.is_open = model is not None and model.about["id"] == bundle.model.id
        when = bundle.created[:10]
        about = Elided(
            tr("Shared on {when}: {words}, from {name}").format(
                when=when, words=bundle.words, name=bundle.path.name
            ),
            "secondary",
        )
        self.card = label(bundle.card, wrap=True, select=True)
        self.table = QTableWidget()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.heading = label("", "heading")
        self.note = label("", "secondary", wrap=True)
        self.note.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.use_plan = button(
            tr("Use its plan"),
            self._use_plan,
            "primary",
            tip=tr("Open its plan for the model it was made for"),
        )
        self.use_scores = button(
            tr("Use its scores"),
            self._use_scores,
            tip=tr("Plan with its measurements instead of measuring here"),
        )
        self.all_figures = button(
            tr("All figures…"), self._compare, tip=tr("Both benchmarks in full, side by side")
        )
        self._show_bench()
        self._show_actions()
        whole = column(
            Elided(bundle.model.id, "title", Qt.TextElideMode.ElideMiddle),
            about,
            card(column(_scrolled(self.card))),
            self.heading,
            self.table,
            self.note,
            row(self.all_figures, None, self.use_scores, self.use_plan, button(tr("Close"), self.reject)),
            spacing=12,
        )
        whole.setContentsMargins(16, 16, 16, 16)
        whole.setStretch(4, 1)
        self.setLayout(whole)

    def _show_bench(self) -> None:
        theirs, mine = self._bundle.bench, self._mine()
        if theirs is None:
            self.heading.hide()
            self.table.hide()
            self._set_up(("",))
            return
        if mine is None:
            self.heading.setText(tr("Their laptop"))
            self._set_up(_THEIRS)
            keys = ("variant", "device", "tokens_per_s", "perplexity", "kl_to_fp16", "size")
            lines = [[line[key] for key in keys] for line in table(theirs["rows"])]
            self.note.setText(tr("Benchmark this model here to see your laptop beside theirs."))
        else:
            self.heading.setText(tr("Their laptop against yours"))
            self._set_up(_BOTH)
            self._comparison = compare(mine, theirs)
            shown = {LABELS[name].name for name in _SHOWN}
            both = ("variant", "device", "figure", "first", "second", "ratio", "verdict")
            found = [line for line in comparison_table(self._comparison) if line["figure"] in shown]
            lines = [[line[key] for key in both] for line in found]
            cpus = mine["environment"]["cpu"], theirs["environment"]["cpu"]
            self.note.setText(
                " ".join(
                    [
                        tr("Yours: {yours}. Theirs: {theirs}.").format(yours=cpus[0], theirs=cpus[1]),
                        *self._comparison.cautions,
                    ]
                )
            )
            if not lines:
                self.note.setText(tr("The two benchmarks have no row in common."))
        self._fill(lines)

    def _set_up(self, headings: tuple[str, ...]) -> None:
        self.table.setColumnCount(len(headings))
        self.table.setHorizontalHeaderLabels(headings)
        set_up_table(self.table, tr("Benchmarks side by side"), stretch=-1)
        self.table.setItemDelegate(NumberDelegate(self.table))
        for place in range(2, len(headings)):
            if headings[place] not in (tr("Figure"), tr("Theirs is")):
                align_heading(self.table, place)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setStretchLastSection(True)

    def _fill(self, lines: list[list[str]]) -> None:
        self.table.setRowCount(len(lines))
        words = {tr("Variant"), tr("Device"), tr("Figure"), tr("Theirs is")}
        for line, texts in enumerate(lines):
            for place, text in enumerate(texts):
                heading = self.table.horizontalHeaderItem(place)
                shown = variant_title(text) if place == 0 else text
                item = QTableWidgetItem(shown)
                item.setToolTip(plain_tip(shown))
                is_words = heading is not None and heading.text() in words
                item.setTextAlignment(LEFT if is_words else RIGHT)
                self.table.setItem(line, place, item)

    def _mine(self) -> dict[str, Any] | None:
        """The open model's own benchmark, if the bundle is of that model."""
        session = self._session
        if not (self.is_open and session.bench and session.bench_environment):
            return None
        return {"environment": session.bench_environment, "rows": session.bench}

    def _show_actions(self) -> None:
        bundle, session = self._bundle, self._session
        self.use_plan.setVisible(bundle.plan is not None)
        wanted = bundle.scores is not None and self.is_open
        self.use_scores.setVisible(wanted)
        own = session.scores is not None
        self.use_scores.setEnabled(wanted and not own)
        if own:
            self.use_scores.setToolTip(plain_tip(tr("You have measured this model yourself")))
        self.all_figures.setVisible(bundle.bench is not None and self._mine() is not None)
        if session.job.running:
            for each in (self.use_plan, self.use_scores):
                each.setEnabled(False)
                each.setToolTip(plain_tip(session.job.reason))

    def _use_plan(self) -> None:
        self._session.use_plan(self._bundle)
        self.accept()

    def _use_scores(self) -> None:
        self._session.use_scores(self._bundle)
        self.accept()

    def _compare(self) -> None:
        names = "yours", Path(self._bundle.path).name
        self._whole = BenchDifferenceDialog(self._session, self._comparison, names, self)
        self._whole.open()


def _scrolled(words: QWidget) -> QScrollArea:
    """Words of a stranger, as high as they are and no higher than leaves room for what stands below."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setWidget(words)
    area.setFixedHeight(min(words.heightForWidth(_WIDTH - 80), _CARD_HEIGHT))
    return area
