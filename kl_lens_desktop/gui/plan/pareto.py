"""The Pareto chart of the Plan page: size against KL, predicted and measured, ours and the others'.

It is a control too: a size that is clicked, dragged to or reached by the arrow keys is the new budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, Qt, QTimer, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent, QMouseEvent, QResizeEvent

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import Chart
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.plan.draft import Draft, method_name
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.verdict import HARD_TO_NOTICE
from kl_lens_desktop.quant.formats import parse_format

_LABEL, _AXIS = 20, 60  # pixels that a mark's name takes, and the axis below
_NAMED_LABELS = 5  # for which there must be room before the threshold is named too


@dataclass(frozen=True, slots=True)
class BaselineKind:
    """Baselines of one kind: a symbol of their own, so that no colour has to be told from another."""

    words: str
    symbol: str  # of pyqtgraph
    mark: str  # the same as a character
    starts: tuple[str, ...]


FAMILIES = (
    BaselineKind("uniform", "s", "□", ("uniform-",)),
    BaselineKind("NNCF", "t1", "△", ("nncf-",)),
    BaselineKind(tr("the paper's"), "d", "◇", ("paper", "p0", "p1")),
    BaselineKind(tr("other metrics"), "p", "⬠", ("sqnr", "mse", "delta-ce", "kl-qp")),
    BaselineKind("chance", "x", "×", ("random",)),
)


def family_of(method: str) -> BaselineKind | None:
    """The family of a baseline; None for a plan by KL."""
    return next((family for family in FAMILIES if method.startswith(family.starts)), None)


class ParetoChart(Chart):
    """Size against KL: the front, this plan, and all that was measured, with error bars.

    A click or a drag asks for a size; Left and Right go along the front point by point, Page Up and Page Down
    by tenths of the range, Home and End to its ends.

    Signals
    -------
    wanted(object size, int gesture)
        A budget in bytes; those of one drag, or of one key held down, have the same `gesture`.
    """

    wanted = Signal(object, int)  # an int of Qt has 32 bits

    def __init__(self) -> None:
        self._draft: Draft | None = None
        self._plan: Plan | None = None
        self._measured: list[Plan] = []
        self._beside: list[Plan] = []
        self._point: pg.ScatterPlotItem | None = None
        self._budget = 0
        self._asked = 0
        self._gesture = 0
        self._dragged = False
        self._low_and_top: tuple[float, float] | None = None  # of what is drawn, as powers of ten
        super().__init__(tr("Size against KL"), tr("size, MB"), tr("KL, nats per token"), log_y=True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setCursor(Qt.CursorShape.PointingHandCursor)
        self._throttle = QTimer(self, interval=0, singleShot=True)
        self._throttle.timeout.connect(lambda: self.wanted.emit(self._asked, self._gesture))

    def show_draft(self, draft: Draft) -> None:
        self._draft, self._plan, self._point = draft, None, None
        self.redraw_soon()

    def show_plan(self, plan: Plan | None, measured: list[Plan], budget: int = 0) -> None:
        """Move this plan's point; draw the rest anew only if it changed, for the slider's sake.

        `budget`, in bytes, is what the plan was made for: from there the arrow keys go on.
        """
        self._budget = budget
        same = self._measured == measured
        self._plan, self._measured = plan, list(measured)
        if same and self._point is not None:
            self._place_point()
        else:
            self.redraw_soon()

    def show_baselines(self, plans: Sequence[Plan]) -> None:
        """Measured plans of other methods."""
        if list(plans) != self._beside:
            self._beside = list(plans)
            self.redraw_soon()

    def rows(self) -> list[Sequence[object]]:
        """What the chart shows: the front, this plan, and what was measured; bytes, and KL with its error."""
        lines: list[Sequence[object]] = [("what", "bytes", "kl_nats_per_token", "se")]
        if self._draft is not None:
            fixed = self._draft.fixed
            lines += [("front", fixed + p.bytes, p.loss, None) for p in self._draft.front().points]
            if self._plan is not None:
                totals = self._draft.totals(self._plan.assignments)
                lines.append((tr("plan, predicted"), totals.bytes, totals.kl, totals.se))
        lines += [(tr("plan, measured"), *_measurement(plan)) for plan in self._measured if plan.measured]
        return lines + [(plan.method, *_measurement(plan)) for plan in self._beside]

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
        self._draw_threshold(float(x.max()), float(y.min()), float(y.max()))
        # A label keeps as clear of the ones before it as its own size is, in the chart's units.
        share = max(_LABEL / max(self.height() - _AXIS, _LABEL), 0.07)
        room = 0.4 * (x.max() - x.min()), share * (y.max() - y.min())
        named: list[tuple[float, float]] = []
        marked: list[float] = []
        measured_too = {plan.method for plan in self._beside}
        for name in draft.formats[1:]:
            totals = draft.uniform(name)
            if totals.kl > 0 and f"uniform-{name}" not in measured_too:
                place = totals.bytes / 1e6, float(np.log10(totals.kl))
                marked.append(place[1])
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
        self._point = pg.ScatterPlotItem(brush=pg.mkBrush(colours.accent))
        self.addItem(self._point)
        self._show_focus()
        self._place_point()
        seen = [np.log10(kl) for _, kl, _ in map(_measurement, self._beside) if kl > 0]
        low = max(min([float(y.min()), *seen]), -7.0)
        top = max([float(y.max()), *seen, *marked])
        self._low_and_top = low, top
        self._show_all()

    def _show_all(self) -> None:
        """All marks, and room above the highest for its name, whatever the height of the chart."""
        if self._draft is None or self._low_and_top is None:
            return
        low, top = self._low_and_top
        above = (top - low) * _LABEL / max(self.height() - _AXIS - _LABEL, _LABEL)
        self.setRange(
            xRange=(self._draft.smallest / 1e6, self._draft.largest / 1e6),
            yRange=(low, top + max(above, 0.35)),
            padding=0.05,
        )

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # pyqtgraph calls it without one
        super().resizeEvent(event)
        if event is not None and event.size().height() != event.oldSize().height():
            self.redraw_soon()  # as many labels as there is room for
        self._show_all()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() != Qt.MouseButton.LeftButton or self._draft is None:
            super().mousePressEvent(event)
            return
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        self._dragged = True
        self._gesture += 1
        self._ask_at(event.position())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._dragged:
            self._ask_at(event.position())
        else:
            super().mouseMoveEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if not self._dragged:
            super().mouseReleaseEvent(event)
        self._dragged = False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        size = self._size_after(Qt.Key(event.key())) if self._draft else None
        if size is None:
            super().keyPressEvent(event)
            return
        if not event.isAutoRepeat():
            self._gesture += 1
        self._ask(size)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self._show_focus()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self._show_focus()

    def _show_focus(self) -> None:
        """The point has a ring while the keys move it."""
        if self._point is not None:
            colours = theme.colours()
            self._point.setSize(14 if self.hasFocus() else 11)
            self._point.setPen(pg.mkPen(colours.text if self.hasFocus() else colours.surface, width=2))

    def _ask_at(self, place: QPointF) -> None:
        self._ask(round(1e6 * self.plotItem.vb.mapSceneToView(self.mapToScene(place.toPoint())).x()))

    def _ask(self, size: int) -> None:
        assert self._draft is not None
        self._asked = min(max(size, self._draft.smallest), self._draft.largest)
        self._throttle.start()

    def _size_after(self, key: Qt.Key) -> int | None:
        """The budget that a key leads to from the one of the moment; None if it leads nowhere."""
        draft = self._draft
        assert draft is not None
        now = draft.totals(self._plan.assignments).bytes if self._plan else self._budget
        sizes = sorted(draft.fixed + point.bytes for point in draft.front().points)
        tenth = (draft.largest - draft.smallest) // 10
        if key == Qt.Key.Key_Left:
            return max((size for size in sizes if size < min(now, self._budget)), default=sizes[0])
        if key == Qt.Key.Key_Right:
            return min((size for size in sizes if size > self._budget), default=sizes[-1])
        return {
            Qt.Key.Key_PageDown: self._budget - tenth,
            Qt.Key.Key_PageUp: self._budget + tenth,
            Qt.Key.Key_Home: draft.smallest,
            Qt.Key.Key_End: draft.largest,
        }.get(key)

    def _draw_threshold(self, right: float, low: float, high: float) -> None:
        """Below this line, a plan is hard to tell from the original; only where the front crosses it."""
        threshold = float(np.log10(HARD_TO_NOTICE.kl))
        if low < threshold < high:
            colours = theme.colours()
            pen = pg.mkPen(colours.edge, width=1, style=Qt.PenStyle.DashLine)
            self.addItem(pg.InfiniteLine(threshold, angle=0, pen=pen))
            if self.height() < _AXIS + _NAMED_LABELS * _LABEL:
                return
            words = pg.TextItem(tr("↓ hard to notice"), color=colours.secondary, anchor=(1, 1))
            words.setFont(theme.text_font(9))
            self.addItem(words)
            words.setPos(right, threshold)  # where no mark is

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
    return tr("{size}, KL {plus_minus}").format(
        size=quantities.size(size), plus_minus=quantities.plus_minus(mean, error)
    )
