"""What is measured of one variant on one device, and the row of the bench file it comes to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kl_lens_desktop.bench.environment import power
from kl_lens_desktop.bench.figures import OF_TEXT, OF_TURN, spread
from kl_lens_desktop.bench.jobs import Loaded, LoadedFromCache, Quality, Requests, TimedRound
from kl_lens_desktop.bench.variants import Variant, weights_bytes
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.process.child import Child

SCHEMA = "kl-lens/bench/1"
MOST_ROWS = 2000  # of a bench file


@dataclass(slots=True)
class Run:
    """What is known so far of one variant on one device."""

    variant: Variant
    device: str
    child: Child | None = None
    loads: list[Loaded] = field(default_factory=list)
    turns: dict[int, list[TimedRound]] = field(default_factory=dict)  # by length of prompt
    raw: Requests | None = None
    cached: LoadedFromCache | None = None
    quality: Quality | None = None
    refused: set[int] = field(default_factory=set)  # lengths of prompts that failed, beyond the main one
    sampled_peak_mb: float = 0.0
    settled: bool | None = None
    failure: str = ""

    @property
    def folder(self) -> Path:
        """As a process with another working folder finds it."""
        return self.variant.folder.absolute()


def check_rows(count: int) -> None:
    """Raise `InputError` if so many rows would make a bench file that is not read."""
    if count > MOST_ROWS:
        why = f"that makes {count:,} rows, and a bench file holds {MOST_ROWS:,}"
        raise InputError("Cannot measure so many variants on so many devices", why, "Choose fewer folders")


def row(run: Run, session: str, unavailable: str = "") -> dict[str, Any]:
    """The row of a run, as the bench file holds it; `unavailable` says why there is nothing to measure on."""
    variant, plan = run.variant, run.variant.plan
    load, quality, raw = run.loads[0] if run.loads else None, run.quality, run.raw
    in_speed, in_quality = load["settings"] if load else {}, quality["settings"] if quality else {}
    main = next(iter(run.turns.values()), [])  # the prompt that every round has
    files = [path for path in variant.folder.rglob("*") if path.is_file()]
    speed, read = _over_rounds(main, "tokens_per_s"), raw["bytes_per_token"] if raw else None
    return {
        "variant": variant.name,
        "device": run.device,
        "status": "unavailable" if unavailable else f"failed: {run.failure}" if run.failure else "ok",
        "reason": unavailable or None,
        "model": asdict(plan.model) if plan else None,
        "method": plan.method if plan else None,
        "plan_sha256": plan.sha256 if plan else None,
        "session": session or None,
        "size_bytes": weights_bytes(variant),
        "folder_bytes": sum(path.stat().st_size for path in files),
        **{name: _over_rounds(main, name) for name in OF_TURN},
        "settled": run.settled,
        "by_context": [
            {"prompt_tokens": length, **{name: _over_rounds(turns, name) for name in OF_TURN}}
            for length, turns in sorted(run.turns.items())
            if turns
        ] or None,
        "raw": {
            **{name: _over_rounds([raw], name) for name in OF_TURN},
            "read_ms": raw["read_ms"],
            "compile_ms": raw["compile_ms"],
        } if raw else None,
        "bytes_per_token": read,
        "bandwidth_gb_s": read * speed["mean"] / 1e9 if read and speed else None,
        "load_ms": spread([each["load_ms"] for each in run.loads]) if run.loads else None,
        "load_cached_ms": spread([run.cached["load_ms"]]) if run.cached else None,
        "cache_bytes": run.cached["cache_bytes"] if run.cached else None,
        **{name: quality.get(name) if quality else None for name in OF_TEXT},
        "fidelity": quality["fidelity"] if quality else None,
        "peak_rss_mb": _peak_mb(run),
        "peak_rss_sampled_mb": run.sampled_peak_mb or None,
        "system_used_change_mb": main[0]["system_used_change_mb"] if main else None,
        "gpu_memory_mb": _device_memory_mb(run),
        "backend": load["backend"] if load else None,
        "precision": in_speed.get("precision") or in_quality.get("precision"),
        "quality_precision": in_quality.get("precision"),
        "kv_cache_precision": in_speed.get("kv_cache_precision"),
        "dynamic_quantization_group_size": in_speed.get("dynamic_quantization_group_size"),
        "threads": in_quality.get("threads"),
        "core_type": in_speed.get("core_type"),
        "performance_hint": in_quality.get("performance_hint"),
        "execution_devices": in_quality.get("execution_devices"),
        "power": power(),
    }  # fmt: skip


def _over_rounds(turns: Sequence[TimedRound | Requests], name: str) -> dict[str, Any] | None:
    if not turns:
        return None
    pooled = [sample for turn in turns for sample in turn["samples"][name]]
    return {**spread(pooled), "rounds": [turn["round"][name] for turn in turns]}


def _peak_mb(run: Run) -> float | None:
    counted = [turn["peak_rss_mb"] for turns in run.turns.values() for turn in turns if turn["peak_rss_mb"]]
    return max(counted, default=run.sampled_peak_mb or None)


def _device_memory_mb(run: Run) -> dict[str, float] | None:
    """The largest of each kind after any turn."""
    largest: dict[str, float] = {}
    for turn in (turn for turns in run.turns.values() for turn in turns):
        for kind, size in (turn.get("gpu_memory_mb") or {}).items():
            largest[kind] = max(size, largest.get(kind, 0.0))
    return largest or None
