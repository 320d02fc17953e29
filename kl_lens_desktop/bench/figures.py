"""The figures of a benchmark: means with their spread, of repeated measurements or of windows of text."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

OF_TURN = ("tokens_per_s", "ttft_ms", "prefill_tokens_per_s")
OF_TOKEN = ("nats_per_token", "kl_to_fp16", "kl_reverse", "delta_ce", "top1_agreement")
OF_TEXT = ("perplexity", "word_perplexity", *OF_TOKEN)


class Mean(TypedDict):
    """A mean over predicted tokens, its standard error where it is known, and the batches that gave it."""

    mean: float
    se: float | None
    n: int
    batches: NotRequired[int]  # files of older versions lack it


def allocated(kinds: dict[str, float] | None) -> float | None:
    """All that a row's ``gpu_memory_mb`` holds, in MB: on an integrated GPU part of the computer's memory."""
    return None if kinds is None else math.fsum(kinds.values())


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """``{mean, sd, n, median}`` of repeated measurements; sd is of one measurement, None for a single one."""
    return {
        "mean": statistics.fmean(samples),
        "sd": statistics.stdev(samples) if len(samples) > 1 else None,
        "n": len(samples),
        "median": statistics.median(samples),
    }


def over_batches(sums: Sequence[float], counts: Sequence[int]) -> Mean | None:
    """``{mean, se, n, batches}`` from a batch's sum and number of values: windows of text, or documents.

    Values of one batch depend on each other, so the standard error comes from the spread between batches
    (that of a ratio estimate, where they are of different size); it is None for a single batch. The whole is
    None if any value is not finite.
    """
    if not all(math.isfinite(each) for each in sums):
        return None
    n, k = sum(counts), len(sums)
    mean = math.fsum(sums) / n
    squares = math.fsum((each - mean * count) ** 2 for each, count in zip(sums, counts, strict=True))
    se = math.sqrt(squares * k / (k - 1)) / n if k > 1 else None
    return {"mean": mean, "se": se, "n": n, "batches": k}


def perplexity(nats: Mean | None) -> Mean | None:
    """exp of the mean nats per token; its standard error by the delta method, exp(m) · se(m)."""
    if nats is None or nats["mean"] > math.log(1e300):
        return None
    value = math.exp(nats["mean"])
    return {**nats, "mean": value, "se": None if nats["se"] is None else value * nats["se"]}


def value_of(row: dict[str, Any], key: str) -> Any:
    """What a row holds under a figure's key, such as ``raw.ttft_ms`` or ``ttft_ms@128``; None if nothing."""
    if key == "rounds":
        return len((row.get("tokens_per_s") or {}).get("rounds") or ()) or None
    name, _, length = key.partition("@")
    if length:
        found = (each for each in row.get("by_context") or () if each["prompt_tokens"] == int(length))
        return (next(found, None) or {}).get(name)
    first, _, second = name.partition(".")
    value = row.get(first)
    return (value or {}).get(second) if second else value


def number(row: dict[str, Any], key: str) -> float | None:
    """A row's plain figure: the mean of a measured one, the total of one by kind."""
    value = value_of(row, key)
    if isinstance(value, dict):
        value = allocated(value) if key == "gpu_memory_mb" else value.get("mean")
    return float(value) if isinstance(value, (int, float)) else None
