"""Comparing changed models whose weights stay on disk: block by block, and each block for all at once.

A block is widened once, and the hidden states of many changed models pass it before the next one is. What
`Walk` compares one after another in weights that all lie in memory, this compares in the memory of one block.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kl_lens_desktop.model.by_block import ByBlock, Change
from kl_lens_desktop.model.inventory import Weight
from kl_lens_desktop.quant.formats import Format
from kl_lens_desktop.sensitivity.forward import Beside, head, observed, trunk
from kl_lens_desktop.sensitivity.metrics import Reference, Tally, next_token_nats, reference
from kl_lens_desktop.sensitivity.walk import Timing

BATCH_TOKENS = 256  # of one model that pass a block at a time
TOGETHER_TOKENS = 2**13  # pass a block together: enough to make little of the time that widening takes
HELD_ELEMENTS = 2**25  # of their hidden states, 128 MB
LOGIT_ELEMENTS = 2**25  # logits of one model at a time, 128 MB
KEPT_ELEMENTS = 2**26  # full-precision logits kept, if they are no more than this (256 MB)

Result = TypeVar("Result", Tally, list[float])
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

    changes: Mapping[str, Change]
    start: int | None


def changed(weight: Weight, fmt: Format) -> Changed:
    """The model with one weight in a format."""
    return Changed({weight.name: fmt}, None if weight.kind == "head" else weight.block or 0)


class Stream:
    """A model on a text, and how changed ones differ.

    Parameters
    ----------
    weights : ByBlock
        Entered while anything is computed.
    ids : Tensor
        Token ids (windows, window).
    plan : mapping of str to Change, optional
        Changes that all compared models have; what they are compared with stays the full-precision model.
    compared : bool
        Whether `compare` will be called, or cross-entropies are all that is asked for.

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
        weights: ByBlock,
        ids: Tensor,
        *,
        plan: Mapping[str, Change] | None = None,
        compared: bool = True,
    ) -> None:
        self._weights, self._plan = weights, dict(plan or {})
        self._shape = count, window = ids.shape
        per_batch = max(1, BATCH_TOKENS // window)
        self._ids = ids.split(per_batch)
        self._rows = torch.arange(count).split(per_batch)
        self._labels = nn.functional.pad(ids[:, 1:], (0, 1), value=-1).split(per_batch)
        self._tokens = ids.numel()
        config = weights.model.config.get_text_config()
        held = HELD_ELEMENTS // config.hidden_size
        self._together = max(1, min(held, TOGETHER_TOKENS) // self._tokens)
        self._slice = max(1, LOGIT_ELEMENTS // config.vocab_size)  # tokens
        self._output: type[object] | None = None
        self._beside: list[Beside] = []
        self._block = 0  # the next that the plan's states are to pass
        self._states: States | None = None  # none before the first block, where the embeddings run too
        self._final = self._first_pass()
        self.timing = Timing()
        self.signal: list[float] = []
        self.finite = True
        self._full: list[list[Reference]] | None = None
        if compared:
            self._look_at_references(kept=self._tokens * config.vocab_size <= KEPT_ELEMENTS)

    @property
    def depth(self) -> int:
        return len(self._weights.blocks)

    def compare(self, models: Sequence[Changed]) -> Iterator[Tally | float]:
        """The tally of each model in turn, on the whole text.

        Before those of some models there are shares, from 0 to 1, of the blocks that these have passed.
        """
        for found in self._changed(models):
            if isinstance(found, float):
                yield found
                continue
            tally, started = Tally(*self._shape), time.perf_counter()
            model, states = found
            for batch in range(len(self._ids)):
                full = self._full[batch] if self._full is not None else self._references(batch)
                for hidden, clean in zip(self._slices(states, batch), full, strict=True):
                    tally.add(clean, self._logits(hidden, self._all(model)))
            self.timing.head_s += time.perf_counter() - started
            self.timing.head_work += self._tokens
            yield tally

    def cross_entropies(self, models: Sequence[Changed]) -> Iterator[list[float] | float]:
        """The mean cross-entropy of the next token in each window; otherwise as `compare`."""
        for found in self._changed(models):
            if isinstance(found, float):
                yield found
                continue
            model, states = found
            sums = torch.zeros(self._shape[0], dtype=torch.float64)
            for batch in range(len(self._ids)):
                slices = zip(self._slices(states, batch), *self._labels_and_rows(batch), strict=True)
                for hidden, labels, rows in slices:
                    nats = next_token_nats(self._logits(hidden, self._all(model)), labels)
                    sums.index_add_(0, rows, nats.double())
            yield (sums / (self._shape[1] - 1)).tolist()

    def _changed(self, models: Sequence[Changed]) -> Iterator[float | tuple[Changed, States]]:
        """Each model with its hidden states after the final norm."""
        step, starts = self._together, [self._start(model) for model in models]
        for first in range(0, len(models), step):
            group, states = models[first : first + step], dict[int, States]()
            following = min(starts[first + step : first + 2 * step], default=0)
            yield from self._pass(group, states, following)
            for place, model in enumerate(group):
                yield model, states.pop(place, self._final)

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
            before = self._states
            if block < until:
                self._block, self._states = block + 1, self._through(block, before, self._plan)
            live = [place for place, start in starts.items() if start <= block]
            # Those that leave the block as it is come first: each change has some of it widened anew.
            for place in sorted(live, key=lambda place: self._changes_in(block, models[place])):
                origin = before if starts[place] == block else states[place]
                states[place] = self._through(block, origin, self._all(models[place]))
            self.timing.trunk_s += time.perf_counter() - started
            self.timing.trunk_work += len(live) * self._tokens
            if live:
                yield (block + 1 - first) / (self.depth - first)

    def _all(self, model: Changed) -> Mapping[str, Change]:
        return {**self._plan, **model.changes}

    def _changes_in(self, block: int, model: Changed) -> list[str]:
        return sorted(name for name in model.changes if self._weights.reads(block, name))

    def _through(self, block: int, states: States | None, changes: Mapping[str, Change]) -> States:
        """The input of the next block or, behind the last, the states after the final norm."""
        with self._weights.changed(changes):
            return [self._trunk(block, states, batch) for batch in range(len(self._ids))]

    def _trunk(self, block: int, states: States | None, batch: int) -> Tensor:
        model, blocks = self._weights.model, self._weights.blocks
        hidden = None if states is None else states[batch]
        stop = block + 1 if block + 1 < self.depth else None
        reached = trunk(model, blocks, self._ids[batch], block, hidden, stop, self._beside)
        if isinstance(reached, Tensor):
            return reached
        self._output = type(reached)
        final: Tensor = reached.last_hidden_state
        return final

    def _first_pass(self) -> States:
        """The full-precision states after the final norm, noting what each block returns beside them."""
        states: States | None = None
        for place, block in enumerate(self._weights.blocks):
            with observed(block, None, self._beside):
                states = self._through(place, states, {})
            del self._beside[place + 1 :]  # of every batch but the first
        assert states is not None
        return states

    def _look_at_references(self, *, kept: bool) -> None:
        sums = torch.zeros(self._shape[0], dtype=torch.float64)
        full: list[list[Reference]] = []
        for batch in range(len(self._ids)):
            full.append([])
            for each in self._references(batch):
                sums.index_add_(0, each.rows, each.signal.double())
                self.finite &= bool(each.log_norm.isfinite().all())
                if kept:
                    full[-1].append(each)
        self._full = full if kept else None
        self.signal = (sums / self._shape[1]).tolist()

    def _references(self, batch: int) -> Iterator[Reference]:
        """The full-precision model on the tokens of a batch, slice by slice."""
        for hidden, labels, rows in zip(
            self._slices(self._final, batch), *self._labels_and_rows(batch), strict=True
        ):
            yield reference(self._logits(hidden, {}), labels, rows)

    def _slices(self, states: States, batch: int) -> Sequence[Tensor]:
        slices: Sequence[Tensor] = states[batch].flatten(0, 1).split(self._slice)
        return slices

    def _labels_and_rows(self, batch: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The next token and the window of each token, slice by slice."""
        rows = self._rows[batch].repeat_interleave(self._shape[1])
        return self._labels[batch].flatten().split(self._slice), rows.split(self._slice)

    def _logits(self, hidden: Tensor, changes: Mapping[str, Change]) -> Tensor:
        assert self._output is not None
        with self._weights.changed(changes):
            return head(self._weights.model, self._output, self._ids[0][:1, :1], hidden)


def only(results: Iterable[Result | float]) -> Result:
    """The result of a single model."""
    (found,) = (result for result in results if not isinstance(result, float))
    return found
