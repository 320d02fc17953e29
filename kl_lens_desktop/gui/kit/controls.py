"""What every page is made of: titles, cards, buttons that say why they cannot be pressed, table cells."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QAction,
    QBrush,
    QColor,
    QFont,
    QFontMetrics,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import (
    QApplication,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QSplitter,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QTableWidget,
    QToolButton,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.kit.words import explain, explain_action, plain_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.stages import Stage, Standing
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.printable import printable, printable_lines

ERROR_ROLE = Qt.ItemDataRole.UserRole + 10
LEAST_WINDOW = QSize(1024, 680)
ROW_HEIGHT = 28
HEADING_PADDING = 16
SIDE = 24  # of a page, left and right
QUIET_PADDING = 15  # of a quiet button: its border and what the style sheet gives its words
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class Label(QLabel):
    """A text that is shown as it is, whatever is in it."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)

    def setText(self, text: str) -> None:
        super().setText(printable_lines(text))


def label(text: str = "", role: str = "", *, wrap: bool = False, select: bool = False) -> Label:
    """A text in the style `role` of the theme's sheet."""
    widget = Label(text)
    if role:
        widget.setProperty("role", role)
    if wrap:
        widget.setWordWrap(True)
    if select:
        widget.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return widget


class Elided(Label):
    """A line that gives way to what stands beside it; the whole text is its tooltip."""

    def __init__(
        self, text: str = "", role: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight
    ) -> None:
        super().__init__()
        self._mode, self._whole = mode, ""
        if role:
            self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.set_text(text)

    def set_text(self, text: str) -> None:
        self._whole = printable(text)
        self.setToolTip(plain_tip(text))
        self.setAccessibleName(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        width = max(self.contentsRect().width(), 40)
        self.setText(self.fontMetrics().elidedText(self._whole, self._mode, width))


class Picture(QWidget):
    """An icon on its own, drawn in a token of the theme."""

    def __init__(self, icon: str, colour: str = "text", size: int = 18) -> None:
        super().__init__()
        self._icon, self._colour = icon, colour
        self.setFixedSize(size, size)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def set_icon(self, icon: str, colour: str) -> None:
        self._icon, self._colour = icon, colour
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        colour = getattr(theme.colours(), self._colour)
        with QPainter(self) as painter:
            icons.draw(painter, self._icon, QRectF(self.rect()), colour)


def card(layout: QLayout | None = None, margins: int = 12) -> QFrame:
    """A surface with a line around it."""
    frame = QFrame()
    frame.setProperty("role", "card")
    if layout is not None:
        layout.setContentsMargins(margins, margins, margins, margins)
        frame.setLayout(layout)
    return frame


def rule() -> QFrame:
    line = QFrame()
    line.setProperty("role", "rule")
    line.setFixedHeight(1)
    return line


def row(*items: QWidget | QLayout | None, spacing: int = 8) -> QHBoxLayout:
    """Widgets side by side; None is a space that stretches."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    _fill(layout, items)
    return layout


def column(*items: QWidget | QLayout | None, spacing: int = 8) -> QVBoxLayout:
    """Widgets one below the other; None is a space that stretches."""
    layout = QVBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    _fill(layout, items)
    return layout


def _fill(layout: QHBoxLayout | QVBoxLayout, items: Sequence[QWidget | QLayout | None]) -> None:
    for item in items:
        if item is None:
            layout.addStretch(1)
        elif isinstance(item, QLayout):
            layout.addLayout(item)
        else:
            layout.addWidget(item)


def button(
    text: str, on_click: Callable[[], object], role: str = "", icon: str = "", tip: str = ""
) -> QPushButton:
    widget = QPushButton(text)
    widget.setAutoDefault(False)
    if role:
        widget.setProperty("role", role)
    if icon:
        widget.setIcon(icons.icon(icon, "on_accent" if role in ("primary", "compress") else "text"))
        widget.setIconSize(QSize(18, 18))
    widget.setToolTip(plain_tip(tip))
    widget.clicked.connect(lambda: on_click())
    return widget


def tool(icon: str, name: str, on_click: Callable[[], object]) -> QToolButton:
    """A button that is only an icon; `name` is its tooltip and what a screen reader says."""
    widget = QToolButton()
    widget.setIcon(icons.icon(icon))
    widget.setIconSize(QSize(18, 18))
    widget.setToolTip(plain_tip(name))
    widget.setAccessibleName(name)
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    widget.clicked.connect(lambda: on_click())
    return widget


def hint(text: str) -> QToolButton:
    """The ⓘ beside a word that needs explaining; it opens on a click and from the keyboard too."""

    def show() -> None:
        QToolTip.showText(widget.mapToGlobal(widget.rect().bottomLeft()), widget.toolTip(), widget)

    widget = tool("info", "", show)
    explain(widget, text)
    widget.setAccessibleName(tr("Explanation"))
    return widget


def combo(name: str, choices: Sequence[tuple[str, object]], tip: str = "") -> QComboBox:
    """A drop-down of (words, value); `name` is what a screen reader calls it."""
    widget = QComboBox()
    widget.setAccessibleName(name)
    widget.setToolTip(plain_tip(tip or name))
    widget.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
    for words, value in choices:
        widget.addItem(words, value)
    return widget


def spin(name: str, low: int, high: int, value: int, step: int = 1) -> QSpinBox:
    """A whole number; `name` is what a screen reader calls it."""
    widget = QSpinBox()
    widget.setAccessibleName(name)
    widget.setRange(low, high)
    widget.setSingleStep(step)
    widget.setGroupSeparatorShown(True)
    widget.setValue(value)
    widget.lineEdit().setTextMargins(6, 0, 0, 0)
    return widget


class JobButton(QPushButton):
    """Starts a job; while that cannot be, it is disabled and its tooltip says why.

    Parameters
    ----------
    missing : callable
        What is still needed before this job, in words; empty when nothing is.

    Signals
    -------
    explained : str
        Why it cannot be pressed now; empty while it can be.
    """

    explained = Signal(str)

    def __init__(
        self,
        text: str,
        session: Session,
        missing: Callable[[], str],
        on_click: Callable[[], object],
        tip: str,
        role: str = "",
        icon: str = "",
    ) -> None:
        super().__init__(text)
        self._session, self._missing, self._tip = session, missing, tip
        self.reason = ""
        self.setAutoDefault(False)
        self.setAccessibleName(text)
        if role:
            self.setProperty("role", role)
        if icon:
            self.setIcon(icons.icon(icon, "on_accent" if role else "text"))
            self.setIconSize(QSize(18, 18))
        self.clicked.connect(lambda: on_click())
        for signal in (
            session.model_changed,
            session.scores_changed,
            session.plan_changed,
            session.exports_changed,
            session.devices_changed,
            session.job.started,
            session.job.ended,
            session.job.occupied_changed,
        ):
            signal.connect(self.refresh)
        self.refresh()

    def refresh(self, *_: object) -> None:
        before, self.reason = self.reason, self._missing() or self._session.job.reason
        self.setEnabled(not self.reason)
        self.setToolTip(plain_tip(self.reason or self._tip))
        if self.reason != before:
            self.explained.emit(self.reason)


class JobAction(QAction):
    """The entry of a menu that starts a job; while that cannot be, its tooltip says why.

    Parameters
    ----------
    missing : callable
        As of `JobButton`.
    """

    def __init__(
        self,
        text: str,
        session: Session,
        missing: Callable[[], str],
        on_choice: Callable[[], object],
        tip: str,
    ) -> None:
        super().__init__(text)
        self._session, self._missing, self._tip = session, missing, tip
        self.triggered.connect(lambda: on_choice())
        for signal in (session.plan_changed, session.job.started, session.job.ended):
            signal.connect(self.refresh)
        session.job.occupied_changed.connect(self.refresh)

    def refresh(self, *_: object) -> None:
        reason = self._missing() or self._session.job.reason
        self.setEnabled(not reason)
        explain_action(self, reason or self._tip)


def reason_line(button: JobButton, otherwise: str = "") -> QLabel:
    """A line that says why `button` cannot be pressed now and, while it can be, `otherwise`."""
    line = label(button.reason or otherwise, "secondary")
    button.explained.connect(lambda reason: line.setText(reason or otherwise))
    return line


class Frame(Protocol):
    """What a page asks of the window around it."""

    def show_page(self, name: str) -> None:
        """Turn to the page called `name`."""

    def show_help(self, file: str = "") -> None:
        """Turn to one of the pages of the help; without a file, to what it says about the page in front."""

    def follow_scheme(self) -> None:
        """Take the colours of the theme that was chosen."""


class StageLine(QWidget):
    """What is incomplete, out of date or failed of a page's stage; hidden where nothing is."""

    _SIGNS: ClassVar = {
        Standing.PARTIAL: ("partial", "warning"),
        Standing.STALE: ("stale", "warning"),
        Standing.FAILED: ("error", "danger"),
    }

    def __init__(self) -> None:
        super().__init__()
        self._picture = Picture("partial", "warning", 16)
        self._words = label("", wrap=True, select=True)
        line = row(self._picture, self._words)
        line.setStretch(1, 1)
        line.setContentsMargins(0, 0, 0, 0)
        self.setLayout(line)
        self.hide()

    def tell(self, stage: Stage) -> None:
        sign = self._SIGNS.get(stage.standing)
        self.setVisible(sign is not None and bool(stage.words))
        if sign is not None:
            self._picture.set_icon(*sign)
            self._words.setText(stage.words)
            self._words.setAccessibleName(f"{stage.standing.value}: {stage.words}")


class Page(QWidget):
    """A page: title and tools above, body, and a foot with the page's actions."""

    def __init__(self, session: Session, title: str) -> None:
        super().__init__()
        self.session = session
        self.setAccessibleName(title)
        self.tools = row()
        self.body = QVBoxLayout()
        self.body.setSpacing(12)
        self.foot = row(spacing=12)
        self._line = StageLine()
        head = row(label(title, "page-title"), None, self.tools)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 16, 0, 16)
        whole.setSpacing(12)
        stage = QVBoxLayout()
        stage.addWidget(self._line)
        for part in (head, stage, self.body, self.foot):
            part.setContentsMargins(SIDE, 0, SIDE, 0)
            whole.addLayout(part)
        whole.setStretch(2, 1)

    def tell_stage(self, name: str) -> None:
        """Say below the title what the stage of this page lacks, whenever it lacks something."""

        def tell() -> None:
            self._line.tell(self.session.stages[name])

        self.session.stages_changed.connect(tell)
        tell()

    def start(self) -> None:
        """F5: the page's main job, if it can start."""

    def opened(self) -> None:
        """The page was turned to."""

    def lead_back(self, name: str, show_page: Callable[[str], object]) -> None:
        """Begin the foot with a way to the page before."""
        self.begin_foot(button(f"← {tr(name)}", lambda: show_page(name), "quiet"))

    def begin_foot(self, quiet: QPushButton) -> None:
        """Put a quiet button first in the foot; its words stand where the content begins."""
        self.foot.setContentsMargins(SIDE - QUIET_PADDING, 0, SIDE, 0)
        self.foot.insertWidget(0, quiet)

    def add_reason(self) -> Elided:
        """A line of the foot, before its actions, for why the next of them cannot be pressed yet."""
        line = Elided("", "secondary")
        line.setAlignment(RIGHT)
        self.foot.addWidget(line, 1)
        return line

    def splitter(
        self, name: str, orientation: Qt.Orientation, *parts: QWidget, sizes: Sequence[int]
    ) -> QSplitter:
        """Resizable panes that keep their sizes between starts."""
        splitter = QSplitter(orientation)
        splitter.setChildrenCollapsible(False)
        splitter.setHandleWidth(12)
        for index, part in enumerate(parts):
            splitter.addWidget(part)
            splitter.setStretchFactor(index, sizes[index])
        splitter.setSizes(list(sizes))
        splitter.restoreState(self.session.settings.state(name))
        splitter.splitterMoved.connect(lambda: self.session.settings.keep_state(name, splitter.saveState()))
        return splitter


