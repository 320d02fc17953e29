"""The weights of a whole plan rounded one after the other, each making up for the errors of those before it.

Rounding by data takes the inputs that the full-precision model gives a weight. In a plan the inputs are off
already, and a weight W can be rounded to what makes of these inputs X̃ the outputs that W makes of the right
ones X: nearest to it comes W·C·H⁻¹ with C = XᵀX̃ and H = X̃ᵀX̃ (GPTAQ, arXiv 2504.02692). So blocks are rounded
in their order, and inside a block what is multiplied first.

Embeddings, weights that several blocks share, and stacks of experts keep their integers: they have no one
place in that order.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.by_block import ByBlock
from kl_lens_desktop.model.inventory import Weight, blocks, inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.gptq import Curvature, curvature, gptq, scaled_columns
from kl_lens_desktop.quant.growing import Growing
from kl_lens_desktop.quant.integers import (
    BY_DATA,
    IN_SEQUENCE,
    Integers,
    Pair,
    most_packed_bytes,
    open_integers,
)
from kl_lens_desktop.quant.roundings import Change, KeptRounding, Roundings, kept_in, packed
from kl_lens_desktop.quant.symmetric import add_second_moment, mirror
from kl_lens_desktop.sensitivity import outliers
from kl_lens_desktop.sensitivity.data_rounding import is_fitted, lack_of_memory, threads
from kl_lens_desktop.sensitivity.forward import Beside, head_input, observed, trunk
from kl_lens_desktop.sensitivity.moments import BATCH_TOKENS, DAMP, Unseen, lacking_memory
from kl_lens_desktop.sensitivity.products import Place, Products

_MOVED = 2**26  # elements of a weight at a time


def record_of(base: Mapping[str, Any], formats: str) -> dict[str, Any]:
    """What a file says of integers that go with one plan only.

    Parameters
    ----------
    base : mapping
        The record of the text.
    formats : str
        The SHA-256 of the plan's assignments.
    """
    return {**base, "method": IN_SEQUENCE, "formats": formats}


def base_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of rounding by the same text without an order."""
    kept = {name: value for name, value in record.items() if name != "formats"}
    return {**kept, "method": BY_DATA}


def is_in_sequence(record: Mapping[str, Any] | None) -> bool:
    return record is not None and record["method"] == IN_SEQUENCE


def without_place(loaded: LoadedModel, assignments: Mapping[str, str]) -> list[Pair]:
    """The pairs of a plan that keep their integers: see the module."""
    parts, stored = blocks(loaded.model), weight_parameters(loaded.model)
    readers = [{id(parameter) for parameter in part.parameters()} for part in parts]
    embedding = loaded.model.get_input_embeddings().weight
    head = loaded.model.get_output_embeddings().weight
    found = []
    for name, fmt in assignments.items():
        weight = stored[name]
        count = sum(id(weight) in reader for reader in readers)
        is_once = count == 1 or (count == 0 and weight is head)
        in_order = weight.dim() == 2 and weight is not embedding and is_once
        if is_fitted(parse_format(fmt)) and not in_order:
            found.append((name, fmt))
    return found


def round_in_sequence(
    loaded: LoadedModel,
    model_sha256: str,
    path: Path,
    assignments: Mapping[str, str],
    base: Roundings,
    fit: Tensor,
    record: Mapping[str, Any],
    cancel: Cancel,
    stage: str,
) -> Generator[Event, None, Roundings]:
    """The integers of a plan's weights in this order, kept at `path`; what that file holds is taken from it.

    Parameters
    ----------
    assignments : mapping of str to str
        Weight to format.
    base : Roundings
        How weights are rounded that have no place in the order.
    fit : Tensor
        Token ids (windows, window).
    record : mapping
        What the file says of its integers.

    Yields
    ------
    Progress.
    """
    weights = {weight.name: weight for weight in quantizable(inventory(loaded.model))}
    shapes = {name: weight.shape for name, weight in weights.items()}
    grown = Growing(path, model_sha256, record, shapes)
    pairs = [pair for pair in assignments.items() if is_fitted(parse_format(pair[1])) or pair in base.kept]
    apart = without_place(loaded, assignments)  # before stand-ins take the places of weights
    sizes = [most_packed_bytes(shapes[name], parse_format(fmt)) for name, fmt in pairs]
    with (
        grown.by(sizes) as writer,
        threads() as pool,
        torch.no_grad(),
        fast_kernels(loaded.model),
        ByBlock(loaded.model, cancel) as streamed,
    ):
        sequence = _Sequence(streamed, weights, assignments, apart, base, fit, pool, writer, cancel)
        yield Progress(stage, 0, sequence.count, "Rounding in sequence", "blocks")
        for done in sequence.steps():
            yield Progress(stage, done, sequence.count, "Rounding in sequence", "blocks")
        if sequence.unseen:
            yield lack_of_memory(sequence.unseen, "not rounded in sequence", "that")
    kept = kept_in(open_integers(path), shapes) if grown.pairs else {}
    return Roundings({pair: kept[pair] for pair in pairs if pair in kept})


