"""The Benchmark page: what a bench file holds is shown, compared, charted and saved; memory is watched."""

import copy
import json
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, QRectF, QSizeF, Qt
from PySide6.QtGui import QColor, QGuiApplication, QImage
from PySide6.QtWidgets import QApplication, QCheckBox, QFileDialog, QLabel, QSplitter, QTableView
from pytestqt.qtbot import QtBot

from kl_lens_desktop.bench import report
from kl_lens_desktop.bench.jobs import BenchJob
from kl_lens_desktop.bench.judgement import Rank
from kl_lens_desktop.bench.report import load_bench
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.files import MODEL_XML, WEIGHTS
from kl_lens_desktop.gui.bench.chart import VIEWS
from kl_lens_desktop.gui.bench.figures import variant_colours
from kl_lens_desktop.gui.bench.memory_strip import CAPACITY, Series
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.bench.settings import WIKITEXT, BenchSettings
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import spread_labels, stack_labels
from kl_lens_desktop.gui.kit.controls import Elided
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state import bench_history
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.home import home
from kl_lens_desktop.process.events import Memory
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.quantities import size
from kl_lens_desktop.run import RunJob
from tests.gui.conftest import JOB_MS

NO_GPU = "OpenVINO finds no Intel GPU here; if this computer has one, install its driver"
WRONG = "wrong answers (its logits against CPU f32: they are off by 64% of their spread, the limit is 15%)"
SPEEDS = {"fp16": 100.0, "int8_sym": 149.0, "int4_sym_g64": 120.0, "plan": 150.0}
TABLE = ("fp16", "int8_sym", "int4_sym_g64", "plan")


def spread(mean: float) -> dict[str, Any]:
    rounds = [mean * (1 + 0.004 * (-1) ** k) for k in range(6)]
    return {"mean": mean, "sd": 0.05 * mean, "n": 18, "median": mean, "rounds": rounds}


def estimate(mean: float) -> dict[str, Any]:
    return {"mean": mean, "se": abs(mean) / 50, "n": 8160}


def bench_row(variant: str, device: str = "CPU", status: str = "ok", **changes: Any) -> dict[str, Any]:
    speed, size = SPEEDS[variant], 8_000_000 + 1000 * TABLE.index(variant)
    row: dict[str, Any] = {
        "variant": variant, "device": device, "status": status, "reason": None, "session": f"s-{device}",
        "model": {"id": "sample", "revision": None, "sha256": "a" * 64},
        "plan_sha256": f"{TABLE.index(variant)}" * 64, "size_bytes": size, "tokens_per_s": spread(speed),
        "ttft_ms": spread(2000 / speed), "prefill_tokens_per_s": spread(20 * speed), "settled": True,
        "by_context": [
            {"prompt_tokens": length, "tokens_per_s": spread(speed - length / 100),
             "ttft_ms": spread(length / 10), "prefill_tokens_per_s": spread(20 * speed)}
            for length in (128, 256, 2048)
        ],
        "bandwidth_gb_s": 8.5, "bytes_per_token": size, "load_ms": spread(900.0),
        "perplexity": estimate(70 + TABLE.index(variant)),
        "kl_to_fp16": estimate(0.0002 * 1.5 ** TABLE.index(variant)), "top1_agreement": estimate(0.98),
        "peak_rss_mb": 450.0 - TABLE.index(variant), "peak_rss_sampled_mb": 440.0,
        "fidelity": {"relative_difference": 0.007, "bound": 0.15, "ok": True},
        "gpu_memory_mb": {"usm_host": 30.0}, "precision": "bf16", "backend": "SDPA", "power": "mains",
    }  # fmt: skip
    return row | changes


def bench_document() -> dict[str, Any]:
    devices = [
        {"name": "CPU", "full_name": "A processor", "available": True, "reason": ""},
        {"name": "GPU", "full_name": "", "available": False, "reason": NO_GPU},
        {"name": "HETERO:CPU", "full_name": "HETERO:CPU", "available": True, "reason": ""},
    ]
    nothing = dict.fromkeys(
        (
            "tokens_per_s",
            "ttft_ms",
            "prefill_tokens_per_s",
            "perplexity",
            "kl_to_fp16",
            "peak_rss_mb",
            "by_context",
        )
    )
    rows = [bench_row(name, "CPU") for name in TABLE]
    rows += [bench_row(name, "HETERO:CPU", f"failed: {WRONG}") for name in TABLE[:1]]
    rows += [bench_row(name, "HETERO:CPU") for name in TABLE[1:]]
    rows += [bench_row(name, "GPU", "unavailable", reason=NO_GPU, **nothing) for name in TABLE]
    return {
        "schema": "kl-lens/bench/1",
        "environment": {
            "created": "2026-11-25T16:33:32+00:00", "os": "Linux", "cpu": "A processor", "cores": 2,
            "ram_mb": 16384.0,
            "memory_read_gb_s": 34.0, "power": "mains", "python": "3.11", "packages": {}, "devices": devices,
            "text": {"name": "t.txt", "sha256": "1" * 64, "tokens": 8192, "window": 256, "stride": 256},
            "settings": {"prompt_tokens": 256, "new_tokens": 64},
        },
        "rows": rows,
    }  # fmt: skip


