"""Charts in the window's look: light or dark with it, thin lines, log axes with plain numbers."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSizeF, Qt, QTimer
from PySide6.QtGui import QColor, QFont
from PySide6.QtWidgets import QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.printable import printable

pg.setConfigOptions(antialias=True)
_TICK, _MOST_TICKS = 17, 7  # pixels that a label takes, and how many are enough


class LogAxis(pg.AxisItem):
    """An axis of log10 values that shows the values themselves: 0.001, 0.01, 0.1."""

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        decades = [float(d) for d in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        most = min(max(int(size // _TICK), 2), _MOST_TICKS)  # that do not touch
        if len(decades) > most:
            return [(1.0, decades[:: math.ceil(len(decades) / most)])]
        between = [
            d + math.log10(step)
            for d in range(math.floor(low), math.ceil(high) + 1)
            for step in ((2, 5) if len(decades) <= 3 else ())
        ]
        return [(1.0, decades), (0.3, [value for value in between if low <= value <= high])]

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        return [quantities.significant(10.0**value, 1) for value in values]


def take_menu_away(plot: pg.PlotWidget) -> None:
    """A plot has no menu of pyqtgraph's; the one that it makes all the same goes when the plot does."""
    plot.setMenuEnabled(False)
    menu = plot.plotItem.ctrlMenu
    plot.destroyed.connect(menu.deleteLater)


