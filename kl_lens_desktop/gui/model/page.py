"""Model: choose what to work on, and see before starting what it is and whether it fits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.gui.kit import icons
from kl_lens_desktop.gui.kit.controls import (
    Elided,
    Frame,
    JobButton,
    Page,
    Picture,
    button,
    card,
    clear,
    column,
    label,
    rule,
    set_up_table,
    tool,
)
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import BLOCK_NAMES, STAGE_NAMES, Model, Session
from kl_lens_desktop.model.fit import StageNeed, stage_needs

if TYPE_CHECKING:
    from kl_lens_desktop.hub.candidate import Candidate
    from kl_lens_desktop.hub.facts import Facts


class ModelPage(Page):
    """Three ways to a model on the left, the model itself on the right."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, "Choose a model")
        self._window = window
        self._hits: list[Facts] = []
        self._hit: Facts | None = None
        self._hub: Candidate | None = None
        self._refusal = ""  # why the chosen one cannot be used
        left, self.details = self._make_left(), _Details()
        self.body.addWidget(
            self.splitter("model", Qt.Orientation.Horizontal, left, self.details, sizes=(600, 420)), 1
        )
        self.download = JobButton(
            "Download and open",
            session,
            self._missing_hit,
            self._download,
            "Download this model's files, verify them, and open it",
            "primary",
        )
        self.next = button("Measure sensitivity →", lambda: window.show_page("Sensitivity"), "primary")
        self.why = self.add_reason()
        self.download.explained.connect(lambda _: self._explain())
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

    def choose_folder(self) -> None:
        """Ask for a model folder and open it."""
        if self.session.job.running:
            self.session.say("warning", self.session.job.reason + ".")
            return
        folder = QFileDialog.getExistingDirectory(self, "Open a model folder")
        if folder:
            self.open(folder)

    def open(self, reference: str) -> None:
        if self.session.job.running:
            self.session.say("warning", self.session.job.reason + ".")
            return
        self._hit = self._hub = None
        self.session.open_model(reference)

    def search(self) -> None:
        """Ask the Hub, outside the window's thread."""
        query = self.query.text().strip()
        if not query:
            self._show_starts()
            return
        self.searching.setText(f"Searching for “{query}” …")
        self.left.setCurrentIndex(1)
        self.results.setRowCount(0)

        def ask() -> "list[Facts]":
            from kl_lens_desktop.hub import client

            return client.search(query)

        self.session.background.run(ask, self._show_hits, self._search_failed)

    def _make_left(self) -> QWidget:
        self.query = QLineEdit()
        self.query.setPlaceholderText("Search the Hugging Face Hub, for example granite-4.0-h")
        self.query.setAccessibleName("Search the Hugging Face Hub")
        self.query.setClearButtonEnabled(True)
        self.query.returnPressed.connect(self.search)
        self.query.textChanged.connect(lambda text: None if text else self._show_starts())
        find = button("Search", self.search, icon="search")
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
        self._starts = [
            _start(
                "sample",
                "Try the sample",
                "A small trained hybrid, included. Needs no network and takes a few minutes.",
                lambda: self.open("sample"),
            ),
            _start(
                "folder",
                "Open a folder…",
                "A model with config.json and safetensors files. Ctrl+O",
                self.choose_folder,
            ),
            _start(
                "search",
                "Search the Hub",
                "Granite 4 H, Falcon H1, Zamba2, Bamba, LFM2, Mamba-2 and other hybrids.",
                self.query.setFocus,
            ),
        ]
        self.recent_title = label("Opened before", "heading")
        self.recent = QListWidget()
        self.recent.setAccessibleName("Recently opened models")
        self.recent.itemActivated.connect(lambda item: self.open(item.data(Qt.ItemDataRole.UserRole)))
        self.recent.itemClicked.connect(lambda item: self.open(item.data(Qt.ItemDataRole.UserRole)))
        layout = QVBoxLayout(starts)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        for start in self._starts:
            layout.addWidget(start)
        layout.addSpacing(12)
        layout.addWidget(self.recent_title)
        layout.addWidget(self.recent, 1)
        layout.addStretch(0)
        return starts

    def _make_results(self) -> QWidget:
        self.searching = label("", "secondary", wrap=True)
        self.results = QTableWidget(0, 4)
        self.results.setHorizontalHeaderLabels(["Model", "Architecture", "Weights", "Usable here?"])
        self.results.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        set_up_table(self.results, "Models found on the Hub")
        for index, width in ((1, 140), (2, 76), (3, 126)):
            self.results.setColumnWidth(index, width)
        self.results.itemSelectionChanged.connect(self._select_hit)
        self.results.itemActivated.connect(lambda _: self.download.click())
        area = QWidget()
        back = tool("close", "Back to the start", self._leave_search)
        top = QHBoxLayout()
        top.addWidget(self.searching, 1)
        top.addWidget(back)
        layout = column(top, self.results)
        layout.setContentsMargins(0, 0, 0, 0)
        area.setLayout(layout)
        return area

    def _leave_search(self) -> None:
        self.query.clear()
        self._show_starts()

    def _show_starts(self) -> None:
        self.left.setCurrentIndex(0)
        self._hit = self._hub = None
        self._show_model()

    def _show_hits(self, hits: "list[Facts]") -> None:
        self._hits = hits
        self.searching.setText(
            f"{quantities.plural(len(hits), 'model')} with safetensors, most downloaded first"
            if hits
            else "No model with safetensors matches. Try fewer or different words."
        )
        self.results.setRowCount(len(hits))
        for index, hit in enumerate(hits):
            size = quantities.parameters(hit.parameters) if hit.parameters else "–"
            name = f"{hit.id}  (gated)" if hit.gated else hit.id
            for place, text in enumerate((name, hit.architecture or "–", size, _verdict(hit))):
                item = QTableWidgetItem(text)
                item.setToolTip(plain_tip(text))
                self.results.setItem(index, place, item)

    def _search_failed(self, error: KLLensError) -> None:
        self.searching.setText(str(error))
        self.session.write_log("error", str(error))

    def _select_hit(self) -> None:
        chosen = self.results.selectionModel().selectedRows()
        if not chosen:
            return
        hit = self._hits[chosen[0].row()]
        self._hit, self._hub, self._refusal = hit, None, ""
        work_folder = self.session.settings.work_folder
        self._refresh()
        self.details.show_hit(hit, None, "Reading the list of files …", work_folder)

        def ask() -> "Candidate":
            from kl_lens_desktop.hub import client
            from kl_lens_desktop.hub.candidate import examine

            return examine(client.repository(hit.id))

        def answer(details: "Candidate") -> None:
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
        return "" if self._hub else self._refusal or "Choose a model from the list first"

    def _download(self) -> None:
        if self._hub:
            self.session.open_model(self._hub.of.id, pull=True)

    def _show_model(self) -> None:
        self._hit = self._hub = None
        self._refresh()
        self._fill_recent()

    def _refresh(self, *_: object) -> None:
        session = self.session
        choosing = self._hit is not None
        self.download.setVisible(choosing)
        self.download.refresh()
        self.next.setVisible(not choosing)
        reading = f"Reading {session.opening} …" if session.opening else ""
        self.next.setEnabled(session.model is not None and not reading)
        self.next.setToolTip(plain_tip(reading or ("" if session.model else "Choose a model first")))
        self._explain()
        for start in self._starts[:2]:
            start.setEnabled(not session.job.running)
        if choosing:
            return
        if reading:
            self.details.show_words(reading)
        elif session.model is not None:
            self.details.show_model(session.model, session.settings.work_folder)
        else:
            self.details.show_words(
                "Choose a model on the left. Before anything starts, you see here its architecture "
                "and size, and how much memory and disk space each step needs."
            )

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


