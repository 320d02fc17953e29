"""How long the whole job takes: before it starts and while it runs, over all of its steps. Needs no torch."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.process.events import Progress, Weights
from kl_lens_desktop.run import BASELINES, RunJob
from kl_lens_desktop.sensitivity import estimate
from kl_lens_desktop.sensitivity.estimate import Costs

STEPS = ("analyze", "verify", "export", "bench")
# The step of each part, in their order: an analysis rounds by the data before it measures, and once more
# before it measures what the plan hangs on; verification does so for formats that were predicted.
PARTS = {
    "round": 0, "scan": 0, "round-2": 0, "scan-2": 0, "round-3": 1, "verify": 1, "export": 2, "bench": 3,
}  # fmt: skip
_ALIKE = {"round-2": "round", "round-3": "round", "scan-2": "scan"}  # what a part is like before it
_ORDER = tuple(PARTS)
_VARIANTS = len(BASELINES) + 1
# Seconds beside the arithmetic, and how often the model is read and compared, as on the models tried; what
# this computer takes in truth is learned from its jobs (`Course.paces`).
_START_S = 3.0  # a child process with torch or OpenVINO
_AGAIN, _FURTHER = 0.75, 0.25  # of the weights that are rounded once more, and of the measuring that is left
# Of verification: model and plan; beside a rounding by data the nearest, and all three on half as much text.
_NEAREST_PASSES, _DATA_PASSES = 2, 4.5
_TRACE_S, _EXPORT_ELEMENT_S = 6.0, 6e-8
_ROUNDS, _TURN_S, _ONCE_S = 12, 3.0, 3.0  # of a benchmark: until speeds are told apart, and single runs
_QUALITY_SHARE = 0.5  # of the seconds that torch takes for a token, with its reference
_TRUST = 0.02  # the share of a part from which on its own course says something
_PACE_LIMITS = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Done:
    """What an earlier job has left of the whole: a share of the analysis, and whether the rest is there."""

    analysis: float = 0.0
    verified: bool = False
    exported: int = 0


def expected(
    costs: Costs,
    weights: Sequence[Mapping[str, Any]],
    job: RunJob,
    devices: int = 1,
    done: Done | None = None,
    paces: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Seconds that each of `PARTS` is expected to take.

    Parameters
    ----------
    costs : Costs
        Of this computer and model.
    weights : sequence of mapping
        The inventory: the rows of ``kl-lens inspect``.
    devices : int
        How many are benchmarked.
    done : Done, optional
        Nothing, without it.
    paces : mapping of str to float
        Seconds that a part has taken on this computer, over those expected: see `Course.paces`.
    """
    done = done or Done()
    elements = sum(math.prod(weight["shape"]) for weight in weights)
    token_s = sum(costs.block_s) + costs.head_s
    measuring = estimate.seconds(costs, weights, job.analysis)
    by_data = job.analysis.rounding == "data"
    rounding = estimate.rounding_seconds(costs, weights) if by_data else 0.0
    left = 1 - done.analysis
    passes = _DATA_PASSES if by_data else _NEAREST_PASSES
    passing = passes * (job.verify_tokens * token_s + sum(costs.widen_s))
    writing = _START_S + elements * _EXPORT_ELEMENT_S + 2 * costs.open_s
    found = {
        "round": left * rounding,
        "scan": left * (1 - _FURTHER) * measuring + _START_S,
        "round-2": left * _AGAIN * rounding,
        "scan-2": left * _FURTHER * measuring,
        "round-3": 0.0 if done.verified else _AGAIN * rounding,
        "verify": 0.0 if done.verified else _START_S + costs.open_s + passing + elements * costs.element_s,
        "export": 0.0
        if done.exported >= _VARIANTS
        else _START_S + _TRACE_S + (_VARIANTS - done.exported) * writing,
        "bench": devices * _bench_s(job.benchmark, token_s) + _START_S,
    }
    return {part: seconds * (paces or {}).get(part, 1.0) for part, seconds in found.items()}