@pytest.fixture
def page(opened: Window, qtbot: QtBot) -> BenchmarkPage:
    """The page with four exported variants, measured in an earlier session."""
    workspace = opened.session.workspace
    for name in TABLE:
        workspace.variant(name).mkdir(parents=True)
        (workspace.variant(name) / MODEL_XML).write_text("<net/>", encoding="utf-8")
        (workspace.variant(name) / WEIGHTS).touch()
    workspace.bench.write_text(json.dumps(bench_document()), encoding="utf-8")
    opened.session.devices = bench_document()["environment"]["devices"]
    with qtbot.waitSignal(opened.session.bench_changed):
        opened.session.reload()
    opened.show_page("Benchmark")
    shown = opened.page("Benchmark")
    assert isinstance(shown, BenchmarkPage)
    return shown


def cell(page: BenchmarkPage, variant: str, heading: str, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
    table = page.table
    headings = [table.headerData(place, Qt.Orientation.Horizontal) for place in range(table.columnCount())]
    return table.index(table.variants.index(variant), headings.index(heading)).data(role)


def test_the_best_is_bold_and_what_rounds_cannot_tell_from_it_is_marked(page: BenchmarkPage) -> None:
    assert page.table.variants == list(TABLE)
    assert cell(page, "plan", "Tokens/s", Qt.ItemDataRole.FontRole).bold()
    assert cell(page, "int8_sym", "Tokens/s") == "≈ 149 ± 7"
    assert cell(page, "int8_sym", "Tokens/s", Qt.ItemDataRole.FontRole) is None
    said = cell(page, "int8_sym", "Tokens/s", Qt.ItemDataRole.ToolTipRole)
    assert "0.99× Plan (" in said
    assert said.endswith("after 6 paired rounds: within noise")
    assert cell(page, "int4_sym_g64", "Tokens/s") == "120 ± 6"
    assert "slower" in cell(page, "int4_sym_g64", "Tokens/s", Qt.ItemDataRole.ToolTipRole)
    tip = page.table.headerData(2, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
    assert "≈ marks values not shown to differ from the best by more than 4 %" in tip
    assert "instead of" in page.sentence.text()
    assert "1.5× as fast" in page.sentence.text()
    mean = page.session.bench[0]["tokens_per_s"] | {"mean": 200.0}
    page.session.bench = [page.session.bench[0] | {"tokens_per_s": mean}, *page.session.bench[1:]]
    page.session.bench_changed.emit()
    assert cell(page, "plan", "Tokens/s", Qt.ItemDataRole.FontRole).bold(), "rounds decide, not means"
    page.session.bench = bench_document()["rows"]
    page.session.bench = [
        row | {"tokens_per_s": spread(101.0)} if row["variant"] == "plan" and row["tokens_per_s"] else row
        for row in page.session.bench
    ]
    page.session.bench_changed.emit()
    assert "about as fast" in page.sentence.text()


def test_wrong_answers_are_red_whatever_the_speed_and_said_whole_when_chosen(
    page: BenchmarkPage, qtbot: QtBot
) -> None:
    assert page.table.devices == ["CPU", "HETERO:CPU"]
    place = 2 + len(page.columns)
    wrong = page.table.index(0, place)
    assert wrong.data() == wrong.data(Qt.ItemDataRole.ToolTipRole) == f"W{WRONG[1:]}"
    assert wrong.data(Qt.ItemDataRole.ForegroundRole) == QColor(theme.colours().danger)
    assert page.view.columnSpan(0, place) == len(page.columns)
    plan = page.table.row("plan", "HETERO:CPU")
    assert plan is not None
    assert page.table.standing(plan, page.columns[0]) is Rank.BEST
    qtbot.mouseClick(
        page.view.viewport(),
        Qt.MouseButton.LeftButton,
        pos=page.view.visualRect(page.table.index(0, 0)).center(),
    )
    assert page.reason.text() == f"HETERO:CPU: W{WRONG[1:]}"
    assert page.reason.property("role") == "bad"
    page.view.setCurrentIndex(page.table.index(1, 0))
    assert page.reason.text().startswith("Bold: the best. ≈: not shown to differ")


def test_the_smallest_window_shows_the_usual_variants_and_the_whole_conclusion(
    opened: Window, page: BenchmarkPage, qtbot: QtBot
) -> None:
    opened.show_page("Benchmark")
    opened.resize(1024, 680)
    (panes,) = page.findChildren(QSplitter)
    panes.setSizes([1, 1000])
    view, sentence = page.view, page.sentence
    bottom = view.rowViewportPosition(len(TABLE) - 1) + view.rowHeight(len(TABLE) - 1)
    qtbot.waitUntil(lambda: view.viewport().height() >= bottom)
    assert sentence.height() >= sentence.heightForWidth(sentence.width()) > 0


def test_variants_stay_in_view_while_devices_are_scrolled(page: BenchmarkPage, opened: Window) -> None:
    opened.resize(1024, 680)
    QApplication.processEvents()
    (fixed,) = (view for view in page.view.findChildren(QTableView) if view.isVisible())
    corner = page.view.viewport().rect()
    before = page.view.grab(corner).toImage()
    page.view.horizontalScrollBar().setValue(500)
    QApplication.processEvents()
    after = page.view.grab(corner).toImage()
    names = fixed.geometry().intersected(corner)
    assert after.copy(names) == before.copy(names)
    assert after != before
    page.view.setCurrentIndex(page.table.index(2, 5))
    assert fixed.selectionModel().isRowSelected(2)


def test_a_device_that_is_not_here_takes_no_columns_and_says_why(page: BenchmarkPage) -> None:
    boxes = {box.text(): box for box in page.findChildren(QCheckBox) if box.accessibleDescription()}
    assert boxes["CPU"].isChecked()
    assert not boxes["GPU"].isEnabled()
    assert NO_GPU in boxes["GPU"].toolTip()
    assert any(NO_GPU in words.accessibleName() for words in page.findChildren(Elided))
    assert "GPU" not in page.table.devices


def test_what_to_know_of_a_device_stands_below_the_devices(page: BenchmarkPage, opened: Window) -> None:
    device = {"name": "GPU", "full_name": "A GPU", "available": True, "reason": "", "driver": "1.2.3"}
    told = {"matrix_engines": False, "warning": "Its driver is 1.2.3. Install a newer one."}
    opened.session.devices = [device | {"matrix_engines": True, "warning": ""}]
    opened.session.devices_changed.emit()
    assert not page.notes.isVisible()
    assert any(words.accessibleName() == "A GPU, driver 1.2.3" for words in page.findChildren(Elided))
    opened.session.devices = [device | told]
    opened.session.devices_changed.emit()
    assert page.notes.isVisible()
    assert page.notes.text().startswith("GPU: OpenVINO finds no matrix engines")
    assert page.notes.text().endswith(told["warning"])


def test_device_memory_is_one_total_and_its_kinds(page: BenchmarkPage, opened: Window) -> None:
    page.show_column("gpu_memory_mb", True)
    assert cell(page, "plan", "Device memory, MiB") == "≈ 30.0"
    kinds = {"cl_mem": 0.0, "usm_device": 700.0, "usm_host": 25.0}
    opened.session.bench = [row | {"gpu_memory_mb": kinds} for row in opened.session.bench]
    opened.session.bench_changed.emit()
    assert cell(page, "plan", "Device memory, MiB") == "≈ 725 (usm_device 700 · usm_host 25.0)"


def test_columns_are_chosen_and_the_choice_is_kept(page: BenchmarkPage, opened: Window) -> None:
    page.show_column("bandwidth_gb_s", True)
    page.show_column("tokens_per_s@2048", True)
    page.show_column("perplexity", False)
    assert cell(page, "plan", "Weights read") == "≈ 8.50 (25 %)"
    assert cell(page, "plan", "/s at 2,048") == "130 ± 6"
    again = BenchmarkPage(opened.session, opened)
    headings = [
        again.table.headerData(i, Qt.Orientation.Horizontal) for i in range(again.table.columnCount())
    ]
    again.deleteLater()
    assert "Weights read" in headings
    assert "Perplexity" not in headings
    opened.session.bench = [row | {"by_context": None} for row in opened.session.bench]
    page.show_column("bandwidth_gb_s", False)
    assert "tokens_per_s@2048" in (opened.session.settings.columns or ()), "it comes back with the next run"
    for figure in page.columns:
        page.show_column(figure.key, False)
    assert page.table.columnCount() > 2, "a table without figures is none"


def test_the_sheet_holds_every_figure_of_every_row(page: BenchmarkPage) -> None:
    sheet = page.details.table
    names = [sheet.item(line, 0).text() for line in range(sheet.rowCount())]
    assert sheet.columnCount() == 1 + 2 * len(TABLE)
    heads = [sheet.horizontalHeaderItem(place).text() for place in range(1, sheet.columnCount())]
    assert heads[:2] == ["FP16 · CPU", "FP16 · HETERO:CPU"]
    for words in (
        "Load without a cache, ms",
        "Memory allocated on the device, MiB",
        "Peak RSS, sampled, MiB",
    ):
        assert words in names
    assert "Perplexity by words, as lm-eval counts" not in names, "what nobody has takes no line"
    assert sheet.item(names.index("What went wrong"), 2).text() == f"W{WRONG[1:]}"
    against = names.index("Decoding speed relative to …")
    assert sheet.item(against + 4, 3).text().startswith("≈ 0.993 (")
    assert "34.0 GB/s read from memory" in page.details.place.accessibleName()


@pytest.mark.parametrize("view", VIEWS)
def test_every_chart_names_every_good_row_once_and_no_name_covers_another(
    view: str, page: BenchmarkPage, opened: Window
) -> None:
    opened.resize(1280, 900)
    page.chart_view.setCurrentIndex(page.chart_view.findData(view))
    for place in range(page.upward.count()):
        page.upward.setCurrentIndex(place)
        page.upward.activated.emit(place)
        QApplication.processEvents()
        good = [row for row in bench_document()["rows"] if row["status"] == "ok"]
        assert len(page.chart.names) == len(set(page.chart.names)) == len(good)
        assert "FP16 · HETERO:CPU" not in page.chart.names
        boxes = page.chart.label_boxes()
        assert len(boxes) == len(good)
        area = page.chart.plotItem.vb.sceneBoundingRect().adjusted(-1, -1, 1, 1)
        assert all(area.contains(box) for box in boxes)
        for a, b in combinations(boxes, 2):
            assert not a.adjusted(3, 3, -3, -3).intersects(b.adjusted(3, 3, -3, -3))


def test_a_chart_of_nothing_says_so(page: BenchmarkPage) -> None:
    page.chart.show_rows([])
    QApplication.processEvents()
    assert page.chart.names == []
    page.chart_view.setCurrentIndex(len(VIEWS) - 1)
    QApplication.processEvents()
    assert page.chart.names == []


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 300)), min_size=1, max_size=8))
def test_labels_stay_inside_and_off_each_other_where_there_is_room(places: list[tuple[float, float]]) -> None:
    area = QRectF(-100, -100, 800, 600)
    marks = [QRectF(x - 5, y - 5, 10, 10) for x, y in places]
    labels = spread_labels(marks, [QSizeF(60, 16)] * len(marks), area)
    assert all(area.contains(label) for label in labels)
    assert not any(a.intersects(b) for a, b in combinations(labels, 2))
    assert not any(label.intersects(mark) for label in labels for mark in marks)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_names_of_lines_keep_the_order_of_the_lines(middles: list[float]) -> None:
    places = stack_labels(middles, 16, 0, 200)
    ordered = [place for _, place in sorted(zip(middles, places, strict=True), key=lambda pair: pair[0])]
    assert all(8 - 1e-9 <= place <= 192 + 1e-9 for place in places)
    assert all(b - a >= 16 - 1e-9 for a, b in pairwise(sorted(places)))
    assert ordered == sorted(ordered)
    assert stack_labels([100.0, 20.0], 16, 0, 200) == [100.0, 20.0]


