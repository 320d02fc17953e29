"""Whether two rows differ by more than noise: decided by intervals, while it is measured and ever after.

Variants take turns, so the k-th rounds of two of them are neighbours in time, and the log of their ratio is
free of whatever slowed the computer for both. The rule:

- After 4, 6, 8, 12, … rounds a two-sided t interval of the log ratio's mean is looked at, without the lowest
  and the highest fifth of them (Yuen 1974), for a round that another program disturbed is far off. The k-th
  look spends α/(k(k+1)) of an error probability of α = 5 % in all, so that looking often finds nothing that
  is not there.
- Two variants are apart if an interval lies beyond a margin of 4 % on one side. The margin is for what turns
  cannot average away: one model loaded in two processes differs by up to 3 % for as long as both live,
  since memory lies elsewhere (measured, see `tests/benchmarks/bench_lab.py`).
- A pair is settled, and needs no more rounds, once it is apart or its ratio is known to within 5 %.

A round's speed is one over the lower decile of its token latencies: work of other programs lengthens some
tokens by half and more and leaves others alone, which spreads means and medians several times as much.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kl_lens_desktop.quantities import LEAST_SAMPLES, plural

CONFIDENCE = 0.95
MARGIN = 0.04
PRECISION = 0.05
LOOKS = (4, 6, 8, 12, 16, 24, 32)
QUANTILE = 0.1
TRIM = 0.2
_MANY = 10**6  # batches, of which an error is as good as known


@dataclass(frozen=True, slots=True)
class Difference:
    """How many times a figure is that of another, with the interval of the look that counts.

    Attributes
    ----------
    ratio : float
        Second over first.
    low, high : float or None
        Ends of the interval; None where there are too few measurements for one.
    n : int
        Pairs of rounds or, unpaired, measurements of the side with fewer.
    apart : bool or None
        Whether it is more than noise; None where too few measurements show neither.
    settled : bool
        Whether more rounds are pointless.
    paired : bool
        Whether both took turns.
    """

    ratio: float
    low: float | None
    high: float | None
    n: int
    apart: bool | None
    settled: bool
    paired: bool

    @property
    def slower(self) -> bool:
        """Whether the second is told apart as the lower one."""
        return bool(self.apart) and self.ratio < 1

    @property
    def measurements(self) -> str:
        """``2 rounds``, ``1 measurement``."""
        return plural(self.n, "round" if self.paired else "measurement")


def difference(
    first: dict[str, Any], second: dict[str, Any], figure: str = "tokens_per_s"
) -> Difference | None:
    """How `figure` of the second row compares with that of the first; None where either has none.

    Rows of one session took turns and are compared round by round, others by Welch's t interval: of their
    rounds or, where one has none, of the single measurements of both.
    """
    a, b = first.get(figure), second.get(figure)
    if not a or not b or a["mean"] <= 0 or b["mean"] <= 0:
        return None
    session, in_rounds = first.get("session"), bool(a.get("rounds") and b.get("rounds"))
    if in_rounds and session is not None and session == second.get("session"):
        return paired(a["rounds"], b["rounds"])
    return unpaired(_samples(a, in_rounds), _samples(b, in_rounds))


def estimate(figure: dict[str, Any]) -> float:
    """A figure in one number: the trimmed mean of its rounds' logs or, without rounds, its mean."""
    rounds = figure.get("rounds")
    return math.exp(trimmed_mean(list(map(math.log, rounds)))) if rounds else float(figure["mean"])


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest fifth."""
    return statistics.fmean(_kept(values))


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare positive figures of rounds taken in turn; the longer side's last rounds have no partner."""
    logs = [math.log(b / a) for a, b in zip(first, second, strict=False)]
    if len(logs) < 2:
        return Difference(math.exp(logs[0]), None, None, len(logs), None, False, True)
    found = []
    for look, count in enumerate(looks(len(logs)), 1):
        mean, error, freedom = _trimmed(logs[:count])
        level = (1 - CONFIDENCE) / (look * (look + 1))
        found.append(_interval(mean, error, freedom, level, count, paired=True))
    return next((each for each in reversed(found) if each.apart), found[-1])