class Empty(QWidget):
    """What stands where there is nothing yet: what would be here, and the button that leads to it."""

    def __init__(self, icon: str, title: str, text: str, action: QPushButton | None = None) -> None:
        super().__init__()
        picture = Picture(icon, "secondary", 36)
        heading = label(title, "title")
        words = label(text, "secondary", wrap=True)
        words.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        words.setFixedWidth(420)
        inside = column(
            None, row(None, picture, None), row(None, heading, None), row(None, words, None), spacing=8
        )
        if action:
            inside.addSpacing(8)
            inside.addLayout(row(None, action, None))
        inside.addStretch(1)
        self.setLayout(inside)


def set_up_table(table: QTableView, name: str, *, stretch: int = 0) -> None:
    """The manners all tables share."""
    table.setAccessibleName(name)
    table.setShowGrid(False)
    table.setAlternatingRowColors(False)
    table.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
    table.setVerticalScrollMode(QTableView.ScrollMode.ScrollPerPixel)
    table.setHorizontalScrollMode(QTableView.ScrollMode.ScrollPerPixel)
    table.setWordWrap(False)
    table.setTabKeyNavigation(False)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    header.setDefaultAlignment(LEFT)
    header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
    if table.model() is not None and stretch >= 0:
        header.setSectionResizeMode(stretch, QHeaderView.ResizeMode.Stretch)


