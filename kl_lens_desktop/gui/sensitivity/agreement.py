"""Whether the measures rank weights as perplexity does: a chart, and Kendall's τ of each."""

from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QTableWidget, QTableWidgetItem, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import Chart
from kl_lens_desktop.gui.kit.controls import ROW_HEIGHT, JobButton, column, label, row, set_up_table
from kl_lens_desktop.gui.sensitivity.measures import Measure, measure
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import MISSING, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.sensitivity.jobs import Agreed, AgreeJob, highest_tau


class _Scatter(Chart):
    """Rank by a measure against rank by perplexity; on the diagonal they agree."""

    def __init__(self) -> None:
        self._points: list[tuple[str, float, float]] = []
        super().__init__(
            tr("Rank by measure against rank by perplexity"),
            tr("rank by measure (1 = worst)"),
            tr("rank by perplexity"),
        )

    def show_points(self, points: list[dict[str, Any]], chosen: Measure) -> None:
        key = chosen.key if points and chosen.key in points[0] else "kl_pq"
        harms = [measure(key).harm(point[key]) for point in points]
        ranks = _ranks(harms), _ranks([point["perplexity"] for point in points])
        self._points = [(p["format"], x, y) for p, x, y in zip(points, *ranks, strict=True)]
        self._x = tr("rank by {label} (1 = worst)").format(label=measure(key).label)
        self.recolour()
        self.redraw()

    def redraw(self) -> None:
        self.clear()
        if not self._points:
            return
        colours = theme.colours()
        end = len(self._points)
        self.addItem(
            pg.PlotDataItem(
                [1, end], [1, end], pen=pg.mkPen(colours.edge, width=1, style=Qt.PenStyle.DashLine)
            )
        )
        for name in dict.fromkeys(point[0] for point in self._points):
            mine = [(x, y) for fmt, x, y in self._points if fmt == name]
            self.addItem(
                pg.ScatterPlotItem(
                    [x for x, _ in mine],
                    [y for _, y in mine],
                    size=8,
                    brush=pg.mkBrush(theme.format_colour(name)),
                    pen=pg.mkPen(colours.edge, width=1),
                    symbol="o" if name.startswith("int8") else "s",
                )
            )
        self.setRange(xRange=(0, end + 1), yRange=(0, end + 1), padding=0.02)


class AgreementView(QWidget):
    """Kendall's τ of every measure with the perplexity of the model with that one weight quantized."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.scatter = _Scatter()
        self.read_on = label("", "secondary", wrap=True)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels([tr("Measure"), tr("Kendall τ"), tr("95 % interval")])
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        set_up_table(self.table, tr("Agreement of each measure with perplexity"))
        for place, width in ((1, 90), (2, 140)):
            self.table.setColumnWidth(place, width)
        self.button = JobButton(
            tr("Check against perplexity"),
            session,
            self._missing,
            self._start,
            tr("Quantize one weight at a time, measure perplexity on held-out text, and compare the ranks"),
        )
        words = label(
            tr(
                "Does the measure rank weights as perplexity does? This check quantizes one "
                "weight at a time and measures the model's perplexity on held-out text."
            ),
            "secondary",
            wrap=True,
        )
        right = column(words, row(self.button, None), self.table, self.read_on, None)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(16)
        layout.addWidget(self.scatter, 3)
        layout.addLayout(right, 2)

    def show_result(self, result: Agreed | None, chosen: Measure) -> None:
        self.scatter.setVisible(bool(result))
        self.table.setVisible(bool(result))
        self.read_on.setVisible(bool(result))
        self.button.refresh()
        if not result:
            return
        about = result["text"]
        self.read_on.setText(
            tr(
                "{count:,} points, each a weight in a format: circles INT8, squares others. "
                "Perplexity on {tokens:,} tokens of {name}; {perplexity_full} in full "
                "precision.{ceiling}"
            ).format(
                count=len(result["points"]),
                tokens=about["tokens"],
                name=about["name"],
                perplexity_full=quantities.significant(result["perplexity_full"]),
                ceiling=_ceiling(result),
            )
        )
        self.scatter.show_points(result["points"], chosen)
        metrics = sorted(result["metrics"].items(), key=lambda item: -item[1]["tau"])
        self.table.setRowCount(len(metrics))
        heading = self.table.horizontalHeader().sizeHint().height()
        self.table.setFixedHeight(heading + ROW_HEIGHT * len(metrics) + 4)
        for index, (key, value) in enumerate(metrics):
            interval = quantities.interval(value["low"], value["high"], len(result["points"]), ".2f").strip(
                "()"
            )
            for place, text in enumerate((measure(key).label, f"{value['tau']:.3f}", interval)):
                self.table.setItem(index, place, QTableWidgetItem(text))

    def _missing(self) -> str:
        session = self._session
        if session.model is None:
            return MISSING
        return "" if session.scores else tr("Measure sensitivity first")

    def _start(self) -> None:
        session = self._session
        assert session.model is not None
        place = session.workspace
        session.start(Step(AgreeJob(session.model.reference, place.scores, place.agree)))


def _ceiling(result: Agreed) -> str:
    """How far noise in perplexity limits every measure; results of older versions lack it."""
    if "ceiling" not in result:
        return ""
    return tr(
        " Two halves of the text agree with each other at τ = {ceiling:.2f}. On the whole text, a perfect "
        "measure could therefore reach about {highest:.2f}."
    ).format(ceiling=result["ceiling"], highest=highest_tau(result["ceiling"]))


def _ranks(harms: list[float]) -> list[float]:
    """1 for the largest."""
    order = np.argsort(-np.array(harms), kind="stable")
    ranks = np.empty(len(harms))
    ranks[order] = np.arange(1, len(harms) + 1)
    return list(ranks.tolist())
