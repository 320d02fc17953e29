"""The selected weight: what it is, each measure in each format, its values, and its KL text by text."""

from functools import partial
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QStackedWidget, QTabBar, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import icons
from kl_lens_desktop.gui.kit.controls import (
    Elided,
    NumberDelegate,
    Picture,
    align_heading,
    label,
    row,
    set_up_table,
    with_heading,
)
from kl_lens_desktop.gui.kit.pictures import Taken
from kl_lens_desktop.gui.kit.words import plain_tip, wrapped_tip
from kl_lens_desktop.gui.sensitivity.measures import MEASURES, PREDICTED_SIGN, tokens_used
from kl_lens_desktop.gui.sensitivity.weight_charts import TextSpread, ValueHistogram
from kl_lens_desktop.gui.state.session import KIND_NAMES, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.quant.formats import parse_format

if TYPE_CHECKING:
    from kl_lens_desktop.sensitivity.scores import Entry


class WeightDetail(QWidget):
    """A line on the weight; below it a table with a row for each format, or a chart.

    Signals
    -------
    turned(int)
        Another of `VIEWS` is in front.
    """

    VIEWS = (tr("Figures"), tr("Values"), tr("By text"))
    turned = Signal(int)

    WIDTHS = (116, 74, 62, 134, 134, 128, 72, 138, 134)
    COLUMNS = (tr("Format"), tr("Size"), tr("Tokens"), *(each.label for each in MEASURES))

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.setMinimumHeight(124)  # a line of figures above the scroll bar
        self._kind = Picture("ssm", "secondary", 14)
        self._name = Elided(tr("Nothing selected"), "heading", Qt.TextElideMode.ElideMiddle)
        self._facts = label("", "secondary")
        self.table = QTableWidget(0, len(self.COLUMNS))
        self.table.setHorizontalHeaderLabels(self.COLUMNS)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        set_up_table(self.table, tr("Measures of the selected weight by format"), stretch=-1)
        numbers = NumberDelegate(self.table)
        for place in range(1, len(self.COLUMNS)):
            self.table.setItemDelegateForColumn(place, numbers)
            align_heading(self.table, place)
            self.table.setColumnWidth(place, with_heading(self.table, place, self.WIDTHS[place]))
        for place, each in enumerate(MEASURES, start=len(self.COLUMNS) - len(MEASURES)):
            heading = self.table.horizontalHeaderItem(place)
            assert heading is not None
            heading.setToolTip(wrapped_tip(each.help))
        self.table.setColumnWidth(0, with_heading(self.table, 0, self.WIDTHS[0]))
        self.values, self.texts = ValueHistogram(), TextSpread()
        self.tabs = QTabBar()
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(False)
        self.tabs.setAccessibleName(tr("Of the selected weight: figures, values, or KL by text"))
        views = QStackedWidget()
        charts = (
            ("weight-values", self.values, self.values.rows),
            ("weight-by-text", self.texts, self.texts.rows),
        )
        takers = [Taken(session, chart, name, rows).button() for name, chart, rows in charts]
        inside: tuple[QWidget, ...] = (self.table, self.values, self.texts)
        for title, widget in zip(self.VIEWS, inside, strict=True):
            self.tabs.addTab(title)
            views.addWidget(widget)
        self.tabs.currentChanged.connect(views.setCurrentIndex)
        self.tabs.currentChanged.connect(self.turned)
        for place, taker in enumerate(takers, start=1):
            taker.hide()
            self.tabs.currentChanged.connect(partial(_show_if, taker, place))
        top = row(self._kind, self._name, self._facts, self.tabs, *takers)
        top.setStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(top)
        layout.addWidget(views, 1)

    def show_weight(self, about: dict[str, Any] | None, entries: "list[Entry]") -> None:
        self._kind.setVisible(about is not None)
        if about is None:
            self._name.set_text(tr("Select a cell or a bar to see the weight's figures"))
            self._facts.setText("")
            self.table.setRowCount(0)
            return
        kind = about["kind"]
        self._kind.set_icon(kind if kind in icons.KINDS else "mlp", "secondary")
        self._name.set_text(about["name"])
        uses = tr(" · used {uses}×").format(uses=about["uses"]) if about["uses"] > 1 else ""
        where = "" if about["block"] is None else tr(" · block {block}").format(block=about["block"])
        count = quantities.parameters(about["parameters"])
        self._facts.setText(
            tr("{kind}{where} · {shape} · {count} weights{uses}").format(
                kind=KIND_NAMES.get(kind, kind),
                where=where,
                shape=quantities.shape(about["shape"]),
                count=count,
                uses=uses,
            )
        )
        entries = sorted(entries, key=lambda entry: -entry.bytes)
        powers = [each.need_powers(entries) for each in MEASURES]
        self.table.setRowCount(len(entries))
        for index, entry in enumerate(entries):
            texts = (
                parse_format(entry.format).label,
                quantities.size(entry.bytes),
                PREDICTED_SIGN if entry.is_predicted else f"{entry.kl_pq.n:,}{' •' if entry.settled else ''}",
                *(
                    each.words(entry, powers=small).removesuffix(" nats")
                    for each, small in zip(MEASURES, powers, strict=True)
                ),
            )
            for place, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if place:
                    tips = text, tokens_used(entry).capitalize()
                    words = MEASURES[place - 3].words(entry) if place > 2 else tips[place - 1]
                    item.setToolTip(plain_tip(words))
                self.table.setItem(index, place, item)


def _show_if(widget: QWidget, place: int, current: int) -> None:
    widget.setVisible(place == current)
