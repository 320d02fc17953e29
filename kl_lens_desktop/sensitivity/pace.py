"""How long an analysis will still take, from what its parts have taken so far."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Self

from kl_lens_desktop.sensitivity.scores import Pair

# The share of entries that goes on after each look, as on the models tried; once a look is past, its outcome
# counts instead.
GO_ON = (0.12, 0.8, 0.8)


@dataclass(slots=True)
class Timing:
    """Seconds spent, and the work they went into: elements rounded, blocks and heads run by token."""

    rounding_s: float = 0.0
    rounded: int = 0
    trunk_s: float = 0.0
    trunk_work: int = 0
    head_s: float = 0.0
    head_work: int = 0

    def __add__(self, other: Self) -> Self:
        mine, others = astuple(self), astuple(other)
        return type(self)(*(a + b for a, b in zip(mine, others, strict=True)))


@dataclass(frozen=True, slots=True)
class Cost:
    """What an entry makes do: run so many blocks, and round so many elements."""

    blocks: int
    elements: int


class Pace:
    """Seconds left of an analysis.

    Parameters
    ----------
    lanes : int
        How many entries are measured at the same time.
    window, per_piece : int
        Tokens per window, and windows measured at a time.
    """

    def __init__(self, lanes: int, window: int, per_piece: int) -> None:
        self._lanes, self._window, self._per_piece = lanes, window, per_piece
        self._timing = Timing()
        self._opening_s, self._opened = 0.0, 0

    def measured(self, timing: Timing) -> None:
        """Note what an entry took."""
        self._timing += timing

    def opened(self, windows: int, seconds: float) -> None:
        """Note what the full-precision model took."""
        self._opening_s += seconds
        self._opened += windows

    @property
    def clean_s(self) -> float:
        """Seconds that the full-precision model takes for a window."""
        return self._opening_s / max(self._opened, 1)

    def of(self, cost: Cost, windows: int) -> float | None:
        """Seconds for one entry on so many windows; None while nothing was measured."""
        each_s = self._each_s(cost)
        return None if each_s is None else windows * each_s / self._lanes

    def left(
        self, measured: Mapping[Pair, int], bounds: Sequence[int], costs: Mapping[Pair, Cost]
    ) -> float | None:
        """Seconds for the racing entries, measured on so many windows each, up to each of the coming bounds.

        After each bound but the last, a share of them is expected to stop.
        """
        seconds, share, start = 0.0, 1.0, 0
        if not self._timing.head_work:
            return None
        for place, bound in enumerate(bounds):
            for pair, count in measured.items():
                windows = max(bound - max(count, start), 0)
                seconds += share * windows * (self._each_s(costs[pair]) or 0.0) / self._lanes
            begun = max(measured.values(), default=bound)
            seconds += self.clean_s * max(bound - max(start, begun), 0)
            share *= GO_ON[min(place, len(GO_ON) - 1)]
            start = bound
        return seconds

    def _each_s(self, cost: Cost) -> float | None:
        """Seconds of one lane for an entry on a window."""
        timing = self._timing
        if not timing.head_work:
            return None
        block_s = self._window * timing.trunk_s / max(timing.trunk_work, 1)
        head_s = self._window * timing.head_s / timing.head_work
        element_s = timing.rounding_s / max(timing.rounded, 1) / self._per_piece
        return cost.blocks * block_s + head_s + cost.elements * element_s
