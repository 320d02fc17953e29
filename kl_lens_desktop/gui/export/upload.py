"""Uploading an exported model: what would go to the Hub is shown first, and it is private by default."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QCheckBox, QDialog, QLineEdit, QPlainTextEdit, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.export.model_card import README
from kl_lens_desktop.gui.kit.controls import button, column, combo, label, row
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.stages import PLAN
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.printable import printable_lines
from kl_lens_desktop.publishing import PushJob, existing, has_figures, publish_plan
from kl_lens_desktop.repository.names import is_owned_id

if TYPE_CHECKING:
    from kl_lens_desktop.publishing import Existing, Publication


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a folder would come to on the Hub; `is_stale` if the benchmark is of an earlier export."""

    folder: Path
    found: "Publication"
    sizes: list[tuple[str, int]]
    bench: Path | None
    is_stale: bool


ASK_MS = 600  # after the last key, so that the Hub is asked for names that are finished


class UploadDialog(QDialog):
    """Which exported model goes where, and every file of it with the model card."""

    def __init__(self, parent: QWidget, session: Session, folders: Mapping[str, Path]) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("Upload to the Hugging Face Hub"))
        self.resize(680, 560)
        self._session = session
        self.model = combo(tr("Model to upload"), [(name, folder) for name, folder in folders.items()])
        self.model.setCurrentIndex(max(0, self.model.findText(PLAN)))
        self.model.currentIndexChanged.connect(self._look)
        self.repository = QLineEdit()
        self.repository.setPlaceholderText("owner/name")
        self.repository.setAccessibleName(tr("Repository on the Hub"))
        self.repository.textChanged.connect(self._rename)
        self._ask_soon = QTimer(self, interval=ASK_MS, singleShot=True)
        self._ask_soon.timeout.connect(self._ask)
        self.public = QCheckBox(tr("Everybody can see it"))
        self.public.setToolTip(plain_tip(tr("A new repository is private unless you tick this")))
        self.replace = QCheckBox(tr("Replace files that KL Lens did not write"))
        self.replace.hide()
        for box in (self.public, self.replace):
            box.toggled.connect(self._refresh)
        self.there = label("", "secondary", wrap=True)
        self.there.hide()
        self.shown = QPlainTextEdit()
        self.shown.setReadOnly(True)
        self.shown.setAccessibleName(tr("What will be uploaded"))
        self.why = label("", "secondary", wrap=True)
        self.upload = button(tr("Upload"), self._upload, "primary")
        self._publication: Publication | None = None
        self._asked = ""  # the repository that `_existing` is about
        self._existing: Existing | None = None
        self._bench: Path | None = None  # whose figures the card shows
        self._wanted: Path | None = None  # the folder that is read; none once the dialog is closed
        where = row(
            label(tr("Model"), "secondary"), self.model, label(tr("to"), "secondary"), self.repository
        )
        where.setStretch(3, 1)
        foot = row(None, button(tr("Cancel"), self.reject), self.upload)
        self.setLayout(
            column(where, self.public, self.there, self.replace, self.shown, self.why, foot, spacing=12)
        )
        self.layout().setContentsMargins(16, 16, 16, 16)  # type: ignore[union-attr]
        for signal in (session.job.started, session.job.ended, session.job.occupied_changed):
            signal.connect(self._refresh)
        self._look()

    @property
    def job(self) -> PushJob:
        folder, repository = self.model.currentData(), self.repository.text().strip()
        may_replace = self.replace.isVisibleTo(self) and self.replace.isChecked()
        return PushJob(folder, repository, self._bench, self.public.isChecked(), may_replace)

    def done(self, result: int) -> None:
        self._wanted = None
        super().done(result)

    def _look(self) -> None:
        """Show what would be uploaded, read outside the window's thread."""
        session, folder = self._session, self.model.currentData()
        self._publication, self._bench, self._wanted = None, None, folder
        self.shown.setPlainText(tr("Reading the folder …"))
        measured = any(row["variant"] == folder.name for row in session.bench)
        bench = session.workspace.bench if measured else None

        def read() -> _Looked:
            fits = bench is not None and has_figures(folder, bench)
            found = publish_plan(folder, bench if fits else None)
            sizes = sorted((name, path.stat().st_size) for name, path in found.files.items())
            return _Looked(folder, found, sizes, bench if fits else None, bench is not None and not fits)

        def refuse(error: KLLensError) -> None:
            if self._wanted == folder:
                self.shown.setPlainText(printable_lines(str(error)))

        session.background.run(read, self._show, refuse)
        self._refresh()

    def _show(self, looked: "_Looked") -> None:
        if self._wanted != looked.folder:
            return
        found, sizes = looked.found, looked.sizes
        lines = [
            tr("{bytes} in {count}:").format(
                bytes=quantities.size(found.bytes), count=quantities.plural(len(sizes) + 1, "file")
            )
        ]
        lines += [f"  {name}, {quantities.size(size)}" for name, size in sizes]
        if looked.is_stale:
            words = tr("The benchmark measured an earlier export. For figures in the card, run it again.")
            lines += ["", words]
        self.shown.setPlainText(printable_lines("\n".join([*lines, "", f"{README}:", "", found.card])))
        self._publication, self._bench = found, looked.bench
        self._refresh()

    def _rename(self) -> None:
        """Ask for the repository once its name has been written."""
        self._asked, self._existing = "", None
        self._ask_soon.start()
        self._refresh()

    def _ask(self) -> None:
        """Look at what the Hub has under the name, outside the window's thread."""
        name = self.repository.text().strip()
        if not is_owned_id(name):
            return

        def take(found: "Existing | None") -> None:
            if self._wanted and self.repository.text().strip() == name:
                self._asked, self._existing = name, found
                self._refresh()

        # What keeps the Hub from answering is said by the upload, which looks again.
        self._session.background.run(lambda: existing(name), take, lambda _: take(None))

    def _refresh(self, *_: object) -> None:
        named = is_owned_id(self.repository.text().strip())
        reason = self._session.job.reason or (
            "" if named else tr("Enter a repository, such as your-name/model")
        )
        reason = reason or self._show_existing()
        self.upload.setEnabled(self._publication is not None and not reason)
        self.why.setText(reason)

    def _show_existing(self) -> str:
        """Say what an upload does to the repository that is there; returns what keeps it from being done."""
        there, publication = self._existing, self._publication
        self.there.setVisible(there is not None)
        if there is None or publication is None:
            self.replace.hide()
            return ""
        self.replace.setVisible(bool(there.foreign(publication)))
        who = tr("everybody can see it") if there.is_public else tr("private")
        words = tr("{repository} exists ({who}).").format(repository=self._asked, who=who)
        if replaced := there.replaced(publication):
            words += " " + tr("The upload replaces {files}.").format(files=", ".join(replaced))
        self.there.setText(words)
        return {
            "": "",
            "public": tr("Everybody can see this repository. Tick “Everybody can see it” if you want that"),
            "replace": tr(
                "The repository holds files of something else. Choose another, or let them be replaced"
            ),
        }[self.job.missing_consent(there, publication)]

    def _upload(self) -> None:
        job = self.job
        self._session.start(Step(job, job.repository))
        self.accept()
