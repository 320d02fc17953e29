"""Racing: an entry whose rank is known well enough is not measured on more text.

All entries are measured on the same windows, in one random order, so two of them are compared on their common
windows pair by pair: what makes a window hard for both cancels. The rule, at each look at the data:

- The order of two entries is clear if a two-sided t interval of log(mean KL of one / mean KL of the other)
  excludes 0; its standard error is that of the windows' paired relative deviations (delta method).
- Looking again and again finds differences where there are none, so the k-th look spends α/2^k of an error
  probability of α in all: however many looks follow, a pair is called wrongly with probability α at most.
- An entry's rank then lies between 1 + the number clearly above it and the number not clearly below it. It
  stops once that range is no wider than `tolerance` of its better end: two fifths of the rank, two places
  at the top, where a plan's decisions fall. Where the plan's decision about its weight is settled (see
  `decision`), twice that will do.

Formats race apart, so that further formats change nothing that was decided. Needs no torch.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
FIRST_LOOK = 4  # windows: the fewest from which a spread can be told
_SHARE, _PLACES = 0.4, 2
_DECIDED = 2  # times the tolerance, where the plan's decision is settled
RULE = (
    "rank within the format known to 4 in 10, or two places, by paired t intervals of log KL ratios; "
    "to twice that where the format that a plan gives the weight is settled"
)
_NOTHING = 1e-30  # stands for a KL of exactly 0, which has no logarithm
Array = np.ndarray[Any, Any]


def looks(total: int) -> list[int]:
    """After how many windows the entries are looked at: 4, 8, 16, … and all."""
    counts = []
    count = FIRST_LOOK
    while count < total:
        counts.append(count)
        count *= 2
    return [*counts, total]


def level(look: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided error probability of one comparison at look 0, 1, 2, …; they sum to 1 − `confidence`."""
    return float((1 - confidence) / 2 ** (look + 1))


def tolerance(rank: Array) -> Array:
    """How many places the rank may remain uncertain by, from the best it can be."""
    return np.maximum(_PLACES, np.floor(_SHARE * rank))


def settled(
    series: Sequence[Sequence[float]],
    racing: Sequence[int],
    look: int,
    confidence: float = CONFIDENCE,
    decided: Collection[int] = (),
) -> list[int]:
    """Those of `racing` whose rank is known well enough.

    Parameters
    ----------
    series : sequence of sequence of float
        Window means of the KL of every entry of one format, all in the same order of windows; entries that
        have stopped hold fewer.
    racing : sequence of int
        Indices of the entries that have been measured on all windows so far.
    look : int
        How often has been looked before.
    decided : collection of int
        Indices of entries for whose weight the plan's decision is settled.
    """
    if not racing:
        return []
    above = np.zeros(len(racing), dtype=int)
    below = np.zeros(len(racing), dtype=int)
    counts = np.array([len(values) for values in series])
    for count in np.unique(counts[counts > 1]):
        others = np.flatnonzero(counts == count).tolist()
        mine = np.array([series[index][:count] for index in racing])
        low, high = interval(mine, np.array([series[index] for index in others]), look, confidence)
        above += (high < 0).sum(1)
        below += (low > 0).sum(1)
    best, worst = 1 + above, len(series) - below
    patience = np.where(np.isin(racing, list(decided)), _DECIDED, 1)
    known = worst - best <= patience * tolerance(best)
    return [index for index, done in zip(racing, known, strict=True) if done]


def interval(a: Array, b: Array, look: int, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """Ends of the t interval, at that look, of log(mean of a row of `a` / mean of a row of `b`).

    Columns are windows, the same in both; the result is (rows of `a`, rows of `b`).
    """
    from scipy.special import stdtrit  # takes half a second to load

    a, b = np.maximum(a, _NOTHING), np.maximum(b, _NOTHING)
    means = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    x, y = a / means[0] - 1, b / means[1] - 1
    count = a.shape[1]
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * (x @ y.T)
    error = np.sqrt(np.maximum(squares, 0) / (count - 1) / count)
    reach = stdtrit(count - 1, 1 - level(look, confidence) / 2) * error
    ratio = np.log(means[0] / means[1].T)
    return ratio - reach, ratio + reach
