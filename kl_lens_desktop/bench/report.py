"""The bench file read back: checked, as a table to print, as CSV."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from kl_lens_desktop.bench.compare import Comparison, FigureChange
from kl_lens_desktop.bench.figures import OF_TEXT, OF_TURN, allocated
from kl_lens_desktop.bench.judgement import Rank, levelled, standings
from kl_lens_desktop.bench.labels import LABELS, around
from kl_lens_desktop.bench.noise import difference
from kl_lens_desktop.bench.rows import SCHEMA
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_json
from kl_lens_desktop.quantities import interval, plus_minus, significant
from kl_lens_desktop.schema import check_schema
from kl_lens_desktop.spreadsheet import write_csv

FILE_LIMIT = 32 * 2**20
_FIGURES = {
    **dict.fromkeys((*OF_TURN, "load_ms", "load_cached_ms"), ("mean", "sd", "n", "median")),
    **dict.fromkeys(OF_TEXT, ("mean", "se", "n")),
    "fidelity": ("relative_difference", "bound", "strict_difference", "kl", "top1_agreement"),
}
_PLAIN = (
    "variant", "device", "status", "reason", "method", "session", "settled", "size_bytes", "folder_bytes",
    "bytes_per_token", "bandwidth_gb_s", "cache_bytes", "peak_rss_mb", "peak_rss_sampled_mb",
    "system_used_change_mb", "backend", "precision", "quality_precision", "kv_cache_precision",
    "dynamic_quantization_group_size", "threads", "core_type", "performance_hint", "power",
)  # fmt: skip
UNCERTAIN = "not certain"  # of two rows that took too few turns
MOST_IN_PAIRS = 8  # variants of a device of which every two are compared; of more, each with the fastest


def load_bench(path: Path) -> dict[str, Any]:
    """Read a bench file from anyone.

    Raises
    ------
    InputError
        In one sentence, if it is no bench file, damaged, too large, of a newer version or has a row twice.
    """
    value: dict[str, Any] = read_json(path, FILE_LIMIT)
    check_schema(value, SCHEMA, path)
    rows = Counter((row["variant"], row["device"]) for row in value["rows"])
    if repeated := [row for row, count in rows.items() if count > 1]:
        raise InputError(f"Cannot use {path}", "it has {} on {} twice".format(*repeated[0]), "Measure again")
    return value


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows as words and numbers to print, spreads included; one line for each device that is not here.

    ``speed`` says which row of a device decodes fastest, and marks with ``≈ fastest`` those whose difference
    from it is within the noise; where no row is shown to be slower, all are alike.
    """
    printed = []
    missing: set[str] = set()
    for row, speed in zip(levelled(rows), _speeds(rows), strict=True):
        if row["status"] == "unavailable":
            if row["device"] not in missing:
                missing.add(row["device"])
                about = {"variant": "–", "device": row["device"], "status": "unavailable"}
                printed.append({**_line({}), **about, "note": row.get("reason") or ""})
            continue
        line = {**_line(row), "variant": row["variant"], "device": row["device"]}
        status, _, why = row["status"].partition(": ")
        printed.append({**line, "status": status, "note": why, "speed": speed})
    return printed


def export_csv(bench: dict[str, Any], path: Path) -> None:
    """Write the rows of a bench file as CSV, one column per number."""
    columns = [*_PLAIN, "speed", *(f"{name}_{part}" for name, parts in _FIGURES.items() for part in parts)]
    lengths = _lengths(bench["rows"])
    columns += [f"{name}_{length}" for length in lengths for name in OF_TURN]
    columns += [f"raw_{name}" for name in (*OF_TURN, "read_ms", "compile_ms")]
    columns += ["gpu_memory_mb"]
    rows = zip(levelled(bench["rows"]), _speeds(bench["rows"]), strict=True)
    lines = (_values(row, speed, lengths) for row, speed in rows)
    write_csv(path, [columns, *lines])


