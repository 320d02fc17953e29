"""The whole job at a glance: five steps on one line that never starts over."""

from collections.abc import Mapping

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QProgressBar

from kl_lens_desktop.course import STEPS
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.stages import STAGES
from kl_lens_desktop.gui.state.translation import tr

GAP, BAR = 3, 6


class Timeline(QProgressBar):
    """The steps side by side: those that are past full, the one that runs as far as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("timeline")
        self.setTextVisible(False)
        self.setRange(0, 1000)
        self.setAccessibleName(tr("The whole job"))
        self.setMinimumWidth(220)
        self.shares: tuple[float, ...] = (1.0,) + (0.0,) * len(STEPS)
        self.current = 1

    def show_course(self, shares: Mapping[str, float], step: str, words: str) -> None:
        """How much of each of `STEPS` is done, which of them runs, and the time left, in words."""
        self.shares = 1.0, *(shares.get(each, 0.0) for each in STEPS)
        self.current = STEPS.index(step) + 1 if step else 1
        self.setValue(round(1000 * sum(self.shares) / len(self.shares)))
        share = f"{100 * self.shares[self.current]:.0f} %"
        told = (
            tr("Step {current} of {count}, {stage}: {share}. {words}")
            .format(
                current=self.current + 1,
                count=len(STAGES),
                stage=tr(STAGES[self.current]),
                share=share,
                words=words,
            )
            .strip()
        )
        self.setAccessibleDescription(told)
        self.setToolTip(plain_tip(told))
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(420, 34)

    def paintEvent(self, event: QPaintEvent) -> None:
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        colours = theme.colours()
        width = (self.width() - GAP * (len(STAGES) - 1)) / len(STAGES)
        metrics = self.fontMetrics()
        top = (self.height() - metrics.height() - BAR - 2) / 2
        names = map(tr, STAGES)
        for place, (name, share) in enumerate(zip(names, self.shares, strict=True)):
            left = place * (width + GAP)
            font = theme.text_font(9, semibold=place == self.current)
            painter.setFont(font)
            painter.setPen(QColor(colours.text if place == self.current else colours.secondary))
            area = QRectF(left, top, width, metrics.height())
            text = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, int(width))
            painter.drawText(area, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text)
            bar = QRectF(left, top + metrics.height() + 2, width, BAR)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.line))
            painter.drawRoundedRect(bar, 3, 3)
            if share > 0:
                bar.setWidth(max(width * share, BAR))
                painter.setBrush(QColor(colours.accent))
                painter.drawRoundedRect(bar, 3, 3)
