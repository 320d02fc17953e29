"""The memory of the benchmark's child processes and of the whole computer, live, and its ends afterwards."""

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, Qt
from PySide6.QtWidgets import QFrame, QLabel, QWidget

from kl_lens_desktop.gui.bench.figures import variant_title
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import take_menu_away
from kl_lens_desktop.gui.kit.controls import RIGHT, Elided, label, row
from kl_lens_desktop.gui.kit.words import explain
from kl_lens_desktop.gui.state.job import Runner
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.printable import printable
from kl_lens_desktop.process.events import Memory

CAPACITY = 1024  # samples kept; beyond it every second one goes, the larger of each two staying
HEIGHT = 28


class Series:
    """Samples in an array of fixed size: of a long run fewer and fewer, but never without its peaks."""

    def __init__(self) -> None:
        self._values = np.zeros(CAPACITY)
        self.clear()

    def clear(self) -> None:
        self._count, self._each, self._waiting = 0, 1, 0
        self._largest = -np.inf

    def add(self, value: float) -> None:
        self._largest = max(self._largest, value)
        self._waiting += 1
        if self._waiting < self._each:
            return
        self._values[self._count] = self._largest
        self._count, self._waiting, self._largest = self._count + 1, 0, -np.inf
        if self._count == CAPACITY:
            half = CAPACITY // 2
            self._values[:half] = self._values.reshape(half, 2).max(axis=1)
            self._count, self._each = half, 2 * self._each

    @property
    def values(self) -> np.ndarray:
        return self._values[: self._count]


class MemoryStrip(QWidget):
    """Two strips with their figures in words; nothing before the first run.

    What is shown stays after a run until the next one sends its first sample, or until it is forgotten.
    """

    def __init__(self, job: Runner) -> None:
        super().__init__()
        self._fresh = True
        self._peaks: dict[str, float] = {}
        self._samples = Series(), Series()
        self.whose = Elided("", "secondary")
        self.whose.setAlignment(RIGHT)
        self.whose.setMinimumWidth(70)
        self.process = _figure(tr("8,888 MiB, peak 8,888"))
        self.computer = _figure(tr("88.88 of 88.8 GB"))
        self._strips = (
            _Strip(tr("Resident memory of the child process over the run")),
            _Strip(tr("Memory in use on the whole computer over the run")),
        )
        line = row(
            self.whose,
            label("RSS", "secondary"),
            self.process,
            self._strips[0],
            label(tr("Computer"), "secondary"),
            self.computer,
            self._strips[1],
        )
        for place, share in ((0, 2), (3, 1), (6, 1)):
            line.setStretch(place, share)
        self.setLayout(line)
        self.setVisible(False)
        job.started.connect(self._begin)
        job.memory.connect(self.take)
        job.ended.connect(self._end)

    def take(self, sample: Memory) -> None:
        """Show one more sample."""
        if self._fresh:
            self._fresh, self._peaks = False, {}
            for series in self._samples:
                series.clear()
        self._peaks[sample.label] = max(self._peaks.get(sample.label, 0.0), sample.peak_mb)
        for series, value in zip(self._samples, (sample.rss_mb, sample.system_used_mb), strict=True):
            series.add(value)
        self.whose.set_text(_titled(sample.label))
        self.process.setText(
            tr("{rss_mb:,.0f} MiB, peak {peak_mb:,.0f}").format(rss_mb=sample.rss_mb, peak_mb=sample.peak_mb)
        )
        used, total = (mb * 2**20 / 1e9 for mb in (sample.system_used_mb, sample.system_total_mb))
        self.computer.setText(tr("{used:.2f} of {total:.1f} GB").format(used=used, total=total))
        self._strips[0].show_values(self._samples[0].values, 1.1 * max(self._peaks.values()))
        self._strips[1].show_values(self._samples[1].values, sample.system_total_mb)
        self._explain()
        self.show()

    def forget(self) -> None:
        """Another model is open: what the last run of the one before took says nothing of it."""
        self._fresh = True
        self.hide()

    def _begin(self) -> None:
        self._fresh = True

    def _end(self) -> None:
        if not self._fresh and self._peaks:
            largest = max(self._peaks, key=lambda name: self._peaks[name])
            self.whose.set_text(tr("Last run, peak: {titled}").format(titled=_titled(largest)))
            self.process.setText(tr("peak {peaks:,.0f} MiB").format(peaks=self._peaks[largest]))
            self._explain()

    def _explain(self) -> None:
        peaks = [
            tr("{titled}: {peak:,.0f} MiB").format(titled=printable(_titled(name)), peak=peak)
            for name, peak in self._peaks.items()
        ]
        child = "\n".join([
            tr("Resident memory (RSS) of the working child process, including memory-mapped " "weights."),
            tr("Sampled peaks of this run:"),
            *peaks,
        ])  # fmt: skip
        whole = tr("Memory in use by all programs. The full height is all the memory of the computer.")
        for widget in (self.whose, self.process, self._strips[0]):
            explain(widget, child)
        for widget in (self.computer, self._strips[1]):
            explain(widget, whole)
        self.setAccessibleName(
            tr("Memory, {whose}: process {process}, computer {computer}").format(
                whose=self.whose.accessibleName(),
                process=self.process.text(),
                computer=self.computer.text(),
            )
        )


class _Strip(pg.PlotWidget):
    """An area over time, without axes: what it is stands beside it."""

    def __init__(self, name: str) -> None:
        super().__init__(enableMenu=False)
        self.setAccessibleName(name)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setMouseEnabled(False, False)
        take_menu_away(self)
        self.hideButtons()
        self.hideAxis("left")
        self.hideAxis("bottom")
        self.setFixedHeight(HEIGHT)
        self.setMinimumWidth(30)
        self.plotItem.setContentsMargins(0, 0, 0, 0)
        self._line = self.plot()
        self._floor = pg.InfiniteLine(0, angle=0)
        self._top = pg.InfiniteLine(1, angle=0)
        for item in (self._floor, self._top):
            self.addItem(item)
        self._recolour()

    def show_values(self, values: np.ndarray, top: float) -> None:
        self._line.setData(values)
        self._top.setValue(top)
        self.setRange(xRange=(0, max(len(values) - 1, 1)), yRange=(0, top), padding=0)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "_top"):
            self._recolour()

    def _recolour(self) -> None:
        colours = theme.colours()
        self.setBackground(colours.sunken)
        fill = pg.mkColor(colours.accent)
        fill.setAlphaF(0.18)
        self._line.setPen(pg.mkPen(colours.accent, width=1))
        self._line.setFillLevel(0)
        self._line.setFillBrush(pg.mkBrush(fill))
        for item in (self._floor, self._top):
            item.setPen(pg.mkPen(colours.line, width=1))


def _figure(widest: str) -> QLabel:
    """Words whose room is reserved."""
    figure = label()
    figure.setFont(theme.text_font())
    figure.setMinimumWidth(figure.fontMetrics().horizontalAdvance(widest))
    return figure


def _titled(name: str) -> str:
    """``INT4 g64 on CPU`` for ``int4_sym_g64 on CPU``."""
    variant, on, device = name.rpartition(" on ")
    return f"{variant_title(variant)}{on}{device}" if on else name
