"""One run over candidates, piece of text by piece of text: those whose rank is known stop (see `race`)."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.model.inventory import Weight
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress, Scored
from kl_lens_desktop.quant.formats import Format, parse_format, stored_bytes
from kl_lens_desktop.sensitivity import decision, race
from kl_lens_desktop.sensitivity.clock import Clock
from kl_lens_desktop.sensitivity.ledger import Ledger
from kl_lens_desktop.sensitivity.measuring import Candidate, Found, Measuring, Text
from kl_lens_desktop.sensitivity.pace import Cost, Pace
from kl_lens_desktop.sensitivity.scores import Pair, Samples
from kl_lens_desktop.sensitivity.walk import CACHE_ELEMENTS

PIECE_TOKENS = 1024  # walked at a time: a step that can be repeated, in a moderate peak of memory
STAGE = "analyze"
_FIRST = 3  # candidates that are measured whatever the time


class Scan:
    """One scan over all candidates, piece of text by piece of text.

    Parameters
    ----------
    ids : Tensor
        Token ids (windows, window) of the whole text.
    clock : Clock
        Nothing is begun that would end after its time.
    menu : sequence of Format
        What the plan in mind may choose from, if more than what is measured.
    """

    def __init__(
        self,
        ids: Tensor,
        ledger: Ledger,
        candidates: Sequence[Candidate],
        cancel: Cancel,
        clock: Clock,
        menu: Sequence[Format] = (),
    ) -> None:
        self._ids, self._ledger, self._cancel = ids, ledger, cancel
        self._clock, self._menu = clock, menu
        self._candidates = [each for each in candidates if not ledger.is_unmeasurable(each.pair)]
        self._targets: dict[Pair, int] = {}
        self._total = len(ids)
        self._stopped: dict[Pair, int] = {}
        self.expected = 0.0  # how many more entries may be wanted than the candidates that there are

    @contextlib.contextmanager
    def measured_by(self, measuring: AbstractContextManager[Measuring[Any]]) -> Iterator[None]:
        """Measure with what that gives, for the length of the block."""
        with measuring as self._measuring:
            vocabulary = self._measuring.model.config.get_text_config().vocab_size
            fits, window = min(PIECE_TOKENS, CACHE_ELEMENTS // vocabulary), self._ids.shape[1]
            self._per_piece = max(1, fits // window)  # windows whose full-precision logits can be kept
            if not hasattr(self, "pace"):
                self.pace = Pace(self._measuring.count, window, self._per_piece)
            yield

    @property
    def is_over(self) -> bool:
        return self._clock.left <= 0

    def events(self, bits: float | None, most: int | None = None) -> Iterator[Event]:
        """Measure, window by window, whatever is not settled and not in the ledger yet.

        With no `bits` nothing is stopped; `most` is how many windows to look at, all without it.
        """
        bounds = [bound for bound in race.looks(self._total) if bound <= (most or self._total)]
        for look, (start, stop) in enumerate(itertools.pairwise([0, *bounds])):
            for first in range(start, stop, self._per_piece):
                last = min(first + self._per_piece, stop)
                bounds_left = bounds[look:] if bits is not None else bounds[-1:]
                yield from self._piece(first, last, self._racing(), bounds_left)
            if self.is_over:
                break
            if stop < self._total and bits is not None:
                yield from self._look(look, stop, bits)
        for candidate in self._racing():
            if entry := self._ledger.mark(candidate.pair, settled=False):
                yield Scored(asdict(entry))
        self._ledger.save(now=True)

    def further(self, candidates: Sequence[Candidate], targets: Mapping[Pair, int]) -> Iterator[Event]:
        """Measure more candidates, each on as many windows as `targets` says; no race stops them."""
        held = {each.pair for each in self._candidates}
        self._candidates += [each for each in candidates if each.pair not in held]
        self._targets |= targets
        ends = sorted({targets[each.pair] for each in candidates})
        for start, stop in itertools.pairwise([0, *ends]):
            for first in range(start, stop, self._per_piece):
                last = min(first + self._per_piece, stop)
                going = [each for each in candidates if targets[each.pair] >= last and self._is_wanted(each)]
                yield from self._piece(first, last, going, [stop])
        for each in filter(self._is_wanted, candidates):
            self._stopped[each.pair] = count = self._ledger.measured(each.pair)
            if entry := self._ledger.mark(each.pair, settled=targets[each.pair] <= count < self._total):
                yield Scored(asdict(entry))
        self._ledger.save(now=True)

    def coarse(self, candidates: Sequence[Candidate], windows: int) -> Iterator[Event]:
        """Measure candidates on the first windows, in that order, some at a time, while there is time.

        The very first are measured however late it is: all predictions, and so a plan, come from them.
        """
        todo = [each for each in candidates if self._ledger.measured(each.pair) < windows]
        text, count = None, 1
        while todo and (self._lacks_first(candidates) or not self.is_over):
            if text is None:
                text = self._opened(list(self._ledger.order[:windows]))
            some, todo = todo[:count], todo[count:]
            some = [each for each in some if self._is_wanted(each)]
            yield from self._measured(text, in_order(some), [windows], whole=self._lacks_first(candidates))
            count = self._fitting(todo, windows, 4 * count)

    def _lacks_first(self, candidates: Sequence[Candidate]) -> bool:
        return sum(self._ledger.measured(each.pair) > 0 for each in candidates) < min(_FIRST, len(candidates))

    def coarse_to(self, candidates: Sequence[Candidate], targets: Mapping[Pair, int]) -> Iterator[Event]:
        """As `further`, the most worthwhile first, while there is time."""
        todo, count = list(candidates), 1
        while todo and not self.is_over:
            some, todo = todo[:count], todo[count:]
            yield from self.further(some, {each.pair: targets[each.pair] for each in some})
            most = max((targets[each.pair] for each in todo), default=1)
            count = self._fitting(todo, most, 8 * count)

    def seconds_to(self, candidates: Sequence[Candidate], bound: int) -> float:
        """What racing these up to so many windows is expected to take."""
        measured = {each.pair: self._ledger.measured(each.pair) for each in candidates}
        bounds = [each for each in race.looks(self._total) if each <= bound]
        costs = {each.pair: self._cost(each) for each in candidates}
        return self.pace.left(measured, bounds, costs) or 0.0

    def _fitting(self, todo: Sequence[Candidate], windows: int, most: int) -> int:
        """How many of the next candidates take no more than half of the time left, one at least."""
        room, count = self._clock.left / 2, 0
        for each in todo[:most]:
            room -= self.pace.of(self._cost(each), windows) or 0.0
            if room < 0:
                break
            count += 1
        return max(count, 1)

    def _is_wanted(self, candidate: Candidate) -> bool:
        return not self._ledger.is_unmeasurable(candidate.pair)

    def rounding_floor(self) -> dict[str, float]:
        """KL of a change too small to matter, as computed: what the precision's rounding alone looks like."""
        text = self._measuring.open(self._ids[: max(self._per_piece, 2)])
        kl = self._measuring.noise(text).estimates()["kl_pq"]
        return {"mean": kl.mean, "se": kl.se}

    def _racing(self) -> list[Candidate]:
        return [
            each
            for each in self._candidates
            if each.pair not in self._stopped and each.pair not in self._targets
        ]

    def _piece(
        self, first: int, last: int, candidates: Sequence[Candidate], bounds: Sequence[int]
    ) -> Iterator[Event]:
        """Candidates on the windows from `first` to `last` that they were not measured on yet."""
        held = {each.pair: max(first, self._ledger.measured(each.pair)) for each in candidates}
        for start in sorted(set(held.values())):
            todo = in_order([each for each in candidates if held[each.pair] == start < last])
            if not todo or self.is_over:
                continue
            places = list(self._ledger.order[start:last])
            yield self._progress("Running the full-precision model")
            text = self._opened(places)
            for some in self._in_time(todo, last - start):
                yield from self._measured(text, some, bounds)

    def _opened(self, places: list[int]) -> Any:
        started = time.perf_counter()
        text = self._measuring.open(self._ids[places])
        self.pace.opened(len(places), time.perf_counter() - started)
        if not text.finite:
            raise ModelError(
                "Cannot measure this model",
                f"its full-precision predictions are not finite{self._culprit()}",
                "Download the model again, or choose another",
            )
        return text

    def _in_time(self, todo: Sequence[Candidate], windows: int) -> Iterator[Sequence[Candidate]]:
        """All at once or, where none is done before most are and the time is limited, as many as fit."""
        if not (self._measuring.together and self._clock.is_limited):
            yield todo
            return
        while todo and not self.is_over:
            count = self._fitting(todo, windows, len(todo))
            yield todo[:count]
            todo = todo[count:]

    def _measured(
        self, text: Text, todo: Sequence[Candidate], bounds: Sequence[int], *, whole: bool = False
    ) -> Iterator[Event]:
        """Measure these; with `whole` to their end, and otherwise until the time is up."""
        place = 0
        with contextlib.closing(self._measuring.found(text, todo)) as results:
            for found in results:
                candidate = todo[place]
                self._cancel.check()
                if isinstance(found, Found):
                    place += 1
                    self.pace.measured(found.timing)
                    yield from self._entered(candidate, found.samples, text.signal)
                yield self._progress(
                    f"{candidate.weight.name} in {candidate.format.label}", self._left(todo[place:], bounds)
                )
                if self.is_over and not whole:
                    return

    def _progress(self, message: str, left: float | None = None) -> Progress:
        total = len(self._candidates) + self.expected
        return Progress(STAGE, self._done(), total, message, "entries", left)

    def _left(self, now: Sequence[Candidate], bounds: Sequence[int]) -> float | None:
        """Seconds, for what races or, where nothing does, for what is being measured."""
        going = self._racing() or now
        measured = {each.pair: self._ledger.measured(each.pair) for each in going}
        costs = {each.pair: self._cost(each) for each in going}
        left = self.pace.left(measured, bounds, costs)
        return left if left is None or not self._clock.is_limited else min(left, self._clock.left)

    def _cost(self, candidate: Candidate) -> Cost:
        return Cost(blocks_to_run(candidate.weight, self._measuring.depth), candidate.weight.parameters)

    def _entered(
        self, candidate: Candidate, samples: Samples | str, signal: Sequence[float]
    ) -> Iterator[Event]:
        if isinstance(samples, Samples):
            entry = self._ledger.add(candidate.pair, samples, signal)
            self._ledger.save()
            if entry:
                yield Scored(asdict(entry))
            return
        self._ledger.reject(candidate.pair, samples)
        self._ledger.save()
        self._candidates.remove(candidate)
        yield Note(
            f"{candidate.weight.name} in {candidate.format.label} gives no finite result: {samples}; "
            "it stays FP16",
            "warning",
        )

    def _look(self, look: int, windows_so_far: int, bits: float) -> Iterator[Event]:
        """Stop the entries whose rank is known."""
        series = {
            each.pair: self._ledger.samples(each.pair).kl_pq[: self._stopped.get(each.pair, windows_so_far)]
            for each in self._candidates
            if each.pair not in self._targets
        }
        decided = self._decided(series, look, bits)
        for fmt in dict.fromkeys(each.format for each in self._candidates):
            runners = [each for each in self._candidates if each.format == fmt]
            racing = [index for index, each in enumerate(runners) if each.pair not in self._stopped]
            for index in race.settled(
                [series[each.pair] for each in runners],
                racing,
                look,
                decided=[index for index, each in enumerate(runners) if each.weight.name in decided],
            ):
                pair = runners[index].pair
                self._stopped[pair] = windows_so_far
                if self._ledger.measured(pair) < self._total and (
                    entry := self._ledger.mark(pair, settled=True)
                ):
                    yield Scored(asdict(entry))
        self._ledger.save()
        tokens = windows_so_far * self._ids.shape[1]
        yield Note(
            f"After {tokens:,} tokens, {len(self._stopped):,} of {len(self._candidates):,} entries "
            f"are settled ({race.CONFIDENCE:.0%} confidence for each comparison)"
        )

    def _decided(self, series: Mapping[tuple[str, str], Sequence[float]], look: int, bits: float) -> set[str]:
        """The weights whose format in a plan of so many bits no more text will change."""
        formats = self._menu or list(dict.fromkeys(each.format for each in self._candidates))
        about = {each.weight.name: each.weight for each in self._candidates}
        series = self._ledger.scaled(series, [(name, fmt.name) for name in about for fmt in formats])
        weights = [
            weight for weight in about.values() if all((weight.name, fmt.name) in series for fmt in formats)
        ]
        if not weights:
            return set()
        sizes = [
            [stored_bytes(weight.shape, fmt) for fmt in (parse_format("fp16"), *formats)]
            for weight in weights
        ]
        found = decision.decided(
            np.array(sizes, dtype=float),
            [[series[weight.name, fmt.name] for fmt in formats] for weight in weights],
            bits / 8 * sum(weight.parameters for weight in weights),
            look,
        )
        return {weights[index].name for index in found}

    def _done(self) -> float:
        """Entries finished, those under way by the share of the text they were measured on."""
        return sum(
            1.0
            if each.pair in self._stopped
            else min(self._ledger.measured(each.pair) / self._targets.get(each.pair, self._total), 1.0)
            for each in self._candidates
        )

    def _culprit(self) -> str:
        broken = next(self._measuring.broken(), "")
        return f"; {broken} contains NaN or infinity" if broken else ""


def in_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Embeddings, then block by block, then the head: the order in which a walk meets them."""
    return sorted(candidates, key=lambda each: place_of(each.weight))


def place_of(weight: Weight) -> tuple[bool, int]:
    """By which weights are in the order of a forward pass."""
    return weight.kind == "head", -1 if weight.block is None else weight.block


def blocks_to_run(weight: Weight, depth: int) -> int:
    return 0 if weight.kind == "head" else depth - (weight.block or 0)
