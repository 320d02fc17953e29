"""Rounding that looks at the data: integers and scales on NNCF's own grids that keep a matrix's outputs.

Columns are rounded one after another, and what each loses is made up for by those that follow (GPTQ, Frantar
et al., arXiv 2210.17323), in falling order of how strongly their inputs vary, with groups and their scales
fixed before, so that the file needs no permutation. Scales are searched first, weighted by the inputs, and
fitted again to the integers found. Each row keeps what nearest rounding gives where that is better.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import FP16_MOST, Format
from kl_lens_desktop.quant.rounding import Quantized, combined, nf4_elements, nf4_values, quantize
from kl_lens_desktop.quant.symmetric import row_errors

_ROWS = 1024  # of a weight at a time: enough to make little of the calls for each column
_PART = 2**21  # and elements, for which memory is asked: see `model.fit.thread_bytes`
_SEARCHED = 2**16  # elements at a time in the search of scales: in a core's cache
_FITTED = 2**18  # and in the fit of scales
_SOLVED = 2**22  # elements of the systems that are solved at the same time
_INVERTED = 512  # columns of a factor at a time
_COLUMNS = 32  # between updates of the columns that follow, and that are put in order at a time
_LEAST_SCALE = 2.0**-24  # the smallest number of FP16
_FACTORS = (0.45, 0.55, 0.62, 0.68, 0.73, 0.77, 0.81, 0.85, 0.88, 0.91, 0.94, 0.97, 1.0, 1.04)
_RIDGE = 1e-4

Threads = Callable[[Callable[[Tensor], Quantized], Iterable[Tensor]], Iterable[Quantized]]


@dataclass(frozen=True, slots=True)
class Curvature:
    """How the outputs of matrices with the same inputs depend on errors of their columns.

    Attributes
    ----------
    damped : Tensor
        The second moment of the inputs with more on its diagonal, float32 (channels, channels).
    order : Tensor
        Channels in falling order of that diagonal.
    factor : Tensor
        Upper triangular U with UᵀU the inverse of `damped` in that order, float32.
    """

    damped: Tensor
    order: Tensor
    factor: Tensor


def curvature(moment: Tensor, damp: float, cancel: Cancel | None = None) -> Curvature | None:
    """What `gptq` needs of a second moment XᵀX / tokens (channels, channels); None if it has no use.

    Beside the moment this takes 15 bytes for each of its elements at its peak, what it returns included: see
    `model.fit.rounding_bytes`.

    Parameters
    ----------
    damp : float
        Share of the mean of the diagonal that is added to it.
    """
    channels = len(moment)
    # With a stride, as the diagonal of a matrix has it: torch sums in another order without.
    diagonal = torch.empty(channels, 2, dtype=torch.float64)[:, 0].copy_(moment.diagonal())
    mean = float(diagonal.mean())
    if not math.isfinite(float(moment.sum(dtype=torch.float64))) or mean <= 0:
        return None
    diagonal.add_(damp * mean)
    order = torch.argsort(diagonal, descending=True, stable=True)
    # With all axes turned round, the inverse of the lower factor is the upper factor of the inverse.
    turned = order.flip(0)
    lower = torch.empty(channels, channels, dtype=torch.float64).mT  # as LAPACK has it, to work in place
    failed = torch.empty((), dtype=torch.int32)
    for _ in range(4):
        _fill(lower, moment, turned, diagonal)
        if cancel:
            cancel.check()
        torch.linalg.cholesky_ex(lower, out=(lower, failed))
        if not failed:
            break
        diagonal.add_(10 * damp * mean)  # of moments of few tokens, summed in float32
    else:
        return None
    factor = _inverse_turned(lower, cancel)
    del lower
    damped = moment.clone()
    damped.diagonal().copy_(diagonal)
    return Curvature(damped, order, factor)


def _fill(into: Tensor, moment: Tensor, turned: Tensor, diagonal: Tensor) -> None:
    """The moment in that order of channels, with another diagonal."""
    for columns, part in zip(into.mT.split(_COLUMNS), turned.split(_COLUMNS), strict=True):
        columns.copy_(moment.mT[part][:, turned])
    into.diagonal().copy_(diagonal[turned])


def _inverse_turned(lower: Tensor, cancel: Cancel | None) -> Tensor:
    """The inverse of a lower triangle with its axes turned round, float32, some columns at a time."""
    size = len(lower)
    found = torch.zeros(size, size).mT
    for start in range(0, size, _INVERTED):
        if cancel:
            cancel.check()
        stop = min(start + _INVERTED, size)
        first = start if 2 * start >= size else 0  # torch copies a part of a matrix, so only a small one
        columns = torch.zeros(stop - start, size - first, dtype=lower.dtype).mT
        columns[start - first : stop - first].fill_diagonal_(1)
        torch.linalg.solve_triangular(lower[first:, first:], columns, upper=False, out=columns)
        found[: size - start, size - stop : size - start] = columns[start - first :].flip(0, 1)
    return found


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that the elements of a matrix may take.

    Attributes
    ----------
    fmt : Format
    scale : Tensor
        Float32 (rows, groups, 1).
    zero : Tensor or None
        The zero point, likewise, where the format has one.
    """

    fmt: Format
    scale: Tensor
    zero: Tensor | None


