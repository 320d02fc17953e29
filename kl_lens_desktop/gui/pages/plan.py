"""Plan: a budget slider, the weights with overrides, the Pareto front, and the measurement of the whole."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPoint, QSize, Qt, QTimer
from PySide6.QtGui import (
    QColor,
    QKeySequence,
    QPainter,
    QPaintEvent,
    QPen,
    QShortcut,
    QUndoCommand,
    QUndoStack,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QSlider,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui import quantities, theme
from kl_lens_desktop.gui.charts import Chart
from kl_lens_desktop.gui.controls import (
    Empty,
    JobButton,
    NumberDelegate,
    Page,
    button,
    card,
    column,
    combo,
    hint,
    label,
    row,
    set_up_table,
    tool,
)
from kl_lens_desktop.gui.draft import Draft, summary
from kl_lens_desktop.gui.job import Step
from kl_lens_desktop.gui.plan_table import (
    FORMAT,
    KIND,
    LOSS,
    SHAPE,
    SIZE,
    FormatDelegate,
    PlanFilter,
    PlanTable,
    PlanView,
)
from kl_lens_desktop.gui.session import MISSING, Session
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.quant.formats import parse_format

if TYPE_CHECKING:
    from kl_lens_desktop.gui.window import Window

STEPS = 1000
SNAP = 8  # slider steps around a mark within which the slider settles on it
DEFAULT_BITS = 5.0
METHODS = (
    ("KL full‖quantized", "kl", "Knapsack on KL(full‖quantized): the least predicted loss at each size"),
    ("SQNR", "sqnr", "Knapsack on the noise-to-signal ratio of the logits"),
    ("Logit error (MSE)", "mse", "Knapsack on the mean squared error of the logits"),
    ("The paper's greedy", "paper", "One merged list by KL(quantized‖full), accepted from the mildest on"),
)


class PlanPage(Page):
    """Method, budget and pins on the left; the front and the measurement on the right."""

    def __init__(self, session: Session, window: "Window") -> None:
        super().__init__(session, "Which format for which weight")
        self._window = window
        self._draft: Draft | None = None
        self._own_plan: Plan | None = None
        self._assignments: dict[str, str] = {}
        self._measured: list[Plan] = []
        self.pins: dict[str, str] = {}
        self.undo = QUndoStack(self)
        self.stack = QStackedWidget()
        self._empty_button = button("Measure sensitivity", self._to_sensitivity, "primary")
        self.stack.addWidget(
            Empty(
                "plan",
                "No scores yet",
                "A plan weighs what each weight costs in bytes against what it costs in quality. "
                "Measure sensitivity first; the plan then follows the slider at once.",
                self._empty_button,
            )
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.sentence = label("", wrap=True, select=True)
        self.sentence.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.verify = JobButton(
            "Verify",
            session,
            self._missing,
            self._verify,
            "Measure the whole plan at once on text not used for scoring (F5)",
        )
        self.open_button = button("Open…", self.choose_plan, tip="Open a plan file for this model")
        self.save_button = button("Save…", self.save, tip="Save this plan as a JSON file (Ctrl+S)")
        self.next = button("Export →", lambda: window.show_page("Export"), "primary")
        self.foot.addWidget(self.sentence, 1)
        for widget in (self.open_button, self.save_button, self.verify, self.next):
            self.foot.addWidget(widget)
        session.model_changed.connect(self._new_model)
        session.scores_changed.connect(self._new_scores)
        session.plan_changed.connect(self._take_plan)
        session.job.started.connect(lambda _: self._show_actions())
        session.job.ended.connect(lambda _: self._show_actions())
        self._new_scores()
        self._take_plan()

    def start(self) -> None:
        self.verify.click()

    # What a person does.

    def replan(self) -> None:
        """Make the plan anew from method, budget and pins; under 50 ms."""
        if self._draft is None:
            return
        self._assignments = self._draft.assign(self.method.currentData(), self.budget, self.pins)
        plan = self._draft.plan(self.method.currentData(), self.budget, self.pins, self._assignments)
        known = next((p for p in self._measured if p.assignments == plan.assignments), None)
        self._own_plan = known.with_measured(known.measured) if known and known.measured else plan
        self.session.set_plan(self._own_plan)

    def pin(self, formats: dict[str, str | None]) -> None:
        """Decide the format of some weights by hand, or (None) leave them to the algorithm; can be undone."""
        after = {**self.pins, **{w: f for w, f in formats.items() if f is not None}}
        for weight, name in formats.items():
            if name is None:
                after.pop(weight, None)
        if after != self.pins:
            words = f"format of {quantities.plural(len(formats), 'weight')}"
            self.undo.push(_SetPins(self, self.pins, after, words))

    def reset(self) -> None:
        """Give every weight back to the algorithm; can be undone."""
        if self.pins:
            self.undo.push(_SetPins(self, self.pins, {}, "reset to the algorithm"))

    def set_pins(self, pins: dict[str, str]) -> None:
        self.pins = dict(pins)
        self.replan()

    @property
    def budget(self) -> int:
        """Bytes of all exported weights that the slider allows."""
        assert self._draft is not None
        low, high = self._draft.smallest, self._draft.largest
        return low + round((high - low) * self.slider.value() / STEPS)

    def choose_plan(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a plan", "", "Plans (*.json);;All files (*)")
        if path:
            self.session.load_plan(Path(path))

    def save(self) -> None:
        """Ask for a name and save the plan."""
        plan = self.session.plan
        if plan is None or self.session.model is None:
            self.session.say("warning", "There is no plan to save yet. Measure sensitivity first.")
            return
        name = f"{Path(str(self.session.model.about['id'])).name}-plan.json"
        path, _ = QFileDialog.getSaveFileName(self, "Save the plan", name, "Plans (*.json)")
        if path:
            self.save_to(Path(path))

    def save_to(self, path: Path) -> None:
        assert self.session.plan is not None
        try:
            save_plan(path, self.session.plan)
        except InputError as error:
            self.session.say_error(error)
        else:
            self.session.say("info", f"The plan was saved as {path}.")

    # How it is laid out.

    def _make_body(self) -> QWidget:
        self.method = combo("Method", [(words, value) for words, value, _ in METHODS])
        self.slider = BudgetSlider()
        self._throttle = QTimer(self, interval=0, singleShot=True)
        self._throttle.timeout.connect(self.replan)
        self.slider.valueChanged.connect(self._slid)
        self.method.currentIndexChanged.connect(self._method_changed)
        self.readings = {name: label("–", "number") for name in ("size", "bits", "kl")}
        left = column(self._make_budget(), self._make_table(), spacing=12)
        left.setStretch(1, 1)
        left_side, right_side = QWidget(), QWidget()
        left_side.setLayout(left)
        self.chart = ParetoChart()
        chart_card = card(
            column(
                row(
                    label("Size against quality", "heading"),
                    None,
                    hint(
                        "The line is the least predicted KL at each size. The filled point is this plan as "
                        "predicted; a ring with an error bar was measured on held-out text (Verify). Squares "
                        "are uniform formats, as predicted; choose one as the method to verify it too."
                    ),
                ),
                self.chart,
            )
        )
        self.measured = _MeasuredCard()
        right = column(chart_card, self.measured, spacing=12)
        right.setStretch(0, 1)
        right_side.setLayout(right)
        return self.splitter("plan", Qt.Orientation.Horizontal, left_side, right_side, sizes=(730, 306))

    def _make_budget(self) -> QWidget:
        grid = QGridLayout()
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(0)
        for place, (name, words) in enumerate(
            (
                ("size", "Size of all weights"),
                ("bits", "Average bits"),
                ("kl", "Predicted KL, nats per token"),
            )
        ):
            grid.addWidget(label(words, "secondary"), 0, place)
            self.readings[name].setFont(theme.text_font(13, semibold=True))
            grid.addWidget(self.readings[name], 1, place)
            grid.setColumnStretch(place, 1)
        explain = hint(
            "The budget is the size of the exported weights with scales and everything kept in FP16, without "
            "the tokenizer. The predicted KL adds up what each weight does alone."
        )
        self.over = label("", "bad")
        self.over.hide()
        top = row(label("Method", "secondary"), self.method, None, explain)
        return card(column(top, grid, self.over, self.slider, spacing=10))

    def _make_table(self) -> QWidget:
        self.table = PlanTable(self)
        self.table.wanted.connect(lambda weight, name: self.pin({weight: name}))
        self.filter = PlanFilter(self.table)
        self.view = PlanView()
        self.view.setModel(self.filter)
        set_up_table(self.view, "Weights and their formats", stretch=-1)
        self.view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.view.setSortingEnabled(True)
        self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.view.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.SelectedClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
            | QAbstractItemView.EditTrigger.AnyKeyPressed
        )
        self.view.setItemDelegateForColumn(FORMAT, FormatDelegate(self.view))
        numbers = NumberDelegate(self.view)
        for place in (LOSS, SIZE):
            self.view.setItemDelegateForColumn(place, numbers)
        for place, width in ((KIND, 92), (SHAPE, 100), (FORMAT, 126), (LOSS, 136), (SIZE, 74)):
            self.view.setColumnWidth(place, width)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Filter: name, kind or format")
        self.search.setAccessibleName("Filter the weights")
        self.search.setClearButtonEnabled(True)
        self.search.setMinimumWidth(110)
        self.search.textChanged.connect(self.filter.setFilterFixedString)
        self.set_selected = QPushButton("Set…")
        self.set_selected.setProperty("menu", "true")
        self.set_selected.setAutoDefault(False)
        self.set_selected.setAccessibleName("Set the format of the selected weights")
        self.set_selected.setToolTip("Pin the selected weights to one format")
        self._formats = QMenu(self.set_selected)
        self.set_selected.setMenu(self._formats)
        undo = tool("undo", "Undo (Ctrl+Z)", self.undo.undo)
        redo = tool("redo", "Redo (Ctrl+Y)", self.undo.redo)
        for action, widget in ((self.undo.canUndoChanged, undo), (self.undo.canRedoChanged, redo)):
            widget.setEnabled(False)
            action.connect(widget.setEnabled)
        for keys, act in (
            (QKeySequence.StandardKey.Undo, self.undo.undo),
            (QKeySequence.StandardKey.Redo, self.undo.redo),
        ):
            QShortcut(QKeySequence(keys), self).activated.connect(act)
        self.reset_button = button(
            "Reset", self.reset, tip="Reset to the algorithm: remove all pins; can be undone"
        )
        top = row(self.search, self.set_selected, undo, redo, self.reset_button)
        top.setStretch(0, 1)
        return card(column(top, self.view))

    # How it follows the session.

    def _new_model(self) -> None:
        self._measured, self.pins = [], {}
        self.undo.clear()
        self._new_scores()

    def _new_scores(self) -> None:
        scores = self.session.scores
        model = self.session.model
        self._empty_button.setText("Measure sensitivity" if model else "Choose a model")
        usable = scores is not None and bool(scores.entries)
        self._draft = Draft(scores) if scores is not None and usable else None
        self.stack.setCurrentIndex(1 if usable else 0)
        self.table.show_draft(self._draft)
        if self._draft is not None:
            self._fill_methods(self._draft)
            self.slider.set_marks(self._marks(self._draft))
            self.chart.show_draft(self._draft)
            if self.session.plan is None:
                wanted = (
                    round(DEFAULT_BITS / 8 * sum(o.parameters for o in self._draft.options))
                    + self._draft.fixed
                )
                self._move_slider(wanted)
                self.replan()
            else:
                self._take_plan()
        self._show_actions()

    def _take_plan(self) -> None:
        """Show the session's plan; one from elsewhere brings its method, budget and pins along."""
        plan = self.session.plan
        if plan is None or self._draft is None:
            self.sentence.setText("")
            self._show_actions()
            return
        if plan is not self._own_plan:
            try:
                self._draft.totals(plan.assignments)
            except InputError as error:
                self.session.say("warning", f"{error} The plan can be exported, but not weighed here.")
                return
            self._own_plan = plan
            self.pins = {w: plan.assignments[w] for w in plan.pins if w in plan.assignments}
            self.undo.clear()
            self._choose_method(plan.method)
            self._move_slider(
                int(plan.predicted["bytes"] or 0)
                if "bytes" not in (plan.budget or {})
                else int((plan.budget or {})["bytes"])
            )
        if plan.measured and all(p.assignments != plan.assignments for p in self._measured):
            self._measured.append(plan)
        self._assignments = plan.assignments
        self.slider.setEnabled(not plan.method.startswith("uniform-"))
        self._show(plan)

    def _show(self, plan: Plan) -> None:
        assert self._draft is not None
        totals = self._draft.totals(plan.assignments)
        self.readings["size"].setText(quantities.size(totals.bytes))
        self.readings["bits"].setText(f"{totals.bits:.2f}")
        self.readings["kl"].setText(quantities.plus_minus(totals.kl, totals.se))
        self.slider.setAccessibleDescription(
            f"{quantities.size(totals.bytes)}, {totals.bits:.2f} bits on average"
        )
        over = totals.bytes - self.budget
        uniform = plan.method.startswith("uniform-")
        self.over.setVisible(over > 0 and bool(self.pins) and not uniform)
        self.over.setText(f"The pins take {quantities.size(max(over, 0))} more than the budget.")
        self.table.show_plan(plan.assignments, self.pins)
        self.measured.show_plan(plan)
        self.sentence.setText(summary(plan, self._draft))
        self._show_chart()
        self._show_actions()

    def _show_chart(self) -> None:
        if self._draft is not None and self.session.plan is not None:
            try:
                self.chart.show_plan(self.session.plan, self._measured)
            except InputError:
                return  # said when the plan was opened

    def _show_actions(self) -> None:
        ready = self._draft is not None and self.session.plan is not None
        for widget in (self.save_button, self.next):
            widget.setEnabled(ready)
        self.open_button.setEnabled(self.session.model is not None)
        self.open_button.setToolTip("Open a plan file for this model" if self.session.model else MISSING)
        self.reset_button.setEnabled(bool(self.pins))
        self.verify.refresh()

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if self.session.plan is None:
            return "There is no plan yet; measure sensitivity first"
        return "This plan is verified already" if self.session.plan.measured else ""

    def _verify(self) -> None:
        session = self.session
        assert session.model is not None
        assert session.plan is not None
        path = session.workspace.plan
        try:
            save_plan(path, session.plan)
        except InputError as error:
            session.say_error(error)
            return
        session.job.start(Step("verify", {"model": session.model.reference, "plan": str(path)}))

    def _fill_methods(self, draft: Draft) -> None:
        kept = self.method.currentData()
        self.method.blockSignals(True)
        self.method.clear()
        for words, value, tip in METHODS:
            self.method.addItem(words, value)
            self.method.setItemData(self.method.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        for name in draft.formats:
            self.method.addItem(f"Uniform {parse_format(name).label}", f"uniform-{name}")
        self.method.setCurrentIndex(max(self.method.findData(kept), 0))
        self.method.blockSignals(False)
        self._formats.clear()
        for name in draft.formats:
            self._formats.addAction(parse_format(name).label, partial(self._pin_selected, name))
        self._formats.addSeparator()
        self._formats.addAction("As the algorithm chooses", lambda: self._pin_selected(None))

    def _choose_method(self, method: str) -> None:
        self.method.blockSignals(True)
        if self.method.findData(method) < 0:
            self.method.addItem(method, method)
        self.method.setCurrentIndex(self.method.findData(method))
        self.method.blockSignals(False)

    def _pin_selected(self, name: str | None) -> None:
        rows = [self.filter.mapToSource(index).row() for index in self.view.selectionModel().selectedRows()]
        self.pin({self.table.weight(index): name for index in rows})

    def _marks(self, draft: Draft) -> dict[int, str]:
        marks = {}
        for name in draft.formats[1:]:
            marks[self._place(draft.uniform(name).bytes)] = parse_format(name).label
        return marks

    def _place(self, size: int) -> int:
        assert self._draft is not None
        low, high = self._draft.smallest, self._draft.largest
        return min(max(round(STEPS * (size - low) / max(high - low, 1)), 0), STEPS)

    def _move_slider(self, size: int) -> None:
        self.slider.blockSignals(True)
        self.slider.setValue(self._place(size))
        self.slider.blockSignals(False)
        self.slider.update()

    def _slid(self, value: int) -> None:
        near = min(self.slider.marks, key=lambda mark: abs(mark - value), default=None)
        if self.slider.isSliderDown() and near is not None and abs(near - value) <= SNAP and near != value:
            self.slider.setValue(near)
            return
        self._throttle.start()

    def _method_changed(self) -> None:
        method = self.method.currentData()
        if self._draft is not None and method.startswith("uniform-"):
            self._move_slider(self._draft.uniform(method.removeprefix("uniform-")).bytes)
        self.replan()

    def _to_sensitivity(self) -> None:
        self._window.show_page("Sensitivity" if self.session.model else "Model")


class _SetPins(QUndoCommand):
    def __init__(self, page: PlanPage, before: dict[str, str], after: dict[str, str], words: str) -> None:
        super().__init__(words)
        self._page, self._before, self._after = page, dict(before), dict(after)

    def redo(self) -> None:
        self._page.set_pins(self._after)

    def undo(self) -> None:
        self._page.set_pins(self._before)


class BudgetSlider(QSlider):
    """A slider with labelled marks below, on which it settles when drawn near."""

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.marks: dict[int, str] = {}
        self.setRange(0, STEPS)
        self.setSingleStep(2)
        self.setPageStep(50)
        self.setAccessibleName("Budget")
        self.setMinimumHeight(58)

    def set_marks(self, marks: dict[int, str]) -> None:
        self.marks = marks
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(300, 58)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        colours = theme.colours()
        metrics = self.fontMetrics()
        span, middle = self.width() - 18, self.height() // 2
        taken = -1000
        for place, text in sorted([*self.marks.items(), (STEPS, "FP16")]):
            x = round(9 + span * place / STEPS)
            width = metrics.horizontalAdvance(text)
            left = min(max(x - width // 2, 0), self.width() - width)
            painter.setPen(QPen(QColor(colours.edge), 1))
            painter.drawLine(QPoint(x, middle + 5), QPoint(x, middle + 10))
            if left > taken + 6:
                painter.setPen(QColor(colours.secondary))
                painter.drawText(QPoint(left, self.height() - 4), text)
                taken = left + width


class ParetoChart(Chart):
    """Size against KL: the front, this plan, what was measured, and the uniform formats."""

    def __init__(self) -> None:
        self._draft: Draft | None = None
        self._plan: Plan | None = None
        self._measured: list[Plan] = []
        self._point: pg.ScatterPlotItem | None = None
        super().__init__("Size against KL", "size, MB", "KL, nats per token", log_y=True)

    def show_draft(self, draft: Draft) -> None:
        self._draft, self._plan = draft, None
        self.redraw()

    def show_plan(self, plan: Plan, measured: list[Plan]) -> None:
        """Move this plan's point; draw the rest anew only if it changed, for the slider's sake."""
        same = self._measured == measured
        self._plan, self._measured = plan, list(measured)
        if same and self._point is not None:
            self._place_point()
        else:
            self.redraw()

    def redraw(self) -> None:
        self.clear()
        self._point = None
        draft = self._draft
        if draft is None:
            return
        colours = theme.colours()
        points = [(draft.fixed + p.bytes, p.loss) for p in draft.front().points if p.loss > 0]
        if not points:
            return
        x, y = np.array([p[0] for p in points]) / 1e6, np.log10([p[1] for p in points])
        self.addItem(pg.PlotDataItem(x, y, pen=pg.mkPen(colours.accent, width=1.5)))
        for name in draft.formats[1:]:
            totals = draft.uniform(name)
            if totals.kl > 0:
                place = totals.bytes / 1e6, float(np.log10(totals.kl))
                self.mark(
                    *place, size=9, fill=theme.format_colour(name), edge=colours.text, symbol="s", width=1
                )
                self.label_at(*place, parse_format(name).label, anchor=(-0.12, 0.85))
        for plan in self._measured:
            if plan.measured:
                self._ring(int(plan.predicted["bytes"] or 0), plan.measured["kl_pq"], colours.text)
        self._point = pg.ScatterPlotItem(
            size=11, brush=pg.mkBrush(colours.accent), pen=pg.mkPen(colours.surface, width=1.5)
        )
        self.addItem(self._point)
        self._place_point()
        low = max(float(y.min()), -7.0)
        self.setRange(
            xRange=(draft.smallest / 1e6, draft.largest / 1e6),
            yRange=(low, float(y.max()) + 0.35),
            padding=0.05,
        )

    def _place_point(self) -> None:
        assert self._draft is not None
        assert self._point is not None
        totals = self._draft.totals(self._plan.assignments) if self._plan else None
        if totals is None or totals.kl <= 0:  # all FP16 has no place on a log axis
            self._point.setData([], [])
        else:
            self._point.setData([totals.bytes / 1e6], [float(np.log10(totals.kl))])

    def _ring(self, size: int, kl: dict[str, Any], colour: str) -> None:
        mean, se = kl["mean"], kl.get("se") or 0.0
        if mean <= 0:
            return
        place = size / 1e6, float(np.log10(mean))
        above = float(np.log10((mean + se) / mean))
        below = float(np.log10(mean / max(mean - se, mean / 10)))
        self.error_bar(*place, below, above, colour)
        self.mark(*place, size=12, fill=None, edge=colour, width=2)


class _MeasuredCard(QWidget):
    """Prediction beside measurement."""

    def __init__(self) -> None:
        super().__init__()
        self._figures: dict[str, QLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for index, (key, words) in enumerate(
            (
                ("predicted", "KL predicted"),
                ("kl", "KL measured"),
                ("top1", "Top-1 agreement"),
                ("perplexity", "Perplexity"),
                ("full", "… in full precision"),
            )
        ):
            self._figures[key] = label("–", select=True)
            self._figures[key].setFont(theme.text_font())
            grid.addWidget(label(words, "secondary"), index, 0)
            grid.addWidget(self._figures[key], index, 1)
        self._words = label("", "secondary", wrap=True)
        frame = card(column(label("On held-out text", "heading"), grid, self._words))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(frame)

    def show_plan(self, plan: Plan) -> None:
        kl = plan.predicted.get("kl")
        texts = {
            "predicted": "–"
            if kl is None
            else quantities.plus_minus(kl, plan.predicted.get("se") or 0.0, "nats")
        }
        measured = plan.measured or {}
        for key, name, unit in (
            ("kl", "kl_pq", "nats"),
            ("top1", "top1_agreement", ""),
            ("perplexity", "perplexity", ""),
            ("full", "perplexity_full", ""),
        ):
            value = measured.get(name)
            texts[key] = (
                quantities.plus_minus(value["mean"], value["se"], unit) if value else "not measured yet"
            )
        for key, text in texts.items():
            self._figures[key].setText(text)
        read = measured.get("text")
        self._words.setText(
            f"{read['tokens']:,} tokens of {read['name']}"
            if read
            else "Verify measures the whole plan at once, on text that no weight was scored on."
        )
