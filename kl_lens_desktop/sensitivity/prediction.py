"""What nobody measured, foretold with an error bar. Needs no torch.

To second order, KL is a quadratic form of the change of a weight. With H the second moment of the weight's
inputs, its local error e = tr(δW·H·δWᵀ) is nearly proportional to that: KL(format) ≈ KL(anchor) · e(format) /
e(anchor), where the anchor is a format in which the same weight was measured. Where none was, the weight's
gain KL/e is taken from the same part of the neighbouring blocks.

How far this is off is told by the pairs where both exist, format by format, and by what was found on other
models before there are any.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.sensitivity.jobs import ANCHOR
from kl_lens_desktop.sensitivity.scores import Held, Pair

# Standard deviation of log(measured / foretold), as found on a trained Falcon-H1 and the sample, by bits and
# scheme; between two group sizes of one kind; and of a weight whose gain comes from its neighbours.
_SPREADS = {
    "int8": 0.14,
    "int4_sym": 0.13,
    "int4_asym": 0.13,
    "nf4": 0.15,
    "int3_sym": 0.17,
    "int2_sym": 0.35,
}
_GROUPS, _NEIGHBOURS, _STRANGERS = 0.08, 0.7, 1.2
_PRIOR = 4  # pairs that those count for
_NOTHING = 1e-6  # nats per token: of a weight that loses more, a local error of 0 says nothing
_BRIEF = 0.3  # relative error of what was measured on a single window


@dataclass(frozen=True, slots=True)
class Foretold:
    """An estimate and its standard error, from something measured on `n` windows.

    `spread` is the part of the error that is not of the text: more windows leave it, relative to the mean.
    """

    mean: float
    se: float
    n: int
    spread: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight sits: its part of a block, such as ``mamba.in_proj``, the block and the kind."""

    part: str
    block: int
    kind: str


