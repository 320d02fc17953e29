"""Every stage's standing, from one place: nothing that is incomplete, old or failed looks finished."""

from dataclasses import replace

import pytest
from pytestqt.qtbot import QtBot

from kl_lens_desktop.course import PARTS, Course
from kl_lens_desktop.exclusive import exclusive
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.export.page import ExportPage
from kl_lens_desktop.gui.kit.controls import StageLine
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.stages import Stage, Standing
from kl_lens_desktop.plan.document import save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.events import Failed, Progress
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.scores import Scores, save_scores
from tests.gui.conftest import JOB_MS
from tests.gui.test_benchmark import bench_row

PAGES = ("Model", "Sensitivity", "Plan", "Export", "Benchmark")


def partial(scores: Scores, count: int) -> Scores:
    """The scores as they are when an analysis was cancelled after so many weights."""
    names = list(dict.fromkeys(entry.weight for entry in scores.entries))[:count]
    return replace(scores, entries=[e for e in scores.entries if e.weight in names], windows=None)


def open_scores(window: Window, scores: Scores, qtbot: QtBot) -> None:
    save_scores(window.session.workspace.scores, scores)
    with qtbot.waitSignal(window.session.scores_changed):
        window.session.reload()


def line(window: Window, page: str) -> str:
    """What a page says below its title about its stage; empty where it says nothing."""
    window.show_page(page)
    (found,) = window.page(page).findChildren(StageLine)
    return found._words.text() if found.isVisible() else ""


def standing(window: Window, page: str) -> Standing:
    """As the session, the rail and its accessible name agree."""
    stage = window.session.stages[page]
    told = window.rail_entry(PAGES.index(page)).accessibleName()
    assert told == (page if stage.standing is Standing.EMPTY else f"{page}, {stage.standing.value}")
    return stage.standing


