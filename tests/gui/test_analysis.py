"""Sensitivity measured from the window: live, cancellable, resumable, and never in the window's way."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QTimer
from pytestqt.qtbot import QtBot

from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.sensitivity.heatmap import Heatmap, Legend
from kl_lens_desktop.gui.sensitivity.measures import measure
from kl_lens_desktop.gui.sensitivity.page import SensitivityPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import QUICK
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.estimate import usual
from kl_lens_desktop.sensitivity.jobs import MENU
from kl_lens_desktop.sensitivity.scores import Scores, load_scores, save_scores
from tests.gui.conftest import JOB_MS, SMALL, leftovers
from tests.machine import slowness

BLOCKED_MS = 100


class Pulse:
    """Notes the longest time between two turns of the event loop.

    On a busy machine the system may leave our thread waiting for a core; that is no fault of the window's,
    so where the system tells that time it is taken off.
    """

    def __init__(self) -> None:
        self.longest_ms, self.second_ms, self.longest_with_waiting_ms = 0.0, 0.0, 0.0
        self._last = time.perf_counter(), waited_for_a_core_s()
        self._timer = QTimer(interval=5, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        now = time.perf_counter(), waited_for_a_core_s()
        between, waited = now[0] - self._last[0], now[1] - self._last[1]
        self.longest_with_waiting_ms = max(self.longest_with_waiting_ms, 1000 * between)
        held = 1000 * (between - waited)
        self.second_ms = max(self.second_ms, min(held, self.longest_ms))
        self.longest_ms = max(self.longest_ms, held)
        self._last = now


def waited_for_a_core_s() -> float:
    """How long this thread was ready to run and did not (Linux: the second field of schedstat, in ns)."""
    statistics = Path("/proc/thread-self/schedstat")
    return int(statistics.read_text(encoding="ascii").split()[1]) / 1e9 if statistics.exists() else 0.0


def test_an_analysis_fills_the_heatmap_and_never_blocks_the_window(
    opened: Window, qtbot: QtBot, capsys: pytest.CaptureFixture[str]
) -> None:
    opened.show_page("Sensitivity")
    page = opened.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    qtbot.waitUntil(lambda: not opened.still_building, timeout=10_000)
    seen: list[int] = []
    opened.session.entries_changed.connect(lambda: seen.append(len(opened.session.entries)))
    pulse = Pulse()
    with qtbot.waitSignals([opened.session.scores_changed, opened.session.job.ended], timeout=JOB_MS):
        page.start()
        assert opened.jobbar.isVisible()
        assert not page.run_button.isEnabled()
        assert "running" in page.run_button.toolTip()
    with capsys.disabled():
        print(
            f"\nthe event loop was held up for at most {pulse.longest_ms:.0f} ms during the analysis "
            f"({pulse.longest_with_waiting_ms:.0f} ms with the time it waited for a core)"
        )
    matrices = {weight["name"] for weight in opened.session.model.matrices}  # type: ignore[union-attr]
    assert {weight for weight, _ in opened.session.entries} == matrices
    assert len(seen) > 5, "entries are to appear while the analysis runs, not at its end"
    assert not opened.jobbar.isVisible()
    # Once, what reads scores is imported.
    assert pulse.second_ms < BLOCKED_MS * slowness()


def test_cancel_answers_within_a_second_and_the_next_start_goes_on(
    opened: Window, qtbot: QtBot, capsys: pytest.CaptureFixture[str]
) -> None:
    session = opened.session
    opened.show_page("Sensitivity")
    page = opened.page("Sensitivity")
    page.start()
    qtbot.waitUntil(lambda: len(session.entries) >= 5, timeout=JOB_MS)
    asked = time.monotonic()
    with qtbot.waitSignal(session.job.ended, timeout=5000) as ended:
        opened.jobbar.cancel.click()
    assert ended.args == ["cancelled"]
    answered = time.monotonic() - asked
    with capsys.disabled():
        print(f"\ncancel answered after {answered:.2f} s")
    assert answered < 1.2 * slowness()
    # The strip's own thread lives with the window; one that reads a file may just be ending.
    qtbot.waitUntil(lambda: leftovers(session.workspace.folder) == ["resources"], timeout=2_000)
    kept = load_scores(session.workspace.scores).entries
    assert len(kept) >= 5

    measured: list[str] = []
    session.job.scored.connect(lambda entry: measured.append(entry["weight"] + entry["format"]))
    with qtbot.waitSignal(session.job.ended, timeout=JOB_MS) as ended:
        page.start()
    assert ended.args == ["finished"]
    assert measured[: len(kept)] == [entry.weight + entry.format for entry in kept]
    assert len(set(measured)) == len(measured) == 2 * len(session.model.matrices)  # type: ignore[union-attr]
    done = load_scores(session.workspace.scores).entries
    assert done[: len(kept)] == kept


def test_pause_holds_the_measuring_and_resume_lets_it_go_on(opened: Window, qtbot: QtBot) -> None:
    session = opened.session
    opened.show_page("Sensitivity")
    opened.page("Sensitivity").start()
    qtbot.waitUntil(lambda: len(session.entries) >= 3, timeout=JOB_MS)
    opened.jobbar.pause.click()
    qtbot.wait(600)  # the step that was under way may still arrive
    held = len(session.entries)
    qtbot.wait(600)
    assert len(session.entries) == held
    opened.jobbar.pause.click()
    qtbot.waitUntil(lambda: len(session.entries) > held, timeout=JOB_MS)


def test_esc_asks_before_it_stops_and_keeping_on_is_the_default(opened: Window, qtbot: QtBot) -> None:
    session = opened.session
    opened.page("Sensitivity").start()
    qtbot.waitUntil(lambda: opened.jobbar.isVisible())
    opened.activateWindow()
    qtbot.keyClick(opened, Qt.Key.Key_Escape)
    assert session.job.running
    assert opened.jobbar.keep.isVisible()
    assert opened.jobbar.keep.hasFocus() or opened.focusWidget() is opened.jobbar.keep
    opened.jobbar.keep.click()
    assert session.job.running
    assert not session.job.cancelling


def test_other_settings_start_over_and_keep_the_earlier_scores(scored: Window, qtbot: QtBot) -> None:
    session = scored.session
    page = scored.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    assert not page.run_button.isEnabled()
    assert "Everything is measured" in page.run_button.toolTip()
    page.settings_row.tokens.setValue(1024)
    assert page.run_button.isEnabled()
    assert page.run_button.text() == "Continue", "more of the same text adds to what is there"
    page.settings_row.text.menu().actions()[2].trigger()
    assert page.settings_row.text.text() == "Model's own text"
    assert page.run_button.text() == "Start over"
    session.set_analysis(page.settings_row.analysis)
    assert session.workspace.scores.with_name("scores-before.json").is_file()
    assert not session.entries


def test_what_a_whole_job_leaves_out_is_not_called_missing(
    opened: Window, sample_scores: Scores, qtbot: QtBot
) -> None:
    """INT3 saves disk only on a CPU: after Compress the page said Continue beside a step that was done."""
    session, page = opened.session, opened.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    measured = [name for name in MENU if not name.startswith("int3")]
    assert len(measured) < len(MENU)
    like = {name: "int8_sym" if name.startswith("int8") else "int4_sym_g64" for name in measured}
    shapes = {weight["name"]: weight["shape"] for weight in sample_scores.weights}
    entries = [
        replace(entry, format=name, bytes=stored_bytes(shapes[entry.weight], parse_format(name)))
        for name, known in like.items()
        for entry in sample_scores.entries
        if entry.format == known
    ]
    session.set_analysis(replace(SMALL, formats=()))
    save_scores(session.workspace.scores, replace(sample_scores, entries=entries))
    with qtbot.waitSignal(session.scores_changed):
        session.reload()
    assert "Everything is measured" in page.run_button.toolTip()
    assert page.run_button.text() == "Start"
    page.settings_row._actions["int3_sym_g64"].trigger()
    assert page.run_button.isEnabled(), "who asks for it gets it"
    assert page.run_button.text() == "Continue"


def test_the_heatmap_is_driven_from_the_keyboard(scored: Window, qtbot: QtBot) -> None:
    scored.show_page("Sensitivity")
    page = scored.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    chosen: list[str] = []
    page.heatmap.selected.connect(chosen.append)
    for key in (Qt.Key.Key_Home, Qt.Key.Key_Right, Qt.Key.Key_Down, Qt.Key.Key_End):
        qtbot.keyClick(page.heatmap, key)
    assert chosen == [
        "model.layers.0.mamba.in_proj.weight",
        "model.layers.1.mamba.in_proj.weight",
        "model.layers.1.mamba.out_proj.weight",
        "model.embed_tokens.weight",
    ]
    assert "nats" in page.heatmap.accessibleDescription()


@pytest.mark.parametrize("key", ["kl_pq", "sqnr_db"])
def test_labels_of_the_colours_never_touch(qtbot: QtBot, key: str) -> None:
    legend = Legend()
    qtbot.addWidget(legend)
    for width in (410, 480, 900):
        legend.resize(width, legend.height())
        for low in range(-9, 0):
            legend.set_scale(measure(key), low, 0, settled=True)
            ticks = legend.ticks()
            assert len(ticks) >= 2
            for (_, left, text), (_, following, _) in pairwise(ticks):
                assert left + legend.fontMetrics().horizontalAdvance(text) + 4 <= following


def test_drawing_a_cell_costs_the_same_in_a_large_model(qtbot: QtBot) -> None:
    def seconds(blocks: int, parts: int) -> float:
        heatmap = Heatmap()
        qtbot.addWidget(heatmap)
        heatmap.resize(900, 700)
        names = [
            (block, f"model.layers.{block}.part{part}.weight")
            for block in range(blocks)
            for part in range(parts)
        ]
        heatmap.set_weights([{"name": name, "kind": "mlp", "block": block} for block, name in names])
        heatmap.show_values({name: -4.0 for _, name in names}, {}, -7, -1)
        heatmap.grab()
        taken = []
        for _ in range(5):
            started = time.thread_time()
            for _ in range(10):  # Windows counts processor time in steps of 16 ms
                heatmap.grab()
            taken.append(time.thread_time() - started)
        return min(taken) / len(names)

    assert seconds(48, 24) < 1.2 * seconds(12, 6)


def test_closing_in_mid_job_leaves_nothing(opened: Window, qtbot: QtBot) -> None:
    opened.page("Sensitivity").start()
    qtbot.waitUntil(lambda: len(opened.session.entries) >= 2, timeout=JOB_MS)
    # The fixture closes the window now and looks for threads, children and half files.
    assert opened.session.job.running


def test_closing_while_a_model_is_being_written_leaves_no_half_folder(opened: Window, qtbot: QtBot) -> None:
    session = opened.session
    messages: list[str] = []
    session.job.progress.connect(lambda progress: messages.append(progress.message))
    opened.page("Export").start()
    qtbot.waitUntil(lambda: any("Tracing" in message for message in messages), timeout=JOB_MS)
    assert list(session.workspace.folder.glob(".*.partial")), "the export is under way"


def test_rounding_is_chosen_beside_the_formats(opened: Window, qtbot: QtBot) -> None:
    opened.show_page("Sensitivity")
    page = opened.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    row = page.settings_row
    row.show_analysis(replace(row.analysis, rounding="data"))
    before = row.analysis
    with qtbot.waitSignal(row.changed):
        row.by_data.setChecked(False)
    assert row.analysis == replace(before, rounding="nearest")
    assert not row.analysis.continues(before)


def test_the_agreement_is_drawn_by_the_measure_that_is_chosen(opened: Window) -> None:
    page = opened.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    points = [
        {"weight": f"{place}", "format": "int8_sym", "kl_pq": 1.0 * place, "mse": -1.0 * place,
         "perplexity": 10.0 + place}
        for place in range(3)
    ]  # fmt: skip
    metrics = {key: {"tau": tau, "low": -1.0, "high": 1.0} for key, tau in (("kl_pq", 1.0), ("mse", -1.0))}
    result = {
        "points": points, "metrics": metrics, "perplexity_full": 9.0, "text": {"name": "t", "tokens": 512},
    }  # fmt: skip
    opened.session.agreement = result  # type: ignore[assignment]
    opened.session.agreement_changed.emit()

    def drawn() -> tuple[str, list[float]]:
        chart = page.agreement.scatter
        return chart.getAxis("bottom").labelText, [x for _, x, _ in chart._points]

    assert drawn() == ("rank by KL full‖quantized (1 = worst)", [3.0, 2.0, 1.0])
    page.measure.setCurrentIndex(page.measure.findData("mse"))
    assert drawn() == ("rank by Logit error (MSE) (1 = worst)", [1.0, 2.0, 3.0])


def test_compress_measures_what_the_page_says_and_its_time_follows(
    opened: Window, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened.session
    costs = usual(session.model.weights, session.model.about["experts_chosen"]) if session.model else None
    monkeypatch.setattr(type(session), "costs", property(lambda _: costs))
    page, bench = opened.page("Sensitivity"), opened.page("Benchmark")
    assert isinstance(page, SensitivityPage)
    assert isinstance(bench, BenchmarkPage)
    before, words = session.whole_s, opened._about_compress.text()
    bench.effort.setCurrentText(QUICK)
    quick = session.whole_s
    page.settings_row.tokens.setValue(8192)
    assert before is not None
    assert quick is not None
    assert session.whole_s is not None
    assert quick < min(before, session.whole_s)
    assert words != opened._about_compress.text()
    started: list[Step] = []
    monkeypatch.setattr(session, "start", lambda *steps: started.extend(steps))
    opened.compress.click()
    (job,) = (step.job for step in started)
    assert isinstance(job, RunJob)
    assert job.analysis.tokens == session.analysis.tokens == 8192
