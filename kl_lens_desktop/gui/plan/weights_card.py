"""The weights of a plan, as a table and as a map: searched, and their formats set by hand with undo."""

from collections.abc import Mapping
from functools import partial

from PySide6.QtCore import QItemSelectionModel, Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut, QUndoStack
from PySide6.QtWidgets import (
    QLineEdit,
    QMenu,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.gui.kit.controls import button, card, column, row, tool
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.plan.format_map import FormatKey, FormatMap
from kl_lens_desktop.gui.plan.table import PlanFilter, PlanTable, PlanView
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.quant.formats import parse_format


class WeightsCard(QWidget):
    """The table or the map, and above them what acts on the selected weights.

    Signals
    -------
    wanted(dict formats)
        A person chose formats for some weights, by name; None gives one back to the algorithm.
    reset_wanted
        All weights are to be given back to the algorithm.
    """

    wanted = Signal(object)
    reset_wanted = Signal()

    def __init__(self, undo: QUndoStack) -> None:
        super().__init__()
        self.table = PlanTable(self)
        self.table.wanted.connect(lambda weight, name: self.wanted.emit({weight: name}))
        self.filter = PlanFilter(self.table)
        self.view = PlanView(self.filter)
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Filter: name, kind or format"))
        self.search.setAccessibleName(tr("Filter the weights"))
        self.search.setClearButtonEnabled(True)
        self.search.setMinimumWidth(56)
        self.search.textChanged.connect(self.filter.setFilterFixedString)
        self.set_selected = QPushButton(tr("Set…"))
        self.set_selected.setProperty("menu", "true")
        self.set_selected.setAutoDefault(False)
        self.set_selected.setAccessibleName(tr("Set the format of the selected weights"))
        self.set_selected.setToolTip(tr("Pin the selected weights to one format"))
        self._formats = QMenu(self.set_selected)
        self.set_selected.setMenu(self._formats)
        undo_button = tool("undo", tr("Undo (Ctrl+Z)"), undo.undo)
        redo_button = tool("redo", tr("Redo (Ctrl+Y)"), undo.redo)
        for possible, widget in ((undo.canUndoChanged, undo_button), (undo.canRedoChanged, redo_button)):
            widget.setEnabled(False)
            possible.connect(widget.setEnabled)
        for keys, act in (("Ctrl+Z", undo.undo), ("Ctrl+Y", undo.redo), ("Ctrl+Shift+Z", undo.redo)):
            QShortcut(QKeySequence(keys), self).activated.connect(act)
        self.reset_button = button(
            tr("Reset"),
            self.reset_wanted.emit,
            tip=tr("Remove all pins. You can undo this."),
        )
        self.map, self.key = FormatMap(), FormatKey()
        self.map.selected.connect(self.select)
        self.view.selectionModel().currentChanged.connect(lambda *_: self._follow_table())
        self.tabs = QTabBar()
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(False)
        self.tabs.setAccessibleName(tr("The weights as a table or as a map"))
        self.tabs.addTab(tr("Table"))
        self.tabs.addTab(tr("Map"))
        top = row(self.tabs, self.search, self.set_selected, undo_button, redo_button, self.reset_button)
        top.setStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(card(column(top, self._make_views())))

    def _make_views(self) -> QStackedWidget:
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scroll.setWidget(self.map)
        by_block = QWidget()
        by_block.setLayout(column(scroll, self.key))
        views = QStackedWidget()
        views.addWidget(self.view)
        views.addWidget(by_block)
        self.tabs.currentChanged.connect(views.setCurrentIndex)
        return views

    def show_plan(self, assignments: Mapping[str, str], pins: Mapping[str, str]) -> None:
        """The formats and pins of the moment, in both views."""
        self.table.show_plan(assignments, pins)
        self.map.show_plan(assignments, pins)

    def select(self, weight: str) -> None:
        """Select a weight in the table, from where it can be set; a filter that hides it is lifted."""
        rows = [row for row in range(self.table.rowCount()) if self.table.weight(row) == weight]
        if not rows:  # it was not measured
            self.view.clearSelection()
            return
        if not self.filter.mapFromSource(self.table.index(rows[0], 0)).isValid():
            self.search.clear()
        flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
        self.view.selectionModel().setCurrentIndex(
            self.filter.mapFromSource(self.table.index(rows[0], 0)), flags
        )

    def _follow_table(self) -> None:
        if (index := self.view.currentIndex()).isValid():
            self.map.select(self.table.weight(self.filter.mapToSource(index).row()))

    def show_draft(self, draft: Draft | None) -> None:
        """The weights of these scores, and the formats they can be set to."""
        self.table.show_draft(draft)
        self.map.show_draft(draft)
        self.key.show_formats(draft.formats if draft else ())
        self._formats.clear()
        for name in draft.formats if draft else ():
            self._formats.addAction(parse_format(name).label, partial(self._set_selected, name))
        self._formats.addSeparator()
        self._formats.addAction(tr("Automatic"), lambda: self._set_selected(None))

    def _set_selected(self, name: str | None) -> None:
        rows = [self.filter.mapToSource(index).row() for index in self.view.selectionModel().selectedRows()]
        self.wanted.emit({self.table.weight(index): name for index in rows})
