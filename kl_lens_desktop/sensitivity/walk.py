"""Running only the blocks that a change can reach, from the stored clean state on."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kl_lens_desktop.model.inventory import input_channels
from kl_lens_desktop.sensitivity.forward import Beside, head, observed, trunk
from kl_lens_desktop.sensitivity.lanes import Lane
from kl_lens_desktop.sensitivity.metrics import Reference, Tally, next_token_nats, reference
from kl_lens_desktop.sensitivity.pace import Timing
from kl_lens_desktop.sensitivity.stream import only

SLICE_ELEMENTS = 3 * 2**23  # logits at a time in all lanes, 96 MB: few tokens make a slow product of matrices
PASS_ELEMENTS = 3 * 2**19  # so many fewer for each lane beyond two, whose blocks take memory too
INPUT_ELEMENTS = 2**24  # inputs of all blocks kept, if they are no more than this (64 MB)
CACHE_ELEMENTS = 2**25  # full-precision logits kept, if they are no more than this (128 MB)
BATCH_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Position:
    """A block and its clean input, batch by batch; none before the first, where the embeddings run too."""

    block: int
    inputs: Sequence[Tensor] | None


class Walk:
    """A model on a text, and its clean state before one block at a time.

    Memory is one hidden state per token for the current block and one for the last or, where all of them are
    small, one for each block, which saves running the blocks a second time.

    Parameters
    ----------
    lane : Lane
        What to walk with.
    ids : Tensor
        Token ids (windows, window).
    plan : mapping of str to Tensor, optional
        New values of parameters that the state walks with; what is compared with stays the full-precision
        model.
    lanes : int
        How many will compare at the same time and share the memory.
    compared : bool
        Whether `compare` will be called, or cross-entropies are all that is asked for.
    begun : bool
        Whether the full-precision model runs at once; else `begin` has it run, before anything else.

    Attributes
    ----------
    position : Position
        Where the state is.
    signal : list of float
        Mean square of the full-precision logits in each window.
    finite : bool
        Whether the full-precision model predicts anything at all.
    """

    def __init__(
        self,
        lane: Lane,
        ids: Tensor,
        *,
        plan: Mapping[str, Tensor] | None = None,
        lanes: int = 1,
        compared: bool = True,
        begun: bool = True,
    ) -> None:
        self._lane, self._plan, self._compared = lane, dict(plan or {}), compared
        count, window = ids.shape
        per_batch = max(1, BATCH_TOKENS // window)
        self._ids = list(ids.to(lane.model.device).split(per_batch))
        self._rows = list(torch.arange(count).split(per_batch))
        labels = nn.functional.pad(ids[:, 1:], (0, 1), value=-1)
        self._labels = list(labels.to(lane.model.device).split(per_batch))
        self._shape = (count, window)
        self._start = self.position = Position(0, None)
        elements = ids.numel() * sum(input_channels(lane.model))
        self._inputs: list[list[Tensor]] | None = [] if not plan and elements <= INPUT_ELEMENTS else None
        self._beside: list[Beside] = []
        self._head_output: type[Any] | None = None
        self._final: list[Tensor] = []
        lanes = max(lanes, 2)
        elements = max(SLICE_ELEMENTS - (lanes - 2) * PASS_ELEMENTS, SLICE_ELEMENTS * 2 // 3)
        vocabulary = lane.model.config.get_text_config().vocab_size
        self._slice = max(1, elements // lanes // vocabulary)  # tokens
        self._full: list[list[Reference]] | None = None
        self.signal: list[float] = []
        self.finite = True
        self._keeps = ids.numel() * vocabulary <= CACHE_ELEMENTS
        if begun:
            for _ in self.begin():
                pass

    def begin(self) -> Iterator[float]:
        """Run the full-precision model; on the way, shares from 0 to 1 of the text that it has read."""
        self._lane.wait()
        sums = torch.zeros(self._shape[0], dtype=torch.float64)
        full: list[list[Reference]] = []
        for batch in range(len(self._ids)):
            self._final.append(self._first_pass(batch))
            full.append([])
            for each in self._references(self._lane, batch) if self._compared else ():
                sums.index_add_(0, each.rows, each.signal.double().cpu())
                self.finite &= bool(each.log_norm.isfinite().all())
                if self._keeps:
                    full[-1].append(each)
            yield (batch + 1) / len(self._ids)
        if self._compared:
            self._full = full if self._keeps else None
            self.signal = (sums / self._shape[1]).tolist()

    @property
    def depth(self) -> int:
        return len(self._lane.blocks)

    def restart(self) -> None:
        """Move the state back to the beginning."""
        self.position = self._start

    def advance(self, block: int) -> None:
        """Move the state on to the input of `block`; back only from the beginning again."""
        if block < self.position.block:
            self.restart()
        if self._inputs is not None and block > self.position.block:
            self.position = Position(block, [inputs[block] for inputs in self._inputs])
        while self.position.block < block:
            stop = self.position.block + 1
            with self._lane.swapped(self._plan):
                inputs = [
                    self._trunk(self._lane, batch, self.position, stop) for batch in range(len(self._ids))
                ]
            self.position = Position(stop, inputs)

    def compare(
        self,
        swaps: Mapping[str, Tensor],
        *,
        head_only: bool = False,
        lane: Lane | None = None,
        position: Position | None = None,
        timing: Timing | None = None,
    ) -> Tally:
        """The model with some weights replaced, against the full-precision one, on the whole text.

        Parameters
        ----------
        swaps : mapping of str to Tensor
            New values by parameter; none may sit in a block before the position.
        head_only : bool
            The swaps touch nothing before the output embedding.
        lane : Lane, optional
            What to compare with, if it is not the one that walks.
        position : Position, optional
            Where to start, if it is not where the state is now.
        timing : Timing, optional
            Where the time this takes is added.
        """
        results = self.comparing(swaps, head_only=head_only, lane=lane, position=position, timing=timing)
        return only(results)

    def comparing(
        self,
        swaps: Mapping[str, Tensor],
        *,
        head_only: bool = False,
        lane: Lane | None = None,
        position: Position | None = None,
        timing: Timing | None = None,
    ) -> Iterator[Tally | float]:
        """As `compare`; before the tally, shares from 0 to 1 of the text that was compared."""
        lane, position, timing = lane or self._lane, position or self.position, timing or Timing()
        tally = Tally(*self._shape)
        changed = {**self._plan, **swaps}
        for batch, ids in enumerate(self._ids):
            lane.wait()
            started = time.perf_counter()
            hidden = self._changed(lane, batch, changed, None if head_only else position)
            reached = time.perf_counter()
            full = self._full[batch] if self._full is not None else self._references(lane, batch)
            for each, clean in zip(hidden, full, strict=True):
                with lane.swapped(changed):
                    logits = self._head(lane, each)
                tally.add(clean, logits)
            timing.trunk_s += reached - started
            timing.trunk_work += 0 if head_only else ids.numel() * (self.depth - position.block)
            timing.head_s += time.perf_counter() - reached
            timing.head_work += ids.numel()
            yield (batch + 1) / len(self._ids)
        yield tally

    def judge(self, logits: Callable[[Tensor], Tensor]) -> Tally:
        """What another program computes of the whole text, against the full-precision model.

        Parameters
        ----------
        logits : callable
            From token ids (windows, window) to logits (windows, window, vocabulary).
        """
        tally = Tally(*self._shape)
        for batch, ids in enumerate(self._ids):
            self._lane.wait()
            theirs = logits(ids).to(ids.device).flatten(0, 1).float().split(self._slice)
            full = self._full[batch] if self._full is not None else self._references(self._lane, batch)
            for clean, part in zip(full, theirs, strict=True):
                tally.add(clean, part)
        return tally

    def cross_entropies(
        self, swaps: Mapping[str, Tensor], *, head_only: bool, lane: Lane, position: Position
    ) -> list[float]:
        """Of the next token with some weights replaced, the mean of each window; otherwise as `compare`."""
        sums = torch.zeros(self._shape[0], dtype=torch.float64)
        for batch in range(len(self._ids)):
            lane.wait()
            hidden = self._changed(lane, batch, swaps, None if head_only else position)
            for each, labels, rows in zip(hidden, *self._labels_and_rows(batch), strict=True):
                with lane.swapped(swaps):
                    logits = self._head(lane, each)
                sums.index_add_(0, rows, next_token_nats(logits, labels).double().cpu())
        means: list[float] = (sums / (self._shape[1] - 1)).tolist()
        return means

    def _changed(
        self, lane: Lane, batch: int, swaps: Mapping[str, Tensor], position: Position | None
    ) -> Sequence[Tensor]:
        """Hidden states after the final norm, slice by slice; the clean ones if there is no position."""
        hidden = self._final[batch]
        if position is not None:
            with lane.swapped(swaps):
                hidden = self._trunk(lane, batch, position, None)
        slices: Sequence[Tensor] = hidden.flatten(0, 1).split(self._slice)
        return slices

    def _first_pass(self, batch: int) -> Tensor:
        """The full-precision hidden state after the final norm, noting the input of each block on the way."""
        noted: list[Tensor] = []
        self._beside = []
        inputs = None if self._inputs is None else noted
        with contextlib.ExitStack() as stack:
            for block in self._lane.blocks:
                stack.enter_context(observed(block, inputs, self._beside))
            final = self._trunk(self._lane, batch, self._start, None)
        if self._inputs is not None:
            self._inputs.append(noted)
        return final

    def _references(self, lane: Lane, batch: int) -> Iterator[Reference]:
        """The full-precision model on the tokens of a batch, slice by slice."""
        hidden = self._changed(lane, batch, {}, None)
        for each, labels, rows in zip(hidden, *self._labels_and_rows(batch), strict=True):
            yield reference(self._head(lane, each), labels, rows)

    def _labels_and_rows(self, batch: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The next token and the window of each token, slice by slice."""
        rows = self._rows[batch].repeat_interleave(self._shape[1])
        return self._labels[batch].flatten().split(self._slice), rows.split(self._slice)

    def _trunk(self, lane: Lane, batch: int, position: Position, stop: int | None) -> Tensor:
        """Hidden state after the final norm or, with `stop`, the input of that block."""
        hidden = None if position.inputs is None else position.inputs[batch]
        reached = trunk(lane.model, lane.blocks, self._ids[batch], position.block, hidden, stop, self._beside)
        if isinstance(reached, Tensor):
            return reached
        self._head_output = type(reached)
        final: Tensor = reached.last_hidden_state
        return final

    def _head(self, lane: Lane, hidden: Tensor) -> Tensor:
        assert self._head_output is not None
        return head(lane.model, self._head_output, self._ids[0][:1, :1], hidden)
