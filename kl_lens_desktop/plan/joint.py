"""Whole plans measured at once, window by window, and each measurement kept for the next time."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_json, write_text
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.inventory import inventory, quantizable
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.model.mapped import pieces
from kl_lens_desktop.plan.cluster import OnCluster, PlanCluster
from kl_lens_desktop.plan.whole import Measures, measures_here
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress, returned
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.quant.roundings import NEAREST, Roundings
from kl_lens_desktop.sensitivity.engine import in_forward_order, use_cores
from kl_lens_desktop.sensitivity.metrics import Tally
from kl_lens_desktop.text.bundled import REPAIR_WINDOWS, check_repair_tokens, read_text
from kl_lens_desktop.text.windows import first_ids

SCHEMA = "kl-lens/joint/1"
MEMORY_S = 5.0  # between writes of the memory
_SPREAD_TOKENS = 2**20  # of a longer text no more is tokenized, which is millions of characters
T = TypeVar("T")
Plan = TypeVar("Plan", bound=Mapping[str, str])


@dataclass(frozen=True, slots=True)
class Joint:
    """A plan measured on a text, window by window.

    Attributes
    ----------
    kl : tuple of float
        KL(full‖quantized), nats per token, of each window.
    ce, ce_full : tuple of float
        Cross-entropy of the next token under the plan and in full precision.
    """

    kl: tuple[float, ...]
    ce: tuple[float, ...]
    ce_full: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.kl))

    @property
    def se(self) -> float:
        return standard_error(self.kl)

    def less_than(self, other: "Joint") -> tuple[float, float]:
        """How much less KL than `other`, and the paired standard error of that; positive is better."""
        differences = np.subtract(other.kl, self.kl)
        return float(differences.mean()), standard_error(differences)

    def half(self, which: int) -> "Joint":
        """Every other window, from the first (0) or the second (1) on: two measurements of one thing."""
        cut = slice(which, None, 2)
        return Joint(self.kl[cut], self.ce[cut], self.ce_full[cut])

    def perplexity_over(self, other: "Joint | None" = None) -> tuple[float, float]:
        """Added cross-entropy over `other`'s, or over full precision's, with the paired standard error."""
        differences = np.subtract(self.ce, other.ce if other else self.ce_full)
        return float(differences.mean()), standard_error(differences)

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity over that of full precision."""
        return math.exp(self.perplexity_over()[0])


