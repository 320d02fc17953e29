"""What the inputs of every weight look like: their second moments, collected block by block on a text.

With the second moment H of a weight's inputs, an error δW of the weight makes an error of its outputs whose
mean square is tr(δW·H·δWᵀ). A rounding that looks at the data minimises it (GPTQ, arXiv 2210.17323).
"""

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import overload

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model import fit as memory
from kl_lens_desktop.model.by_block import ByBlock
from kl_lens_desktop.model.fit import HELD_ELEMENTS
from kl_lens_desktop.model.inventory import Weight, inventory, quantizable
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.quant.gptq import Curvature, curvature
from kl_lens_desktop.quant.symmetric import add_second_moment, mirror, row_errors
from kl_lens_desktop.sensitivity import outliers
from kl_lens_desktop.sensitivity.forward import Beside, head_input, observed, trunk
from kl_lens_desktop.sensitivity.products import Products

DAMP = 0.01  # share of the mean of the diagonal that is added to it
DAMP_TIED = 1.0  # the head's inputs say nothing of the look-up that shares its weight
BATCH_TOKENS = 512
_HELD_MATRICES = 4  # of a Seen: both moments, the damped one and its factor
_MADE_MATRICES = 3  # of an expert: but for the moment to fit to
ALWAYS_ELEMENTS = 2**22  # of a second moment for which memory is not asked
_SPARE = 0.9  # of the free memory is what may be planned with
_LEAST_TOKENS = 16  # of its layer's mean that an expert's own tokens are mixed with


