"""The window: rail, header, banner, pages, job bar; shortcuts; and a closing that leaves nothing behind."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QRectF, QSize, Qt, QTimer
from PySide6.QtGui import (
    QCloseEvent,
    QDragEnterEvent,
    QDropEvent,
    QKeyEvent,
    QKeySequence,
    QPainter,
    QPaintEvent,
    QShortcut,
)
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QButtonGroup,
    QHBoxLayout,
    QLineEdit,
    QMainWindow,
    QPlainTextEdit,
    QPushButton,
    QStackedWidget,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.gui.kit import icons, theme
from kl_lens_desktop.gui.kit.controls import LEAST_WINDOW, JobButton, Page, label, rule
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.more.help import HelpPage
from kl_lens_desktop.gui.shell.attention import NAME, Attention
from kl_lens_desktop.gui.shell.banner import Banner
from kl_lens_desktop.gui.shell.header import Header
from kl_lens_desktop.gui.shell.jobbar import JobBar, about
from kl_lens_desktop.gui.shell.queue_button import QueueButton
from kl_lens_desktop.gui.state.session import MISSING, Session
from kl_lens_desktop.gui.state.settings import Settings
from kl_lens_desktop.gui.state.stages import STAGES, Stage, Standing
from kl_lens_desktop.gui.state.translation import mark, tr
from kl_lens_desktop.gui.state.unfinished import Unfinished
from kl_lens_desktop.gui.state.workspace import model_title

if TYPE_CHECKING:
    from kl_lens_desktop.sharing import Bundle

# Name on the rail (and, in small letters, of its icon), module, class. A page is built when first shown, or
# while the window is idle.
PAGES = (
    (mark("Model"), "model.page", "ModelPage"),
    (mark("Sensitivity"), "sensitivity.page", "SensitivityPage"),
    (mark("Plan"), "plan.page", "PlanPage"),
    (mark("Export"), "export.page", "ExportPage"),
    (mark("Benchmark"), "bench.page", "BenchmarkPage"),
    (mark("Library"), "more.library", "LibraryPage"),
    (mark("Log"), "more.log", "LogPage"),
    (mark("Settings"), "more.settings", "SettingsPage"),
    (mark("Help"), "more.help", "HelpPage"),
)
STEPS = 5  # the first five are the stages of the work; a rule parts them from the rest
IDLE_MS = 30
RAIL_WIDTH = 184
FRAME = QSize(16, 48)  # what a desktop draws around a window, at most


class Window(QMainWindow):
    """The one window of the application."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.setWindowTitle(NAME)
        self.setMinimumSize(LEAST_WINDOW)
        room = self.screen().availableSize() - FRAME
        self.resize(QSize(1280, 800).boundedTo(room).expandedTo(self.minimumSize()))
        self.session = Session(settings, self)
        self.header = Header(self.session)
        self.banner = Banner()
        self.jobbar = JobBar(self.session)
        self.attention = Attention(self.session, self)
        self.stack = QStackedWidget()
        self._pages: dict[str, Page] = {}
        self._at_compress = False  # nothing was opened since “Compress” was pressed
        self._rail = QButtonGroup(self)
        self._rail.setExclusive(True)
        for _ in PAGES:
            self.stack.addWidget(QWidget())
        self.compress = JobButton(
            tr("Compress"),
            self.session,
            self._missing_for_compress,
            self._start_compress,
            tr("Measure, plan, export and benchmark this model, as the pages are set (Ctrl+Enter)"),
            "compress",
            "compress",
        )
        self.setCentralWidget(self._frame())
        self.setAcceptDrops(True)
        self._make_shortcuts()
        self.session.said.connect(self.banner.say)
        self.session.offered.connect(self.banner.offer)
        self.session.queue.emptied.connect(self._sum_up)
        self.session.job.started.connect(self.banner.hide)
        self.session.unfinished_found.connect(self._offer_to_go_on)
        self.session.work_folder_gone.connect(self._offer_settings)
        self.session.whole_job_resumed.connect(self._follow)
        self.session.bundle_opened.connect(self._show_bundle)
        self.session.bench_opened.connect(partial(self._on_page, "Benchmark", "compare_with"))
        self.session.export_opened.connect(partial(self.show_page, "Benchmark"))
        self.session.look_for_unfinished()
        self.session.look_for_work_folder()
        self.session.job.ended.connect(self._show_outcome)
        self.session.stages_changed.connect(self._mark_stages)
        if settings.problem:
            self.session.say("warning", settings.problem)
        self.restoreGeometry(settings.state("window"))
        self.show_page("Model")
        self._idle = QTimer(self, interval=IDLE_MS)
        self._idle.timeout.connect(self._build_next)
        self._idle.start()

    def page(self, name: str) -> Page:
        """The page called `name`, built if it is not there yet."""
        if name not in self._pages:
            index = [entry[0] for entry in PAGES].index(name)
            _, module_name, cls = PAGES[index]
            module = import_module(f"kl_lens_desktop.gui.{module_name}")
            page: Page = getattr(module, cls)(self.session, self)
            self._pages[name] = page
            placeholder = self.stack.widget(index)
            assert placeholder is not None
            self.stack.insertWidget(index, page)
            self.stack.removeWidget(placeholder)
            placeholder.deleteLater()
            _let_files_pass(page)
        return self._pages[name]

    def show_page(self, name: str, *_: object) -> None:
        self._at_compress = False
        page = self.page(name)
        self.stack.setCurrentWidget(page)
        entry = self._rail.button([each[0] for each in PAGES].index(name))
        if isinstance(self.focusWidget(), RailButton):
            entry.setFocus()
        entry.setChecked(True)
        page.opened()

    def rail_entry(self, index: int) -> "RailButton":
        """The rail's button of a page, counted from the top."""
        entry = self._rail.button(index)
        assert isinstance(entry, RailButton)
        return entry

    @property
    def still_building(self) -> bool:
        """Whether pages are still to be built while the window is idle."""
        return self._idle.isActive()

    @property
    def shown(self) -> str:
        return PAGES[self.stack.currentIndex()][0]

    def follow_scheme(self) -> None:
        """The system went light or dark, or the person chose in Settings."""
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        theme.apply(app, self.session.settings.theme)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """A file or a folder may be dropped anywhere in the window."""
        if _dropped(event):
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open what is dropped: see `Session.open_path`."""
        if path := _dropped(event):
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()
            self.session.open_path(path.resolve())

    def closeEvent(self, event: QCloseEvent) -> None:
        """End the job, its child and every thread before the window goes."""
        self.hide()
        self._idle.stop()
        self.session.settings.keep_state("window", self.saveGeometry())
        self.session.settings.flush()
        self.header.close_sampler()
        self.session.close()
        super().closeEvent(event)

    def _frame(self) -> QWidget:
        whole = QWidget()
        across = QHBoxLayout(whole)
        across.setContentsMargins(0, 0, 0, 0)
        across.setSpacing(0)
        across.addWidget(self._make_rail())
        right = QVBoxLayout()
        right.setSpacing(0)
        right.addWidget(self.header)
        right.addWidget(self.banner)
        right.addWidget(self.stack, 1)
        right.addWidget(self.jobbar)
        across.addLayout(right, 1)
        return whole

    def _make_rail(self) -> QWidget:
        rail = QWidget()
        rail.setObjectName("rail")
        rail.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        layout = QVBoxLayout(rail)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(4)
        layout.addWidget(self.compress)
        self._about_compress = words = label("", "secondary")
        words.setWordWrap(True)
        words.setAlignment(Qt.AlignmentFlag.AlignTop)
        words.ensurePolished()
        # That of the longest reason: so nothing jumps.
        words.setText(MISSING)
        self.compress.explained.connect(self._tell_compress)
        self.session.devices_chosen.connect(self.compress.refresh)
        self.session.costs_changed.connect(self._tell_compress)
        self.session.wanted_changed.connect(self._tell_compress)
        self.session.stages_changed.connect(self._tell_compress)
        layout.addWidget(words)
        self.queue_button = QueueButton(self.session)
        layout.addWidget(self.queue_button)
        layout.addSpacing(8)
        for index, (name, _, _) in enumerate(PAGES):
            if index == STEPS:
                layout.addSpacing(8)
                layout.addWidget(rule())
                layout.addSpacing(8)
            entry = RailButton(name, name.lower(), index)
            entry.clicked.connect(partial(self.show_page, name))
            self._rail.addButton(entry, index)
            layout.addWidget(entry)
        layout.addStretch(1)
        widest = max(entry.sizeHint().width() for entry in (*self._rail.buttons(), self.compress))
        rail.setFixedWidth(max(RAIL_WIDTH, widest + 2 * 12))
        words.setFixedHeight(words.heightForWidth(rail.width() - 2 * 12))
        self._tell_compress()
        return rail

    def _tell_compress(self, *_: object) -> None:
        """Below “Compress”: why it cannot be pressed or, while it can, how long it will take."""
        words = self.compress.reason
        if not words:
            took = self.session.whole_s
            words = tr("All steps, as the pages are set")
            if took is not None:
                words = tr("All steps: about {took} on this computer").format(took=about(took))
        self._about_compress.setText(words)

    def _make_shortcuts(self) -> None:
        def shortcut(keys: str, action: Callable[[], object]) -> None:
            QShortcut(QKeySequence(keys), self).activated.connect(lambda: action())

        for index, (name, _, _) in enumerate(PAGES):
            shortcut(f"Ctrl+{index + 1}", partial(self.show_page, name))
        shortcut("Ctrl+O", lambda: self._on_page("Model", "choose_folder"))
        shortcut("Ctrl+S", lambda: self._on_page("Plan", "save"))
        shortcut("F1", self.show_help)
        shortcut("F5", lambda: self.page(self.shown).start())
        shortcut("Esc", self.jobbar.ask)
        shortcut("Ctrl+Return", self.compress.click)
        shortcut("Ctrl+Q", self.close)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter presses the button that has the focus, as Space does."""
        focused = self.focusWidget()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and isinstance(focused, QAbstractButton):
            focused.click()
        else:
            super().keyPressEvent(event)

    def show_help(self, file: str = "") -> None:
        about = self.shown
        self.show_page("Help")
        page = self.page("Help")
        assert isinstance(page, HelpPage)
        if file:
            page.show_file(file)
        else:
            page.show_about(about)

    def _on_page(self, name: str, action: str, *about: object) -> None:
        self.show_page(name)
        getattr(self.page(name), action)(*about)

    def _show_bundle(self, bundle: "Bundle") -> None:
        from kl_lens_desktop.gui.shell.bundle import BundleDialog

        self._bundle = BundleDialog(self.session, bundle, self)
        self._bundle.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._bundle.accepted.connect(partial(self.show_page, "Plan"))
        self._bundle.open()

    def _offer_to_go_on(self, found: Unfinished, sentence: str) -> None:
        if not self.session.job.running:
            self.banner.offer(sentence, tr("Continue"), partial(self.session.go_on, found))

    def _offer_settings(self, folder: str) -> None:
        words = tr("The work folder {folder} is missing. Connect its drive, or choose another folder.")
        self.banner.offer(
            words.format(folder=folder), tr("Open the settings"), partial(self.show_page, "Settings")
        )

    def tell_crash(self, trace: str) -> None:
        """This program crashed when it last ran; the trace says where."""
        self.session.write_log("error", tr("KL Lens crashed when it last ran"), trace)
        self.banner.offer(
            tr("KL Lens crashed when it last ran. To report it, open the log and copy the diagnostics."),
            tr("Open the log"),
            partial(self.show_page, "Log"),
        )

    def _missing_for_compress(self) -> str:
        if self.session.model is None:
            return MISSING
        if self.session.chosen_devices == ():
            return tr("Choose a device on the Benchmark page")
        return ""

    def _start_compress(self) -> None:
        self.session.compress()
        self._follow()

    def _follow(self) -> None:
        """Show the page of each step as the whole job reaches it, unless the person turns elsewhere."""
        self.show_page("Sensitivity")
        self._at_compress = True

    def _show_outcome(self, how: str) -> None:
        """After “Compress”, turn to what it came to, unless the person has turned elsewhere."""
        if self._at_compress and how == "finished":
            # once all have heard that the job ended: the page may start another, to look for devices
            QTimer.singleShot(0, self, partial(self.show_page, "Benchmark"))
        self._at_compress = False

    def _sum_up(self, compressed: list[str], failed: list[str]) -> None:
        """What came of the models that waited, once none does any more."""
        parts = [
            tr("{state}: {names}.").format(state=state, names=", ".join(map(model_title, references)))
            for state, references in ((tr("Compressed"), compressed), (tr("Failed, see the log"), failed))
            if references
        ]
        self.session.say("warning" if failed else "info", " ".join(parts))

    def _mark_stages(self) -> None:
        found = self.session.stages
        for index, name in enumerate(STAGES):
            self.rail_entry(index).mark(found[name])
        running = self.session.running_page
        if self._at_compress and running in STAGES[1:] and running != self.shown:
            self.show_page(running)
            self._at_compress = True

    def _build_next(self) -> None:
        """One page a turn, so that the window stays quick while it completes itself."""
        for name, _, _ in PAGES:
            if name not in self._pages:
                self.page(name)
                return
        self._idle.stop()
        self.session.background.run(_import_ahead, lambda _: None, self.session.say_error)


