"""The benchmark as a table: variants as rows, devices as groups of columns."""

from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPen
from PySide6.QtWidgets import QHeaderView, QWidget

from kl_lens_desktop.bench.noise import within_noise
from kl_lens_desktop.gui import quantities, theme

Index = QModelIndex | QPersistentModelIndex
DEVICE_ROLE = Qt.ItemDataRole.UserRole + 1


@dataclass(frozen=True, slots=True)
class Figure:
    """One column of a device's group: its key in a row, how it reads, and which end is better."""

    key: str
    heading: str
    tip: str
    best: Any = min


FIGURES = (
    Figure(
        "tokens_per_s",
        "Tokens/s",
        "Decoding speed: median over the rounds' generations, ± their spread. "
        "≈ marks what the rounds, taken in turn, do not tell from the best at 95 %.",
        max,
    ),
    Figure("ttft_ms", "First token, ms", "Time from the prompt to the first new token"),
    Figure(
        "perplexity", "Perplexity", "Of the exported model on held-out text, on this device; ± standard error"
    ),
    Figure("kl_to_fp16", "KL to FP16", "KL(FP16‖this variant), nats per token, on this device"),
    Figure(
        "peak_rss_mb",
        "Peak RAM, MB",
        "Largest resident set of the process that ran it; host memory, also for a GPU",
    ),
)