def unpaired(first: tuple[float, float, int], second: tuple[float, float, int]) -> Difference:
    """Compare two (mean, variance, number) of logs by Welch's t interval, looked at once."""
    (mean_a, variance_a, n_a), (mean_b, variance_b, n_b) = first, second
    mean, n = mean_b - mean_a, min(n_a, n_b)
    if n < 2:
        return Difference(math.exp(mean), None, None, n, None, False, False)
    error_a, error_b = variance_a / n_a, variance_b / n_b
    error = error_a + error_b
    freedom = error**2 / (error_a**2 / (n_a - 1) + error_b**2 / (n_b - 1)) if error else float(n - 1)
    return _interval(mean, math.sqrt(error), freedom, 1 - CONFIDENCE, n, paired=False)


def estimates_apart(first: dict[str, Any] | None, second: dict[str, Any] | None) -> bool | None:
    """Whether two ``{mean, se, n, batches}`` differ by more than their errors; None where that is not known.

    By Welch's t, for an error from a few batches is itself uncertain; of fewer than `LEAST_SAMPLES` nothing
    is said. Without ``batches``, as in older files, there are taken to be many. The errors are taken as
    independent: on one text, which is hard for both where it is hard, that says “apart” too seldom rather
    than too often.
    """
    if not first or not second or first["se"] is None or second["se"] is None:
        return None
    batches = [each.get("batches", _MANY) for each in (first, second)]
    if min(batches) < LEAST_SAMPLES:
        return None
    error = math.hypot(first["se"], second["se"]) or 1.0
    shares = [(each["se"] / error) ** 2 for each in (first, second)]
    below = math.fsum(share**2 / (count - 1) for share, count in zip(shares, batches, strict=True))
    quantile = _quantile_of_t(1 / below if below else _MANY, (1 + CONFIDENCE) / 2)
    return bool(abs(first["mean"] - second["mean"]) > quantile * math.hypot(first["se"], second["se"]))


def looks(rounds: int) -> list[int]:
    """After which of so many rounds the pairs are looked at: those of `LOOKS`, and the last."""
    return [*(count for count in LOOKS if count < rounds), rounds]


def round_speed(latencies_s: Sequence[float]) -> float:
    """Tokens per second of one round, from the seconds between its tokens: see the module's docstring."""
    return 1 / _quantile(sorted(latencies_s), QUANTILE)


def _interval(mean: float, error: float, freedom: float, level: float, n: int, *, paired: bool) -> Difference:
    half = _quantile_of_t(freedom, 1 - level / 2) * error
    apart = abs(mean) - half > math.log1p(MARGIN)
    # the largest ratio that a file may hold, for two rounds far apart say nothing
    low, high = (math.exp(max(-600.0, min(600.0, mean + side * half))) for side in (-1, 1))
    known = apart or (None if n < LEAST_SAMPLES else False)
    settled = apart or half <= math.log1p(PRECISION)
    return Difference(math.exp(mean), low, high, n, known, settled, paired)


@lru_cache(1024)
def _quantile_of_t(freedom: float, share: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _trimmed(values: Sequence[float]) -> tuple[float, float, int]:
    """Trimmed mean, its standard error from the winsorized variance, and degrees of freedom."""
    kept, count = _kept(values), len(values)
    cut = (count - len(kept)) // 2
    winsorized = [*[kept[0]] * cut, *kept, *[kept[-1]] * cut]
    error = statistics.stdev(winsorized) / ((1 - 2 * cut / count) * math.sqrt(count))
    return statistics.fmean(kept), error, len(kept) - 1


def _kept(values: Sequence[float]) -> list[float]:
    """Without the lowest and the highest fifth, in order."""
    cut = int(TRIM * len(values))
    return sorted(values)[cut : len(values) - cut]


def _samples(figure: dict[str, Any], in_rounds: bool) -> tuple[float, float, int]:
    """Mean, variance and number of the logs of the rounds or of the single measurements."""
    if in_rounds:
        logs = [math.log(value) for value in figure["rounds"]]
        return statistics.fmean(logs), statistics.variance(logs) if len(logs) > 1 else 0.0, len(logs)
    return math.log(figure["mean"]), ((figure["sd"] or 0.0) / figure["mean"]) ** 2, figure["n"]


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
