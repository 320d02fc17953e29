"""Where to save a file, asked of a person, and pictures written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from PySide6.QtCore import QBuffer, QIODevice
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from kl_lens_desktop.files import write_bytes
from kl_lens_desktop.gui.kit.words import message_box
from kl_lens_desktop.gui.state.translation import tr


def ask_where(parent: QWidget, title: str, suggested: str, kinds: Mapping[str, str]) -> Path | None:
    """Ask for the name of a file to write; None if the person would rather not.

    Parameters
    ----------
    kinds : mapping of str to str
        Filters of the dialog, such as ``Tables (*.csv)``, and the ending of each. A name without one of them
        gets that of the chosen filter; as the dialog has not asked about the whole name, it is asked here.
    """
    typed, kind = QFileDialog.getSaveFileName(parent, title, suggested, ";;".join(kinds))
    if not typed:
        return None
    if typed.lower().endswith(tuple(Path(f"a{ending}").suffix for ending in kinds.values())):
        return Path(typed)
    path = Path(typed + kinds.get(kind, next(iter(kinds.values()))))
    return path if not path.exists() or _may_replace(parent, title, path) else None


def _may_replace(parent: QWidget, title: str, path: Path) -> bool:
    words = tr("{name} exists already. Do you want to replace it?").format(name=path.name)
    box = message_box(parent, QMessageBox.Icon.Warning, title, words)
    box.setStandardButtons(QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No)
    box.setDefaultButton(QMessageBox.StandardButton.No)
    answer = box.exec()
    box.deleteLater()
    return answer == QMessageBox.StandardButton.Yes


def save_png(pixmap: QPixmap, path: Path) -> None:
    """Write a picture as PNG, atomically; `InputError` if it cannot be written."""
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    pixmap.save(buffer, "PNG")
    write_bytes(path, bytes(buffer.data().data()))
