"""The most sensitive weights as bars with error bars."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QLineF, QPoint, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.sensitivity.measures import PREDICTED_SIGN
from kl_lens_desktop.gui.state.translation import tr

HEIGHT = 36
COUNT = 12
MOST_DECADES = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """One weight: how it is called, its kind, its value and standard error, and whether that is predicted."""

    weight: str
    name: str
    kind: str
    mean: float
    se: float
    predicted: bool = False

    def words(self, *, powers: bool = False) -> tuple[str, str]:
        """The value and its error, in the notation of the list: see `quantities.need_powers`."""
        mean, se = quantities.with_error(self.mean, self.se, powers=powers)
        return f"{PREDICTED_SIGN} {mean}" if self.predicted else mean, se


class Bars(QWidget):
    """Up to twelve bars on one log scale, the longest first; a click or the arrows select.

    The scale begins at a power of ten below the shortest bar and its error, and has a line at each power.
    """

    selected = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName(tr("Most sensitive weights"))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._bars: Sequence[Bar] = ()
        self._chosen = ""
        self._powers = False

    def show_bars(self, bars: Sequence[Bar]) -> None:
        if list(bars) != list(self._bars):
            self._bars = bars
            self._powers = quantities.need_powers(bar.mean for bar in bars)
            self.updateGeometry()
            self.update()

    def select(self, weight: str) -> None:
        self._chosen = weight
        self._describe()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(260, max(len(self._bars), 1) * HEIGHT)

    def minimumSizeHint(self) -> QSize:
        return QSize(200, len(self._bars) * HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:
        with QPainter(self) as painter:
            self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = theme.colours()
        painter.setFont(theme.text_font())
        if not self._bars:
            painter.setPen(QColor(colours.secondary))
            words = tr("Nothing measured yet.")
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap, words)
            return
        metrics = painter.fontMetrics()
        # The widest value is reserved for, so that bars keep their length when digits come and go.
        value_width = metrics.horizontalAdvance(tr("≈ 8.88e-3 ± 0.18e-3"))
        low, high = self.decades()
        length = max(self.width() - value_width - 22, 30)
        painter.setPen(QPen(QColor(colours.line), 1))
        for decade in range(low, high + 1):
            x = 4 + length * (decade - low) / (high - low)
            for index in range(len(self._bars)):
                painter.drawLine(QLineF(x, index * HEIGHT + 19, x, index * HEIGHT + 31))

        def place(value: float) -> float:
            decades = math.log10(value) if value > 0 else low
            return 4 + length * (min(max(decades, low), high) - low) / (high - low)

        for index, bar in enumerate(self._bars):
            self._paint_bar(painter, bar, index * HEIGHT, place, value_width)

    def decades(self) -> tuple[int, int]:
        """The powers of ten at which the scale begins and ends."""
        highest = max((bar.mean + bar.se for bar in self._bars), default=1.0)
        lowest = min((bar.mean for bar in self._bars if bar.mean > 0), default=highest)
        if not highest > 0:
            return -1, 0
        high = math.ceil(math.log10(highest))
        return min(max(math.floor(math.log10(lowest) - 0.05), high - MOST_DECADES), high - 1), high

    def rows(self) -> list[Sequence[object]]:
        """What the bars show: weight, kind, value, standard error, and whether it is predicted."""
        head = ("weight", "kind", "value", "se", "predicted")
        return [head, *((bar.weight, bar.kind, bar.mean, bar.se, bar.predicted) for bar in self._bars)]

    def _paint_bar(
        self, painter: QPainter, bar: Bar, top: int, place: Callable[[float], float], value_width: int
    ) -> None:
        colours = theme.colours()
        if bar.weight == self._chosen:
            painter.setPen(QPen(QColor(colours.accent), 1) if self.hasFocus() else Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.tint))
            painter.drawRoundedRect(QRectF(0.5, top + 0.5, self.width() - 1, HEIGHT - 2), 4, 4)
        icons.draw(
            painter,
            bar.kind if bar.kind in icons.KINDS else "mlp",
            QRectF(4, top + 5, 10, 10),
            colours.secondary,
        )
        painter.setPen(QColor(colours.text))
        metrics = painter.fontMetrics()
        name = metrics.elidedText(bar.name, Qt.TextElideMode.ElideMiddle, self.width() - 24)
        painter.drawText(QPoint(18, top + 15), name)
        end = place(bar.mean)
        middle = top + 25.0
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.accent))
        painter.drawRoundedRect(QRectF(4, middle - 4, max(end - 4, 1), 8), 2, 2)
        painter.setPen(QPen(QColor(colours.text), 1.2))
        ends = place(bar.mean - bar.se), place(bar.mean + bar.se)
        painter.drawLine(QLineF(ends[0], middle, ends[1], middle))
        for x in ends:
            painter.drawLine(QLineF(x, middle - 4, x, middle + 4))
        mean, se = bar.words(powers=self._powers)
        right = self.width() - 4
        error_text = f" ± {se}" if se else ""
        painter.setPen(QColor(colours.secondary))
        area = QRectF(right - value_width, top + 16, value_width, 18)
        painter.drawText(area, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, error_text)
        painter.setPen(QColor(colours.text))
        area.setRight(right - metrics.horizontalAdvance(error_text))
        painter.drawText(area, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, mean)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        index = int(event.position().y() // HEIGHT)
        if 0 <= index < len(self._bars):
            self._choose(index)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()))
        if step is None or not self._bars:
            super().keyPressEvent(event)
            return
        names = [bar.weight for bar in self._bars]
        now = names.index(self._chosen) if self._chosen in names else -1 if step > 0 else len(names)
        self._choose(min(max(now + step, 0), len(names) - 1))

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.update()

    def _choose(self, index: int) -> None:
        self._chosen = self._bars[index].weight
        self._describe()
        self.update()
        self.selected.emit(self._chosen)

    def _describe(self) -> None:
        bar = next((bar for bar in self._bars if bar.weight == self._chosen), None)
        self.setAccessibleDescription(
            f"{bar.name}: {' ± '.join(filter(None, bar.words(powers=self._powers)))}" if bar else ""
        )
