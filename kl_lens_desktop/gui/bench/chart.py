"""The charts of the benchmark: speed, quality, size and memory against each other, and speed by prompt."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, QSizeF, Qt
from PySide6.QtGui import QColor, QFont

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.figures import number
from kl_lens_desktop.gui.bench.figures import (
    SYMBOLS,
    Row,
    error_of,
    sorted_variants,
    variant_colours,
    variant_title,
)
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import Chart, LogAxis, spread_labels, stack_labels
from kl_lens_desktop.gui.state.translation import tr


@dataclass(frozen=True, slots=True)
class Scale:
    """What an axis can show: a figure of a row, its words, its factor, and whether its logarithm."""

    key: str
    words: str
    factor: float = 1.0
    log: bool = False


MOST_NAMES = 60  # beyond them nobody could read one; a mark says its name when it is pointed at
SPEED = Scale("tokens_per_s", tr("decode, tokens/s"))
SIZE = Scale("size_bytes", tr("weights, MB"), 1e-6)
MEMORY = Scale("peak_rss_mb", tr("peak RSS of the process, MiB"))
QUALITIES = (
    Scale("perplexity", tr("perplexity")),
    Scale("kl_to_fp16", tr("KL to FP16, nats per token"), log=True),
    Scale("top1_agreement", tr("same top token as FP16, %"), 100.0),
)
BY_LENGTH = (
    Scale("tokens_per_s", tr("decode, tokens/s")),
    Scale("ttft_ms", tr("time to first token, ms"), log=True),
    Scale("prefill_tokens_per_s", tr("prefill, tokens/s")),
)
# By name: what goes across, and what may go up; across None is the length of the prompt.
VIEWS: dict[str, tuple[Scale | None, tuple[Scale, ...]]] = {
    tr("Speed against quality"): (SPEED, QUALITIES),
    tr("Size against quality"): (SIZE, QUALITIES),
    tr("Memory against quality"): (MEMORY, QUALITIES),
    tr("Speed against size"): (SIZE, (SPEED,)),
    tr("Speed against memory"): (MEMORY, (SPEED,)),
    tr("Speed by prompt length"): (None, BY_LENGTH),
}
HINT = tr(
    "Colours are variants; shapes are devices. For speed, bars show the standard "
    "deviation of one generation; for quality, the standard error over windows "
    "of text. All variants read the same text, so differences in quality are "
    "more certain than the bars suggest. Rows with wrong answers are left out."
)


@dataclass(frozen=True, slots=True)
class _Point:
    """A mark in the chart's own units, ends of its error bars, and what it says."""

    row: Row
    x: float
    y: float
    left: float
    right: float
    low: float
    high: float
    tip: str


