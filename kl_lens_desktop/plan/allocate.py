"""Which format for which weight under a budget of bytes: a multiple-choice knapsack on the measured losses.

Along the lower convex hull of each weight's (bytes, loss) points, taking the steps of all weights in order
of loss added per byte saved is optimal at every size it passes through (Sinha and Zoltners, Operations
Research 27(3), 1979). Between two such sizes the bytes left over are spent on the best single improvement
that fits, until none does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.options import Choice, WeightOptions


@dataclass(frozen=True, slots=True)
class Step:
    """One weight goes from one format to a smaller one."""

    weight: str
    before: Choice
    after: Choice

    @property
    def rate(self) -> float:
        """Loss added per byte saved."""
        return (self.after.loss - self.before.loss) / (self.before.bytes - self.after.bytes)


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
    pins : mapping of str to str, optional
        Weights whose format is decided already.
    """

    def __init__(self, options: Sequence[WeightOptions], pins: Mapping[str, str] | None = None) -> None:
        self._options = {option.weight: option for option in options}
        self._pins = dict(pins or {})
        unknown = next((weight for weight in self._pins if weight not in self._options), None)
        if unknown is not None:
            raise InputError(f"Cannot pin {unknown}", "the score file has no such weight", "Check the name")
        hulls = {option.weight: self._hull(option) for option in options}
        self._start = {weight: hull[0] for weight, hull in hulls.items()}
        steps = [
            Step(weight, before, after) for weight, hull in hulls.items() for before, after in pairwise(hull)
        ]
        self._steps = sorted(steps, key=lambda step: (step.rate, step.weight))
        self.points = self._walk()

    @property
    def smallest(self) -> int:
        """Bytes of the smallest plan there is."""
        return self.points[-1].bytes

    def within_bytes(self, budget: int) -> dict[str, str]:
        """The assignment of least loss in at most `budget` bytes.

        Raises
        ------
        InputError
            If even the smallest plan is larger.
        """
        if budget < self.smallest:
            raise InputError(
                f"No plan fits into {budget / 1e6:.2f} MB",
                f"the smallest one takes {self.smallest / 1e6:.2f} MB with the formats measured",
                "Allow more, or analyze smaller formats too",
            )
        count = next(i for i, point in enumerate(self.points) if point.bytes <= budget)
        return self._spend(self._assignment(count), budget - self.points[count].bytes)

    def within_loss(self, limit: float) -> dict[str, str]:
        """A small assignment whose summed loss is at most `limit`: the smallest on the front, made smaller
        still.

        Where the pins alone lose more than `limit`, the assignment that loses least.
        """
        count = max(i for i, point in enumerate(self.points) if i == 0 or point.loss <= limit)
        return self._shrink(self._assignment(count), limit - self.points[count].loss)

    def _hull(self, option: WeightOptions) -> list[Choice]:
        choices = option.choices
        if option.weight in self._pins:
            return [option.choice(self._pins[option.weight])]
        hull: list[Choice] = []
        for choice in sorted(choices, key=lambda c: (-c.bytes, c.loss)):
            if hull and choice.bytes == hull[-1].bytes:
                continue
            # A larger format that loses more than this one, or lies above the line to it, is never the right
            # choice.
            while hull and (
                choice.loss <= hull[-1].loss
                or (len(hull) > 1 and _rate(hull[-2], hull[-1]) >= _rate(hull[-1], choice))
            ):
                hull.pop()
            hull.append(choice)
        return hull

    def _walk(self) -> list[Point]:
        size = sum(choice.bytes for choice in self._start.values())
        loss = sum(choice.loss for choice in self._start.values())
        points = [Point(size, loss)]
        for step in self._steps:
            size -= step.before.bytes - step.after.bytes
            loss += step.after.loss - step.before.loss
            points.append(Point(size, loss))
        return points

    def _assignment(self, count: int) -> dict[str, str]:
        chosen = {weight: choice.format for weight, choice in self._start.items()}
        chosen.update((step.weight, step.after.format) for step in self._steps[:count])
        return chosen

    def _shrink(self, chosen: dict[str, str], spare: float) -> dict[str, str]:
        """Save bytes with the loss left over, most bytes first."""
        savings = [
            (now.bytes - smaller.bytes, weight, smaller)
            for weight, name in chosen.items()
            if weight not in self._pins
            for now in [self._options[weight].choice(name)]
            for smaller in self._options[weight].choices
            if smaller.bytes < now.bytes and smaller.loss - now.loss <= spare
        ]
        for _, weight, smaller in sorted(savings, key=lambda saving: (-saving[0], saving[1], saving[2].loss)):
            now = self._options[weight].choice(chosen[weight])
            if smaller.bytes < now.bytes and smaller.loss - now.loss <= spare:
                spare -= smaller.loss - now.loss
                chosen[weight] = smaller.format
        return chosen

    def _spend(self, chosen: dict[str, str], spare: int) -> dict[str, str]:
        """Improve `chosen` with the bytes left over, largest gain in loss first."""
        gains = []
        for weight, name in chosen.items():
            if weight in self._pins:
                continue
            now = self._options[weight].choice(name)
            gains += [
                (now.loss - better.loss, weight, better)
                for better in self._options[weight].choices
                if now.bytes < better.bytes <= now.bytes + spare and better.loss < now.loss
            ]
        for _, weight, better in sorted(gains, key=lambda gain: (-gain[0], gain[1], gain[2].bytes)):
            now = self._options[weight].choice(chosen[weight])
            if better.loss < now.loss and better.bytes - now.bytes <= spare:
                spare -= better.bytes - now.bytes
                chosen[weight] = better.format
        return chosen


def _rate(before: Choice, after: Choice) -> float:
    return (after.loss - before.loss) / (before.bytes - after.bytes)


def paper_greedy(
    options: Sequence[WeightOptions], budget: int, pins: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The paper's walk down one merged list, stopped at a size instead of a perplexity (section
    "Allocation").

    All (weight, low format) entries in ascending order of loss are accepted cumulatively, a smaller format
    replacing a larger one accepted before, until the weights take at most `budget` bytes.
    Pinned weights keep their format.
    """
    pins = pins or {}
    entries = sorted(
        (
            (choice.loss, option.weight, choice)
            for option in options
            if option.weight not in pins
            for choice in option.choices[1:]
        ),
        key=lambda entry: (entry[0], entry[1], entry[2].bytes),
    )
    chosen = {option.weight: option.choice(pins.get(option.weight, "fp16")) for option in options}
    size = sum(choice.bytes for choice in chosen.values())
    for _, weight, choice in entries:
        if size <= budget:
            break
        if choice.bytes < chosen[weight].bytes:
            size -= chosen[weight].bytes - choice.bytes
            chosen[weight] = choice
    if size > budget:
        raise InputError(
            f"No plan fits into {budget / 1e6:.2f} MB",
            f"the smallest takes {size / 1e6:.2f} MB",
            "Allow more, or analyze smaller formats too",
        )
    return {weight: choice.format for weight, choice in chosen.items()}
