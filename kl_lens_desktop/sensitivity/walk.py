"""Running only the blocks that a change can reach.

The model's own forward stays in charge of masks, rotary embeddings and shared blocks; blocks before the
changed one are stood in for by stubs that return the stored clean state.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.model.inventory import blocks
from kl_lens_desktop.sensitivity.metrics import Reference, Tally, reference

SLICE_ELEMENTS = 2**24  # logits at a time, 64 MB: fewer tokens make a slow product of matrices
INPUT_ELEMENTS = 2**24  # inputs of all blocks kept, if they are no more than this (64 MB)
CACHE_ELEMENTS = 2**25  # full-precision logits kept, if they are no more than this (128 MB)
BATCH_TOKENS = 1024


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


@dataclass(slots=True)
class Timing:
    """Seconds spent, and the work they went into: blocks run and heads run, each counted by token."""

    trunk_s: float = 0.0
    trunk_work: int = 0
    head_s: float = 0.0
    head_work: int = 0


class Walk:
    """A model on a text, and its clean state before one block at a time.

    Memory is one hidden state per token for the current block and one for the last or, where all of them are
    small, one for each block, which saves running the blocks a second time.

    Parameters
    ----------
    model : PreTrainedModel
    ids : Tensor
        Token ids (windows, window).
    cancel : Cancel
        Checked before every batch.
    timing : Timing, optional
        Where comparisons add the time they take.
    keep_inputs : bool
        Whether the inputs of all blocks may be kept; not, if the weights change between two blocks.

    Attributes
    ----------
    block : int
        The block whose clean input is held.
    signal : list of float
        Mean square of the full-precision logits in each window.
    finite : bool
        Whether the full-precision model predicts anything at all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Tensor,
        cancel: Cancel,
        timing: Timing | None = None,
        *,
        keep_inputs: bool = True,
    ) -> None:
        self._model, self._cancel, self._timing = model, cancel, timing or Timing()
        self._blocks = blocks(model)
        self._beside: tuple[Any, ...] | None = (
            None  # what a block returns beside the hidden state, if a tuple
        )
        self.block = 0
        count, window = ids.shape
        per_batch = max(1, BATCH_TOKENS // window)
        self._ids = list(ids.to(model.device).split(per_batch))
        self._rows = list(torch.arange(count).split(per_batch))
        self._labels = list(nn.functional.pad(ids[:, 1:], (0, 1), value=-1).to(model.device).split(per_batch))
        self._shape = (count, window)
        self._state: list[Tensor] | None = None  # before block 0 the embeddings run as they are
        self._head_output: type[Any] | None = None
        # What is compared with stays in full precision, whatever values the weights are given meanwhile.
        self._clean_head = {weight: weight.data for weight in model.get_output_embeddings().parameters()}
        elements = self.depth * ids.numel() * model.config.get_text_config().hidden_size
        kept = keep_inputs and elements <= INPUT_ELEMENTS
        self._inputs: list[list[Tensor]] | None = [] if kept else None
        self._final = [self._first_pass(batch) for batch in range(len(self._ids))]
        vocabulary = model.config.get_text_config().vocab_size
        self._slice = max(1, SLICE_ELEMENTS // vocabulary)  # tokens
        self._full: list[list[Reference]] | None = [] if ids.numel() * vocabulary <= CACHE_ELEMENTS else None
        sums = torch.zeros(count, dtype=torch.float64)
        self.finite = True
        for batch in range(len(self._ids)):
            cancel.check()
            references = []
            for full in self._references(batch):
                sums.index_add_(0, full.rows.cpu(), full.signal.double().cpu())
                self.finite &= bool(full.log_norm.isfinite().all())
                if self._full is not None:
                    references.append(full)
            if self._full is not None:
                self._full.append(references)
        self.signal: list[float] = (sums / window).tolist()

    @property
    def depth(self) -> int:
        return len(self._blocks)

    def advance(self, block: int) -> None:
        """Move the clean state on to the input of `block`."""
        if self._inputs is not None and block > self.block:
            self._state = [inputs[block] for inputs in self._inputs]
            self.block = block
        while self.block < block:
            self._state = [self._trunk(batch, self.block + 1) for batch in range(len(self._ids))]
            self.block += 1

    def compare(self, swaps: dict[nn.Parameter, Tensor], *, head_only: bool = False) -> Tally:
        """The model with some weights replaced, against the full-precision one, on the whole text.

        Parameters
        ----------
        swaps : dict of Parameter to Tensor
            New values; none may sit in a block before the current one.
        head_only : bool
            The swaps touch nothing before the output embedding.
        """
        tally = Tally(*self._shape)
        for batch in range(len(self._ids)):
            self._cancel.check()
            started, tokens = time.perf_counter(), self._ids[batch].numel()
            if head_only:
                hidden = self._final[batch]
            else:
                with swapped(swaps):
                    hidden = self._trunk(batch, None)
                self._timing.trunk_work += tokens * (self.depth - self.block)
            reached = time.perf_counter()
            self._tally(tally, batch, hidden, swaps)
            self._timing.trunk_s += reached - started
            self._timing.head_s += time.perf_counter() - reached
            self._timing.head_work += tokens
        return tally

    def _first_pass(self, batch: int) -> Tensor:
        """The full-precision hidden state after the final norm, noting the input of each block on the way."""
        if self._inputs is None:
            return self._trunk(batch, None)
        noted: list[Tensor] = []
        self._inputs.append(noted)
        with contextlib.ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(_inputs_noted(block, noted))
            return self._trunk(batch, None)

    def _tally(self, tally: Tally, batch: int, hidden: Tensor, swaps: dict[nn.Parameter, Tensor]) -> None:
        changed = hidden.flatten(0, 1).split(self._slice)
        full = self._full[batch] if self._full is not None else self._references(batch)
        for each, clean in zip(changed, full, strict=True):
            with swapped(swaps):
                logits = self._head(each)
            tally.add(clean, logits)

    def _references(self, batch: int) -> Iterator[Reference]:
        """The full-precision model on the tokens of a batch, slice by slice."""
        hidden = self._final[batch].flatten(0, 1).split(self._slice)
        labels = self._labels[batch].flatten().split(self._slice)
        rows = self._rows[batch].repeat_interleave(self._shape[1]).split(self._slice)
        for tokens, label, row in zip(hidden, labels, rows, strict=True):
            with swapped(self._clean_head):
                logits = self._head(tokens)
            yield reference(logits, label, row)

    def _trunk(self, batch: int, stop: int | None) -> Tensor:
        """Hidden state after the final norm or, with `stop`, the input of that block."""
        with contextlib.ExitStack() as stack:
            if self._state is not None:
                for block in self._blocks[: self.block]:
                    stack.enter_context(_forward_replaced(block, self._stub(self._state[batch])))
            if stop is not None and stop < self.depth:
                stack.enter_context(_forward_replaced(self._blocks[stop], _raise_reached))
            elif stop is not None:
                return self._final[batch]
            first = self._blocks[min(self.block, self.depth - 1)]
            stack.enter_context(_observed(first, self._note_output))
            try:
                output = self._model.base_model(input_ids=self._ids[batch], use_cache=False)
            except _Reached as reached:
                return reached.hidden
        self._head_output = type(output)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _head(self, hidden: Tensor) -> Tensor:
        """Float32 logits (tokens, vocabulary) of hidden states, scaled and capped as the model does it."""
        assert self._head_output is not None
        output = self._head_output(last_hidden_state=hidden[None])
        with _forward_replaced(self._model.base_model, lambda *_, **__: output):
            logits: Tensor = self._model(input_ids=self._ids[0][:1, :1], use_cache=False).logits
        return logits[0].float()

    def _note_output(self, _: nn.Module, __: Any, output: Any) -> None:
        self._beside = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

    def _stub(self, hidden: Tensor) -> Any:
        value = hidden if self._beside is None else (hidden, *self._beside)
        return lambda *_, **__: value


@contextlib.contextmanager
def swapped(swaps: dict[nn.Parameter, Tensor]) -> Iterator[None]:
    """Exchange the values of parameters, without a copy, for the length of the block."""
    kept = {parameter: parameter.data for parameter in swaps}
    try:
        for parameter, value in swaps.items():
            parameter.data = value
        yield
    finally:
        for parameter, value in kept.items():
            parameter.data = value


@contextlib.contextmanager
def _forward_replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextlib.contextmanager
def _observed(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _inputs_noted(module: nn.Module, noted: list[Tensor]) -> Iterator[None]:
    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        noted.append(args[0] if args else kwargs["hidden_states"])

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _raise_reached(hidden_states: Tensor, *_: Any, **__: Any) -> None:
    raise _Reached(hidden_states)