def test_each_variant_has_a_colour_of_its_own(page: BenchmarkPage) -> None:
    names = [*TABLE, "plan-4.5", "plan-6", "int3_sym_g64", "nf4_g64", "mine"]
    colours = [colour.name() for colour in variant_colours(names).values()]
    assert len(set(colours)) == len(names)
    assert variant_colours(["mine"])["mine"].name() != theme.format_colour("fp16").name()


def test_memory_is_shown_while_a_child_works_and_its_ends_until_the_next_run(page: BenchmarkPage) -> None:
    strip, job = page.memory, page.session.job
    assert strip.isHidden()
    job.started.emit("bench")
    assert strip.isHidden(), "nothing was measured yet"
    for rss, label in ((200.0, "int4_sym_g64 on CPU"), (480.0, "plan on CPU"), (450.0, "plan on CPU")):
        job.memory.emit(
            Memory(label, rss, max(rss, 480.0 if label.startswith("plan") else rss), 3072.0, 16384.0)
        )
    assert strip.isVisible()
    assert strip.whose.accessibleName() == "Plan on CPU"
    assert strip.process.text() == "450 MiB, peak 480"
    assert strip.computer.text() == "3.22 of 17.2 GB"
    assert "INT4 g64 on CPU: 200 MiB" in strip.process.toolTip()
    job.ended.emit("finished")
    assert (strip.process.text(), strip.whose.accessibleName()) == (
        "peak 480 MiB",
        "Last run, peak: Plan on CPU",
    )
    job.started.emit("bench")
    assert strip.process.text() == "peak 480 MiB"
    job.memory.emit(Memory("fp16 on CPU", 90.0, 90.0, 3072.0, 16384.0))
    assert "480" not in strip.process.text() + strip.process.toolTip()


