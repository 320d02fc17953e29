"""The plan as a table: one weight a row, its format to be changed in place."""

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import (
    QAbstractItemModel,
    QAbstractTableModel,
    QEvent,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QRect,
    QRectF,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from PySide6.QtGui import QIcon, QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QApplication,
    QComboBox,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.kit.controls import NumberDelegate, draw_swatch, set_up_table, with_heading
from kl_lens_desktop.gui.kit.words import plain_tip, wrapped_tip
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.sensitivity.measures import component
from kl_lens_desktop.gui.state.session import KIND_NAMES
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.options import WeightOptions
from kl_lens_desktop.quant.formats import parse_format

HEADINGS = (tr("Weight"), tr("Kind"), tr("Shape"), tr("Format"), tr("Own KL, nats"), tr("Size"))
TIPS = (
    tr("The matrix's name in the model"),
    tr(
        "The part of a block that it belongs to. SSM layers have a state of fixed "
        "size; attention grows with the text."
    ),
    tr("Rows × columns"),
    tr("How its numbers are stored, for example in 16, 8 or 4 bits. Double-click to choose another format."),
    tr(
        "How far the model's predictions move if only this weight has this format, "
        "in nats per token. 0 is not at all; 0.01 is hard to notice."
    ),
    tr("In the exported file, scales included"),
)
WEIGHT, KIND, SHAPE, FORMAT, LOSS, SIZE = range(6)
SORT_ROLE = Qt.ItemDataRole.UserRole + 1
FORMAT_ROLE = Qt.ItemDataRole.UserRole + 2
PINNED_ROLE = Qt.ItemDataRole.UserRole + 3
CHOICES_ROLE = Qt.ItemDataRole.UserRole + 4
SEARCH_ROLE = Qt.ItemDataRole.UserRole + 5
Index = QModelIndex | QPersistentModelIndex


class PlanTable(QAbstractTableModel):
    """Rows in the order of the model.

    Signals
    -------
    wanted(str weight, object format)
        A person chose a format for a weight; None gives it back to the algorithm.
    """

    wanted = Signal(str, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._draft: Draft | None = None
        self._assignments: Mapping[str, str] = {}
        self._pins: Mapping[str, str] = {}
        self._powers = False  # of ten, in the column of losses

    def show_draft(self, draft: Draft | None) -> None:
        self.beginResetModel()
        self._draft, self._assignments, self._pins = draft, {}, {}
        choices = (choice for option in draft.options for choice in option.choices) if draft else ()
        self._powers = quantities.need_powers(choice.loss for choice in choices)
        self.endResetModel()

    def show_plan(self, assignments: Mapping[str, str], pins: Mapping[str, str]) -> None:
        """The formats and pins of the moment."""
        self._assignments, self._pins = assignments, pins
        if self.rowCount():
            self.dataChanged.emit(self.index(0, FORMAT), self.index(self.rowCount() - 1, SIZE))

    def weight(self, row: int) -> str:
        assert self._draft is not None
        return self._draft.options[row].weight

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  (Qt's own signature)
        return 0 if parent.isValid() or self._draft is None else len(self._draft.options)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(HEADINGS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation == Qt.Orientation.Horizontal:
            if role == Qt.ItemDataRole.DisplayRole:
                return HEADINGS[section]
            if role == Qt.ItemDataRole.ToolTipRole:
                return wrapped_tip(TIPS[section])
            if role == Qt.ItemDataRole.TextAlignmentRole and section in (LOSS, SIZE):
                return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == FORMAT else flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if self._draft is None or not index.isValid():
            return None
        option = self._draft.options[index.row()]
        name = self._assignments.get(option.weight, "fp16")
        column = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(index.row(), name, column)
        if role == SORT_ROLE:
            return self._key(index.row(), name, column)
        if role == FORMAT_ROLE:
            return name
        if role == PINNED_ROLE:
            return option.weight in self._pins
        if role == SEARCH_ROLE:
            return f"{option.weight} {KIND_NAMES.get(option.kind, option.kind)} {parse_format(name).label}"
        if role == CHOICES_ROLE:
            return [choice.format for choice in option.choices]
        if role == Qt.ItemDataRole.DecorationRole and column == WEIGHT:
            return _kind_icon(option.kind)
        if role == Qt.ItemDataRole.ToolTipRole:
            pinned = (
                tr("\nPinned to {label} by hand").format(label=parse_format(name).label)
                if option.weight in self._pins
                else ""
            )
            if column == FORMAT and (prices := self._prices(option)):
                return plain_tip(f"{option.weight}{pinned}\n{prices}")
            whole = column in (WEIGHT, FORMAT)
            return plain_tip(f"{option.weight}{pinned}" if whole else self._text(index.row(), name, column))
        if role == Qt.ItemDataRole.AccessibleTextRole:
            pinned = tr(", pinned") if column == FORMAT and option.weight in self._pins else ""
            return f"{HEADINGS[column]}: {self._text(index.row(), name, column)}{pinned}"
        return None

    def _prices(self, option: WeightOptions) -> str:
        """Of each format: bytes in the file and, where the device was measured, memory and time."""
        assert self._draft is not None
        lines = []
        for choice in option.choices:
            if price := self._draft.price(option.weight, choice.format):
                parts = (
                    quantities.size(choice.bytes),
                    tr("{memory} of memory").format(memory=quantities.size(price.memory)),
                )
                time = f"{quantities.significant(1e6 * price.seconds)} µs"
                lines.append(f"{parse_format(choice.format).label}: {', '.join((*parts, time))}")
        return (
            "\n".join([tr("On {device}, for each token:").format(device=self._draft.device), *lines])
            if lines
            else ""
        )

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if role != Qt.ItemDataRole.EditRole or index.column() != FORMAT:
            return False
        self.wanted.emit(self.weight(index.row()), value)
        return True

    def _text(self, row: int, name: str, column: int) -> str:
        assert self._draft is not None
        option = self._draft.options[row]
        choice = self._draft.choice(option.weight, name)
        if column == WEIGHT:
            return _row_name(option.weight, option.block)
        if column == KIND:
            return KIND_NAMES.get(option.kind, option.kind)
        if column == SHAPE:
            return quantities.shape(option.shape)
        if column == FORMAT:
            return parse_format(name).label
        if choice is None:
            return tr("not measured") if column == LOSS else "–"
        if column == LOSS:
            return quantities.plus_minus(choice.loss, choice.se, powers=self._powers) if choice.loss else "0"
        return quantities.size(choice.bytes)

    def _key(self, row: int, name: str, column: int) -> Any:
        assert self._draft is not None
        option = self._draft.options[row]
        choice = self._draft.choice(option.weight, name)
        if column == WEIGHT:
            return row
        if column == SHAPE:
            return option.parameters
        if column == FORMAT:
            return parse_format(name).bits
        if column in (LOSS, SIZE):
            return -1.0 if choice is None else choice.loss if column == LOSS else choice.bytes
        return option.kind


class PlanFilter(QSortFilterProxyModel):
    """Sorts by value and filters by the words of name, kind and format."""

    def __init__(self, source: PlanTable) -> None:
        super().__init__(source)
        self.setSourceModel(source)
        self.setSortRole(SORT_ROLE)
        self.setFilterRole(SEARCH_ROLE)
        self.setFilterKeyColumn(WEIGHT)
        self.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)


class PlanView(QTableView):
    """The name takes what room the other columns leave, and never less than it needs to be read."""

    NAME_WIDTH = 128
    WIDTHS = ((KIND, 100), (SHAPE, 112), (FORMAT, 162), (LOSS, 114), (SIZE, 72))

    def __init__(self, model: PlanFilter) -> None:
        super().__init__()
        self.setModel(model)
        set_up_table(self, tr("Weights and their formats"), stretch=-1)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setSortingEnabled(True)
        self.sortByColumn(WEIGHT, Qt.SortOrder.AscendingOrder)
        self.setSelectionMode(QTableView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(
            QTableView.EditTrigger.DoubleClicked
            | QTableView.EditTrigger.SelectedClicked
            | QTableView.EditTrigger.EditKeyPressed
            | QTableView.EditTrigger.AnyKeyPressed
        )
        self.setItemDelegateForColumn(FORMAT, FormatDelegate(self))
        numbers = NumberDelegate(self)
        for place in (LOSS, SIZE):
            self.setItemDelegateForColumn(place, numbers)
        for place, width in self.WIDTHS:
            self.setColumnWidth(place, with_heading(self, place, width))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        others = sum(self.columnWidth(place) for place in range(1, len(HEADINGS)))
        self.setColumnWidth(WEIGHT, max(self.viewport().width() - others, self.NAME_WIDTH))


class FormatDelegate(QStyledItemDelegate):
    """The format with its colour, a pin where a person decided, and a drop-down to decide."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        options = QStyleOptionViewItem(option)
        self.initStyleOption(options, index)
        text, options.text = options.text, ""
        QApplication.style().drawControl(
            QStyle.ControlElement.CE_ItemViewItem, options, painter, options.widget
        )
        colours = theme.colours()
        area = options.rect.adjusted(8, 0, -8, 0)
        middle = area.center().y()
        draw_swatch(painter, QRect(area.left(), middle - 6, 12, 12), index.data(FORMAT_ROLE))
        painter.save()
        painter.setFont(options.font)
        painter.setPen(colours.text)
        room = area.adjusted(20, 0, -34 if index.data(PINNED_ROLE) else -14, 0)
        shown = options.fontMetrics.elidedText(text, Qt.TextElideMode.ElideRight, room.width())
        painter.drawText(room, Qt.AlignmentFlag.AlignVCenter, shown)
        painter.restore()
        if index.data(PINNED_ROLE):
            icons.draw(painter, "pin", QRectF(area.right() - 30, middle - 7, 14, 14), colours.accent)
        icons.draw(
            painter,
            f"chevron-down-{colours.name}",
            QRectF(area.right() - 10, middle - 5, 11, 11),
            colours.secondary,
        )

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        hint = super().sizeHint(option, index)
        return QSize(hint.width() + 76, hint.height())

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        editor = QComboBox(parent)
        editor.setAccessibleName(tr("Format of this weight"))
        if index.data(PINNED_ROLE):
            editor.addItem(tr("Automatic"), None)
        for name in index.data(CHOICES_ROLE):
            editor.addItem(parse_format(name).label, name)
        editor.activated.connect(lambda _: self._commit(editor))
        return editor

    def setEditorData(self, editor: QWidget, index: Index) -> None:
        assert isinstance(editor, QComboBox)
        editor.setCurrentIndex(editor.findData(index.data(FORMAT_ROLE)))
        editor.showPopup()

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: Index) -> None:
        assert isinstance(editor, QComboBox)
        chosen = editor.currentData()
        if chosen != index.data(FORMAT_ROLE) or (chosen is None and index.data(PINNED_ROLE)):
            model.setData(index, chosen, Qt.ItemDataRole.EditRole)

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:
        editor.setGeometry(option.rect)

    def editorEvent(
        self, event: QEvent, model: QAbstractItemModel, option: QStyleOptionViewItem, index: Index
    ) -> bool:
        return False

    def _commit(self, editor: QComboBox) -> None:
        self.commitData.emit(editor)
        self.closeEditor.emit(editor)


def _row_name(weight: str, block: int | None) -> str:
    """``0 · in_proj``: the module it belongs to is told by its kind, and by the tooltip in full."""
    part = component(weight, block)
    part = part.partition(".")[2] or part
    return part if block is None else f"{block} · {part}"


def _kind_icon(kind: str) -> QIcon:
    return icons.icon(kind if kind in icons.KINDS else "mlp", "secondary")
