"""Handing things to the system's own programs."""

import os
from pathlib import Path

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices

from kl_lens_desktop.files import reason
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr


def open_folder(session: Session, folder: Path, *, make: bool = False) -> None:
    """Show a folder in the system's file manager, with `make` a new one if need be, or say why not."""
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        os.stat(folder)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        why = tr("there is no such folder") if gone else reason(error)
        session.say("error", tr("Cannot open {folder}: {why}.").format(folder=folder, why=why))
    else:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
