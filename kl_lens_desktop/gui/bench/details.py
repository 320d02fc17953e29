"""Everything that was measured, figures down and rows of the bench across."""

from collections.abc import Sequence
from typing import Any

from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import QTableWidget, QTableWidgetItem, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.noise import difference
from kl_lens_desktop.gui.bench.figures import GROUPS, Row, figures, problem, variant_title, words
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import (
    LEFT,
    RIGHT,
    Elided,
    NumberDelegate,
    align_heading,
    column,
    set_up_table,
)
from kl_lens_desktop.gui.kit.words import plain_tip, wrapped_tip
from kl_lens_desktop.gui.state.translation import tr

ROW_HEIGHT = 24
WIDTHS = (276, 188)
_AGAINST = tr("Decoding speed relative to …")
_AGAINST_TIP = tr(
    "This variant's tokens/s divided by the other's, on the same device. The 95 "
    "% interval comes from alternating rounds and allows for repeated looks at "
    "the data. ≈ means within noise; differences below 4 % always count as noise."
)


class FigureSheet(QWidget):
    """A sheet of all figures; what there is none of takes no line."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Elided("", "secondary")
        self.table = QTableWidget()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        set_up_table(self.table, tr("All figures"))
        self.table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        self._numbers = NumberDelegate(self.table)
        self.table.setItemDelegate(self._numbers)
        whole = column(self.place, self.table)
        whole.setStretch(1, 1)
        self.setLayout(whole)

    def show_rows(
        self, variants: Sequence[str], rows: Sequence[Row], environment: dict[str, Any] | None
    ) -> None:
        """Show what was tried of `rows`, by the order of `variants`."""
        tried = [row for row in rows if row["status"] != "unavailable"]
        tried.sort(key=lambda row: variants.index(row["variant"]))
        several = len({row["device"] for row in tried}) > 1
        self.place.set_text(_place(environment))
        self.table.clear()
        self.table.clearSpans()
        self.table.setRowCount(0)
        self.table.setColumnCount(1 + len(tried))
        titles = [variant_title(row["variant"]) + (f" · {row['device']}" if several else "") for row in tried]
        self.table.setHorizontalHeaderLabels(["", *titles])
        for place in range(1 + len(tried)):
            self.table.setColumnWidth(place, WIDTHS[min(place, 1)])
            if place:
                align_heading(self.table, place)
        if any(problem(row)[1] for row in tried):
            self._add(tr("What went wrong"), "", [problem(row)[1] or "–" for row in tried], bad=True)
        limit = (environment or {}).get("memory_read_gb_s")
        known = figures(rows)
        for group in GROUPS:
            members = (each for each in known if each.group == group)
            self._add_group(
                group, [(each.name, each.tip, [words(row, each, limit) for row in tried]) for each in members]
            )
        self._add_group(
            _AGAINST,
            [
                (variant_title(other), _AGAINST_TIP, [_against(row, other, tried) for row in tried])
                for other in dict.fromkeys(row["variant"] for row in tried)
            ],
        )

    def _add_group(self, title: str, lines: Sequence[tuple[str, str, list[str]]]) -> None:
        lines = [line for line in lines if any(text != "–" for text in line[2])]
        if not lines:
            return
        self._add(title, "", ())
        head = self.table.rowCount() - 1
        self.table.setSpan(head, 0, 1, self.table.columnCount())
        item = self.table.item(head, 0)
        assert item is not None
        item.setFont(theme.text_font(semibold=True))
        for line in lines:
            self._add(*line)

    def _add(self, title: str, tip: str, texts: Sequence[str], *, bad: bool = False) -> None:
        line = self.table.rowCount()
        self.table.insertRow(line)
        for place, text in enumerate((title, *texts)):
            item = QTableWidgetItem(text)
            item.setToolTip(wrapped_tip(tip) if tip and not place else plain_tip(text))
            if bad and text != "–":
                item.setForeground(QBrush(QColor(theme.colours().danger)))
            item.setTextAlignment(RIGHT if place else LEFT)
            self.table.setItem(line, place, item)


def _against(row: Row, other: str, rows: Sequence[Row]) -> str:
    partners = (each for each in rows if (each["variant"], each["device"]) == (other, row["device"]))
    partner = next(partners, None)
    if partner is None or partner is row or row["status"] != "ok" or partner["status"] != "ok":
        return "–"
    found = difference(partner, row)
    if found is None:
        return "–"
    between = quantities.interval(found.low, found.high, found.n)
    return f"{'≈ ' if found.apart is False else ''}{found.ratio:.3g} ({between})"


def _place(environment: dict[str, Any] | None) -> str:
    """When, where and on which text."""
    if environment is None:
        return ""
    text = environment["text"]
    apart = text.get("stride") or text["window"]
    parts = [
        quantities.local_time(environment["created"]),
        f"{environment['cpu']}, {quantities.plural(environment['cores'] or 1, 'core')}",
        {"mains": tr("on mains"), "battery": tr("on battery")}.get(
            environment["power"], tr("power source unknown")
        ),
        tr("{tokens:,} tokens of {name} in windows of {window:,}").format(
            tokens=text["tokens"], name=text["name"], window=text["window"]
        )
        + (tr(", {apart:,} apart").format(apart=apart) if apart != text["window"] else ""),
    ]
    if environment.get("memory_read_gb_s"):
        parts.append(
            tr("{memory_read_gb_s} GB/s read from memory").format(
                memory_read_gb_s=quantities.significant(environment["memory_read_gb_s"])
            )
        )
    return " · ".join(parts)