def test_memory_of_another_model_is_not_shown(page: BenchmarkPage, opened: Window) -> None:
    opened.session.job.memory.emit(Memory("plan on CPU", 300.0, 400.0, 8000.0, 16000.0))
    assert not page.memory.isHidden()
    opened.session.forget_results()
    assert page.memory.isHidden()


@given(st.integers(1, 4 * CAPACITY), st.integers(0, 4 * CAPACITY))
def test_a_long_run_is_thinned_without_losing_its_peak(count: int, peak: int) -> None:
    series = Series()
    peak = min(peak, count - 1)
    for number in range(count):
        series.add(9.0 if number == peak else 1.0)
    assert 0 < len(series.values) <= CAPACITY
    waiting = count % max(1, count // len(series.values))
    if peak < count - 4 - waiting:
        assert series.values.max() == 9.0


@pytest.mark.qt_log_ignore("This plugin does not support")  # Qt's offscreen platform, of any dialog
def test_two_bench_files_stand_side_by_side_and_are_saved(
    page: BenchmarkPage, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.deepcopy(bench_document())
    other["environment"]["cpu"] = "Another processor"
    for row in other["rows"]:
        if row["variant"] == "plan" and row["tokens_per_s"]:
            row["tokens_per_s"] = spread(300.0)
    other["rows"] = [row for row in other["rows"] if row["variant"] != "int8_sym"]
    path = tmp_path / "yours.json"
    path.write_text(json.dumps(other), encoding="utf-8")
    page.compare_with(path)
    qtbot.waitUntil(lambda: page.comparison is not None, timeout=20_000)
    dialog = page.comparison
    assert dialog is not None
    lines = [
        [dialog.changes.item(line, place).text() for place in range(7)]
        for line in range(dialog.changes.rowCount())
    ]
    plan = next(line for line in lines if line[0] == "Plan" and line[1] == "CPU")
    assert plan[2:5] == ["Decode, tokens/s", "150", "300"]
    assert plan[5].startswith("×2 (")
    assert plan[6] == "better"
    assert "≈ within noise" in {line[6] for line in lines}
    assert not any("GPU" in line[1] for line in lines), "what is not here has no figures"
    assert "INT8 on CPU" in dialog.summary.text()
    around = [dialog.around.item(line, 2).text() for line in range(dialog.around.rowCount())]
    assert "Another processor" in around
    assert any(
        "may differ from the ratio of the means" in each.text() for each in dialog.findChildren(QLabel)
    )
    dialog.save_to(tmp_path / "both.html")
    assert "Another processor" in (tmp_path / "both.html").read_text(encoding="utf-8")
    dialog.save_to(tmp_path / "both.csv")
    assert "plan,plan,CPU,plan,tokens_per_s" in (tmp_path / "both.csv").read_text(encoding="utf-8-sig")
    for chosen, kind, written in (("v1.2", "Tables (*.csv)", "v1.2.csv"), ("a.html", "", "a.html")):
        answer = str(tmp_path / chosen), kind
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, answer=answer: answer)
        dialog.save.click()
        assert (tmp_path / written).is_file()
    dialog.accept()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "it is not valid JSON"),
        ('{"schema": "kl-lens/plan/1"}', "it is not a KL Lens bench file"),
        ('{"schema": "kl-lens/bench/9"}', "this program reads version 1"),
    ],
)
def test_a_bad_bench_file_is_refused_in_one_sentence(
    content: str, why: str, page: BenchmarkPage, tmp_path: Path, qtbot: QtBot
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="utf-8")
    with qtbot.waitSignal(page.session.said, timeout=20_000) as said:
        page.compare_with(path)
    assert said.args[0] == "error"
    assert why in said.args[1]
    assert page.comparison is None
    page.session.workspace.bench.write_text(content, encoding="utf-8")
    with qtbot.waitSignal(page.session.said) as said:
        page.session.reload()
    assert said.args[0] == "warning"