def standard_error(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Of the mean of windows, as everywhere: tokens inside a window are correlated."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


class Bench:
    """Measures plans of one model on one text.

    Parameters
    ----------
    loaded : LoadedModel
    ids : Tensor
        Token ids (windows, window).
    cancel : Cancel
    memory : Path, optional
        A file that keeps every measurement; one of another model or text is begun anew.
    about : mapping, optional
        What the memory is of: a measurement counts only where this is the same.
    roundings : Roundings
        What rounds each weight in each format.
    cluster : PlanCluster, optional
        Whose computers measure, instead of this one.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        ids: Tensor,
        cancel: Cancel,
        memory: Path | None = None,
        about: Mapping[str, Any] | None = None,
        roundings: Roundings = NEAREST,
        cluster: PlanCluster | None = None,
    ) -> None:
        use_cores()
        self.roundings = roundings
        self._model, self._ids = loaded.model, ids
        self.weights = {w.name: w for w in in_forward_order(quantizable(inventory(loaded.model)))}
        here = measures_here(loaded, ids, cancel)
        self._originals, self._cluster = here.originals, cluster
        self._measures: Measures = OnCluster(cluster, ids) if cluster else here
        self._memory, self._about = memory, dict(about or {})
        self._known = _remembered(memory, self._about)
        self._written = time.monotonic()

    @property
    def tokens(self) -> int:
        """Of the text that plans are measured on."""
        return self._ids.numel()

    def measure(self, assignments: Mapping[str, str]) -> Joint:
        """The whole plan against the full-precision model."""
        return returned(self.measuring(assignments))

    def measuring(self, assignments: Mapping[str, str]) -> Generator[float, None, Joint]:
        """As `measure`; on the way, how many times the text has passed a model."""
        if (known := self._known.get(self._key(assignments))) is not None:
            return known
        return self._keep(assignments, (yield from self.tallying(assignments)))

    @property
    def measures_together(self) -> bool:
        """Whether several plans are measured at the same time."""
        return self._cluster is not None

    def each(self, plans: Iterable[Plan]) -> Iterator[tuple[Plan, Joint]]:
        """Plans with what `measure` says of them, as they are drawn; together, where that is possible."""
        if self._cluster is None:
            yield from ((plan, self.measure(plan)) for plan in plans)
            return
        every = [(plan, self._key(plan)) for plan in plans]
        new = {key: self.roundings.changes(plan) for plan, key in every if key not in self._known}
        found = self._cluster.whole([(self._ids, changes) for changes in new.values()])
        for plan, key in every:
            yield plan, self._known.get(key) or self._keep(plan, next(found))

    def measure_nearest(self, assignments: Mapping[str, str]) -> Joint:
        """The same formats, every weight rounded to nearest."""
        if not self.roundings.of(assignments):
            return self.measure(assignments)
        return self.measure_rounded(assignments, NEAREST)

    def measure_rounded(self, assignments: Mapping[str, str], roundings: Roundings) -> Joint:
        """The same formats with other integers; it is not remembered."""
        return joint_of(returned(self.tallying(assignments, roundings)))

    def tallying(
        self, assignments: Mapping[str, str], roundings: Roundings | None = None
    ) -> Generator[float, None, Tally]:
        """Measure a whole plan, with these integers or those of the bench; it is not remembered.

        Yields
        ------
        float
            How many times the text has passed a model: full precision, the first time, and the plan's.
        """
        changes = (self.roundings if roundings is None else roundings).changes(assignments)
        steps = self._measures.whole(changes)
        while True:
            with self._ready():  # not while others have their turn
                try:
                    passed = next(steps)
                except StopIteration as end:
                    tally: Tally = end.value
                    return tally
            yield passed

    def neighbours(
        self, assignments: Mapping[str, str], moves: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[tuple[str, str], Joint]]:
        """Each move (weight, format) alone made in the plan, in the order of the forward pass.

        The plan's own state before a block is held, so that only what a move can reach is run.
        """
        keys = {move: self._key({**assignments, **dict([move])}) for move in moves}
        new = [move for move in moves if keys[move] not in self._known]
        yield from ((move, self._known[keys[move]]) for move in moves if move not in new)
        if not new:
            return
        order = {name: place for place, name in enumerate(self.weights)}
        new.sort(key=lambda move: order[move[0]])
        moved = [(self.weights[name], self.roundings.change(name, fmt)) for name, fmt in new]
        tallies = self._measures.moved(self.roundings.changes(assignments), moved)
        for name, fmt in new:
            with self._ready():
                joint = self._keep({**assignments, name: fmt}, next(tallies))
            yield (name, fmt), joint

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        with torch.no_grad(), fast_kernels(self._model):
            yield

    def weight_error(self, name: str, fmt: str) -> float:
        """The squared error of a weight in a format, relative to its squared norm."""
        error = norm = 0.0
        for piece in pieces(self._originals[name]):
            weight = piece.float()
            error += float((fake_quantize(weight, parse_format(fmt)) - weight).square().sum())
            norm += float(weight.square().sum())
        return error / max(norm, 1e-30)

    def remember(self) -> None:
        """Write the memory now; it is written every few seconds anyway."""
        if self._memory is not None:
            measurements = {key: asdict(value) for key, value in self._known.items()}
            value = {"schema": SCHEMA, **self._about, "measurements": measurements}
            write_text(self._memory, json.dumps(value))
        self._written = time.monotonic()

    def _keep(self, assignments: Mapping[str, str], tally: Tally) -> Joint:
        joint = joint_of(tally)
        self._known[self._key(assignments)] = joint
        if time.monotonic() - self._written > MEMORY_S:
            self.remember()
        return joint

    def _key(self, assignments: Mapping[str, str]) -> str:
        fitted = self.roundings.of(assignments)
        plan = sorted(
            (weight, fmt, *filter(None, [fitted.get(weight)])) for weight, fmt in assignments.items()
        )
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:32]


class Passes:
    """How far a stage is with measurements that follow each other.

    Parameters
    ----------
    stage : str
    total : int
        Tokens that pass a model in all of them.
    """

    def __init__(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done, self._started = stage, total, 0.0, time.monotonic()

    def of(self, steps: Generator[float, None, T], tokens: int, message: str) -> Generator[Event, None, T]:
        """What comes of a measurement which says how many times its `tokens` have passed a model."""
        begun = done = self._done
        while True:
            spent = time.monotonic() - self._started
            left = spent / done * (self._total - done) if done else None
            yield Progress(self._stage, done, self._total, message, "tokens", left)
            try:
                done = begun + tokens * next(steps)
            except StopIteration as end:
                self._done = done
                found: T = end.value
                return found


@dataclass(frozen=True, slots=True)
class Way:
    """A text and a rounding that a plan is measured with, and what is said meanwhile."""

    ids: Tensor
    roundings: Roundings
    message: str


def tallies(
    loaded: LoadedModel,
    cancel: Cancel,
    assignments: Mapping[str, str],
    ways: Sequence[Way],
    stage: str,
    cluster: PlanCluster | None = None,
) -> Generator[Event, None, list[Tally]]:
    """A plan in several ways, those with one text after another; on a cluster all at the same time."""
    texts = {id(way.ids): way.ids for way in ways}
    tokens = sum(way.ids.numel() for way in ways) + sum(ids.numel() for ids in texts.values())
    passes = Passes(stage, tokens)
    if cluster is not None:
        found = cluster.whole([(way.ids, way.roundings.changes(assignments)) for way in ways])
        return (yield from passes.of(counted(found, len(ways)), tokens, "Measuring on the cluster"))
    measured, bench = list[Tally](), None
    for place, way in enumerate(ways):
        if bench is None or way.ids is not ways[place - 1].ids:
            bench = Bench(loaded, way.ids, cancel)
        steps = bench.tallying(assignments, way.roundings)
        measured.append((yield from passes.of(steps, way.ids.numel(), way.message)))
    return measured


def counted(found: Iterable[T], count: int) -> Generator[float, None, list[T]]:
    """All that comes; on the way, which share of them is there."""
    every = []
    for each in found:
        every.append(each)
        yield len(every) / count
    return every


def joint_of(tally: Tally) -> Joint:
    """What a plan's measurement says, window by window."""
    return Joint(*(tuple(tally.by_window(column)) for column in ("kl_pq", "ce", "ce_full")))


def spread_windows(loaded: LoadedModel, file: Path, tokens: int, window: int, skip: int) -> Tensor:
    """Windows spread evenly over the part of a text after its first `skip` tokens.

    Returns
    -------
    Tensor
        Token ids (windows, window).

    Raises
    ------
    InputError
        If that part, or `tokens`, holds fewer than four windows: two to choose and two to judge.
    """
    ids = first_ids(loaded, read_text(file), skip + _SPREAD_TOKENS, str(file))
    check_repair_tokens(tokens, window)
    room = (len(ids) - skip) // window
    count = min(tokens // window, room)
    if room < REPAIR_WINDOWS:
        left = max(len(ids) - skip, 0)
        raise InputError(
            f"Cannot repair on {file}",
            f"only {left} of its {len(ids)} tokens were not used for scoring, and four windows need more",
            "Choose another text",
        )
    starts = [skip + window * (place * room // count) for place in range(count)]
    return torch.tensor([ids[start : start + window] for start in starts], dtype=torch.long)


def tokens_remembered(memory: Path, about: Mapping[str, Any]) -> int:
    """How many tokens a bench's memory is of; 0 if it is of another model or text, or cannot be read."""
    tokens = _read_memory(memory, about).get("tokens")
    return tokens if isinstance(tokens, int) else 0


def _read_memory(memory: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """A memory of what `about` says, else nothing."""
    try:
        value = read_json(memory) if memory.is_file() else None
    except InputError:
        value = None
    about = {"schema": SCHEMA, **about}
    return value if isinstance(value, dict) and about.items() <= value.items() else {}


def _remembered(memory: Path | None, about: Mapping[str, Any]) -> dict[str, Joint]:
    if memory is None:
        return {}
    try:
        value = _read_memory(memory, about)
        found = {
            key: Joint(*(tuple(map(float, item[column])) for column in ("kl", "ce", "ce_full")))
            for key, item in value["measurements"].items()
        }
        columns = (column for joint in found.values() for column in (joint.kl, joint.ce, joint.ce_full))
        return found if len({len(column) for column in columns}) <= 1 else {}
    # A damaged memory costs time, nothing else.
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
