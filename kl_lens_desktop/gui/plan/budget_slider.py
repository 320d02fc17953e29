"""The slider of a plan's budget."""

from PySide6.QtCore import QPoint, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSlider

from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.state.translation import tr

STEPS = 1000
SNAP = 8  # steps around a mark within which the slider settles on it


class BudgetSlider(QSlider):
    """A slider with labelled marks below, on which it settles when drawn near."""

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self._marks: dict[int, str] = {}
        self.setRange(0, STEPS)
        self.setSingleStep(2)
        self.setPageStep(50)
        self.setAccessibleName(tr("Budget"))
        self.setMinimumHeight(58)
        self.valueChanged.connect(self._settle)

    def set_marks(self, marks: dict[int, str]) -> None:
        self._marks = marks
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(300, 58)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        with QPainter(self) as painter:
            self._paint_marks(painter)

    def _paint_marks(self, painter: QPainter) -> None:
        colours = theme.colours()
        metrics = self.fontMetrics()
        span, middle = self.width() - 18, self.height() // 2
        taken = -1000
        for place, text in sorted([*self._marks.items(), (STEPS, "FP16")]):
            x = round(9 + span * place / STEPS)
            width = metrics.horizontalAdvance(text)
            left = min(max(x - width // 2, 0), self.width() - width)
            painter.setPen(QPen(QColor(colours.edge), 1))
            painter.drawLine(QPoint(x, middle + 5), QPoint(x, middle + 10))
            if left > taken + 6:
                painter.setPen(QColor(colours.secondary))
                painter.drawText(QPoint(left, self.height() - 4), text)
                taken = left + width

    def _settle(self, value: int) -> None:
        near = min(self._marks, key=lambda mark: abs(mark - value), default=None)
        if self.isSliderDown() and near is not None and abs(near - value) <= SNAP:
            self.setValue(near)