def test_figures_are_saved_as_json_csv_and_a_page(page: BenchmarkPage, tmp_path: Path, qtbot: QtBot) -> None:
    for name in ("b.json", "b.csv", "b.html"):
        with qtbot.waitSignal(page.session.said, timeout=20_000) as said:
            page.save_to(tmp_path / name)
        assert said.args == ["info", f"Saved the benchmark as {tmp_path / name}."]
    assert load_bench(tmp_path / "b.json") == bench_document()
    assert (tmp_path / "b.csv").read_text(encoding="utf-8-sig").count("\n") == 1 + len(
        bench_document()["rows"]
    )
    assert "wrong answers" in (tmp_path / "b.html").read_text(encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    with qtbot.waitSignal(page.session.said) as said:
        page.save_to(tmp_path / "folder.csv")
    assert said.args[0] == "error"


def test_settings_are_kept_and_reach_the_benchmark(
    page: BenchmarkPage, opened: Window, tmp_path: Path, qtbot: QtBot
) -> None:
    dialog = BenchSettings(Benchmark(), quick=False)
    qtbot.addWidget(dialog)
    dialog.minutes.setValue(3)
    dialog.lengths[8192].setChecked(True)
    dialog.lengths[128].setChecked(False)
    dialog.cache.setChecked(False)
    dialog.devices.setText("gpu,cpu")
    dialog.accept()
    assert dialog.result() == 0
    assert dialog.problem.text().startswith("GPU,CPU is not a combination of devices")
    dialog.devices.setText("auto:cpu")
    dialog.use_text(str(tmp_path / "mine.txt"))
    dialog.accept()
    assert dialog.result() == 1
    page.measure_so(dialog)
    assert opened.session.settings.benchmark == dialog.benchmark
    session = opened.session
    with qtbot.waitSignal(session.job.step_started, timeout=JOB_MS) as started:
        page.start()
    job = started.args[0].job
    with qtbot.waitSignal(session.job.ended, timeout=JOB_MS):
        session.job.cancel()
    assert job.devices == ("CPU", "HETERO:CPU", "AUTO:CPU", "GPU")
    chosen = job.benchmark
    assert (chosen.speed_minutes, chosen.contexts, chosen.cache) == (3.0, (512, 2048, 8192), False)
    assert chosen.text == tmp_path / "mine.txt"
    assert [folder.name for folder in job.folders] == list(TABLE)


def started_job(window: Window, qtbot: QtBot, start: Callable[[], None]) -> Job[Any]:
    """The job that a button starts; it is cancelled at once."""
    runner = window.session.job
    with qtbot.waitSignal(runner.step_started, timeout=JOB_MS) as begun:
        start()
    with qtbot.waitSignal(runner.ended, timeout=JOB_MS):
        runner.cancel()
    job: Job[Any] = begun.args[0].job
    return job


def test_compress_measures_as_the_pages_say(
    page: BenchmarkPage, opened: Window, tmp_path: Path, qtbot: QtBot
) -> None:
    session, text = opened.session, tmp_path / "mine.txt"
    text.write_text("Held out.", encoding="utf-8")
    chosen = Benchmark(
        text, tokens=700, precision="f32", speed_minutes=2, contexts=(64, 128), combinations=("AUTO:CPU",)
    )
    dialog = BenchSettings(chosen, quick=False)
    qtbot.addWidget(dialog)
    assert dialog.benchmark == chosen
    page.measure_so(dialog)
    job = started_job(opened, qtbot, session.compress)
    assert isinstance(job, RunJob)
    assert (job.benchmark, job.analysis, job.devices) == (chosen, session.analysis, None)

    next(box for box in page.findChildren(QCheckBox) if box.text() == "HETERO:CPU").setChecked(False)
    page.effort.setCurrentText("Quick look")
    job = started_job(opened, qtbot, session.compress)
    assert isinstance(job, RunJob)
    assert job.devices == ("CPU", "AUTO:CPU")
    assert job.benchmark == chosen.quick
    assert (job.benchmark.text, job.benchmark.precision, job.benchmark.speed_minutes) == (text, "f32", 2)
    assert job.analysis == session.analysis, "scores are only added to"
    job = started_job(opened, qtbot, page.start)
    assert isinstance(job, BenchJob)
    assert job.benchmark == chosen.quick
    boxes = [box for box in page.findChildren(QCheckBox) if box.text() in ("CPU", "AUTO:CPU")]
    for box in boxes:
        box.setChecked(False)
    assert not opened.compress.isEnabled()
    assert opened.compress.reason == "Choose a device on the Benchmark page"
    boxes[0].setChecked(True)
    assert opened.compress.isEnabled()


def test_wikitext_is_offered_where_it_is(page: BenchmarkPage, qtbot: QtBot) -> None:
    def choices() -> list[str]:
        dialog = BenchSettings(Benchmark(), quick=True)
        qtbot.addWidget(dialog)
        assert not dialog.minutes.isEnabled()
        return [dialog.text.itemText(i) for i in range(dialog.text.count())]

    assert not any("WikiText" in words for words in choices())
    (home() / "texts").mkdir(parents=True)
    (home() / "texts" / WIKITEXT).write_text("text", encoding="utf-8")
    assert any("WikiText" in words for words in choices())


@pytest.mark.qt_log_ignore("This plugin does not support")
def test_the_menu_of_columns_opens_by_the_header_and_stays_while_one_chooses(
    page: BenchmarkPage, qtbot: QtBot
) -> None:
    page.view.horizontalHeader().customContextMenuRequested.emit(QPoint(5, 5))
    menu = page.choose_columns.menu()
    assert menu.isVisible()
    boxes = {box.text(): box for box in menu.findChildren(QCheckBox)}
    assert boxes["Decode, tokens/s"].isChecked()
    boxes["Attention backend"].click()
    assert menu.isVisible()
    assert cell(page, "plan", "Attention") == "SDPA"
    menu.close()


@pytest.mark.qt_log_ignore("This plugin does not support")
def test_earlier_benchmarks_are_kept_and_compared(
    page: BenchmarkPage, opened: Window, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = opened.session.workspace
    assert bench_history.earlier(workspace) == []
    with qtbot.waitSignal(opened.session.job.ended, timeout=JOB_MS):
        page.start()
        opened.session.job.cancel()
    assert "The earlier benchmark is kept" in opened.banner.text.text()
    assert load_bench(workspace.bench) == bench_document()
    assert bench_history.earlier(workspace) == [], "it is the latest still"
    newer = bench_document()
    newer["environment"]["created"] = "2026-11-26T08:00:00+00:00"
    workspace.bench.write_text(json.dumps(newer), encoding="utf-8")
    (kept,) = bench_history.earlier(workspace)
    assert load_bench(kept.path) == bench_document()
    assert kept.words.endswith("4 models on CPU, HETERO:CPU · prompts of 256 tokens")
    with monkeypatch.context() as patch:
        patch.setattr(report, "load_bench", lambda _: pytest.fail("the menu waits for files that it knows"))
        page._offer_others()
    first, *_, last = page._others.actions()
    assert first.text() == kept.words
    assert last.text() == "Another file…"
    first.trigger()
    qtbot.waitUntil(lambda: page.comparison is not None)
    assert page.comparison is not None
    page.comparison.close()
    for second in range(30):
        newer["environment"]["created"] = f"2026-11-26T08:00:{second:02}+00:00"
        workspace.bench.write_text(json.dumps(newer), encoding="utf-8")
        bench_history.keep(workspace)
    assert len(list(workspace.benchmarks.iterdir())) == bench_history.KEPT
    assert "29" in max(path.stem for path in workspace.benchmarks.iterdir())


def test_a_table_is_saved_as_a_table_whatever_its_name(
    page: BenchmarkPage, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "granite-4.0-h"), ""))
    with qtbot.waitSignal(page.session.said, timeout=30_000):
        page._choose_file("bench.csv")
    (written,) = tmp_path.glob("granite*")
    assert written.name == "granite-4.0-h.csv"
    assert written.read_text(encoding="utf-8-sig").startswith("variant,")


