"""How long an analysis will take on this computer, from a short calibration. Needs no torch."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.sensitivity import race
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.pace import GO_ON

MOMENT_WINDOWS = 4  # of the text, from which second moments come
MOST_ROWS, LEAST_ROWS, ROW_WORK = 256, 64, 2**26  # of a weight, by which formats are compared
_FURTHER = 0.6  # entries of a menu that are measured beside the anchors, for each of these
_BRIEF = race.FIRST_LOOK
# Rounding by the data, as two slow cores take it: a column, an element, a product, a step of a factorisation.
_COLUMN_S, _INTEGER_S, _PRODUCT_S, _FACTOR_S = 4e-4, 1.5e-7, 5e-11, 2.5e-11


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of this computer, with all of its lanes busy.

    Attributes
    ----------
    open_s : float
        To open the model.
    block_s : tuple of float
        A token in each block.
    widen_s : tuple of float
        Reading each block from disk; 0 where the weights lie in memory.
    head_s : float
        A token in the head, and comparing its predictions.
    element_s : float
        Rounding an element to nearest.
    fitting : float
        Rounding by the data, over what two slow cores take for it.
    """

    open_s: float
    block_s: tuple[float, ...]
    widen_s: tuple[float, ...]
    head_s: float
    element_s: float
    fitting: float = 1.0


_USUAL_FLOPS, _USUAL_ELEMENT_S, _USUAL_BYTES_S = 5e10, 1e-8, 5e8  # of a laptop, with all cores busy


def usual(weights: Sequence[Mapping[str, Any]], experts_chosen: int = 0) -> Costs:
    """What a laptop takes as a rule, for where nothing is timed yet.

    Parameters
    ----------
    weights : sequence of mapping
        The inventory: the rows of ``kl-lens inspect``.
    experts_chosen : int
        How many experts of a layer a token passes; all of them with 0.
    """
    blocks: dict[int, float] = {}
    head = 0
    for weight in weights:
        if weight["block"] is None:
            head = max(head, weight["parameters"])
        else:
            blocks[weight["block"]] = blocks.get(weight["block"], 0) + _passed(weight, experts_chosen)
    each = tuple(2 * blocks[place] / _USUAL_FLOPS for place in sorted(blocks)) or (0.0,)
    size = sum(weight["parameters"] for weight in weights)
    return Costs(
        4 * size / _USUAL_BYTES_S, each, (0.0,) * len(each), 2 * head / _USUAL_FLOPS, _USUAL_ELEMENT_S
    )


def _passed(weight: Mapping[str, Any], experts_chosen: int) -> float:
    """Parameters that a token is multiplied with, of a stack of experts those of the chosen."""
    stacked = weight["shape"][0] if len(weight["shape"]) == 3 and weight["kind"] != "conv" else 1
    return float(weight["parameters"] * min(experts_chosen or stacked, stacked) / stacked)


def seconds(costs: Costs, weights: Sequence[Mapping[str, Any]], analysis: Analysis) -> float:
    """What an analysis is expected to take from its start, nothing being measured yet.

    Parameters
    ----------
    weights : sequence of mapping
        The inventory: the rows of ``kl-lens inspect``.
    """
    window, total = analysis.window, max(analysis.tokens // analysis.window, 1)
    matrices = [weight for weight in weights if weight["kind"] != "conv"]
    trunk = [*itertools.accumulate(reversed(costs.block_s))][::-1]
    clean = window * (trunk[0] + costs.head_s)
    by_menu = not (analysis.formats or analysis.exhaustive)
    each = _windows(total, exhaustive=analysis.exhaustive)
    entries = each * (1 if by_menu else len(analysis.offered))
    if by_menu:
        entries += _FURTHER * min(_BRIEF, total)
    measuring = sum(
        entries
        * (window * (_from(trunk, weight) + costs.head_s) + weight["parameters"] * costs.element_s / _BRIEF)
        for weight in matrices
    )
    passes = total + (_BRIEF if by_menu else 0)
    found = costs.open_s + passes * clean + measuring
    found += sum(costs.widen_s) * (1 + passes / _BRIEF) * max(1.0, len(matrices) * window * _BRIEF / 2**13)
    if by_menu:
        found += MOMENT_WINDOWS * 2 * clean + _comparing(costs, matrices, analysis)
    return float(found if analysis.minutes is None else min(found, 60 * analysis.minutes))


def rounding_seconds(costs: Costs, weights: Sequence[Mapping[str, Any]], formats: int = 1) -> float:
    """Seconds for integers chosen by the data, for all weights that a format applies to, in so many formats.

    Parameters
    ----------
    weights : sequence of mapping
        The inventory: the rows of ``kl-lens inspect``.
    """
    matrices = [weight["shape"] for weight in weights if weight["kind"] != "conv"]
    found = 0.0
    for shape in matrices:
        channels, elements, experts = shape[-1], math.prod(shape), math.prod(shape[:-2])
        found += _COLUMN_S * channels + (_INTEGER_S + _PRODUCT_S * channels) * elements
        found += experts * _FACTOR_S * channels**3
    return formats * costs.fitting * found


def _from(trunk: Sequence[float], weight: Mapping[str, Any]) -> float:
    """Seconds for a token in the blocks that a change of the weight reaches."""
    return 0.0 if weight["kind"] == "head" else trunk[weight["block"] or 0]


def _windows(total: int, *, exhaustive: bool) -> float:
    """On how many windows an entry is measured on average."""
    if exhaustive:
        return float(total)
    found, share = 0.0, 1.0
    for place, (start, stop) in enumerate(itertools.pairwise([0, *race.looks(total)])):
        found += share * (stop - start)
        share *= GO_ON[min(place, len(GO_ON) - 1)]
    return found


def _comparing(costs: Costs, matrices: Sequence[Mapping[str, Any]], analysis: Analysis) -> float:
    """Seconds for the local errors of all formats."""
    parameters = sum(weight["parameters"] for weight in matrices if weight["block"] is not None)
    product_s = sum(costs.block_s) / max(parameters, 1)  # a multiplication
    found = 0.0
    for weight in matrices:
        channels = weight["shape"][-1]
        rows = min(weight["parameters"] // channels, row_count(channels))
        found += rows * channels * (costs.element_s + channels * product_s)
    return found * len({parse_format(name) for name in analysis.offered})


def row_count(channels: int) -> int:
    """How many rows of a weight with so many input channels are enough to compare formats."""
    return min(max(LEAST_ROWS, ROW_WORK // channels**2), MOST_ROWS)