def _import_ahead() -> None:
    """What the pages need with the first scores and figures, so that they do not wait for it then."""
    for module in ("kl_lens_desktop.plan.propose", "kl_lens_desktop.plan.document", "scipy.special"):
        import_module(module)


def _dropped(event: QDropEvent) -> Path | None:
    """The file or folder on this computer that is dropped, the first of several; None if there is none."""
    urls = event.mimeData().urls()
    return next((Path(url.toLocalFile()) for url in urls if url.isLocalFile()), None)


def _let_files_pass(page: QWidget) -> None:
    """A text field would take the name of a file that is dropped on it, and the window not hear of it."""
    for field in page.findChildren(QWidget):
        if isinstance(field, (QPlainTextEdit, QTextEdit)):
            field.viewport().setAcceptDrops(False)
        if isinstance(field, (QLineEdit, QPlainTextEdit, QTextEdit)):
            field.setAcceptDrops(False)


# Icon and colour of a standing; no two have the same shape.
_SIGNS = {
    Standing.RUNNING: ("running", "accent"),
    Standing.PARTIAL: ("partial", "warning"),
    Standing.STALE: ("stale", "warning"),
    Standing.FAILED: ("error", "danger"),
    Standing.DONE: ("done", "good"),
}


class RailButton(QPushButton):
    """A page's entry, with a sign of how far its stage is."""

    def __init__(self, name: str, icon: str, index: int) -> None:
        self._name = tr(name)
        super().__init__(self._name)
        self.setProperty("role", "rail")
        self.setCheckable(True)
        self.setAutoExclusive(True)  # for screen readers: one of several, and no box to tick
        self.setAutoDefault(False)
        self.setIcon(icons.icon(icon))
        self.setIconSize(QSize(18, 18))
        self._tip = f"{self._name} (Ctrl+{index + 1})"
        self.mark(Stage(Standing.EMPTY))

    def mark(self, stage: Stage) -> None:
        """Show how far the stage is, as a sign and in words."""
        self._standing = stage.standing
        told = "" if stage.standing is Standing.EMPTY else f", {stage.standing.value}"
        self.setAccessibleName(self._name + told)
        self.setAccessibleDescription(stage.words)
        self.setToolTip(plain_tip(f"{self._tip}{told}. {stage.words}" if told else self._tip))
        self.update()

    def sizeHint(self) -> QSize:
        return super().sizeHint() + QSize(26, 0)  # room for the sign

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if sign := _SIGNS.get(self._standing):
            mark = QRectF(self.width() - 26, (self.height() - 16) / 2, 16, 16)
            with QPainter(self) as painter:
                icons.draw(painter, sign[0], mark, getattr(theme.colours(), sign[1]))
