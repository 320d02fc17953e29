"""A figure is a mean with its spread: how repeated measurements and windows of text become one."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """``{mean, sd, n, median}`` of repeated measurements; sd is of one measurement, None for a single one."""
    return {
        "mean": statistics.fmean(samples),
        "sd": statistics.stdev(samples) if len(samples) > 1 else None,
        "n": len(samples),
        "median": statistics.median(samples),
    }


def by_window(means: Sequence[float], tokens: int) -> dict[str, Any] | None:
    """``{mean, se, n}`` from the means of equally long windows (batch means).

    Tokens of one window depend on each other, so the standard error comes from the spread between windows;
    it is None for a single window. The whole is None if any value is not finite. `tokens` becomes n.
    """
    if not all(math.isfinite(mean) for mean in means):
        return None
    se = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
    return {"mean": statistics.fmean(means), "se": se, "n": tokens}


def perplexity(nats: dict[str, Any] | None) -> dict[str, Any] | None:
    """exp of the mean nats per token; its standard error by the delta method, exp(m) · se(m)."""
    if nats is None or nats["mean"] > math.log(1e300):
        return None
    value = math.exp(nats["mean"])
    return {"mean": value, "se": None if nats["se"] is None else value * nats["se"], "n": nats["n"]}
