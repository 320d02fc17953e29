"""Two plans side by side: block by part of the model, the one's format above the other's."""

from collections.abc import Sequence

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QDialog, QGridLayout, QScrollArea, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import button, card, column, combo, draw_swatch, label, row
from kl_lens_desktop.gui.plan.draft import method_name
from kl_lens_desktop.gui.state.session import KIND_NAMES
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.compare import difference, place
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.options import WeightOptions
from kl_lens_desktop.quant.formats import parse_format, stored_bytes

CELL, GAP, NAME_WIDTH = 38, 4, 190


class DifferenceDialog(QDialog):
    """What sets this plan apart from another one of the same model.

    Parameters
    ----------
    plan : Plan
    others : sequence of (name, Plan)
        To choose from.
    options : sequence of WeightOptions
        The weights with their kinds, in the order of the model.
    """

    def __init__(
        self,
        plan: Plan,
        others: Sequence[tuple[str, Plan]],
        options: Sequence[WeightOptions],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("Two plans side by side"))
        self.resize(860, 620)
        self._plan, self._others, self._options = plan, dict(others), options
        self.other = combo(tr("The other plan"), [(name, name) for name, _ in others])
        self.other.currentIndexChanged.connect(self._show)
        self.summary = label("", wrap=True, select=True)
        self.grid = DifferenceGrid(options)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(self.grid)
        area.setAccessibleName(tr("Formats by block and part"))
        self._kinds = QGridLayout()
        self._kinds.setHorizontalSpacing(24)
        self._kinds.setVerticalSpacing(4)
        self._kinds.setColumnStretch(3, 1)
        legend = tr(
            "Each cell shows bits and group size: this plan above, the other below. a is "
            "asymmetric; n is NF4."
        )
        whole = column(
            row(label(tr("Compare this plan with"), "heading"), self.other, None),
            self.summary,
            card(column(area, label(legend, "secondary"))),
            card(column(label(tr("Average bits by kind of weight"), "heading"), self._kinds)),
            row(None, button(tr("Close"), self.accept)),
            spacing=12,
        )
        whole.setContentsMargins(16, 16, 16, 16)
        whole.setStretch(2, 1)
        self.setLayout(whole)
        self._show()

    def _show(self) -> None:
        other = self._others[self.other.currentData()]
        self.summary.setText(difference(self._plan, other).as_words().replace("The second plan", "The other"))
        self.grid.show_plans(self._plan, other)
        self._show_kinds(other)

    def _show_kinds(self, other: Plan) -> None:
        while item := self._kinds.takeAt(0):
            if widget := item.widget():
                widget.hide()
                widget.deleteLater()
        for place_of, words in enumerate(("Kind", tr("This plan"), tr("The other"))):
            self._kinds.addWidget(label(words, "secondary"), 0, place_of)
        kinds = list(dict.fromkeys(option.kind for option in self._options))
        for line, kind in enumerate(kinds, 1):
            self._kinds.addWidget(label(KIND_NAMES.get(kind, kind)), line, 0)
            for place_of, plan in enumerate((self._plan, other), 1):
                figure = label(f"{self._bits(plan, kind):.2f}")
                figure.setFont(theme.text_font())
                self._kinds.addWidget(figure, line, place_of)

    def _bits(self, plan: Plan, kind: str) -> float:
        members = [option for option in self._options if option.kind == kind]
        size = sum(stored_bytes(o.shape, parse_format(_format(plan, o))) for o in members)
        return 8 * size / sum(option.parameters for option in members)


