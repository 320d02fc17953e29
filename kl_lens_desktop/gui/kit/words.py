"""Texts as Qt shows them: it takes whatever looks like HTML for HTML, and an & for the sign of a shortcut."""

from html import escape

from PySide6.QtGui import QAction, Qt
from PySide6.QtWidgets import QMessageBox, QWidget

from kl_lens_desktop.printable import printable, printable_lines


def plain_tip(text: str) -> str:
    """A tooltip that shows `text` as it is, line by line."""
    text = printable_lines(text)
    return Qt.convertFromPlainText(text) if Qt.mightBeRichText(text) else text


def wrapped_tip(*paragraphs: str) -> str:
    """A tooltip of paragraphs that are broken into lines, as plain tooltips are not; nothing of nothing."""
    lines = (escape(printable_lines(text)).replace("\n", "<br>") for text in paragraphs if text)
    return "".join(f"<p>{line}</p>" for line in lines)


def explain(widget: QWidget, *paragraphs: str) -> None:
    """Give a widget a `wrapped_tip`, and a screen reader the same words without its marks."""
    widget.setToolTip(wrapped_tip(*paragraphs))
    widget.setAccessibleDescription("\n".join(map(printable_lines, paragraphs)))


def explain_action(action: QAction, text: str) -> None:
    """What an entry of a menu does, or why it cannot be chosen now."""
    action.setToolTip(plain_tip(text))
    action.setStatusTip(text)


def caption(text: str) -> str:
    """What a button, a box or a menu entry is called, an & included."""
    return printable(text).replace("&", "&&")


def message_box(parent: QWidget | None, icon: QMessageBox.Icon, title: str, text: str) -> QMessageBox:
    """A dialog that shows `text` as it is."""
    box = QMessageBox(parent)
    box.setIcon(icon)
    box.setWindowTitle(title)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setText(printable_lines(text))
    return box
