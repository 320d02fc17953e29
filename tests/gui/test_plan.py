"""The Plan page: the slider, pins by hand with undo and redo, files, and refusals."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyqtgraph as pg
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtWidgets import QApplication, QMessageBox
from pytestqt.qtbot import QtBot

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.export.page import weight_bytes
from kl_lens_desktop.gui.plan.difference import DifferenceDialog
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.plan.page import PlanPage
from kl_lens_desktop.gui.plan.table import FORMAT, LOSS
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.results import ModelResults
from kl_lens_desktop.plan.baselines import random_assignment
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.plan.options import weight_options
from kl_lens_desktop.plan.propose import predicted, propose
from kl_lens_desktop.plan.verdict import unchanged_share, verdict
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.sensitivity.scores import Scores
from tests.gui.conftest import JOB_MS
from tests.machine import slowness


def page_of(window: Window) -> PlanPage:
    page = window.page("Plan")
    assert isinstance(page, PlanPage)
    return page


def test_the_slider_is_followed_within_fifty_milliseconds(
    scored: Window, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(scored)
    times, sizes = [], []
    for value in range(0, 1001, 100):
        page.budget.slider.setValue(value)
        started = time.thread_time()
        page.replan()
        times.append(1000 * (time.thread_time() - started))
        plan = scored.session.plan
        assert plan is not None
        assert (plan.predicted["bytes"] or 0) <= page.budget.bytes
        sizes.append(plan.predicted["bytes"])
    with capsys.disabled():
        print(f"\nre-planning took {sorted(times)[len(times) // 2]:.1f} ms, at most {max(times):.1f} ms")
    assert sizes == sorted(sizes)
    assert sorted(times)[len(times) // 2] < 50 * slowness()


def test_a_front_for_a_large_model_is_asked_within_fifty_milliseconds(sample_scores: Scores) -> None:
    many = _enlarged(sample_scores, 1000)
    draft = Draft(many)
    draft.assign("kl", draft.largest, Constraints())
    started = time.thread_time()
    assignments = draft.assign("kl", (draft.smallest + draft.largest) // 2, Constraints())
    draft.totals(assignments)
    assert time.thread_time() - started < 0.05 * slowness()


def test_a_plan_that_comes_with_its_scores_is_shown_and_none_is_made_before_it(
    scored: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, page = scored.session, page_of(scored)
    kept, plan = session.scores, session.plan
    assert kept is not None
    assert plan is not None
    assert session.model is not None
    fine = replace(plan, assignments=dict.fromkeys(plan.assignments, "int8_sym"), method="uniform-int8_sym")
    session.forget_results()
    shown = []
    session.plan_changed.connect(lambda: shown.append(session.plan))
    found = ModelResults(session.model.reference, kept, fine, [], {}, {}, None, None, [])
    session._take_results(found, session._asked + 1)
    assert {id(each) for each in shown} == {id(fine)}
    assert page.budget.method.currentData() == "uniform-int8_sym"
    assert session.plan is fine


def test_an_override_is_a_pin_that_can_be_undone_and_redone(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    weight = page.weights.table.weight(0)
    index = page.weights.filter.mapFromSource(page.weights.table.index(0, FORMAT))
    before = scored.session.plan
    assert before is not None
    wanted = "fp16" if before.assignments[weight] != "fp16" else "int8_sym"

    page.weights.filter.setData(index, wanted)
    assert scored.session.plan.assignments[weight] == wanted  # type: ignore[union-attr]
    assert scored.session.plan.pins == [weight]  # type: ignore[union-attr]
    page.undo.undo()
    assert scored.session.plan.assignments == before.assignments  # type: ignore[union-attr]
    page.undo.redo()
    assert scored.session.plan.assignments[weight] == wanted  # type: ignore[union-attr]
    page.weights.reset_button.click()
    assert scored.session.plan.pins == []  # type: ignore[union-attr]
    page.undo.undo()
    assert scored.session.plan.pins == [weight]  # type: ignore[union-attr]


@pytest.mark.qt_log_ignore("This plugin does not support")  # Qt's offscreen platform, of any popup
def test_the_format_is_chosen_in_the_table_from_the_keyboard(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    index = page.weights.filter.mapFromSource(page.weights.table.index(0, FORMAT))
    page.weights.view.setCurrentIndex(index)
    page.weights.view.edit(index)
    editor = page.weights.view.findChild(type(page.budget.method), "")
    assert editor is not None
    editor.setCurrentIndex(editor.findData("int4_sym_g64"))
    editor.activated.emit(editor.currentIndex())
    assert scored.session.plan.assignments[page.weights.table.weight(0)] == "int4_sym_g64"  # type: ignore[union-attr]


def test_pins_beyond_the_budget_are_kept_and_said(scored: Window) -> None:
    page = page_of(scored)
    page.budget.slider.setValue(0)
    page.replan()
    assert not page.budget.over.isVisible()
    page.pin({page.weights.table.weight(row): "fp16" for row in range(3)})
    plan = scored.session.plan
    assert plan is not None
    assert len(plan.pins) == 3
    assert (plan.predicted["bytes"] or 0) > page.budget.bytes
    assert page.budget.over.isVisible()


def test_sorting_and_filtering_find_the_worst_weight(scored: Window) -> None:
    page = page_of(scored)
    page.weights.view.sortByColumn(LOSS, Qt.SortOrder.DescendingOrder)
    losses = [
        page.weights.filter.index(row, LOSS).data(Qt.ItemDataRole.UserRole + 1)
        for row in range(page.weights.filter.rowCount())
    ]
    assert losses == sorted(losses, reverse=True)
    page.weights.search.setText("mamba.in_proj")
    assert page.weights.filter.rowCount() == 6
    page.weights.search.setText("attention")
    assert page.weights.filter.rowCount() == 8


@pytest.mark.parametrize("method", ["kl", "sqnr", "mse", "paper", "uniform-int8_sym"])
def test_every_method_makes_a_plan(scored: Window, method: str) -> None:
    page = page_of(scored)
    page.budget.method.setCurrentIndex(page.budget.method.findData(method))
    plan = scored.session.plan
    assert plan is not None
    assert plan.method == method
    assert page.budget.slider.isEnabled() is not method.startswith("uniform")
    model = scored.session.model
    assert model is not None
    assert weight_bytes(model, plan.assignments) == plan.predicted["bytes"]


def test_a_plan_is_saved_and_opened_again(scored: Window, qtbot: QtBot, tmp_path: Path) -> None:
    page = page_of(scored)
    with qtbot.waitSignal(scored.session.plan_changed):
        page.budget.slider.setValue(400)
    page.pin({page.weights.table.weight(2): "fp16"})
    saved = scored.session.plan
    page.save_to(tmp_path / "mine.json")
    page.reset()
    with qtbot.waitSignal(scored.session.plan_changed):
        scored.session.load_plan(tmp_path / "mine.json")
    assert scored.session.plan.assignments == saved.assignments  # type: ignore[union-attr]
    assert page.pins == {page.weights.table.weight(2): "fp16"}


def test_a_plan_of_another_model_is_refused_in_words(
    scored: Window, qtbot: QtBot, tmp_path: Path, plan_of: Callable[..., Any]
) -> None:
    plan = plan_of(bits=5.0)
    stranger = replace(plan, model=replace(plan.model, id="somebody/else", sha256="0" * 64))
    assignments = {**plan.assignments, "model.layers.99.mlp.weight": "int8_sym"}
    save_plan(tmp_path / "other.json", replace(stranger, assignments=assignments))
    before = scored.session.plan
    with qtbot.waitSignal(scored.session.said):
        scored.session.load_plan(tmp_path / "other.json")
    assert scored.banner.isVisible()
    assert "another model" in scored.banner.text.text()
    assert "somebody/else" in scored.banner.text.text()
    assert scored.session.plan is before


@pytest.mark.qt_log_ignore("This plugin does not support")  # Qt's offscreen platform, of any dialog
def test_a_plan_of_another_revision_is_taken_only_by_consent(
    scored: Window, qtbot: QtBot, tmp_path: Path, plan_of: Callable[..., Any]
) -> None:
    page = page_of(scored)
    plan = plan_of(bits=7.0)
    earlier = replace(plan, model=replace(plan.model, revision="abc", sha256="0" * 64))
    save_plan(tmp_path / "earlier.json", earlier)
    before = scored.session.plan
    for role, taken in (
        (QMessageBox.ButtonRole.RejectRole, False),
        (QMessageBox.ButtonRole.AcceptRole, True),
    ):
        with qtbot.waitSignal(scored.session.consent_wanted):
            scored.session.load_plan(tmp_path / "earlier.json")
        question = page.findChild(QMessageBox)
        assert question is not None
        assert "revision 'abc' against none" in question.text()
        assert "weights 000000000000 against" in question.text()
        (answer,) = [b for b in question.buttons() if question.buttonRole(b) == role]
        answer.click()
        if not taken:
            assert scored.session.plan is before
            qtbot.waitUntil(lambda: page.findChild(QMessageBox) is None)
    qtbot.waitUntil(lambda: scored.session.plan is not before)
    assert scored.session.plan is not None
    assert scored.session.plan.assignments == plan.assignments
    assert scored.session.plan.model == plan.model
    assert "0" * 64 in str(scored.session.plan.provenance["made_for"])


def test_a_slider_drawn_near_a_mark_settles_on_it(scored: Window) -> None:
    budget = page_of(scored).budget
    mark = budget.slider.value()
    budget.slider.set_marks({mark: "here"})
    budget.slider.setValue(mark + 100)
    budget.slider.setSliderDown(True)
    budget.slider.setValue(mark + 5)
    assert budget.slider.value() == mark
    settled = budget.bytes
    budget.slider.setSliderDown(False)
    budget.slider.setValue(mark + 5)
    assert budget.slider.value() == mark + 5, "a key or a click goes where it says"
    assert budget.bytes > settled


def test_a_budget_is_typed_in_any_unit(scored: Window) -> None:
    page = page_of(scored)
    for unit, value in (("mb", 5.5), ("bits", 6.0), ("kl", 0.002), ("perplexity", 0.5)):
        page.budget.unit.setCurrentIndex(page.budget.unit.findData(unit))
        page.budget.exact.setText(str(value))
        page.budget.exact.editingFinished.emit()
        plan = scored.session.plan
        assert plan is not None
        size, kl = plan.predicted["bytes"] or 0, plan.predicted["kl"] or 0
        reached = {"mb": size / 1e6, "kl": kl, "perplexity": 100 * math.expm1(kl)}
        assert reached.get(unit, value) <= value + 1e-12
        assert reached.get(unit, value) > 0.8 * value, "and most of it is spent"
        if unit == "bits":
            assert page.budget.readings["bits"].text().startswith(("5.9", "6.0"))


@pytest.mark.parametrize(
    ("unit", "value", "said"),
    [
        ("mb", 0.001, "The smallest plan takes"),
        ("bits", 1.0, "The smallest plan takes"),
        ("mb", 9000.0, "FP16 for all weights takes"),
        ("bits", 17.0, "FP16 for all weights takes"),
    ],
)
def test_a_typed_budget_beyond_what_there_is_says_what_it_is_instead(
    scored: Window, unit: str, value: float, said: str
) -> None:
    page = page_of(scored)
    page.set_budget(value, unit)
    plan = scored.session.plan
    assert plan is not None
    sentence = scored.session.log[-1].text
    assert sentence.startswith(said)
    assert quantities.size(plan.predicted["bytes"] or 0) in sentence
    assert page.budget.readings["bits"].text() in sentence


@pytest.mark.parametrize("method", ["sqnr", "mse", "delta-ce", "paper", "uniform-int4_sym_g64"])
@pytest.mark.parametrize(("unit", "value"), [("kl", 0.002), ("perplexity", 0.5)])
def test_a_typed_quality_is_kept_whatever_the_method(
    scored: Window, method: str, unit: str, value: float
) -> None:
    page = page_of(scored)
    page.budget.method.setCurrentIndex(page.budget.method.findData(method))
    page.set_budget(value, unit)
    plan = scored.session.plan
    assert plan is not None
    limit = value if unit == "kl" else math.log1p(value / 100)
    assert 0 < (plan.predicted["kl"] or 0) <= limit + 1e-12
    assert plan.method == ("kl" if method.startswith("uniform-") else method)


def test_a_typed_quality_that_pins_alone_miss_is_said(scored: Window) -> None:
    page = page_of(scored)
    page.pin({"model.embed_tokens.weight": "int4_sym_g64"})
    page.set_budget(0.05, "kl")
    assert not any("No plan keeps" in line.text for line in scored.session.log)
    page.set_budget(1e-6, "kl")
    assert "No plan keeps a KL of 1e-06" in scored.session.log[-1].text


def test_a_plan_opened_or_a_uniform_one_ends_what_was_typed(
    scored: Window, plan_of: Callable[..., Any]
) -> None:
    page = page_of(scored)
    page.set_budget(8.0, "bits")
    scored.session.set_plan(plan_of(size_bytes=5_000_000))
    opened = scored.session.plan
    assert opened is not None
    page.replan()
    assert scored.session.plan.assignments == opened.assignments, "the same budget gives the same plan"  # type: ignore[union-attr]

    page.set_budget(8.0, "bits")
    page.budget.method.setCurrentIndex(page.budget.method.findData("uniform-int4_sym_g64"))
    uniform = scored.session.plan
    page.budget.method.setCurrentIndex(page.budget.method.findData("kl"))
    assert page.budget.bytes == uniform.predicted["bytes"]  # type: ignore[union-attr]


def test_formats_measured_before_bring_their_figures_and_not_their_method(
    scored: Window, plan_of: Callable[..., Any]
) -> None:
    page = page_of(scored)
    scored.session.set_plan(plan_of(method="uniform-fp16").with_measured(_measured(0.0)))
    assert not page.budget.slider.isEnabled()
    page.budget.method.setCurrentIndex(page.budget.method.findData("kl"))
    plan = scored.session.plan
    assert plan is not None
    assert set(plan.assignments.values()) == {"fp16"}
    assert plan.measured
    assert plan.method == "kl"
    assert page.budget.slider.isEnabled()


def test_the_figures_of_other_integers_are_no_measurement_of_the_plan(scored: Window) -> None:
    page = page_of(scored)
    plan = scored.session.plan
    assert plan is not None
    record = {"method": "gptaq", "text": "novels.txt", "sha256": "0" * 64, "tokens": 640, "window": 64}
    in_sequence = replace(plan, roundings=dict.fromkeys(plan.assignments, "gptaq"), rounding=record)
    scored.session.set_plan(in_sequence.with_measured(_measured(0.01)))
    assert not page.verify.isEnabled()
    page.replan()
    assert scored.session.plan.assignments == plan.assignments  # type: ignore[union-attr]
    assert scored.session.plan.measured is None, "these integers were not measured"  # type: ignore[union-attr]
    assert page.verify.isEnabled()

    scored.session.set_plan(replace(plan, provenance={"rounded_by": "NNCF"}).with_measured(_measured(0.03)))
    page.replan()
    assert scored.session.plan.measured is None, "nor are another program's these"  # type: ignore[union-attr]


def test_a_plan_measured_again_shows_the_latest_figures(scored: Window) -> None:
    page = page_of(scored)
    plan = scored.session.plan
    assert plan is not None
    for kl in (0.01, 0.02):
        scored.session.set_plan(plan.with_measured(_measured(kl)))
    page.replan()
    assert scored.session.plan.measured == _measured(0.02)  # type: ignore[union-attr]


def test_scores_of_other_formats_leave_the_plan_and_say_so(scored: Window, sample_scores: Scores) -> None:
    page = page_of(scored)
    page.set_budget(4.5, "bits")
    plan = scored.session.plan
    assert plan is not None
    page.budget.slider.setEnabled(False)  # as a uniform plan leaves it
    _score_int8_only(scored, sample_scores)
    assert scored.session.plan is plan
    assert "it has no prediction here" in scored.banner.text.text()
    assert {reading.text() for reading in page.budget.readings.values()} == {"–"}
    shown = {page.weights.table.index(row, FORMAT).data() for row in range(page.weights.table.rowCount())}
    assert shown == {parse_format(name).label for name in plan.assignments.values()}
    assert page.budget.slider.isEnabled()
    scored.session.baselines_changed.emit()
    page.budget.unit.setCurrentIndex(1 - page.budget.unit.currentIndex())


def test_an_opened_plan_that_cannot_be_weighed_keeps_nothing_of_the_one_before(
    scored: Window, sample_scores: Scores, plan_of: Callable[..., Any]
) -> None:
    page = page_of(scored)
    _score_int8_only(scored, sample_scores)
    weight = page.weights.table.weight(3)
    page.pin({weight: "int8_sym"})
    assert page.pins
    page.pin({weight: "fp16"})
    opened = plan_of(bits=4.5)
    scored.session.set_plan(opened)
    assert not page.pins
    assert not page.undo.canUndo()
    assert not page.weights.reset_button.isEnabled()
    assert scored.session.plan is opened


def test_limits_that_nobody_can_read_are_said_and_left_out(
    scored: Window, plan_of: Callable[..., Any]
) -> None:
    page = page_of(scored)
    pinned = plan_of(bits=6, constraints=Constraints(pins={page.weights.table.weight(2): "int8_sym"}))
    scored.session.set_plan(replace(pinned, provenance={"limits": "everything"}))
    assert "shown without its limits" in scored.banner.text.text()
    assert page.limits == Constraints()
    assert list(page.pins) == pinned.pins


@pytest.mark.parametrize("method", ["nncf-hessian", "random-1", "uniform-int3_sym_g64"])
def test_a_plan_by_a_method_of_others_becomes_ours_when_it_is_changed(
    scored: Window, plan_of: Callable[..., Any], method: str
) -> None:
    page = page_of(scored)
    scored.session.set_plan(replace(plan_of(bits=6), method=method))
    assert page.budget.method.currentData() == method
    scored.session.scores_changed.emit()
    assert page.budget.method.currentData() == method
    page.set_budget(5.0, "bits")
    assert scored.session.plan.method == "kl"  # type: ignore[union-attr]
    assert page.budget.method.currentData() == "kl"
    assert page.budget.method.findData(method) < 0


def _score_int8_only(window: Window, scores: Scores) -> None:
    only = [entry for entry in scores.entries if entry.format == "int8_sym"]
    window.session.scores = replace(scores, entries=only)
    window.session.scores_changed.emit()


def test_a_budget_that_is_no_number_is_refused_in_words(scored: Window) -> None:
    page = page_of(scored)
    before = scored.session.plan
    page.budget.exact.setText("lots")
    page.budget.exact.editingFinished.emit()
    assert "'lots' is not a budget" in scored.banner.text.text()
    assert scored.session.plan is before


def test_limits_are_kept_and_said(scored: Window) -> None:
    page = page_of(scored)
    page.budget.slider.setValue(300)
    page.replan()
    page.set_limits(Constraints(fused=True, least_bits={"attention": 8}))
    plan = scored.session.plan
    assert plan is not None
    attention = {w: f for w, f in plan.assignments.items() if "self_attn" in w}
    assert set(attention.values()) <= {"int8_sym", "fp16"}
    assert page.budget.limits_button.text() == "Limits (2)"
    assert plan.provenance["limits"] == "attention>=8"
    page.set_limits(Constraints(least_bits={"mlp": 8}, forbidden=(("*", "int8_sym"), ("*", "fp16"))))
    assert "No format is left" in scored.banner.text.text()
    assert page.limits.fused, "limits that cannot be kept change nothing"


@pytest.mark.qt_log_ignore("This plugin does not support")
def test_two_plans_stand_side_by_side(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    page.pin({page.weights.table.weight(1): "fp16"})
    page.compare()
    dialog = page.findChild(DifferenceDialog)
    assert dialog is not None
    assert "weights differ" in dialog.summary.text() or "weight differ" in dialog.summary.text()
    others = [dialog.other.itemText(i) for i in range(dialog.other.count())]
    assert others[0] == "KL (automatic)"
    assert any(text.startswith("uniform INT8") for text in others)
    assert page.weights.table.weight(1) in dialog.grid.accessibleDescription()
    assert not dialog.grid.grab().isNull()
    dialog.accept()


def test_baselines_measured_before_stand_in_the_chart_and_in_the_words(
    scored: Window, qtbot: QtBot, plan_of: Callable[..., Any]
) -> None:
    page = page_of(scored)
    plan = scored.session.plan
    assert plan is not None
    measured = _measured(0.01)
    scored.session.set_plan(plan.with_measured(measured))
    workspace = scored.session.workspace
    for name, kl in (("uniform-int4_sym_g64", 0.02), ("sqnr", 0.015)):
        given = {} if name.startswith("uniform") else {"size_bytes": plan.predicted["bytes"]}
        other = plan_of(method=name, **given)
        save_plan(workspace.baselines / f"{name}.json", other.with_measured(_measured(kl)))
    with qtbot.waitSignal(scored.session.baselines_changed):
        scored.session.reload()
    assert "best baseline of about that size is SQNR: KL 0.0150" in page.sentence.text()
    assert page.baselines.isEnabled()


def _measured(kl: float) -> dict[str, Any]:
    text = {"name": "held-out.txt", "sha256": "c" * 64, "tokens": 512, "window": 128}
    figure = {"mean": 1.0, "se": 0.1, "n": 512}
    names = ("kl_qp", "top1_agreement", "perplexity", "perplexity_full")
    return {"text": text, **dict.fromkeys(names, figure), "kl_pq": {"mean": kl, "se": 0.001, "n": 512}}


def test_a_file_that_is_no_plan_is_refused_in_words(scored: Window, qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2", encoding="utf-8")
    with qtbot.waitSignal(scored.session.said):
        scored.session.load_plan(tmp_path / "x.json")
    assert "not valid JSON" in scored.banner.text.text()


def test_a_plan_file_given_at_the_start_opens_its_model(
    window: Window, qtbot: QtBot, tmp_path: Path, sample_scores: Scores, plan_of: Callable[..., Any]
) -> None:
    from kl_lens_desktop.gui.shell import application

    plan = plan_of(bits=6.0)
    save_plan(tmp_path / "p.json", plan)
    with qtbot.waitSignal(window.session.plan_changed, timeout=60_000, check_params_cb=None):
        application.open_in(window, str(tmp_path / "p.json"))
    qtbot.waitUntil(lambda: window.session.plan is not None, timeout=60_000)
    assert window.session.plan.assignments == plan.assignments  # type: ignore[union-attr]


def test_verifying_writes_the_measurement_into_the_plan(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    with qtbot.waitSignal(scored.session.job.ended, timeout=JOB_MS):
        page.start()
    qtbot.waitUntil(lambda: bool(scored.session.plan and scored.session.plan.measured), timeout=10_000)
    assert "held-out" in page.sentence.text()
    assert not page.verify.isEnabled()
    assert load_plan(scored.session.workspace.plan).measured == scored.session.plan.measured  # type: ignore[union-attr]
    page.budget.slider.setValue(page.budget.slider.value() + 100)
    page.replan()
    assert page.verify.isEnabled()


def test_a_repair_is_shown_and_can_be_taken_back(scored: Window, qtbot: QtBot, sample_scores: Scores) -> None:
    page = page_of(scored)
    options = weight_options(sample_scores)
    size = 6 * sum(option.parameters for option in options) // 8
    chosen = random_assignment(options, int(0.99 * size), size, 0)
    poor = replace(
        propose(sample_scores, bits=6), assignments=chosen, predicted=predicted(sample_scores, chosen)
    )
    scored.session.set_plan(poor)
    gains = []
    scored.session.job.repaired.connect(lambda event: gains.append(event.gain))
    with qtbot.waitSignal(scored.session.job.ended, timeout=JOB_MS):
        work = scored.session.workspace
        by = RepairSettings(work.scores, tokens=1024, minutes=0.03)
        page._start(lambda model, plan: VerifyJob(model, plan, tokens=512, window=128, repair=by))
    assert gains
    assert min(gains) > 0
    qtbot.waitUntil(lambda: bool(scored.session.plan and scored.session.plan.measured), timeout=10_000)
    repaired = scored.session.plan
    assert repaired is not None
    assert repaired.assignments != poor.assignments
    assert page.weights.reset_button.isEnabled()
    page.weights.reset_button.click()
    assert "repaired_on" not in scored.session.plan.provenance  # type: ignore[union-attr]
    page.undo.undo()
    assert scored.session.plan.assignments == repaired.assignments  # type: ignore[union-attr]


def _enlarged(scores: Scores, count: int) -> Scores:
    """The sample's weights over and over under new names, as a model of `count` weights."""
    weights, entries = [], []
    while len(weights) < count:
        tag = f"copy{len(weights)}."
        weights += [{**w, "name": tag + w["name"]} for w in scores.weights]
        entries += [replace(entry, weight=tag + entry.weight) for entry in scores.entries]
    return replace(scores, weights=weights, entries=entries)


