"""From weights to measured models: once through the one button, and once page by page."""

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from kl_lens_desktop.exporting import ExportAllJob, ExportJob
from kl_lens_desktop.files import CARD, MODEL_XML, NPU_MODEL, WEIGHTS, read_json
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.export.page import BASELINES, ExportPage
from kl_lens_desktop.gui.shell.self_test import SHORT_BENCHMARK
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import QUICK
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.process.events import Exported
from tests.gui.conftest import JOB_MS, SMALL

VARIANTS = {"plan", *BASELINES}


@pytest.fixture
def short(window: Window, short_sample: LocalModel, qtbot: QtBot) -> Window:
    """The window with two of the sample's blocks open, and nothing measured yet."""
    session = window.session
    session.open_model(str(short_sample.folder))
    qtbot.waitUntil(lambda: session.model is not None and not session.job.running, timeout=JOB_MS)
    session.set_analysis(SMALL)
    session.settings.benchmark = SHORT_BENCHMARK
    return window


@pytest.mark.slow
@pytest.mark.parametrize("by_keys", [False, True], ids=["clicks", "keys"])
def test_from_the_first_start_to_the_result_it_takes_two_steps(
    window: Window, qtbot: QtBot, by_keys: bool
) -> None:
    """The sample as a newcomer compresses it: by two clicks, or by the keyboard alone."""
    session = window.session
    session.effort = QUICK
    steps = 0

    def press(button: QPushButton) -> None:
        nonlocal steps
        steps += 1
        if not by_keys:
            qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
            return
        for _ in range(60):
            if window.focusWidget() is button:
                break
            qtbot.keyClick(window.focusWidget() or window, Qt.Key.Key_Tab)
        assert window.focusWidget() is button
        qtbot.keyClick(button, Qt.Key.Key_Return)

    page = window.page("Model")
    (sample,) = (b for b in page.findChildren(QPushButton) if b.accessibleName() == "Try the sample")
    press(sample)
    qtbot.waitUntil(lambda: session.model is not None and not session.job.running, timeout=JOB_MS)
    with qtbot.waitSignal(session.job.ended, timeout=4 * JOB_MS) as ended:
        press(window.compress)
    assert ended.args == ["finished"], session.log[-1]
    bench = window.page("Benchmark")
    assert isinstance(bench, BenchmarkPage)
    qtbot.waitUntil(lambda: window.shown == "Benchmark" and bench.result.isVisible())
    assert "of next words unchanged" in bench.sentence.text()
    assert steps == 2


def test_compress_takes_a_model_to_measured_ones_and_fills_every_page(short: Window, qtbot: QtBot) -> None:
    session = short.session
    stages: list[str] = []
    session.job.progress.connect(lambda progress: stages.append(progress.stage))
    with qtbot.waitSignal(session.job.ended, timeout=2 * JOB_MS) as ended:
        short.compress.click()
        assert short.shown == "Sensitivity"
    assert ended.args == ["finished"], session.log[-1]
    qtbot.waitUntil(lambda: short.shown == "Benchmark")
    assert list(dict.fromkeys(stages)) == ["analyze", "plan", "verify", "export", "bench"]
    qtbot.waitUntil(lambda: session.exports.keys() >= VARIANTS and session.audits.keys() >= VARIANTS)

    assert session.scores is not None
    assert session.plan is not None
    assert session.plan.measured is not None
    for name, audit in session.audits.items():
        assert audit["checked"] == len(session.plan.assignments), name
    measured = {row["variant"] for row in session.bench if row["device"] == "CPU" and row["status"] == "ok"}
    assert measured == VARIANTS
    unavailable = [row for row in session.bench if row["status"] == "unavailable"]
    assert all(row["reason"] for row in unavailable)

    bench = short.page("Benchmark")
    assert isinstance(bench, BenchmarkPage)
    table = bench.table
    assert table.devices == ["CPU"]
    texts = {
        table.index(row, column).data()
        for row in range(table.rowCount())
        for column in range(table.columnCount())
    }
    assert not texts & {None, "", "–"}
    assert "of next words unchanged" in bench.sentence.text()
    for index in range(5):
        assert short.rail_entry(index).accessibleName().endswith("done")


