"""The line at the top: which model is open, and how busy the computer is."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, QTimer
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QHBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.disk_space import free_bytes
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Elided, label
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import mark, tr

PERIOD_MS = 1000
HISTORY = 30


@dataclass(frozen=True, slots=True)
class Usage:
    """One look at the computer: shares of one, and bytes."""

    cpu: float
    ram_used: int
    ram_total: int
    app: int
    disk_free: int | None


class Sampler:
    """Looks at the computer once a second in its own thread: listing processes would hold the window up.

    Parameters
    ----------
    folder : callable
        Gives the folder whose disk is told, in that thread.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self.latest: Usage | None = None
        self._folder, self._stop = folder, threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2)

    def _free(self) -> int | None:
        """Of the disk; None where nothing tells it, such as a network drive that is gone."""
        with contextlib.suppress(OSError):
            return free_bytes(self._folder())
        return None

    def _run(self) -> None:
        psutil.cpu_percent()
        while not self._stop.wait(PERIOD_MS / 1000):
            memory = psutil.virtual_memory()
            self.latest = Usage(
                psutil.cpu_percent() / 100,
                memory.total - memory.available,
                memory.total,
                _own_bytes(),
                self._free(),
            )


def _own_bytes() -> int:
    me = psutil.Process()
    total = me.memory_info().rss
    for child in me.children(recursive=True):
        try:
            total += child.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


class Sparkline(QWidget):
    """The last half minute of a share between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self._values: deque[float] = deque(maxlen=HISTORY)
        self.setFixedSize(QSize(60, 20))
        self.setAccessibleName(tr("Processor use, last 30 seconds"))

    def add(self, value: float) -> None:
        self._values.append(value)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        with QPainter(self) as painter:
            self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = theme.colours()
        area = QRectF(self.rect()).adjusted(0.5, 1.5, -0.5, -1.5)
        painter.setPen(QPen(QColor(colours.line), 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        if len(self._values) < 2:
            return
        step = area.width() / (HISTORY - 1)
        left = area.right() - step * (len(self._values) - 1)
        line = [
            QPointF(left + i * step, area.bottom() - v * area.height()) for i, v in enumerate(self._values)
        ]
        fill = QColor(colours.accent)
        fill.setAlphaF(0.18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(fill)
        painter.drawPolygon(
            QPolygonF([QPointF(left, area.bottom()), *line, QPointF(area.right(), area.bottom())])
        )
        painter.setPen(QPen(QColor(colours.accent), 1.2))
        painter.drawPolyline(QPolygonF(line))


class Header(QWidget):
    """Model on the left, resources on the right."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.setObjectName("header")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(44)
        self._session = session
        self.model = Elided(tr("No model open"), "heading")
        self._sparkline = Sparkline()
        self._figures = {name: label("–") for name in ("CPU", "RAM", mark("This app"), mark("Disk"))}
        # Wide enough for the longest reading, so that nothing moves when a digit is added.
        samples = {
            "CPU": "100 %",
            "RAM": tr("28.8 / 128 GB"),
            "This app": tr("28.8 GB"),
            "Disk": tr("8,888 GB free"),
        }
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 0, 16, 0)
        layout.setSpacing(8)
        layout.addWidget(self.model, 1)
        for name, figure in self._figures.items():
            layout.addSpacing(8)
            layout.addWidget(label(tr(name), "secondary"))
            if name == "CPU":
                layout.addWidget(self._sparkline)
            figure.setFont(theme.text_font())
            figure.setFixedWidth(figure.fontMetrics().horizontalAdvance(samples[name]) + 2)
            figure.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
            layout.addWidget(figure)
        self._figures["This app"].setToolTip(tr("Memory (resident) of the window and its worker processes"))
        self._sampler = Sampler(lambda: session.settings.work_folder)
        self._timer = QTimer(self, interval=PERIOD_MS)
        self._timer.timeout.connect(self._show_usage)
        self._timer.start()
        session.model_changed.connect(self._show_model)

    def close_sampler(self) -> None:
        self._timer.stop()
        self._sampler.close()

    def _show_model(self) -> None:
        model = self._session.model
        self.model.set_text(model.title if model else tr("No model open"))

    def _show_usage(self) -> None:
        usage = self._sampler.latest
        if usage is None:
            return
        self._sparkline.add(usage.cpu)
        total = quantities.significant(usage.ram_total / 1e9)
        texts = {
            "CPU": f"{100 * usage.cpu:.0f} %",
            "RAM": tr("{ram_used:.1f} / {total} GB").format(
                ram_used=usage.ram_used / 1000000000.0, total=total
            ),
            "This app": f"{usage.app / 1e9:.2f} GB",
            "Disk": "–"
            if usage.disk_free is None
            else tr("{disk_free:,.0f} GB free").format(disk_free=usage.disk_free / 1000000000.0),
        }
        for name, text in texts.items():
            self._figures[name].setText(text)