def test_undo_covers_everything_that_changes_the_plan(
    scored: Window, plan_of: Callable[..., Any], qtbot: QtBot
) -> None:
    page = page_of(scored)
    assert not page.undo.canUndo()

    def shown() -> tuple[Any, ...]:
        plan = scored.session.plan
        assert plan is not None
        return (plan.assignments, plan.method, page.budget.bytes, page.pins, page.limits)

    states = [shown()]
    for place in (300, 400, 500):  # a drag is one change
        page.budget.slider.setValue(place)
        qtbot.waitUntil(lambda: not page.budget._throttle.isActive())
    states.append(shown())
    page.set_budget(6, "bits")
    states.append(shown())
    page.budget.method.setCurrentIndex(page.budget.method.findData("sqnr"))
    states.append(shown())
    page.pin({page.weights.table.weight(3): "fp16"})
    states.append(shown())
    page.set_limits(Constraints(fused=True))
    states.append(shown())
    scored.session.set_plan(plan_of(bits=9))
    states.append(shown())
    assert all(before != after for before, after in pairwise(states))
    seen = len(states) - 1
    assert page.undo.count() == seen
    for state in reversed(states[:-1]):
        qtbot.keyClick(page, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        assert shown() == state
    assert not page.undo.canUndo()
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    for number, state in enumerate(states[1:]):
        if number % 2:
            qtbot.keyClick(page, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
        else:
            qtbot.keyClick(page, Qt.Key.Key_Z, both)
        assert shown() == state
    assert not page.undo.canRedo()


def test_a_rounding_is_explained_and_its_gain_stands_in_the_chart(scored: Window) -> None:
    page = page_of(scored)
    page.replan()
    plan = scored.session.plan
    assert plan is not None
    record = {"method": "gptq", "text": "novels.txt", "sha256": "0" * 64, "tokens": 640, "window": 64}
    fitted = replace(
        plan,
        roundings=dict.fromkeys(list(plan.assignments)[:3], "gptq"),
        rounding={**record, "skip": 0, "seed": 0, "damp": 0.01, "damp_tied": 1.0},
    )
    figures = {"kl_pq": {"mean": 0.02, "se": 0.001, "n": 640}, "delta_ce": {"mean": 0.0, "se": 0.0, "n": 640}}
    text = {"name": "play.txt", "sha256": "0" * 64, "tokens": 640, "window": 64}
    both = {"nearest": figures, "elsewhere": {"text": text, **figures, "nearest": figures}}
    scored.session.set_plan(fitted.with_measured({**_measured(0.01), **both}))
    card = page.measured
    assert card._words.text() == "512 tokens of held-out.txt. 3 weights are rounded by data."
    said = card._rounding.accessibleDescription()
    assert "the integers of 3 weights were chosen to keep what they compute on novels.txt." in said
    assert (
        "On held-out.txt: KL 0.0100 ± 0.0010. Rounded to nearest, the same formats have 0.0200 ± 0.0010."
        in said
    )
    assert "On play.txt: KL 0.0200 ± 0.0010. Rounded to nearest, the same formats have 0.0200" in said
    assert card._rounding.isVisible()
    assert "On play.txt" in card.figures["there"].accessibleDescription()
    written = {card.figures[key].text().partition("e")[1] for key in ("predicted", "kl", "there")}
    assert len(written) == 1, "figures that are compared have one notation"
    scored.session.set_plan(plan)
    assert not card._rounding.isVisible()
    assert not card.figures["there"].isVisible()
    scored.session.set_plan(fitted.with_measured({**_measured(0.01), **both}))
    QApplication.processEvents()
    diamonds = [
        item.getData()[1]
        for item in page.chart.getPlotItem().items
        if isinstance(item, pg.ScatterPlotItem) and item.opts["symbol"] == "d" and item.opts["size"] == 12
    ]
    assert [float(y[0]) for y in diamonds] == [pytest.approx(math.log10(0.02))]


def place_on_chart(page: PlanPage, size: int) -> QPoint:
    """Where the front's chart shows a size."""
    view = page.chart.plotItem.vb.mapViewToScene(QPointF(size / 1e6, -3.0))
    return page.chart.mapFromScene(view)


def test_a_click_on_the_front_moves_table_map_and_verdict_together(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    before = scored.session.plan
    draft = page._draft
    assert draft is not None
    assert before is not None
    seen = set()
    for share in (0.02, 0.6):
        size = draft.smallest + round(share * (draft.largest - draft.smallest))
        with qtbot.waitSignal(scored.session.plan_changed):
            qtbot.mouseClick(page.chart.viewport(), Qt.MouseButton.LeftButton, pos=place_on_chart(page, size))
        plan = scored.session.plan
        assert plan is not None
        assert abs(page.budget.bytes - size) < 0.01 * draft.largest, "as exactly as a pixel tells"
        assert plan.assignments == draft.assign("kl", page.budget.bytes, Constraints())
        for row, option in enumerate(draft.options):
            name = plan.assignments[option.weight]
            assert page.weights.table.index(row, FORMAT).data() == parse_format(name).label
            assert name in page.weights.map.formats_in(option.weight)
        totals = draft.totals(plan.assignments)
        told = unchanged_share(totals.kl, draft.change_rate)
        assert page.verdict.words.text() == verdict(totals.kl, told)
        assert page.verdict.figures.text().startswith("Predicted: KL ")
        assert page.verdict.words.text() in page.chart.accessibleDescription()
        seen.add(page.verdict.words.text())
    assert len(seen) == 2, "a smaller plan reads worse"
    assert page.undo.count() == 2, "two clicks are two changes"
    page.undo.undo()
    page.undo.undo()
    assert scored.session.plan is before


def test_a_drag_along_the_front_is_one_change(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    draft, view = page._draft, page.chart.viewport()
    assert draft is not None
    before, plans = scored.session.plan, []
    scored.session.plan_changed.connect(lambda: plans.append(scored.session.plan))
    places = [draft.smallest + share * (draft.largest - draft.smallest) // 10 for share in (2, 4, 6, 8)]
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=place_on_chart(page, places[0]))
    for size in places[1:]:
        qtbot.mouseMove(view, place_on_chart(page, size))
        qtbot.waitUntil(lambda: not page.chart._throttle.isActive())
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=place_on_chart(page, places[-1]))
    sizes = [plan.predicted["bytes"] for plan in plans]
    assert len(sizes) >= 2, "it is followed while it moves"
    assert sizes == sorted(sizes)
    assert page.undo.count() == 1
    moved = len(plans)
    qtbot.mouseMove(view, place_on_chart(page, places[0]))
    assert len(plans) == moved, "the button is up"
    page.undo.undo()
    assert scored.session.plan is before


def test_the_keys_go_along_the_front_point_by_point(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    draft = page._draft
    assert draft is not None
    assert page.chart.focusPolicy() == Qt.FocusPolicy.StrongFocus
    sizes = sorted({draft.fixed + point.bytes for point in draft.front().points})

    def pressed(key: Qt.Key) -> int:
        with qtbot.waitSignal(scored.session.plan_changed):
            qtbot.keyClick(page.chart, key)
        plan = scored.session.plan
        assert plan is not None
        return int(plan.predicted["bytes"] or 0)

    assert pressed(Qt.Key.Key_Home) == sizes[0]
    assert [pressed(Qt.Key.Key_Right) for _ in range(3)] == sizes[1:4]
    assert pressed(Qt.Key.Key_Left) == sizes[2]
    assert pressed(Qt.Key.Key_PageUp) > sizes[3]
    assert pressed(Qt.Key.Key_End) == draft.largest
    assert page.undo.count() == 7
    page.budget.method.setCurrentIndex(page.budget.method.findData("uniform-int8_sym"))
    pressed(Qt.Key.Key_Left)
    assert scored.session.plan.method == "kl", "the front is that of KL"  # type: ignore[union-attr]


def test_the_map_and_the_table_select_the_same_weight(scored: Window, qtbot: QtBot) -> None:
    page = page_of(scored)
    weights = page.weights
    weights.tabs.setCurrentIndex(1)
    assert weights.map.isVisible()
    weight = weights.table.weight(4)
    weights.search.setText("nothing has this name")
    qtbot.mouseClick(weights.map, Qt.MouseButton.LeftButton, pos=weights.map.cell_rect(weight).center())
    assert weights.search.text() == ""
    rows = [weights.filter.mapToSource(index).row() for index in weights.view.selectionModel().selectedRows()]
    assert [weights.table.weight(row) for row in rows] == [weight]
    weights.wanted.emit({weight: "fp16"})
    assert weights.map.formats_in(weight) == ["fp16"]
    assert "FP16, pinned" in weights.map.accessibleDescription()
    other = weights.filter.mapFromSource(weights.table.index(7, FORMAT))
    weights.view.setCurrentIndex(other)
    assert weights.table.weight(7) in weights.map.accessibleDescription()


def test_a_measured_plan_has_a_measured_verdict(scored: Window) -> None:
    page = page_of(scored)
    plan = scored.session.plan
    assert plan is not None
    measured = _measured(0.01)
    measured["top1_agreement"] = {"mean": 0.9, "se": 0.01, "n": 512}
    scored.session.set_plan(plan.with_measured(measured))
    assert page.verdict.words.text() == "Noticeable at times"
    words = page.verdict.figures.text().replace("\N{NO-BREAK SPACE}", " ")
    assert words == "Measured: KL 0.0100 nats per token, 90 % of next words unchanged."