@dataclass(frozen=True, slots=True)
class _Gauge:
    """log(measured / foretold): what to expect, and its standard deviation."""

    centre: float
    spread: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Everything foretold of one measure, and how well that held.

    Attributes
    ----------
    found : mapping of (weight, format) to Foretold
        What has a local error and was not measured.
    held : mapping of str to Held
        By format.
    """

    found: Mapping[Pair, Foretold] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)


def predict(
    errors: Mapping[Pair, float], series: Mapping[Pair, Sequence[float]], places: Mapping[str, Place]
) -> Prediction:
    """Foretell a measure that is a quadratic form of the change of logits: a KL, or their squared error.

    Parameters
    ----------
    errors : mapping of (weight, format) to float
        Local errors, of at least every measured pair that is to count.
    series : mapping of (weight, format) to sequence of float
        Window means of what was measured, all in the same order of windows.
    places : mapping of str to Place
        Of every weight.
    """
    known: dict[str, dict[str, Sequence[float]]] = defaultdict(dict)
    for (weight, name), values in series.items():
        if len(values) and math.fsum(values) > 0 and errors.get((weight, name), 0.0) > 0:
            known[weight][name] = values
    ratios = {weight: _ratios(weight, errors, of) for weight, of in known.items()}
    gauges, groups = _gauges(ratios.values()), _gauge_of_groups(ratios.values())
    gains = _Gains(errors, known, places, gauges)
    found = {}
    silent = {
        weight
        for (weight, name), values in series.items()
        if len(values) and errors.get((weight, name), 1.0) <= 0 and np.mean(values) > _NOTHING
    }
    for pair, error in errors.items():
        weight, name = pair
        if len(series.get(pair, ())) > 1 or (error <= 0 and weight in silent):
            continue
        if error <= 0:
            found[pair] = Foretold(0.0, 0.0, max(map(len, known[weight].values()), default=0), 0.0)
        elif of := known.get(weight):
            found[pair] = _from_anchor(name, weight, of, errors, gauges, groups)
        elif known:
            found[pair] = gains.foretold(weight, name, error)
    return Prediction(found, _held(ratios.values()))


def kind_of(name: str) -> str:
    """Bits and scheme of a format, without its groups: what predictions of it have in common."""
    return "int8" if name.startswith("int8") else name.rpartition("_")[0]


def reference(names: Iterable[str]) -> str:
    """That of measured formats from which the others are foretold: the anchor, or the nearest to 4 bits."""
    return min(names, key=lambda name: (name != ANCHOR, abs(parse_format(name).bits - 4), name))


def _ratios(weight: str, errors: Mapping[Pair, float], of: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """log(measured / foretold) of each further format of a weight, on the windows that both have."""
    base = reference(of)
    found = {base: 0.0}
    for name, values in of.items():
        count = min(len(values), len(of[base]))
        measured, anchor = math.fsum(values[:count]), math.fsum(of[base][:count])
        if name != base and measured > 0 and anchor > 0:
            found[name] = math.log(measured / anchor * errors[weight, base] / errors[weight, name])
    return found


def _gauges(ratios: Iterable[Mapping[str, float]]) -> dict[str, _Gauge]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for of in ratios:
        for name, ratio in of.items():
            if kind_of(name) != kind_of(ANCHOR) and ANCHOR in of:
                by_kind[kind_of(name)].append(ratio)
    return {kind: _gauge(by_kind[kind], spread) for kind, spread in _SPREADS.items()}


def _gauge_of_groups(ratios: Iterable[Mapping[str, float]]) -> _Gauge:
    """Between formats of one kind, whichever of them is the anchor."""
    apart = []
    for of in ratios:
        by_kind: dict[str, list[float]] = defaultdict(list)
        for name, ratio in of.items():
            by_kind[kind_of(name)].append(ratio)
        apart += [value - values[0] for values in by_kind.values() for value in values[1:]]
    return _Gauge(0.0, _gauge(apart, _GROUPS).spread)


def _gauge(values: Sequence[float], spread: float) -> _Gauge:
    """What pairs say, with the weight of their number beside what was known before."""
    count = len(values)
    centre = float(np.median(values)) * count / (count + _PRIOR) if count else 0.0
    squares = math.fsum((value - centre) ** 2 for value in values)
    return _Gauge(centre, math.sqrt((_PRIOR * spread**2 + squares) / (_PRIOR + count)))


def _from_anchor(
    name: str,
    weight: str,
    of: Mapping[str, Sequence[float]],
    errors: Mapping[Pair, float],
    gauges: Mapping[str, _Gauge],
    groups: _Gauge,
) -> Foretold:
    kind, error = kind_of(name), errors[weight, name]

    def distance(other: str) -> tuple[bool, float, str]:
        return kind_of(other) != kind, abs(math.log(errors[weight, other] / error)), other

    anchor = min(of, key=distance)
    mine, others = gauges[kind], gauges[kind_of(anchor)]
    spread = groups.spread if kind_of(anchor) == kind else max(mine.spread, _other_spread(anchor, others))
    level, relative = _level(of[anchor])
    mean = level * error / errors[weight, anchor] * math.exp(mine.centre - others.centre)
    return Foretold(mean, mean * math.hypot(spread, relative), len(of[anchor]), spread)


def _other_spread(anchor: str, gauge: _Gauge) -> float:
    """What an anchor of another kind than the usual one adds: it was measured, and its own ratio is known."""
    return 0.0 if kind_of(anchor) == kind_of(ANCHOR) else gauge.spread


def _level(values: Sequence[float]) -> tuple[float, float]:
    """Mean of window means, and its relative standard error."""
    array = np.array(values)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, _BRIEF
    return mean, float(array.std(ddof=1) / math.sqrt(len(array)) / mean)


class _Gains:
    """log(KL / local error) of weights in the anchor, by part and block."""

    def __init__(
        self,
        errors: Mapping[Pair, float],
        known: Mapping[str, Mapping[str, Sequence[float]]],
        places: Mapping[str, Place],
        gauges: Mapping[str, _Gauge],
    ) -> None:
        self._places, self._gauges = places, gauges
        self._parts: dict[str, list[tuple[int, float]]] = {}
        by_block: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._kinds: dict[str, list[float]] = defaultdict(list)
        self._windows = 0
        for weight, of in known.items():
            base, place = reference(of), places[weight]
            gain = math.log(_level(of[base])[0] / errors[weight, base]) - gauges[kind_of(base)].centre
            by_block[place.part][place.block].append(gain)
            self._kinds[place.kind].append(gain)
            self._windows = max(self._windows, len(of[base]))
        for part, of_block in by_block.items():  # each block once: experts of a layer count as one
            self._parts[part] = sorted((block, float(np.mean(some))) for block, some in of_block.items())
        self._near = _gauge(
            [
                gain - _between(points[:place] + points[place + 1 :], block)
                for points in self._parts.values()
                for place, (block, gain) in enumerate(points)
                if len(points) > 2
            ],
            _NEIGHBOURS,
        ).spread

    def foretold(self, weight: str, name: str, error: float) -> Foretold:
        """A weight of which nothing was measured."""
        place, gauge = self._places[weight], self._gauges[kind_of(name)]
        if points := self._parts.get(place.part):
            gain, spread = _between(points, place.block), self._near
        else:
            alike = self._kinds.get(place.kind) or [gain for of in self._kinds.values() for gain in of]
            gain, spread = float(np.median(alike)), _STRANGERS
        mean = math.exp(gain + gauge.centre) * error
        apart = math.hypot(spread, gauge.spread)
        return Foretold(mean, mean * apart, self._windows, apart)


def _between(points: Sequence[tuple[int, float]], block: int) -> float:
    """Linear between blocks, and level beyond the outermost."""
    blocks, gains = zip(*points, strict=True)
    return float(np.interp(block, blocks, gains))


def _held(ratios: Iterable[Mapping[str, float]]) -> dict[str, Held]:
    by_format: dict[str, list[float]] = defaultdict(list)
    for of in ratios:
        base = reference(of)
        for name, ratio in of.items():
            if name != base:
                by_format[name].append(ratio)
    return {
        name: Held(
            math.exp(float(np.median(values))),
            float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            len(values),
        )
        for name in all_formats()
        if (values := by_format.get(name))
    }
