"""The slider of a plan's budget."""

from PySide6.QtCore import QPoint, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSlider

from kl_lens_desktop.gui import theme

STEPS = 1000


class BudgetSlider(QSlider):
    """A slider with labelled marks below, on which it settles when drawn near."""

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.marks: dict[int, str] = {}
        self.setRange(0, STEPS)
        self.setSingleStep(2)
        self.setPageStep(50)
        self.setAccessibleName("Budget")
        self.setMinimumHeight(58)

    def set_marks(self, marks: dict[int, str]) -> None:
        self.marks = marks
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(300, 58)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        colours = theme.colours()
        metrics = self.fontMetrics()
        span, middle = self.width() - 18, self.height() // 2
        taken = -1000
        for place, text in sorted([*self.marks.items(), (STEPS, "FP16")]):
            x = round(9 + span * place / STEPS)
            width = metrics.horizontalAdvance(text)
            left = min(max(x - width // 2, 0), self.width() - width)
            painter.setPen(QPen(QColor(colours.edge), 1))
            painter.drawLine(QPoint(x, middle + 5), QPoint(x, middle + 10))
            if left > taken + 6:
                painter.setPen(QColor(colours.secondary))
                painter.drawText(QPoint(left, self.height() - 4), text)
                taken = left + width
