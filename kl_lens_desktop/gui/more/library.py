"""Library: the models that were pulled and the work folders, what they weigh, and how to be rid of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QHBoxLayout, QTableWidget, QTableWidgetItem, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import MODEL_XML, reason, remove_folder
from kl_lens_desktop.gui.kit.controls import (
    Frame,
    NumberDelegate,
    Page,
    align_heading,
    button,
    card,
    column,
    label,
    row,
    set_up_table,
    with_heading,
)
from kl_lens_desktop.gui.kit.desktop import open_folder
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import folder_size
from kl_lens_desktop.hub.jobs import PullJob, VerifyFilesJob

if TYPE_CHECKING:
    from kl_lens_desktop.hub.store import StoredModel

HEADINGS = (tr("Name"), tr("What it is"), tr("Size"), tr("Folder"))


@dataclass(frozen=True, slots=True)
class Holding:
    """A pulled model (`model` set) or a work folder."""

    name: str
    words: str
    bytes: int
    folder: Path
    model: "StoredModel | None" = None


class LibraryPage(Page):
    """One table; opening and deleting what is selected."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("On this computer"))
        self._window = window
        self.holdings: list[Holding] = []
        self.table = QTableWidget(0, len(HEADINGS))
        self.table.setHorizontalHeaderLabels(HEADINGS)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.SingleSelection)
        set_up_table(self.table, tr("Models and work folders"), stretch=3)
        self.table.setItemDelegateForColumn(2, NumberDelegate(self.table))
        align_heading(self.table, 2)
        for place, width in ((0, 180), (1, 372), (2, 90)):
            self.table.setColumnWidth(place, with_heading(self.table, place, width))
        self.table.itemSelectionChanged.connect(self._selected)
        self.table.itemActivated.connect(lambda _: self._open())
        self.words = label("", "secondary", wrap=True)
        self.open_button = button(tr("Open this model"), self._open, tip=tr("Open this work folder"))
        self.folder_button = button(tr("Open folder"), self._open_folder)
        self.delete_button = button(tr("Delete…"), self._ask, icon="delete")
        self.verify_button = button(
            tr("Verify files"),
            self._verify,
            tip=tr("Compare every file with its hash; download damaged ones again"),
        )
        self.move_button = button(
            tr("Move to the shared cache"),
            self._move,
            tip=tr("Move it to where all Hugging Face tools look"),
        )
        self._question = QWidget()
        self._asked = label("", wrap=True)
        self.keep = button(tr("Keep"), self._keep, "primary")
        self.delete = button(tr("Delete permanently"), self._delete)
        question = QHBoxLayout(self._question)
        question.setContentsMargins(0, 0, 0, 0)
        question.addWidget(self._asked, 1)
        question.addWidget(self.keep)
        question.addWidget(self.delete)
        self._question.hide()
        inside = column(self.table, self.words, self._question, spacing=12)
        self.body.addWidget(card(inside), 1)
        refresh = button(tr("Look again"), self.refresh, "quiet")
        ours = (self.move_button, self.verify_button, self.open_button)
        self.begin_foot(refresh)
        self.foot.addLayout(row(None, *ours, self.folder_button, self.delete_button))
        session.job.ended.connect(lambda _: self._refresh_if_shown())
        session.model_changed.connect(self._refresh_if_shown)
        self._selected()

    def opened(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Look through the folders, outside the window's thread."""
        work = self.session.settings.work_folder
        self.session.background.run(lambda: _looked(work), self._show, self.session.say_error)

    def _refresh_if_shown(self) -> None:
        if self.isVisible():
            self.refresh()

    def _show(self, holdings: list[Holding]) -> None:
        self.holdings = holdings
        self.table.setRowCount(len(holdings))
        for index, holding in enumerate(holdings):
            texts = (holding.name, holding.words, quantities.size(holding.bytes), str(holding.folder))
            for place, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(plain_tip(text))
                self.table.setItem(index, place, item)
        total = quantities.size(sum(holding.bytes for holding in holdings))
        self.words.setText(
            tr("{count}, {total} in all.").format(
                count=quantities.plural(len(holdings), "folder"), total=total
            )
            if holdings
            else tr("Nothing yet. Models that you download and the results of your work appear here.")
        )
        self._selected()

    def _chosen(self) -> Holding | None:
        rows = self.table.selectionModel().selectedRows()
        return self.holdings[rows[0].row()] if rows and rows[0].row() < len(self.holdings) else None

    def _selected(self) -> None:
        holding = self._chosen()
        self._question.hide()
        model = holding.model if holding else None
        self.open_button.setVisible(model is not None)
        self.verify_button.setVisible(model is not None and model.complete and not model.old)
        self.move_button.setVisible(model is not None and model.complete and model.old)
        for action in (self.verify_button, self.move_button):
            action.setEnabled(not self.session.job.running)
        self.folder_button.setEnabled(holding is not None)
        self.delete_button.setEnabled(holding is not None and not self.session.job.running)
        reason = self.session.job.reason if holding else tr("Select a row first")
        self.delete_button.setToolTip(plain_tip(reason or tr("Delete the selected folder")))
        self.folder_button.setToolTip(plain_tip("" if holding else tr("Select a row first")))

    def _open(self) -> None:
        holding = self._chosen()
        if holding is not None and holding.model is not None:
            if not self.session.job.running:
                self._window.show_page("Model")
            self.session.choose_model(holding.model.id)

    def _verify(self) -> None:
        if (holding := self._chosen()) and holding.model and not self.session.job.running:
            job = VerifyFilesJob(holding.model.id, holding.model.revision, repair=True)
            self.session.job.start(Step(job, holding.model.id))

    def _move(self) -> None:
        if (holding := self._chosen()) and holding.model and not self.session.job.running:
            job = PullJob(holding.model.id, holding.model.revision, move=True)
            self.session.job.start(Step(job, holding.model.id))

    def _open_folder(self) -> None:
        if holding := self._chosen():
            open_folder(self.session, holding.folder)

    def _ask(self) -> None:
        if holding := self._chosen():
            self._asked.setText(
                tr("Delete {name} ({bytes}) from this computer? ").format(
                    name=holding.name, bytes=quantities.size(holding.bytes)
                )
                + (tr("Other Hugging Face tools use the same copy. ") if holding.model else "")
                + tr("This cannot be undone.")
            )
            self._question.show()
            self.keep.setFocus()

    def _keep(self) -> None:
        self._question.hide()

    def _delete(self) -> None:
        holding = self._chosen()
        self._question.hide()
        if holding is None or self.session.job.running:
            return
        self.session.chat.release()  # which may have a model of it open
        self.session.background.run(lambda: _remove(holding), self._deleted, self.session.say_error)

    def _deleted(self, holding: Holding) -> None:
        self.session.write_log("info", f"Deleted {holding.folder}")
        model = self.session.model
        if model is not None and holding.folder == self.session.workspace.folder:
            self.session.forget_results()
        self.refresh()


def _looked(work_folder: Path) -> list[Holding]:
    """What there is; `InputError` where the work folder cannot be listed."""
    try:
        return _look(work_folder)
    except OSError as error:
        raise InputError(
            tr("Cannot list {folder}").format(folder=work_folder),
            reason(error),
            tr("Check the folder, or choose another in Settings"),
        ) from error


def _look(work_folder: Path) -> list[Holding]:
    from kl_lens_desktop.hub import store

    pulled = [
        Holding(
            m.id,
            _about(m),
            m.bytes,
            m.folder,
            m,
        )
        for m in store.list_models()
    ]
    folders = sorted(work_folder.iterdir()) if work_folder.is_dir() else []
    work = [
        Holding(f.name, _contents(f), folder_size(f), f)
        for f in folders
        if f.is_dir() and not f.name.startswith(".")
    ]
    return [*pulled, *work]


def _about(model: "StoredModel") -> str:
    if not model.complete:
        return tr("unfinished download")
    where = tr("in an older folder") if model.old else tr("in the shared cache")
    return tr("model, revision {revision}, {where}").format(revision=model.revision[:7], where=where)


def _contents(folder: Path) -> str:
    there = [
        words
        for name, words in (("scores.json", "scores"), ("plan.json", "plan"), ("bench.json", "benchmark"))
        if (folder / name).is_file()
    ]
    models = len(list(folder.glob(f"[!.]*/{MODEL_XML}")))
    if models:
        there.append(quantities.plural(models, tr("exported model")))
    return "work: " + (", ".join(there) or "empty")


def _remove(holding: Holding) -> Holding:
    if holding.model is not None:
        from kl_lens_desktop.hub import store

        store.remove_model(holding.model)
        return holding
    try:
        remove_folder(holding.folder)
    except OSError as error:
        raise InputError(
            tr("Cannot delete {folder}").format(folder=holding.folder),
            reason(error),
            tr("Close the programs that use it, and try again"),
        ) from error
    return holding
