"""Comparing changed models whose weights stay on disk: block by block, and each block for all at once.

A block is widened once, and the hidden states of many changed models pass it before the next one is. What
`Walk` compares one after another in weights that all lie in memory, this compares in the memory of one block.
"""

import functools
import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from kl_lens_desktop.model.by_block import ByBlock, Change
from kl_lens_desktop.model.inventory import Weight, input_channels
from kl_lens_desktop.sensitivity.disk_lanes import BATCH_TOKENS, DiskLanes
from kl_lens_desktop.sensitivity.forward import Beside, head, observed, trunk
from kl_lens_desktop.sensitivity.metrics import Reference, Tally, next_token_nats, reference
from kl_lens_desktop.sensitivity.pace import Timing

TOGETHER_TOKENS = 2**13  # pass a block together: enough to make little of the time that widening takes
HELD_ELEMENTS = 2**25  # of their hidden states, 128 MB
LOGIT_ELEMENTS = 2**25  # logits of compared models at a time in all lanes, 128 MB
HELD_WEIGHTS = 2**26  # elements of rounded weights in all lanes, 256 MB
KEPT_ELEMENTS = 2**26  # full-precision logits kept, if they are no more than this (256 MB)

Changes = Mapping[str, Change]
Result = TypeVar("Result", Tally, list[float])
Figures = TypeVar("Figures", Tally, Tensor)
States = list[Tensor]
"""Hidden states (windows, window, size), batch by batch."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A model with other values of some weights.

    Attributes
    ----------
    changes : mapping of str to Change
        By weight.
    start : int or None
        The first block that they change, 0 for the embedding; None for the head alone.
    """

    changes: Changes
    start: int | None


def changed(weight: Weight, change: Change) -> Changed:
    """The model with other values of one weight."""
    return Changed({weight.name: change}, None if weight.kind == "head" else weight.block or 0)


@dataclass(frozen=True, slots=True)
class _Passing:
    """A model before a block: its states, none before the first, its changes, and which are its own."""

    states: States | None
    changes: Changes
    own: Changes


@dataclass(frozen=True, slots=True)
class _Last(Generic[Figures]):
    """A batch of a model behind the last block, and the figures to which it adds."""

    states: States
    batch: int
    figures: Figures
    changes: Changes


