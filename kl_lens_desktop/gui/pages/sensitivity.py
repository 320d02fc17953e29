"""Sensitivity: which weights matter, live and with error bars, and whether the measure can be trusted."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.gui import icons, quantities, theme
from kl_lens_desktop.gui.bars import COUNT, Bar, Bars
from kl_lens_desktop.gui.charts import Chart
from kl_lens_desktop.gui.controls import (
    ROW_HEIGHT,
    Elided,
    Empty,
    JobButton,
    NumberDelegate,
    Page,
    Picture,
    align_heading,
    button,
    card,
    column,
    combo,
    hint,
    label,
    reason_line,
    row,
    set_up_table,
    spin,
)
from kl_lens_desktop.gui.heatmap import Heatmap, Legend
from kl_lens_desktop.gui.job import Step
from kl_lens_desktop.gui.measures import MEASURES, Measure, measure, short_name
from kl_lens_desktop.gui.session import KIND_NAMES, MISSING, Session
from kl_lens_desktop.gui.workspace import Analysis
from kl_lens_desktop.quant.formats import all_formats, parse_format

if TYPE_CHECKING:
    from kl_lens_desktop.gui.window import Window
    from kl_lens_desktop.sensitivity.scores import Entry

# What the button says, and the menu.
_SOURCES = {
    "novels": ("Bundled novels", "The bundled novels (public domain, English)"),
    "wikitext-2": ("WikiText-2", "WikiText-2, from the Hugging Face Hub"),
    "generated": ("Model's own text", "Text that the model itself writes, of what it knows best"),
}
_ANALYSES = ("analyze", "run")


class SensitivityPage(Page):
    """Heatmap, worst weights, the selected weight, and the agreement with perplexity."""

    def __init__(self, session: Session, window: "Window") -> None:
        super().__init__(session, "Which weights matter")
        self._window = window
        self._chosen = ""
        self.measure = combo("Measure", [(each.label, each.key) for each in MEASURES])
        self.format = combo("Format", [])
        self.format.setMinimumContentsLength(12)
        self._hint = hint("")
        self.tools.addLayout(row(self.measure, self.format, self._hint))
        self.heatmap, self.legend, self.bars = Heatmap(), Legend(), Bars()
        self.course = label("", "secondary", wrap=True)
        self.settings_row = _SettingsRow(self)
        self.run_button = JobButton(
            "Start",
            session,
            self._missing,
            self._start,
            "Measure every weight in every chosen format (F5)",
            "primary",
        )
        self.settings_row.layout().addWidget(self.run_button)  # type: ignore[union-attr]
        self.stack = QStackedWidget()
        self.stack.addWidget(
            Empty(
                "sensitivity",
                "No model open",
                "Here you will see, block by block, how much each weight matters to the model's predictions.",
                button("Choose a model", lambda: window.show_page("Model"), "primary"),
            )
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.next = button("Make a plan →", lambda: window.show_page("Plan"))
        self.lead_back("Model", window.show_page)
        self.why = self.add_reason()
        self.foot.addWidget(self.next)
        self.measure.currentIndexChanged.connect(self._show)
        self.format.currentIndexChanged.connect(self._show)
        self.heatmap.selected.connect(self.choose)
        self.bars.selected.connect(self.choose)
        session.model_changed.connect(self._show_model)
        session.entries_changed.connect(self._show_entries)
        session.scores_changed.connect(self._show_entries)
        session.agreement_changed.connect(self._show_agreement)
        session.job.started.connect(lambda _: self._show())
        session.job.ended.connect(lambda _: self._show())
        session.job.weights.connect(lambda _: self._take_weights())
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
        heat_card = card(column(heat_scroll, self.legend, self.course, spacing=8))
        bars_scroll = QScrollArea()
        bars_scroll.setWidgetResizable(True)
        bars_scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        bars_scroll.setWidget(self.bars)
        bars_card = card(column(label("Most sensitive", "heading"), bars_scroll))
        upper = self.splitter(
            "sensitivity-upper", Qt.Orientation.Horizontal, heat_card, bars_card, sizes=(700, 320)
        )
        self.detail, self.agreement = _Detail(), _Agreement(self)
        lower = card(column(self.detail))
        by_block = self.splitter("sensitivity", Qt.Orientation.Vertical, upper, lower, sizes=(420, 160))
        self.tabs = QTabWidget()
        why = reason_line(self.run_button)
        why.setContentsMargins(0, 0, 0, 5)  # in line with the words of the tabs
        self.tabs.setCornerWidget(why)
        self.tabs.addTab(by_block, "By block")
        self.tabs.addTab(card(column(self.agreement)), "Agreement with perplexity")
        inside = QWidget()
        layout = column(self.settings_row, self.tabs, spacing=8)
        layout.setStretch(1, 1)
        inside.setLayout(layout)
        return inside

    def _show_model(self) -> None:
        model = self.session.model
        self.stack.setCurrentIndex(1 if model else 0)
        self._chosen = ""
        if model:
            self.settings_row.show_analysis(self.session.analysis)
        self._take_weights()
        self._show_entries()

    def _take_weights(self) -> None:
        model = self.session.model
        self.heatmap.set_weights(model.weights if model else [])

    def _show_entries(self) -> None:
        names = {name for _, name in self.session.entries}
        if self.session.model:
            names |= set(self.settings_row.analysis.formats)
        ordered = [name for name in all_formats() if name in names]
        if [self.format.itemData(i) for i in range(self.format.count())] != ordered:
            kept = self.format.currentData()
            self.format.blockSignals(True)
            self.format.clear()
            for name in ordered:
                self.format.addItem(parse_format(name).label, name)
            preferred = kept if kept in ordered else next((n for n in ordered if n.startswith("int4")), "")
            self.format.setCurrentIndex(max(self.format.findData(preferred), 0))
            self.format.blockSignals(False)
        self._show()

    def _show(self, *_: object) -> None:
        chosen, name = self.current
        self._hint.setToolTip(f"<p><b>{chosen.label}.</b> {chosen.help}</p>")
        self._hint.setAccessibleDescription(chosen.help)
        entries = {weight: entry for (weight, fmt), entry in self.session.entries.items() if fmt == name}
        values = {w: value for w, entry in entries.items() if (value := chosen.decades(entry)) is not None}
        low, high = self._range(chosen, list(values.values()))
        texts = {weight: f"{chosen.words(entry)}, {_used(entry)}" for weight, entry in entries.items()}
        settled = {weight for weight, entry in entries.items() if entry.settled}
        self.heatmap.show_values(values, texts, low, high, settled)
        self.legend.set_scale(chosen, low, high, settled=bool(settled))
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
        if not decades or (current is not None and current.task in _ANALYSES):
            return chosen.low, chosen.high
        low, high = math.floor(min(decades)), math.ceil(max(decades))
        return max(low, -9), max(high, max(low, -9) + 1)

    def _show_actions(self) -> None:
        self.run_button.refresh()
        measured = bool(self.session.scores or self.session.entries)
        self.next.setEnabled(measured)
        self.next.setToolTip("" if measured else "Measure sensitivity first")
        self.why.set_text(self.next.toolTip() if self.session.model else "")
        primary = measured and not self._left()
        self.next.setProperty("role", "primary" if primary else "")
        self.run_button.setProperty("role", "" if primary else "primary")
        for each in (self.next, self.run_button):
            each.style().unpolish(each)
            each.style().polish(each)
        if self.session.model is None:
            return
        analysis = self.settings_row.analysis
        over = bool(self.session.entries) and not analysis.continues(self.session.analysis)
        self.run_button.setText(
            "Start over" if over else "Continue" if self.session.entries and self._left() else "Start"
        )

    def _left(self) -> int:
        """How many (weight, format) pairs the chosen settings still want."""
        model = self.session.model
        if model is None:
            return 0
        analysis, entries = self.settings_row.analysis, self.session.entries
        wanted = {(w["name"], name) for w in model.matrices for name in analysis.formats}
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
            if (analysis.exhaustive or not entry.settled) and (more or entry.kl_pq.n < held)
        }
        return len((wanted - entries.keys()) | (wanted & unfinished))

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if not self.settings_row.analysis.formats:
            return "Choose at least one format"
        if not self._left():
            return "All is measured; choose another text, more tokens or further formats"
        return ""

    def _start(self) -> None:
        self.session.set_analysis(self.settings_row.analysis)
        self.session.analyze()

    def _show_detail(self) -> None:
        model = self.session.model
        about = next((w for w in model.weights if w["name"] == self._chosen), None) if model else None
        entries = [entry for (weight, _), entry in self.session.entries.items() if weight == self._chosen]
        self.detail.show_weight(about, entries)

    def _show_agreement(self) -> None:
        self.agreement.show_result(self.session.agreement, self.current[0])


class _SettingsRow(QWidget):
    """What is measured: text, tokens, formats."""

    def __init__(self, page: SensitivityPage) -> None:
        super().__init__()
        self._page = page
        self._text: tuple[str, ...] = ()
        self._source = Analysis().source
        self._window = Analysis().window
        self.text = button("", lambda: None)
        self.text.setProperty("menu", "true")
        self.text.setAccessibleName("Calibration text")
        texts = QMenu(self.text)
        for source, (_, words) in _SOURCES.items():
            texts.addAction(words, partial(self._set_text, (), source))
        texts.addAction("Own text files…", self._choose_text)
        self.text.setMenu(texts)
        self.tokens = spin("Tokens of text to measure on", 512, 262_144, 4096, step=512)
        self.tokens.setToolTip("More text: smaller error bars, longer wait, in proportion")
        self.formats = QPushButton()
        self.formats.setAutoDefault(False)
        self.formats.setProperty("menu", "true")
        self.formats.setAccessibleName("Formats to measure")
        menu = QMenu(self.formats)
        self._actions = {name: self._format_action(menu, name) for name in all_formats() if name != "fp16"}
        self.formats.setMenu(menu)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        self.exhaustive = QCheckBox("Use all text")
        self.exhaustive.setToolTip(
            "Measure every weight on all of the text. Otherwise a weight stops once more text would not "
            "change its place among the others, which takes about half the time"
        )
        for words, widget in (("Text", self.text), ("Tokens", self.tokens), ("Formats", self.formats)):
            layout.addWidget(label(words, "secondary"))
            layout.addWidget(widget)
            layout.addSpacing(8)
        layout.addWidget(self.exhaustive)
        layout.addStretch(1)
        self.exhaustive.toggled.connect(lambda _: self._changed())
        self.tokens.valueChanged.connect(lambda _: self._changed())
        page.session.job.started.connect(lambda _: self._lock(True))
        page.session.job.ended.connect(lambda _: self._lock(False))

    @property
    def analysis(self) -> Analysis:
        formats = tuple(name for name, action in self._actions.items() if action.isChecked())
        return Analysis(
            self._text,
            self.tokens.value(),
            self._window,
            formats,
            self._source,
            self.exhaustive.isChecked(),
        )

    def show_analysis(self, analysis: Analysis) -> None:
        self._text, self._window, self._source = analysis.text, analysis.window, analysis.source
        for widget in (self.tokens, self.exhaustive):
            widget.blockSignals(True)
        self.tokens.setValue(analysis.tokens)
        self.exhaustive.setChecked(analysis.exhaustive)
        for widget in (self.tokens, self.exhaustive):
            widget.blockSignals(False)
        for name, action in self._actions.items():
            action.setChecked(name in analysis.formats)
        self._show_words()

    def _format_action(self, menu: QMenu, name: str) -> QAction:
        action = menu.addAction(parse_format(name).label)
        action.setCheckable(True)
        action.triggered.connect(lambda _: self._changed())
        return action

    def _set_text(self, text: tuple[str, ...], source: str = "novels") -> None:
        self._text, self._source = text, source
        self._changed()

    def _choose_text(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(
            self, "Text to measure on", "", "Text (*.txt *.md);;All files (*)"
        )
        if files:
            self._set_text(tuple(files))

    def _changed(self) -> None:
        self._show_words()
        self._page._show_entries()

    def _show_words(self) -> None:
        names = [Path(path).name for path in self._text]
        short, long = _SOURCES[self._source]
        self.text.setText(short if not names else names[0] if len(names) == 1 else f"{len(names)} files")
        self.text.setToolTip("\n".join(self._text) or long)
        labels = [parse_format(name).label for name in self.analysis.formats]
        words = ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} formats"
        self.formats.setText(words or "none")
        self.formats.setToolTip(
            "Each chosen format is measured for every weight: " + (", ".join(labels) or "none")
        )

    def _lock(self, locked: bool) -> None:
        for widget in (self.text, self.tokens, self.formats, self.exhaustive):
            widget.setEnabled(not locked)


class _Detail(QWidget):
    """The selected weight: what it is, and each measure in each format."""

    WIDTHS = (80, 78, 66, 144, 144, 132, 84, 144, 138)
    COLUMNS = ("Format", "Size", "Tokens", *(each.label for each in MEASURES))

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(96)
        self._kind = Picture("ssm", "secondary", 14)
        self._name = Elided("Nothing selected", "heading", Qt.TextElideMode.ElideMiddle)
        self._facts = label("", "secondary")
        self.table = QTableWidget(0, len(self.COLUMNS))
        self.table.setHorizontalHeaderLabels(self.COLUMNS)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        set_up_table(self.table, "Measures of the selected weight by format", stretch=-1)
        numbers = NumberDelegate(self.table)
        for place in range(1, len(self.COLUMNS)):
            self.table.setItemDelegateForColumn(place, numbers)
            align_heading(self.table, place)
            self.table.setColumnWidth(place, self.WIDTHS[place])
        for place, each in enumerate(MEASURES, start=len(self.COLUMNS) - len(MEASURES)):
            heading = self.table.horizontalHeaderItem(place)
            assert heading is not None
            heading.setToolTip(f"<p>{each.help}</p>")
        self.table.setColumnWidth(0, self.WIDTHS[0])
        top = row(self._kind, self._name, self._facts)
        top.setStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(top)
        layout.addWidget(self.table, 1)

    def show_weight(self, about: dict[str, Any] | None, entries: "list[Entry]") -> None:
        self._kind.setVisible(about is not None)
        if about is None:
            self._name.set_text("Select a cell or a bar to see the weight's figures")
            self._facts.setText("")
            self.table.setRowCount(0)
            return
        kind = about["kind"]
        self._kind.set_icon(kind if kind in icons.KINDS else "mlp", "secondary")
        self._name.set_text(about["name"])
        uses = f" · used {about['uses']}×" if about["uses"] > 1 else ""
        where = "" if about["block"] is None else f" · block {about['block']}"
        count = quantities.parameters(about["parameters"])
        self._facts.setText(
            f"{KIND_NAMES.get(kind, kind)}{where} · {quantities.shape(about['shape'])} · "
            f"{count} weights{uses}"
        )
        entries = sorted(entries, key=lambda entry: -entry.bytes)
        self.table.setRowCount(len(entries))
        for index, entry in enumerate(entries):
            texts = (
                parse_format(entry.format).label,
                quantities.size(entry.bytes),
                f"{entry.kl_pq.n:,}{' •' if entry.settled else ''}",  # the dot of the heatmap
                *(each.words(entry).removesuffix(" nats") for each in MEASURES),
            )
            for place, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if place:
                    tips = text, f"Measured {_used(entry)}"
                    item.setToolTip(MEASURES[place - 3].words(entry) if place > 2 else tips[place - 1])
                self.table.setItem(index, place, item)


class _Scatter(Chart):
    """Rank by a measure against rank by perplexity; on the diagonal they agree."""

    def __init__(self) -> None:
        self._points: list[tuple[str, float, float]] = []
        super().__init__(
            "Rank by measure against rank by perplexity", "rank by measure (1 = worst)", "rank by perplexity"
        )

    def show_points(self, points: list[dict[str, Any]], chosen: Measure) -> None:
        key = chosen.key if points and chosen.key in points[0] else "kl_pq"
        harms = [measure(key).harm(point[key]) for point in points]
        ranks = _ranks(harms), _ranks([point["perplexity"] for point in points])
        self._points = [(p["format"], x, y) for p, x, y in zip(points, *ranks, strict=True)]
        self._x = f"rank by {measure(key).label} (1 = worst)"
        self.recolour()
        self.redraw()

    def redraw(self) -> None:
        self.clear()
        if not self._points:
            return
        colours = theme.colours()
        end = len(self._points)
        self.addItem(
            pg.PlotDataItem(
                [1, end], [1, end], pen=pg.mkPen(colours.edge, width=1, style=Qt.PenStyle.DashLine)
            )
        )
        for name in dict.fromkeys(point[0] for point in self._points):
            mine = [(x, y) for fmt, x, y in self._points if fmt == name]
            self.addItem(
                pg.ScatterPlotItem(
                    [x for x, _ in mine],
                    [y for _, y in mine],
                    size=8,
                    brush=pg.mkBrush(theme.format_colour(name)),
                    pen=pg.mkPen(colours.edge, width=1),
                    symbol="o" if name.startswith("int8") else "s",
                )
            )
        self.setRange(xRange=(0, end + 1), yRange=(0, end + 1), padding=0.02)


class _Agreement(QWidget):
    """Kendall's τ of every measure with the perplexity of the model with that one weight quantized."""

    def __init__(self, page: SensitivityPage) -> None:
        super().__init__()
        self._page = page
        session = page.session
        self.scatter = _Scatter()
        self.read_on = label("", "secondary", wrap=True)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Measure", "Kendall τ", "95 % interval"])
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        set_up_table(self.table, "Agreement of each measure with perplexity")
        for place, width in ((1, 90), (2, 140)):
            self.table.setColumnWidth(place, width)
        self.button = JobButton(
            "Check against perplexity",
            session,
            self._missing,
            self._start,
            "Quantize each weight alone, measure the perplexity on held-out text, and compare ranks",
        )
        words = label(
            "Does the measure rank weights as perplexity does? This quantizes each weight alone and "
            "measures the model's perplexity on held-out text.",
            "secondary",
            wrap=True,
        )
        right = column(words, row(self.button, None), self.table, self.read_on, None)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(16)
        layout.addWidget(self.scatter, 3)
        layout.addLayout(right, 2)

    def show_result(self, result: dict[str, Any] | None, chosen: Measure) -> None:
        self.scatter.setVisible(bool(result))
        self.table.setVisible(bool(result))
        self.read_on.setVisible(bool(result))
        self.button.refresh()
        if not result:
            return
        about = result["text"]
        self.read_on.setText(
            f"{len(result['points']):,} points, each a weight in a format: circles INT8, squares others. "
            f"Perplexity on {about['tokens']:,} tokens of {about['name']}; "
            f"{quantities.significant(result['perplexity_full'])} in full precision.{_ceiling(result)}"
        )
        self.scatter.show_points(result["points"], chosen)
        metrics = sorted(result["metrics"].items(), key=lambda item: -item[1]["tau"])
        self.table.setRowCount(len(metrics))
        heading = self.table.horizontalHeader().sizeHint().height()
        self.table.setFixedHeight(heading + ROW_HEIGHT * len(metrics) + 4)
        for index, (key, value) in enumerate(metrics):
            interval = f"{value['low']:.2f} to {value['high']:.2f}"
            for place, text in enumerate((measure(key).label, f"{value['tau']:.3f}", interval)):
                self.table.setItem(index, place, QTableWidgetItem(text))

    def _missing(self) -> str:
        session = self._page.session
        if session.model is None:
            return MISSING
        return "" if session.scores else "Measure sensitivity first"

    def _start(self) -> None:
        session = self._page.session
        assert session.model is not None
        place = session.workspace
        params = {"model": session.model.reference, "scores": str(place.scores), "out": str(place.agree)}
        session.job.start(Step("agree", params))


