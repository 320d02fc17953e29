"""What each window of text says of one (weight, format), and the means and error bars that follow.

Tokens inside a window are correlated, so standard errors come from the means of windows (batch means), not of
tokens. Needs no torch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kl_lens_desktop.sensitivity.scores import COLUMNS, Estimate, Samples

SQNR_LIMIT_DB = 200.0  # stated where quantization changes no logit at all
_DIGITS = 9  # of a window's mean in the file: more than float32 holds


def samples_of(columns: Mapping[str, Sequence[float]]) -> Samples:
    """Rounded to the digits of the file, so that a figure is the same before and after it was stored."""
    return Samples(*(tuple(float(f"{value:.{_DIGITS}g}") for value in columns[name]) for name in COLUMNS))


def nothing_changed(windows: int) -> Samples:
    """What a format says that leaves every element of a weight as it is."""
    return Samples(*((1.0 if name == "top1_agreement" else 0.0,) * windows for name in COLUMNS))


def estimates(samples: Samples, signal: Sequence[float], window: int) -> dict[str, Estimate]:
    """Every metric of the score file.

    Parameters
    ----------
    samples : Samples
        Of two windows or more.
    signal : sequence of float
        Mean square of the full-precision logits in each window, in the same order.
    window : int
        Tokens per window.
    """
    count = len(samples)
    found = {name: mean(getattr(samples, name), count * window) for name in COLUMNS}
    ce = found["delta_ce"]
    found["delta_ce"] = Estimate(ce.mean, ce.se, count * (window - 1))  # the last token has no next one
    return {**found, "sqnr_db": _sqnr(np.array(samples.mse), np.array(signal[:count]), count * window)}


def mean(values: Sequence[float], tokens: int) -> Estimate:
    """The mean of window means with its standard error."""
    array = np.array(values)
    return Estimate(float(array.mean()), _standard_error(array), tokens)


def _sqnr(noise: np.ndarray[Any, Any], signal: np.ndarray[Any, Any], tokens: int) -> Estimate:
    if not noise.any():
        return Estimate(SQNR_LIMIT_DB, 0.0, tokens)
    ratio = 10 * math.log10(signal.sum() / noise.sum())
    # To first order the log of a ratio of means varies as the difference of the relative deviations.
    spread = _standard_error(signal / signal.mean() - noise / noise.mean())
    return Estimate(min(ratio, SQNR_LIMIT_DB), 10 / math.log(10) * spread, tokens)


def _standard_error(means: np.ndarray[Any, Any]) -> float:
    return float(means.std(ddof=1) / math.sqrt(len(means)))
