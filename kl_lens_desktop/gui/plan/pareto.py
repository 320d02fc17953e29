"""The Pareto chart of the Plan page: size against KL, predicted and measured, ours and the others'."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import Chart
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.plan.draft import Draft, method_name
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.quant.formats import parse_format


@dataclass(frozen=True, slots=True)
class Family:
    """Baselines of one kind: a symbol of their own, so that no colour has to be told from another."""

    words: str
    symbol: str  # of pyqtgraph
    mark: str  # the same as a character
    starts: tuple[str, ...]


FAMILIES = (
    Family("uniform", "s", "□", ("uniform-",)),
    Family("NNCF", "t1", "△", ("nncf-",)),
    Family("the paper's", "d", "◇", ("paper", "p0", "p1")),
    Family("other metrics", "p", "⬠", ("sqnr", "mse", "delta-ce", "kl-qp")),
    Family("chance", "x", "×", ("random",)),
)


def family_of(method: str) -> Family | None:
    """The family of a baseline; None for a plan by KL."""
    return next((family for family in FAMILIES if method.startswith(family.starts)), None)


class ParetoChart(Chart):
    """Size against KL: the front, this plan, and all that was measured, with error bars."""

    def __init__(self) -> None:
        self._draft: Draft | None = None
        self._plan: Plan | None = None
        self._measured: list[Plan] = []
        self._beside: list[Plan] = []
        self._point: pg.ScatterPlotItem | None = None
        super().__init__("Size against KL", "size, MB", "KL, nats per token", log_y=True)

    def show_draft(self, draft: Draft) -> None:
        self._draft, self._plan = draft, None
        self.redraw()

    def show_plan(self, plan: Plan | None, measured: list[Plan]) -> None:
        """Move this plan's point; draw the rest anew only if it changed, for the slider's sake."""
        same = self._measured == measured
        self._plan, self._measured = plan, list(measured)
        if same and self._point is not None:
            self._place_point()
        else:
            self.redraw()

    def show_baselines(self, plans: Sequence[Plan]) -> None:
        """Measured plans of other methods."""
        if list(plans) != self._beside:
            self._beside = list(plans)
            self.redraw()

    def redraw(self) -> None:
        self.clear()
        self._point = None
        draft = self._draft
        if draft is None:
            return
        colours = theme.colours()
        points = [(draft.fixed + p.bytes, p.loss) for p in draft.front().points if p.loss > 0]
        if not points:
            return
        x, y = np.array([p[0] for p in points]) / 1e6, np.log10([p[1] for p in points])
        self.addItem(pg.PlotDataItem(x, y, pen=pg.mkPen(colours.accent, width=1.5)))
        # A label keeps as clear of the ones before it as its own size is, in the chart's units.
        room = 0.4 * (x.max() - x.min()), 0.07 * (y.max() - y.min())
        named: list[tuple[float, float]] = []
        measured_too = {plan.method for plan in self._beside}
        for name in draft.formats[1:]:
            totals = draft.uniform(name)
            if totals.kl > 0 and f"uniform-{name}" not in measured_too:
                place = totals.bytes / 1e6, float(np.log10(totals.kl))
                self.mark(
                    *place, size=9, fill=theme.format_colour(name), edge=colours.text, symbol="s", width=1
                )
                if all(abs(place[0] - x) > room[0] or abs(place[1] - y) > room[1] for x, y in named):
                    self.label_at(*place, parse_format(name).label, anchor=(-0.12, 0.85))
                    named.append(place)
        self._draw_baselines()
        for plan in self._measured:
            if plan.measured:
                size = int(plan.predicted["bytes"] or 0)
                self._ring(size, plan.measured["kl_pq"], colours.text)
                if nearest := plan.measured.get("nearest"):
                    self._ring(size, nearest["kl_pq"], colours.secondary, symbol="d")
        self._point = pg.ScatterPlotItem(
            size=11, brush=pg.mkBrush(colours.accent), pen=pg.mkPen(colours.surface, width=1.5)
        )
        self.addItem(self._point)
        self._place_point()
        seen = [np.log10(kl) for _, kl, _ in map(_measurement, self._beside) if kl > 0]
        low = max(min([float(y.min()), *seen]), -7.0)
        self.setRange(
            xRange=(draft.smallest / 1e6, draft.largest / 1e6),
            yRange=(low, max([float(y.max()), *seen]) + 0.35),
            padding=0.05,
        )

    def _draw_baselines(self) -> None:
        """All points of a family at once, each named when it is pointed at."""
        colours = theme.colours()
        for family in FAMILIES:
            plans = [p for p in self._beside if family_of(p.method) is family and _measurement(p)[1] > 0]
            if not plans:
                continue
            sizes, means, errors = (
                np.array(column) for column in zip(*map(_measurement, plans), strict=True)
            )
            x, y = sizes / 1e6, np.log10(means)
            self.addItem(
                pg.ErrorBarItem(
                    x=x,
                    y=y,
                    top=np.log10((means + errors) / means),
                    bottom=np.log10(means / np.maximum(means - errors, means / 10)),
                    beam=0,
                    pen=pg.mkPen(colours.secondary, width=1),
                )
            )
            tips = [plain_tip(f"{method_name(p.method)}\n{_words(p)}") for p in plans]
            self.addItem(
                pg.ScatterPlotItem(
                    x,
                    y,
                    size=9,
                    symbol=family.symbol,
                    brush=pg.mkBrush(colours.surface),
                    pen=pg.mkPen(colours.text, width=1.2),
                    data=tips,
                    hoverable=True,
                    tip=lambda x, y, data: data,
                )
            )

    def _place_point(self) -> None:
        assert self._draft is not None
        assert self._point is not None
        totals = self._draft.totals(self._plan.assignments) if self._plan else None
        if totals is None or totals.kl <= 0:  # all FP16 has no place on a log axis
            self._point.setData([], [])
        else:
            self._point.setData([totals.bytes / 1e6], [float(np.log10(totals.kl))])

    def _ring(self, size: int, kl: dict[str, Any], colour: str, symbol: str = "o") -> None:
        mean, se = kl["mean"], kl.get("se") or 0.0
        if mean <= 0:
            return
        place = size / 1e6, float(np.log10(mean))
        above = float(np.log10((mean + se) / mean))
        below = float(np.log10(mean / max(mean - se, mean / 10)))
        self.error_bar(*place, below, above, colour)
        self.mark(*place, size=12, fill=None, edge=colour, symbol=symbol, width=2)


def _measurement(plan: Plan) -> tuple[int, float, float]:
    """Bytes, joint KL and its standard error; no KL where it was not measured."""
    kl = (plan.measured or {}).get("kl_pq", {"mean": 0.0, "se": 0.0})
    return int(plan.predicted["bytes"] or 0), float(kl["mean"]), float(kl["se"])


def _words(plan: Plan) -> str:
    size, mean, error = _measurement(plan)
    return f"{quantities.size(size)}, KL {quantities.plus_minus(mean, error)}"
