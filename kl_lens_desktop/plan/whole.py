"""Whole plans on one text, and single exchanges in them, with all weights in memory or those of one block."""

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from kl_lens_desktop.model.inventory import Weight
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.roundings import Change, changed_values
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.lanes import Lane
from kl_lens_desktop.sensitivity.metrics import Tally
from kl_lens_desktop.sensitivity.stream import Changed, Stream, changed
from kl_lens_desktop.sensitivity.walk import Walk

Move = tuple[Weight, Change]
Around = Callable[[Sequence[Move]], Iterator[Tally]]
"""From moves, in the order of the forward pass, to the tally of each, made alone in some plan."""


class Measures(Protocol):
    """A way of measuring plans on a text."""

    def whole(self, plan: Mapping[str, Change]) -> Generator[float, None, Tally]:
        """A whole plan; on the way, how many times the text has passed a model."""

    def moved(self, plan: Mapping[str, Change], moves: Sequence[Move]) -> Iterator[Tally]:
        """Each move alone made in the plan, in the order of the forward pass."""


class PlansInMemory:
    """Plans measured with all weights in memory."""

    def __init__(self, loaded: LoadedModel, ids: Tensor, cancel: Cancel) -> None:
        self._ids, self._lane = ids, Lane(loaded.model, cancel)
        self.originals: dict[str, Tensor] = {
            name: parameter.data for name, parameter in self._lane.parameters.items()
        }
        self._start: Walk | None = None  # at the model's first block, for whole plans

    def whole(self, plan: Mapping[str, Change]) -> Generator[float, None, Tally]:
        passed = 0.0
        if self._start is None:
            start = Walk(self._lane, self._ids, begun=False)
            yield from start.begin()
            self._start, passed = start, 1.0
        return (yield from _tally_of(self._start.comparing(self._rounded(plan)), passed))

    def around(self, plan: Mapping[str, Change]) -> Around:
        """The plan's own state before a block is held, so that only what a move can reach is run."""
        self._start = None  # one set of full-precision logits in memory is enough
        return functools.partial(self._moved, Walk(self._lane, self._ids, plan=self._rounded(plan)))

    def moved(self, plan: Mapping[str, Change], moves: Sequence[Move]) -> Iterator[Tally]:
        yield from self.around(plan)(moves)

    def _moved(self, walk: Walk, moves: Sequence[Move]) -> Iterator[Tally]:
        for weight, change in moves:
            if weight.block is not None:
                walk.advance(weight.block)
            # The last state that is held is the full-precision model's, so the head takes the trunk too.
            yield walk.compare(self._rounded({weight.name: change}))

    def _rounded(self, changes: Mapping[str, Change]) -> dict[str, Tensor]:
        return {name: changed_values(self.originals[name], each) for name, each in changes.items()}


class PlansOnDisk:
    """Plans measured with the weights of one block in memory."""

    def __init__(self, loaded: LoadedModel, ids: Tensor, cancel: Cancel) -> None:
        self._ids, self._lanes = ids, DiskLanes(loaded.model, cancel)
        self.originals = self._lanes.main.stored
        blocks = sum(p.numel() for p in self._lanes.main.blocks.parameters())
        self._trunk = blocks / (blocks + self._lanes.main.stored_head.numel())
        self._start: Stream | None = None

    def whole(self, plan: Mapping[str, Change]) -> Generator[float, None, Tally]:
        passed = 0.0
        with self._lanes:
            if self._start is None:
                start = Stream(self._lanes, self._ids, begun=False)
                yield from (self._trunk * share for share in start.begin())
                self._start, passed = start, 1.0
            results = self._start.compare([Changed(plan, 0)])
            return (yield from _tally_of(results, passed, self._trunk))

    def around(self, plan: Mapping[str, Change]) -> Around:
        """As `PlansInMemory.around`."""
        self._start = None
        with self._lanes:
            return functools.partial(self._moved, Stream(self._lanes, self._ids, plan=plan))

    def moved(self, plan: Mapping[str, Change], moves: Sequence[Move]) -> Iterator[Tally]:
        yield from self.around(plan)(moves)

    def _moved(self, stream: Stream, moves: Sequence[Move]) -> Iterator[Tally]:
        with self._lanes:
            found = stream.compare([changed(weight, change) for weight, change in moves])
            yield from (tally for tally in found if not isinstance(tally, float))


def measures_here(loaded: LoadedModel, ids: Tensor, cancel: Cancel) -> PlansInMemory | PlansOnDisk:
    """The way that suits a model as it was loaded, with as many threads as torch has."""
    return PlansOnDisk(loaded, ids, cancel) if loaded.mapped else PlansInMemory(loaded, ids, cancel)


def _tally_of(
    results: Iterator[Tally | float], passed: float, share: float = 1.0
) -> Generator[float, None, Tally]:
    """The tally; on the way, how often the text has passed if what precedes it is that share of a pass."""
    while not isinstance(found := next(results), Tally):
        yield passed + share * found
    yield passed + 1
    return found