class _Details(QScrollArea):
    """The card of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setMinimumWidth(404)
        self.setAccessibleName("About this model")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._inside = QVBoxLayout()
        self._inside.setSpacing(12)
        self.setWidget(card(self._inside, margins=16))

    def show_words(self, words: str) -> None:
        clear(self._inside)
        text = label(words, "secondary", wrap=True)
        self._inside.addWidget(text)
        self._inside.addStretch(1)

    def show_model(self, model: Model, work_folder: Path) -> None:
        about = model.about
        clear(self._inside)
        self._inside.addWidget(Elided(str(about["id"]), "title", Qt.TextElideMode.ElideMiddle))
        blocks = QHBoxLayout()
        blocks.setSpacing(6)
        for kind, count in about["block_kinds"].items():
            blocks.addWidget(Picture(kind if kind in icons.KINDS else "mlp", "secondary", 14))
            blocks.addWidget(label(f"{count:,} {BLOCK_NAMES.get(kind, kind)}"))
            blocks.addSpacing(8)
        blocks.addStretch(1)
        matrices = model.matrices
        self._inside.addLayout(
            _facts(
                ("Architecture", label(str(about["architecture"]), wrap=True, select=True)),
                ("Blocks", blocks),
                ("Weights", f"{quantities.parameters(about['parameters'])} in {len(matrices):,} matrices"),
                ("On disk", quantities.size(about["size_bytes"])),
                ("Vocabulary", f"{about['vocabulary']:,} tokens"),
                ("Revision", about.get("revision") or "local folder"),
                ("Folder", str(about["folder"])),
            )
        )
        self._inside.addWidget(rule())
        self._inside.addWidget(label("Does it fit this computer?", "heading"))
        needs = [StageNeed(**need) for need in model.fit if need["stage"] != "download"]  # it is here already
        self._inside.addLayout(_fit_table(needs, work_folder))
        self._inside.addStretch(1)

    def show_hit(self, hit: "Facts", details: "Candidate | None", words: str, work_folder: Path) -> None:
        clear(self._inside)
        self._inside.addWidget(Elided(hit.id, "title", Qt.TextElideMode.ElideMiddle))
        facts: list[tuple[str, Any]] = [
            ("Architecture", hit.architecture or "not stated"),
            ("Weights", quantities.parameters(hit.parameters) if hit.parameters else "not stated"),
            ("Downloads", f"{hit.downloads:,} in the last 30 days"),
            ("Access", "on request (gated)" if hit.gated else "open"),
        ]
        if details:
            facts += [("Revision", details.of.commit[:12]), ("To fetch", quantities.size(details.bytes))]
        self._inside.addLayout(_facts(*facts))
        if words:
            self._inside.addWidget(label(words, "secondary", wrap=True))
        if details and hit.parameters:
            self._inside.addWidget(rule())
            self._inside.addWidget(label("Does it fit this computer?", "heading"))
            self._inside.addLayout(_fit_table(stage_needs(hit.parameters, details.bytes), work_folder))
        if details:
            self._inside.addWidget(rule())
            self._inside.addWidget(label("Files", "heading"))
            for file in sorted(details.files, key=lambda file: -file.size)[:12]:
                name = Elided(file.name, mode=Qt.TextElideMode.ElideMiddle)
                line = QHBoxLayout()
                line.addWidget(name, 1)
                line.addWidget(label(quantities.size(file.size), "secondary"))
                self._inside.addLayout(line)
        self._inside.addStretch(1)


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


def _facts(*pairs: tuple[str, Any]) -> QGridLayout:
    grid = QGridLayout()
    grid.setHorizontalSpacing(16)
    grid.setVerticalSpacing(6)
    grid.setColumnStretch(1, 1)
    for index, (name, value) in enumerate(pairs):
        grid.addWidget(label(name, "secondary"), index, 0, Qt.AlignmentFlag.AlignTop)
        if isinstance(value, str):
            grid.addWidget(Elided(value, mode=Qt.TextElideMode.ElideMiddle), index, 1)
        elif isinstance(value, QWidget):
            grid.addWidget(value, index, 1)
        else:
            grid.addLayout(value, index, 1)
    return grid


def _fit_table(fit: list[StageNeed], work_folder: Path) -> QGridLayout:
    ram = psutil.virtual_memory().total
    existing = next(p for p in (work_folder, *work_folder.parents) if p.exists())
    disk = psutil.disk_usage(str(existing)).free
    grid = QGridLayout()
    grid.setHorizontalSpacing(16)
    grid.setVerticalSpacing(6)
    grid.setColumnStretch(0, 1)
    for place, heading in enumerate(("Stage", "Peak RAM", "Disk", "")):
        grid.addWidget(label(heading, "secondary"), 0, place)
    for index, need in enumerate(fit, start=1):
        ram_need, disk_need = need.ram_mb * 2**20, need.disk_mb * 2**20
        fits = ram_need <= ram and disk_need <= disk
        short = "memory" if ram_need > ram else "disk"
        stage = STAGE_NAMES.get(need.stage, need.stage)
        cells = (
            label(stage),
            label(quantities.size(ram_need)),
            label(quantities.size(disk_need)),
            label("✓ fits" if fits else f"✗ not enough {short}", "good" if fits else "bad"),
        )
        for place, cell in enumerate(cells):
            grid.addWidget(cell, index, place)
    words = (
        f"This computer has {quantities.size(ram)} of memory and {quantities.size(disk)} of free disk space."
    )
    grid.addWidget(label(words, "secondary", wrap=True), len(fit) + 1, 0, 1, 4)
    return grid


def _verdict(hit: "Facts") -> str:
    """Whether a model found on the Hub can be worked on here, as far as the Hub tells."""
    if hit.obstacle:
        return f"✗ {hit.obstacle}"
    if not hit.parameters:
        return "–"
    need_mb = max(need.ram_mb for need in stage_needs(hit.parameters, 2 * hit.parameters))
    return "✓ yes" if need_mb * 2**20 <= psutil.virtual_memory().total else "✗ too large"


def _reference_words(reference: str) -> str:
    if reference == "sample":
        return "Sample model (bundled)"
    path = Path(reference)
    return f"{path.name}   {path.parent}" if path.is_absolute() else reference