class _Sequence:
    """A model in full precision and as a plan rounds it, side by side, block after block."""

    def __init__(
        self,
        streamed: ByBlock,
        weights: Mapping[str, Weight],
        assignments: Mapping[str, str],
        apart: Sequence[Pair],
        base: Roundings,
        fit: Tensor,
        pool: ThreadPoolExecutor,
        writer: Growing,
        cancel: Cancel,
    ) -> None:
        self._streamed, self._weights, self._assignments = streamed, weights, assignments
        self._pool, self._writer, self._cancel = pool, writer, cancel
        self._ids = list(fit.to(streamed.model.device).split(max(1, BATCH_TOKENS // fit.shape[1])))
        self._base = base
        self.unseen: list[Unseen] = []  # what memory does not suffice for
        self._known = {
            pair: KeptRounding(held, pair, weights[pair[0]].shape) for pair, held in writer.held.items()
        }
        self._beside: list[Beside] = []
        self._output: type[Any] | None = None
        self.count = len(streamed.blocks) + 1
        self._keys = {id(streamed.stored[name]): name for name in assignments}
        fitted = {name for name, fmt in assignments.items() if is_fitted(parse_format(fmt))}
        self._todo = fitted - {name for name, _ in apart}
        # Of the weights that are rounded in this order, only those of the block at hand.
        self._changes: dict[str, Change] = {}
        for name, fmt in assignments.items():
            if name not in self._todo:
                self._changes[name] = change = base.change(name, fmt)
                if isinstance(change, KeptRounding):
                    self._keep(change)

    def steps(self) -> Iterator[int]:
        """Round everything; yields how many blocks are done."""
        full: list[Tensor | None] = [None] * len(self._ids)
        rounded = list(full)
        for block in range(len(self._streamed.blocks)):
            places = [
                place for place in self._streamed.placed(block) if self._keys.get(place[2]) in self._todo
            ]
            groups, rows = self._full_precision(block, places, full)
            before = dict(self._changes)
            for owner, names in groups.items():
                if not (self._take_known(names) or self._lacks_memory(names)):
                    some = [place for place in places if place[2] == owner]
                    self._round(names, self._moments(block, some, rows.pop(owner), rounded))
            for name in {self._keys[place[2]] for place in places} - self._changes.keys():
                self._changes[name] = parse_format(self._assignments[name])  # never multiplied
            for batch in range(len(self._ids)):
                rounded[batch] = self._through(block, batch, rounded[batch], self._changes)
            self._changes = before
            yield block + 1
        self._round_head(full, rounded)
        yield self.count

    def _full_precision(
        self, block: int, places: Sequence[Place], states: list[Tensor | None]
    ) -> tuple[dict[int, list[str]], dict[int, list[Tensor]]]:
        """Advance the full-precision states; the weights by the first with their inputs, and these inputs."""
        owner: dict[int, int] = {}
        rows: dict[int, list[Tensor]] = {}

        def note(key: int, given: Tensor, first: int) -> None:
            if owner.setdefault(key, owner.get(first, key)) == key:
                rows.setdefault(key, []).append(given.float().clone())

        for batch in range(len(self._ids)):
            beside = self._beside if batch == 0 else []
            with observed(self._streamed.blocks[block], None, beside):
                states[batch] = self._through(block, batch, states[batch], {}, Products(places, note))
        groups: dict[int, list[str]] = {}
        for key, first in owner.items():
            groups.setdefault(first, []).append(self._keys[key])
        return groups, rows

    def _moments(
        self, block: int, places: Sequence[Place], full: list[Tensor], states: Sequence[Tensor | None]
    ) -> "_Pair":
        """X̃ᵀX̃ and XᵀX̃ of the inputs X̃ of a weight as it is reached by what was rounded so far."""
        pair = _Pair(full[0].shape[-1])
        given = iter(full)

        def note(_: int, rows: Tensor, __: int) -> None:
            pair.add(next(given), rows.float())

        for batch in range(len(self._ids)):
            self._through(block, batch, states[batch], self._changes, Products(places, note))
        return pair

    def _through(
        self,
        block: int,
        batch: int,
        hidden: Tensor | None,
        changes: Mapping[str, Change],
        watch: Products | None = None,
    ) -> Tensor:
        streamed = self._streamed
        stop = block + 1 if block + 1 < len(streamed.blocks) else None
        run = partial(trunk, streamed.model, streamed.blocks, self._ids[batch], block, hidden, stop)
        with streamed.changed(changes):
            if watch is None:
                reached = run(self._beside)
            else:
                with watch:
                    reached = run(self._beside)
        if isinstance(reached, Tensor):
            return reached
        self._output = type(reached)
        final: Tensor = reached.last_hidden_state
        return final

    def _round_head(self, full: Sequence[Tensor | None], rounded: Sequence[Tensor | None]) -> None:
        names = [name for name in self._todo if self._streamed.stored[name] is self._streamed.stored_head]
        if not names or self._take_known(names) or self._lacks_memory(names):
            return
        pair = _Pair(self._weights[names[0]].shape[-1])
        for right, off in zip(full, rounded, strict=True):
            pair.add(self._head_input(right), self._head_input(off))
        self._round(names, pair)

    def _head_input(self, hidden: Tensor | None) -> Tensor:
        assert hidden is not None
        assert self._output is not None
        token = self._ids[0][:1, :1]
        return head_input(self._streamed.model, self._output, token, hidden.flatten(0, 1)).float()

    def _take_known(self, names: Sequence[str]) -> bool:
        """Take what an earlier run wrote of weights with the same inputs, if it is all of them."""
        pairs = [(name, self._assignments[name]) for name in names]
        if not all(pair in self._known for pair in pairs):
            return False
        for pair in pairs:
            self._changes[pair[0]] = self._known[pair]
            self._keep(self._known[pair])
        return True

    def _lacks_memory(self, names: Sequence[str]) -> bool:
        """Whether memory does not take the moments of weights, which keep their integers then."""
        weights = tuple(self._weights[name] for name in names)
        lacking = lacking_memory(weights[0].shape[-1])
        if lacking:
            self.unseen.append(Unseen(weights, *lacking))
            for name in names:
                self._changes[name] = change = self._base.change(name, self._assignments[name])
                if isinstance(change, KeptRounding):
                    self._keep(change)
        return lacking is not None

    def _exponents(self, names: Sequence[str]) -> Tensor | None:
        """Of the columns of weights with the same inputs, as rounding by data found them."""
        for name in names:
            base = self._base.change(name, self._assignments[name])
            if isinstance(base, KeptRounding) and (found := base.exponents) is not None:
                return found.int()
        return None

    def _round(self, names: Sequence[str], pair: "_Pair") -> None:
        if (exponents := self._exponents(names)) is not None:
            pair.divide(exponents)
        about = curvature(pair.own(), DAMP, self._cancel)
        if about is None:  # inputs of no use
            self._changes |= {name: parse_format(self._assignments[name]) for name in names}
            return
        moved = pair.moved(about)
        for name in names:
            self._cancel.check()
            fmt = parse_format(self._assignments[name])
            # Some rows at a time: in float64 a head alone may take more than there is.
            rows = self._streamed.stored[name].split(max(1, _MOVED // len(moved)))
            target = torch.cat(
                [(scaled_columns(part.cpu(), exponents).double() @ moved).float() for part in rows]
            )
            stored = gptq(target, about, fmt, self._cancel, self._pool.map)
            kept = KeptRounding(packed(stored, exponents), (name, fmt.name), self._weights[name].shape)
            self._changes[name] = kept
            self._keep(kept)

    def _keep(self, kept: KeptRounding) -> None:
        if kept.pair in self._writer.held:
            return
        whole = kept.integers.whole(kept.pair) if isinstance(kept.integers, Integers) else kept.integers
        self._writer.add(kept.pair, whole)


class _Pair:
    """Sums of X̃ᵀX̃ and XᵀX̃, each of which can be taken once."""

    def __init__(self, channels: int) -> None:
        self._own, self._cross = torch.zeros(channels, channels), torch.zeros(channels, channels)
        self._tokens = 0

    def add(self, right: Tensor, off: Tensor) -> None:
        right, off = right.cpu(), off.cpu()
        add_second_moment(self._own, off)
        self._cross.addmm_(right.t(), off)
        self._tokens += len(off)

    def divide(self, exponents: Tensor) -> None:
        """The sums of inputs divided by powers of two."""
        for total in (self._own, self._cross):
            outliers.divide(total, exponents)

    def own(self) -> Tensor:
        """X̃ᵀX̃ / tokens."""
        mirror(self._own)
        return self._own.div_(max(self._tokens, 1))

    def moved(self, about: Curvature) -> Tensor:
        """C·H⁻¹ in float64, for C = XᵀX̃ / tokens and H = X̃ᵀX̃ / tokens, both with more on their diagonals."""
        damped = torch.empty(self._own.shape, dtype=torch.float64).mT  # as LAPACK has it, to work in place
        damped.copy_(about.damped)
        added = (damped.diagonal() - self._own.diagonal().double()).mean()
        del self._own
        cross = self._cross.div_(max(self._tokens, 1)).double()
        del self._cross
        cross.diagonal().add_(added)
        pivots, failed = torch.empty(len(damped), dtype=torch.int32), torch.empty((), dtype=torch.int32)
        torch.linalg.lu_factor_ex(damped, out=(damped, pivots, failed))
        moved = cross.mT
        torch.linalg.lu_solve(damped, pivots, moved, out=moved)
        return cross