class DifferenceGrid(QWidget):
    """Rows are parts, columns blocks; a cell holds both formats' colours and, where they differ, bits."""

    def __init__(self, options: Sequence[WeightOptions]) -> None:
        super().__init__()
        self._cells: dict[tuple[str, int | None], WeightOptions] = {}
        for option in options:
            self._cells[place(option.weight)[1], option.block] = option
        self._parts = list(dict.fromkeys(part for part, _ in self._cells))
        self._blocks = sorted({b for _, b in self._cells if b is not None})
        self._first: Plan | None = None
        self._second: Plan | None = None
        width = NAME_WIDTH + (len(self._blocks) or 1) * (CELL + GAP)
        self.setMinimumSize(QSize(width, 24 + len(self._parts) * (CELL + GAP)))
        self.setAccessibleName(tr("Formats of two plans by block and part"))

    def show_plans(self, first: Plan, second: Plan) -> None:
        self._first, self._second = first, second
        changes = difference(first, second).changes
        self.setAccessibleDescription(
            "; ".join(
                tr("{weight}: {first} and {second}").format(
                    weight=c.weight, first=_label(c.before), second=_label(c.after)
                )
                for c in changes
            )[:2000]
        )
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._first is not None and self._second is not None:
            with QPainter(self) as painter:
                self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        colours = theme.colours()
        painter.setPen(colours.secondary)
        for place_of, block in enumerate(self._blocks):
            across = QRect(NAME_WIDTH + place_of * (CELL + GAP), 0, CELL, 20)
            painter.drawText(across, Qt.AlignmentFlag.AlignCenter, str(block))
        for line, part in enumerate(self._parts):
            top = 24 + line * (CELL + GAP)
            painter.setPen(colours.text)
            name = QRect(0, top, NAME_WIDTH - 8, CELL)
            text = painter.fontMetrics().elidedText(part, Qt.TextElideMode.ElideMiddle, name.width())
            painter.drawText(name, Qt.AlignmentFlag.AlignVCenter, text)
            for place_of, block in enumerate(self._blocks or [0]):
                option = self._cells.get((part, block))
                if option is None and place_of == 0:  # embeddings and the head stand in the first column
                    option = self._cells.get((part, None))
                if option is not None:
                    cell = QRect(NAME_WIDTH + place_of * (CELL + GAP), top, CELL, CELL)
                    self._paint_cell(painter, cell, option)

    def _paint_cell(self, painter: QPainter, cell: QRect, option: WeightOptions) -> None:
        assert self._first is not None
        assert self._second is not None
        first, second = _format(self._first, option), _format(self._second, option)
        half = CELL // 2
        painter.setOpacity(0.25 if first == second else 1.0)
        for top, name in ((cell.top(), first), (cell.top() + half, second)):
            strip = QRect(cell.left(), top, CELL, half)
            draw_swatch(painter, strip, name)
            if first != second:
                # The formats' colours are the same in light and dark, so what is written on them is too.
                painter.setPen(theme.LIGHT.text if _is_pale(name) else theme.LIGHT.surface)
                font = painter.font()
                font.setPixelSize(10)
                painter.setFont(font)
                painter.drawText(strip, Qt.AlignmentFlag.AlignCenter, _short(name))
        painter.setOpacity(1.0)
        painter.setFont(self.font())


def _format(plan: Plan, option: WeightOptions) -> str:
    return plan.assignments.get(option.weight, "fp16")


def _is_pale(name: str) -> bool:
    colour = QColor(theme.format_colour(name))
    return 0.299 * colour.red() + 0.587 * colour.green() + 0.114 * colour.blue() > 128


def _label(name: str) -> str:
    return parse_format(name).label


def _short(name: str) -> str:
    """``4·64``, ``4a·64`` (asymmetric), ``n4·64`` (NF4): what a format is, in a cell's width."""
    fmt = parse_format(name)
    base = f"{'n' if fmt.scheme == 'nf4' else ''}{fmt.bits}{'a' if fmt.has_zero_point else ''}"
    return base if fmt.group is None else f"{base}·{fmt.group}"


def titled(plan: Plan) -> str:
    """A plan as a choice in a list: method and size."""
    return f"{method_name(plan.method)}, {quantities.size(plan.predicted['bytes'] or 0)}"