class BenchChart(Chart):
    """Marks with error bars and names that cover nothing; by length of prompt, lines."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._view, self._up = next(iter(VIEWS)), QUALITIES[0]
        self._names: list[tuple[_Point, str]] = []
        self._labels: list[pg.GraphicsObject] = []
        self._across = _Axis("bottom")
        self._upward = _Axis("left")
        super().__init__(
            tr("Chart of the benchmark"), "", "", axes={"bottom": self._across, "left": self._upward}
        )
        self.plotItem.vb.sigResized.connect(self._place_names)

    def show_rows(self, rows: list[Row]) -> None:
        """Draw the rows that are all right."""
        self._rows = [row for row in rows if row["status"] == "ok"]
        self.redraw_soon()

    def show_view(self, view: str, up: Scale) -> None:
        """Draw one of `VIEWS`, with one of its scales upward."""
        self._view, self._up = view, up
        self.redraw_soon()

    def rows(self) -> list[Sequence[object]]:
        """What the chart shows: variant, device, and both figures of each mark, unscaled."""
        across = VIEWS[self._view][0]
        head = ("variant", "device", across.key if across else "prompt_tokens", self._up.key)
        lines: list[Sequence[object]] = [head]
        for row in self._rows:
            about = row["variant"], row["device"]
            if across:
                lines.append((*about, number(row, across.key), number(row, self._up.key)))
            else:
                lengths = [each["prompt_tokens"] for each in row.get("by_context") or ()]
                lines += [(*about, length, number(row, f"{self._up.key}@{length}")) for length in lengths]
        return lines

    @property
    def names(self) -> list[str]:
        """The labels of the marks that are drawn, or of the first `MOST_NAMES` of them."""
        return [name for _, name in self._names]

    def label_boxes(self) -> list[QRectF]:
        """Where the labels are, in the chart's pixels."""
        texts = [each for each in self._labels if isinstance(each, pg.TextItem)]
        return [text.mapRectToScene(text.boundingRect()) for text in texts]

    def redraw(self) -> None:
        self.clear()
        self._names, self._labels = [], []
        across = VIEWS[self._view][0]
        self._x, self._y = across.words if across else tr("prompt, tokens"), self._up.words
        self._across.use(log=across is None)
        self._upward.use(log=self._up.log)
        self.recolour()
        colours = variant_colours(sorted_variants(row["variant"] for row in self._rows))
        devices = list(dict.fromkeys(row["device"] for row in self._rows))
        points = self._points(across) if across else self._lines(colours, devices)
        if not points:
            empty = pg.TextItem(
                tr("Nothing measured yet"), color=theme.colours().secondary, anchor=(0.5, 0.5)
            )
            empty.setPos(0.5, 0.5)
            self.addItem(empty)
            self.setRange(xRange=(0, 1), yRange=(0, 1), padding=0)
            for axis in (self._across, self._upward):
                axis.setTicks([[]])
            return
        for point in points:
            self._draw(point, colours[point.row["variant"]], devices.index(point.row["device"]))
        if across:
            named = points
        else:
            named = list({(p.row["variant"], p.row["device"]): p for p in points}.values())
            lengths = sorted({point.x for point in points})
            self._across.setTicks([[(x, f"{round(10**x):,}") for x in lengths]])
        self._names = [(point, self._name(point.row, devices)) for point in named[:MOST_NAMES]]
        self._fit(points)
        self._place_names()

    def _name(self, row: Row, devices: list[str]) -> str:
        title = variant_title(row["variant"])
        return f"{title} · {row['device']}" if len(devices) > 1 else title

    def _points(self, across: Scale) -> list[_Point]:
        points = []
        for row in self._rows:
            x, y = number(row, across.key), number(row, self._up.key)
            if x is None or y is None:
                continue
            wide = _interval(x, error_of(row, across.key), across)
            tall = _interval(y, error_of(row, self._up.key), self._up)
            if wide is None or tall is None:
                continue
            said = "\n".join((
                f"{variant_title(row['variant'])} on {row['device']}",
                *(_said(row, scale.key, scale) for scale in (across, self._up)),
            ))  # fmt: skip
            points.append(_Point(row, wide[1], tall[1], wide[0], wide[2], tall[0], tall[2], said))
        return points

    def _lines(self, colours: dict[str, QColor], devices: list[str]) -> list[_Point]:
        points = []
        for row in self._rows:
            line = []
            for each in row.get("by_context") or ():
                length, key = each["prompt_tokens"], f"{self._up.key}@{each['prompt_tokens']}"
                mean = number(row, key)
                ends = _interval(mean, error_of(row, key), self._up) if mean else None
                if ends is None:
                    continue
                x = math.log10(length)
                said = tr("{name}, {length:,} tokens\n{said}").format(
                    name=self._name(row, devices), length=length, said=_said(row, key, self._up)
                )
                line.append(_Point(row, x, ends[1], x, x, ends[0], ends[2], said))
            if line:
                pen = pg.mkPen(
                    _visible(colours[row["variant"]]),
                    width=1.5,
                    style=(Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine)[
                        devices.index(row["device"]) % 3
                    ],
                )
                self.addItem(pg.PlotDataItem([p.x for p in line], [p.y for p in line], pen=pen))
            points += line
        return points

    def _draw(self, point: _Point, colour: QColor, device: int) -> None:
        faint = _visible(colour)
        faint.setAlphaF(0.6)
        bar = pg.mkPen(faint, width=1.2)
        self.addItem(
            pg.ErrorBarItem(
                x=np.array([point.x]),
                y=np.array([point.y]),
                left=np.array([point.x - point.left]),
                right=np.array([point.right - point.x]),
                bottom=np.array([point.y - point.low]),
                top=np.array([point.high - point.y]),
                beam=0,
                pen=bar,
            )
        )
        self.mark(
            point.x,
            point.y,
            size=self._size(),
            fill=colour,
            edge=theme.colours().text,
            symbol=SYMBOLS[device % len(SYMBOLS)],
            width=1,
            tip=point.tip,
        )

    def _size(self) -> float:
        return 13.0 if VIEWS[self._view][0] else 9.0

    def _fit(self, points: list[_Point]) -> None:
        x = [end for point in points for end in (point.left, point.right)]
        y = [end for point in points for end in (point.low, point.high)]
        across = (max(x) - min(x)) or abs(x[0]) * 0.1 or 1.0
        up = (max(y) - min(y)) or abs(y[0]) * 0.1 or 1.0
        lines = VIEWS[self._view][0] is None  # whose names stand to the right
        self.setRange(
            xRange=(min(x) - 0.05 * across, max(x) + (0.26 if lines else 0.05) * across),
            yRange=(min(y) - 0.08 * up, max(y) + 0.12 * up),
            padding=0,
        )

    def _place_names(self) -> None:
        """The names beside their marks, anew whenever the chart has another size."""
        for item in self._labels:
            self.removeItem(item)
        self._labels = []
        box = self.plotItem.vb
        if not self._names or box.width() < 40 or box.height() < 40:
            return
        font = QFont(self.font())
        font.setPointSizeF(9)
        behind = QColor(theme.colours().surface)
        behind.setAlphaF(0.75)
        items = []
        for _, name in self._names:
            item = pg.TextItem(name, color=theme.colours().text, anchor=(0.5, 0.5), fill=behind)
            item.textItem.document().setDocumentMargin(1)
            item.setFont(font)
            item.setZValue(1)
            items.append(item)
        size = self._size()
        marks = [
            QRectF(centre.x() - size / 2, centre.y() - size / 2, size, size)
            for centre in (box.mapViewToScene(QPointF(point.x, point.y)) for point, _ in self._names)
        ]
        sizes = [QSizeF(item.textItem.boundingRect().size()) for item in items]
        area = box.mapRectToScene(box.boundingRect())
        for index, place in self._spread(marks, sizes, area):
            if _between(marks[index], place) > size:
                self._lead(marks[index].center(), place)
            items[index].setPos(box.mapSceneToView(place.center()))
            self.addItem(items[index])
            self._labels.append(items[index])

    def _spread(self, marks: list[QRectF], sizes: list[QSizeF], area: QRectF) -> Iterator[tuple[int, QRectF]]:
        if VIEWS[self._view][0] is None:  # lines have their names behind their ends, in the same order
            left = max(mark.right() for mark in marks) + 16
            middles = [mark.center().y() for mark in marks]
            height = max(size.height() for size in sizes)
            for index, y in enumerate(stack_labels(middles, height, area.top(), area.bottom())):
                x = min(left, area.right() - sizes[index].width())
                yield index, QRectF(QPointF(x, y - sizes[index].height() / 2), sizes[index])
            return
        bars = [bar for point, _ in self._names for bar in self._bars(point)]
        order = sorted(range(len(marks)), key=lambda i: (marks[i].top(), marks[i].left()))
        places = spread_labels([marks[i] for i in order], [sizes[i] for i in order], area, bars)
        yield from zip(order, places, strict=True)

    def _bars(self, point: _Point) -> tuple[QRectF, QRectF]:
        """A point's error bars as the thin areas that they cover."""
        box = self.plotItem.vb
        a = box.mapViewToScene(QPointF(point.left, point.high))
        b = box.mapViewToScene(QPointF(point.right, point.low))
        centre = box.mapViewToScene(QPointF(point.x, point.y))
        return (
            QRectF(a.x(), centre.y() - 1, b.x() - a.x(), 2),
            QRectF(centre.x() - 1, a.y(), 2, b.y() - a.y()),
        )

    def _lead(self, mark: QPointF, place: QRectF) -> None:
        """A thin line from a mark to a name that could not stand beside it."""
        box = self.plotItem.vb
        end = QPointF(
            min(max(mark.x(), place.left()), place.right()),
            min(max(mark.y(), place.top()), place.bottom()),
        )
        if end.x() == place.left():
            end.setY(place.center().y())
        a, b = box.mapSceneToView(mark), box.mapSceneToView(end)
        line = pg.PlotDataItem([a.x(), b.x()], [a.y(), b.y()], pen=pg.mkPen(theme.colours().edge, width=1))
        line.setZValue(-1)
        self.addItem(line)
        self._labels.append(line)