def test_a_cancelled_benchmark_says_which_figures_are_left(page: BenchmarkPage, opened: Window) -> None:
    session = opened.session
    step = Step(BenchJob((), session.workspace.bench))

    def said_of(*rows: dict[str, Any]) -> str:
        session.bench = list(rows)
        session.job.cancelled.emit(step)
        return opened.banner.text.text()

    assert "The earlier benchmark is kept" in said_of(bench_row("plan", status="failed: ended"))
    assert "Its finished rows are kept. An earlier benchmark is under" in said_of(bench_row("fp16"))
    session.workspace.bench.unlink()
    assert "No row was finished" in said_of()


def test_the_result_is_told_in_three_figures_and_as_a_picture(page: BenchmarkPage, tmp_path: Path) -> None:
    card = page.result
    assert page.tabs.tabText(page.tabs.currentIndex()) == "Result"
    values = [(figure.value.text(), figure.words.text()) for figure in card.figures]
    rows = {row["variant"]: row for row in page.session.bench if row["device"] == "CPU"}
    assert values[0] == (size(rows["plan"]["size_bytes"]), f"instead of {size(rows['fp16']['size_bytes'])}")
    assert values[1] == ("1.5×", "as fast")
    assert values[2][0] == f"{100 * rows['plan']['top1_agreement']['mean']:.0f} %"
    card.save_picture(tmp_path / "result.png")
    picture = QImage(str(tmp_path / "result.png"))
    assert picture.width() >= 2 * card.face.width() - 1
    colours = {
        picture.pixel(x, y) for x in range(0, picture.width(), 3) for y in range(0, picture.height(), 3)
    }
    assert len(colours) > 3, "words are on it"
    card.copy_picture()
    assert not QGuiApplication.clipboard().pixmap().isNull()


