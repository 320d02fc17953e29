"""Sensitivity: which weights matter, live and with error bars, and whether the measure can be trusted."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QScrollArea, QStackedWidget, QTabWidget, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.gui.kit.controls import (
    Empty,
    Frame,
    JobButton,
    Page,
    button,
    card,
    column,
    combo,
    hint,
    label,
    reason_line,
    row,
    tool,
)
from kl_lens_desktop.gui.kit.pictures import Taken
from kl_lens_desktop.gui.kit.words import explain, plain_tip
from kl_lens_desktop.gui.sensitivity.agreement import AgreementView
from kl_lens_desktop.gui.sensitivity.analysis_settings import AnalysisSettings
from kl_lens_desktop.gui.sensitivity.bars import COUNT, Bar, Bars
from kl_lens_desktop.gui.sensitivity.heatmap import Heatmap, Legend
from kl_lens_desktop.gui.sensitivity.measures import (
    MEASURES,
    PREDICTED_SIGN,
    Measure,
    measure,
    short_name,
    tokens_used,
)
from kl_lens_desktop.gui.sensitivity.weight_detail import WeightDetail
from kl_lens_desktop.gui.state.session import MISSING, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.device_limits import only_small
from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.jobs import ANCHOR, Analysis, AnalyzeJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kl_lens_desktop.sensitivity.scores import Entry

_ANALYSES = (AnalyzeJob, RunJob)


class SensitivityPage(Page):
    """Heatmap, worst weights, the selected weight, and the agreement with perplexity."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("Which weights matter"))
        self._window = window
        self._chosen = ""
        self._values_of = ("", "")  # the model and the weight whose values the histogram shows
        self.measure = combo(tr("Measure"), [(each.label, each.key) for each in MEASURES])
        self.format = combo(tr("Format"), [])
        self.format.setMinimumContentsLength(12)
        self._hint = hint("")
        self.tools.addLayout(row(self.measure, self.format, self._hint))
        self.heatmap, self.legend, self.bars = Heatmap(), Legend(), Bars()
        self.course = label("", "secondary", wrap=True)
        self.settings_row = AnalysisSettings(session)
        self.run_button = JobButton(
            tr("Start"),
            session,
            self._missing,
            self._start,
            tr("Measure every weight in every chosen format (F5)"),
            "primary",
        )
        self.settings_row.layout().addWidget(self.run_button)  # type: ignore[union-attr]
        self.stack = QStackedWidget()
        self.stack.addWidget(
            Empty(
                "sensitivity",
                tr("No model open"),
                tr("See here, block by block, how much each weight matters for the model's predictions."),
                button(tr("Choose a model"), lambda: window.show_page("Model"), "primary"),
            )
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.next = button(tr("Make a plan →"), lambda: window.show_page("Plan"))
        self.lead_back("Model", window.show_page)
        self.why = self.add_reason()
        self.foot.addWidget(self.next)
        self.measure.currentIndexChanged.connect(self._show)
        self.measure.currentIndexChanged.connect(self._show_agreement)
        self.format.currentIndexChanged.connect(self._show)
        self.heatmap.selected.connect(self.choose)
        self.bars.selected.connect(self.choose)
        self.settings_row.changed.connect(self._show_entries)
        self.settings_row.changed.connect(lambda: session.choose_analysis(self.settings_row.analysis))
        session.model_changed.connect(self._show_model)
        session.entries_changed.connect(self._show_entries)
        session.scores_changed.connect(self._show_scores)
        session.agreement_changed.connect(self._show_agreement)
        session.costs_changed.connect(self._show_expected)
        session.job.started.connect(lambda _: self._show())
        session.job.ended.connect(lambda _: self._show())
        session.job.weights.connect(lambda _: self._take_weights())
        self.tell_stage("Sensitivity")
        self._show_model()
        self._show_agreement()

    def start(self) -> None:
        self.run_button.click()

    def choose(self, weight: str) -> None:
        """Show one weight in detail."""
        self._chosen = weight
        self.heatmap.select(weight)
        self.bars.select(weight)
        self._show_detail()

    @property
    def current(self) -> tuple[Measure, str]:
        """The measure and the format that are looked at."""
        return measure(self.measure.currentData()), self.format.currentData() or ""

    def _make_body(self) -> QWidget:
        heat_scroll = QScrollArea()
        heat_scroll.setWidgetResizable(True)
        heat_scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        heat_scroll.setWidget(self.heatmap)
        self.heatmap.shown.connect(
            lambda cell: heat_scroll.ensureVisible(
                cell.center().x(), cell.center().y(), cell.width() + 140, 40
            )
        )
        self.zoom_out = tool("zoom-out", tr("Smaller cells (-)"), lambda: self._zoom(-1))
        self.zoom_in = tool("zoom-in", tr("Larger cells (+, or Ctrl and the wheel)"), lambda: self._zoom(1))
        take_heatmap = Taken(self.session, self.heatmap, "sensitivity", self.heatmap.rows).button()
        below = row(self.legend, self.zoom_out, self.zoom_in, take_heatmap)
        below.setStretch(0, 1)
        heat_card = card(column(heat_scroll, below, self.course, spacing=8))
        bars_scroll = QScrollArea()
        bars_scroll.setWidgetResizable(True)
        bars_scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        bars_scroll.setWidget(self.bars)
        take_bars = Taken(self.session, self.bars, "most-sensitive", self.bars.rows).button()
        bars_card = card(column(row(label(tr("Most sensitive"), "heading"), None, take_bars), bars_scroll))
        upper = self.splitter(
            "sensitivity-upper", Qt.Orientation.Horizontal, heat_card, bars_card, sizes=(700, 320)
        )
        self.detail, self.agreement = WeightDetail(self.session), AgreementView(self.session)
        self.detail.turned.connect(lambda _: self._show_charts())
        lower = card(column(self.detail))
        by_block = self.splitter("sensitivity", Qt.Orientation.Vertical, upper, lower, sizes=(420, 160))
        self.tabs = QTabWidget()
        self.tabs.setAccessibleName(tr("By block, or agreement with perplexity"))
        self.expected = label("", "secondary")
        corner = QWidget()
        corner.setLayout(row(self.expected, reason_line(self.run_button)))
        corner.setContentsMargins(0, 0, 0, 5)  # in line with the words of the tabs
        self.tabs.setCornerWidget(corner)
        self.tabs.addTab(by_block, tr("By block"))
        self.tabs.addTab(card(column(self.agreement)), tr("Agreement with perplexity"))
        inside = QWidget()
        layout = column(self.settings_row, self.tabs, spacing=8)
        layout.setStretch(1, 1)
        inside.setLayout(layout)
        return inside

    def _show_model(self) -> None:
        model = self.session.model
        self.stack.setCurrentIndex(1 if model else 0)
        self._chosen, self._values_of = "", ("", "")
        self.detail.values.show_words(tr("Select a weight"))
        if model:
            self.settings_row.show_analysis(self.session.analysis)
        self._take_weights()
        self._show_entries()

    def _take_weights(self) -> None:
        model = self.session.model
        self.heatmap.set_weights(model.weights if model else [])

    def _show_scores(self) -> None:
        if self.session.model:
            self.settings_row.take_rounding(self.session.analysis.rounding)
        self._show_entries()

    def _show_entries(self) -> None:
        names = {name for _, name in self.session.entries}
        if self.session.model:
            names |= set(self.settings_row.analysis.offered)
        ordered = [name for name in all_formats() if name in names]
        if [self.format.itemData(i) for i in range(self.format.count())] != ordered:
            kept = self.format.currentData()
            self.format.blockSignals(True)
            self.format.clear()
            for name in ordered:
                self.format.addItem(parse_format(name).label, name)
            usual = next((n for n in ordered if n.startswith("int4")), "")
            preferred = kept if kept in ordered else ANCHOR if ANCHOR in ordered else usual
            self.format.setCurrentIndex(max(self.format.findData(preferred), 0))
            self.format.blockSignals(False)
        self._show()

    def _show(self, *_: object) -> None:
        chosen, name = self.current
        explain(self._hint, f"{chosen.label}. {chosen.help}")
        entries = {weight: entry for (weight, fmt), entry in self.session.entries.items() if fmt == name}
        values = {w: value for w, entry in entries.items() if (value := chosen.decades(entry)) is not None}
        low, high = self._range(chosen, list(values.values()))
        texts = {weight: f"{chosen.words(entry)}, {tokens_used(entry)}" for weight, entry in entries.items()}
        settled = {weight for weight, entry in entries.items() if entry.settled}
        predicted = {weight for weight, entry in entries.items() if entry.is_predicted}
        self.heatmap.show_values(values, texts, low, high, settled, predicted)
        self.legend.set_scale(chosen, low, high, settled=bool(settled), predicted=bool(predicted))
        self.course.setText(_course(list(entries.values())))
        worst = sorted(values, key=lambda weight: -values[weight])[:COUNT]
        self.bars.show_bars([_bar(entries[weight], chosen) for weight in worst])
        if not self._chosen and worst and not self.session.job.running:
            self._chosen = worst[0]
        if self._chosen:
            self.heatmap.select(self._chosen)
            self.bars.select(self._chosen)
        self._show_detail()
        self._show_actions()

    def _range(self, chosen: Measure, decades: list[float]) -> tuple[int, int]:
        current = self.session.job.current
        if not decades or (current is not None and isinstance(current.job, _ANALYSES)):
            return chosen.low, chosen.high
        low, high = math.floor(min(decades)), math.ceil(max(decades))
        return max(low, -9), max(high, max(low, -9) + 1)

    def _show_actions(self) -> None:
        self.run_button.refresh()
        measured = bool(self.session.scores or self.session.entries)
        self.next.setEnabled(measured)
        self.next.setToolTip(plain_tip("" if measured else tr("Measure sensitivity first")))
        self.why.set_text(self.next.toolTip() if self.session.model else "")
        primary = measured and not self._left()
        self.next.setProperty("role", "primary" if primary else "")
        self.run_button.setProperty("role", "" if primary else "primary")
        for each in (self.next, self.run_button):
            each.style().unpolish(each)
            each.style().polish(each)
        self._show_expected()
        if self.session.model is None:
            return
        analysis = self.settings_row.analysis
        over = bool(self.session.entries) and not analysis.continues(self.session.analysis)
        self.run_button.setText(
            tr("Start over")
            if over
            else tr("Continue")
            if self.session.entries and self._left()
            else tr("Start")
        )

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._show_expected()

    def _show_expected(self) -> None:
        """How long an analysis from the start would take on this computer, once that is known."""
        session = self.session
        costs, begun = session.costs, bool(session.entries) or session.job.running
        if session.model is None or costs is None or begun:
            self.expected.setText("")
            if self.isVisible() and not begun:
                session.time_computer()
            return
        from kl_lens_desktop.sensitivity.estimate import seconds

        time = quantities.duration(seconds(costs, session.model.weights, self.settings_row.analysis))
        self.expected.setText(tr("About {time} on this computer").format(time=time))

    def _left(self) -> int:
        """How many (weight, format) pairs the chosen settings still want."""
        model = self.session.model
        if model is None:
            return 0
        analysis, entries = self.settings_row.analysis, self.session.entries
        offered = self._offered(analysis)
        wanted = {(w["name"], name) for w in model.matrices for name in offered}
        if not analysis.continues(self.session.analysis):
            return len(wanted)
        scores = self.session.scores
        if scores:
            wanted -= scores.unmeasurable.keys()
        held = scores.text["tokens"] if scores else 0
        more = analysis.tokens > self.session.analysis.tokens
        unfinished = {
            pair
            for pair, entry in entries.items()
            if not entry.is_predicted
            and (analysis.exhaustive or not entry.settled)
            and (more or entry.kl_pq.n < held)
        }
        if analysis.exhaustive or analysis.formats:  # those are measured, whatever was predicted of them
            unfinished |= {pair for pair, entry in entries.items() if entry.is_predicted}
        return len((wanted - entries.keys()) | (wanted & unfinished))

    def _offered(self, analysis: Analysis) -> set[str]:
        """The formats to measure, but for those that a whole job leaves out and nobody asked for by name."""
        devices = self.session.chosen_devices or ("CPU",)
        spared = {name for device in devices for name in only_small(device, None)}
        measured = {name for _, name in self.session.entries}
        return set(analysis.offered) - (set() if analysis.formats or not measured else spared - measured)

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if not self._left():
            return tr("Everything is measured. Choose more text or formats.")
        return ""

    def _start(self) -> None:
        self.session.set_analysis(self.settings_row.analysis)
        self.session.analyze()

    def _show_detail(self) -> None:
        model = self.session.model
        about = next((w for w in model.weights if w["name"] == self._chosen), None) if model else None
        entries = [entry for (weight, _), entry in self.session.entries.items() if weight == self._chosen]
        self.detail.show_weight(about, entries)
        self._show_charts()

    def _show_charts(self) -> None:
        """The chart of the selected weight that is in front."""
        view = self.detail.tabs.currentIndex()
        if view == 1:
            self._show_values()
        elif view == 2:
            self._show_texts()

    def _show_values(self) -> None:
        """Read the selected weight's values in the background, once for each weight."""
        model, weight = self.session.model, self._chosen
        if model is None or not weight or self._values_of == (model.reference, weight):
            return
        self._values_of = wanted = model.reference, weight
        folder = Path(str(model.about["folder"]))

        def read() -> "NDArray[np.float32]":
            from kl_lens_desktop.model.weight_values import sample_values

            return sample_values(folder, weight)

        def show(values: "NDArray[np.float32]") -> None:
            if self._values_of == wanted:
                self.detail.values.show_values(values)

        def say(error: KLLensError) -> None:
            if self._values_of == wanted:
                self.detail.values.show_words(f"{error.what}: {error.why}.")

        self.session.background.run(read, show, say)

    def _show_texts(self) -> None:
        """The selected weight's KL in the chosen format, window by window."""
        scores, pair = self.session.scores, (self._chosen, self.current[1])
        entry = self.session.entries.get(pair)
        windows = scores.windows if scores else None
        samples = windows.samples.get(pair) if windows else None
        if entry is None or windows is None or samples is None:
            predicted = entry is not None and entry.is_predicted
            words = (
                tr("Predicted: no text was read in this format")
                if predicted
                else tr("Not measured in this format")
            )
            self.detail.texts.show_windows([], 0.0, 0.0, words)
            return
        places = list(zip(windows.order, samples.kl_pq, strict=False))
        self.detail.texts.show_windows(places, entry.kl_pq.mean, entry.kl_pq.se)

    def _zoom(self, step: int) -> None:
        self.heatmap.zoom += step

    def _show_agreement(self, *_: object) -> None:
        self.agreement.show_result(self.session.agreement, self.current[0])


def _bring_into_view(area: QScrollArea, cell: QRect) -> None:
    """A cell, and what is around it as far as the names of the rows leave room."""
    area.ensureVisible(cell.center().x(), cell.center().y(), cell.width() + 140, cell.height())


def _course(entries: "list[Entry]") -> str:
    """How much text the entries of the shown format have used."""
    if predicted := sum(entry.is_predicted for entry in entries):
        measured = len(entries) - predicted
        return tr(
            "{sign} {predicted:,} of {count:,} are predicted from other "
            "formats, with the error that such predictions have shown. Measured: "
            "{measured:,}."
        ).format(sign=PREDICTED_SIGN, predicted=predicted, count=len(entries), measured=measured)
    settled = [entry.kl_pq.n for entry in entries if entry.settled]
    if not settled:
        return ""
    rest = [entry.kl_pq.n for entry in entries if not entry.settled]
    ends = f"{min(settled):,} to {max(settled):,}" if min(settled) < max(settled) else f"{settled[0]:,}"
    others = tr("; the other {count:,} used {max:,}").format(count=len(rest), max=max(rest)) if rest else ""
    return tr("{settled:,} of {count:,} were settled on {ends} tokens, at 95 % confidence{others}.").format(
        settled=len(settled), count=len(entries), ends=ends, others=others
    )


def _bar(entry: "Entry", chosen: Measure) -> Bar:
    estimate = chosen.estimate(entry)
    assert estimate is not None  # for it has a value
    mean, se = estimate.mean, estimate.se
    if chosen.key == "sqnr_db":  # bars grow with harm: the noise power, its error by the delta method
        mean = chosen.harm(mean)
        se = mean * se * math.log(10) / 10
    elif chosen.key == "top1_agreement":
        mean = chosen.harm(mean)
    name = short_name(entry.weight, entry.block)
    return Bar(entry.weight, name, entry.kind, abs(mean), se, entry.is_predicted)