class BenchTable(QAbstractTableModel):
    """Rows of ``bench.json`` side by side."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.variants: list[str] = []
        self.devices: list[str] = []
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._best: dict[tuple[str, str], dict[str, Any]] = {}

    def show_rows(self, variants: list[str], devices: list[str], rows: list[dict[str, Any]]) -> None:
        self.beginResetModel()
        self.variants, self.devices = variants, devices
        self._rows = {(row["variant"], row["device"]): row for row in rows}
        self._best = {}
        for device in devices:
            for figure in FIGURES:
                candidates = [
                    row
                    for row in rows
                    if row["device"] == device
                    and row["status"] == "ok"
                    and number(row, figure.key) is not None
                    and not (figure.key == "kl_to_fp16" and row["variant"] == "fp16")
                ]
                if len(candidates) > 1:
                    self._best[device, figure.key] = figure.best(
                        candidates, key=lambda r, f=figure: number(r, f.key)
                    )
        self.endResetModel()

    def row(self, variant: str, device: str) -> dict[str, Any] | None:
        return self._rows.get((variant, device))

    def problem(self, variant: str, device: str) -> tuple[str, str]:
        """Level and words where a row has no figures: ``bad`` for failures, ``grey`` for absent devices."""
        row = self.row(variant, device)
        if row is None:
            return "grey", ""
        if row["status"] == "unavailable":
            return "grey", f"not here: {row.get('reason') or 'no such device'}"
        return ("bad", row["status"].removeprefix("failed: ")) if row["status"] != "ok" else ("", "")

    def is_absent(self, device: str) -> bool:
        """Whether no variant could be tried on a device."""
        rows = [row for (_, name), row in self._rows.items() if name == device]
        return bool(rows) and all(row["status"] == "unavailable" for row in rows)

    def figure(self, column: int) -> tuple[str, Figure] | None:
        """The device and figure of a column; None for the two columns before the groups."""
        if column < 2:
            return None
        device, place = divmod(column - 2, len(FIGURES))
        return self.devices[device], FIGURES[place]

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  (Qt's own signature)
        return 0 if parent.isValid() else len(self.variants)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else 2 + len(self.devices) * len(FIGURES)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        found = self.figure(section)
        if role == Qt.ItemDataRole.DisplayRole:
            if found and self.is_absent(found[0]):
                return ""
            return found[1].heading if found else ("Variant", "Size")[section]
        if role == Qt.ItemDataRole.ToolTipRole and found:
            return found[1].tip
        if role == DEVICE_ROLE:
            return found[0] if found else ""
        if role == Qt.ItemDataRole.TextAlignmentRole and section:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        variant, found = self.variants[index.row()], self.figure(index.column())
        if found is None:
            return self._fixed(variant, index.column(), role)
        device, figure = found
        level, words = self.problem(variant, device)
        if level:
            return self._problem(level, words, role)
        row = self._rows[variant, device]
        if role in (
            Qt.ItemDataRole.DisplayRole,
            Qt.ItemDataRole.ToolTipRole,
            Qt.ItemDataRole.AccessibleTextRole,
        ):
            text = self._text(row, figure)
            if role == Qt.ItemDataRole.AccessibleTextRole:
                best = ", best" if self._is_best(row, figure) else ""
                return f"{variant} on {device}, {figure.heading}: {text}{best}"
            return text
        if role == Qt.ItemDataRole.FontRole and self._is_best(row, figure):
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _fixed(self, variant: str, column: int, role: int) -> Any:
        if role == Qt.ItemDataRole.DisplayRole:
            if column == 0:
                return variant_title(variant)
            sizes = [row["size_bytes"] for (name, _), row in self._rows.items() if name == variant]
            return quantities.size(sizes[0]) if sizes else "–"
        if role == Qt.ItemDataRole.TextAlignmentRole and column:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _problem(self, level: str, words: str, role: int) -> Any:
        if role in (
            Qt.ItemDataRole.DisplayRole,
            Qt.ItemDataRole.ToolTipRole,
            Qt.ItemDataRole.AccessibleTextRole,
        ):
            return words
        if role == Qt.ItemDataRole.ForegroundRole:
            return QColor(theme.colours().danger if level == "bad" else theme.colours().secondary)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        return None

    def _text(self, row: dict[str, Any], figure: Figure) -> str:
        value = row.get(figure.key)
        if value is None or (figure.key == "kl_to_fp16" and row["variant"] == "fp16"):
            return "–"
        if isinstance(value, (int, float)):
            return quantities.significant(value)
        error = value.get("se") if "se" in value else value.get("sd")
        text = quantities.plus_minus(value["mean"], error or 0.0)
        best = self._best.get((row["device"], figure.key))
        alike = (
            figure.key == "tokens_per_s" and best is not None and best is not row and within_noise(best, row)
        )
        return f"≈ {text}" if alike else text

    def _is_best(self, row: dict[str, Any], figure: Figure) -> bool:
        return self._best.get((row["device"], figure.key)) is row


class GroupHeader(QHeaderView):
    """Column headings with the device's name over its group."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self.setHighlightSections(False)
        self.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.sectionResized.connect(lambda: self.viewport().update())

    def sizeHint(self) -> QSize:
        return QSize(super().sizeHint().width(), 52)

    def paintSection(self, painter: QPainter, rect: QRect, index: int) -> None:
        colours = theme.colours()
        painter.save()
        painter.fillRect(rect, QColor(colours.surface))
        model = self.model()
        device = model.headerData(index, Qt.Orientation.Horizontal, DEVICE_ROLE)
        align = model.headerData(index, Qt.Orientation.Horizontal, Qt.ItemDataRole.TextAlignmentRole)
        heading = str(model.headerData(index, Qt.Orientation.Horizontal, Qt.ItemDataRole.DisplayRole))
        flags = align or (Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        lower = QRect(rect.left(), rect.top() + 26, rect.width(), 26).adjusted(8, 0, -8, 0)
        painter.setPen(QColor(colours.secondary))
        painter.drawText(lower, flags, heading)
        if device:
            members = [
                i
                for i in range(self.count())
                if model.headerData(i, Qt.Orientation.Horizontal, DEVICE_ROLE) == device
            ]
            left = self.sectionViewportPosition(members[0])
            right = self.sectionViewportPosition(members[-1]) + self.sectionSize(members[-1])
            group = QRect(left, rect.top(), right - left, 26).adjusted(8, 0, -8, 0)
            font = painter.font()
            font.setWeight(QFont.Weight.DemiBold)
            painter.setClipRect(rect)
            painter.setFont(font)
            painter.setPen(QColor(colours.text))
            # Inside what is visible of the group, so that the name stays in view while one scrolls.
            shown = group.intersected(self.viewport().rect().adjusted(8, 0, -8, 0))
            painter.drawText(shown, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, device)
            painter.setPen(QPen(QColor(colours.line), 1))
            painter.drawLine(rect.left() + (8 if index == members[0] else 0), 26, rect.right(), 26)
        painter.setPen(QPen(QColor(colours.line), 1))
        painter.drawLine(rect.bottomLeft(), rect.bottomRight())
        painter.restore()


def number(row: dict[str, Any], key: str) -> float | None:
    """A row's plain figure: the mean of a measured one."""
    value = row.get(key)
    if isinstance(value, dict):
        value = value.get("mean")
    return float(value) if isinstance(value, (int, float)) else None


def variant_title(name: str) -> str:
    """``INT4 g64`` for ``int4_sym_g64``, ``Plan`` for ``plan``, and any other name as it is."""
    from kl_lens_desktop.errors import InputError
    from kl_lens_desktop.quant.formats import parse_format

    if name == "plan":
        return "Plan"
    try:
        return parse_format(name).label
    except InputError:
        return name
