"""Icons drawn in the colours of the moment: sharp at every scale, right in light and dark."""

from functools import cache

from PySide6.QtCore import QByteArray, QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QIcon, QIconEngine, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from kl_lens_desktop import resources
from kl_lens_desktop.gui.kit.theme import Colours, colours

KINDS = ("ssm", "attention", "mlp", "embedding", "head", "conv")


def icon(name: str, colour: str = "text") -> QIcon:
    """The icon `name` of ``resources/icons`` in the token `colour` of the theme."""
    return QIcon(_ThemedIcon(name, colour))


def app_icon() -> QIcon:
    return QIcon(str(resources.path("icons", "app.svg")))


def draw(painter: QPainter, name: str, rect: QRectF, colour: str | QColor) -> None:
    """Draw the icon `name` into `rect`."""
    _renderer(name, QColor(colour).name()).render(painter, rect)


@cache
def _renderer(name: str, colour: str) -> QSvgRenderer:
    text = resources.path("icons", f"{name}.svg").read_text(encoding="utf-8")
    return QSvgRenderer(QByteArray(text.replace("currentColor", colour).encode()))


class _ThemedIcon(QIconEngine):
    def __init__(self, name: str, colour: str) -> None:
        super().__init__()
        self._name, self._colour = name, colour

    def paint(self, painter: QPainter, rect: QRect, mode: QIcon.Mode, state: QIcon.State) -> None:
        scheme: Colours = colours()
        colour = scheme.edge if mode == QIcon.Mode.Disabled else getattr(scheme, self._colour)
        draw(painter, self._name, QRectF(rect), colour)

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        pixmap = QPixmap(size)
        pixmap.fill(Qt.GlobalColor.transparent)
        with QPainter(pixmap) as painter:
            self.paint(painter, QRect(QPoint(0, 0), size), mode, state)
        return pixmap

    def clone(self) -> "_ThemedIcon":
        return _ThemedIcon(self._name, self._colour)