def pieces(weight: Tensor) -> tuple[Tensor, ...]:
    """A matrix (rows, channels) in parts that are rounded at the same time: two, if it is no small one.

    They depend on nothing else, and so do the elements, to the last of their bits.
    """
    rows, channels = weight.shape
    most = min(_ROWS, max(1, _PART // channels))
    parts = max(math.ceil(rows / most), min(2, math.ceil(rows / (most // 2 or 1))))
    split: tuple[Tensor, ...] = weight.split(math.ceil(rows / parts))
    return split


def gptq(
    weight: Tensor,
    about: Curvature,
    fmt: Format,
    cancel: Cancel,
    threads: Threads = map,
    exponents: Tensor | None = None,
) -> Quantized:
    """Round a matrix (rows, channels) to a format of 2 to 4 bits, for inputs of that curvature.

    Of 8 bits, each element becomes the nearest: that is of use where columns are multiplied.

    Parameters
    ----------
    exponents : Tensor, optional
        Powers of two (channels,) by which its columns are multiplied first; `about` is of inputs divided by
        them.
    threads : callable
        As `map`: what it calls is independent, and torch does it best in one thread each.

    Returns
    -------
    Quantized
        With tr(δW·H·δWᵀ), for H as `about` has it damped, not above that of nearest rounding, row by row. Its
        scales are FP16 and its elements are those that rounding its values at these scales gives.
    """

    def rounded(piece: Tensor) -> Quantized:
        return rounded_piece(piece, about, [fmt], cancel, exponents)[0]

    return combined(list(threads(rounded, pieces(weight.detach()))), torch.cat)


def rounded_piece(
    piece: Tensor, about: Curvature, formats: Sequence[Format], cancel: Cancel, exponents: Tensor | None
) -> list[Quantized]:
    """Some rows of a matrix in each of some formats, as `gptq` rounds them, in less time than one by one."""
    piece = scaled_columns(piece.detach(), exponents).half().float().cpu()
    found = {fmt: quantize(piece, fmt) for fmt in formats}
    fitted = [each for each in found.values() if each.fmt.bits <= 4]
    cancel.check()
    if fitted:
        outputs = piece @ about.damped
        grids = [_searched(piece, about, nearest) for nearest in fitted]
        for grid, nearest, codes in zip(grids, fitted, compensated(piece, about, grids, cancel), strict=True):
            found[grid.fmt] = _better(piece, outputs, about, grid, codes, nearest, cancel)
    return [found[fmt] for fmt in formats]


def scaled_columns(matrix: Tensor, exponents: Tensor | None) -> Tensor:
    """A matrix with its columns multiplied by powers of two, if there are any: in float32 then."""
    if exponents is None:
        return matrix
    return torch.ldexp(matrix.detach().float(), exponents.to(matrix.device))


def _better(
    weight: Tensor,
    outputs: Tensor,
    about: Curvature,
    grid: Grid,
    codes: Tensor,
    nearest: Quantized,
    cancel: Cancel,
) -> Quantized:
    """With scales fitted to the elements that were found, or as nearest rounding, row by row."""
    levels = _levels(codes, grid.zero, grid.fmt)
    scale = _refitted(outputs, levels, grid.scale, about.damped, cancel)
    stored = None if grid.zero is None else grid.zero.to(torch.int16)
    found = Quantized(codes.to(torch.int16), scale.half(), stored, grid.fmt)
    # Of the errors themselves: their outputs' difference is lost in float32 where few inputs are massive.
    errors = [row_errors(each.dequantize() - weight, about.damped) for each in (found, nearest)]
    better = (errors[0] < errors[1])[:, None, None]  # false for what is no number
    return combined([found, nearest], lambda both: torch.where(better, both[0], both[1]))


def _storable(scale: Tensor) -> Tensor:
    scale = scale.clamp(-FP16_MOST / 16, FP16_MOST / 16).half().float()
    return torch.where(scale.abs() < _LEAST_SCALE, _LEAST_SCALE, scale)


def _limits(fmt: Format) -> tuple[int, int]:
    if fmt.scheme == "int_sym":
        return -(2 ** (fmt.bits - 1)), 2 ** (fmt.bits - 1) - 1
    return 0, 2**fmt.bits - 1


def _rounded(scaled: Tensor, zero: Tensor | None, fmt: Format) -> Tensor:
    """Codes of values divided by their scale, float32 or of NF4 int32; what it is given is overwritten."""
    if fmt.scheme == "nf4":
        return nf4_elements(scaled)
    if zero is not None:
        scaled.add_(zero)
    return scaled.round_().clamp_(*_limits(fmt))


def _levels(codes: Tensor, zero: Tensor | None, fmt: Format) -> Tensor:
    """What codes stand for, in units of the scale."""
    if fmt.scheme == "nf4":
        return nf4_values(codes)
    return codes if zero is None else codes - zero


def _searched(weight: Tensor, about: Curvature, nearest: Quantized) -> Grid:
    """Of those tried, each group's scale and zero point with the least sum of importance · error².

    The scale is as in FP16, and not zero. With four levels a search finds nothing that is of use.
    """
    fmt, scale = nearest.fmt, _storable(nearest.scale.float())
    zero = None if nearest.zero_point is None else nearest.zero_point.float()
    if fmt.bits == 2:
        return Grid(fmt, scale, zero)
    grouped = weight.view(nearest.elements.shape)
    weights = about.damped.diagonal().reshape(grouped.shape[1:]).sqrt()
    scales, zeros = torch.empty_like(scale), None if zero is None else torch.empty_like(zero)
    rows = max(1, _SEARCHED // (grouped.shape[1] * grouped.shape[2]))
    for start in range(0, len(grouped), rows):
        cut = slice(start, start + rows)
        search = _Search(grouped[cut], weights, fmt, scale[cut], None if zero is None else zero[cut])
        search.run()
        scales[cut] = search.scale
        if zeros is not None and search.zero is not None:
            zeros[cut] = search.zero
    return Grid(fmt, scales, zeros)


class _Search:
    """The best scale and zero point so far of groups (rows, groups, size)."""

    def __init__(
        self, grouped: Tensor, weights: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None
    ) -> None:
        self._grouped, self._weights, self._fmt = grouped, weights, fmt
        self.scale, self.zero = scale, zero
        self._error = self._error_of(scale, zero)

    def run(self) -> None:
        first, zero = self.scale, self.zero
        for factor in _FACTORS:
            if zero is None:
                self._offer(_storable(first * factor), None)
            elif factor > 0.6:  # a zero point leaves no level unused
                self._offer_ranges(factor, zero)
        if self._fmt.scheme == "int_sym":  # the level without a mirror on the other side
            for factor in (0.8, 0.9, 1.0, 1.1):
                self._offer(_storable(self.scale.abs() * first.sign() * -factor), None)
        for _ in range(2):
            self._offer(self._least_squares(), self.zero)

    def _offer_ranges(self, factor: float, zero: Tensor) -> None:
        levels = 2**self._fmt.bits - 1
        lowest = self._grouped.amin(-1, keepdim=True).clamp(max=0)
        highest = self._grouped.amax(-1, keepdim=True).clamp(min=0)
        scale = _storable((highest - lowest) * (factor / levels))
        middle = torch.round(-lowest * factor / scale)
        for step in (0,) if factor < 0.99 else (-1, 0, 1):
            self._offer(scale, (middle + step).clamp_(0, levels))

    def _codes(self, scale: Tensor, zero: Tensor | None) -> Tensor:
        return _rounded(self._grouped * scale.reciprocal(), zero, self._fmt)

    def _error_of(self, scale: Tensor, zero: Tensor | None) -> Tensor:
        error = _levels(self._codes(scale, zero), zero, self._fmt).mul_(scale).sub_(self._grouped)
        norm: Tensor = torch.linalg.vector_norm(error.mul_(self._weights), dim=-1, keepdim=True)
        return norm

    def _offer(self, scale: Tensor, zero: Tensor | None) -> None:
        error = self._error_of(scale, zero)
        better = error < self._error
        self.scale = torch.where(better, scale, self.scale)
        self._error = torch.where(better, error, self._error)
        if zero is not None and self.zero is not None:
            self.zero = torch.where(better, zero, self.zero)

    def _least_squares(self) -> Tensor:
        levels = _levels(self._codes(self.scale, self.zero), self.zero, self._fmt)
        weighted = levels * self._weights.square()
        fitted = (weighted * self._grouped).sum(-1, True) / (weighted * levels).sum(-1, True).clamp(min=1e-20)
        return _storable(torch.where(fitted == 0, self.scale, fitted))


def compensated(weight: Tensor, about: Curvature, grids: Sequence[Grid], cancel: Cancel) -> list[Tensor]:
    """The elements that GPTQ finds for a matrix (rows, channels) on each grid: (rows, groups, size).

    They are float32, or of NF4 int32. All grids of integers go through the columns together, and so do those
    of NF4.
    """
    found: dict[int, Tensor] = {}
    for is_nf4 in (False, True):
        places = [place for place, grid in enumerate(grids) if (grid.fmt.scheme == "nf4") == is_nf4]
        if places:
            stack = _Stack([grids[place] for place in places], about.order)
            found |= zip(places, _compensated(weight, about, stack, cancel), strict=True)
    return [found[place] for place in range(len(grids))]


def _compensated(weight: Tensor, about: Curvature, stack: "_Stack", cancel: Cancel) -> list[Tensor]:
    channels = weight.shape[1]
    # A column of the matrix is a row here, which lies in one piece.
    left = weight.t()[about.order].repeat(1, len(stack.grids))
    found = torch.empty(left.shape, dtype=stack.dtype)
    for start in range(0, channels, _COLUMNS):
        cancel.check()
        stop = min(start + _COLUMNS, channels)
        corner = about.factor[start:stop, start:stop]
        own = corner.diagonal().tolist()
        part, errors = left[start:stop], torch.empty(stop - start, left.shape[1])
        scales, shifts = stack.of_columns(start, stop)
        reciprocals = scales.reciprocal()
        for k in range(stop - start):
            shift = None if shifts is None else shifts[k]
            codes = stack.rounded(part[k] * reciprocals[k], shift)
            found[start + k] = codes
            error = torch.addcmul(part[k], stack.levels(codes, shift), scales[k], value=-1)
            torch.div(error, own[k], out=errors[k])
            part[k + 1 :].addr_(corner[k, k + 1 :], errors[k], alpha=-1)
        left[stop:].addmm_(about.factor[start:stop, stop:].t(), errors, alpha=-1)
    back = torch.argsort(about.order)
    return [
        each[back].t().contiguous().unflatten(-1, (grid.scale.shape[1], -1))
        for each, grid in zip(found.split(len(weight), 1), stack.grids, strict=True)
    ]


class _Stack:
    """Grids of which the rows lie side by side, of integers or of NF4, and their columns in another order."""

    def __init__(self, grids: Sequence[Grid], order: Tensor) -> None:
        self.grids = grids
        self._fmt = grids[0].fmt
        self.dtype = torch.int32 if self._fmt.scheme == "nf4" else torch.float32
        self._groups = [order // (len(order) // grid.scale.shape[1]) for grid in grids]
        self._scales = [grid.scale[..., 0].t().contiguous() for grid in grids]
        self._zeros = None
        if any(grid.zero is not None for grid in grids):
            zeros = [torch.zeros_like(grid.scale) if grid.zero is None else grid.zero for grid in grids]
            self._zeros = [zero[..., 0].t().contiguous() for zero in zeros]
        ends = [_limits(grid.fmt) for grid in grids]
        self._ends = None
        if len(set(ends)) > 1:
            rows = torch.tensor([len(grid.scale) for grid in grids])
            self._ends = [
                torch.tensor(end).float().repeat_interleave(rows) for end in zip(*ends, strict=True)
            ]

    def of_columns(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """The scales and zero points of some columns, (columns, all rows)."""
        found = [
            torch.cat([each[groups[start:stop]] for each, groups in zip(all_, self._groups, strict=True)], 1)
            for all_ in (self._scales, self._zeros)
            if all_ is not None
        ]
        return found[0], found[1] if len(found) > 1 else None

    def rounded(self, scaled: Tensor, shift: Tensor | None) -> Tensor:
        """As `_rounded`, each row to what its grid allows."""
        if self._ends is None:
            return _rounded(scaled, shift, self._fmt)
        if shift is not None:
            scaled.add_(shift)
        return scaled.round_().clamp_(*self._ends)

    def levels(self, codes: Tensor, shift: Tensor | None) -> Tensor:
        return _levels(codes, shift, self._fmt)


def _refitted(outputs: Tensor, levels: Tensor, scale: Tensor, damped: Tensor, cancel: Cancel) -> Tensor:
    """The scales with which those levels come nearest to the outputs: least squares, row by row.

    The error of a row is the quadratic form sᵀAs - 2bᵀs of its scales s, but for a constant.

    Parameters
    ----------
    outputs : Tensor
        Of the weight for the damped moment, W·H (rows, channels).
    """
    _, groups, size = levels.shape
    rows = max(1, min(_SOLVED // groups**2, _FITTED // (groups * size)))
    found = []
    for part, own, kept in zip(outputs.split(rows), levels.split(rows), scale.split(rows), strict=True):
        cancel.check()
        b = (part.unflatten(-1, (groups, size)) * own).sum(-1).double()[..., None]
        half = torch.zeros(len(part), groups, groups)
        if groups == 1:
            half[:, 0, 0] = row_errors(own[:, 0], damped)
        for g in range(groups if groups > 1 else 0):  # of A, which is symmetric
            seen = slice(0, g + 1)
            products = own[:, g] @ damped[g * size : (g + 1) * size, : (g + 1) * size]
            torch.sum(products.unflatten(-1, (-1, size)).mul_(own[:, seen]), -1, out=half[:, g, seen])
        a = half.double()
        a += a.tril(-1).mT
        ridged = a + torch.diag_embed(a.diagonal(dim1=1, dim2=2) * _RIDGE + 1e-12)
        solved, failed = torch.linalg.solve_ex(ridged, b)
        usable = solved.isfinite() & (solved != 0) & (failed == 0)[:, None, None]
        new = torch.where(usable, _storable(torch.where(usable, solved, 1.0).float()), kept)
        forms = [(each.mT @ (a @ each - 2 * b))[:, 0] for each in (new.double(), kept.double())]
        found.append(torch.where((forms[0] < forms[1])[..., None], new, kept))
    return torch.cat(found)
