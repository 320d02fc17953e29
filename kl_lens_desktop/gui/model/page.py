"""Model: choose what to work on, and see before starting what it is and whether it fits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.gui.kit import icons
from kl_lens_desktop.gui.kit.controls import (
    Frame,
    JobButton,
    Page,
    Picture,
    button,
    column,
    label,
)
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.model.details import ModelDetails
from kl_lens_desktop.gui.model.search import Results
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr

if TYPE_CHECKING:
    from kl_lens_desktop.hub.facts import Facts
    from kl_lens_desktop.repository.candidate import UsableRepository


class ModelPage(Page):
    """Three ways to a model on the left, the model itself on the right."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("Choose a model"))
        self._window = window
        self._hit: Facts | None = None
        self._hub: UsableRepository | None = None
        self._refusal = ""  # why the chosen one cannot be used
        left, self.details = self._make_left(), ModelDetails()
        self.body.addWidget(
            self.splitter("model", Qt.Orientation.Horizontal, left, self.details, sizes=(600, 420)), 1
        )
        self.download = JobButton(
            tr("Download and open"),
            session,
            self._missing_hit,
            self._download,
            tr("Download this model's files, verify them, and open it"),
            "primary",
        )
        self.later = button(
            tr("Compress later"),
            self._queue_hit,
            tip=tr("Download this model and compress it when nothing else runs"),
        )
        self.next = button(tr("Measure sensitivity →"), lambda: window.show_page("Sensitivity"), "primary")
        self.why = self.add_reason()
        self.download.explained.connect(lambda _: self._explain())
        self.foot.addWidget(self.later)
        self.foot.addWidget(self.download)
        self.foot.addWidget(self.next)
        session.model_changed.connect(self._show_model)
        session.job.started.connect(self._refresh)
        session.job.ended.connect(self._refresh)
        self._show_model()

    def start(self) -> None:
        if self.download.isVisible():
            self.download.click()

    def opened(self) -> None:
        self._fill_recent()
        self._show_details()

    def choose_folder(self) -> None:
        """Ask for a model folder and open it."""
        folder = QFileDialog.getExistingDirectory(self, tr("Open a model folder"))
        if folder:
            self.open(str(Path(folder)))  # a dialog writes / on Windows too

    def open(self, reference: str) -> None:
        """Open a model or, while a job runs, offer to compress it afterwards."""
        if not self.session.job.running:
            self._hit = self._hub = None
        self.session.choose_model(reference)

    def search(self) -> None:
        """Show what the Hub has for the words in the search field."""
        self.left.setCurrentIndex(1)
        self.results.search()

    def _make_left(self) -> QWidget:
        self.query = QLineEdit()
        self.query.setPlaceholderText(
            tr("Search the Hugging Face Hub, for example granite-4.0-h or ibm-granite/")
        )
        self.query.setAccessibleName(tr("Search the Hugging Face Hub"))
        self.query.setClearButtonEnabled(True)
        self.query.returnPressed.connect(self.search)
        find = button(tr("Search"), self.search, icon="search")
        self.left = QStackedWidget()
        self.left.addWidget(self._make_starts())
        self.left.addWidget(self._make_results())
        side = QWidget()
        layout = QVBoxLayout(side)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(12)
        search_row = QHBoxLayout()
        search_row.addWidget(self.query, 1)
        search_row.addWidget(find)
        layout.addLayout(search_row)
        layout.addWidget(self.left, 1)
        return side

    def _make_starts(self) -> QWidget:
        starts = QWidget()
        choices = [
            _start(
                "sample",
                tr("Try the sample"),
                tr("A small trained hybrid, included. Needs no network and takes a few minutes."),
                lambda: self.open("sample"),
            ),
            _start(
                "folder",
                tr("Open a folder…"),
                tr("A model with config.json and safetensors files. Ctrl+O"),
                self.choose_folder,
            ),
            _start(
                "search",
                tr("Search the Hub"),
                tr("Granite 4 H, Falcon H1, Zamba2, Bamba, LFM2, Mamba-2 and other hybrids."),
                self._begin_search,
            ),
        ]
        self.refusal = label("", "bad", wrap=True, select=True)
        self.refusal.setVisible(False)
        self.recent_title = label(tr("Opened before"), "heading")
        self.recent = QListWidget()
        self.recent.setAccessibleName(tr("Recently opened models"))
        self.recent.itemActivated.connect(lambda item: self.open(item.data(Qt.ItemDataRole.UserRole)))
        self.recent.itemClicked.connect(lambda item: self.open(item.data(Qt.ItemDataRole.UserRole)))
        layout = QVBoxLayout(starts)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.refusal)
        for start in choices:
            layout.addWidget(start)
        layout.addSpacing(12)
        layout.addWidget(self.recent_title)
        layout.addWidget(self.recent, 1)
        layout.addStretch(0)
        return starts

    def _make_results(self) -> QWidget:
        self.results = Results(self.session, self.query)
        self.results.chosen.connect(self._select_hit)
        self.results.activated.connect(lambda: self.download.click())
        self.results.left.connect(self._leave_search)
        self.results.refused.connect(self._give_up_search)
        return self.results

    def _begin_search(self) -> None:
        self.query.setFocus()
        self.search()

    def _leave_search(self) -> None:
        self.query.clear()
        self._show_starts()

    def _give_up_search(self, why: str) -> None:
        """What needs no Hub is still there."""
        self._show_starts()
        self.refusal.setText(why)
        self.refusal.setVisible(True)

    def _show_starts(self) -> None:
        self.refusal.setVisible(False)
        self.left.setCurrentIndex(0)
        self._hit = self._hub = None
        self._show_model()

    def _select_hit(self, hit: "Facts") -> None:
        self._hit, self._hub, self._refusal = hit, None, ""
        work_folder = self.session.settings.work_folder
        self._refresh()
        self.details.show_hit(hit, None, tr("Reading the list of files …"), work_folder)

        def ask() -> "UsableRepository":
            from kl_lens_desktop.hub import client
            from kl_lens_desktop.hub.candidate import examine

            return examine(client.repository(hit.id))

        def answer(details: "UsableRepository") -> None:
            if self._hit is hit:
                self._hub = details
                self.details.show_hit(hit, details, "", work_folder)
                self._refresh()

        def refuse(error: KLLensError) -> None:
            if self._hit is hit:
                self._refusal = str(error)
                self.details.show_hit(hit, None, self._refusal, work_folder)
                self._refresh()

        self.session.background.run(ask, answer, refuse)

    def _missing_hit(self) -> str:
        return "" if self._hub else self._refusal or tr("Choose a model from the list first")

    def _download(self) -> None:
        if self._hub:
            self.session.open_model(self._hub.of.id, pull=True)

    def _queue_hit(self) -> None:
        if self._hub:
            self.session.queue.add(self._hub.of.id, pull=True)

    def _show_model(self) -> None:
        self._hit = self._hub = None
        self._refresh()
        self._fill_recent()

    def _refresh(self, *_: object) -> None:
        session = self.session
        choosing = self._hit is not None
        self.download.setVisible(choosing)
        self.download.refresh()
        self.later.setVisible(choosing and session.job.running)
        self.later.setEnabled(self._hub is not None)
        self.next.setVisible(not choosing)
        reading = self._reading
        self.next.setEnabled(session.model is not None and not reading)
        self.next.setToolTip(plain_tip(reading or ("" if session.model else tr("Choose a model first"))))
        self._explain()
        if self.isVisible():  # else `opened` will
            self._show_details()

    @property
    def _reading(self) -> str:
        opening = self.session.opening
        return tr("Reading {opening} …").format(opening=opening) if opening else ""

    def _show_details(self) -> None:
        """The right pane, but for a model of the Hub, which is shown when it is chosen."""
        session = self.session
        if self._hit is not None:
            return
        if self._reading:
            self.details.show_words(self._reading)
        elif session.model is not None:
            self.details.show_model(session.model, session.settings.work_folder)
        else:
            self.details.show_welcome(session.settings.work_folder, self._show_questions)

    def _show_questions(self) -> None:
        self._window.show_help("questions.md")

    def _explain(self) -> None:
        self.why.set_text(self.next.toolTip() if self._hit is None else self.download.reason)

    def _fill_recent(self) -> None:
        references = self.session.settings.recent
        self.recent.clear()
        for reference in references:
            item = QListWidgetItem(icons.icon("model", "secondary"), _reference_words(reference))
            item.setData(Qt.ItemDataRole.UserRole, reference)
            item.setToolTip(plain_tip(reference))
            self.recent.addItem(item)
        self.recent_title.setVisible(bool(references))
        self.recent.setVisible(bool(references))


def _start(icon: str, title: str, words: str, on_click: Any) -> QPushButton:
    """One of the three starting points: a large button with a title and a line of explanation."""
    start = button("", on_click, "start")
    start.setAccessibleName(title)
    start.setAccessibleDescription(words)
    picture = Picture(icon, "accent", 28)
    heading, text = label(title, "heading"), label(words, "secondary", wrap=True)
    for part in (heading, text):
        part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
    layout = QHBoxLayout(start)
    layout.setContentsMargins(16, 12, 16, 12)
    layout.setSpacing(16)
    layout.addWidget(picture)
    layout.addLayout(column(None, heading, text, None, spacing=4), 1)
    return start


def _reference_words(reference: str) -> str:
    if reference == "sample":
        return tr("Sample model (bundled)")
    path = Path(reference)
    return f"{path.name}   {path.parent}" if path.is_absolute() else reference
