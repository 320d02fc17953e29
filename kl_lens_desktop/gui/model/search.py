"""Finding a model on the Hub: words and filters, and the models that match."""

from typing import TYPE_CHECKING

import psutil
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.gui.kit.controls import column, combo, label, set_up_table, tool
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.model.fit import BENCH_FP16, stage_needs

if TYPE_CHECKING:
    from kl_lens_desktop.hub.facts import Facts

SUPPORTED, ANY = "", "any"
_SIZES = ((tr("Any size"), ""), (tr("Up to 1 B"), "1B"), (tr("Up to 3 B"), "3B"), (tr("Up to 8 B"), "8B"))
_LICENCES = ((tr("Any licence"), ""), (tr("Apache 2.0"), "apache-2.0"), ("MIT", "mit"))
_MOST = 60


class Results(QWidget):
    """What the Hub has, narrowed by filters.

    Signals
    -------
    chosen(Facts), activated(), left()
        A row was selected; it was double-clicked; the person wants back.
    """

    chosen = Signal(object)
    activated = Signal()
    left = Signal()
    refused = Signal(str)

    def __init__(self, session: Session, query: QLineEdit) -> None:
        super().__init__()
        self._session, self._query = session, query
        self._hits: list[Facts] = []
        self._asked = 0  # which question is the last, whose answer is shown
        families = [(name, name) for name in FAMILIES]
        kinds = [(tr("Supported here"), SUPPORTED), *families, (tr("Any architecture"), ANY)]
        self.architecture = combo(tr("Architecture"), kinds)
        self.weights = combo(tr("Number of weights"), _SIZES)
        self.licence = combo(tr("Licence"), _LICENCES)
        self.open_only = QCheckBox(tr("Open access"))
        self.open_only.setToolTip(
            plain_tip(tr("Leave out models whose authors must be asked for access (gated)"))
        )
        for filter_ in (self.architecture, self.weights, self.licence):
            filter_.setMinimumContentsLength(8)
            filter_.currentIndexChanged.connect(self.search)
        self.open_only.toggled.connect(self.search)
        self.said = label("", "secondary", wrap=True)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels([tr("Model"), tr("Weights"), tr("Usable here?")])
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        set_up_table(self.table, tr("Models found on the Hub"))
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        for index, width in ((1, 76), (2, 130)):
            self.table.setColumnWidth(index, width)
        self.table.itemSelectionChanged.connect(self._choose)
        self.table.itemActivated.connect(lambda _: self.activated.emit())
        filters, top = QGridLayout(), QHBoxLayout()
        filters.setSpacing(8)
        for place, widget in enumerate((self.architecture, self.weights, self.licence, self.open_only)):
            filters.addWidget(widget, place // 2, place % 2)
        top.addWidget(self.said, 1)
        top.addWidget(tool("close", tr("Back to the start"), self.left.emit))
        layout = column(filters, top, self.table)
        layout.setContentsMargins(0, 0, 0, 0)
        self.setLayout(layout)

    def search(self) -> None:
        """Ask the Hub, outside the window's thread; without words, for models to begin with."""
        query = self._query.text().strip()
        author, _, words = query.rpartition("/")
        kind, size = self.architecture.currentData(), self.weights.currentData()
        licence, open_only = self.licence.currentData(), self.open_only.isChecked()
        begin = not (query or kind or size or licence or open_only)
        self.said.setText(tr("Asking the Hub …"))
        self.table.setRowCount(0)
        self._asked += 1
        asked = self._asked

        def ask() -> "list[Facts]":
            from kl_lens_desktop.hub import client

            if begin:
                return client.suggested()
            return client.search(
                words,
                architecture=kind if kind in FAMILIES else "",
                author=author,
                licence=licence,
                most_parameters=size,
                open_only=open_only,
                limit=_MOST,
            )

        def show(hits: "list[Facts]") -> None:
            if asked == self._asked:
                self._show(hits, begin=begin, every=kind == ANY)

        def refuse(error: KLLensError) -> None:
            if asked == self._asked:
                self.refused.emit(str(error))
            self._session.write_log("error", str(error))

        self._session.background.run(ask, show, refuse)

    def _show(self, found: "list[Facts]", *, begin: bool, every: bool) -> None:
        hits = [hit for hit in found if every or not hit.obstacle]
        hidden = len(found) - len(hits)
        self._hits = hits
        words = tr("Small hybrids to begin with") if begin else quantities.plural(len(hits), "model")
        words += "" if begin else tr(" with safetensors, most downloaded first")
        words = words if hits else tr("No model matches. Try other words or fewer filters")
        words += (
            tr("; {hidden:,} that cannot be used here {are} left out").format(
                hidden=hidden, are=tr("is") if hidden == 1 else tr("are")
            )
            if hidden
            else ""
        )
        self.said.setText(words + ".")
        self.table.setRowCount(len(hits))
        for index, hit in enumerate(hits):
            size = quantities.parameters(hit.parameters) if hit.parameters else "–"
            name = f"{hit.id}  (gated)" if hit.gated else hit.id
            name = f"{name}\n{hit.architecture or 'architecture not stated'}"
            verdict, remark = _verdict(hit)
            for place, (text, more) in enumerate(((name, ""), (size, ""), (verdict, remark))):
                item = QTableWidgetItem(text)
                item.setToolTip(plain_tip(f"{text}\n{more}".rstrip()))
                self.table.setItem(index, place, item)
        self.table.resizeRowsToContents()

    def _choose(self) -> None:
        rows = self.table.selectionModel().selectedRows()
        if rows:
            self.chosen.emit(self._hits[rows[0].row()])


def _verdict(hit: "Facts") -> tuple[str, str]:
    """Whether a model found on the Hub can be compressed here, as far as the Hub tells; and a remark."""
    if hit.obstacle:
        return f"✗ {hit.obstacle}", ""
    if not hit.parameters:
        return "–", ""
    total = psutil.virtual_memory().total
    needs = {need.stage: 2**20 * need.ram_mb for need in stage_needs(hit.parameters, 2 * hit.parameters)}
    bench = needs.pop(BENCH_FP16)
    if max(needs.values()) > total:
        return tr("✗ too large"), ""
    if bench <= total:
        return tr("✓ yes"), ""
    remark = tr("Benchmarking the full-precision model takes {needed} of memory. This computer has {total}.")
    return tr("✓ yes"), remark.format(needed=quantities.size(bench), total=quantities.size(total))
