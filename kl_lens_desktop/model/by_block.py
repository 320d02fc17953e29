"""A model whose weights stay in its files, computed in float32: each block is widened while it runs.

Beside its activations this takes the memory of one block in float32, and of the experts that a block's tokens
chose. Of an embedding only the rows of the tokens at hand are widened, of the head some rows at a time.
"""

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kl_lens_desktop.kernels.experts.forms import holds_experts
from kl_lens_desktop.model.head_parts import HeadParts
from kl_lens_desktop.model.inventory import blocks, weight_parameters
from kl_lens_desktop.model.mapped import Stack, pieces
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import Format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.quant.roundings import KeptRounding

HEAD_ELEMENTS = 2**24  # of the head at a time, 64 MB
EXPERT_ELEMENTS = 3 * 2**27  # of a block's experts at a time, 1.6 GB

Change = Format | KeptRounding | Callable[[Tensor], Tensor]
"""Other values of a weight: in a format, of integers that are kept, or made by a function of its rows."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a parameter is read: the module, its name there and from the block on; what the file holds."""

    module: nn.Module
    name: str
    path: str
    stored: nn.Parameter
    slots: int = 1  # how many experts of it are in float32 at a time


class ByBlock:
    """The model in float32 inside the block of a ``with`` statement.

    There every parameter that nothing reads at the moment is a stand-in full of NaN.

    Parameters
    ----------
    model : PreTrainedModel
        As `load.open_model` gives it.
    cancel : Cancel
        Checked before every block, and while weights are widened.

    Attributes
    ----------
    model : PreTrainedModel
    blocks : ModuleList
    embedding : Parameter
        The input embedding as it is stored.
    stored_head : Parameter
        The output embedding, which may be the same.
    stored : dict of str to Tensor
        What the files hold, by every name as `inventory.weight_name` gives it.
    """

    def __init__(self, model: PreTrainedModel, cancel: Cancel) -> None:
        self.model, self.blocks = model, blocks(model)
        self.stored: dict[str, Tensor] = dict(weight_parameters(model))
        self.embedding: nn.Parameter = model.get_input_embeddings().weight
        self.stored_head: nn.Parameter = model.get_output_embeddings().weight
        self._cancel = cancel
        self._placed = [
            [(place.module, place.name, id(place.stored)) for place in _places(block)]
            for block in self.blocks
        ]
        self._readers = [{id(parameter) for parameter in block.parameters()} for block in self.blocks]
        self._changes: dict[int, Change] = {}
        self._widened: dict[tuple[str, torch.Size], _Slots] = {}
        self._head = HeadParts()
        self._filling = threading.Lock()
        self._apart: int | None = None
        self._own = torch.empty(0)
        self._own_holds: tuple[int, Change | None] | None = None
        self._undo = contextlib.ExitStack()
        self._watching: Callable[[Tensor, int, Tensor], None] | None = None

    def beside(self) -> Self:
        """The model's modules once more, for another thread: both compute with the same widened block.

        They must be at the same block at the same time, and agree on the changes of its weights but for one
        that each has `apart`.
        """
        shared: dict[int, object] = {id(each): each for each in self.model.parameters()}
        shared |= {id(each): each for each in self.model.buffers()}
        made = type(self)(copy.deepcopy(self.model, shared), self._cancel)
        made._widened, made._head, made._filling = self._widened, self._head, self._filling
        return made

    @property
    def holds_all_experts(self) -> bool:
        """Whether no two experts of a block take turns in memory."""
        layers = filter(holds_experts, self.model.modules())
        stacks = (list(layer.parameters(recurse=False)) for layer in layers)
        return all(_slots(each) == len(each[0]) for each in stacks)

    def __enter__(self) -> Self:
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        streamed = {id(embedding.weight), id(head.weight)}.union(*self._readers)
        with contextlib.ExitStack() as undo:
            for block in self.blocks:
                self._take_over(undo, block)
            _replace_forward(undo, embedding, functools.partial(self._embedded, embedding.weight))
            _replace_forward(undo, head, functools.partial(self._projected, head.weight))
            for place in _places(self.model):
                kept = _stand_in(place.stored) if id(place.stored) in streamed else place.stored.float()
                undo.callback(place.module._parameters.__setitem__, place.name, place.stored)
                _put(place, kept)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._widened.clear()
        self._head.clear()
        self._own, self._own_holds = torch.empty(0), None

    @contextlib.contextmanager
    def changed(self, changes: Mapping[str, Change], apart: str | None = None) -> Iterator[None]:
        """Compute with other values of some weights, which are made when they are read.

        Those of the weight `apart`, which is no stack of experts, take memory of their own.
        """
        kept = self._changes, self._apart
        self._changes = {id(self.stored[name]): change for name, change in changes.items()}
        self._apart = None if apart is None else id(self.stored[apart])
        try:
            yield
        finally:
            self._changes, self._apart = kept

    @contextlib.contextmanager
    def watched(self, note: Callable[[Tensor, int, Tensor], None]) -> Iterator[None]:
        """Call `note` with a stack as it is stored, an expert of it and that expert's inputs, at each use."""
        self._watching = note
        try:
            yield
        finally:
            self._watching = None

    def placed(self, block: int) -> list[tuple[nn.Module, str, int]]:
        """Where a block reads parameters: the module, the name there, and the id of what is stored."""
        return self._placed[block]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A weight as it is stored, some rows (rows, input channels) at a time."""
        for piece in pieces(self.stored[name]):
            self._cancel.check()
            yield piece

    def reads(self, block: int, name: str) -> bool:
        """Whether a block has the weight of that name."""
        return id(self.stored[name]) in self._readers[block]

    def _take_over(self, undo: contextlib.ExitStack, block: nn.Module) -> None:
        places = _places(block)
        for layer in filter(holds_experts, block.modules()):
            own = {place.name: place for place in places if place.module is layer}
            slots = _slots([place.stored for place in own.values()])
            own = {name: replace(place, slots=slots) for name, place in own.items()}
            places = [place for place in places if place.module is not layer]
            _replace_forward(undo, layer, functools.partial(self._through_experts, layer, own))
        _replace_forward(undo, block, functools.partial(self._run, block.forward, places))

    def _run(self, forward: Callable[..., Any], places: Sequence[_Place], *args: Any, **kwargs: Any) -> Any:
        self._cancel.check()
        try:
            for place in places:
                _put(place, self._in_float32(place))
            return forward(*args, **kwargs)
        finally:
            for place in places:
                _put(place, _stand_in(place.stored))

    def _in_float32(self, place: _Place, expert: int | None = None) -> Tensor:
        """A parameter or one of its experts, as it is to be computed with."""
        stored, change = place.stored, self._changes.get(id(place.stored))
        if change is None and stored.dtype == torch.float32 and not isinstance(stored, Stack):
            return stored if expert is None else stored[expert]
        if id(stored) == self._apart:
            return self._alone(stored, change)
        key, holds = (place.path, stored.shape), (id(stored), expert, change)
        at = (expert or 0) % place.slots
        if (slots := self._widened.get(key)) and slots.holds.get(at) == holds:
            return slots.values[at]
        with self._filling:
            if (slots := self._widened.get(key)) is None:
                shape = stored.shape if expert is None else stored.shape[1:]
                slots = self._widened[key] = _Slots(torch.empty(place.slots, *shape))
            if slots.holds.get(at) != holds:
                slots.holds.pop(at, None)
                part = stored if expert is None else stored[expert]
                self._fill(slots.values[at], part, change, expert)
                slots.holds[at] = holds
        return slots.values[at]

    def _alone(self, stored: Tensor, change: Change | None) -> Tensor:
        if len(self._own) < stored.numel():
            self._own, self._own_holds = torch.empty(stored.numel()), None
        values = self._own[: stored.numel()].view(stored.shape)
        if self._own_holds != (id(stored), change):
            self._own_holds = None
            self._fill(values, stored, change)
            self._own_holds = id(stored), change
        return values

    def _fill(
        self,
        into: Tensor,
        stored: Tensor,
        change: Change | None,
        at: int | slice | Tensor | None = None,
    ) -> None:
        """The values of a weight, or of what of its first axis is `at`, which is `stored` so."""
        if isinstance(change, KeptRounding):
            self._cancel.check()
            change.write(into, at)
            return
        for piece, source in zip(pieces(into), pieces(stored), strict=True):
            self._cancel.check()
            if change is None:
                piece.copy_(source)
            elif isinstance(change, Format):
                fake_quantize(source, change, piece)
            else:
                piece.copy_(change(source.float()))

    def _embedded(self, stored: Tensor, ids: Tensor) -> Tensor:
        used, places = ids.unique(return_inverse=True)
        rows = torch.empty(len(used), stored.shape[1], device=stored.device)
        self._fill(rows, stored[used], self._changes.get(id(stored)), used)
        return nn.functional.embedding(places, rows)

    def _projected(self, stored: Tensor, hidden: Tensor) -> Tensor:
        change = self._changes.get(id(stored))
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = flat.new_empty(len(flat), len(stored))
        rows = max(1, HEAD_ELEMENTS // stored.shape[1])
        parts, columns = stored.split(rows), logits.split(rows, 1)

        def fill(number: int, into: Tensor) -> None:
            part, first = parts[number], number * rows
            self._fill(into[: part.numel()].view_as(part), part, change, slice(first, first + len(part)))

        filled = self._head.each((id(stored), change), len(parts), parts[0].numel(), fill)
        with contextlib.closing(filled) as each:
            for number, values in each:
                part = values[: parts[number].numel()].view_as(parts[number])
                torch.mm(flat, part.t(), out=columns[number])
        bias = self.model.get_output_embeddings().bias
        if bias is not None:
            logits += bias
        return logits.view(*hidden.shape[:-1], -1)

    def _through_experts(
        self, layer: Any, places: Mapping[str, _Place], hidden: Tensor, chosen: Tensor, weights: Tensor
    ) -> Tensor:
        """`hidden` (tokens, size) and the routing (tokens, chosen) to (tokens, size)."""
        experts, order = chosen.flatten().sort(stable=True)
        outputs = hidden.new_empty(len(order), hidden.shape[1])
        first, last = places["gate_up_proj" if layer.has_gate else "up_proj"], places["down_proj"]
        numbers, counts = experts.unique_consecutive(return_counts=True)
        for expert, rows in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
            given = hidden[rows // chosen.shape[1]]
            inner = nn.functional.linear(given, self._in_float32(first, expert))
            inner = layer._apply_gate(inner) if layer.has_gate else layer.act_fn(inner)
            if self._watching is not None:
                self._watching(first.stored, expert, given)
                self._watching(last.stored, expert, inner)
            outputs[rows] = nn.functional.linear(inner, self._in_float32(last, expert))
        return (outputs.view(*chosen.shape, -1) * weights[..., None]).sum(1).to(hidden.dtype)


@dataclass(slots=True)
class _Slots:
    """Float32 memory (slots, …) that blocks of the same structure take turns in, and what each slot holds."""

    values: Tensor
    holds: dict[int, object] = field(default_factory=dict)


def _slots(stacks: Sequence[Tensor]) -> int:
    """How many experts of a layer are in float32 at a time."""
    experts = len(stacks[0])
    return max(1, min(experts, EXPERT_ELEMENTS * experts // sum(stack.numel() for stack in stacks)))


def _places(module: nn.Module) -> list[_Place]:
    return [
        _Place(part, name, f"{path}.{name}", parameter)
        for path, part in module.named_modules(remove_duplicate=False)
        for name, parameter in part._parameters.items()
        if parameter is not None
    ]


def _put(place: _Place, values: Tensor) -> None:
    place.module._parameters[place.name] = nn.Parameter(values, requires_grad=False)


def _stand_in(stored: Tensor) -> Tensor:
    return torch.full((1,), torch.nan).expand(stored.shape)


def _replace_forward(undo: contextlib.ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward
    undo.callback(delattr, module, "forward")