def test_the_end_of_compress_leaves_a_person_where_they_turned(
    opened: Window, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.session, "compress", lambda: None)

    def end(how: str, page: str = "") -> str:
        opened.compress.click()
        if page:
            opened.show_page(page)
        opened.session.job.ended.emit(how)
        qtbot.wait(10)
        return opened.shown

    assert end("finished", "Log") == "Log"
    assert end("failed") == "Sensitivity"
    assert end("finished") == "Benchmark"


def test_models_written_elsewhere_before_a_cancel_are_known(
    opened: Window, qtbot: QtBot, tmp_path: Path
) -> None:
    session = opened.session
    for name in (MODEL_XML, WEIGHTS):
        (tmp_path / "fp16").mkdir(exist_ok=True)
        (tmp_path / "fp16" / name).write_text("<net/>", encoding="utf-8")
    job = ExportAllJob(tuple(ExportJob("sample", tmp_path / name, format=name) for name in BASELINES))
    taken: list[object] = []
    session.background._answered.connect(lambda *_: taken.append(_))

    def cancel() -> None:
        session.job.cancelled.emit(Step(job))
        session.job.ended.emit("cancelled")
        qtbot.waitUntil(lambda: bool(taken))

    cancel()
    assert session.exports == {}, "what lies there was written by nobody knows whom"
    session.job.exported.emit(Exported(str(tmp_path / "fp16")))
    cancel()
    qtbot.wait(50)
    assert session.exports == {"fp16": tmp_path / "fp16"}


def test_export_and_benchmark_run_from_their_buttons_and_a_message_is_answered(
    scored: Window, qtbot: QtBot, tmp_path: Path
) -> None:
    session = scored.session
    export = scored.page("Export")
    assert isinstance(export, ExportPage)
    for name in ("fp16", "int8_sym"):
        export.choose(name, False)
    session.settings.benchmark = SHORT_BENCHMARK
    session.devices = [{"name": "NPU", "full_name": "NPU", "available": True, "reason": ""}]  # as where it is
    session.devices_changed.emit()
    session.devices = []
    export.coarse.setChecked(True)
    with qtbot.waitSignal(session.job.ended, timeout=JOB_MS) as ended:
        export.start()
    assert ended.args == ["finished"], session.log[-1]
    assert scored.banner.text.text() == f"Exported 2 models to {session.workspace.folder}."
    qtbot.waitUntil(lambda: session.audits.keys() == {"plan", "int4_sym_g64"})
    assert session.plan is not None
    assert session.audits["plan"]["assignments"] == session.plan.assignments
    verdict = export.table.item(0, 4)
    assert verdict is not None
    assert verdict.text() == f"✓ {len(session.plan.assignments)} weights as planned"
    assert verdict.toolTip().startswith(f"{verdict.text()}: ")
    for variant in export.variants():
        if variant.name in session.exports:
            assert (session.exports[variant.name] / NPU_MODEL).is_file()
            written = (session.exports[variant.name] / "openvino_model.bin").stat().st_size
            assert variant.bytes is not None
            assert abs(written - variant.bytes) < 0.01 * variant.bytes
    options = read_json(session.exports["int4_sym_g64"] / CARD)["runtime_options"]
    assert options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "64"

    scored.show_page("Benchmark")  # looks for devices by itself the first time
    qtbot.waitUntil(lambda: bool(session.devices) and not session.job.running, timeout=JOB_MS)
    page = scored.page("Benchmark")
    assert isinstance(page, BenchmarkPage)
    with qtbot.waitSignal(session.job.ended, timeout=JOB_MS) as ended:
        page.start()
    assert ended.args == ["finished"], session.log[-1]
    rows = read_json(session.workspace.bench)["rows"]
    qtbot.waitUntil(lambda: session.bench == rows)
    absent = [device["name"] for device in session.devices if not device["available"]]
    assert {row["device"] for row in rows} == {"CPU", *absent}

    chat = page.chat
    chat.tokens.setValue(8)
    chat.go.click()
    qtbot.waitUntil(lambda: not session.chat.busy, timeout=JOB_MS)
    for side in chat.sides:
        assert side.last is not None
        assert side.last.text.strip()
        assert "tokens/s" in side.figures.text() or "tokens/s" in side.figures.toolTip()
