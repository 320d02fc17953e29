"""Help: the bundled pages of ``resources/docs``, with links among them and nothing loaded from elsewhere."""

import re
from pathlib import Path

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, QTimer, QUrl
from PySide6.QtGui import (
    QAction,
    QColor,
    QDesktopServices,
    QFont,
    QFontDatabase,
    QImage,
    QKeySequence,
    QPainter,
    QResizeEvent,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
    QTextFrameFormat,
    QTextLength,
    QTextTable,
)
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QTextBrowser

from kl_lens_desktop import resources
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Frame, Page, button, card, column
from kl_lens_desktop.gui.kit.theme import LIGHT
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr

# File and title, in the order of the contents; the first is shown first.
CONTENTS = (
    ("guide.md", tr("Guide")),
    ("questions.md", tr("Questions")),
    ("troubleshooting.md", tr("Troubleshooting")),
    ("models.md", tr("Supported models")),
    ("method.md", tr("Method")),
    ("results.md", tr("Results")),
    ("architecture.md", tr("Architecture")),
    ("changelog.md", tr("What is new")),
    ("upstream/README.md", tr("Reports for OpenVINO")),
)
# Of the guide, where its heading is not the name of the window's page.
SECTIONS = dict.fromkeys(("Library", "Log", "Settings"), "library-log-and-settings") | {"Help": "first-steps"}
CONTENTS_WIDTH = 190
HEADING_POINTS = {1: 16.0, 2: 13.0, 3: 11.0}
MARGIN = 20
LINE_HEIGHT = 135  # percent
PICTURE = "\ufffc"  # what stands for a picture in the text of a document


class HelpPage(Page):
    """The pages on the left, the one being read on the right."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("Help"))
        self.contents = QListWidget()
        self.contents.setAccessibleName(tr("Help pages"))
        self.contents.setMinimumWidth(CONTENTS_WIDTH)
        for file, title in CONTENTS:
            if _path(file).is_file():
                item = QListWidgetItem(title)
                item.setData(Qt.ItemDataRole.UserRole, file)
                self.contents.addItem(item)
        self.text = HelpText()
        self.back = button(tr("Back"), self.text.backward, tip=tr("Back to the page before (Alt+Left)"))
        self.forward = button(tr("Forward"), self.text.forward, tip=tr("Forward (Alt+Right)"))
        for each, keys in ((self.back, "Alt+Left"), (self.forward, "Alt+Right")):
            action = QAction(self)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            action.triggered.connect(each.click)
            self.addAction(action)
            each.setEnabled(False)
            self.tools.addWidget(each)
        self.text.backwardAvailable.connect(self.back.setEnabled)
        self.text.forwardAvailable.connect(self.forward.setEnabled)
        self.body.addWidget(
            self.splitter(
                "help",
                Qt.Orientation.Horizontal,
                card(column(self.contents), margins=4),
                self.text,
                sizes=(CONTENTS_WIDTH, 1280 - CONTENTS_WIDTH),
            ),
            1,
        )
        self.contents.currentItemChanged.connect(self._open_item)
        self.text.sourceChanged.connect(self._mark_item)
        self.contents.setCurrentRow(0)

    def show_about(self, name: str) -> None:
        """Turn to what the guide says about the window's page called `name`."""
        self.text.open("guide.md", SECTIONS.get(name, name.lower()))
        self.text.setFocus()

    def show_file(self, file: str) -> None:
        """Turn to one of the pages of `CONTENTS`."""
        self.text.open(file)
        self.text.setFocus()

    def _open_item(self, item: QListWidgetItem | None) -> None:
        if item is not None and item.data(Qt.ItemDataRole.UserRole) != self.text.file:
            self.text.open(item.data(Qt.ItemDataRole.UserRole))

    def _mark_item(self) -> None:
        files = [
            self.contents.item(index).data(Qt.ItemDataRole.UserRole) for index in range(self.contents.count())
        ]
        self.contents.setCurrentRow(files.index(self.text.file) if self.text.file in files else -1)