class Chart(pg.PlotWidget):
    """A plot that is read, not dragged about; subclasses draw in `redraw`, again after a change of theme."""

    def __init__(
        self,
        name: str,
        x: str,
        y: str,
        *,
        log_y: bool = False,
        axes: dict[str, pg.AxisItem] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        self._x, self._y, self._ready = x, y, False  # Qt sends changes while it is still being made
        axes = axes or ({"left": LogAxis("left")} if log_y else {})
        super().__init__(parent, axisItems=axes, enableMenu=False)
        self._soon = QTimer(self, interval=0, singleShot=True)
        self._soon.timeout.connect(self.redraw)
        self.setAccessibleName(name)
        take_menu_away(self)
        self.hideButtons()
        self.setMouseEnabled(False, False)
        self.setFrameShape(self.Shape.NoFrame)
        for part in (self, self.viewport()):
            part.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.plotItem.setContentsMargins(0, 8, 12, 0)
        self.recolour()
        self._ready = True

    def redraw(self) -> None:
        """Draw all items anew in the colours of the moment."""

    def redraw_soon(self) -> None:
        """Draw once all that happens now has happened, however often it asks, and in a turn of its own."""
        self._soon.start()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and self._ready and self._look() != self._worn:
            self.recolour()
            self.redraw()

    def _look(self) -> tuple[theme.Colours, str]:
        """What a change of palette may change; Qt also sends one whenever a widget finds another parent."""
        return theme.colours(), self.font().toString()

    def recolour(self) -> None:
        self._worn = self._look()
        colours = theme.colours()
        self.setBackground(colours.surface)
        font = QFont(self.font())
        font.setPointSizeF(9)
        for side, words in (("left", self._y), ("bottom", self._x)):
            axis = self.getAxis(side)
            axis.setPen(pg.mkPen(colours.line, width=1))
            axis.setTextPen(pg.mkPen(colours.secondary))
            axis.setTickPen(pg.mkPen(colours.line, width=1))
            axis.setStyle(tickFont=font, tickLength=-4)
            axis.setLabel(words, color=colours.secondary, **{"font-size": "9pt"})
            axis.enableAutoSIPrefix(False)

    def show_title(self, words: str) -> None:
        """Words above the chart, as they are; none where `words` is empty."""
        title = escape(printable(words)) or None
        self.plotItem.setTitle(title, color=theme.colours().secondary, size="9pt")

    def label_at(self, x: float, y: float, text: str, anchor: tuple[float, float] = (0.5, 1.2)) -> None:
        """A small label beside a mark."""
        item = pg.TextItem(text, color=theme.colours().text, anchor=anchor)
        font = QFont(self.font())
        font.setPointSizeF(9)
        item.setFont(font)
        self.addItem(item)
        item.setPos(x, y)

    def error_bar(self, x: float, y: float, below: float, above: float, colour: str) -> None:
        self.addItem(
            pg.ErrorBarItem(
                x=np.array([x]),
                y=np.array([y]),
                top=np.array([above]),
                bottom=np.array([below]),
                beam=0,
                pen=pg.mkPen(colour, width=1.5),
            )
        )

    def mark(
        self,
        x: float,
        y: float,
        *,
        size: float,
        fill: QColor | str | None,
        edge: str,
        symbol: str = "o",
        width: float = 1.5,
        tip: str = "",
    ) -> None:
        """A mark; `tip` is what it says when it is pointed at."""
        brush: Any = pg.mkBrush(fill) if fill is not None else pg.mkBrush(None)
        self.addItem(
            pg.ScatterPlotItem(
                [x],
                [y],
                size=size,
                symbol=symbol,
                brush=brush,
                pen=pg.mkPen(edge, width=width),
                data=[plain_tip(tip)],
                hoverable=bool(tip),
                tip=lambda x, y, data: data,
            )
        )


def spread_labels(
    marks: Sequence[QRectF], sizes: Sequence[QSizeF], area: QRectF, lines: Sequence[QRectF] = ()
) -> list[QRectF]:
    """Where the labels of marks go: the nearest free place beside each that covers no label, mark or line.

    Where there is none inside `area`, the one that covers least.
    """
    placed: list[QRectF] = []
    for mark, size in zip(marks, sizes, strict=True):
        spots = [spot for spot in _spots(mark, size) if area.contains(spot)]
        if not spots:
            placed.append(_inside(next(_spots(mark, size)), area))
            continue
        covered = _shared(_edges(spots), _edges([*marks, *placed, *lines]))
        placed.append(spots[int(covered.argmin())])  # the first of those that cover least: nothing, mostly
    return placed


def stack_labels(middles: Sequence[float], height: float, low: float, high: float) -> list[float]:
    """Middles of labels one below the other, as near to `middles` as they can be, from `low` to `high`.

    They keep the order of `middles`, and overlap only where there is not enough room for all.
    """
    order = sorted(range(len(middles)), key=lambda index: middles[index])
    step = min(height, (high - low) / max(len(order), 1))
    places = list(middles)
    edge = low
    for index in order:
        places[index] = max(middles[index], edge + step / 2)
        edge = places[index] + step / 2
    edge = high
    for index in reversed(order):
        places[index] = min(places[index], edge - step / 2)
        edge = places[index] - step / 2
    return places


def _spots(mark: QRectF, size: QSizeF, gap: float = 2.0) -> Iterator[QRectF]:
    """Places beside a mark, the nearest first: above, to the right, to the left, below, then farther out."""
    middle = mark.center()
    for step in range(40):
        out = step * size.height() / 4
        above, below = mark.top() - gap - size.height() - out, mark.bottom() + gap + out
        right, left = mark.right() + gap, mark.left() - gap - size.width()
        centred = middle.x() - size.width() / 2
        for x, y in (
            (centred, above),
            (right, middle.y() - size.height() / 2 - out),
            (right, middle.y() - size.height() / 2 + out),
            (left, middle.y() - size.height() / 2 - out),
            (left, middle.y() - size.height() / 2 + out),
            (centred, below),
        ):
            yield QRectF(QPointF(x, y), size)


def _inside(spot: QRectF, area: QRectF) -> QRectF:
    x = min(max(spot.left(), area.left()), max(area.right() - spot.width(), area.left()))
    y = min(max(spot.top(), area.top()), max(area.bottom() - spot.height(), area.top()))
    return QRectF(QPointF(x, y), spot.size())


def _edges(rects: Sequence[QRectF]) -> NDArray[np.float64]:
    """Left, top, right and bottom: (rects, 4)."""
    return np.array([(rect.left(), rect.top(), rect.right(), rect.bottom()) for rect in rects])


def _shared(spots: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of the others each spot covers, as an area."""
    a, b = spots[:, None], others[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return sides.clip(min=0).prod(-1).sum(-1)
