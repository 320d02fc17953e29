"""A whole menu of formats for little more than one: every weight is measured in the anchor, the others are
predicted, and those are measured whose error bar still reaches the plan's decision.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from kl_lens_desktop.model.inventory import Weight
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress, Scored
from kl_lens_desktop.quant.formats import Format, parse_format, stored_bytes
from kl_lens_desktop.quant.roundings import Roundings
from kl_lens_desktop.sensitivity import decision, race
from kl_lens_desktop.sensitivity.clock import ROUNDING, Clock
from kl_lens_desktop.sensitivity.estimate import MOMENT_WINDOWS
from kl_lens_desktop.sensitivity.jobs import ANCHOR
from kl_lens_desktop.sensitivity.ledger import Ledger
from kl_lens_desktop.sensitivity.local_error import LocalErrors
from kl_lens_desktop.sensitivity.measuring import Candidate, Measuring
from kl_lens_desktop.sensitivity.moments import Remembered
from kl_lens_desktop.sensitivity.scan import STAGE, Scan, blocks_to_run, place_of
from kl_lens_desktop.sensitivity.scores import PREDICTED, Pair

BRIEF_WINDOWS = 2  # the fewest that have a standard error
_COMPARING_SHARE = 0.3  # of the time, for comparing formats; what it does not suffice for is guessed
_SHARE = 0.7  # of the work that the candidates took, for measuring further ones
_GAIN = 2e-4  # of the plan's loss: what measuring a pair must be expected to gain
_RACE_SHARE = 0.6  # of the time left, for the anchor on more text


@dataclass(frozen=True, slots=True)
class Wish:
    """What a plan in mind asks of the scores.

    Attributes
    ----------
    weights : sequence of Weight
    formats : sequence of Format
        What it may choose from.
    bits : float
        Average bits per parameter.
    """

    weights: Sequence[Weight]
    formats: Sequence[Format]
    bits: float

    @property
    def pairs(self) -> list[Pair]:
        return [(weight.name, fmt.name) for weight in self.weights for fmt in self.formats]

    @property
    def anchors(self) -> list[Pair]:
        return [(weight.name, ANCHOR) for weight in self.weights]

    def candidate(self, pair: Pair, roundings: Roundings) -> Candidate:
        weight = next(weight for weight in self.weights if weight.name == pair[0])
        return Candidate(weight, parse_format(pair[1]), roundings.change(*pair))


def tell_errors(
    errors: LocalErrors,
    ids: Tensor,
    inputs: Remembered | None,
    clock: Clock,
    cancel: Cancel,
) -> Iterator[Event]:
    """Local errors of all pairs that lack them, from `inputs` or those on the beginning of the text."""
    if not (lacking := len(errors.lacking)):
        return
    message = "Comparing formats by the inputs of each weight"
    yield Progress(STAGE, 0, 0, message)
    if inputs is None:
        count = min(BRIEF_WINDOWS if clock.is_limited else MOMENT_WINDOWS, len(ids))
        inputs = Remembered(ids[: count // 2], ids[count // 2 : count])
    enough = (1 - _COMPARING_SHARE) * clock.left
    with contextlib.closing(errors.collect(inputs, cancel)) as shares:
        for share in shares:
            yield Progress(STAGE, share * lacking, lacking, message, "weights")
            if clock.is_limited and clock.left < enough:
                break
    errors.guess()
    clock.note("comparing formats")


MeasuredBy = Callable[[], AbstractContextManager[Measuring[Any]]]
"""What measures, for as long as it is entered."""
RoundedAs = Callable[[Sequence[Pair]], Generator[Event, None, Roundings]]
"""How pairs ship, which may take a while to find out; nothing measures meanwhile."""


class Menu:
    """The scan of a menu.

    Parameters
    ----------
    scan : Scan
        Over the candidates.
    candidates : sequence of Candidate
        What is measured of every weight: the anchor or, where a person chose formats, all of these.
    windows : int
        Of the text.
    passes : callable
        How many windows run through the model beside the measurements: for second moments, and for those of
        further pairs where the first are not kept.
    """

    def __init__(
        self,
        scan: Scan,
        ledger: Ledger,
        wish: Wish,
        candidates: Sequence[Candidate],
        windows: int,
        clock: Clock,
        passes: Callable[[], int] = lambda: MOMENT_WINDOWS,
    ) -> None:
        self._scan, self._ledger, self._wish, self._clock = scan, ledger, wish, clock
        self._passes = passes
        self._candidates, self._windows = candidates, windows
        self._depth = depth = 1 + max((weight.block or 0 for weight in wish.weights), default=0)
        trunk = sum(weight.parameters * weight.uses for weight in wish.weights if weight.block is not None)
        self._block = max(trunk / depth, 1.0)
        self._head = max((w.parameters for w in wish.weights if w.block is None), default=0)
        self._whole = depth * self._block + self._head

    def events(self, measuring: MeasuredBy, rounded: RoundedAs) -> Iterator[Event]:
        """The candidates, then what the plan's decision hangs on; predictions in between."""
        self._measuring, self._rounded = measuring, rounded
        self._scan.expected = len(self._candidates) / 2
        if self._clock.is_limited:
            yield from self._in_time()
        else:
            with self._scan.measured_by(measuring()):
                yield from self._scan.events(self._wish.bits)
            yield from self._told()
            yield from self._further(self._room())
        self._scan.expected = 0.0
        yield from self._told()
        self._ledger.save(now=True)
        yield Progress(STAGE, 1, 1, "Done", "entries", 0.0)

    def _in_time(self) -> Iterator[Event]:
        """Everything coarsely, then as finely as the time allows."""
        with self._scan.measured_by(self._measuring()):
            yield from self._scan.coarse(_spread(self._candidates), BRIEF_WINDOWS)
        self._clock.note("a first look at every weight")
        yield from self._told()
        most, done = 0, False
        while not (self._scan.is_over or done):
            bounds = [bound for bound in race.looks(self._windows) if bound > most]
            fitting = [bound for bound in bounds if self._fits(bound)]
            if fitting:
                most = fitting[-1]
                with self._scan.measured_by(self._measuring()):
                    yield from self._scan.events(self._wish.bits, most)
                yield from self._told()
            self._clock.note("more text")
            yield from self._further(float("inf"))
            self._clock.note("formats that the plan's decision hangs on")
            done = not fitting

    def _fits(self, bound: int) -> bool:
        return self._scan.seconds_to(self._candidates, bound) <= _RACE_SHARE * self._clock.left

    def _told(self) -> Iterator[Event]:
        for weight, name in self._wish.pairs:
            if why := self._ledger.why_unmeasurable((weight, ANCHOR)):
                self._ledger.reject((weight, name), why)
        for entry in self._ledger.foretell(self._wish.pairs):
            yield Scored(asdict(entry))
        self._ledger.save()

    def _work(self, weight: Weight, windows: int) -> float:
        """Multiplications by token: blocks and the head."""
        return windows * (blocks_to_run(weight, self._depth) * self._block + self._head)

    def _room(self) -> float:
        """Less work than the anchors took, of which second moments and further passes take their part."""
        spent = sum(self._work(each.weight, self._ledger.measured(each.pair)) for each in self._candidates)
        measured = sum(
            self._work(weight, self._ledger.measured((weight.name, fmt.name)))
            for weight in self._wish.weights
            for fmt in self._wish.formats
            if fmt.name != ANCHOR
        )
        return _SHARE * spent - self._passes() * self._whole - measured

    def _further(self, room: float) -> Iterator[Event]:
        """Measure predicted pairs, in so much work or until none matters."""
        pairs = self._worth_measuring(room)
        if not pairs or self._rounding_s(len(pairs)) > _RACE_SHARE * self._clock.left:
            return
        roundings = yield from self._rounded(pairs)
        some = [self._wish.candidate(pair, roundings) for pair in pairs]
        targets = {each.pair: self._target(each.weight) for each in some}
        self._scan.expected = 0.0
        with self._scan.measured_by(self._measuring()):
            if self._clock.is_limited:
                yield from self._scan.coarse_to(some, targets)
            else:
                yield from self._scan.further(some, targets)
        yield from self._told()

    def _rounding_s(self, count: int) -> float:
        """What rounding so many pairs may take: as long as before, or their share where no text is read."""
        before = self._clock.spent_s.get(ROUNDING, 0.0)
        return before if self._passes() else before * min(count / len(self._candidates), 1.0)

    def _worth_measuring(self, room: float) -> list[Pair]:
        """What is expected to gain most for its work, as much as there is room for."""
        weights = [weight for weight in self._wish.weights if self._target(weight) > 1]
        formats, told = self._wish.formats, self._ledger.spreads()
        entries = {(entry.weight, entry.format): entry for entry in self._ledger.entries}
        sizes = np.array(
            [[stored_bytes(w.shape, fmt) for fmt in (parse_format("fp16"), *formats)] for w in weights], float
        )
        means, spreads = np.full(sizes.shape, np.inf), np.zeros(sizes.shape)
        means[:, 0] = 0.0
        for row, weight in enumerate(weights):
            for column, fmt in enumerate(formats, start=1):
                if entry := entries.get((weight.name, fmt.name)):
                    means[row, column] = entry.kl_pq.mean
                    spreads[row, column] = (
                        told.get((weight.name, fmt.name), 0.0) if entry.source == PREDICTED else 0.0
                    )
        if not weights:
            return []
        limit = self._wish.bits / 8 * sum(weight.parameters for weight in weights)
        gains = decision.worth_measuring(sizes, means, spreads, limit)
        loss = decision.loss_of_plan(means, sizes, limit)
        chosen, opened = [], 0
        works = {
            (row, column): self._work(weights[row], self._target(weights[row]))
            for row, column in zip(*np.nonzero(gains > _GAIN * loss), strict=True)
        }
        for place in sorted(works, key=lambda place: -gains[place] / works[place]):
            # The full-precision model runs first, on as much text as any of them is measured on.
            further = max(self._target(weights[place[0]]) - opened, 0)
            if (work := works[place] + further * self._whole) <= room:
                room, opened = room - work, opened + further
                chosen.append((weights[place[0]].name, formats[place[1] - 1].name))
        return chosen

    def _target(self, weight: Weight) -> int:
        """On how many windows a further format is measured: as many as the anchor, to compare them."""
        names = {ANCHOR, *(fmt.name for fmt in self._wish.formats)}
        return max(self._ledger.measured((weight.name, name)) for name in names)


