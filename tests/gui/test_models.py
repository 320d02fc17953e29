"""The tables' models keep Qt's contract, whatever is shown in them, sorted or searched for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shiboken6
from PySide6.QtCore import QAbstractItemModel, QObject, Qt
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QApplication

from kl_lens_desktop.gui.bench.figures import figures
from kl_lens_desktop.gui.bench.table import BenchTable
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.plan.table import LOSS, PlanFilter, PlanTable
from kl_lens_desktop.sensitivity.scores import Scores
from tests.gui.test_benchmark import TABLE, bench_document

Watch = Callable[[QAbstractItemModel], QAbstractItemModelTester]


@pytest.fixture
def owner(qapp: QApplication) -> Iterator[QObject]:
    """The parent of models: it ends in this thread, and not in the next one that collects garbage."""
    made = QObject()
    yield made
    shiboken6.delete(made)


@pytest.fixture
def watch(owner: QObject) -> Iterator[Watch]:
    """Qt's own tester: what it finds wrong, at any signal, it writes as a warning, which fails the test."""
    testers: list[QAbstractItemModelTester] = []

    def watch(model: QAbstractItemModel) -> QAbstractItemModelTester:
        mode = QAbstractItemModelTester.FailureReportingMode.Warning
        testers.append(QAbstractItemModelTester(model, mode))
        return testers[-1]

    yield watch
    for tester in testers:
        shiboken6.delete(tester)


def test_the_weights_of_a_plan(
    owner: QObject, watch: Watch, sample_scores: Scores, plan_of: Callable[..., Any]
) -> None:
    table = PlanTable(owner)
    shown = PlanFilter(table)
    watch(table)
    watch(shown)
    table.show_draft(Draft(sample_scores))
    plan = plan_of(bits=5.0)
    table.show_plan(plan.assignments, {table.weight(0): "fp16"})
    shown.sort(LOSS, Qt.SortOrder.DescendingOrder)
    shown.setFilterFixedString("attention")
    assert 0 < shown.rowCount() < table.rowCount()
    shown.setFilterFixedString("")
    table.show_draft(None)
    assert shown.rowCount() == 0


@pytest.mark.parametrize("devices", [[], ["CPU"], ["CPU", "HETERO:CPU"]])
def test_the_figures_of_a_benchmark(owner: QObject, watch: Watch, devices: list[str]) -> None:
    table, rows = BenchTable(owner), bench_document()["rows"]
    watch(table)
    table.show_rows(list(TABLE), devices, rows, figures(rows), 34.0)
    assert (table.columnCount() > 2) is bool(devices)
    table.show_rows([], [], [], [])
    assert table.rowCount() == 0
