"""Racing's second question: whether more text could change which format a plan gives a weight.

Under a budget of bytes the best plan gives each weight, all but one of them, the format of least
KL + price · bytes, with one price of a byte for all (Everett, "Generalized Lagrange multiplier method",
1963). A decision is settled if, at the prices of a somewhat larger and of a somewhat smaller budget, the same
format is ahead of every other by more than the t interval of their windows' paired differences, at the level
of the look as in `race`. Needs no torch.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kl_lens_desktop.sensitivity.race import CONFIDENCE, level

SLACK = 0.1  # of the budget either way: prices are of means that are not final
_HALVINGS = 60
_REACH = 1.96  # standard deviations of an error bar
Array = np.ndarray[Any, Any]


def decided(sizes: Array, series: Sequence[Sequence[Sequence[float]]], limit: float, look: int) -> list[int]:
    """The weights whose format is settled.

    Parameters
    ----------
    sizes : array
        Bytes (weights, formats), FP16 first.
    series : sequence of sequence of sequence of float
        For each weight, window means of the KL in each other format, all in the same order of windows.
    limit : float
        Bytes of the plan.
    look : int
        How often has been looked before.
    """
    means = np.array([[0.0, *(np.mean(values) for values in formats)] for formats in series])
    choices = []
    for budget in (limit * (1 + SLACK), limit * (1 - SLACK)):
        price = price_of_a_byte(means, sizes, budget)
        if price is None:
            return []
        choices.append((price, (means + price * sizes).argmin(1)))
    return [
        index
        for index, formats in enumerate(series)
        if choices[0][1][index] == choices[1][1][index]
        and all(_is_ahead(formats, sizes[index], chosen[index], price, look) for price, chosen in choices)
    ]


def worth_measuring(sizes: Array, means: Array, spreads: Array, limit: float) -> Array:
    """What measuring a predicted loss could gain the plan, in the unit of the losses; 0 where its error bar
    does not reach the decision.

    Measuring a prediction changes the decision where it turns out better than the format that is ahead or, if
    it is of that one, worse than the next. What is expected to be gained by that is the mean of a normal
    distribution's part beyond the margin (Jones et al., Journal of Global Optimization 13, 1998).

    Parameters
    ----------
    sizes, means, spreads : array
        (weights, formats), FP16 first: bytes, losses, and the standard deviations of predictions of them;
        0 for what was measured.
    limit : float
        Bytes of the plan.
    """
    from scipy.special import ndtr  # takes half a second to load

    gains = np.zeros_like(means)
    for budget in (limit * (1 + SLACK), limit, limit * (1 - SLACK)):
        price = price_of_a_byte(means, sizes, budget)
        if price is None:
            continue
        costs = means + price * sizes
        order = np.argsort(costs, axis=1)[:, :2]
        first, second = (np.take_along_axis(costs, order[:, [place]], 1) for place in (0, 1))
        margins = costs - first
        np.put_along_axis(margins, order[:, [0]], second - first, 1)
        reached = (spreads > 0) & (margins < _REACH * spreads)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = margins / spreads
            expected = spreads * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) - margins * ndtr(-z)
        gains = np.maximum(gains, np.where(reached, expected, 0.0))
    return gains


def loss_of_plan(means: Array, sizes: Array, limit: float) -> float:
    """Summed loss of the formats of least KL + price · bytes that fit into `limit`, or of the smallest."""
    price = price_of_a_byte(means, sizes, limit)
    chosen = sizes.argmin(1) if price is None else (means + price * sizes).argmin(1)
    return float(np.take_along_axis(means, chosen[:, None], 1).sum())


def price_of_a_byte(means: Array, sizes: Array, limit: float) -> float | None:
    """The lowest price, in KL per byte, at which formats of least KL + price · bytes fit into `limit`."""

    def size(price: float) -> float:
        chosen = (means + price * sizes).argmin(1)
        return float(np.take_along_axis(sizes, chosen[:, None], 1).sum())

    if size(0.0) <= limit:
        return 0.0
    if sizes.min(1).sum() > limit:
        return None
    low, high = 1e-30, 1e6
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if size(middle) <= limit else (middle, high)
    return high


def _is_ahead(formats: Sequence[Sequence[float]], sizes: Array, chosen: int, price: float, look: int) -> bool:
    from scipy.special import stdtrit

    count = min(len(values) for values in formats)
    kl = np.vstack([np.zeros(count), *(np.array(values[:count]) for values in formats)])
    behind = kl - kl[chosen] + price * (sizes - sizes[chosen])[:, None]
    reach = stdtrit(count - 1, 1 - level(look, CONFIDENCE) / 2) / math.sqrt(count)
    others = np.arange(len(kl)) != chosen
    return bool((behind.mean(1) > reach * behind.std(1, ddof=1))[others].all())