def export_comparison_csv(comparison: Comparison, path: Path) -> None:
    """Write a comparison as CSV: a line for each figure that both files have, in the unit of the files."""
    columns = (
        "variant",
        "variant_second",
        "device",
        "matched_by",
        *(field.name for field in fields(FigureChange)),
    )
    lines = [
        [match.first["variant"], match.second["variant"], match.first["device"], match.by, *astuple(change)]
        for match in comparison.matches
        for change in match.changes
    ]
    write_csv(path, [columns, *lines])


def contexts(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Speed by length of prompt, the plain requests and loading: a line for each row that has them."""
    lines = []
    for row in rows:
        if not row.get("by_context"):
            continue
        line = {"variant": row["variant"], "device": row["device"]}
        by_length = {each["prompt_tokens"]: each for each in row["by_context"]}
        for length in _lengths(rows):
            found = by_length.get(length, {})
            for name in OF_TURN:
                line[f"{name}_{length}"] = _spread(found.get(name))
        raw = row.get("raw") or {}
        line["raw"] = _spread(raw.get("tokens_per_s"))
        line["compile"] = figure(raw.get("compile_ms"), None, "ms")
        line["load"], line["load_cached"] = _spread(row.get("load_ms")), _spread(row.get("load_cached_ms"))
        line["bandwidth"] = figure(row.get("bandwidth_gb_s"), None, "GB/s")
        line["rounds"] = str(len((row["tokens_per_s"] or {}).get("rounds", ())))
        lines.append(line)
    return lines


def pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Every two rows that took turns, and what their rounds say of the decode speed of one to the other.

    Of more than `MOST_IN_PAIRS` on a device, each is compared with the fastest only.
    """
    by_device: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["tokens_per_s"]:
            by_device.setdefault(row["device"], []).append(row)
    lines = []
    for first, second in itertools.chain.from_iterable(map(_paired_up, by_device.values())):
        found = difference(first, second)
        if found and found.paired:
            lines.append({
                "first": first["variant"], "second": second["variant"], "device": first["device"],
                "ratio": ratio(found.ratio, found.low, found.high, found.n),
                "verdict": UNCERTAIN if found.apart is None else verdict(found.apart),
                "rounds": str(found.n),
            })  # fmt: skip
    return lines


def _paired_up(rows: Sequence[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    if len(rows) <= MOST_IN_PAIRS:
        return itertools.combinations(rows, 2)
    found = standings(rows, "tokens_per_s")
    fastest = next((row for row, how in zip(rows, found, strict=True) if how is Rank.BEST), rows[0])
    return ((fastest, row) for row in rows if row is not fastest)


def comparison_table(comparison: Comparison) -> list[dict[str, str]]:
    """Two files side by side: a line for each figure of each variant that both have."""
    return [
        {
            "variant": match.first["variant"],
            "other": match.second["variant"],
            "device": match.first["device"],
            "figure": LABELS[change.figure].name,
            "first": _plain(change.figure, change.first),
            "second": _plain(change.figure, change.second),
            "ratio": ratio(change.ratio, change.low, change.high, change.n),
            "verdict": standing(change),
        }
        for match in comparison.matches
        for change in match.changes
    ]


def around_table(comparison: Comparison) -> list[dict[str, str]]:
    """What differs around two files: a line for each setting, package, device or part of the computer."""
    return [
        {"what": around(name), "first": first, "second": second}
        for name, first, second in comparison.environment
    ]


def ratio(
    value: float | None, low: float | None = None, high: float | None = None, samples: int | None = None
) -> str:
    """``×0.87 (0.84 … 0.90)``; without `samples`, the ratio alone."""
    if value is None:
        return "–"
    return f"×{value:.3g}" if samples is None else f"×{value:.3g} ({interval(low, high, samples)})"


def verdict(apart: bool | None) -> str:
    return "–" if apart is None else "apart" if apart else "within noise"


def standing(change: FigureChange) -> str:
    """What the second of two files is, by this figure: ``better``, ``worse`` or ``within noise``."""
    if not change.apart:
        return verdict(change.apart)
    more = change.second > change.first if change.ratio is None else change.ratio > 1
    return "better" if more == (LABELS[change.figure].best is max) else "worse"


def ratio_words(first: str, second: str) -> str:
    """What the ratios of a comparison are, as a sentence or two; `first` and `second` name the files."""
    return (
        f"A ratio is {second} divided by {first}. Higher is better for tokens/s and for equal "
        "next tokens; lower is better for the rest. Ratios of speeds come from the least "
        "disturbed parts of each round, so they may differ from the ratio of the means shown."
    )


def figure(value: float | None, spread: float | None = None, unit: str = "") -> str:
    """Three significant digits, with the spread to the same decimal place: ``12.3 ± 0.4 ms``."""
    if value is None:
        return "–"
    digits = _decimals(value)
    text = f"{value:,.{digits}f}"
    if spread is not None:
        # a small error deserves its own leading digit: 60.6 ± 0.04, not ± 0.0
        text = f"{text} ± {spread:,.{max(digits, min(_decimals(spread) - 1, digits + 1))}f}"
    return f"{text} {unit}".strip()


def small(value: float | None, spread: float | None = None) -> str:
    """A divergence, as the window's charts write it: ``0.00110 ± 0.00003``, ``7.50e-5 ± 0.10e-5``."""
    if value is None:
        return "–"
    return significant(value) if spread is None else plus_minus(value, spread)


def _spread(value: dict[str, Any] | None) -> str:
    return "–" if value is None else figure(value["mean"], value["sd"])


def _plain(name: str, value: float) -> str:
    return small(value) if name == "kl_to_fp16" else figure(LABELS[name].scale * value)


def _lengths(rows: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({each["prompt_tokens"] for row in rows for each in row.get("by_context") or ()})


def _line(row: dict[str, Any]) -> dict[str, str]:
    def of(name: str, show: Any, spread: str, *unit: str) -> str:
        value = row.get(name)
        return "–" if value is None else show(value["mean"], value[spread], *unit)

    size, peak = row.get("size_bytes"), row.get("peak_rss_mb")
    return {
        "variant": "",
        "device": "",
        "status": "",
        "size": "–" if size is None else figure(size / 1e6, None, "MB"),
        "perplexity": of("perplexity", figure, "se"),
        "kl_to_fp16": of("kl_to_fp16", small, "se"),
        "tokens_per_s": of("tokens_per_s", figure, "sd"),
        "speed": "",
        "ttft": of("ttft_ms", figure, "sd", "ms"),
        "prefill_tokens_per_s": of("prefill_tokens_per_s", figure, "sd"),
        "peak_rss": figure(peak, None, "MiB"),
        "precision": row.get("precision") or "–",
        "backend": row.get("backend") or "–",
        "note": "",
    }


_SPEED_WORDS: dict[Rank | None, str] = {Rank.BEST: "fastest", Rank.ALIKE: "≈ fastest"}


def _speeds(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How the decode speed of each row stands on its device, in words."""
    said = [""] * len(rows)
    for device in {row["device"] for row in rows}:
        places = [place for place, row in enumerate(rows) if row["device"] == device]
        found = standings([rows[place] for place in places], "tokens_per_s")
        for place, standing in zip(places, found, strict=True):
            said[place] = _SPEED_WORDS.get(standing, "")
    return said


def _values(row: dict[str, Any], speed: str, lengths: list[int]) -> Iterator[Any]:
    for name in _PLAIN:
        yield row.get(name)
    yield speed
    for name, parts in _FIGURES.items():
        for part in parts:
            yield (row.get(name) or {}).get(part)
    by_length = {each["prompt_tokens"]: each for each in row.get("by_context") or ()}
    for length in lengths:
        for name in OF_TURN:
            yield (by_length.get(length, {}).get(name) or {}).get("mean")
    raw = row.get("raw") or {}
    for name in OF_TURN:
        yield (raw.get(name) or {}).get("mean")
    yield from (raw.get(name) for name in ("read_ms", "compile_ms"))
    yield allocated(row.get("gpu_memory_mb"))


def _decimals(value: float) -> int:
    if value == 0:
        return 0
    magnitude = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
    return max(0, 3 - magnitude)