def hours_words(weights: Weights, job: RunJob) -> str:
    """How long a job of hours takes on a usual laptop, and what shortens it; empty for a shorter one."""
    costs = estimate.usual(weights.weights, weights.experts_chosen)
    hours = sum(expected(costs, weights.weights, job, len(job.devices or ()) or 1).values()) / 3600
    if hours < 1:
        return ""
    return (
        f"On a usual laptop, the whole job takes about {hours:.0f} h from its start. A limit for the "
        "measuring (--minutes) shortens it, and an interrupted job resumes."
    )


def _bench_s(benchmark: Benchmark, token_s: float) -> float:
    """Seconds for one device."""
    turns = _VARIANTS * min(_ROUNDS, benchmark.most_rounds) * (_TURN_S + benchmark.cool_down_s)
    speed_s = min(turns, 60 * benchmark.speed_minutes) + _VARIANTS * _ONCE_S
    once_s = (1 + benchmark.raw + 2 * benchmark.cache) * (_ONCE_S + benchmark.cool_down_s)
    return speed_s + _VARIANTS * (once_s + _QUALITY_SHARE * benchmark.tokens * token_s)


@dataclass(slots=True)
class _Part:
    """What is known of one part: by the clock when it began and ended, and what it says of itself."""

    began: float
    first: float  # `done` of its first progress: some go on where another part stopped counting
    ended: float | None = None
    share: float = 0.0
    eta: tuple[float, float] | None = None  # when it was said, and what