def test_a_doubt_about_the_speed_is_whole_in_the_picture(page: BenchmarkPage, opened: Window) -> None:
    def timed(name: str, *rounds: float) -> dict[str, Any]:
        return bench_row(name, tokens_per_s=spread(sum(rounds) / 2) | {"rounds": list(rounds)})

    opened.session.bench = [timed("fp16", 90.0, 110.0), timed("plan", 180.0, 140.0)]
    opened.resize(opened.minimumSize())
    opened.show_page("Benchmark")
    opened.session.bench_changed.emit()
    QApplication.processEvents()
    value, words = page.result.figures[1].value.text(), page.result.figures[1].words.text()
    assert (value, words) == ("1.6×", "as fast, not certain")


def test_what_the_exported_folder_is_used_with_can_be_copied(page: BenchmarkPage, tmp_path: Path) -> None:
    page.session.exports = {"plan": tmp_path / "plan", "fp16": tmp_path / "fp16"}
    page.session.exports_changed.emit()
    card = page.result
    compile(card.lines.toPlainText(), "lines", "exec")
    assert str(tmp_path / "plan") in card.lines.toPlainText()
    card.program.setCurrentIndex(1)
    card.copy_lines.click()
    assert QGuiApplication.clipboard().text() == card.lines.toPlainText()
    assert "benchmark.py -m" in card.lines.toPlainText()