@dataclass(frozen=True, slots=True)
class Moment:
    """XᵀX / tokens of the inputs X (tokens, channels) of a matrix, float32 (channels, channels)."""

    matrix: Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What weights that share their inputs have seen of a text.

    Attributes
    ----------
    weights : tuple of Weight
    fit, judge : sequence of Moment
        On the windows to fit to, and on the others: one for a matrix, and one for each expert of a stack,
        made when it is asked for.
    damp : float
        How strongly to damp: see `DAMP`.
    exponents : Tensor or None
        Powers of two, int32 (channels,), by which the columns of these weights are to be multiplied: see
        `outliers`. The moments are those of the inputs divided by them.
    """

    weights: tuple[Weight, ...]
    fit: Sequence[Moment]
    judge: Sequence[Moment]
    damp: float = DAMP
    exponents: Tensor | None = None
    _made: dict[int, tuple[Curvature | None, Moment]] = field(default_factory=dict, repr=False)

    def about(self, place: int = 0, cancel: Cancel | None = None) -> tuple[Curvature | None, Moment]:
        """The curvature to fit to, which is None if it has no use, and the moment to judge by.

        They are made once, for as many experts of a stack as fit in memory.
        """
        if (found := self._made.get(place)) is None:
            found = curvature(self.fit[place].matrix, self.damp, cancel), self.judge[place]
            if (len(self._made) + 1) * _MADE_MATRICES * self._elements <= HELD_ELEMENTS or place == 0:
                self._made[place] = found
        return found

    @property
    def held_elements(self) -> float:
        """What it takes in memory, of a matrix; of a stack of experts too much to keep."""
        return _HELD_MATRICES * self._elements if len(self.fit) == 1 else math.inf

    @property
    def _elements(self) -> int:
        return self.weights[0].shape[-1] ** 2


@dataclass(frozen=True, slots=True)
class Unseen:
    """Weights with so many inputs that their second moments, and what is made of them, do not fit in memory.

    Attributes
    ----------
    weights : tuple of Weight
    needed, free : int
        Bytes.
    """

    weights: tuple[Weight, ...]
    needed: int
    free: int


def lacking_memory(channels: int, promised: int = 0) -> tuple[int, int] | None:
    """Bytes needed and free where memory does not take the rounding of weights with so many inputs.

    Parameters
    ----------
    promised : int
        Bytes that are asked for already and not taken yet.
    """
    if channels**2 <= ALWAYS_ELEMENTS:
        return None
    needed, free = memory.rounding_bytes(channels) + promised, memory.free_mb() * 2**20
    return (needed, free) if needed > _SPARE * free else None


def moments_at_once(channels: int) -> int:
    """For how many weights with so many inputs memory takes their rounding side by side, one at least."""
    if channels**2 <= ALWAYS_ELEMENTS:
        return usable_cores()
    return max(1, int(_SPARE * memory.free_mb() * 2**20) // memory.rounding_bytes(channels, 1))


def weighted_error(error: Tensor, moment: Moment) -> float:
    """tr(δW·H·δWᵀ), the mean over tokens of |δW·x|², of an error (rows, channels) of a matrix."""
    total = sum(float(row_errors(part, moment.matrix).sum()) for part in error.split(2**12))
    return max(total, 0.0)  # of sums in float32, none is negative but for rounding


def second_moments(
    model: PreTrainedModel,
    fit: Tensor,
    judge: Tensor,
    cancel: Cancel,
    names: set[str] | None = None,
    *,
    scaled: bool = False,
) -> Iterator[Seen | Unseen | float]:
    """The inputs of every quantizable weight, block by block; those of the embedding and the head last.

    The second moments of one block are in memory at a time, and those of blocks that share a weight until the
    last of them has run. An embedding that no head shares has inputs that are no vectors: its moment is the
    identity. A weight that the model never multiplies is left out. Until the generator is closed, the model's
    parameters are stand-ins: take those you need before.

    Parameters
    ----------
    model : PreTrainedModel
        In memory, or as `load.open_model` gives it.
    fit, judge : Tensor
        Token ids (windows, window), without a window in common.
    names : set of str, optional
        The weights that are wanted; all without it.
    scaled : bool
        Whether columns of large inputs may be scaled before they are rounded.

    Yields
    ------
    Seen, or Unseen where memory does not take it, and in between the share of the work that is done.
    """
    weights = quantizable(inventory(model))
    wanted = {weight.name for weight in weights if names is None or weight.name in names}
    with torch.no_grad(), fast_kernels(model), ByBlock(model, cancel) as streamed:
        yield from _Pass(streamed, fit, judge, weights, wanted, scaled).events()


class Remembered:
    """`second_moments` of one text, run once for all weights where little memory holds what they have seen.

    Parameters
    ----------
    fit, judge : Tensor
        Token ids (windows, window), without a window in common.
    scaled : bool
        As for `second_moments`.
    """

    def __init__(self, fit: Tensor, judge: Tensor, *, scaled: bool = False) -> None:
        self._fit, self._judge, self._scaled = fit, judge, scaled
        self._held: list[Seen] = []

    @staticmethod
    def may_hold(weights: Sequence[Weight]) -> bool:
        """Whether memory holds what all of these see, were it of each alone: the same whenever asked."""
        return all(len(weight.shape) == 2 for weight in weights) and (
            sum(_HELD_MATRICES * weight.shape[-1] ** 2 for weight in weights) <= HELD_ELEMENTS
        )

    def holds(self, names: set[str]) -> bool:
        """Whether these weights are known without another run."""
        return names <= {weight.name for seen in self._held for weight in seen.weights}

    def seen(
        self, model: PreTrainedModel, cancel: Cancel, names: set[str]
    ) -> Iterator[Seen | Unseen | float]:
        """What weights have seen, and in between the share of the work done, as `second_moments` gives it."""
        if self.holds(names):
            for held in self._held:
                wanted = tuple(weight for weight in held.weights if weight.name in names)
                if wanted:
                    yield replace(held, weights=wanted)
            return
        self._held.clear()
        room: float = HELD_ELEMENTS
        for seen in second_moments(model, self._fit, self._judge, cancel, names, scaled=self._scaled):
            if isinstance(seen, Seen):
                room -= seen.held_elements
                if room >= 0:
                    self._held.append(seen)
                else:  # the next time all of them are run again
                    self._held.clear()
            yield seen


class _Pass:
    """One run of a text through a model.

    By which powers of two columns are scaled is told by all weights with the same inputs, whoever asks for
    some of them: so, where they may be, the others of a block with one that is wanted are watched, too.
    """

    def __init__(
        self,
        streamed: ByBlock,
        fit: Tensor,
        judge: Tensor,
        weights: Sequence[Weight],
        wanted: set[str],
        scaled: bool,
    ) -> None:
        self._streamed, self._wanted, self._scaled = streamed, wanted, scaled
        device = streamed.model.device
        fit, judge = fit.to(device), judge.to(device)
        self._ids = [
            *((ids, 0) for ids in fit.split(max(1, BATCH_TOKENS // fit.shape[1]))),
            *((ids, 1) for ids in judge.split(max(1, BATCH_TOKENS // judge.shape[1]))),
        ]
        blocks = range(len(streamed.blocks))
        reading = {
            each.name: [block for block in blocks if streamed.reads(block, each.name)] for each in weights
        }
        asked = {block for name in wanted for block in reading[name]}
        self._weights = {
            id(streamed.stored[each.name]): each
            for each in weights
            if each.name in wanted
            or (scaled and len(each.shape) == 2 and asked.intersection(reading[each.name]))
        }
        readers = {key: reading[weight.name] for key, weight in self._weights.items()}
        self._last = {key: max(found, default=-1) for key, found in readers.items()}
        # Of weights that several blocks share, some have the same inputs in one block and not in another.
        self._watch = _Watch(self._weights, {key for key, found in readers.items() if len(found) == 1})

    def events(self) -> Iterator[Seen | Unseen | float]:
        depth = len(self._streamed.blocks)
        states: list[Tensor | None] = [None] * len(self._ids)
        beside: list[Beside] = []
        for block in range(depth):
            for batch, (ids, half) in enumerate(self._ids):
                with observed(self._streamed.blocks[block], None, beside if batch == 0 else []):
                    states[batch] = self._through(block, ids, half, states[batch], beside)
            yield (block + 1) / (depth + 1)
            for seen in self._watch.taken([key for key, last in self._last.items() if last == block]):
                some = tuple(weight for weight in seen.weights if weight.name in self._wanted)
                if some:
                    scaled = self._with_scales(seen) if isinstance(seen, Seen) and self._scaled else seen
                    yield replace(scaled, weights=some)
        yield from self._ends(states)

    def _with_scales(self, seen: Seen) -> Seen:
        """With moments divided, in place, where columns are to be multiplied; experts stay as they are."""
        if len(seen.weights[0].shape) != 2:
            return seen
        stored = [self._streamed.stored[weight.name] for weight in seen.weights]
        found = outliers.exponents(stored, seen.fit[0].matrix)
        if found is None:
            return seen
        for moment in (*seen.fit, *seen.judge):
            outliers.divide(moment.matrix, found)
        return replace(seen, exponents=found)

    def _through(
        self, block: int, ids: Tensor, half: int, hidden: Tensor | None, beside: Sequence[Beside]
    ) -> Tensor:
        streamed = self._streamed
        stop = block + 1 if block + 1 < len(streamed.blocks) else None
        watch = self._watch
        placed = [place for place in streamed.placed(block) if place[2] in self._weights]
        experts = partial(watch.add_expert, half)
        with Products(placed, partial(watch.add, half)), streamed.watched(experts):
            reached = trunk(streamed.model, streamed.blocks, ids, block, hidden, stop, beside)
        if isinstance(reached, Tensor):
            return reached
        self._output = type(reached)
        final: Tensor = reached.last_hidden_state
        return final

    def _ends(self, states: Sequence[Tensor | None]) -> Iterator[Seen | Unseen | float]:
        model = self._streamed.model
        ends = {id(self._streamed.embedding), id(self._streamed.stored_head)}
        for key, weight in self._weights.items():
            if key not in ends or weight.name not in self._wanted:
                continue
            tied = len(ends) == 1
            if lacking := lacking_memory(weight.shape[-1]):
                yield Unseen((weight,), *lacking)
                continue
            if key == id(self._streamed.embedding) and not tied:
                one = Moment(torch.eye(weight.shape[-1]), 0)
                yield Seen((weight,), (one,), (one,))
                continue
            sums = (_Sum(weight.shape[-1]), _Sum(weight.shape[-1]))
            for hidden, (ids, half) in zip(states, self._ids, strict=True):
                assert hidden is not None
                sums[half].add(head_input(model, self._output, ids[:1, :1], hidden.flatten(0, 1)))
            moments = [each.moment() for each in sums]
            yield Seen((weight,), moments[:1], moments[1:], DAMP_TIED if tied else DAMP)
        yield 1.0


class _Sum:
    """A second moment that grows."""

    def __init__(self, channels: int) -> None:
        self._total, self._tokens = torch.zeros(channels, channels), 0

    @property
    def bytes(self) -> int:
        return self._total.nbytes

    def add(self, rows: Tensor) -> None:
        rows = rows.float().cpu()
        add_second_moment(self._total, rows)
        self._tokens += len(rows)

    def moment(self) -> Moment:
        """Of all that was added; nothing can be added after."""
        mirror(self._total)
        return Moment(self._total.div_(max(self._tokens, 1)), self._tokens)


@dataclass(slots=True)
class _OfExperts(Sequence[Moment]):
    """The second moments of the tokens that each expert of a stack got, made of these when asked for.

    An expert that got few tokens of the text is given some of its layer's mean.
    """

    experts: int
    channels: int
    rows: dict[int, list[Tensor]] = field(default_factory=dict)
    mean: Tensor | None = None
    _making: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return self.experts

    @overload
    def __getitem__(self, place: int) -> Moment: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Moment]: ...
    def __getitem__(self, place: int | slice) -> Moment | Sequence[Moment]:
        if isinstance(place, slice):
            return [self[each] for each in range(self.experts)[place]]
        if not 0 <= place < self.experts:
            raise IndexError(place)
        with self._making:  # once, and not in each of the threads that round experts
            if self.mean is None:
                self.mean = self._sum(row for rows in self.rows.values() for row in rows).matrix
        found = self._sum(self.rows.get(place, []))
        share = _LEAST_TOKENS / (found.tokens + _LEAST_TOKENS)
        return Moment(found.matrix.lerp_(self.mean, share), found.tokens)

    def _sum(self, rows: Iterable[Tensor]) -> Moment:
        total = _Sum(self.channels)
        for each in rows:
            total.add(each)
        return total.moment()


class _Watch:
    """Sums of what each weight was multiplied by; weights that were given the very same inputs share one."""

    def __init__(self, weights: Mapping[int, Weight], sharing: set[int]) -> None:
        self._weights, self._sharing = weights, sharing
        self._sums: dict[int, tuple[_Sum, _Sum]] = {}
        self._owner: dict[int, int] = {}
        self._experts: dict[int, tuple[_OfExperts, _OfExperts]] = {}
        self._lacking: dict[int, tuple[int, int]] = {}  # what there is no memory for

    def add(self, half: int, key: int, rows: Tensor, first: int) -> None:
        """Inputs (tokens, channels) of a weight, of which `first` was the first in this batch to get them."""
        owner = self._owner.setdefault(
            key, self._owner.get(first, key) if {key, first} <= self._sharing else key
        )
        if owner == key and self._has_room(key, channels := rows.shape[-1]):
            if key not in self._sums:
                self._sums[key] = _Sum(channels), _Sum(channels)
            self._sums[key][half].add(rows)

    def _has_room(self, key: int, channels: int) -> bool:
        """Whether memory takes the moments of a weight's inputs: asked once, before there are any."""
        if key not in self._sums and key not in self._experts and key not in self._lacking:
            # The half to judge by of those that there are is zeros yet: the system takes no memory for it.
            promised = sum(judge.bytes for _, judge in self._sums.values())
            if lacking := lacking_memory(channels, promised):
                self._lacking[key] = lacking
        return key not in self._lacking

    def add_expert(self, half: int, stored: Tensor, expert: int, rows: Tensor) -> None:
        if (weight := self._weights.get(key := id(stored))) is None:
            return
        count, _, channels = weight.shape
        if not self._has_room(key, channels):
            return
        if key not in self._experts:
            self._experts[key] = _OfExperts(count, channels), _OfExperts(count, channels)
        self._experts[key][half].rows.setdefault(expert, []).append(rows.float())

    def taken(self, keys: Sequence[int]) -> Iterator[Seen | Unseen]:
        """What those weights have seen; it is forgotten when the caller is done with it."""
        groups: dict[int, list[Weight]] = {}
        for key in (key for key in keys if key in self._owner):
            groups.setdefault(self._owner[key], []).append(self._weights[key])
        for owner in [owner for owner in groups if owner in self._lacking]:
            yield Unseen(tuple(groups.pop(owner)), *self._lacking[owner])
        for owner, weights in groups.items():
            fit, judge = (each.moment() for each in self._sums.pop(owner))
            yield Seen(tuple(sorted(weights, key=lambda weight: weight.name)), (fit,), (judge,))
        for key in (key for key in keys if key in self._lacking and key not in self._owner):
            yield Unseen((self._weights[key],), *self._lacking[key])
        for key in (key for key in keys if key in self._experts):
            fit_to, judge_by = self._experts.pop(key)
            yield Seen((self._weights[key],), fit_to, judge_by)