def test_a_partial_analysis_is_said_wherever_it_leads(
    opened: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    total = len({entry.weight for entry in sample_scores.entries})
    open_scores(opened, partial(sample_scores, 12), qtbot)
    session = opened.session
    assert standing(opened, "Sensitivity") is Standing.PARTIAL
    assert line(opened, "Sensitivity").startswith(f"12 of {total} weights are measured.")
    opened.show_page("Plan")  # which plans what there is
    assert standing(opened, "Plan") is Standing.PARTIAL
    assert line(opened, "Plan") == (
        f"The plan covers 12 of {total} weights; the others stay FP16. Measure the rest first."
    )
    # as if it had been exported
    plan = session.plan
    assert plan is not None
    audit = {"checked": 12, "formats": {"int4_sym_g64": 12}, "proof": {}, "assignments": plan.assignments}
    session.exports = {"plan": session.workspace.variant("plan")}
    session.audits = {"plan": {**audit, "plan_sha256": plan.sha256}}
    session.exports_changed.emit()
    assert standing(opened, "Export") is Standing.PARTIAL
    assert f"{total - 12} weights" in line(opened, "Export")
    page = opened.page("Export")
    assert isinstance(page, ExportPage)
    checked = page.table.item(0, 4)
    assert checked is not None
    assert checked.text() == f"✓ 12 weights as planned, {total - 12} not planned and FP16"
    # now the rest is measured: the plan is still that of twelve
    open_scores(opened, sample_scores, qtbot)
    assert standing(opened, "Sensitivity") is Standing.DONE
    assert line(opened, "Sensitivity") == ""
    assert line(opened, "Plan").endswith("Move the budget to plan all of them.")


def test_results_on_part_of_the_text_are_incomplete(
    opened: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    first, *others = sample_scores.entries
    short = replace(first, kl_pq=replace(first.kl_pq, n=128), settled=False)
    rest = [replace(entry, settled=True) for entry in others]
    open_scores(opened, replace(sample_scores, entries=[short, *rest], windows=None), qtbot)
    tokens = sample_scores.text["tokens"]
    assert standing(opened, "Sensitivity") is Standing.PARTIAL
    assert line(opened, "Sensitivity") == (
        f"1 result used only 128 or more of {tokens:,} tokens. Continue for smaller errors."
    )


def test_a_plan_from_before_the_latest_measurements_is_out_of_date(
    scored: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    plan = propose(sample_scores, bits=5)
    assert standing(scored, "Plan") is Standing.DONE
    scored.session.set_plan(replace(plan, provenance={**plan.provenance, "scored_tokens": 64}))
    assert standing(scored, "Plan") is Standing.STALE
    assert "before the latest measurements" in line(scored, "Plan")


def test_exports_and_benchmarks_of_an_earlier_plan_are_out_of_date(
    scored: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    session = scored.session
    earlier, now = propose(sample_scores, bits=5), propose(sample_scores, bits=9)
    assert earlier.sha256 != now.sha256
    audit = {"checked": len(earlier.assignments), "formats": {}, "proof": {}}
    session.exports = {name: session.workspace.variant(name) for name in ("plan", "fp16")}
    session.audits = {"plan": {**audit, "assignments": earlier.assignments, "plan_sha256": earlier.sha256}}
    session.set_plan(earlier)
    session.exports_changed.emit()
    assert standing(scored, "Export") is Standing.DONE
    assert standing(scored, "Benchmark") is Standing.EMPTY
    session.bench = [bench_row("plan", "CPU", plan_sha256=earlier.sha256)]
    assert session.stages["Benchmark"] == Stage(
        Standing.PARTIAL, "Not measured yet: fp16. Run the benchmark again."
    )
    session.bench.append(bench_row("fp16", "CPU"))
    assert session.stages["Benchmark"].standing is Standing.DONE
    session.set_plan(now)
    assert standing(scored, "Export") is Standing.STALE
    assert line(scored, "Export") == "The exported plan is an earlier one. Export it again."
    session.audits["plan"] |= {"assignments": now.assignments, "plan_sha256": now.sha256}
    session.exports_changed.emit()
    assert standing(scored, "Export") is Standing.DONE
    assert session.stages["Benchmark"].standing is Standing.STALE
    assert "earlier export of plan" in session.stages["Benchmark"].words


@pytest.mark.parametrize(
    ("stage", "page"), [("analyze", "Sensitivity"), ("verify", "Plan"), ("export", "Export")]
)
def test_the_page_of_what_runs_is_marked_and_a_failure_stays(
    stage: str, page: str, opened: Window, qtbot: QtBot
) -> None:
    job = opened.session.job
    step = Step(RunJob("sample", opened.session.workspace.folder))
    job.current = step
    job.step_started.emit(step)
    job.progress.emit(Progress(stage, 1, 2))
    assert standing(opened, page) is Standing.RUNNING
    job.failed.emit(step, Failed("It broke"))
    job.current = None
    job.ended.emit("failed")
    assert standing(opened, page) is Standing.FAILED
    assert line(opened, page) == "The last job failed; the Log says why."
    job.current = step
    job.step_started.emit(step)
    job.progress.emit(Progress(stage, 1, 2))
    assert standing(opened, page) is Standing.RUNNING
    job.current = None
    job.ended.emit("cancelled")
    assert standing(opened, page) is (Standing.EMPTY if page == "Sensitivity" else Standing.FAILED)


def test_a_plan_saved_of_part_of_the_weights_says_so_when_it_is_opened(
    scored: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    plan = propose(partial(sample_scores, 12), bits=6)
    save_plan(scored.session.workspace.plan, plan)
    with qtbot.waitSignal(scored.session.plan_changed):
        scored.session.reload()
    assert standing(scored, "Plan") is Standing.PARTIAL


def test_what_another_window_writes_is_left_alone_and_told(
    scored: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    session = scored.session
    before = session.workspace.scores.read_bytes()
    with exclusive([session.workspace.folder]):
        with qtbot.waitSignal(session.job.ended, timeout=JOB_MS) as ended:
            session.analyze()
        assert ended.args == ["failed"]
        assert "another window or command of KL Lens is writing it" in scored.banner.text.text()
        assert session.workspace.scores.read_bytes() == before
    assert session.stages["Plan"].standing is Standing.DONE, "only what was refused is marked"


def test_the_page_follows_compress_unless_the_person_turns_elsewhere(opened: Window) -> None:
    job, session = opened.session.job, opened.session
    step = Step(RunJob("sample", session.workspace.folder))
    job.current = step
    opened.show_page("Sensitivity")
    opened._at_compress = True
    session.course = Course(dict.fromkeys(PARTS, 60.0))
    job.started.emit("run")
    job.step_started.emit(step)
    timeline = opened.jobbar.timeline
    assert timeline.isVisible()
    for stage in ("inspect", "prices"):
        job.progress.emit(Progress(stage, 1, 2))
        running = [name for name, found in session.stages.items() if found.standing is Standing.RUNNING]
        assert (running, timeline.accessibleDescription()[:11]) == (["Sensitivity"], "Step 2 of 5")
    seen, values = [], []
    for stage in ("analyze", "plan", "verify", "export", "bench"):
        job.progress.emit(Progress(stage, 1, 2))
        seen.append((opened.shown, timeline.accessibleDescription().partition(",")[0]))
        values.append(timeline.value())
    assert seen == [
        ("Sensitivity", "Step 2 of 5"), ("Plan", "Step 3 of 5"), ("Plan", "Step 3 of 5"),
        ("Export", "Step 4 of 5"), ("Benchmark", "Step 5 of 5"),
    ]  # fmt: skip
    assert values == sorted(values), "it never starts over"
    assert values[0] > 200, "the model is open already"
    assert " left." in timeline.accessibleDescription()
    assert opened.jobbar._left.text().startswith("about ")
    page = opened.page("Benchmark")
    assert isinstance(page, BenchmarkPage)
    assert page.reason.text().startswith("Measuring now.")
    opened.show_page("Log")
    job.progress.emit(Progress("verify", 1, 2))
    assert opened.shown == "Log"
    job.current = None
    job.ended.emit("cancelled")
    assert page.reason.text().startswith("Not measured yet.")