class Stream:
    """A model on a text, and how changed ones differ.

    Parameters
    ----------
    lanes : DiskLanes
        Entered while anything is computed.
    ids : Tensor
        Token ids (windows, window).
    plan : mapping of str to Change, optional
        Changes that all compared models have; what they are compared with stays the full-precision model.
    compared : bool
        Whether `compare` will be called, or cross-entropies are all that is asked for.
    begun : bool
        Whether the full-precision model runs at once; else `begin` has it run, before anything else.

    Attributes
    ----------
    signal : list of float
        Mean square of the full-precision logits in each window.
    finite : bool
        Whether the full-precision model predicts anything at all.
    timing : Timing
        What all comparisons took so far.
    """

    def __init__(
        self,
        lanes: DiskLanes,
        ids: Tensor,
        *,
        plan: Changes | None = None,
        compared: bool = True,
        begun: bool = True,
    ) -> None:
        self._lanes, self._plan, self._compared = lanes, dict(plan or {}), compared
        self._shape = count, window = ids.shape
        per_batch = max(1, BATCH_TOKENS // window)
        self._ids = ids.split(per_batch)
        self._rows = torch.arange(count).split(per_batch)
        self._labels = nn.functional.pad(ids[:, 1:], (0, 1), value=-1).split(per_batch)
        self._tokens = ids.numel()
        config = lanes.main.model.config.get_text_config()
        self._keeps = self._tokens * config.vocab_size <= KEPT_ELEMENTS
        held = HELD_ELEMENTS // max(input_channels(lanes.main.model))
        self._together = max(1, min(held, TOGETHER_TOKENS) // self._tokens)
        self._slice = max(1, LOGIT_ELEMENTS // lanes.count // config.vocab_size)  # tokens
        most = HELD_WEIGHTS // lanes.count
        stored = lanes.main.stored.items()
        self._small = {name for name, each in stored if each.dim() == 2 and each.numel() <= most}
        self._output: type[object] | None = None
        self._beside: list[Beside] = []
        self._block = 0  # the next that the plan's states are to pass
        self._states: States | None = None  # none before the first block, where the embeddings run too
        self._final: States = []
        self.timing = Timing()
        self.signal: list[float] = []
        self.finite = True
        self._full: list[list[Reference]] | None = None
        if begun:
            for _ in self.begin():
                pass

    def begin(self) -> Iterator[float]:
        """Run the full-precision model; on the way, shares from 0 to 1 of the blocks that it has passed."""
        yield from self._first_pass()
        if self._compared:
            self._look_at_references(kept=self._keeps)

    @property
    def depth(self) -> int:
        return len(self._lanes.main.blocks)

    def compare(self, models: Sequence[Changed]) -> Iterator[Tally | float]:
        """The tally of each model in turn, on the whole text.

        Before those of some models there are shares, from 0 to 1, of the blocks that these have passed.
        """

        def add(lane: ByBlock, last: _Last[Tally]) -> None:
            kept = self._full[last.batch] if self._full is not None else None
            clean = self._references(lane, last.batch) if kept is None else kept
            for hidden, full in zip(self._slices(last.states, last.batch), clean, strict=True):
                last.figures.add(full, self._logits(lane, hidden, last.changes))

        return self._measured(models, lambda: Tally(*self._shape), add)

    def cross_entropies(self, models: Sequence[Changed]) -> Iterator[list[float] | float]:
        """The mean cross-entropy of the next token in each window; otherwise as `compare`."""

        def add(lane: ByBlock, last: _Last[Tensor]) -> None:
            slices = zip(
                self._slices(last.states, last.batch), *self._labels_and_rows(last.batch), strict=True
            )
            for hidden, labels, rows in slices:
                nats = next_token_nats(self._logits(lane, hidden, last.changes), labels)
                last.figures.index_add_(0, rows, nats.double())

        for sums in self._measured(models, lambda: torch.zeros(self._shape[0], dtype=torch.float64), add):
            yield sums if isinstance(sums, float) else (sums / (self._shape[1] - 1)).tolist()

    def _measured(
        self,
        models: Sequence[Changed],
        empty: Callable[[], Figures],
        add: Callable[[ByBlock, _Last[Figures]], None],
    ) -> Iterator[Figures | float]:
        """Each model's figures, to which lanes add its batches: no two have windows in common."""
        step, starts = self._together, [self._start(model) for model in models]
        batches, count = range(len(self._ids)), self._lanes.count
        for first in range(0, len(models), step):
            group, states = models[first : first + step], dict[int, States]()
            following = min(starts[first + step : first + 2 * step], default=0)
            yield from self._pass(group, states, following)
            for some in range(0, len(group), count):
                started, found = time.perf_counter(), []
                items: list[_Last[Figures]] = []
                for place, model in enumerate(group[some : some + count], some):
                    last, figures = states.pop(place, self._final), empty()
                    items += [_Last(last, batch, figures, self._all(model)) for batch in batches]
                    found.append(figures)
                self._lanes.each(add, items)
                self.timing.head_s += time.perf_counter() - started
                self.timing.head_work += self._tokens * len(found)
                yield from found

    def _start(self, model: Changed) -> int:
        """The first block to run; in a plan, whose last states are not kept, the head takes the last one."""
        if model.start is not None:
            return model.start
        return self.depth - 1 if self._plan else self.depth

    def _pass(self, models: Sequence[Changed], states: dict[int, States], following: int) -> Iterator[float]:
        """Fill in the last `states` of the models by place, and move the plan's on to block `following`."""
        starts = {place: self._start(model) for place, model in enumerate(models)}
        starts = {place: start for place, start in starts.items() if start < self.depth}
        if not starts:
            return
        first = min(starts.values())
        if first < self._block:
            self._block, self._states = 0, None
        until = max(*starts.values(), following)
        for block in range(self._block, self.depth):
            started = time.perf_counter()
            live = [place for place, start in starts.items() if start <= block]
            passing = [_Passing(self._states, self._plan, {})] if block < until else []
            for place in live:
                states_before = self._states if starts[place] == block else states[place]
                changes = models[place].changes
                passing.append(_Passing(states_before, {**self._plan, **changes}, changes))
            passed = self._through(block, passing)
            if block < until:
                self._block, self._states = block + 1, passed.pop(0)
            states.update(zip(live, passed, strict=True))
            self.timing.trunk_s += time.perf_counter() - started
            self.timing.trunk_work += len(live) * self._tokens
            if live:
                yield (block + 1 - first) / (self.depth - first)

    def _all(self, model: Changed) -> Changes:
        return {**self._plan, **model.changes}

    def _through(self, block: int, models: Sequence[_Passing]) -> list[States]:
        """Of each model the input of the next block or, behind the last, the states after the final norm."""
        batches = range(len(self._ids))
        turns: dict[Hashable, list[int]] = {}
        for place, model in enumerate(models):
            turns.setdefault(self._turn(block, model), []).append(place)
        found: dict[int, States] = {}
        for places in turns.values():
            items = [(models[place], batch) for place in places for batch in batches]
            passed = self._lanes.each(functools.partial(self._trunk, block), items)
            for number, place in enumerate(places):
                found[place] = passed[number * len(batches) : (number + 1) * len(batches)]
        return [found[place] for place in range(len(models))]

    def _turn(self, block: int, model: _Passing) -> Hashable:
        """The same for models that can pass a block at the same time."""
        main, apart = self._lanes.main, self._apart(block, model)
        read = (name for name in {**self._plan, **model.changes} if main.reads(block, name))
        seen = ((name, (self._plan if name == apart else model.changes).get(name)) for name in read)
        return frozenset((name, change) for name, change in seen if change is not None)

    def _apart(self, block: int, model: _Passing) -> str | None:
        """The weight that a model has to itself in a block: the only one that it changes, if not large."""
        read = [name for name in model.own if self._lanes.main.reads(block, name)]
        return read[0] if len(read) == 1 and read[0] in self._small else None

    def _trunk(self, block: int, lane: ByBlock, passing: tuple[_Passing, int]) -> Tensor:
        model, batch = passing
        hidden = None if model.states is None else model.states[batch]
        stop = block + 1 if block + 1 < self.depth else None
        with lane.changed(model.changes, self._apart(block, model)):
            reached = trunk(lane.model, lane.blocks, self._ids[batch], block, hidden, stop, self._beside)
        if isinstance(reached, Tensor):
            return reached
        self._output = type(reached)
        final: Tensor = reached.last_hidden_state
        return final

    def _first_pass(self) -> Iterator[float]:
        """Keep the full-precision states after the final norm, and what each block returns beside them."""
        states: States | None = None
        main = self._lanes.main
        for place, block in enumerate(main.blocks):
            model = _Passing(states, {}, {})
            with observed(block, None, self._beside):
                first = self._trunk(place, main, (model, 0))
            others = [(model, batch) for batch in range(1, len(self._ids))]
            states = [first, *self._lanes.each(functools.partial(self._trunk, place), others)]
            yield (place + 1) / self.depth
        assert states is not None
        self._final = states

    def _look_at_references(self, *, kept: bool) -> None:
        def look(lane: ByBlock, batch: int) -> list[Reference]:
            found = self._references(lane, batch)
            return [each if kept else replace(each, logits=torch.empty(0)) for each in found]

        full = self._lanes.each(look, range(len(self._ids)))
        sums = torch.zeros(self._shape[0], dtype=torch.float64)
        for each in itertools.chain(*full):
            sums.index_add_(0, each.rows, each.signal.double())
            self.finite &= bool(each.log_norm.isfinite().all())
        self._full = full if kept else None
        self.signal = (sums / self._shape[1]).tolist()

    def _references(self, lane: ByBlock, batch: int) -> Iterator[Reference]:
        """The full-precision model on the tokens of a batch, slice by slice."""
        for hidden, labels, rows in zip(
            self._slices(self._final, batch), *self._labels_and_rows(batch), strict=True
        ):
            yield reference(self._logits(lane, hidden, {}), labels, rows)

    def _slices(self, states: States, batch: int) -> Sequence[Tensor]:
        slices: Sequence[Tensor] = states[batch].flatten(0, 1).split(self._slice)
        return slices

    def _labels_and_rows(self, batch: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The next token and the window of each token, slice by slice."""
        rows = self._rows[batch].repeat_interleave(self._shape[1])
        return self._labels[batch].flatten().split(self._slice), rows.split(self._slice)

    def _logits(self, lane: ByBlock, hidden: Tensor, changes: Changes) -> Tensor:
        assert self._output is not None
        with lane.changed(changes):
            return head(lane.model, self._output, self._ids[0][:1, :1], hidden)


def only(results: Iterable[Result | float]) -> Result:
    """The result of a single model."""
    (found,) = (result for result in results if not isinstance(result, float))
    return found
