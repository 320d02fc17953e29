"""Whether two rows differ by more than their own noise."""

import math
import statistics
from typing import Any

CONFIDENCE = 0.99


def within_noise(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether the decode speeds of two rows cannot be told apart.

    Welch's t-test at a confidence of 99 %. What is independent is the round (a process of its own), not the
    generations inside it, which share one load of the model and one mood of the machine: so where the rows
    hold the medians of their rounds, those are the samples. Rows without a speed are never alike, rows with
    a single round never apart.
    """
    first, second = a.get("tokens_per_s"), b.get("tokens_per_s")
    if first is None or second is None:
        return False
    (mean_a, variance_a, n_a), (mean_b, variance_b, n_b) = _samples(first), _samples(second)
    if n_a < 2 or n_b < 2:
        return True
    return p_value(mean_a, variance_a / n_a, n_a, mean_b, variance_b / n_b, n_b) > 1 - CONFIDENCE


def p_value(mean_a: float, error_a: float, n_a: int, mean_b: float, error_b: float, n_b: int) -> float:
    """Two-sided p of Welch's t-test; `error_a` and `error_b` are the squared standard errors of the means."""
    from scipy.special import stdtr

    error = error_a + error_b
    if error == 0:
        return 1.0 if mean_a == mean_b else 0.0
    freedom = error**2 / (error_a**2 / (n_a - 1) + error_b**2 / (n_b - 1))
    return float(2 * stdtr(freedom, -abs(mean_a - mean_b) / math.sqrt(error)))


def _samples(speed: dict[str, Any]) -> tuple[float, float, int]:
    rounds = speed.get("rounds")
    if rounds is None:
        return speed["mean"], (speed["sd"] or 0.0) ** 2, speed["n"]
    return statistics.fmean(rounds), statistics.variance(rounds) if len(rounds) > 1 else 0.0, len(rounds)