class _Axis(LogAxis):
    """An axis that shows values or, of logarithms, what they are of."""

    def __init__(self, side: str) -> None:
        super().__init__(side)
        self._log = False

    def use(self, *, log: bool) -> None:
        self._log = log
        self.setTicks(None)
        self.picture = None

    def _either(self, method: str) -> Callable[..., Any]:
        return getattr(LogAxis if self._log else pg.AxisItem, method)

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        levels = self._either("tickValues")(self, low, high, size)
        return levels if self._log else levels[:1] if len(levels[0][1]) > 2 else levels[:2]

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        if self._log:
            return super().tickStrings(values, scale, spacing)
        places = max(0, -math.floor(math.log10(spacing) + 1e-9))
        return [f"{value:,.{places}f}" for value in values]


def _interval(mean: float, error: float, scale: Scale) -> tuple[float, float, float] | None:
    """Low end, middle and high end in the units of an axis; None where there is no logarithm."""
    low, middle, high = (scale.factor * value for value in (mean - error, mean, mean + error))
    if not scale.log:
        return low, middle, high
    if middle <= 0:
        return None
    return math.log10(max(low, middle / 10)), math.log10(middle), math.log10(high)


def _said(row: Row, key: str, scale: Scale) -> str:
    mean = number(row, key) or 0.0
    figure = quantities.plus_minus(scale.factor * mean, scale.factor * error_of(row, key))
    return f"{scale.words}: {figure}"


def _visible(colour: QColor) -> QColor:
    """A format's colour as a thin line, which must be darker than an area on white and paler on black."""
    return theme.mixed(colour.name(), theme.colours().text, 0.3)


def _between(mark: QRectF, place: QRectF) -> float:
    across = max(place.left() - mark.right(), mark.left() - place.right(), 0.0)
    up = max(place.top() - mark.bottom(), mark.top() - place.bottom(), 0.0)
    return math.hypot(across, up)
