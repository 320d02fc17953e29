"""One answer for everything to the question which integers a weight has in a format.

Sensitivity, joint measurements, repair, export and its audit all ask `Roundings`: what is simulated is what
ships, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kl_lens_desktop.quant.formats import Format, group_size, parse_format
from kl_lens_desktop.quant.integers import (
    BY_DATA,
    Integers,
    Packed,
    Pair,
    bytes_of_row,
    open_integers,
    per_byte,
)
from kl_lens_desktop.quant.rounding import Quantized, fake_quantize

_PIECE = 2**18  # elements that are unpacked at a time


@dataclass(frozen=True, eq=False, slots=True)
class KeptRounding:
    """A weight in a format, its integers chosen by data and kept in a file.

    Attributes
    ----------
    integers : Integers or Packed
        The file; or what is to be written into one.
    pair : (str, str)
        Weight and format.
    shape : tuple of int
        (…, rows, channels).
    """

    integers: Integers | Packed
    pair: Pair
    shape: tuple[int, ...]

    @property
    def format(self) -> Format:
        return parse_format(self.pair[1])

    @property
    def method(self) -> str:
        """How the integers were chosen, as plans say it."""
        record = self.integers.record if isinstance(self.integers, Integers) else {}
        return str(record.get("method", BY_DATA))

    @property
    def exponents(self) -> Tensor | None:
        """Of two, int8 (channels,), by which the columns were multiplied before they were rounded."""
        found = self.integers.exponents(self.pair)
        return None if found is None else torch.from_numpy(found)

    def write(self, into: Tensor, at: int | slice | Tensor | None = None) -> None:
        """Write the float32 values that the runtime computes with, in place of the weight as it was.

        Parameters
        ----------
        into : Tensor
            Contiguous, of the shape of what is asked for.
        at : int, slice or Tensor, optional
            Which part of the first axis: an expert of a stack, or rows of a matrix. All without it.
        """
        matrix = into.view(-1, self.shape[-1])
        if isinstance(at, Tensor):
            self._write_rows(matrix, at)
            return
        inner = int(np.prod(self.shape[1:-1], dtype=np.int64))
        first = at if isinstance(at, int) else (at.start or 0) if at is not None else 0
        self._write(matrix, first * inner)

    def pieces(self, rows: int) -> Iterator[Quantized]:
        """So many rows after the other, as the file holds them; leading axes count as one.

        They are those of the weight with its columns multiplied, where it has `exponents`.
        """
        every = int(np.prod(self.shape[:-1], dtype=np.int64))
        for start in range(0, every, rows):
            yield self._rows(start, min(start + rows, every))

    def _write(self, matrix: Tensor, start: int) -> None:
        rows = max(1, _PIECE // self.shape[-1])
        for place in range(0, len(matrix), rows):
            stop = min(place + rows, len(matrix))
            matrix[place:stop] = self._values(self.integers.rows(self.pair, start + place, start + stop))

    def _write_rows(self, matrix: Tensor, rows: Tensor) -> None:
        """Rows by number, in any order. Those between them are read, a few at a time, and not unpacked."""
        numbers, order = rows.sort()
        near = numbers // max(1, _PIECE // self.shape[-1])
        for places in order.split(near.unique_consecutive(return_counts=True)[1].tolist()):
            wanted = rows[places].numpy()
            first = int(wanted[0])
            read = self.integers.rows(self.pair, first, int(wanted[-1]) + 1)
            matrix[places] = self._values(_picked(read, wanted - first))

    def _values(self, read: Packed) -> Tensor:
        values = unpacked(read, self.format, self.shape[-1]).dequantize()
        if read.powers is None:
            return values
        return torch.ldexp(values, -torch.from_numpy(read.powers[0]).int())

    def _rows(self, start: int, stop: int) -> Quantized:
        return unpacked(self.integers.rows(self.pair, start, stop), self.format, self.shape[-1])


Change = Format | KeptRounding
"""Values of a weight: in a format by nearest rounding, or by integers that are kept."""


def changed_values(weight: Tensor, change: Change) -> Tensor:
    """The weight as it comes back from the exported file, in its own dtype."""
    if isinstance(change, Format):
        return fake_quantize(weight, change)
    values = torch.empty(weight.shape, device="cpu")
    change.write(values)
    return values.to(weight.device, weight.dtype)


@dataclass(frozen=True, slots=True)
class Roundings:
    """What rounds each weight in each format.

    Attributes
    ----------
    kept : mapping of (weight, format) to KeptRounding
        Whatever is not in it is rounded to nearest.
    """

    kept: Mapping[Pair, KeptRounding] = field(default_factory=dict)

    def change(self, weight: str, fmt: str) -> Change:
        """The values of a weight in the format of that name."""
        return self.kept.get((weight, fmt)) or parse_format(fmt)

    def changes(self, assignments: Mapping[str, str]) -> dict[str, Change]:
        return {weight: self.change(weight, fmt) for weight, fmt in assignments.items()}

    def read_from(self, path: Path) -> "Roundings":
        """The same integers, of a file that holds them too."""
        held = open_integers(path)
        return Roundings({pair: replace(kept, integers=held) for pair, kept in self.kept.items()})

    def of(self, assignments: Mapping[str, str]) -> dict[str, str]:
        """The rounding of each weight that is not rounded to nearest, as plans say it."""
        pairs = [pair for pair in assignments.items() if pair in self.kept]
        return {pair[0]: self.kept[pair].method for pair in pairs}


NEAREST = Roundings()


def kept_in(integers: Integers, shapes: Mapping[str, Sequence[int]]) -> dict[Pair, KeptRounding]:
    """What a file has of weights of those shapes."""
    return {
        pair: KeptRounding(integers, pair, tuple(shapes[pair[0]]))
        for pair in integers.pairs
        if pair[0] in shapes and integers.fits(pair, shapes[pair[0]])
    }


def packed(stored: Quantized, exponents: Tensor | None = None) -> Packed:
    """A weight (…, groups, group) as `quant.integers` keeps it, its columns scaled by those powers of two."""
    codes = (stored.elements + _offset(stored.fmt)).to(torch.uint8).flatten(-2)
    share = per_byte(stored.fmt)
    spare = bytes_of_row(stored.fmt, codes.shape[-1]) * share - codes.shape[-1]
    codes = torch.nn.functional.pad(codes, (0, spare))
    elements = torch.zeros_like(codes[..., ::share])
    for place in range(share):
        elements |= codes[..., place::share] << (8 // share * place)
    zero = None if stored.zero_point is None else stored.zero_point.to(torch.uint8)[..., 0].numpy()
    powers = None if exponents is None else exponents.to(torch.int8)[None].numpy()
    return Packed(elements.numpy(), stored.scale[..., 0].numpy(), zero, powers)


def joined(parts: Sequence[Packed], how: Callable[[list[NDArray[Any]]], NDArray[Any]]) -> Packed:
    """A weight whose elements, scales and zero points are each what `how` makes of those of its parts."""
    zeros = [part.zero_point for part in parts if part.zero_point is not None]
    return Packed(
        how([part.elements for part in parts]),
        how([part.scale for part in parts]),
        how(zeros) if zeros else None,
        parts[0].powers,
    )


def _picked(kept: Packed, rows: NDArray[np.int64]) -> Packed:
    zero = None if kept.zero_point is None else kept.zero_point[rows]
    return Packed(kept.elements[rows], kept.scale[rows], zero, kept.powers)


def unpacked(kept: Packed, fmt: Format, channels: int) -> Quantized:
    """Rows (rows, …) of a `Packed` weight of so many channels."""
    share = per_byte(fmt)
    held = torch.from_numpy(kept.elements)
    codes = torch.empty(len(held), held.shape[1] * share, dtype=torch.int16)
    for place in range(share):
        codes[:, place::share] = (held >> (8 // share * place)) & (2**fmt.bits - 1)
    if (offset := _offset(fmt)) > 0:
        codes -= offset
    zero = None
    if kept.zero_point is not None:
        zero = (torch.from_numpy(kept.zero_point).to(torch.int16) & (2**fmt.bits - 1))[..., None]
    elements = codes[:, :channels].unflatten(-1, (-1, group_size(fmt, channels)))
    return Quantized(elements, torch.from_numpy(kept.scale)[..., None], zero, fmt)


def _offset(fmt: Format) -> int:
    return 2 ** (fmt.bits - 1) if fmt.scheme == "int_sym" else 0
