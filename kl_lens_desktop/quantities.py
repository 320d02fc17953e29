"""Numbers as people read them: three significant digits, units, errors, times."""

import math
from collections.abc import Iterable
from datetime import datetime

LEAST_SAMPLES = 4  # of fewer, an interval is so wide that it says nothing


def significant(value: float, digits: int = 3, *, powers: bool = False) -> str:
    """`value` with `digits` significant digits: ``0.00410``, ``1.80e-4``, ``12.3``, ``1,096``.

    With `powers`, always as a power of ten, as all of a list are written of which `need_powers` says so.
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if powers or exponent < -3 or exponent >= 15:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}"


def need_powers(values: Iterable[float | None]) -> bool:
    """Whether some of a list are so small that all are better written as powers of ten, to be compared."""
    return any(value is not None and 0 < abs(value) < 1e-3 for value in values)


def with_error(mean: float, se: float, *, powers: bool = False) -> tuple[str, str]:
    """The mean with three significant digits and its standard error beside it: ``("0.00410", "0.00021")``.

    The error ends where the mean does, unless nothing would be left of it; then its first digit is shown.
    Below a thousandth, or with `powers`, both have the same exponent, to be compared at a glance.
    """
    if not (se > 0 and math.isfinite(se) and math.isfinite(mean)):
        return significant(mean, powers=powers), ""
    exponent = math.floor(math.log10(max(abs(mean), se)))
    scale, suffix = (10.0**exponent, f"e{exponent}") if powers or exponent < -3 else (1.0, "")
    mean, se = mean / scale, se / scale
    first_of_mean, first_of_error = (math.floor(math.log10(abs(x))) if x else 0 for x in (mean, se))
    places = max(2 - max(first_of_mean, first_of_error), 0)
    error_places = min(max(places, -first_of_error), 7)
    return f"{mean:,.{places}f}{suffix}", f"{se:,.{error_places}f}{suffix}"


def plus_minus(mean: float, se: float, unit: str = "", *, powers: bool = False) -> str:
    """``0.0041 ± 0.0002 nats``."""
    value, error = with_error(mean, se, powers=powers)
    text = f"{value} ± {error}" if error else value
    return f"{text} {unit}" if unit else text


def interval(low: float | None, high: float | None, samples: int, digits: str = ".3g") -> str:
    """``0.84 … 0.90``, or why there is none: ``2 samples: too few for an interval``."""
    if low is None or high is None or samples < LEAST_SAMPLES:
        return f"{plural(samples, 'sample')}: too few for an interval"
    return f"{low:{digits}} … {high:{digits}}"


def parameters(count: float) -> str:
    """``340 M``, ``1.20 B``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            return f"{significant(count / size)} {unit}"
    return f"{count:,.0f}"


def size(count: float) -> str:
    """Bytes in decimal units, as file managers and download pages give them: ``174 MB``, ``8.45 GB``."""
    for unit_size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit_size * 0.9995:
            return f"{significant(count / unit_size)} {unit}"
    return f"{count:,.0f} B"


def duration(seconds: float) -> str:
    """``45 s``, ``2 min 10 s``, ``1 h 05 min``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def local_time(moment: str) -> str:
    """A point in time in ISO 8601 by this computer's clock; anything else as it is."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%d %b %Y, %H:%M")
    except (ValueError, OverflowError, OSError):  # no such time, or a year that the system cannot place
        return moment


def percent(fraction: float) -> str:
    """``27 %``; one decimal below ten per cent."""
    return f"{100 * fraction:.{0 if fraction >= 0.0995 or fraction == 0 else 1}f} %"


def unchanged(fraction: float) -> str:
    """``96 %``, ``99.7 %``: as many digits as show what is missing.

    Cut off, not rounded: beside a verdict that takes 97 %, 96.7 % is no 97 %.
    """
    changed = 100 * (1 - fraction)
    digits = 0 if changed >= 1 else 1 if changed >= 0.1 else 2
    steps = 10**digits
    return f"{math.floor((100 - changed) * steps + 1e-6) / steps:.{digits}f} %"


def shape(sizes: tuple[int, ...] | list[int]) -> str:
    """``1,096 × 256``."""
    return " × ".join(f"{part:,}" for part in sizes)


def plural(count: int, noun: str) -> str:
    """``1 weight``, ``1,222 weights``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
