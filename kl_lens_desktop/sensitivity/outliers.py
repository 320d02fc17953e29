"""Columns of large inputs, scaled up before a weight is rounded, and their inputs down: the function stays.

Some channels of a large model's hidden states are many times as large as the others, and the columns that
they meet are small. In a group with others these get a step as coarse as theirs, and large inputs multiply
their error. So columns are multiplied by a power of the strength of their inputs before they are rounded, as
in AWQ (Lin et al., arXiv 2306.00978): the nearest power of two, which no precision rounds. Where inputs have
no such channels this makes a weight worse, so it is done only where it pays.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.gptq import scaled_columns
from kl_lens_desktop.quant.integers import MOST_POWER
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.quant.symmetric import row_errors

_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the strength of the inputs, as exponents
_TRIED = ("int4_sym_g64", "int3_sym_g64")
_ROWS = 64  # of each weight, on which shares are compared
_ENOUGH = 0.8  # of the error that is left: what scaling must bring
_LEAST_POWER = -2  # a channel that is silent on this text may speak on another
_ROOM = 14  # scaled columns stay below two to that, a quarter of the largest number of FP16
_LEAST = 1e-8  # of the mean: weaker channels count as this strong


@torch.no_grad()
def exponents(weights: Sequence[Tensor], moment: Tensor) -> Tensor | None:
    """By which powers of two to multiply the columns of weights with the same inputs; None for none.

    Parameters
    ----------
    weights : sequence of Tensor
        (rows, channels) each.
    moment : Tensor
        XᵀX / tokens of their inputs, float32 (channels, channels).

    Returns
    -------
    Tensor or None
        int32 (channels,). The weighted error of a few rows, rounded to nearest, is then at most `_ENOUGH` of
        what it was: rounding by data gains less by it, but gains where that does.
    """
    strength = moment.diagonal().double()
    mean = float(strength.mean())
    if not (0 < mean < float("inf")):
        return None
    strength = strength.clamp(min=_LEAST * mean).log2() / 2
    strength -= strength.median()
    ends = [torch.aminmax(weight.detach(), dim=0) for weight in weights]
    largest = torch.stack([torch.maximum(-low, high).float().cpu() for low, high in ends]).amax(0)
    room = (_ROOM - largest.clamp(min=2.0**-24).log2().ceil()).int()
    rows = [_some(weight) for weight in weights]
    found, least = None, _ENOUGH
    before = _errors(rows, moment, torch.zeros_like(room))
    if not bool((before > 0).all()):
        return None
    for share in _SHARES:
        tried = (share * strength).round().int().clamp(_LEAST_POWER, MOST_POWER).minimum(room)
        if not tried.any():
            continue
        left = float((_errors(rows, moment, tried) / before).log().mean().exp())
        if left < least:
            found, least = tried, left
    return found


def _some(weight: Tensor) -> Tensor:
    places = torch.linspace(0, len(weight) - 1, min(_ROWS, len(weight)), device=weight.device).long()
    return weight.detach()[places].float().cpu()


def divide(moment: Tensor, powers: Tensor) -> None:
    """Make a moment XᵀX that of the inputs divided by powers of two, in place."""
    scale = torch.exp2(-powers.float())
    moment.mul_(scale[:, None]).mul_(scale)


def _errors(rows: Sequence[Tensor], moment: Tensor, tried: Tensor) -> Tensor:
    """In each of the formats that are tried, of all weights together."""
    return torch.tensor([sum(_error(part, moment, tried, name) for part in rows) for name in _TRIED])


def _error(part: Tensor, moment: Tensor, tried: Tensor, name: str) -> float:
    scaled = scaled_columns(part, tried)
    error = scaled_columns(fake_quantize(scaled, parse_format(name)) - scaled, -tried)
    return float(row_errors(error, moment).sum())