def with_heading(table: QTableView, place: int, least: int) -> int:
    """The width of a column whose cells take `least`: its heading's where that is longer."""
    words = str(table.model().headerData(place, Qt.Orientation.Horizontal) or "")
    return max(least, table.horizontalHeader().fontMetrics().horizontalAdvance(words) + HEADING_PADDING)


def align_heading(table: QTableWidget, column: int) -> None:
    """Put a column's heading to the right, over its numbers."""
    item = table.horizontalHeaderItem(column)
    assert item is not None
    item.setTextAlignment(RIGHT)


class NumberDelegate(QStyledItemDelegate):
    """Numbers to the right in tabular figures; what follows “±” is in the secondary colour."""

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        options = QStyleOptionViewItem(option)
        self.initStyleOption(options, index)
        text, options.text = options.text, ""
        style = QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, options, painter, options.widget)
        mean, separator, rest = text.partition(" ±")
        error, area = separator + rest, options.rect.adjusted(8, 0, -8, 0)
        font, plain = QFont(options.font), QFont(options.font)
        plain.setBold(False)
        for each in (font, plain):
            each.setFeature(QFont.Tag("tnum"), 1)
        width = QFontMetrics(plain).horizontalAdvance(error)
        needed = QFontMetrics(font).horizontalAdvance(mean)
        if width + needed > area.width():  # the tooltip has the error; a number cut in two would lie
            error, width = "", 0
            mean = QFontMetrics(font).elidedText(mean, Qt.TextElideMode.ElideRight, area.width())
        painter.save()
        painter.setFont(plain)
        painter.setPen(QColor(theme.colours().secondary))
        painter.drawText(area, RIGHT, error)
        painter.setFont(font)
        painter.setPen(_text_colour(options, index))
        aligned = index.data(Qt.ItemDataRole.TextAlignmentRole)
        left = aligned is not None and bool(Qt.AlignmentFlag(aligned) & Qt.AlignmentFlag.AlignLeft)
        painter.drawText(area.adjusted(0, 0, -width, 0), LEFT if left else RIGHT, mean)
        painter.restore()


def _text_colour(options: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QColor:
    colour = index.data(Qt.ItemDataRole.ForegroundRole)
    if isinstance(colour, QBrush):
        return colour.color()
    return QColor(colour) if colour else options.palette.color(QPalette.ColorRole.Text)


def draw_swatch(painter: QPainter, rect: QRect, format_name: str) -> None:
    """The colour of a format with an edge, since some of them are pale on white."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(QColor(theme.colours().edge), 1))
    painter.setBrush(theme.format_colour(format_name))
    painter.drawRoundedRect(rect.adjusted(0, 0, -1, -1), 2, 2)
    painter.restore()


def clear(layout: QLayout) -> None:
    """Take everything out of a layout."""
    while item := layout.takeAt(0):
        if widget := item.widget():
            widget.hide()
            widget.deleteLater()
        elif inner := item.layout():
            clear(inner)
