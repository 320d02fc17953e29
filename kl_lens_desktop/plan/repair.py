"""A better plan of the same bytes, found by measuring whole plans where the sum of single losses misled.

Single weights are scored in an otherwise full-precision model. Here each exchange near the knapsack's margin
is measured in the plan as it stands, the knapsack is solved again with these differences, and its answer is
taken only if, measured as a whole, it is better by more than its paired error. Then everything starts again
from there, until nothing helps or the time is over.

Half of the windows choose the exchanges and the other half judge the plan they make: the best of a hundred
measured exchanges owes a part of its lead to the very windows it was measured on. Where nothing is found, the
halves change places.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.constraints import Constraints, Item, items
from kl_lens_desktop.plan.joint import Bench, Joint, Passes
from kl_lens_desktop.plan.options import Choice, WeightOptions
from kl_lens_desktop.process.events import Event, Progress, Repaired

STAGE = "repair"
NEAREST = 3  # other formats tried for each weight, on average
CAUTION = (0.0, 1.0, 2.0, 4.0)  # standard errors added to each measured difference, until a plan holds
CONFIDENCE = 0.95  # that a plan is better, by Student's t over the windows, before it is taken
ROUNDS = 12

Assignment = dict[str, str]
Moves = dict[tuple[int, str], Joint]


@dataclass(frozen=True, slots=True)
class Repair:
    """Where the search stands: the plan, its joint measurement and that of the plan it began with, and the
    bytes it takes less than that."""

    assignments: Assignment
    joint: Joint
    start: Joint
    rounds: int
    saved_bytes: int


def repair(
    bench: Bench,
    assignments: Mapping[str, str],
    options: Sequence[WeightOptions],
    constraints: Constraints,
    *,
    starts: Sequence[Mapping[str, str]] = (),
    budget: int | None = None,
    seconds: float | None = None,
    nearest: int = NEAREST,
) -> Iterator[Event | Repair]:
    """Lower the joint KL of a plan without more bytes.

    Parameters
    ----------
    bench : Bench
        Measures plans on four windows or more of a text that is neither that of the scores nor that of the
        final verdict: the best of many measurements looks better than it is on the text that chose it.
    options : sequence of WeightOptions
        The formats to choose from, and the losses of single weights that tell which are near the margin.
    starts : sequence of assignments
        Other plans of no more bytes to begin with, if one is better.
    budget : int, optional
        Bytes of the weights in `options`; by default those of `assignments`.
    seconds : float, optional
        When to stop looking.
    nearest : int
        How many other formats to try for each weight, on average.

    Yields
    ------
    Progress; Repaired for each improvement, followed by the Repair as it then stands; a Repair at the end.

    Raises
    ------
    InputError
        If the plan uses a format that `options` or `constraints` do not have.
    """
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    search = _Search(bench, items(options, constraints), nearest)
    now = {option.weight: assignments.get(option.weight, "fp16") for option in options}
    if not search.keeps(now):
        raise InputError(
            "Cannot repair this plan",
            "it gives a weight a format that was not scored, or that its own limits exclude",
            "Analyze that format too, or make a new plan",
        )
    size = search.size(now)
    limit = size if budget is None else budget
    others = [{option.weight: other.get(option.weight, "fp16") for option in options} for other in starts]
    others = [other for other in others if search.keeps(other) and search.size(other) <= limit]
    if bench.measures_together:
        for place, _ in enumerate(bench.each([now, *others])):
            yield Progress(STAGE, place + 1, len(others) + 1, "Measuring plans by all metrics", "plans")
    joint = start = yield from _measured(bench, now, "Measuring the plan")
    for other in others:
        if other != now:
            joint_there = yield from _measured(bench, other, "Measuring plans by other metrics")
            if is_better(joint_there, joint):
                yield _repaired(now, other, joint, joint_there)
                now, joint = other, joint_there
                yield Repair(now, joint, start, 0, size - search.size(now))
    for number in range(1, ROUNDS + 1):
        moves: Moves = {}
        wanted = search.near(now, limit)
        for count, (move, measured) in enumerate(search.measured(now, wanted)):
            moves[move] = measured
            message = f"Round {number} on {bench.tokens:,} tokens: {len(wanted)} exchanges near the margin"
            yield Progress(STAGE, number - 1 + (count + 1) / len(wanted), ROUNDS, message, "rounds")
            if time.monotonic() > until:
                break
        halves = (search.best_beyond_error(now, joint, moves, limit, judge) for judge in (0, 1))
        better = next(filter(None, halves), None)
        if better is None:
            break
        yield _repaired(now, better[0], joint, better[1])
        now, joint = better
        yield Repair(now, joint, start, number, size - search.size(now))
        if time.monotonic() > until:
            break
    yield Repair(now, joint, start, number, size - search.size(now))


def is_better(one: Joint, other: Joint) -> bool:
    """Whether one plan has less KL beyond the paired error: few windows must differ more to count."""
    from scipy.special import stdtrit  # takes half a second to load

    gain, error = one.less_than(other)
    return bool(gain > error * stdtrit(len(one.kl) - 1, (1 + CONFIDENCE) / 2))


def _measured(bench: Bench, assignments: Assignment, message: str) -> Generator[Event, None, Joint]:
    """A whole plan before the first round; full precision and the plan read the text once each."""
    steps = Passes(STAGE, 2 * bench.tokens)
    return (yield from steps.of(bench.measuring(assignments), bench.tokens, message))


class _Search:
    """The knapsack's items, and which exchanges of theirs are worth a measurement."""

    def __init__(self, bench: Bench, decisions: Sequence[Item], nearest: int) -> None:
        self._bench, self._items, self._nearest = bench, decisions, nearest

    def size(self, assignments: Mapping[str, str]) -> int:
        return sum(self._choice(item, assignments[item.weights[0]]).bytes for item in self._items)

    def keeps(self, assignments: Mapping[str, str]) -> bool:
        """Whether an assignment uses only what the items allow."""
        return all(
            assignments[weight] in {choice.format for choice in item.choices}
            for item in self._items
            for weight in item.weights
        )

    def near(self, now: Mapping[str, str], limit: int) -> list[tuple[int, str]]:
        """The exchanges with the least reduced cost at the margin: those that might be in the best plan."""
        rate = Front([_as_option(item) for item in self._items]).rate(limit)
        costs = []
        for place, item in enumerate(self._items):
            least = min(choice.loss + rate * choice.bytes for choice in item.choices)
            costs += [
                (choice.loss + rate * choice.bytes - least, place, choice.format)
                for choice in item.choices
                if choice.format != now[item.weights[0]]
            ]
        return [(place, name) for _, place, name in sorted(costs)[: self._nearest * len(self._items)]]

    def measured(
        self, now: Mapping[str, str], wanted: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[tuple[int, str], Joint]]:
        single = {
            (self._items[place].weights[0], name): (place, name)
            for place, name in wanted
            if len(self._items[place].weights) == 1
        }
        for move, joint in self._bench.neighbours(now, list(single)):
            yield single[move], joint
        groups = [(place, name) for place, name in wanted if len(self._items[place].weights) > 1]
        plans = ({**now, **dict.fromkeys(self._items[place].weights, name)} for place, name in groups)
        for group, (_, joint) in zip(groups, self._bench.each(plans), strict=True):
            yield group, joint

    def best_beyond_error(
        self, now: Assignment, joint: Joint, moves: Moves, limit: int, judge: int
    ) -> tuple[Assignment, Joint] | None:
        """The knapsack's plan with the differences measured; with more caution where they do not add up.

        The half `judge` of the windows decides whether it is better, the other half made it.
        """
        found: tuple[Assignment, Joint] | None = None
        for plan, measured in self._bench.each(self._cautious(now, joint, moves, limit, judge)):
            verdict = is_better(measured.half(judge), joint.half(judge))
            if verdict and (found is None or measured.mean < found[1].mean):
                found = plan, measured
            elif found is not None:
                break
        return found

    def _cautious(
        self, now: Assignment, joint: Joint, moves: Moves, limit: int, judge: int
    ) -> Iterator[Assignment]:
        """The knapsack's plan on the half that does not judge, with more and more caution."""
        chosen_on = {move: measured.half(1 - judge) for move, measured in moves.items()}
        tried: list[Assignment] = [now]
        for caution in CAUTION:
            options = [
                self._with_differences(place, item, now, joint.half(1 - judge), chosen_on, caution)
                for place, item in enumerate(self._items)
            ]
            plan = self._spread(Front(options).within_bytes(limit))
            if plan not in tried:
                tried.append(plan)
                yield plan

    def _with_differences(
        self, place: int, item: Item, now: Assignment, joint: Joint, moves: Moves, caution: float
    ) -> WeightOptions:
        current = self._choice(item, now[item.weights[0]])
        choices = [Choice(current.format, current.bytes, 0.0, 0.0)]
        for choice in item.choices:
            if (moved := moves.get((place, choice.format))) is not None:
                gain, error = moved.less_than(joint)
                choices.append(Choice(choice.format, choice.bytes, caution * error - gain, error))
        return WeightOptions(str(place), "", None, (), tuple(choices))

    def _spread(self, chosen: Mapping[str, str]) -> Assignment:
        return {
            weight: chosen[str(place)] for place, item in enumerate(self._items) for weight in item.weights
        }

    @staticmethod
    def _choice(item: Item, name: str) -> Choice:
        return next(choice for choice in item.choices if choice.format == name)


def _as_option(item: Item) -> WeightOptions:
    return WeightOptions(item.weights[0], "", None, (), item.choices)


def _repaired(before: Assignment, after: Assignment, was: Joint, joint: Joint) -> Repaired:
    changes = [[weight, before[weight], name] for weight, name in after.items() if before[weight] != name]
    return Repaired(joint.mean, joint.se, *joint.less_than(was), changes)
