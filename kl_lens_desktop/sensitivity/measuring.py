"""One weight in one format at a time, measured: with all weights in memory, or with those of one block."""

import contextlib
import functools
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.inventory import Weight
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import FP16_MOST, Format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.quant.roundings import Change, changed_values
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.lanes import Lane, Lanes, Work
from kl_lens_desktop.sensitivity.means import nothing_changed
from kl_lens_desktop.sensitivity.metrics import Tally
from kl_lens_desktop.sensitivity.pace import Timing
from kl_lens_desktop.sensitivity.scores import Samples
from kl_lens_desktop.sensitivity.stream import Changed, Stream, changed, only
from kl_lens_desktop.sensitivity.walk import Position, Walk

T = TypeVar("T", bound="Text")
_NOISE = 1e-5  # relative: a change too small to matter
_NOT_FINITE = "its own values are not finite, or beyond what FP16 holds"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A weight in a format, to be measured with the values of `change`."""

    weight: Weight
    format: Format
    change: Change

    @property
    def pair(self) -> tuple[str, str]:
        return self.weight.name, self.format.name


@dataclass(frozen=True, slots=True)
class Found:
    """What a measurement gave: the samples, or why there are none; and what it took."""

    samples: Samples | str
    timing: Timing


class Text(Protocol):
    """A text that the full-precision model has been run on; `signal` and `finite` as those of `Walk`."""

    signal: list[float]
    finite: bool


class Measuring(Protocol[T]):
    """A way of measuring candidates on a text.

    Attributes
    ----------
    model : PreTrainedModel
    depth : int
        How many blocks it has.
    count : int
        How many candidates are measured at the same time, each in a time of its own.
    together : bool
        Whether candidates pass the blocks together, and none is done before most of them are.
    """

    model: PreTrainedModel
    depth: int
    together: bool

    @property
    def count(self) -> int: ...

    def open(self, ids: Tensor) -> T:
        """Run the full-precision model on token ids (windows, window)."""

    def found(self, text: T, todo: Sequence[Candidate]) -> Generator[Found | float]:
        """What was found of each candidate, in their order; in between, shares of what the next ones take."""

    def noise(self, text: T) -> Tally:
        """What a change of the embedding that is too small to matter does."""

    def broken(self) -> Iterator[str]:
        """The parameters that are not finite."""


class InMemory:
    """With all weights in memory, in as many lanes as there are."""

    together = False

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.model, self.depth, self.count = lanes.main.model, len(lanes.main.blocks), lanes.count

    def open(self, ids: Tensor) -> Walk:
        return Walk(self._lanes.main, ids, lanes=self.count)

    def found(self, text: Walk, todo: Sequence[Candidate]) -> Generator[Found | float]:
        yield from self._lanes.in_order(_jobs(text, todo))

    def noise(self, text: Walk) -> Tally:
        lane = self._lanes.main
        embedding = lane.model.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(0)
        changed = torch.empty_like(embedding, device="cpu").normal_(1, _NOISE, generator=generator)
        name = _name_of(embedding, lane.parameters)
        return text.compare({name: changed.to(embedding.device).mul_(embedding)})

    def broken(self) -> Iterator[str]:
        return (name for name, parameter in self._lanes.main.parameters.items() if not _finite(parameter))


class OnDisk:
    """With the weights of one block in memory, which all candidates pass together."""

    together = True

    def __init__(self, lanes: DiskLanes) -> None:
        self._lanes, self._weights = lanes, (weights := lanes.main)
        self.model, self.depth, self.count = weights.model, len(weights.blocks), 1
        self._known_usable: dict[str, bool] = {}
        self._known_changing: dict[tuple[str, str], bool] = {}

    def open(self, ids: Tensor) -> Stream:
        return Stream(self._lanes, ids)

    def found(self, text: Stream, todo: Sequence[Candidate]) -> Generator[Found | float]:
        told = [self._without_running(text, candidate) for candidate in todo]
        unknown = [each for each, known in zip(todo, told, strict=True) if known is None]
        results = text.compare([changed(each.weight, each.change) for each in unknown])
        for known in told:
            if known is not None:
                yield known
                continue
            while isinstance(result := next(results), float):
                yield result
            spent, text.timing = text.timing, Timing()
            yield Found(_samples(result), spent)

    def noise(self, text: Stream) -> Tally:
        embedding = self._weights.embedding
        return only(text.compare([Changed({_name_of(embedding, self._weights.stored): _noisy}, 0)]))

    def broken(self) -> Iterator[str]:
        pieces = self._weights.pieces
        return (name for name in self._weights.stored if not all(map(_finite, pieces(name))))

    def _without_running(self, text: Stream, candidate: Candidate) -> Found | None:
        if not self._usable(candidate.weight.name):
            return Found(_NOT_FINITE, Timing())
        if not self._changes(candidate):
            return Found(nothing_changed(len(text.signal)), Timing())
        return None

    def _changes(self, candidate: Candidate) -> bool:
        """Whether the format changes anything, which the first rows tell of nearly every weight."""
        if not isinstance(candidate.change, Format):
            return True
        if candidate.pair not in self._known_changing:
            parts = (part.float() for part in self._weights.pieces(candidate.weight.name))
            differs = (not torch.equal(fake_quantize(part, candidate.format), part) for part in parts)
            self._known_changing[candidate.pair] = any(differs)
        return self._known_changing[candidate.pair]

    def _usable(self, name: str) -> bool:
        if name not in self._known_usable:
            self._known_usable[name] = all(_finite(part, FP16_MOST) for part in self._weights.pieces(name))
        return self._known_usable[name]


@contextlib.contextmanager
def measuring_here(loaded: LoadedModel, precision: str, cancel: Cancel) -> Iterator[Measuring[Any]]:
    """The way that suits a model as it was loaded, with this computer's cores."""
    with torch.no_grad(), fast_kernels(loaded.model), matrix_products(precision):
        if loaded.mapped:
            with DiskLanes(loaded.model, cancel) as disk_lanes:
                yield OnDisk(disk_lanes)
        else:
            with Lanes(loaded.model, cancel) as lanes:
                yield InMemory(lanes)