def note_time(clock: Clock) -> Note:
    """How the minutes were spent."""
    parts = [f"{seconds / 60:.1f} on {what}" for what, seconds in clock.spent_s.items() if seconds >= 3]
    total = sum(clock.spent_s.values()) / 60
    return Note(f"{total:.1f} of {clock.minutes:g} minutes: {', '.join(parts)}")


def _spread(anchors: Sequence[Candidate]) -> list[Candidate]:
    """So that any beginning covers all parts of the model: the outermost blocks first, then halfway between.

    Embeddings and heads come first, for nothing else tells of them.
    """
    depth = 1 + max((each.weight.block or 0 for each in anchors), default=0)
    turn = {block: place for place, block in enumerate(_halving(depth))}

    def key(candidate: Candidate) -> tuple[int, tuple[bool, int]]:
        block = candidate.weight.block
        return (-1 if block is None else turn[block]), place_of(candidate.weight)

    return sorted(anchors, key=key)


def _halving(count: int) -> list[int]:
    """0 to `count` − 1: the last, the first, the middle, the middles of what is between, and so on."""
    order = [count - 1, 0] if count > 1 else [0]
    step = count
    while len(order) < count:
        step = (step + 1) // 2
        order += [place for place in range(step, count, step) if place not in order]
        if step == 1:
            order += [place for place in range(count) if place not in order]
    return order
