"""Which format for which weight under a budget: the knapsack of measured losses and exact bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.constraints import Constraints, Item, items
from kl_lens_desktop.plan.knapsack import Knapsack, Places
from kl_lens_desktop.plan.options import Choice, WeightOptions


@dataclass(frozen=True, slots=True)
class Point:
    """A size on the front and the loss there."""

    bytes: int
    loss: float


class Front:
    """All optimal plans from mildest to smallest, computed once and then asked for any budget.

    Parameters
    ----------
    options : sequence of WeightOptions
    constraints : Constraints, optional
    spent : str
        What is weighed against loss, ``bytes`` in the file, ``seconds`` of a token or bytes of ``memory``.

    Attributes
    ----------
    points : list of Point
        The convex part of the front, from the least loss to the least bytes; none where other is spent.
    """

    def __init__(
        self, options: Sequence[WeightOptions], constraints: Constraints | None = None, spent: str = "bytes"
    ) -> None:
        self._items = items(options, constraints or Constraints())
        width = max((len(item.choices) for item in self._items), default=1)
        self._spent = _table(self._items, width, attrgetter(spent))
        self._loss = _table(self._items, width, lambda choice: choice.loss)
        self._by_size = Knapsack(self._loss, self._spent)
        walk = self._by_size.weights.astype(int).tolist(), self._by_size.costs.tolist()
        in_bytes = spent == "bytes"
        self.points = [Point(size, loss) for size, loss in zip(*walk, strict=True)] if in_bytes else []

    @property
    def smallest(self) -> int:
        """Bytes of the smallest plan there is."""
        return self.points[-1].bytes

    def no_smaller(self, least: int, budget: int | None = None) -> dict[str, str]:
        """The assignment for `budget` bytes, or `least`, or for the next more that takes up `least`.

        Where formats that save bytes have losses below 0, by noise, no loss is worth that many bytes: then it
        is the assignment of least loss.
        """
        start = budget or least
        for more in range(start, 2 * start, max(start // 5000, 1)):
            solution = self._by_size.solve(more)
            if solution is not None and solution.weight >= least:
                return self._assignment(solution.chosen)
        return self._assignment(self._by_size.along_hull(0))

    def within_bytes(self, budget: int) -> dict[str, str]:
        """The assignment of least loss in at most `budget` bytes.

        Raises
        ------
        InputError
            If even the smallest plan is larger.
        """
        solution = self._by_size.solve(budget)
        if solution is None:
            raise InputError(
                f"No plan fits in {budget / 1000000.0:.2f} MB",
                f"the smallest possible plan takes {self.smallest / 1000000.0:.2f} MB with the "
                "measured formats",
                "Raise the budget, or analyze smaller formats too",
            )
        return self._assignment(solution.chosen)

    @property
    def least(self) -> float:
        """What the plan spends that spends least."""
        return float(self._by_size.weights[-1])

    def within(self, budget: float) -> dict[str, str] | None:
        """The assignment of least loss that spends at most `budget`; None if there is none."""
        solution = self._by_size.solve(budget)
        return None if solution is None else self._assignment(solution.chosen)

    def within_loss(self, limit: float) -> dict[str, str]:
        """The assignment that spends least whose summed loss is at most `limit`.

        Where the pins alone lose more than `limit`, the assignment that loses least.
        """
        solution = self._by_loss.solve(limit * (1 - 1e-12))  # so that any order of summing keeps the limit
        return self._assignment(self._by_size.along_hull(0) if solution is None else solution.chosen)

    def gap(self, budget: int) -> float:
        """How far, at most, the loss of `within_bytes` is above the optimum: 0 where that is proved."""
        solution = self._by_size.solve(budget)
        return 0.0 if solution is None else solution.cost - solution.bound

    def rate(self, budget: int) -> float:
        """Loss that one byte less would add at `budget`: the knapsack's multiplier."""
        return self._by_size.rate(budget)

    @cached_property
    def _by_loss(self) -> Knapsack:
        return Knapsack(self._spent, self._loss)

    def _assignment(self, chosen: Places) -> dict[str, str]:
        return {
            weight: item.choices[place].format
            for item, place in zip(self._items, chosen.tolist(), strict=True)
            for weight in item.weights
        }


def _table(rows: Sequence[Item], width: int, value: Callable[[Choice], float]) -> NDArray[np.float64]:
    table = np.full((len(rows), width), np.inf)
    for place, item in enumerate(rows):
        table[place, : len(item.choices)] = [value(choice) for choice in item.choices]
    return table