@contextlib.contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Compute products of float32 matrices in float32 or, for ``bf16``, from operands rounded to bfloat16."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bf16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)


def _jobs(walk: Walk, todo: Sequence[Candidate]) -> Iterator[Work[Found]]:
    walk.restart()
    for candidate in todo:
        if candidate.weight.block is not None:
            walk.advance(candidate.weight.block)
        run = functools.partial(_measure, walk, walk.position, candidate)
        yield Work(run, candidate.weight.parameters)


def _measure(walk: Walk, position: Position, candidate: Candidate, lane: Lane) -> Found:
    name, parameter = candidate.weight.name, lane.parameters[candidate.weight.name]
    timing, started = Timing(), time.perf_counter()
    if not _finite(parameter, FP16_MOST):
        return Found(_NOT_FINITE, timing)
    rounded = changed_values(parameter, candidate.change)
    unchanged = torch.equal(rounded, parameter)
    timing.rounding_s, timing.rounded = time.perf_counter() - started, candidate.weight.parameters
    if unchanged:
        return Found(nothing_changed(len(walk.signal)), timing)
    head_only = candidate.weight.kind == "head"
    tally = walk.compare({name: rounded}, head_only=head_only, lane=lane, position=position, timing=timing)
    return Found(_samples(tally), timing)


def _samples(tally: Tally) -> Samples | str:
    return tally.samples if tally.finite else "the model's predictions are not finite with it"


def _name_of(parameter: Tensor, parameters: Mapping[str, Tensor]) -> str:
    return next(name for name, each in parameters.items() if each is parameter)


def _noisy(rows: Tensor) -> Tensor:
    return rows * torch.empty_like(rows).normal_(1, _NOISE, generator=torch.Generator().manual_seed(0))


def _finite(parameter: Tensor, most: float = math.inf) -> bool:
    """`isfinite` would take one and a half times the memory of the parameter."""
    return all(math.isfinite(end) and abs(end) <= most for end in map(Tensor.item, parameter.aminmax()))
