"""Plan: a budget slider, the weights with overrides, the Pareto front, and the measurement of the whole."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QUndoCommand, QUndoStack
from PySide6.QtWidgets import QFileDialog, QMenu, QMessageBox, QSizePolicy, QStackedWidget, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.jobs import PricesJob
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.gui.kit.controls import (
    Empty,
    Frame,
    JobAction,
    JobButton,
    Page,
    button,
    card,
    column,
    hint,
    label,
    row,
)
from kl_lens_desktop.gui.kit.pictures import Taken
from kl_lens_desktop.gui.kit.saving import ask_where
from kl_lens_desktop.gui.kit.share import choose_and_share
from kl_lens_desktop.gui.kit.words import explain_action, message_box
from kl_lens_desktop.gui.plan.budget_card import BudgetCard
from kl_lens_desktop.gui.plan.difference import DifferenceDialog, titled
from kl_lens_desktop.gui.plan.draft import DEVICE_UNITS, Draft, summary
from kl_lens_desktop.gui.plan.measured_card import MeasuredCard
from kl_lens_desktop.gui.plan.pareto import FAMILIES, ParetoChart
from kl_lens_desktop.gui.plan.verdict_line import VerdictLine
from kl_lens_desktop.gui.plan.weights_card import WeightsCard
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import MISSING, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.constraints import Constraints, overruled
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.plan.prices import known_prices
from kl_lens_desktop.plan.propose import beyond, constraints_of
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.quant.formats import DEFAULT_BITS
from kl_lens_desktop.sensitivity.scores import Scores

_BUDGET = 1  # changes of the slider are merged; those of a gesture on the chart too, by numbers above this


class PlanPage(Page):
    """Method, budget and pins on the left; the front and the measurement on the right."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("Which format for which weight"))
        self._window = window
        self._draft: Draft | None = None
        self._shown: Plan | None = None  # the session's plan, if these scores can weigh it
        self._measured: list[Plan] = []
        self.pins: dict[str, str] = {}
        self.limits = Constraints()
        self._on_device: tuple[float, str] | None = None  # a budget of speed or memory, until another is set
        self.undo = QUndoStack(self)
        self._last: _State | None = None  # what the next change begins with
        self.stack = QStackedWidget()
        self._empty_button = button(tr("Measure sensitivity"), self._to_sensitivity, "primary")
        self.stack.addWidget(
            Empty(
                "plan",
                tr("No scores yet"),
                tr(
                    "A plan balances size against quality for each weight. Measure sensitivity "
                    "first; then the plan follows the slider."
                ),
                self._empty_button,
            )
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.sentence = label("", wrap=True, select=True)
        self.sentence.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.body.addWidget(self.sentence)
        self._make_actions()
        self._listen()
        self.tell_stage("Plan")
        self._new_scores()
        self._take_plan()

    def _make_actions(self) -> None:
        """The buttons of the foot."""
        session, window = self.session, self._window
        self.verify = JobButton(
            tr("Verify"),
            session,
            self._missing,
            self._verify,
            tr("Measure the whole plan on text that was not used for scoring (F5)"),
        )
        self.repair = JobButton(
            tr("Repair"),
            session,
            self._missing_for_repair,
            self._repair,
            tr(
                "Improve the plan at the same size: exchange formats while that lowers the "
                "joint KL on a third text, round the weights again in sequence, then verify. "
                "If you cancel, the improvements so far are kept."
            ),
        )
        self.more = button(tr("More"), lambda: None)
        self.more.setProperty("menu", "true")
        menu = QMenu(self.more)
        menu.setToolTipsVisible(True)
        self.baselines = JobAction(
            tr("Measure baselines"),
            session,
            self._missing_for_baselines,
            self._measure_baselines,
            tr(
                "Measure other plans of about this size on the same held-out text: uniform "
                "formats, NNCF's mixed precision and its own rounding, other metrics, the "
                "paper's plans and random choice"
            ),
        )
        menu.addAction(self.baselines)
        self.compare_action = menu.addAction(tr("Compare with…"), self.compare)
        explain_action(self.compare_action, tr("Compare this plan with another, by block and kind"))
        menu.addSeparator()
        self.open_action = menu.addAction(tr("Open…"), self.choose_plan)
        self.save_action = menu.addAction(tr("Save…\tCtrl+S"), self.save)
        explain_action(self.save_action, tr("Save this plan as a JSON file"))
        self.share_action = menu.addAction(tr("Share…"), lambda: choose_and_share(session, self))
        explain_action(
            self.share_action,
            tr("Save the plan, scores and benchmark as one file to send, without weights and paths"),
        )
        self.more.setMenu(menu)
        self.next = button(tr("Export →"), lambda: window.show_page("Export"), "primary")
        self.lead_back("Sensitivity", window.show_page)
        self.foot.addStretch(1)
        for widget in (self.more, self.repair, self.verify, self.next):
            self.foot.addWidget(widget)

    def _listen(self) -> None:
        session = self.session
        session.model_changed.connect(self._new_model)
        session.scores_changed.connect(self._new_scores)
        session.plan_changed.connect(self._take_plan)
        session.baselines_changed.connect(self._take_baselines)
        session.consent_wanted.connect(self._ask_consent)
        session.job.started.connect(lambda _: self._show_actions())
        session.job.ended.connect(lambda _: self._show_actions())
        session.job.step_finished.connect(self._step_finished)

    def start(self) -> None:
        self.verify.click()

    # What a person does.

    def replan(self) -> bool:
        """Make the plan anew from method, budget and pins; under 50 ms for a budget of size.

        False, and the plan stays, where there is none: an error was shown.
        """
        if self._draft is None:
            return True
        method = self.budget.method.currentData()
        if not self._draft.plans_by(method):  # of a plan from elsewhere, which ends here
            method = "kl"
        try:
            plan = self._planned(self._draft, method)
        except InputError as error:
            self.session.say_error(error)
            return False
        known = next((p for p in self._measured if p.is_same_as(plan) and not p.rounded_by), None)
        self._shown = plan.with_measured(known.measured) if known and known.measured else plan
        self.session.set_plan(self._shown)
        return True

    def _planned(self, draft: Draft, method: str) -> Plan:
        limits = self.constraints
        if self._on_device and draft.prices is not None and not method.startswith("uniform-"):
            plan = draft.plan_on_device(*self._on_device, method, limits)
            self.budget.set_bytes(int(plan.predicted["bytes"] or 0))
            return plan
        assignments = draft.assign(method, self.budget.bytes, limits)
        return draft.plan(method, self.budget.bytes, limits, assignments)

    def pin(self, formats: dict[str, str | None]) -> None:
        """Decide the format of some weights by hand, or (None) leave them to the algorithm; can be undone."""
        after = {**self.pins, **{w: f for w, f in formats.items() if f is not None}}
        for weight, name in formats.items():
            if name is None:
                after.pop(weight, None)
        if after != self.pins:
            self._edit(
                tr("format of {count}").format(count=quantities.plural(len(formats), "weight")),
                lambda: self._replan_with(after),
            )

    def reset(self) -> None:
        """Give every weight back to the algorithm, exchanges of a repair included; can be undone."""
        if self.pins or self._is_improved():
            self._edit(tr("removal of all pins"), lambda: self._replan_with({}))

    def restore(self, state: "_State") -> None:
        """Show an earlier or later state of this page again."""
        self.pins, self.limits, self._shown, self._last = dict(state.pins), state.limits, state.plan, state
        self._on_device = state.on_device
        self.budget.limits_button.show_limits(self.limits)
        self.budget.set_bytes(state.bytes)
        self.session.set_plan(state.plan)

    def _replan_with(self, pins: dict[str, str]) -> None:
        before, self.pins = self.pins, dict(pins)
        if not self.replan():
            self.pins = before
            self._take_plan()

    def _edit(self, words: str, change: Callable[[], object], merge_id: int = -1) -> None:
        """Make a change that can be undone, and merged with one of the same id before it."""
        change()
        self._note_change(words, merge_id)

    def _note_change(self, words: str, merge_id: int = -1) -> None:
        before, plan = self._last, self.session.plan
        if plan is None:
            return
        self._last = after = _State(dict(self.pins), self.limits, self.budget.bytes, self._on_device, plan)
        if before is not None and not before.looks_like(after):
            self.undo.push(_Change(self, before, after, words, merge_id))

    def _forget_changes(self) -> None:
        self.undo.clear()
        self._last = None

    @property
    def constraints(self) -> Constraints:
        """The limits with the pins of the moment."""
        return replace(self.limits, pins=dict(self.pins))

    def set_limits(self, limits: Constraints) -> None:
        """Plan under other limits; refused in words where they leave a weight no format."""
        self._edit(tr("limits"), lambda: self._replan_under(limits))

    def _replan_under(self, limits: Constraints) -> None:
        before, self.limits = self.limits, replace(limits, pins={})
        if self._draft is not None:
            try:
                self._draft.front("kl", self.constraints)
            except InputError as error:
                self.limits = before
                self.session.say_error(error)
        if not self.replan():
            self.limits = before
        self.budget.limits_button.show_limits(self.limits)

    def set_budget(self, value: float, unit: str) -> None:
        """Spend a budget in ``mb``, ``bits``, ``kl`` (nats per token) or ``perplexity`` (per cent more).

        Where the device was measured also in ``speed`` (tokens/s, at least) or ``memory`` (MB, at most).
        """
        if (draft := self._draft) is None:
            return
        if any(unit == of_device for _, of_device in DEVICE_UNITS):
            self._edit(tr("budget"), lambda: self._spend_on_device(draft, value, unit))
        else:
            self._edit(tr("budget"), lambda: self._spend_within(draft, value, unit))

    def _spend_bytes(self, size: int) -> None:
        self._on_device = None
        self.budget.set_bytes(size)
        self.replan()

    def _spend_within(self, draft: Draft, value: float, unit: str) -> None:
        method = self._method_for_budget(draft)
        try:
            size = draft.bytes_within(value, unit, method, self.constraints)
        except InputError as error:
            self.session.say_error(error)
            return
        self.budget.take_method(method)
        self._spend_bytes(size)
        if unit in ("mb", "bits") and (sentence := draft.out_of_range(size)):
            self.session.say("warning", sentence)
        plan = self.session.plan
        if unit in ("kl", "perplexity") and plan is not None:
            limit = value if unit == "kl" else math.log1p(value / 100)
            if sentence := beyond(limit, plan.predicted["kl"] or 0):
                self.session.say("warning", sentence)

    def _method_for_budget(self, draft: Draft) -> str:
        """The chosen one; KL instead of a uniform format, which has a size and a speed of its own."""
        method: str = self.budget.method.currentData()
        return method if draft.plans_by(method) and not method.startswith("uniform-") else "kl"

    def _spend_on_device(self, draft: Draft, value: float, unit: str) -> None:
        """Refused in words where no plan is so fast or so small; then the budget before stays."""
        method = self._method_for_budget(draft)
        try:
            draft.plan_on_device(value, unit, method, self.constraints)
        except InputError as error:
            self.session.say_error(error)
            return
        self._on_device = value, unit
        self.budget.take_method(method)
        self.replan()

    def _replan_for_size(self) -> None:
        self._on_device = None
        self.replan()

    def spend(self, size: int, gesture: int) -> None:
        """Plan for a size that was pointed at on the front, by KL as the front is; a drag is one change."""

        def spend() -> None:
            if (self.budget.method.currentData() or "").startswith("uniform-"):
                self.budget.take_method("kl")
            self._spend_bytes(size)

        if self._draft is not None:
            self._edit(tr("budget"), spend, _BUDGET + gesture)

    def compare(self) -> None:
        """Show this plan beside another."""
        if self._draft is not None and self.session.plan is not None and (others := list(self._others())):
            self._dialog = DifferenceDialog(self.session.plan, others, self._draft.options, self)
            self._dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            self._dialog.open()

    def choose_plan(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, tr("Open a plan"), "", tr("Plans (*.json);;All files (*)")
        )
        if path:
            self.session.load_plan(Path(path))

    def save(self) -> None:
        """Ask for a name and save the plan."""
        plan = self.session.plan
        if plan is None or self.session.model is None:
            self.session.say("warning", tr("There is no plan to save. Measure sensitivity first."))
            return
        name = f"{Path(str(self.session.model.about['id'])).name}-plan.json"
        if path := ask_where(self, tr("Save the plan"), name, {tr("Plans (*.json)"): ".json"}):
            self.save_to(path)

    def save_to(self, path: Path) -> None:
        assert self.session.plan is not None
        try:
            save_plan(path, self.session.plan)
        except InputError as error:
            self.session.say_error(error)
        else:
            self.session.say("info", tr("Saved the plan as {path}.").format(path=path))

    # How it is laid out.

    def _make_body(self) -> QWidget:
        self.budget = BudgetCard(self.session)
        self.budget.changed.connect(lambda: self._edit(tr("budget"), self._replan_for_size, _BUDGET))
        self.budget.typed.connect(self.set_budget)
        self.budget.limits_button.chosen.connect(self.set_limits)
        self.budget.prices_wanted.connect(self._measure_prices)
        self.weights = WeightsCard(self.undo)
        self.weights.wanted.connect(self.pin)
        self.weights.reset_wanted.connect(self.reset)
        left = column(self.budget, self.weights, spacing=12)
        left.setStretch(1, 1)
        left_side, right_side = QWidget(), QWidget()
        left_side.setLayout(left)
        self.chart, self.verdict = ParetoChart(), VerdictLine()
        self.chart.wanted.connect(self.spend)
        chart_card = card(
            column(
                row(
                    label(tr("Size against quality"), "heading"),
                    None,
                    Taken(self.session, self.chart, "size-against-quality", self.chart.rows).button(),
                    hint(
                        tr(
                            "Click the line or drag along it to choose a size; the table, the map and "
                            "the verdict follow. The arrow keys go from point to point.\nThe line is the "
                            "lowest predicted KL for each size. The filled point is the prediction for "
                            "this plan; a ring with an error bar is measured on held-out text (Verify), "
                            "and a diamond is the same plan rounded to nearest. Coloured squares are "
                            "predictions for uniform formats. “Measure baselines” under More adds the "
                            "others. Point at a symbol to see its name."
                        )
                    ),
                ),
                self.chart,
                self._make_key(),
                self.verdict,
            )
        )
        self.measured = MeasuredCard()
        right = column(chart_card, self.measured, spacing=12)
        right.setStretch(0, 1)
        right_side.setLayout(right)
        return self.splitter("plan", Qt.Orientation.Horizontal, left_side, right_side, sizes=(730, 306))

    def _make_key(self) -> QWidget:
        """Which symbol is whose; it shows once there are baselines."""
        self._key = label("", "secondary", wrap=True)
        words = (f"{family.mark} {family.words}".replace(" ", "\N{NO-BREAK SPACE}") for family in FAMILIES)
        self._key.setText("   ".join(words))
        self._key.setAccessibleName(tr("Symbols of the baselines"))
        self._key.hide()
        return self._key

    # How it follows the session.

    def _new_model(self) -> None:
        self._measured, self.pins, self.limits = [], {}, Constraints()
        self.budget.limits_button.show_limits(self.limits)
        self._new_scores()

    def _new_scores(self) -> None:
        scores = self.session.scores
        model = self.session.model
        self._empty_button.setText(tr("Measure sensitivity") if model else tr("Choose a model"))
        usable = scores is not None and bool(scores.entries)
        self._draft = self._drafted(scores) if scores is not None and usable else None
        self._forget_changes()
        self.stack.setCurrentIndex(1 if usable else 0)
        self.weights.show_draft(self._draft)
        if self._draft is not None:
            self.budget.show_draft(self._draft)
            self.chart.show_draft(self._draft)
            if self.session.plan is None:
                self.budget.set_bytes(self._draft.bytes_of_bits(DEFAULT_BITS))
                self.replan()
                self._note_change("")
            else:
                self._take_plan()
        self._show_actions()

    def _drafted(self, scores: Scores) -> Draft:
        device = self.limits.device or "CPU"
        return Draft(scores, known_prices(device, scores.model.sha256, scores.weights), device)

    def _measure_prices(self) -> None:
        assert self.session.model is not None
        device = self.limits.device if self.limits.device != "NPU" else None
        self.session.start(Step(PricesJob(self.session.model.reference, device or "CPU")))

    def _step_finished(self, step: Step, _: object) -> None:
        if isinstance(step.job, PricesJob):
            self._new_scores()
            if self._draft is not None and self._draft.prices is None:
                self.session.say("warning", tr("The prices were measured on another model than the scores."))

    def _take_plan(self) -> None:
        """Show the session's plan; one from elsewhere brings its method, budget and pins along."""
        plan = self.session.plan
        if plan is None or self._draft is None:
            self._show_no_plan()
            return
        opened = plan is not self._shown
        if opened:
            limits = self._constraints_of(plan)
            self.pins, self.limits = dict(limits.pins), replace(limits, pins={})
            self.budget.limits_button.show_limits(self.limits)
        try:
            self._draft.totals(plan.assignments)
        except InputError as error:
            self._show_no_plan()
            self._forget_changes()
            self.weights.show_plan(plan.assignments, self.pins)
            self.measured.show_plan(plan)
            self.session.say(
                "warning",
                tr("{error} You can export the plan, but it has no prediction here.").format(error=error),
            )
            return
        if opened:
            self._shown, self._on_device = plan, None
            self.budget.set_bytes(int((plan.budget or {}).get("bytes") or plan.predicted["bytes"] or 0))
            self._note_change(tr("another plan"))
        if plan.measured:
            self._keep_measured(plan)
        self._show(plan)

    def _keep_measured(self, plan: Plan) -> None:
        """Keep a measurement for when its formats and integers come again; a new one replaces the earlier."""
        for place, known in enumerate(self._measured):
            if known.is_same_as(plan) and known.rounded_by == plan.rounded_by:
                if known.measured != plan.measured:
                    self._measured[place] = plan
                return
        self._measured.append(plan)

    def _constraints_of(self, plan: Plan) -> Constraints:
        try:
            return constraints_of(plan)
        except InputError as error:
            self.session.say(
                "warning", tr("{error} The plan is shown without its limits.").format(error=error)
            )
            return constraints_of(replace(plan, provenance={}))

    def _show_no_plan(self) -> None:
        self._shown = None
        self.budget.show_no_plan()
        self.chart.show_plan(None, self._measured, self.budget.bytes)
        self.verdict.show_plan(None, None)
        self.sentence.setText("")
        self._show_actions()

    def _show(self, plan: Plan) -> None:
        assert self._draft is not None
        self.budget.show_plan(plan, pinned=bool(self.pins))
        self.weights.show_plan(plan.assignments, self.pins)
        self.measured.show_plan(plan)
        self._say_summary(plan)
        self.chart.show_plan(plan, self._measured, self.budget.bytes)
        self.verdict.show_plan(plan, self._draft)
        self.chart.setAccessibleDescription(
            f"{quantities.size(plan.predicted['bytes'] or 0)}. {self.verdict.words.text()}. "
            f"{self.verdict.figures.text()}"
        )
        self._show_actions()

    def _show_actions(self) -> None:
        ready = self._draft is not None and self.session.plan is not None
        for widget in (self.save_action, self.share_action, self.next):
            widget.setEnabled(ready)
        self.compare_action.setEnabled(ready and any(self._others()))
        self.open_action.setEnabled(self.session.model is not None)
        explain_action(
            self.open_action, tr("Open a plan file for this model") if self.session.model else MISSING
        )
        self.weights.reset_button.setEnabled(bool(self.pins) or self._is_improved())
        for widget in (self.verify, self.repair, self.baselines, self.budget.prices):
            widget.refresh()

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if self.session.plan is None:
            return tr("Measure sensitivity first")
        return tr("This plan is already verified") if self.session.plan.measured else ""

    def _missing_for_repair(self) -> str:
        if self.session.plan is not None and self.session.plan.method.startswith("uniform-"):
            return tr("A uniform plan has no formats to exchange. Choose another method.")
        return self._missing() if self.session.plan is None else ""

    def _missing_for_baselines(self) -> str:
        if self.session.model is None or self.session.plan is None:
            return self._missing()
        return "" if self.session.plan.measured else tr("Verify this plan first, for comparison")

    def _verify(self) -> None:
        self._start(VerifyJob)

    def _repair(self) -> None:
        by = RepairSettings(scores=self.session.workspace.scores)
        self._start(lambda model, plan: VerifyJob(model, plan, repair=by, refine=True))

    def _measure_baselines(self) -> None:
        work = self.session.workspace
        self._start(lambda model, plan: BaselinesJob(model, work.scores, plan, work.baselines))

    def _start(self, made: Callable[[str, Path], Job[Any]]) -> None:
        """Save the plan, and start the job made for the model and the plan's file."""
        session = self.session
        assert session.model is not None
        assert session.plan is not None
        path = session.workspace.plan
        try:
            save_plan(path, session.plan)
        except InputError as error:
            session.say_error(error)
            return
        session.start(Step(made(session.model.reference, path)))

    def _take_baselines(self) -> None:
        self.chart.show_baselines(self.session.baselines)
        self._key.setVisible(bool(self.session.baselines))
        if self._shown is not None and self._draft is not None:
            self._say_summary(self._shown)
        self._show_actions()

    def _say_summary(self, plan: Plan) -> None:
        assert self._draft is not None
        kinds = {option.weight: option.kind for option in self._draft.options}
        pinned = {weight: name for weight, name in self.pins.items() if weight in kinds}
        words = summary(plan, self._draft, self.session.baselines)
        self.sentence.setText(" ".join([words, *overruled(pinned, kinds, self.limits)]))

    def _ask_consent(self, path: Path, differs: str) -> None:
        """Names and shapes match, the weights do not: only a person can say whether it is meant."""
        question = message_box(
            self,
            QMessageBox.Icon.Question,
            tr("A plan for another revision"),
            tr("{name} was made for different weights with the same names and shapes: {differs}.").format(
                name=path.name, differs=differs
            ),
        )
        question.setInformativeText(
            tr("Its figures do not apply here and are removed. Apply its formats to this model anyway?")
        )
        accept = question.addButton(tr("Apply"), QMessageBox.ButtonRole.AcceptRole)
        question.addButton(tr("Leave it"), QMessageBox.ButtonRole.RejectRole)
        question.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        accept.clicked.connect(lambda: self.session.load_plan(path, consent=True))
        self._question = question
        question.open()

    def _others(self) -> Iterator[tuple[str, Plan]]:
        """What this plan can be compared with: the algorithm's own, what was measured, the baselines."""
        plan, draft = self.session.plan, self._draft
        if plan is None or draft is None:
            return
        if self.pins or self._is_improved():
            free = draft.assign("kl", self.budget.bytes, self.limits)
            yield tr("KL (automatic)"), draft.plan("kl", self.budget.bytes, self.limits, free)
        known = set()
        for other in [*reversed(self._measured), *self.session.baselines]:
            if other.assignments != plan.assignments and titled(other) not in known:
                known.add(titled(other))
                yield titled(other), other
        for name in draft.formats:
            uniform = {option.weight: name for option in draft.options}
            if uniform != plan.assignments:
                method = f"uniform-{name}"
                other = draft.plan(method, self.budget.bytes, Constraints(), uniform)
                if titled(other) not in known:
                    yield titled(other), other

    def _is_improved(self) -> bool:
        plan = self.session.plan
        return plan is not None and plan.is_improved

    def _to_sensitivity(self) -> None:
        self._window.show_page("Sensitivity" if self.session.model else "Model")


@dataclass(frozen=True, slots=True)
class _State:
    """Everything that a person changes on this page, and the plan that came of it."""

    pins: dict[str, str]
    limits: Constraints
    bytes: int
    on_device: tuple[float, str] | None
    plan: Plan

    def looks_like(self, other: "_State") -> bool:
        """Whether going from one to the other would show nothing new."""
        mine, others = replace(self, plan=other.plan), other
        return (
            mine == others
            and self.plan.assignments == other.plan.assignments
            and self.plan.method == other.plan.method
            and self.plan.is_improved == other.plan.is_improved
        )


class _Change(QUndoCommand):
    """From one state to another, which is there already when this is pushed."""

    def __init__(self, page: PlanPage, before: _State, after: _State, words: str, merge_id: int) -> None:
        super().__init__(words)
        self._page, self._before, self._after, self._id = page, before, after, merge_id
        self._is_done = True

    def id(self) -> int:
        return self._id

    def mergeWith(self, other: QUndoCommand) -> bool:
        """A slider that is dragged is one change."""
        if not isinstance(other, _Change):
            return False
        self._after = other._after
        return True

    def redo(self) -> None:
        if not self._is_done:
            self._page.restore(self._after)
        self._is_done = False

    def undo(self) -> None:
        self._page.restore(self._before)
