"""The formats by name: bits, groups, and the exact bytes of a weight in the exported file. Needs no torch.

A name is one of ``fp16``, ``int8_sym``, ``int8_asym``, ``int4_sym_gN``, ``int4_asym_gN``, ``int3_sym_gN``,
``int2_sym_gN``, ``nf4_gN`` with N in 32, 64, 128, or ``pc`` (per output channel) instead of ``gN``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from kl_lens_desktop.errors import InputError

GROUP_SIZES = (32, 64, 128)
SCALE_BYTES = 2  # scales are stored as FP16
FP16_MOST = 65504.0  # the largest number of FP16
DEFAULT_FORMATS = ("int4_sym_g64", "int8_sym")
DEFAULT_BITS = 5.0  # per quantizable parameter, the budget of a plan that nobody asked otherwise of
_PATTERN = re.compile(r"(int4_sym|int4_asym|int3_sym|int2_sym|nf4)_(g32|g64|g128|pc)")


@dataclass(frozen=True, slots=True)
class Format:
    """A number format for weights.

    Attributes
    ----------
    name : str
        As in plans and score files.
    scheme : str
        ``fp16``, ``int_sym``, ``int_asym`` or ``nf4``.
    bits : int
        Bits of one stored element, without scales and zero points.
    group : int or None
        Elements along the input channel that share a scale; None is the whole channel.
    """

    name: str
    scheme: str
    bits: int
    group: int | None

    @property
    def has_zero_point(self) -> bool:
        return self.scheme == "int_asym"

    @property
    def label(self) -> str:
        """The name as people say it: ``INT4 g64``, ``INT8``, ``FP16``."""
        if self.scheme == "fp16":
            return "FP16"
        base = "NF4" if self.scheme == "nf4" else f"INT{self.bits}"
        base += " asym" if self.has_zero_point else ""
        if self.bits == 8:
            return base
        return f"{base} {'per channel' if self.group is None else f'g{self.group}'}"


@lru_cache
def parse_format(name: str) -> Format:
    """The format called `name`.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name == "fp16":
        return Format(name, "fp16", 16, None)
    if name in ("int8_sym", "int8_asym"):
        return Format(name, name.replace("int8", "int"), 8, None)
    if match := _PATTERN.fullmatch(name):
        base, group = match.groups()
        scheme = "nf4" if base == "nf4" else base[:3] + base[4:]
        return Format(
            name, scheme, 4 if base == "nf4" else int(base[3]), None if group == "pc" else int(group[1:])
        )
    raise InputError(
        f"Unknown format {name!r}", "it is not one of " + ", ".join(all_formats()), "Choose from these"
    )


def formats_to_measure(names: Sequence[str]) -> list[Format]:
    """The formats of those names, each once and without FP16, which is what the others are measured against.

    Raises
    ------
    InputError
        If a name is of none, or none is left.
    """
    wanted = [parse_format(name) for name in dict.fromkeys(names) if name != "fp16"]
    if not wanted:
        raise InputError("Nothing to measure", "FP16 is full precision", "Choose another format")
    return wanted


def all_formats() -> list[str]:
    """Every name of the contract, finest first."""
    grouped = [
        f"{base}_{group}"
        for base in ("int4_sym", "int4_asym", "nf4", "int3_sym", "int2_sym")
        for group in (*(f"g{n}" for n in GROUP_SIZES), "pc")
    ]
    return ["fp16", "int8_sym", "int8_asym", *grouped]


def group_size(fmt: Format, channels: int) -> int:
    """Elements per scale for a weight of `channels` input channels.

    The largest of N, 64, 32 not above N that divides `channels`; the whole channel if none does.
    """
    if fmt.group is None:
        return channels
    fitting = (n for n in sorted(GROUP_SIZES, reverse=True) if n <= fmt.group and channels % n == 0)
    return next(fitting, channels)


def stored_bytes(shape: Sequence[int], fmt: Format) -> int:
    """Bytes of a weight of `shape` (…, input channels) in the file: elements, scales and zero points."""
    rows, channels = 1, shape[-1]
    for size in shape[:-1]:
        rows *= size
    if fmt.scheme == "fp16":
        return rows * channels * 2
    groups = rows * (channels // group_size(fmt, channels))
    zero_points = _packed(groups, fmt.bits) if fmt.has_zero_point else 0
    return _packed(rows * channels, fmt.bits) + groups * SCALE_BYTES + zero_points


def _packed(elements: int, bits: int) -> int:
    return (elements * bits + 7) // 8
