"""Charts are taken along as pictures and figures, and the weight's own charts show what is in its file."""

import csv
import errno
import io
import os
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QGuiApplication, QImage, QWheelEvent
from PySide6.QtWidgets import QApplication, QFileDialog, QMessageBox, QScrollArea, QToolButton
from pytestqt.qtbot import QtBot
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors

from kl_lens_desktop import resources
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.gui.kit.pictures import Taken
from kl_lens_desktop.gui.kit.saving import ask_where
from kl_lens_desktop.gui.plan.page import PlanPage
from kl_lens_desktop.gui.sensitivity.bars import Bar, Bars
from kl_lens_desktop.gui.sensitivity.heatmap import ZOOMS, Heatmap
from kl_lens_desktop.gui.sensitivity.page import SensitivityPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.model.weight_values import sample_values
from kl_lens_desktop.quantities import need_powers, plus_minus, significant

SAMPLE = resources.path("sample-hybrid")


@pytest.fixture
def page(scored: Window, qtbot: QtBot) -> SensitivityPage:
    scored.show_page("Sensitivity")
    shown = scored.page("Sensitivity")
    assert isinstance(shown, SensitivityPage)
    return shown


def read_csv(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def test_every_chart_is_copied_and_saved_in_three_ways(
    scored: Window, page: SensitivityPage, tmp_path: Path
) -> None:
    plan = scored.page("Plan")
    assert isinstance(plan, PlanPage)
    page.detail.tabs.setCurrentIndex(2)
    charts: list[tuple[Any, int]] = [
        (page.heatmap, 38), (page.bars, 13), (page.detail.texts, 5), (plan.chart, 20),
    ]  # fmt: skip
    for chart, least in charts:
        taken = Taken(scored.session, chart, "chart", chart.rows)
        for ending in ("png", "svg", "csv"):
            taken.save_to(tmp_path / f"chart.{ending}")
            assert f"Saved {tmp_path / 'chart'}.{ending}" in scored.banner.text.text()
        image = QImage(str(tmp_path / "chart.png"))
        assert image.width() >= 2 * chart.width()
        places = product(range(0, image.width(), 9), range(0, image.height(), 9))
        colours = {image.pixelColor(x, y).name() for x, y in places}
        assert len(colours) > 2, "something is drawn"
        drawing = ElementTree.parse(tmp_path / "chart.svg").getroot()
        assert drawing.tag.endswith("svg")
        assert len(list(drawing.iter())) > 10
        lines = read_csv(tmp_path / "chart.csv")
        assert len(lines) >= least
        assert len({len(line) for line in lines}) == 1
        taken.copy_picture()
        assert not QGuiApplication.clipboard().image().isNull()
        taken.copy_figures()
        assert QGuiApplication.clipboard().text().splitlines()[0] == ",".join(lines[0])
    assert [action.text() for action in taken.menu().actions() if action.text()] == [
        "Copy picture", "Copy figures", "Save as PNG, SVG or CSV…",
    ]  # fmt: skip


def test_a_picture_that_cannot_be_written_leaves_the_earlier_one(
    scored: Window, page: SensitivityPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, path = Taken(scored.session, page.bars, "bars", page.bars.rows), tmp_path / "bars.png"
    path.write_bytes(b"earlier")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    taken.save_to(path)
    assert "the disk is full" in scored.banner.text.text()
    assert path.read_bytes() == b"earlier"
    monkeypatch.undo()
    taken.save_to(path)
    assert QImage(str(path)).width() > 0


def test_a_name_gets_its_ending_and_nothing_is_replaced_unasked(
    scored: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"Pages (*.html)": ".html", "Tables (*.csv)": ".csv", "Bundles (*.kl-lens.json)": ".kl-lens.json"}
    asked: list[str] = []

    def where(typed: str, kind: str = "", *, replace: bool = False) -> str:
        answer = QMessageBox.StandardButton.Yes if replace else QMessageBox.StandardButton.No
        monkeypatch.setattr(QMessageBox, "exec", lambda box: asked.append(box.text()) or answer)
        chosen = str(tmp_path / typed) if typed else "", kind
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: chosen)
        found = ask_where(scored, "Save", "a", kinds)
        return found.name if found else ""

    assert where("granite-4.0-h", "Tables (*.csv)") == "granite-4.0-h.csv"
    assert where("granite-4.0-h") == "granite-4.0-h.html"
    assert where("mine.JSON", "Tables (*.csv)") == "mine.JSON"
    assert where("") == ""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    assert where("a.csv", "Tables (*.csv)") == "a.csv", "the dialog asked itself"
    assert not asked
    assert where("a", "Tables (*.csv)") == ""
    assert where("b", "Tables (*.csv)", replace=True) == "b.csv"
    assert asked == [f"{name} exists already. Do you want to replace it?" for name in ("a.csv", "b.csv")]


def test_what_cannot_be_saved_is_said(scored: Window, page: SensitivityPage, tmp_path: Path) -> None:
    taken = Taken(scored.session, page.bars, "bars", page.bars.rows)
    for ending in ("png", "svg", "csv"):
        (tmp_path / f"folder.{ending}").mkdir()
        taken.save_to(tmp_path / f"folder.{ending}")
        assert "Cannot write" in scored.banner.text.text()
    names = {button.accessibleName() for button in page.findChildren(QToolButton)}
    assert "Copy or save: Sensitivity by component and block" in names


def test_the_histogram_counts_the_values_of_the_file(page: SensitivityPage, qtbot: QtBot) -> None:
    weight = "model.layers.0.mamba.in_proj.weight"
    page.choose(weight)
    page.detail.tabs.setCurrentIndex(1)
    qtbot.waitUntil(lambda: len(page.detail.values.rows()) > 1, timeout=60_000)
    (file,) = SAMPLE.glob("*.safetensors")
    values = load_tensors(file)[weight].float().numpy()
    lines = page.detail.values.rows()[1:]
    assert sum(count for _, _, count in lines) == values.size  # type: ignore[misc]
    low, high, count = lines[40]
    assert count == ((values >= low) & (values < high)).sum()
    assert f"{values.size:,} values" in page.detail.values.accessibleDescription()
    page.choose("model.no.such.weight")
    qtbot.waitUntil(lambda: "holds it in parts" in page.detail.values.accessibleDescription(), timeout=60_000)


def test_values_are_sampled_evenly_and_widened_from_any_type(tmp_path: Path) -> None:
    (file,) = SAMPLE.glob("*.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((SAMPLE / name).read_bytes())
    rows = np.repeat(np.arange(2048, dtype=np.float32)[:, None], 64, 1)
    save_file({"a.weight": rows, "b.weight": rows.astype(np.float16)}, tmp_path / file.name)
    whole = sample_values(tmp_path, "a.weight")
    assert (whole.reshape(-1, 64) == rows).all()
    part = sample_values(tmp_path, "b.weight", 64 * 512)
    assert part.dtype == np.float32
    assert part.size == 64 * 512
    assert (part.min(), part.max()) == (0, 2047), "the first and the last rows are among them"
    assert abs(part.mean() - 1023.5) < 64
    with pytest.raises(ModelError, match="holds it in parts"):
        sample_values(tmp_path, "c.weight")
    about = b'{"w.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    halves = np.array([1.0, -2.5, 0.15625, 65536.0], np.float32).view(np.uint32) >> 16
    content = len(about).to_bytes(8, "little") + about + halves.astype("<u2").tobytes()
    (tmp_path / file.name).write_bytes(content)
    assert sample_values(tmp_path, "w.weight").tolist() == [1.0, -2.5, 0.15625, 65536.0]


def test_the_spread_over_texts_is_that_of_the_score_file(page: SensitivityPage) -> None:
    scores = page.session.scores
    assert scores is not None
    assert scores.windows is not None
    page.choose("model.layers.0.mamba.in_proj.weight")
    page.detail.tabs.setCurrentIndex(2)
    samples = scores.windows.samples["model.layers.0.mamba.in_proj.weight", page.current[1]]
    lines = page.detail.texts.rows()[1:]
    assert sorted(kl for _, kl in lines) == sorted(samples.kl_pq)  # type: ignore[misc]
    assert [place for place, _ in lines] == list(range(len(lines)))  # type: ignore[misc]
    entry = page.session.entries["model.layers.0.mamba.in_proj.weight", page.current[1]]
    assert np.mean(samples.kl_pq) == pytest.approx(entry.kl_pq.mean, rel=1e-3)


def test_bars_are_logarithmic_and_of_one_notation(qtbot: QtBot) -> None:
    bars = Bars()
    qtbot.addWidget(bars)
    bars.resize(400, 200)
    nothing = Bar("c", "c", "mlp", 0.0, 0.0)
    bars.show_bars([Bar("a", "a", "ssm", 2e-2, 1e-3), Bar("b", "b", "ssm", 2e-4, 1e-5), nothing])
    assert bars.decades() == (-4, -1)
    assert [bar.words(powers=bars._powers)[0] for bar in bars._bars] == ["2.00e-2", "2.00e-4", "0"]
    assert not bars.grab().isNull()
    bars.show_bars([Bar("a", "a", "ssm", 2e-2, 1e-3), Bar("b", "b", "ssm", 2e-3, 1e-5)])
    assert [bar.words(powers=bars._powers)[0] for bar in bars._bars] == ["0.0200", "0.00200"]
    bars.show_bars([nothing])
    assert bars.decades() == (-1, 0)
    assert not bars.grab().isNull()


def test_a_list_of_numbers_has_one_notation() -> None:
    assert need_powers([0.5, 2e-4, None])
    assert not need_powers([0.5, 0.0, 0.001])
    assert significant(0.0021, powers=True) == "2.10e-3"
    assert significant(0.0, powers=True) == "0"
    assert plus_minus(0.0021, 0.0001, powers=True) == "2.10e-3 ± 0.10e-3"
    assert plus_minus(12.0, 0.0, powers=True) == "1.20e1"


def test_a_large_model_is_zoomed_and_its_names_stay_in_view(qtbot: QtBot) -> None:
    heatmap, area = Heatmap(), QScrollArea()
    qtbot.addWidget(area)
    parts = [f"part{part}.proj" for part in range(12)]
    names = [(b, f"model.layers.{b}.{part}.weight") for b in range(64) for part in parts]
    heatmap.set_weights([{"name": name, "kind": "mlp", "block": block} for block, name in names])
    heatmap.show_values({name: -4.0 for _, name in names}, {}, -7, -1)
    area.setWidgetResizable(True)
    area.setWidget(heatmap)
    area.resize(700, 420)
    area.show()
    qtbot.waitExposed(area)
    assert heatmap.width() <= area.viewport().width(), "all blocks at first"
    heatmap.shown.connect(lambda cell: area.ensureVisible(cell.center().x(), cell.center().y(), 200, 20))
    for _ in range(4):
        qtbot.keyClick(heatmap, Qt.Key.Key_Plus)
    assert heatmap.zoom == 4
    QApplication.processEvents()
    assert heatmap.width() >= 64 * ZOOMS[4]
    qtbot.keyClick(heatmap, Qt.Key.Key_Home)
    for _ in range(63):
        qtbot.keyClick(heatmap, Qt.Key.Key_Right)
    cell = heatmap.cell_rect("model.layers.63.part0.proj.weight")
    left = area.horizontalScrollBar().value()
    assert left > 0
    assert left < cell.center().x() < left + area.viewport().width(), "what the keys choose is in view"
    QApplication.processEvents()
    shown = heatmap.grab(heatmap.visibleRegion().boundingRect()).toImage()
    column = {shown.pixelColor(30, y).name() for y in range(30, 300)}
    assert len(column) > 1, "the names are drawn where the view begins"
    assert heatmap._cell_at(QPoint(left + 10, cell.center().y())) is None, "a click on a name chooses no cell"
    wheel = QWheelEvent(
        QPointF(300, 100), QPointF(300, 100), QPoint(0, 0), QPoint(0, -120), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.ControlModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(heatmap, wheel)
    assert heatmap.zoom == 3
    qtbot.keyClick(heatmap, Qt.Key.Key_0)
    assert heatmap.zoom == 0


def test_the_foot_of_the_plan_has_one_primary_and_two_other_buttons(scored: Window) -> None:
    plan = scored.page("Plan")
    assert isinstance(plan, PlanPage)
    widgets = [plan.foot.itemAt(place).widget() for place in range(plan.foot.count())]
    buttons = [w for w in widgets if w is not None and w.property("role") != "quiet"]
    assert [w.property("role") for w in buttons].count("primary") == 1
    assert buttons == [plan.more, plan.repair, plan.verify, plan.next]
    texts = [action.text().partition("\t")[0] for action in plan.more.menu().actions() if action.text()]
    assert texts == ["Measure baselines", "Compare with…", "Open…", "Save…", "Share…"]
    assert "Verify this plan first" in plan.baselines.toolTip()
    assert not plan.baselines.isEnabled()