def _ceiling(result: dict[str, Any]) -> str:
    """How far noise in perplexity itself limits every measure; results of older versions lack it."""
    if "ceiling" not in result:
        return ""
    return (
        f" Two halves of the text agree with each other by τ = {result['ceiling']:.2f}: where noise keeps "
        "that low, it keeps every measure low."
    )


def _used(entry: "Entry") -> str:
    return f"on {entry.kl_pq.n:,} tokens{', rank settled' if entry.settled else ''}"


def _course(entries: "list[Entry]") -> str:
    """How much text the entries of the shown format have used."""
    settled = [entry.kl_pq.n for entry in entries if entry.settled]
    if not settled:
        return ""
    rest = [entry.kl_pq.n for entry in entries if not entry.settled]
    ends = f"{min(settled):,} to {max(settled):,}" if min(settled) < max(settled) else f"{settled[0]:,}"
    others = f"; the other {len(rest):,} used {max(rest):,}" if rest else ""
    return f"{len(settled):,} of {len(entries):,} were settled on {ends} tokens, at 95 % confidence{others}."


def _bar(entry: "Entry", chosen: Measure) -> Bar:
    estimate = chosen.estimate(entry)
    mean, se = estimate.mean, estimate.se
    if chosen.key == "sqnr_db":  # bars grow with harm: the noise power, its error by the delta method
        mean = chosen.harm(mean)
        se = mean * se * math.log(10) / 10
    elif chosen.key == "top1_agreement":
        mean = chosen.harm(mean)
    return Bar(entry.weight, short_name(entry.weight, entry.block), entry.kind, abs(mean), se)


def _ranks(harms: list[float]) -> list[float]:
    """1 for the largest."""
    order = np.argsort(-np.array(harms), kind="stable")
    ranks = np.empty(len(harms))
    ranks[order] = np.arange(1, len(harms) + 1)
    return list(ranks.tolist())