def test_where_fp16_does_not_fit_the_plan_still_has_a_result(page: BenchmarkPage) -> None:
    full = next(row for row in page.session.bench if row["variant"] == "fp16" and row["status"] == "ok")
    figures = dict.fromkeys(("tokens_per_s", "ttft_ms", "prefill_tokens_per_s"))
    others = [row for row in page.session.bench if row["variant"] != "fp16"]
    page.session.bench = [{**full, **figures, "status": "failed: it needs more memory"}, *others]
    page.session.bench_changed.emit()
    shown = [(figure.value.text(), figure.words.text()) for figure in page.result.figures]
    assert shown[0][1] == f"instead of {size(full['size_bytes'])}"
    assert shown[1] == ("150", "tokens/s")
    assert page.result.taken.isEnabled()
    assert "150 tokens/s" in page.sentence.text()


def test_without_the_plan_there_is_no_result(page: BenchmarkPage) -> None:
    page.session.bench = [row for row in page.session.bench if row["variant"] != "plan"]
    page.session.bench_changed.emit()
    assert page.result.figures[1].value.text() == "–"
    assert not page.result.taken.isEnabled()
    assert "Benchmark the plan" in page.result.about.text()


def test_the_result_leads_to_the_chat(page: BenchmarkPage) -> None:
    page.result.chat.click()
    assert page.tabs.tabText(page.tabs.currentIndex()) == "Chat"


def test_a_folder_that_is_not_there_is_not_opened(page: BenchmarkPage) -> None:
    assert page.result.folder.isEnabled()
    page.session.exports = {}
    page.session.exports_changed.emit()
    assert not page.result.folder.isEnabled()


def test_an_answer_takes_the_keyboard_from_nobody(
    page: BenchmarkPage, opened: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.show_page("Benchmark")
    page.result.chat.click()
    assert opened.focusWidget() is page.chat.prompt

    def turn(*, busy: bool) -> None:
        monkeypatch.setattr(type(opened.session.chat), "busy", property(lambda _: busy))
        opened.session.chat.changed.emit()

    turn(busy=True)
    assert opened.focusWidget() is page.chat.stop
    turn(busy=False)
    assert opened.focusWidget() is page.chat.prompt
    turn(busy=True)
    page.view.setFocus()
    turn(busy=False)
    assert opened.focusWidget() is page.view
