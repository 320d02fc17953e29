"""The benchmark as a table: variants as rows, devices as groups of columns."""

from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPen, QResizeEvent
from PySide6.QtWidgets import QFrame, QHeaderView, QTableView, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.judgement import Rank, levelled, standings
from kl_lens_desktop.bench.noise import difference
from kl_lens_desktop.gui.bench.figures import Figure, Row, problem, variant_title, words
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import NumberDelegate, set_up_table, with_heading
from kl_lens_desktop.gui.kit.words import plain_tip, wrapped_tip
from kl_lens_desktop.gui.state.translation import tr

Index = QModelIndex | QPersistentModelIndex
DEVICE_ROLE = Qt.ItemDataRole.UserRole + 1
FIXED, FIXED_WIDTHS = (tr("Variant"), tr("Size")), (104, 78)
_SHOWN = (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleTextRole)


class BenchTable(QAbstractTableModel):
    """Rows of ``bench.json`` side by side."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.variants: list[str] = []
        self.devices: list[str] = []
        self.figures: list[Figure] = []
        self.memory_read_gb_s: float | None = None
        self._rows: dict[tuple[str, str], Row] = {}
        self._standings: dict[tuple[str, str], dict[str, Rank | None]] = {}

    def show_rows(
        self,
        variants: list[str],
        devices: list[str],
        rows: list[Row],
        figures: list[Figure],
        memory_read_gb_s: float | None = None,
    ) -> None:
        self.beginResetModel()
        self.variants, self.devices, self.figures = variants, devices, figures
        self.memory_read_gb_s = memory_read_gb_s
        self._rows = {(row["variant"], row["device"]): row for row in levelled(rows)}
        self._standings = {}
        for device in devices:
            own = [row for row in self._rows.values() if row["device"] == device]
            names = [row["variant"] for row in own]
            for figure in figures:
                found = zip(names, standings(own, figure.key), strict=True)
                self._standings[device, figure.key] = dict(found)
        self.endResetModel()

    def row(self, variant: str, device: str) -> Row | None:
        return self._rows.get((variant, device))

    def figure(self, column: int) -> tuple[str, Figure] | None:
        """The device and figure of a column; None for the two columns before the groups."""
        if column < len(FIXED):
            return None
        device, place = divmod(column - len(FIXED), len(self.figures))
        return self.devices[device], self.figures[place]

    def standing(self, row: Row, figure: Figure) -> Rank | None:
        """How a row stands among those of its device; None where that cannot be said."""
        return self._standings.get((row["device"], figure.key), {}).get(row["variant"])

    def words(self, row: Row, figure: Figure) -> str:
        """A figure as it is shown, with ≈ where it is not told apart from the best."""
        text = words(row, figure, self.memory_read_gb_s)
        return f"≈ {text}" if self.standing(row, figure) is Rank.ALIKE else text

    def against_best(self, row: Row, figure: Figure) -> str:
        """What the rounds say of a row's speed against the best on its device, as a sentence."""
        others = self._standings.get((row["device"], figure.key), {})
        name = next((name for name, each in others.items() if each is Rank.BEST), None)
        best = self.row(name, row["device"]) if name else None
        if figure.key != "tokens_per_s" or best is None or best is row:
            return ""
        found = difference(best, row)
        if found is None:
            return ""
        between = quantities.interval(found.low, found.high, found.n, ".2f")
        rounds = quantities.plural(found.n, tr("paired round") if found.paired else "round")
        said = tr("slower") if found.slower else tr("faster") if found.apart else tr("within noise")
        if found.apart is None:
            said = tr("not certain")
        return tr("{ratio:.2f}× {variant_title} ({between}) after {rounds}: {said}").format(
            ratio=found.ratio,
            variant_title=variant_title(best["variant"]),
            between=between,
            rounds=rounds,
            said=said,
        )

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  (Qt's own signature)
        return 0 if parent.isValid() else len(self.variants)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(FIXED) + len(self.devices) * len(self.figures)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        found = self.figure(section)
        if role == Qt.ItemDataRole.DisplayRole:
            return found[1].heading if found else FIXED[section]
        if role == Qt.ItemDataRole.ToolTipRole and found:
            return wrapped_tip(found[1].name, found[1].tip)
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
        row = self.row(variant, device)
        level, why = problem(row)
        if row is None or level:
            return self._problem(level, why, role)
        if role in _SHOWN:
            text = self.words(row, figure)
            if role == Qt.ItemDataRole.AccessibleTextRole:
                best = tr(", best") if self.standing(row, figure) is Rank.BEST else ""
                return tr("{variant} on {device}, {heading}: {text}{best}").format(
                    variant=variant, device=device, heading=figure.heading, text=text, best=best
                )
            if role == Qt.ItemDataRole.ToolTipRole:
                return plain_tip("\n".join(filter(None, (text, self.against_best(row, figure)))))
            return text
        if role == Qt.ItemDataRole.FontRole and self.standing(row, figure) is Rank.BEST:
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _fixed(self, variant: str, column: int, role: int) -> Any:
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            if column == 0:
                title = variant_title(variant)
                return plain_tip(title) if role == Qt.ItemDataRole.ToolTipRole else title
            sizes = [row["size_bytes"] for (name, _), row in self._rows.items() if name == variant]
            return quantities.size(sizes[0]) if sizes else "–"
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if column else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        return None

    def _problem(self, level: str, why: str, role: int) -> Any:
        if role in _SHOWN:
            return plain_tip(why) if role == Qt.ItemDataRole.ToolTipRole else why
        if role == Qt.ItemDataRole.ForegroundRole:
            return QColor(theme.colours().danger if level == "bad" else theme.colours().secondary)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        return None


class FiguresView(QTableView):
    """The table, whose first columns stay in view while the devices' groups are scrolled."""

    def __init__(self, model: BenchTable) -> None:
        super().__init__()
        self.setModel(model)
        self._fixed = QTableView(self)
        self._fixed.setModel(model)
        self._numbers = NumberDelegate(self)
        for view, name in ((self, tr("Figures by variant and device")), (self._fixed, tr("Variants"))):
            set_up_table(view, name, stretch=-1)
            view.setHorizontalHeader(GroupHeader(view, covered=sum(FIXED_WIDTHS) if view is self else 0))
            view.setSelectionMode(QTableView.SelectionMode.SingleSelection)
            view.setItemDelegate(self._numbers)
        for size, place in ((FIXED_WIDTHS[i], i) for i in range(len(FIXED))):
            self._fixed.setColumnWidth(place, size)
        self._fixed.setSelectionModel(self.selectionModel())
        self._fixed.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._fixed.setFrameShape(QFrame.Shape.NoFrame)
        for bar in (self._fixed.setHorizontalScrollBarPolicy, self._fixed.setVerticalScrollBarPolicy):
            bar(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalScrollBar().valueChanged.connect(self._fixed.verticalScrollBar().setValue)
        self._fixed.verticalScrollBar().valueChanged.connect(self.verticalScrollBar().setValue)
        self._fixed.raise_()
        model.modelReset.connect(self.fit)
        self.fit()

    def fit(self) -> None:
        """Widths by figure, one cell for what has no figures, and the first columns in their place."""
        model = self.model()
        assert isinstance(model, BenchTable)
        self.clearSpans()
        count = len(model.figures)
        for place in range(model.columnCount()):
            found = model.figure(place)
            least = found[1].width if found else FIXED_WIDTHS[place]
            self.setColumnWidth(place, with_heading(self, place, least))
            self._fixed.setColumnHidden(place, place >= len(FIXED))
        for line, variant in enumerate(model.variants):
            for group, device in enumerate(model.devices):
                if count > 1 and problem(model.row(variant, device))[0]:
                    self.setSpan(line, len(FIXED) + group * count, 1, count)
        self._place()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place()

    def _place(self) -> None:
        height = self.viewport().height() + self.horizontalHeader().height()
        self._fixed.setGeometry(self.frameWidth(), self.frameWidth(), sum(FIXED_WIDTHS), height)


class GroupHeader(QHeaderView):
    """Column headings with the device's name over its group; `covered` pixels at the left are not seen."""

    def __init__(self, parent: QWidget | None = None, covered: int = 0) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._covered = covered
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
            shown = group.intersected(self.viewport().rect().adjusted(8 + self._covered, 0, -8, 0))
            painter.drawText(shown, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, device)
            painter.setPen(QPen(QColor(colours.line), 1))
            painter.drawLine(rect.left() + (8 if index == members[0] else 0), 26, rect.right(), 26)
        painter.setPen(QPen(QColor(colours.line), 1))
        painter.drawLine(rect.bottomLeft(), rect.bottomRight())
        painter.restore()