@dataclass(slots=True)
class Course:
    """Where a running job is, over all of its steps; nothing in it goes back.

    Parameters
    ----------
    expected : mapping of str to float
        Seconds by part, from `expected`; empty where nothing is known.
    learnt : collection of str
        The parts of which this computer's pace is known.
    """

    expected: Mapping[str, float]
    learnt: Collection[str] = ()
    _parts: dict[str, _Part] = field(default_factory=dict)
    _now: str = ""
    _shown: dict[str, float] = field(default_factory=dict)
    _paused_at: float | None = None
    _paused_s: float = 0.0

    @property
    def step(self) -> str:
        """Which of `STEPS` runs; empty before the first."""
        return STEPS[PARTS[self._now]] if self._now else ""

    def note(self, progress: Progress, now: float) -> None:
        """Take in what a stage says of itself at `now`, a clock's seconds."""
        name, clock = self._part_of(progress), self._clock(now)
        if not name:
            return
        if name != self._now:
            self._end_part(clock)
            self._now = name
            self._parts[name] = _Part(clock, progress.done)
        part = self._parts[name]
        if progress.total > part.first and progress.stage != "plan":  # which is done at once
            share = (progress.done - part.first) / (progress.total - part.first)
            part.share = max(part.share, min(share, 1.0))
        # Zero is said as well where a stage does not know.
        part.eta = (clock, progress.eta_s) if progress.eta_s else part.eta

    def pause(self, now: float) -> None:
        """The clock stands until `resume`."""
        self._paused_at = now

    def resume(self, now: float) -> None:
        if self._paused_at is not None:
            self._paused_s += now - self._paused_at
            self._paused_at = None

    def end(self, now: float) -> None:
        """All of the job is done."""
        self._end_part(self._clock(now))

    def shares(self) -> dict[str, float]:
        """How much of each step is done, from 0 to 1, its parts by the time they are expected to take."""
        for place, step in enumerate(STEPS):
            mine = [part for part, of in PARTS.items() if of == place]
            known = {part: self._share(part) for part in mine}
            weights = {part: self.expected.get(part, 0.0) or 1e-3 for part in mine}
            share = sum(known[part] * weights[part] for part in mine) / sum(weights.values())
            passed = self._now and PARTS[self._now] > place
            self._shown[step] = 1.0 if passed else max(self._shown.get(step, 0.0), share)
        return dict(self._shown)

    def left(self, now: float) -> float | None:
        """Seconds until the whole job is done; None where nothing can be said yet."""
        if not self.expected:
            return None
        clock = self._clock(now)
        later = _ORDER[_ORDER.index(self._now) + 1 :] if self._now else _ORDER
        rest = sum(self._planned(part, clock) for part in later)
        return rest + (self._left_here(clock) if self._now else 0.0)

    def paces(self) -> dict[str, float]:
        """Seconds that each finished part took, over those expected of it: to be kept for the next job."""
        low, high = _PACE_LIMITS
        return {
            name: min(max((part.ended - part.began) / self.expected[name], low), high)
            for name, part in self._parts.items()
            if part.ended is not None and self.expected.get(name, 0.0) >= 1.0
        }

    def _part_of(self, progress: Progress) -> str:
        """The part that a progress belongs to; empty for one before the first, or of a part that is past."""
        if progress.stage in ("analyze", "verify") and progress.total <= 0:
            return ""  # while a model is opened nobody knows which part of the stage comes first
        name = {"plan": "round-3", "analyze": "scan"}.get(progress.stage, progress.stage)
        if progress.stage == "verify" and progress.unit == "roundings":
            name = "round-3"
        if progress.stage == "analyze":
            name = "round" if progress.unit == "roundings" else "scan"
            again = self._now in ("scan", "round-2", "scan-2") and name == "round"
            name = f"{name}-2" if again or self._now in ("round-2", "scan-2") else name
        if name not in PARTS or (self._now and _ORDER.index(name) < _ORDER.index(self._now)):
            return ""
        return name

    def _end_part(self, clock: float) -> None:
        if self._now and self._parts[self._now].ended is None:
            self._parts[self._now].ended, self._parts[self._now].share = clock, 1.0

    def _share(self, name: str) -> float:
        if self._now and _ORDER.index(name) < _ORDER.index(self._now):
            return 1.0
        return self._parts[name].share if name in self._parts else 0.0

    def _clock(self, now: float) -> float:
        """`now`, without what was paused."""
        return (now if self._paused_at is None else self._paused_at) - self._paused_s

    def _left_here(self, clock: float) -> float:
        """Of the part that runs: by its plan at first, and more and more by its own course."""
        part = self._parts[self._now]
        elapsed = clock - part.began
        by_plan = max(self._planned(self._now, clock) - elapsed, 0.0)
        if part.eta is not None:
            by_itself = max(part.eta[1] - (clock - part.eta[0]), 0.0)
        elif part.share > _TRUST:
            by_itself = elapsed * (1 - part.share) / part.share
        else:
            return by_plan
        trust = min(max(2 * part.share, elapsed / (elapsed + by_itself + 1e-9)), 1.0)
        return trust * by_itself + (1 - trust) * by_plan

    def _planned(self, name: str, clock: float) -> float:
        """Seconds for a part from its start: as one like it has taken, or as the others make expect."""
        like = _ALIKE.get(name, "")
        ratio = self._ratio(like, clock) if like else None
        if ratio is None and name not in ("bench", self._now):  # a benchmark's minutes are given
            ratio = self._drift(clock)
        return self.expected[name] * (1.0 if ratio is None else ratio)

    def _drift(self, clock: float) -> float:
        """How many times as long as expected the arithmetic takes today."""
        told = (name for name in self._parts if name in self.learnt or not name.startswith("round"))
        known = [
            (self.expected[name], ratio)
            for name in told
            if name != "bench" and (ratio := self._ratio(name, clock))
        ]
        weight = sum(seconds for seconds, _ in known)
        if not weight:
            return 1.0
        return sum(seconds * ratio for seconds, ratio in known) / weight

    def _ratio(self, name: str, clock: float) -> float | None:
        """What a part takes, or is on the way to take, over what was expected; None while it says nothing."""
        part, low, high = self._parts.get(name), *_PACE_LIMITS
        if part is None or self.expected.get(name, 0.0) < 1.0:
            return None
        if part.ended is not None:
            took = part.ended - part.began
        elif part.share > _TRUST:
            elapsed = clock - part.began
            took = elapsed + (part.eta[1] if part.eta else elapsed * (1 - part.share) / part.share)
        else:
            return None
        return min(max(took / self.expected[name], low), high)
