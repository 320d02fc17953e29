"""The heatmap of sensitivity, block by component, that fills in while weights are measured."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QBrush,
    QColor,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QMoveEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.sensitivity.measures import Measure, component
from kl_lens_desktop.gui.state.translation import tr

_KIND_ORDER = {kind: place for place, kind in enumerate(icons.KINDS)}
_EXPERT = re.compile(r"experts\.\d+")
TOP = 22
MAX_CELL, MIN_CELL = 64, 5
ZOOMS = (MIN_CELL, 10, 16, 24, 40, 64)  # cells of so many pixels at least
MAX_ROW, MIN_ROW = 34, 18


@cache
def _colour_table() -> list[QColor]:
    return [QColor(*rgb) for rgb in pg.colormap.get("viridis").getLookupTable(0.0, 1.0, 256).tolist()]


def shade(decades: float, low: float, high: float) -> QColor:
    """The colour of log10(harm) on a scale from `low` to `high`."""
    share = (decades - low) / max(high - low, 1e-9)
    return _colour_table()[round(255 * min(max(share, 0.0), 1.0))]


def hatch(painter: QPainter, rect: QRectF) -> None:
    """Fill with the pattern of what is not yet measured."""
    colours = theme.colours()
    painter.fillRect(rect, QColor(colours.sunken))
    painter.fillRect(
        rect, QBrush(theme.mixed(colours.edge, colours.sunken, 0.45), Qt.BrushStyle.BDiagPattern)
    )


def dot(painter: QPainter, rect: QRectF, under: QColor) -> None:
    """Mark what is settled, dark on light colours and light on dark ones."""
    _mark(painter, rect, under, hollow=False)


def ring(painter: QPainter, rect: QRectF, under: QColor) -> None:
    """Mark what is predicted, as `dot` marks what is settled."""
    _mark(painter, rect, under, hollow=True)


def _mark(painter: QPainter, rect: QRectF, under: QColor, *, hollow: bool) -> None:
    size = min(5.0, rect.width() / 3, rect.height() / 3)
    corner, colour = rect.topRight(), QColor("#1C1C1A" if under.lightnessF() > 0.45 else "#FFFFFF")
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(colour, 1) if hollow else Qt.PenStyle.NoPen)
    painter.setBrush(Qt.BrushStyle.NoBrush if hollow else colour)
    painter.drawEllipse(QRectF(corner.x() - size - 3, corner.y() + 3, size, size))
    painter.restore()


class Heatmap(QWidget):
    """Cells of (component, block); arrows move between them, a click or an arrow selects.

    Ctrl with the wheel, + and - zoom, and 0 shows all blocks again. In a scroll area, the names of the rows
    stay in view.

    Signals
    -------
    selected(str)
        A weight's name.
    shown(QRect)
        Where the cell is that was chosen by the keys: it should be in view.
    """

    selected = Signal(str)
    shown = Signal(QRect)

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName(tr("Sensitivity by component and block"))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._rows: list[tuple[str, str]] = []  # component, kind
        self._cells: dict[
            tuple[int, int], list[str]
        ] = {}  # (row, column) to weights; several where experts share one
        self._place: dict[str, tuple[int, int]] = {}
        self._widest = 0  # of the rows' names, in pixels
        self._columns = 1
        self._values: Mapping[str, float] = {}
        self._texts: Mapping[str, str] = {}
        self._settled: Collection[str] = ()
        self._predicted: Collection[str] = ()
        self._low, self._high = -7.0, -1.0
        self._least = MIN_CELL  # the width of a cell, at least
        self._hover: tuple[int, int] | None = None
        self._cursor: tuple[int, int] | None = None

    def set_weights(self, weights: Sequence[Mapping[str, Any]]) -> None:
        """The inventory: which cells there are."""
        self._cells, self._place, self._cursor, self._hover = {}, {}, None, None
        named = [(_row_name(w), w) for w in weights if w["kind"] != "conv"]
        order: dict[str, tuple[bool, int, int]] = {}
        kinds = {}
        for place, (name, w) in enumerate(named):
            order.setdefault(name, (w["block"] is None, _KIND_ORDER.get(w["kind"], 9), place))
            kinds[name] = w["kind"]
        self._rows = [(name, kinds[name]) for name in sorted(order, key=order.__getitem__)]
        self._measure_names()
        row_of = {name: index for index, (name, _) in enumerate(self._rows)}
        self._columns = 1 + max((w["block"] or 0 for w in weights), default=0)
        for name, w in named:
            cell = row_of[name], w["block"] or 0
            self._cells.setdefault(cell, []).append(w["name"])
            self._place[w["name"]] = cell
        self.updateGeometry()
        self.update()

    def show_values(
        self,
        values: Mapping[str, float],
        texts: Mapping[str, str],
        low: float,
        high: float,
        settled: Collection[str] = (),
        predicted: Collection[str] = (),
    ) -> None:
        """log10(harm) and the words of every weight that is known, and the colours' range in decades.

        Those that racing stopped, `settled`, get a dot, and those that are `predicted` a ring.
        """
        self._values, self._texts, self._low, self._high = values, texts, low, high
        self._settled, self._predicted = settled, predicted
        self.update()

    def select(self, weight: str) -> None:
        """Mark a weight's cell, without a signal."""
        cell = self._place.get(weight)
        if cell != self._cursor:
            self._cursor = cell
            self.setAccessibleDescription(self._describe(cell) if cell else "")
            self.update()

    def cell_rect(self, weight: str) -> QRect:
        """Where a weight's cell is drawn."""
        return self._rect(self._place[weight]).toRect()

    def sizeHint(self) -> QSize:
        return QSize(420, TOP + len(self._rows) * 26 + 4)

    @property
    def zoom(self) -> int:
        """The step of `ZOOMS` that is shown; 0 is all blocks in the width there is."""
        return ZOOMS.index(self._least)

    @zoom.setter
    def zoom(self, step: int) -> None:
        self._least = ZOOMS[min(max(step, 0), len(ZOOMS) - 1)]
        self.updateGeometry()
        self.update()
        if self._cursor is not None:
            self.shown.emit(self._rect(self._cursor).toRect())

    def rows(self) -> list[Sequence[object]]:
        """What the cells show: weight, component, kind, block, and log10 of the harm where it is known."""
        head = ("weight", "component", "kind", "block", "log10_harm")
        return [
            head,
            *(
                (weight, *self._rows[cell[0]], cell[1], self._values.get(weight))
                for weight, cell in self._place.items()
            ),
        ]

    def minimumSizeHint(self) -> QSize:
        return QSize(self._label_width() + self._columns * self._least, TOP + len(self._rows) * MIN_ROW + 4)

    def paintEvent(self, event: QPaintEvent) -> None:
        with QPainter(self) as painter:
            self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        self._paint_blocks(painter)
        for cell in self._cells:
            self._paint_cell(painter, cell)
        marks = self._hover, self._cursor
        for marked, width in zip(marks, (1, 2), strict=True):
            if marked is not None and marked in self._cells:
                colours = theme.colours()
                strong = self.hasFocus() and width == 2
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(QColor(colours.surface), width + 2))
                painter.drawRect(self._rect(marked).adjusted(1, 1, -1, -1))
                painter.setPen(QPen(QColor(colours.accent if strong else colours.text), width))
                painter.drawRect(self._rect(marked))
        self._paint_names(painter)

    @property
    def _left(self) -> int:
        """Where what is in view begins: the names of the rows stand there."""
        area = self.parentWidget()
        return max(-self.x(), 0) if area is not None and area.width() < self.width() else 0

    def moveEvent(self, event: QMoveEvent) -> None:
        super().moveEvent(event)
        self.update()  # the names go along

    def _paint_names(self, painter: QPainter) -> None:
        colours = theme.colours()
        metrics = self.fontMetrics()
        label_width = self._label_width()
        if self._left:
            painter.fillRect(self._left, 0, label_width, self.height(), QColor(colours.surface))
        painter.save()
        painter.translate(self._left, 0)
        for index, (name, kind) in enumerate(self._rows):
            rect = self._rect((index, 0))
            mark = QRectF(0, rect.center().y() - 6, 12, 12)
            icons.draw(painter, kind if kind in icons.KINDS else "mlp", mark, colours.secondary)
            painter.setPen(QColor(colours.text))
            area = QRectF(18, rect.top(), label_width - 26, rect.height())
            text = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, int(area.width()))
            painter.drawText(area, Qt.AlignmentFlag.AlignVCenter, text)
        painter.setPen(QColor(colours.secondary))
        painter.drawText(QRectF(18, 0, label_width - 26, TOP), Qt.AlignmentFlag.AlignVCenter, tr("block"))
        painter.restore()

    def _paint_blocks(self, painter: QPainter) -> None:
        metrics, label_width, width = self.fontMetrics(), self._label_width(), self._cell_width()
        painter.setPen(QColor(theme.colours().secondary))
        every = max(1, math.ceil((metrics.horizontalAdvance(str(self._columns)) + 8) / width))
        for column in range(0, self._columns, every):
            left = label_width + column * width
            area = QRectF(left - 20, 0, width + 40, TOP)
            painter.drawText(area, Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignVCenter, str(column))

    def _paint_cell(self, painter: QPainter, cell: tuple[int, int]) -> None:
        rect = self._rect(cell).adjusted(0.5, 0.5, -0.5, -0.5)
        values = [self._values[weight] for weight in self._cells[cell] if weight in self._values]
        if values:
            colour = shade(max(values), self._low, self._high)
            painter.fillRect(rect, colour)
            if all(weight in self._settled for weight in self._cells[cell]):
                dot(painter, rect, colour)
            elif all(weight in self._predicted for weight in self._cells[cell]):
                ring(painter, rect, colour)
        else:
            hatch(painter, rect)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        cell = self._cell_at(event.position().toPoint())
        if cell != self._hover:
            self._hover = cell
            self.setCursor(Qt.CursorShape.PointingHandCursor if cell else Qt.CursorShape.ArrowCursor)
            self.update()

    def leaveEvent(self, event: QEvent) -> None:
        self._hover = None
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        cell = self._cell_at(event.position().toPoint())
        if cell:
            self._choose(cell)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        steps = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
        }
        step = steps.get(Qt.Key(event.key()))
        zooms = {Qt.Key.Key_Plus: self.zoom + 1, Qt.Key.Key_Minus: self.zoom - 1, Qt.Key.Key_0: 0}
        if (zoom := zooms.get(Qt.Key(event.key()))) is not None:
            self.zoom = zoom
            return
        if not self._cells or (step is None and event.key() not in (Qt.Key.Key_Home, Qt.Key.Key_End)):
            super().keyPressEvent(event)
            return
        ordered = sorted(self._cells)
        if step is None:
            self._choose(ordered[0] if event.key() == Qt.Key.Key_Home else ordered[-1])
        elif self._cursor is None:
            self._choose(ordered[0])
        elif (cell := self._next(self._cursor, *step)) is not None:
            self._choose(cell)

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier and event.angleDelta().y():
            self.zoom += 1 if event.angleDelta().y() > 0 else -1
            event.accept()
        else:
            super().wheelEvent(event)

    def focusInEvent(self, event: Any) -> None:
        super().focusInEvent(event)
        self.update()

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent):
            cell = self._cell_at(event.pos())
            if cell:
                words, area = plain_tip(self._describe(cell)), self._rect(cell).toRect()
                QToolTip.showText(event.globalPos(), words, self, area)
            else:
                QToolTip.hideText()
            return True
        return super().event(event)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._measure_names()
        super().changeEvent(event)

    def _measure_names(self) -> None:
        metrics = self.fontMetrics()
        self._widest = max((metrics.horizontalAdvance(name) for name, _ in self._rows), default=80)

    def _choose(self, cell: tuple[int, int]) -> None:
        self._cursor = cell
        self.setAccessibleDescription(self._describe(cell))
        self.update()
        self.shown.emit(self._rect(cell).toRect())
        self.selected.emit(self._worst_of(cell))

    def _next(self, cell: tuple[int, int], down: int, right: int) -> tuple[int, int] | None:
        """The nearest present cell in a direction: along the row, or in the nearest row."""
        row, column = cell
        if right:
            ahead = [c for c in self._cells if c[0] == row and (c[1] - column) * right > 0]
            return min(ahead, key=lambda c: abs(c[1] - column), default=None)
        below = [c for c in self._cells if (c[0] - row) * down > 0]
        return min(below, key=lambda c: (abs(c[0] - row), abs(c[1] - column)), default=None)

    def _worst_of(self, cell: tuple[int, int]) -> str:
        return max(self._cells[cell], key=lambda weight: self._values.get(weight, -math.inf))

    def _describe(self, cell: tuple[int, int]) -> str:
        weight = self._worst_of(cell)
        more = len(self._cells[cell]) - 1
        text = f"{weight}: {self._texts.get(weight, 'not yet measured')}"
        return tr("{text} (the worst of {more} experts)").format(text=text, more=more + 1) if more else text

    def _cell_at(self, point: QPoint) -> tuple[int, int] | None:
        width, height = self._cell_width(), self._row_height()
        if point.x() < self._left + self._label_width():
            return None
        column = int((point.x() - self._label_width()) // width)
        row = int((point.y() - TOP) // height)
        return (row, column) if (row, column) in self._cells else None

    def _rect(self, cell: tuple[int, int]) -> QRectF:
        width, height = self._cell_width(), self._row_height()
        return QRectF(self._label_width() + cell[1] * width, TOP + cell[0] * height, width, height)

    def _label_width(self) -> int:
        return min(self._widest + 34, max(self.width() // 3, 120))

    def _cell_width(self) -> float:
        room = self.width() - self._label_width() - 2
        return min(max(room / self._columns, self._least), max(MAX_CELL, self._least))

    def _row_height(self) -> float:
        room = self.height() - TOP - 2
        return min(max(room / max(len(self._rows), 1), MIN_ROW), MAX_ROW)


class Legend(QWidget):
    """What the colours mean: a log scale, and the pattern of what is not measured yet."""

    LEFT = 14

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(38)
        self._measure: Measure | None = None
        self._low, self._high = -7, -1
        self._settled = self._predicted = False

    def set_scale(
        self, measure: Measure, low: int, high: int, *, settled: bool = False, predicted: bool = False
    ) -> None:
        """With `settled`, say what the dots mean, and with `predicted` the rings."""
        self._measure, self._low, self._high = measure, low, high
        self._settled, self._predicted = settled, predicted
        unit = f" {measure.unit}" if measure.unit else ""
        self.setAccessibleName(
            tr("Colours: {low} to {high}{unit}, logarithmic").format(
                low=measure.tick(low), high=measure.tick(high), unit=unit
            )
        )
        self.update()

    def ticks(self) -> list[tuple[int, int, str]]:
        """Where a decade is marked, where its label begins and what it says; as many as there is room for."""
        if self._measure is None:
            return []
        span = max(self._high - self._low, 1)
        labels = {decade: self._measure.tick(decade) for decade in range(self._low, self._high + 1)}
        widths = {decade: self.fontMetrics().horizontalAdvance(text) for decade, text in labels.items()}
        every = math.ceil(max(span / 4, span * (max(widths.values()) + 12) / self._bar))
        found = []
        for decade in range(self._low, self._high + 1, every):
            x = round(self.LEFT + (decade - self._low) / span * (self._bar - 1))
            found.append((x, max(x - widths[decade] // 2, 0), labels[decade]))
        return found

    @property
    def _bar(self) -> int:
        return min(200, max(self.width() - 310, 100))

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._measure is not None:
            with QPainter(self) as painter:
                self._paint(painter, self._measure)

    def _paint(self, painter: QPainter, measure: Measure) -> None:
        colours = theme.colours()
        bar = self._bar
        for x in range(bar):
            decades = self._low + (self._high - self._low) * x / bar
            painter.fillRect(QRectF(self.LEFT + x, 2, 1.5, 12), shade(decades, self._low, self._high))
        painter.setPen(QColor(colours.secondary))
        for x, left, text in self.ticks():
            painter.drawLine(QPoint(x, 14), QPoint(x, 17))
            painter.drawText(QPoint(left, 34), text)
        unit = tr("{unit} per token, ").format(unit=measure.unit) if measure.unit == "nats" else ""
        x = self.LEFT + bar + 24
        painter.drawText(
            QRectF(x, 0, 240, 17), Qt.AlignmentFlag.AlignVCenter, tr("{unit}log scale").format(unit=unit)
        )
        box = QRectF(x, 23, 18, 12)
        hatch(painter, box)
        painter.setPen(QPen(QColor(colours.line), 1))
        painter.drawRect(box)
        painter.setPen(QColor(colours.secondary))
        painter.drawText(QRectF(x + 26, 20, 240, 17), Qt.AlignmentFlag.AlignVCenter, tr("not yet measured"))
        before = tr("not yet measured")
        for shown, mark, words in (
            (self._settled, dot, tr("settled early")),
            (self._predicted, ring, tr("predicted")),
        ):
            if shown:
                x += 26 + self.fontMetrics().horizontalAdvance(before) + 20
                box = QRectF(x, 23, 18, 12)
                colour = shade(self._low, self._low, self._high)
                painter.fillRect(box, colour)
                mark(painter, box, colour)
                painter.drawText(QRectF(x + 26, 20, 240, 17), Qt.AlignmentFlag.AlignVCenter, words)
                before = words


def _row_name(weight: Mapping[str, Any]) -> str:
    return _EXPERT.sub("experts", component(weight["name"], weight["block"]))