class HelpText(QTextBrowser):
    """One bundled page. Links to other pages open here, links to the web in the browser."""

    def __init__(self) -> None:
        self._url = QUrl()  # of the page, already while it loads, when `source()` still tells the one before
        super().__init__()
        self.setAccessibleName(tr("Help text"))
        self.setOpenLinks(False)
        self.anchorClicked.connect(self.follow)
        self.sourceChanged.connect(self._finish)
        # Not inside the event that asks for it: Qt is still at work on the widget then.
        self._again = QTimer(self, singleShot=True, interval=0)
        self._again.timeout.connect(self._load_again)

    @property
    def file(self) -> str:
        """The page shown, relative to the folder of all pages; empty before the first."""
        return _relative(self._url)

    def open(self, file: str, section: str = "") -> None:
        """Show a page, from one of its headings on."""
        url = QUrl.fromLocalFile(str(_path(file)))
        if section:
            url.setFragment(section)
        self.setSource(url, QTextDocument.ResourceType.MarkdownResource)

    def follow(self, link: QUrl) -> None:
        """Open a link: a bundled page here, a web page in the system's browser, anything else not at all."""
        target = self._url.resolved(link)
        if target.scheme() in ("https", "http"):
            QDesktopServices.openUrl(target)
        elif _relative(target).endswith(".md") and Path(target.toLocalFile()).is_file():
            self.setSource(target, QTextDocument.ResourceType.MarkdownResource)

    def loadResource(self, type: int, name: QUrl | str) -> object:
        """Bundled pages and pictures only; nothing is fetched from a network or from outside their folder."""
        target = self._url.resolved(QUrl(name))
        path = Path(target.toLocalFile())
        if not _relative(target) or not path.is_file():
            return None
        if path.suffix == ".md":
            self._url = target
        if path.suffix == ".svg":
            room = self.viewport().width() - 2 * MARGIN
            return _drawing(path, room, self.devicePixelRatioF())
        return path.read_bytes() if path.suffix == ".png" else path.read_text(encoding="utf-8")

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width() and PICTURE in self.document().toRawText():
            self._again.start()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and self.file:
            self._again.start()

    def _load_again(self) -> None:
        place = self.verticalScrollBar().value()
        self.document().clear()  # with the pictures it keeps
        self.reload()
        self.verticalScrollBar().setValue(place)

    def _finish(self, url: QUrl) -> None:
        self._dress()
        if url.hasFragment():
            self.scrollToAnchor(url.fragment())

    def _dress(self) -> None:
        """Give headings, code, lists and tables the type and colours of the window."""
        document = self.document()
        document.setDocumentMargin(MARGIN)
        block = document.begin()
        while block.isValid():
            level = block.blockFormat().headingLevel()
            cursor = QTextCursor(block)
            shape = QTextBlockFormat()
            if cursor.currentTable() is None and PICTURE not in block.text():
                shape.setLineHeight(LINE_HEIGHT, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
            if level:
                shape.setTopMargin(0 if level == 1 else 22)
                shape.setBottomMargin(8)
                cursor.movePosition(QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor)
                style = cursor.charFormat()
                style.clearProperty(QTextFormat.Property.FontSizeAdjustment)  # it would undo the size
                style.setFontPointSize(HEADING_POINTS.get(level, 10.0))
                style.setFontWeight(QFont.Weight.DemiBold)
                style.setAnchor(True)
                style.setAnchorNames([anchor(block.text())])
                cursor.setCharFormat(style)
            cursor.mergeBlockFormat(shape)
            self._set_code(cursor)
            block = block.next()
        for frame in document.rootFrame().childFrames():
            if isinstance(frame, QTextTable):
                _dress_table(frame)

    def _set_code(self, cursor: QTextCursor) -> None:
        """Code in the system's fixed font, a little smaller than the text, on a tint."""
        colours = theme.colours()
        block = cursor.block()
        fenced = block.blockFormat().hasProperty(QTextFormat.Property.BlockCodeFence)
        if fenced:
            shape = QTextBlockFormat()
            shape.setBackground(QColor(colours.sunken))
            shape.setNonBreakableLines(False)
            cursor.mergeBlockFormat(shape)
        family = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont).family()
        style = QTextCharFormat()
        style.setFontFamilies([family])
        style.setFontPointSize(9.5)
        style.setBackground(QColor(colours.sunken))
        pieces = []
        inside = block.begin()
        while not inside.atEnd():
            fragment = inside.fragment()
            if fragment.charFormat().fontFixedPitch():
                pieces.append((fragment.position(), fragment.length()))
            inside += 1
        for position, length in pieces:
            piece = QTextCursor(self.document())
            piece.setPosition(position)
            piece.setPosition(position + length, QTextCursor.MoveMode.KeepAnchor)
            piece.mergeCharFormat(style)


def anchor(heading: str) -> str:
    """The name by which links reach a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _dress_table(table: QTextTable) -> None:
    """Thin lines and room around the words, over the whole width."""
    shape = table.format()
    shape.setBorder(1)
    shape.setBorderStyle(QTextFrameFormat.BorderStyle.BorderStyle_Solid)
    shape.setBorderBrush(QColor(theme.colours().line))
    shape.setBorderCollapse(True)
    shape.setCellPadding(6)
    shape.setCellSpacing(0)
    shape.setTopMargin(6)
    shape.setBottomMargin(10)
    shape.setWidth(QTextLength(QTextLength.Type.PercentageLength, 100))
    table.setFormat(shape)


def _drawing(path: Path, room: int, scale: float) -> QImage:
    """An SVG no wider than `room`, sharp and in the theme's colours; its file has those of the light one."""
    text = path.read_text(encoding="utf-8")
    now = theme.colours()
    names = {
        getattr(LIGHT, name): getattr(now, name)
        for name in LIGHT.__slots__
        if name not in ("name", "on_accent")
    }
    text = re.sub("|".join(names), lambda found: str(names[found.group()]), text)
    renderer = QSvgRenderer(text.encode())
    size: QSize = renderer.defaultSize()
    if size.width() > room > 0:
        size = QSize(room, round(size.height() * room / size.width()))
    image = QImage(size * scale, QImage.Format.Format_ARGB32_Premultiplied)
    image.setDevicePixelRatio(scale)
    image.fill(Qt.GlobalColor.transparent)
    with QPainter(image) as painter:
        renderer.render(painter, QRectF(0, 0, size.width(), size.height()))
    return image


def _path(file: str) -> Path:
    return resources.path("docs", file)


def _relative(url: QUrl) -> str:
    """The name of a bundled file below the folder of all pages; empty where `url` leads elsewhere."""
    if not url.isLocalFile():
        return ""
    path, root = Path(url.toLocalFile()).resolve(), _path("").resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
