"""Rounding a weight to a format in torch: the same integers and scales that NNCF 3.4 writes.

Source of the formulas: nncf/quantization/algorithms/weight_compression/weight_lowering.py. The elements are
rounded with the float32 scale, the file stores the scale as float16, and the runtime multiplies by the
latter; so does `fake_quantize`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kl_lens_desktop.quant.formats import Format, group_size

_PIECE = 2**16  # elements at a time: what rounding them takes stays in a core's cache, three times as fast
_EPS = torch.finfo(torch.float32).eps
NF4_VALUES = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ]
)  # fmt: skip
NF4_BOUNDARIES = torch.tensor(
    [
        -0.84809643, -0.6106329, -0.45999527, -0.33967942, -0.2346074, -0.13791174, -0.045525018, 0.03979015,
        0.120255254, 0.20352125, 0.29201376, 0.38931254, 0.5016634, 0.6427869, 0.8614784,
    ]
)  # fmt: skip
_CELLS = 64  # for one unit of a scaled value, so fine that each has one of the boundaries at most


def _cells(scaled: Tensor) -> Tensor:
    """Which of the equal cells values fall into; what is no number falls into the last."""
    return (scaled * _CELLS).nan_to_num_(_CELLS).clamp_(-_CELLS, _CELLS - 1).add_(_CELLS).int()


def _by_cell() -> tuple[Tensor, Tensor]:
    """For each cell, how many boundaries lie in those before it, and the one that lies in it, or infinity."""
    boundary_cells, cells = _cells(NF4_BOUNDARIES), torch.arange(2 * _CELLS)
    within = torch.full((2 * _CELLS,), torch.inf)
    within[boundary_cells.long()] = NF4_BOUNDARIES
    return (boundary_cells < cells[:, None]).sum(1).int(), within


_BEFORE, _WITHIN = _by_cell()


@dataclass(frozen=True, slots=True)
class Quantized:
    """A weight as stored, in groups along the last axis.

    Attributes
    ----------
    elements : Tensor
        int16, (…, groups, group): integers of the format's range, or indices into `NF4_VALUES`.
    scale : Tensor
        float16, (…, groups, 1).
    zero_point : Tensor or None
        int16, (…, groups, 1).
    fmt : Format
    """

    elements: Tensor
    scale: Tensor
    zero_point: Tensor | None
    fmt: Format

    def dequantize(self) -> Tensor:
        """The float32 weight (…, input channels) that the runtime computes with."""
        is_nf4 = self.fmt.scheme == "nf4"
        values = nf4_values(self.elements.int()) if is_nf4 else self.elements.float()
        if self.zero_point is not None:
            values = values - self.zero_point.float()
        return (values * self.scale.float()).flatten(-2)


def combined(parts: Sequence[Quantized], how: Callable[[list[Tensor]], Tensor]) -> Quantized:
    """A weight whose elements, scales and zero points are each what `how` makes of those of `parts`."""
    zeros = [part.zero_point for part in parts if part.zero_point is not None]
    return Quantized(
        how([part.elements for part in parts]),
        how([part.scale for part in parts]),
        how(zeros) if zeros else None,
        parts[0].fmt,
    )


def nf4_elements(scaled: Tensor) -> Tensor:
    """The index of each value's nearest in `NF4_VALUES`, int32.

    The same as `torch.bucketize` finds between `NF4_BOUNDARIES`, in an eighth of its time.
    """
    cells = _cells(scaled).flatten()
    before, within = (table.to(cells.device).index_select(0, cells) for table in (_BEFORE, _WITHIN))
    found: Tensor = before.unflatten(0, scaled.shape).add_(scaled > within.unflatten(0, scaled.shape))
    return found


def nf4_values(elements: Tensor) -> Tensor:
    """The float32 values of NF4 at these indices, int32."""
    table = NF4_VALUES.to(elements.device)
    found: Tensor = table.index_select(0, elements.flatten()).unflatten(0, elements.shape)
    return found


def quantize(weight: Tensor, fmt: Format) -> Quantized:
    """Round a weight (…, input channels) to an integer format or NF4, group by group along the last axis.

    The weight is rounded to FP16 first, for that is what the exporter hands to NNCF.
    """
    size = group_size(fmt, weight.shape[-1])
    grouped = weight.detach().half().float().unflatten(-1, (-1, size))
    if fmt.scheme == "nf4":
        scale = _away_from_zero(grouped.abs().amax(-1, keepdim=True))
        elements = nf4_elements(grouped / scale)
        return Quantized(elements.to(torch.int16), scale.half(), None, fmt)
    if fmt.scheme == "int_sym":
        return _symmetric(grouped, fmt)
    if fmt.scheme == "int_asym":
        return _asymmetric(grouped, fmt)
    raise ValueError(f"{fmt.name} has no integers")


def fake_quantize(weight: Tensor, fmt: Format, into: Tensor | None = None) -> Tensor:
    """The weight as it comes back from the exported file: same shape and dtype, values of the format.

    FP16 rounds to half precision, which saturates nothing: a value beyond its range becomes infinite, as in
    the file. With `into`, of the same shape and contiguous, the values are written there, in its dtype.
    """
    rounded = torch.empty_like(weight, memory_format=torch.contiguous_format) if into is None else into
    rows = max(1, _PIECE // weight.shape[-1])
    pieces = (matrix.flatten(0, -2).split(rows) for matrix in (rounded, weight.detach()))
    for piece, source in zip(*pieces, strict=True):
        if fmt.scheme == "fp16":
            piece.copy_(source.half())
        else:
            piece.copy_(quantize(source, fmt).dequantize())
    return rounded


def _symmetric(grouped: Tensor, fmt: Format) -> Quantized:
    # The scale carries a sign so that the element of largest magnitude falls on the one level that has no
    # mirror.
    half = 2 ** (fmt.bits - 1)
    lowest, highest = grouped.amin(-1, keepdim=True).abs(), grouped.amax(-1, keepdim=True)
    scale = _away_from_zero(torch.where(lowest >= highest, lowest, -highest) / half)
    elements = (grouped / scale).round().clamp(-half, half - 1)
    return Quantized(elements.to(torch.int16), scale.half(), None, fmt)


def _asymmetric(grouped: Tensor, fmt: Format) -> Quantized:
    levels = 2**fmt.bits - 1
    lowest, highest = grouped.amin(-1, keepdim=True).clamp(max=0), grouped.amax(-1, keepdim=True).clamp(min=0)
    scale = _away_from_zero((highest - lowest) / levels)
    zero_point = (-(lowest / scale).round()).clamp(0, levels)
    elements = (grouped / scale + zero_point).round().clamp(0, levels)
    return Quantized(elements.to(torch.int16), scale.half(), zero_point.to(torch.int16), fmt)


def _away_from_zero(scale: Tensor) -> Tensor:
    return torch.where(scale.abs() < _EPS, torch.full_like(scale, _EPS), scale)
