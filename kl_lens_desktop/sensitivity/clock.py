"""The time that a person gives an analysis."""

import time
from dataclasses import dataclass, field

from kl_lens_desktop.process.cancel import Cancel

ROUNDING = "rounding by data"
_MARGIN_S = 1.0  # for what is written at the end


@dataclass(slots=True)
class Clock:
    """Counts down from `minutes`, or from nothing; and adds up what the time went into.

    Attributes
    ----------
    minutes : float or None
    spent_s : dict of str to float
        Seconds, by what they went into.
    """

    minutes: float | None = None
    spent_s: dict[str, float] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    @property
    def is_limited(self) -> bool:
        return self.minutes is not None

    @property
    def left(self) -> float:
        """Seconds."""
        if self.minutes is None:
            return float("inf")
        return 60 * self.minutes - _MARGIN_S - (time.monotonic() - self._begun)

    def note(self, what: str) -> None:
        """The time since the last note went into this."""
        now = time.monotonic()
        self.spent_s[what] = self.spent_s.get(what, 0.0) + now - self._last
        self._last = now


class TimeUp(Exception):
    """What was begun has had its share of the time."""


class InTime(Cancel):
    """A cancel that raises `TimeUp`, too, once a share of the time that a clock has left is spent."""

    def __init__(self, cancel: Cancel, clock: Clock, share: float) -> None:
        super().__init__()
        self._cancel, self._clock = cancel, clock
        self._enough = (1 - share) * clock.left

    @property
    def cancelled(self) -> bool:
        return self._cancel.cancelled

    def check(self) -> None:
        self._cancel.check()
        if self._clock.left <= self._enough:
            raise TimeUp
