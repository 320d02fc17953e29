"""The most sensitive weights as bars with error bars."""

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QLineF, QPoint, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.sensitivity.measures import PREDICTED_SIGN

HEIGHT = 36
COUNT = 12


@dataclass(frozen=True, slots=True)
class Bar:
    """One weight: how it is called, its kind, its value and standard error, and whether that is predicted."""

    weight: str
    name: str
    kind: str
    mean: float
    se: float
    predicted: bool = False

    @property
    def words(self) -> tuple[str, str]:
        mean, se = quantities.with_error(self.mean, self.se)
        return f"{PREDICTED_SIGN} {mean}" if self.predicted else mean, se


class Bars(QWidget):
    """Up to twelve bars on one linear scale from zero, the longest first; a click or the arrows select."""

    selected = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Most sensitive weights")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._bars: Sequence[Bar] = ()
        self._chosen = ""

    def show_bars(self, bars: Sequence[Bar]) -> None:
        if list(bars) != list(self._bars):
            self._bars = bars
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
            words = "Nothing measured yet."
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap, words)
            return
        metrics = painter.fontMetrics()
        # The widest value is reserved for, so that bars keep their length when digits come and go.
        value_width = metrics.horizontalAdvance("≈ 0.00888 ± 0.00018")
        full = max(bar.mean + bar.se for bar in self._bars)
        length = max(self.width() - value_width - 22, 30)
        for index, bar in enumerate(self._bars):
            self._paint_bar(painter, bar, index * HEIGHT, length / full if full > 0 else 0.0, value_width)

    def _paint_bar(self, painter: QPainter, bar: Bar, top: int, scale: float, value_width: int) -> None:
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
        end, error = 4 + bar.mean * scale, bar.se * scale
        middle = top + 25.0
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.accent))
        painter.drawRoundedRect(QRectF(4, middle - 4, max(end - 4, 1), 8), 2, 2)
        painter.setPen(QPen(QColor(colours.text), 1.2))
        ends = max(end - error, 4.0), end + error
        painter.drawLine(QLineF(ends[0], middle, ends[1], middle))
        for x in ends:
            painter.drawLine(QLineF(x, middle - 4, x, middle + 4))
        mean, se = bar.words
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
        self.setAccessibleDescription(f"{bar.name}: {' ± '.join(filter(None, bar.words))}" if bar else "")
