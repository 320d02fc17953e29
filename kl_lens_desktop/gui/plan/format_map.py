"""The plan as a map: the format of each weight, block by component."""

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import draw_swatch
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.sensitivity.heatmap import Heatmap, dot, hatch
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.quant.formats import parse_format

_LABELLED = 15  # pixels from which on a cell says its bits


class FormatMap(Heatmap):
    """Cells of (component, block) in the colour of their format, with its bits where there is room.

    Experts that share a cell share its width.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName(tr("Formats by component and block"))
        self._draft: Draft | None = None
        self._assignments: Mapping[str, str] = {}
        self._pins: Mapping[str, str] = {}

    def show_draft(self, draft: Draft | None) -> None:
        """The weights of these scores."""
        self._draft, self._assignments, self._pins = draft, {}, {}
        self.set_weights(draft.scores.weights if draft else [])

    def show_plan(self, assignments: Mapping[str, str], pins: Mapping[str, str]) -> None:
        """The formats and pins of the moment."""
        if (assignments, pins) != (self._assignments, self._pins):
            self._assignments, self._pins = dict(assignments), dict(pins)
            self._values = {weight: self._loss(weight) for weight in self._place}
            if self._cursor is not None:
                self.setAccessibleDescription(self._describe(self._cursor))
            self.update()

    def formats_in(self, weight: str) -> list[str]:
        """The formats of the cell that a weight lies in, as drawn from left to right."""
        return self._formats(self._place[weight])

    def _formats(self, cell: tuple[int, int]) -> list[str]:
        planned = [weight for weight in self._cells[cell] if self._knows(weight)]
        names = {self._assignments.get(weight, "fp16") for weight in planned}
        return sorted(names, key=lambda name: -parse_format(name).bits)

    def _knows(self, weight: str) -> bool:
        return self._draft is not None and self._draft.choice(weight, "fp16") is not None

    def _loss(self, weight: str) -> float:
        choice = self._draft.choice(weight, self._assignments.get(weight, "fp16")) if self._draft else None
        return choice.loss if choice else 0.0

    def _paint_cell(self, painter: QPainter, cell: tuple[int, int]) -> None:
        rect = self._rect(cell).adjusted(0.5, 0.5, -0.5, -0.5)
        formats = self._formats(cell)
        if not formats:
            hatch(painter, rect)
            return
        width = rect.width() / len(formats)
        for place, name in enumerate(formats):
            part = QRectF(rect.left() + place * width, rect.top(), width, rect.height())
            colour = theme.format_colour(name)
            painter.fillRect(part, colour)
            if width >= _LABELLED:
                painter.setPen(QColor("#1C1C1A" if colour.lightnessF() > 0.45 else "#FFFFFF"))
                bits = f"{parse_format(name).bits:.0f}"
                painter.drawText(part, Qt.AlignmentFlag.AlignCenter, bits)
        if all(weight in self._pins for weight in self._cells[cell]):
            dot(painter, rect, theme.format_colour(formats[-1]))

    def _describe(self, cell: tuple[int, int]) -> str:
        weight = self._worst_of(cell)
        if not self._knows(weight):
            return tr("{weight}: not measured, stays FP16").format(weight=weight)
        name = parse_format(self._assignments.get(weight, "fp16")).label
        pinned = tr(", pinned") if weight in self._pins else ""
        more = len(self._cells[cell]) - 1
        return f"{weight}: {name}{pinned}" + (
            tr(" (the worst of {more} experts)").format(more=more + 1) if more else ""
        )


class FormatKey(QWidget):
    """Which colour is which format, and what a dot and hatching mean."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_formats(self, names: Sequence[str]) -> None:
        """One of each colour, by the number of bits."""
        by_colour = {theme.format_colour(name).name(): name for name in reversed(names)}
        self._names = sorted(by_colour.values(), key=lambda name: -parse_format(name).bits)
        words = ", ".join(parse_format(name).label.split()[0] for name in self._names)
        self.setAccessibleName(tr("Colours of the formats: {words}").format(words=words))
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(320, self.fontMetrics().height() + 4)

    def paintEvent(self, event: QPaintEvent) -> None:
        with QPainter(self) as painter:
            self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        metrics, colours = self.fontMetrics(), theme.colours()
        x, middle = 0, self.height() // 2
        for name in self._names:
            draw_swatch(painter, QRect(x, middle - 6, 12, 12), name)
            x = self._say(painter, x + 18, parse_format(name).label.split()[0])
        painter.setPen(QPen(QColor(colours.text), 1))
        painter.setBrush(QColor(colours.text))
        painter.drawEllipse(QRectF(x, middle - 2.5, 5, 5))
        x = self._say(painter, x + 11, "pinned")
        box = QRectF(x, middle - 6, 14, 12)
        hatch(painter, box)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(colours.line), 1))
        painter.drawRect(box)
        words = metrics.elidedText(
            tr("not measured"), Qt.TextElideMode.ElideRight, max(self.width() - x - 20, 0)
        )
        self._say(painter, x + 20, words)

    def _say(self, painter: QPainter, x: int, words: str) -> int:
        metrics = self.fontMetrics()
        painter.setPen(QColor(theme.colours().secondary))
        painter.drawText(QPoint(x, (self.height() + metrics.ascent() - metrics.descent()) // 2), words)
        return x + metrics.horizontalAdvance(words) + 14
