"""Charts to take along: copied, or saved as PNG, SVG and CSV."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QBuffer, QIODevice, QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QGuiApplication, QPainter, QPixmap
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import QGraphicsView, QMenu, QToolButton, QWidget

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import write_text
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import tool
from kl_lens_desktop.gui.kit.saving import ask_where, save_png
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.spreadsheet import csv_text, write_csv

_SCALE = 2  # pixels of a picture for each of the window, which may stand on a sharper screen
_KINDS = {tr("Pictures (*.png)"): ".png", tr("Drawings (*.svg)"): ".svg", tr("Figures (*.csv)"): ".csv"}


class Taken:
    """A chart, as pictures and figures.

    Parameters
    ----------
    session : Session
        Says what was done or went wrong.
    chart : QWidget
    name : str
        What its files are called, without an ending.
    rows : callable
        Its figures: a heading, and a line for each mark.
    """

    def __init__(
        self, session: Session, chart: QWidget, name: str, rows: Callable[[], Sequence[Sequence[Any]]]
    ) -> None:
        self._session, self._chart, self._name, self._rows = session, chart, name, rows

    def button(self) -> QToolButton:
        """The ⋯ beside a chart, which opens the menu; a right click on the chart opens it too."""
        widget = tool(
            "more",
            tr("Copy or save: {chart}").format(chart=self._chart.accessibleName()),
            lambda: self._pop(below),
        )
        chart = self._chart
        chart.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        chart.customContextMenuRequested.connect(lambda at: self._pop(lambda: chart.mapToGlobal(at)))

        def below() -> QPoint:
            return widget.mapToGlobal(widget.rect().bottomLeft())

        return widget

    def pixmap(self) -> QPixmap:
        """The chart as it looks now, sharp on any screen."""
        scale = max(_SCALE, self._chart.devicePixelRatioF())
        size: QSize = self._chart.size() * scale
        pixmap = QPixmap(size)
        pixmap.setDevicePixelRatio(scale)
        pixmap.fill(QColor(theme.colours().surface))
        with QPainter(pixmap) as painter:
            self._draw(painter)
        return pixmap

    def svg(self) -> str:
        """The same as a drawing."""
        buffer = QBuffer()
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        generator = QSvgGenerator()
        generator.setOutputDevice(buffer)
        generator.setSize(self._chart.size())
        generator.setViewBox(QRect(QPoint(0, 0), self._chart.size()))
        generator.setTitle(self._chart.accessibleName())
        with QPainter(generator) as painter:
            painter.fillRect(self._chart.rect(), QColor(theme.colours().surface))
            self._draw(painter)
        return bytes(buffer.data().data()).decode("utf-8")

    def _draw(self, painter: QPainter) -> None:
        chart = self._chart
        if isinstance(chart, QGraphicsView):
            chart.render(painter, QRectF(chart.rect()), chart.rect())
        else:
            chart.render(painter, QPoint(0, 0))

    def copy_picture(self) -> None:
        QGuiApplication.clipboard().setPixmap(self.pixmap())
        self._session.say("info", tr("Copied the picture."))

    def copy_figures(self) -> None:
        """As tab-separated lines, which a spreadsheet takes into its cells."""
        text = csv_text(self._rows()).replace("\r\n", "\n")
        QGuiApplication.clipboard().setText(text)
        self._session.say("info", tr("Copied the figures."))

    def save_to(self, path: Path) -> None:
        """Write a PNG, an SVG or a CSV, by the ending of `path`."""
        try:
            if path.suffix.lower() == ".csv":
                write_csv(path, self._rows())
            elif path.suffix.lower() == ".svg":
                write_text(path, self.svg())
            else:
                save_png(self.pixmap(), path)
        except InputError as error:
            self._session.say_error(error)
        else:
            self._session.say("info", tr("Saved {path}.").format(path=path))

    def menu(self) -> QMenu:
        menu = QMenu(self._chart)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction(tr("Copy picture"), self.copy_picture)
        menu.addAction(tr("Copy figures"), self.copy_figures)
        menu.addSeparator()
        menu.addAction(tr("Save as PNG, SVG or CSV…"), self._choose_file)
        return menu

    def _pop(self, where: Callable[[], QPoint]) -> None:
        self.menu().popup(where())

    def _choose_file(self) -> None:
        if path := ask_where(self._chart, tr("Save the chart"), f"{self._name}.png", _KINDS):
            self.save_to(path)
