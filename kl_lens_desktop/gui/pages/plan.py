"""Plan: a budget slider, the weights with overrides, the Pareto front, and the measurement of the whole."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import (
    QKeySequence,
    QShortcut,
    QUndoCommand,
    QUndoStack,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QGridLayout,
    QLineEdit,
    QMenu,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QWidget,
)

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui import quantities, theme
from kl_lens_desktop.gui.budget_slider import STEPS, BudgetSlider
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
from kl_lens_desktop.gui.limits import LimitsButton
from kl_lens_desktop.gui.measured_card import MeasuredCard
from kl_lens_desktop.gui.pareto import FAMILIES, ParetoChart
from kl_lens_desktop.gui.plan_difference import DifferenceDialog, titled
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
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.plan.propose import constraints_of
from kl_lens_desktop.quant.formats import DEFAULT_BITS, parse_format

if TYPE_CHECKING:
    from kl_lens_desktop.gui.window import Window

SNAP = 8  # slider steps around a mark within which the slider settles on it
BUDGETS = (("MB", "mb"), ("bits", "bits"), ("nats of KL", "kl"), ("% perplexity", "perplexity"))
METHODS = (
    ("KL full‖quantized", "kl", "At each size the predictions that are least far from the original's (KL)"),
    ("SQNR", "sqnr", "At each size the least noise in the logits, as a share of them"),
    ("Logit error (MSE)", "mse", "At each size the least mean squared error of the logits"),
    ("Cross-entropy (ΔCE)", "delta-ce", "At each size the least added cross-entropy of the calibration text"),
    (
        "The paper's greedy",
        "paper",
        "One list of all steps down by KL(quantized‖full), taken from the mildest on",
    ),
)


class PlanPage(Page):
    """Method, budget and pins on the left; the front and the measurement on the right."""

    def __init__(self, session: Session, window: "Window") -> None:
        super().__init__(session, "Which format for which weight")
        self._window = window
        self._draft: Draft | None = None
        self._shown: Plan | None = None  # the session's plan, if these scores can weigh it
        self._assignments: dict[str, str] = {}
        self._measured: list[Plan] = []
        self.budget = 0  # bytes of all exported weights, known more finely than the slider can say
        self.pins: dict[str, str] = {}
        self.limits = Constraints()
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
        self.repair = JobButton(
            "Repair",
            session,
            self._missing_for_repair,
            self._repair,
            "Exchange formats at equal bytes as long as that lowers the joint KL, measured on a third text, "
            "then verify; what is found is kept when you cancel",
        )
        self.baselines = JobButton(
            "Baselines",
            session,
            self._missing_for_baselines,
            self._measure_baselines,
            "Measure uniform formats, NNCF's own mixed precision, other metrics, the paper's plans and "
            "chance at about this plan's size, on the same held-out text",
        )
        self.compare_button = button(
            "Compare…", self.compare, tip="This plan side by side with another, by block and kind"
        )
        self.open_button = button("Open…", self.choose_plan, tip="Open a plan file for this model")
        self.save_button = button("Save…", self.save, tip="Save this plan as a JSON file (Ctrl+S)")
        self.next = button("Export →", lambda: window.show_page("Export"), "primary")
        self.body.addWidget(self.sentence)
        self.lead_back("Sensitivity", window.show_page)
        self.foot.addStretch(1)
        for widget in (
            self.open_button,
            self.save_button,
            self.compare_button,
            self.baselines,
            self.repair,
            self.verify,
            self.next,
        ):
            self.foot.addWidget(widget)
        session.model_changed.connect(self._new_model)
        session.scores_changed.connect(self._new_scores)
        session.plan_changed.connect(self._take_plan)
        session.baselines_changed.connect(self._take_baselines)
        session.consent_wanted.connect(self._ask_consent)
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
        method, limits = self.method.currentData(), self.constraints
        try:
            self._assignments = self._draft.assign(method, self.budget, limits)
        except InputError as error:
            self.session.say_error(error)
            return
        plan = self._draft.plan(method, self.budget, limits, self._assignments)
        known = next((p for p in self._measured if p.assignments == plan.assignments), None)
        self._shown = plan.with_measured(known.measured) if known and known.measured else plan
        self.session.set_plan(self._shown)

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
        """Give every weight back to the algorithm, exchanges of a repair included; can be undone."""
        if self.pins or self._is_repaired():
            self.undo.push(_SetPins(self, self.pins, {}, "reset to the algorithm"))

    def set_pins(self, pins: dict[str, str], plan: Plan | None = None) -> None:
        """Plan anew with these pins or, where it was not the algorithm's, show the `plan` they came with."""
        self.pins = dict(pins)
        if plan is None:
            self.replan()
        else:
            self._shown = plan
            self.session.set_plan(plan)

    @property
    def constraints(self) -> Constraints:
        """The limits with the pins of the moment."""
        return replace(self.limits, pins=dict(self.pins))

    def set_limits(self, limits: Constraints) -> None:
        """Plan under other limits; refused in words where they leave a weight no format."""
        before, self.limits = self.limits, replace(limits, pins={})
        if self._draft is not None:
            try:
                self._draft.front("kl", self.constraints)
            except InputError as error:
                self.limits = before
                self.session.say_error(error)
        self.limits_button.show_limits(self.limits)
        self.replan()

    def set_budget(self, value: float, unit: str) -> None:
        """Spend a budget in ``mb``, ``bits``, ``kl`` (nats per token) or ``perplexity`` (per cent more)."""
        draft = self._draft
        if draft is None:
            return
        if unit == "mb":
            size = int(value * 1e6)
        elif unit == "bits":
            size = draft.bytes_of_bits(value)
        else:
            limit = value if unit == "kl" else math.log1p(value / 100)
            size = draft.within_loss(limit, self.constraints)
        self._allow(size)
        self.replan()

    def compare(self) -> None:
        """Show this plan beside another."""
        if self._draft is not None and self.session.plan is not None and (others := self._others()):
            self._dialog = DifferenceDialog(self.session.plan, others, self._draft.options, self)
            self._dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            self._dialog.open()

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
                        "predicted; a ring with an error bar was measured on held-out text (Verify). "
                        "Coloured squares are uniform formats as predicted. Baselines measures the others, "
                        "each kind with a symbol of its own; point at one to see which it is."
                    ),
                ),
                self.chart,
                self._make_key(),
            )
        )
        self.measured = MeasuredCard()
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
        self._shown_exact = ""
        self.exact = QLineEdit()
        self.exact.setAccessibleName("Budget as a number")
        self.exact.setToolTip("A budget as a number: type it and press Enter")
        self.exact.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.exact.setFixedWidth(84)
        self.unit = combo("Unit of the budget", BUDGETS)
        self.exact.editingFinished.connect(self._budget_typed)
        self.unit.currentIndexChanged.connect(self._show_exact)
        self.limits_button = LimitsButton()
        self.limits_button.chosen.connect(self.set_limits)
        top = row(label("Method", "secondary"), self.method, self.limits_button, None, explain)
        spend = row(self.slider, self.exact, self.unit)
        spend.setStretch(0, 1)
        return card(column(top, grid, self.over, spend, spacing=10))

    def _make_key(self) -> QWidget:
        """Which symbol is whose; it shows once there are baselines."""
        self._key = label("", "secondary", wrap=True)
        marks = {"s": "□", "t1": "△", "d": "◇", "p": "⬠", "x": "×"}
        words = (
            f"{marks[family.symbol]} {family.words}".replace(" ", "\N{NO-BREAK SPACE}") for family in FAMILIES
        )
        self._key.setText("   ".join(words))
        self._key.setAccessibleName("Symbols of the baselines")
        self._key.hide()
        return self._key

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
        for place, width in ((KIND, 100), (SHAPE, 106), (FORMAT, 136), (LOSS, 114), (SIZE, 72)):
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
        self._measured, self.pins, self.limits = [], {}, Constraints()
        self.limits_button.show_limits(self.limits)
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
                self._allow(self._draft.bytes_of_bits(DEFAULT_BITS))
                self.replan()
            else:
                self._allow(self.budget)
                self._take_plan()
        self._show_actions()

    def _take_plan(self) -> None:
        """Show the session's plan; one from elsewhere brings its method, budget and pins along."""
        plan = self.session.plan
        if plan is None or self._draft is None:
            self._show_nothing()
            return
        try:
            self._draft.totals(plan.assignments)
        except InputError as error:
            self._show_nothing()
            self.session.say("warning", f"{error} The plan can be exported, but not weighed here.")
            return
        if plan is not self._shown:
            self._shown = plan
            self.undo.clear()
            limits = constraints_of(plan)
            self.pins, self.limits = dict(limits.pins), replace(limits, pins={})
            self.limits_button.show_limits(self.limits)
            self._choose_method(plan.method)
            self._allow(
                int(plan.predicted["bytes"] or 0)
                if "bytes" not in (plan.budget or {})
                else int((plan.budget or {})["bytes"])
            )
        if plan.measured and all(p.assignments != plan.assignments for p in self._measured):
            self._measured.append(plan)
        self._assignments = plan.assignments
        self.slider.setEnabled(not plan.method.startswith("uniform-"))
        self._show(plan)

    def _show_nothing(self) -> None:
        self._shown = None
        self.sentence.setText("")
        self._show_actions()

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
        self.sentence.setText(summary(plan, self._draft, self.session.baselines))
        self._show_exact()
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
        self.compare_button.setEnabled(ready and bool(self._others()))
        self.open_button.setEnabled(self.session.model is not None)
        self.open_button.setToolTip("Open a plan file for this model" if self.session.model else MISSING)
        self.reset_button.setEnabled(bool(self.pins) or self._is_repaired())
        for widget in (self.verify, self.repair, self.baselines):
            widget.refresh()

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if self.session.plan is None:
            return "There is no plan yet; measure sensitivity first"
        return "This plan is verified already" if self.session.plan.measured else ""

    def _missing_for_repair(self) -> str:
        if self.session.plan is not None and self.session.plan.method.startswith("uniform-"):
            return "A uniform plan has nothing to exchange; choose another method"
        return self._missing() if self.session.plan is None else ""

    def _missing_for_baselines(self) -> str:
        if self.session.model is None or self.session.plan is None:
            return self._missing()
        return (
            "" if self.session.plan.measured else "Verify this plan first, to have something to compare with"
        )

    def _verify(self) -> None:
        self._start("verify")

    def _repair(self) -> None:
        self._start("verify", repair=True, scores=str(self.session.workspace.scores))

    def _measure_baselines(self) -> None:
        work = self.session.workspace
        self._start("baselines", scores=str(work.scores), out=str(work.baselines))

    def _start(self, task: str, **params: object) -> None:
        session = self.session
        assert session.model is not None
        assert session.plan is not None
        path = session.workspace.plan
        try:
            save_plan(path, session.plan)
        except InputError as error:
            session.say_error(error)
            return
        session.job.start(Step(task, {"model": session.model.reference, "plan": str(path), **params}))

    def _take_baselines(self) -> None:
        self.chart.show_baselines(self.session.baselines)
        self._key.setVisible(bool(self.session.baselines))
        if self._shown is not None and self._draft is not None:
            self.sentence.setText(summary(self._shown, self._draft, self.session.baselines))
        self._show_actions()

    def _ask_consent(self, path: Path, differs: str) -> None:
        """Names and shapes match, the weights do not: only a person can say whether it is meant."""
        question = QMessageBox(self)
        question.setIcon(QMessageBox.Icon.Question)
        question.setWindowTitle("A plan of another revision")
        question.setText(f"{path.name} was made for other weights of the same names and shapes: {differs}.")
        question.setInformativeText(
            "Its figures do not hold here and are dropped. Apply its formats to this model all the same?"
        )
        accept = question.addButton("Apply", QMessageBox.ButtonRole.AcceptRole)
        question.addButton("Leave it", QMessageBox.ButtonRole.RejectRole)
        question.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        accept.clicked.connect(lambda: self.session.load_plan(path, consent=True))
        self._question = question
        question.open()

    def _others(self) -> list[tuple[str, Plan]]:
        """What this plan can be compared with: the algorithm's own, what was measured, the baselines."""
        plan, draft = self.session.plan, self._draft
        if plan is None or draft is None:
            return []
        found: dict[str, Plan] = {}
        if self.pins or self._is_repaired():
            free = draft.assign("kl", self.budget, self.limits)
            found["KL, as the algorithm chooses"] = draft.plan("kl", self.budget, self.limits, free)
        for other in [*reversed(self._measured), *self.session.baselines]:
            if other.assignments != plan.assignments:
                found.setdefault(titled(other), other)
        for name in draft.formats:
            uniform = {option.weight: name for option in draft.options}
            if uniform != plan.assignments:
                method = f"uniform-{name}"
                other = draft.plan(method, self.budget, Constraints(), uniform)
                found.setdefault(titled(other), other)
        return list(found.items())

    def _is_repaired(self) -> bool:
        plan = self.session.plan
        return plan is not None and "repaired_on" in plan.provenance

    def _budget_typed(self) -> None:
        if self.exact.text() == self._shown_exact:
            return
        try:
            value = float(self.exact.text().replace(",", "."))
        except ValueError:
            value = math.nan
        if 0 <= value < 1e9:
            self.set_budget(value, self.unit.currentData())
        else:
            self.session.say("warning", f"{self.exact.text()!r} is not a budget. Give a number from 0 up.")
            self._show_exact()

    def _show_exact(self) -> None:
        """The plan in the unit chosen, until a person types something else."""
        if self._draft is None or self._shown is None:
            return
        totals = self._draft.totals(self._shown.assignments)
        value = {
            "mb": totals.bytes / 1e6,
            "bits": totals.bits,
            "kl": totals.kl,
            "perplexity": 100 * math.expm1(min(totals.kl, 100)),
        }[self.unit.currentData()]
        self._shown_exact = quantities.significant(value, 4).replace(",", "")
        self.exact.setText(self._shown_exact)

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

    def _allow(self, size: int) -> None:
        """Take a budget without asking for a plan."""
        assert self._draft is not None
        self.budget = min(max(size, self._draft.smallest), self._draft.largest)
        self.slider.blockSignals(True)
        self.slider.setValue(self._place(self.budget))
        self.slider.blockSignals(False)
        self.slider.update()

    def _slid(self, value: int) -> None:
        near = min(self.slider.marks, key=lambda mark: abs(mark - value), default=None)
        if self.slider.isSliderDown() and near is not None and abs(near - value) <= SNAP and near != value:
            self.slider.setValue(near)
            return
        if self._draft is not None:
            low, high = self._draft.smallest, self._draft.largest
            self.budget = low + round((high - low) * value / STEPS)
        self._throttle.start()

    def _method_changed(self) -> None:
        method = self.method.currentData()
        if self._draft is not None and method.startswith("uniform-"):
            self._allow(self._draft.uniform(method.removeprefix("uniform-")).bytes)
        self.replan()

    def _to_sensitivity(self) -> None:
        self._window.show_page("Sensitivity" if self.session.model else "Model")


class _SetPins(QUndoCommand):
    """Undone, it brings back a plan that was not the algorithm's own: one repaired by measuring."""

    def __init__(self, page: PlanPage, before: dict[str, str], after: dict[str, str], words: str) -> None:
        super().__init__(words)
        self._page, self._before, self._after = page, dict(before), dict(after)
        plan = page.session.plan
        self._plan = plan if plan is not None and "repaired_on" in plan.provenance else None

    def redo(self) -> None:
        self._page.set_pins(self._after)

    def undo(self) -> None:
        self._page.set_pins(self._before, self._plan)
