"""The way out: what was measured as one file to send, saved by a button or dragged from it."""

from pathlib import Path

from PySide6.QtCore import QMimeData, QPoint, Qt, QUrl
from PySide6.QtGui import QDrag, QGuiApplication, QMouseEvent
from PySide6.QtWidgets import QApplication, QPushButton, QWidget

from kl_lens_desktop.gui.kit.saving import ask_where
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.home import home
from kl_lens_desktop.sharing import SUFFIX


def choose_and_share(session: Session, parent: QWidget) -> None:
    """Ask for a name and save the open model's results as a bundle."""
    kinds = {tr("Bundles (*{SUFFIX})").format(SUFFIX=SUFFIX): SUFFIX}
    if path := ask_where(parent, tr("Share the results"), file_name(session), kinds):
        session.share(path)


def file_name(session: Session) -> str:
    """What a bundle of the open model is called, unless a person says otherwise."""
    assert session.model is not None
    return f"{Path(str(session.model.about['id'])).name}{SUFFIX}"


def file_mime(path: Path) -> QMimeData:
    """A file as what is dragged."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    return data


class ShareButton(QPushButton):
    """Saves a bundle when it is clicked; dragged, it is the file itself."""

    def __init__(self, session: Session) -> None:
        super().__init__(tr("Share…"))
        self._session = session
        self._pressed: QPoint | None = None
        self.setAutoDefault(False)
        self.setToolTip(
            plain_tip(
                tr(
                    "Save the plan, scores and benchmark as one file to send, without weights "
                    "and paths.\nOr drag this button to a folder, a mail or a chat."
                )
            )
        )
        self.clicked.connect(lambda: choose_and_share(session, self))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._pressed = event.position().toPoint()
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        moved = self._pressed and (event.position().toPoint() - self._pressed).manhattanLength()
        if moved and moved >= QApplication.startDragDistance():
            self._pressed = None
            self.setDown(False)
            self._session.share(home() / "shared" / file_name(self._session), self._drag)
        elif self._pressed is not None:
            super().mouseMoveEvent(event)

    def _drag(self, path: Path) -> None:
        """The file is written; it is dragged on if the button is still held."""
        if QGuiApplication.mouseButtons() & Qt.MouseButton.LeftButton:
            drag = QDrag(self)
            drag.setMimeData(file_mime(path))
            drag.setPixmap(self.grab())
            drag.exec(Qt.DropAction.CopyAction)
        else:
            self._session.say("info", tr("The file to share is {path}.").format(path=path))
