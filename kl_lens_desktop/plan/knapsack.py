"""The multiple-choice knapsack, exact: of each item one choice, least cost, a limit on the sum of weights.

Along the lower convex hull of each item's (weight, cost) points, taking the steps of all items in order of
cost added per weight saved is optimal at every weight it passes through (Sinha and Zoltners, Operations
Research 27(3), 1979). Between two of these the relaxed problem's multiplier gives a lower bound, and a choice
whose reduced cost exceeds the gap between the bound and a known solution is in no better one (Dyer, Kayal and
Walsh, Mathematical Programming 29, 1984). What is left, a few items, is solved by dynamic programming.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
STATES = 100_000  # partial solutions kept; beyond it the best found is returned with its bound


@dataclass(frozen=True, slots=True)
class Solution:
    """A choice for every item.

    Attributes
    ----------
    chosen : array of int
        Place of the choice, item by item.
    cost, weight : float
    bound : float
        No solution costs less: where it equals `cost`, this one is proved optimal.
    """

    chosen: Places
    cost: float
    weight: float
    bound: float


class Knapsack:
    """The problem with everything that does not depend on the limit.

    Parameters
    ----------
    cost, weight : array (items, choices)
        Infinite where an item has fewer choices.
    """

    def __init__(self, cost: Numbers, weight: Numbers) -> None:
        self.cost, self.weight = cost, weight
        self._rows = np.arange(len(cost))
        self._first, items, before, after, rates = _hulls(cost, weight)
        order = np.lexsort((items, rates))  # stable: the steps of one item stay in their order
        items, before, after = items[order], before[order], after[order]
        self._items, self._after, self._rates = items, after, rates[order]
        first_cost, first_weight = self._sums(self._first)
        self.weights = np.cumsum([first_weight, *(weight[items, after] - weight[items, before])])
        self.costs = np.cumsum([first_cost, *(cost[items, after] - cost[items, before])])

    def solve(self, limit: float) -> Solution | None:
        """The solution of least cost whose weight is at most `limit`; None if there is none."""
        count = self._count(limit)
        if count == len(self.weights):
            return None
        chosen = self.along_hull(count)
        cost, weight = self._sums(chosen)
        if count == 0:
            return Solution(chosen, cost, weight, cost)
        rate = float(self._rates[count - 1])
        bound = cost - rate * max(limit - weight, 0.0)
        filled = self._filled(chosen, limit - weight)
        return self._improved(Solution(filled, *self._sums(filled), bound), limit, rate)

    def rate(self, limit: float) -> float:
        """Cost that one unit of weight less would add at `limit`."""
        rates = self._rates[max(self._count(limit), 1) - 1 :]
        return float(rates[0]) if len(rates) else 0.0

    def _count(self, limit: float) -> int:
        """Steps along the hull until the limit is kept; one more than there are if it never is."""
        return int(np.searchsorted(-self.weights, -limit))

    def along_hull(self, count: int) -> Places:
        """The choices after the first `count` steps."""
        chosen = self._first.copy()
        chosen[self._items[:count]] = self._after[:count]  # of an item's steps the last one stands
        return chosen

    def _sums(self, chosen: Places) -> tuple[float, float]:
        return float(self.cost[self._rows, chosen].sum()), float(self.weight[self._rows, chosen].sum())

    def _filled(self, chosen: Places, spare: float) -> Places:
        """Spend the weight left over on the largest gains that fit."""
        chosen = chosen.copy()
        now_cost, now_weight = self.cost[self._rows, chosen], self.weight[self._rows, chosen]
        gains = np.nan_to_num(now_cost[:, None] - self.cost, neginf=-1.0)
        taken = np.where(np.isfinite(self.weight), self.weight - now_weight[:, None], np.inf)
        items, places = np.nonzero((gains > 0) & (taken <= spare))
        for at in np.argsort(-gains[items, places], kind="stable"):
            item, place = items[at], places[at]
            gain = self.cost[item, chosen[item]] - self.cost[item, place]
            weight = self.weight[item, place] - self.weight[item, chosen[item]]
            if gain > 0 and weight <= spare:
                chosen[item], spare = place, spare - weight
        return chosen

    def _improved(self, best: Solution, limit: float, rate: float) -> Solution:
        """The optimum, by dynamic programming over the choices that can still be in a better solution."""
        reduced = self.cost + rate * np.where(np.isfinite(self.weight), self.weight, 0.0)
        base = reduced.argmin(1)
        reduced = reduced - reduced[self._rows, base][:, None]
        for share in (0.03, 1.0):  # a first look at the nearest choices makes the gap, and so the rest, small
            gap = best.cost - best.bound
            if gap <= 1e-12 * abs(best.cost):
                return best
            chosen, complete = self._searched(reduced, base, limit, rate, gap, share * gap)
            if chosen is None:
                continue
            cost, weight = self._sums(chosen)
            if cost < best.cost and weight <= limit:
                best = Solution(chosen, cost, weight, best.bound)
        return Solution(best.chosen, best.cost, best.weight, best.cost) if complete else best

    def _searched(
        self, reduced: Numbers, base: Places, limit: float, rate: float, gap: float, nearness: float
    ) -> tuple[Places | None, bool]:
        """The best solution whose choices have less than `nearness` of reduced cost, if below the gap."""
        core = np.flatnonzero((reduced < nearness).sum(1) > 1)
        moves = [np.flatnonzero(reduced[item] < nearness) for item in core]
        shifts = [self.weight[i, m] - self.weight[i, base[i]] for i, m in zip(core, moves, strict=True)]
        table = _Table(gap, rate, limit - self._sums(base)[1])
        order = np.argsort([len(move) for move in moves], kind="stable")
        lightest = np.array([shift.min() for shift in shifts])[order]
        heaviest = np.array([shift.max() for shift in shifts])[order]
        complete = True
        for done, at in enumerate(order, 1):
            rest = float(lightest[done:].sum()), float(heaviest[done:].sum())
            complete &= table.extend(shifts[at], reduced[core[at], moves[at]], *rest)
        places = table.best()
        if places is None:
            return None, complete
        chosen = base.copy()
        for at, place in zip(order, places, strict=True):
            chosen[core[at]] = moves[at][place]
        return chosen, complete


class _Table:
    """Partial solutions, none of which another one beats in weight and in cost."""

    def __init__(self, gap: float, rate: float, spare: float) -> None:
        self._gap, self._rate, self._spare = gap, rate, spare
        self._weight, self._reduced = np.zeros(1), np.zeros(1)
        self._back: list[tuple[Places, Places]] = []

    def extend(self, shifts: Numbers, reduced: Numbers, lightest: float, heaviest: float) -> bool:
        """Decide one more item; the rest can still weigh between `lightest` and `heaviest`.

        False if there were too many to keep.
        """
        weight = (self._weight[:, None] + shifts).ravel()
        cost = (self._reduced[:, None] + reduced).ravel()
        # Weight left unused costs `rate` each, in the bound's terms.
        unused = np.maximum(self._spare - weight - heaviest, 0.0)
        kept = np.flatnonzero((weight + lightest <= self._spare) & (cost + self._rate * unused < self._gap))
        true_cost = cost[kept] - self._rate * weight[kept]
        order = np.lexsort((true_cost, weight[kept]))
        lowest = np.minimum.accumulate(true_cost[order])
        first = np.concatenate([[True], lowest[1:] < lowest[:-1]]) if len(order) else np.zeros(0, bool)
        kept = kept[order[first]]
        complete = len(kept) <= STATES
        if not complete:
            kept = kept[np.argsort(cost[kept], kind="stable")[:STATES]]
        self._back.append((kept // len(shifts), kept % len(shifts)))
        self._weight, self._reduced = weight[kept], cost[kept]
        return complete

    def best(self) -> list[int] | None:
        """The places chosen, in the order the items were decided; None if nothing beats what is known."""
        if not len(self._weight):
            return None
        state = int(np.argmin(self._reduced - self._rate * self._weight))
        places = []
        for parents, choices in reversed(self._back):
            places.append(int(choices[state]))
            state = int(parents[state])
        return places[::-1]


def _hulls(cost: Numbers, weight: Numbers) -> tuple[Places, Places, Places, Places, Numbers]:
    """The lower convex hulls of all items' (weight, cost) points.

    Returns
    -------
    first : array (items,)
        The cheapest place of each item, of several the lightest.
    items, before, after, rates : array (steps,)
        The steps from there to the lightest place, and the cost each adds per weight it saves. The rates of
        an item never fall from step to step, even where its places lie in a line but for rounding.
    """
    rows = np.arange(len(cost))
    cheapest = cost == cost.min(1, keepdims=True)
    first = np.where(cheapest, weight, np.inf).argmin(1)
    now, floor = first, np.zeros(len(cost))
    none = np.zeros(0, dtype=np.int64)
    steps = [(none, none, none, np.zeros(0))]
    while True:
        saved = weight[rows, now][:, None] - weight
        slopes = np.full(cost.shape, np.inf)
        np.divide(cost - cost[rows, now][:, None], saved, out=slopes, where=np.isfinite(cost) & (saved > 0))
        least = slopes.min(1)
        going = np.flatnonzero(np.isfinite(least))
        if not len(going):
            items, before, after, rates = (np.concatenate(column) for column in zip(*steps, strict=True))
            return first, items, before, after, rates
        # Of places in one line the lightest: the others are no corners.
        place = np.where(slopes == least[:, None], weight, np.inf).argmin(1)
        floor = np.maximum(floor, least)
        steps.append((going, now[going], place[going], floor[going]))
        now = now.copy()
        now[going] = place[going]
