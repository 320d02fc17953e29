"""Two bench files side by side, from two laptops or two days: what changed, and what is only noise."""

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import (
    QDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QWidget,
)

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.compare import Comparison, Match
from kl_lens_desktop.bench.labels import LABELS
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.gui.bench.figures import Row, variant_title
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import (
    LEFT,
    RIGHT,
    NumberDelegate,
    align_heading,
    button,
    card,
    column,
    label,
    row,
    set_up_table,
    with_heading,
)
from kl_lens_desktop.gui.kit.saving import ask_where
from kl_lens_desktop.gui.kit.words import plain_tip, wrapped_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr

HEADINGS = (
    tr("Variant"),
    tr("Device"),
    tr("Figure"),
    tr("This one"),
    tr("The other"),
    tr("Other ÷ this (95 %)"),
    tr("The other is"),
)
WIDTHS = (104, 96, 250, 84, 84, 184)
NUMBERS = (3, 4, 5)
ALIKE = tr("≈ within noise")
_CHANGES_TIP = tr(
    "Speeds are compared by Welch's t interval over rounds; differences below 4 "
    "% count as noise. Quality is compared by its standard errors if both files "
    "used the same text. Size and memory get no verdict."
)


class BenchDifferenceDialog(QDialog):
    """This bench file beside another.

    Parameters
    ----------
    session : Session
        Says what went wrong, and waits for the file in the background.
    comparison : Comparison
    names : (str, str)
        What the two files are called.
    """

    def __init__(
        self,
        session: Session,
        comparison: Comparison,
        names: tuple[str, str],
        parent: QWidget | None = None,
    ) -> None:
        from kl_lens_desktop.bench.report import around_table, ratio_words

        super().__init__(parent)
        self._session, self._comparison, self._names = session, comparison, names
        self.setWindowTitle(tr("Two benchmarks side by side"))
        self.resize(1000, 640)
        self.summary = label(_summary(comparison), wrap=True, select=True)
        warnings = [label(each, wrap=True, select=True) for each in comparison.cautions]
        self.cautions = card(column(*warnings), 8)
        self.cautions.setObjectName("banner")
        self.cautions.setProperty("level", "warning")
        if not warnings:
            self.cautions.hide()
        self.changes = _table(tr("Figures of both"), HEADINGS, WIDTHS)
        self._fill_changes()
        self.around = _table(tr("Environment"), ("", tr("This one"), tr("The other")), (210, 310, 310))
        for line, difference in enumerate(around_table(comparison)):
            what, first, second = difference.values()
            self.around.insertRow(line)
            _fill(self.around, line, (_capital(what), first, second), numbers=())
        self.around.horizontalHeader().setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.tabs = QTabWidget()
        self.tabs.setAccessibleName(tr("Figures, or the environment"))
        ratios = label(ratio_words(tr("this one"), tr("the other")), "secondary", wrap=True)
        self.tabs.addTab(card(column(self.changes, ratios)), tr("Figures"))
        self.tabs.addTab(
            card(column(self.around)),
            tr("Environment ({count})").format(count=len(comparison.environment)),
        )
        names_line = label(
            tr("This one: {first}\nThe other: {second}").format(first=names[0], second=names[1]),
            "secondary",
            select=True,
        )
        self.save = button(
            tr("Save…"), self._choose_file, tip=tr("Save this comparison as a page (HTML) or a table (CSV)")
        )
        whole = column(
            label(tr("What changed between them"), "title"),
            names_line,
            self.cautions,
            self.summary,
            self.tabs,
            row(self.save, None, button(tr("Close"), self.accept)),
            spacing=12,
        )
        whole.setContentsMargins(16, 16, 16, 16)
        whole.setStretch(4, 1)
        self.setLayout(whole)

    def save_to(self, path: Path) -> None:
        """Write the comparison as a page, or as CSV if `path` ends so."""
        from kl_lens_desktop.bench.page import export_comparison_html
        from kl_lens_desktop.bench.report import export_comparison_csv

        try:
            if path.suffix.lower() == ".csv":
                export_comparison_csv(self._comparison, path)
            else:
                export_comparison_html(self._names, self._comparison, path)
        except KLLensError as error:
            self._session.say_error(error)
        else:
            self._session.say("info", tr("Saved the comparison as {path}.").format(path=path))

    def _choose_file(self) -> None:
        kinds = {tr("Pages (*.html)"): ".html", tr("Tables (*.csv)"): ".csv"}
        if path := ask_where(self, tr("Save the comparison"), "comparison", kinds):
            self.save_to(path)

    def _fill_changes(self) -> None:
        from kl_lens_desktop.bench.report import ratio, standing

        for match in _measured(self._comparison):
            names = dict.fromkeys((match.first["variant"], match.second["variant"]))
            title, device = " / ".join(map(variant_title, names)), match.first["device"]
            for change in match.changes:
                figure, line = LABELS[change.figure], self.changes.rowCount()
                both = (quantities.significant(figure.scale * each) for each in (change.first, change.second))
                said = {True: standing(change), False: ALIKE, None: ""}[change.apart]
                self.changes.insertRow(line)
                times = ratio(change.ratio, change.low, change.high, change.n)
                texts = title, device, figure.name, *both, times, said
                _fill(self.changes, line, texts)
                title, device = "", ""
                if change.apart:
                    item = self.changes.item(line, len(HEADINGS) - 1)
                    assert item is not None
                    item.setFont(theme.text_font(semibold=True))
        for place in NUMBERS:
            align_heading(self.changes, place)
        heading = self.changes.horizontalHeaderItem(5)
        assert heading is not None
        heading.setToolTip(wrapped_tip(_CHANGES_TIP))
        self.changes.horizontalHeader().setSectionResizeMode(
            len(HEADINGS) - 1, QHeaderView.ResizeMode.Stretch
        )


