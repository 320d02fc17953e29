"""The selected weight in pictures: how its values lie, and how its KL differs from text to text."""

import math
from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.charts import Chart, LogAxis
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.translation import tr

MOST_PLACES = 16  # of windows that are named below the axis
BINS = 81  # an odd number, so that one of them is around zero


class ValueHistogram(Chart):
    """How many of a weight's values lie where: counts on a log axis, since the few far ones matter most."""

    def __init__(self) -> None:
        self._counts: NDArray[np.float64] = np.zeros(0)
        self._edges: NDArray[np.float64] = np.zeros(0)
        self._words = ""
        super().__init__(tr("Histogram of the weight's values"), "", "count", log_y=True)
        self.setToolTip(tr("How many of the weight's values lie where, on a log scale"))
        self.show_words(tr("Select a weight"))

    def show_values(self, values: NDArray[np.float32]) -> None:
        """The values of one weight, or a sample of them."""
        finite = values[np.isfinite(values)]
        largest = float(np.abs(finite).max()) if finite.size else 0.0
        self._words = "" if largest else tr("All values are zero")
        span = largest or 1.0
        counts, self._edges = np.histogram(finite, BINS, (-span, span))
        self._counts = counts.astype(np.float64)
        spread = float(finite.std()) if finite.size else 0.0
        self.setAccessibleDescription(
            tr("{size:,} values, standard deviation {spread}, largest {largest}").format(
                size=finite.size,
                spread=quantities.significant(spread),
                largest=quantities.significant(largest),
            )
        )
        self.redraw()

    def show_words(self, words: str) -> None:
        """Instead of values, why there are none."""
        self._counts, self._words = np.zeros(0), words
        self.setAccessibleDescription(words)
        self.redraw()

    def rows(self) -> list[Sequence[object]]:
        """The bins: from, to, count."""
        bins = zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), self._counts.tolist(), strict=False)
        return [("from", "to", "count"), *((low, high, int(count)) for low, high, count in bins)]

    def redraw(self) -> None:
        self.clear()
        colours = theme.colours()
        self.show_title(self._words)
        if not self._counts.size:
            return
        heights = np.log10(np.maximum(self._counts, 0.5)) - math.log10(0.5)
        middles = (self._edges[:-1] + self._edges[1:]) / 2
        width = float(self._edges[1] - self._edges[0])
        # On a log axis bars begin at half a value, so that a single one is seen.
        self.addItem(
            pg.BarGraphItem(
                x=middles,
                y0=np.full_like(heights, math.log10(0.5)),
                height=heights,
                width=0.9 * width,
                brush=pg.mkBrush(colours.accent),
                pen=pg.mkPen(None),
            )
        )
        top = math.log10(max(float(self._counts.max()), 1.0))
        self.setRange(
            xRange=(float(self._edges[0]), float(self._edges[-1])),
            yRange=(math.log10(0.5), top),
            padding=0.04,
        )


class TextSpread(Chart):
    """The KL of a weight in one format for each window of text, and its mean with its standard error."""

    def __init__(self) -> None:
        self._windows: list[tuple[int, float]] = []
        self._mean = self._se = 0.0
        self._words = ""
        super().__init__(
            tr("KL of the weight by window of text"), "",
            tr("KL, nats"),
            axes={"left": LogAxis("left")},
        )  # fmt: skip
        self.setToolTip(
            tr("KL of the weight in this format, for each window of text in its order; the line is the mean")
        )
        self.show_windows([], 0.0, 0.0, tr("Select a weight"))

    def show_windows(
        self, windows: Sequence[tuple[int, float]], mean: float, se: float, words: str = ""
    ) -> None:
        """Place in the text and mean KL of each window that was measured; `words` where there are none."""
        self._windows, self._mean, self._se, self._words = sorted(windows), mean, se, words
        count = quantities.plural(len(windows), "window")
        told = (
            tr("{count}, KL {plus_minus}").format(count=count, plus_minus=quantities.plus_minus(mean, se))
            if windows
            else words
        )
        self.setAccessibleDescription(told)
        self.redraw()

    def rows(self) -> list[Sequence[object]]:
        """The windows: place in the text, KL in nats per token."""
        return [("window", "kl_nats_per_token"), *self._windows]

    def redraw(self) -> None:
        self.clear()
        colours = theme.colours()
        self.show_title(self._words)
        positive = [(place, kl) for place, kl in self._windows if kl > 0]
        if not positive:
            return
        x, y = np.array([place for place, _ in positive]), np.log10([kl for _, kl in positive])
        if self._mean > 0:
            pen = pg.mkPen(colours.text, width=1)
            self.addItem(pg.InfiniteLine(math.log10(self._mean), angle=0, pen=pen))
            if 0 < self._se < self._mean:
                low, high = math.log10(self._mean - self._se), math.log10(self._mean + self._se)
                band = pg.LinearRegionItem((low, high), "horizontal", brush=pg.mkBrush(colours.tint),
                                           pen=pg.mkPen(None), movable=False)  # fmt: skip
                band.setZValue(-10)
                self.addItem(band)
        tips = [
            plain_tip(tr("Window {place}: {kl} nats").format(place=place, kl=quantities.significant(kl)))
            for place, kl in positive
        ]
        self.addItem(
            pg.ScatterPlotItem(
                x, y, size=7, brush=pg.mkBrush(colours.accent), pen=pg.mkPen(colours.surface, width=1),
                data=tips, hoverable=True, tip=lambda x, y, data: data,
            )
        )  # fmt: skip
        last = int(x.max())
        places = range(0, last + 1, max(1, math.ceil((last + 1) / MOST_PLACES)))
        self.getAxis("bottom").setTicks([[(place, f"{place:,}") for place in places]])
        self.setRange(
            xRange=(-0.5, float(x.max()) + 0.5),
            yRange=(float(y.min()) - 0.1, float(y.max()) + 0.1),
            padding=0.04,
        )