def _table(name: str, headings: tuple[str, ...], widths: tuple[int, ...]) -> QTableWidget:
    table = QTableWidget(0, len(headings))
    table.setHorizontalHeaderLabels(headings)
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    set_up_table(table, name, stretch=-1)
    table.setItemDelegate(NumberDelegate(table))
    for place, width in enumerate(widths):
        table.setColumnWidth(place, with_heading(table, place, width))
    return table


def _fill(table: QTableWidget, line: int, texts: Sequence[str], numbers: tuple[int, ...] = NUMBERS) -> None:
    for place, text in enumerate(texts):
        item = QTableWidgetItem(text)
        item.setToolTip(plain_tip(text))
        item.setTextAlignment(RIGHT if place in numbers else LEFT)
        if text == ALIKE:
            item.setForeground(QBrush(QColor(theme.colours().secondary)))
        table.setItem(line, place, item)


def _summary(comparison: Comparison) -> str:
    """How many rows both have, how many figures differ, and what only one has."""
    measured = _measured(comparison)
    changes = [change for match in measured for change in match.changes]
    apart = sum(change.apart is True for change in changes)
    alike = sum(change.apart is False for change in changes)
    count = len(measured)
    parts = [
        tr("{count} {tr} in both").format(count=count, tr=tr("row is") if count == 1 else tr("rows are"))
        + (
            tr(": {apart} of their figures differ by more than noise, {alike} do not.").format(
                apart=apart, alike=alike
            )
            if changes
            else "."
        )
    ]
    for words, rows in ((tr("this one"), comparison.only_first), (tr("the other"), comparison.only_second)):
        if rows := [each for each in rows if each["status"] != "unavailable"]:
            parts.append(tr("Only in {words}: {listed}.").format(words=words, listed=_listed(rows)))
    return " ".join(parts)


def _measured(comparison: Comparison) -> list[Match]:
    """Matches that both have figures of."""
    return [
        match
        for match in comparison.matches
        if "unavailable" not in (match.first["status"], match.second["status"])
    ]


def _listed(rows: list[Row]) -> str:
    by_device: dict[str, list[str]] = {}
    for each in rows:
        by_device.setdefault(each["device"], []).append(variant_title(each["variant"]))
    return "; ".join(f"{', '.join(names)} on {device}" for device, names in by_device.items())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def read_both(first: Path, second: Path) -> Comparison:
    """Read two bench files and compare them.

    Raises
    ------
    InputError
        In one sentence, if either cannot be used.
    """
    from kl_lens_desktop.bench.compare import compare
    from kl_lens_desktop.bench.report import load_bench

    return compare(load_bench(first), load_bench(second))
