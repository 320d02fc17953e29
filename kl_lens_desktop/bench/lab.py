"""The benchmark: every variant on every device, one child process at a time, a row for whatever happens."""

import contextlib
import hashlib
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from kl_lens_desktop.bench.devices import Device, device_named, list_devices
from kl_lens_desktop.bench.figures import spread
from kl_lens_desktop.bench.text import token_ids, windows
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.files import check_writable, write_json
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.child import Child
from kl_lens_desktop.jobs.events import Event, Finished, Measured, Note, Progress
from kl_lens_desktop.plan.document import Plan, load_plan
from kl_lens_desktop.texts import held_out_text, read_text

SCHEMA = "kl-lens/bench/1"
_PACKAGES = ("kl-lens-desktop", "openvino", "openvino-genai", "openvino-tokenizers", "nncf", "numpy")
_MEMORY_SHARE = 0.9  # of what is free when a child starts; beyond it the computer would swap
_SPEED_FIGURES = ("tokens_per_s", "ttft_ms", "prefill_tokens_per_s")
_QUALITY_FIGURES = ("perplexity", "nats_per_token", "kl_to_fp16", "kl_reverse", "delta_ce", "top1_agreement")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    Attributes
    ----------
    tokens, window : int
        Held-out text for quality, in windows of consecutive tokens.
    chunk : int
        The most tokens given to a model at once in the quality run.
    precision : str
        Of the quality run: ``user`` for what a user gets on the device, ``f32`` for the exported weights'
        own quality.
    prompt_tokens, new_tokens : int
        Of every timed generation.
    repeats, rounds : int
        Timed generations in a child process, and child processes for each variant, taken in turn with the
        others.
    time_limit_s : float
        For each child process.
    memory_limit_mb : float or None
        Resident set size at which a child is ended; None for 90 % of what is free when it starts.
    """

    tokens: int = 8192
    window: int = 256
    chunk: int = 256
    precision: str = "user"
    prompt_tokens: int = 256
    new_tokens: int = 64
    repeats: int = 3
    rounds: int = 3
    time_limit_s: float = 1200.0
    memory_limit_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """An IR folder under the name its rows carry; `reference` is the FP16 variant of its model, if any."""

    name: str
    folder: Path
    plan: Plan | None
    reference: Path | None = None


@dataclass(slots=True)
class _Run:
    """What is known so far of one variant on one device."""

    variant: Variant
    device: str
    speed: list[dict[str, Any]] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)
    sampled_peaks_mb: list[float] = field(default_factory=list)
    failure: str = ""


def bench(
    folders: Sequence[Path],
    devices: Sequence[str] | None,
    text: Path | None,
    out: Path,
    cancel: Cancel | None = None,
    settings: Settings | None = None,
) -> Iterator[Event]:
    """Measure IR folders side by side.

    Speed runs of the variants take turns for several rounds, so that a machine that warms up or gets busy
    favours none; then each variant's quality is measured and its row is done. A child that crashes, hangs,
    takes too much memory or is ended from outside costs its own row only.

    Parameters
    ----------
    folders : sequence of Path
        IR folders. The one that is all FP16 is what the others of its model are compared with.
    devices : sequence of str, optional
        OpenVINO names; without them all that OpenVINO reports, and the kinds that are missing as unavailable.
    text : Path, optional
        Held-out text; the bundled one without it.
    out : Path
        The bench file, written anew after each row, so that an interrupted run keeps its finished rows.
    cancel : Cancel, optional
    settings : Settings, optional

    Yields
    ------
    Event
        Progress, `Measured` rows as they are finished, ``Finished({"path": …, "rows": number})``.

    Raises
    ------
    InputError
        If a folder is no IR folder, the text is too short or `out` cannot be written, before anything is
        measured.
    Cancelled
        Within a second of the request; what was finished is in `out`.
    """
    settings, cancel, text = settings or Settings(), cancel or Cancel(), text or held_out_text()
    _check_settings(settings)
    variants = find_variants(folders)
    check_writable(out.absolute().parent)
    words = read_text(text)
    pieces = windows(token_ids(variants[0].folder, words), settings.window, settings.tokens)
    yield Progress("bench", 0, 1, "Looking for devices")
    listed = list_devices(cancel)
    wanted = [device.name for device in listed] if devices is None else dict.fromkeys(devices)
    chosen = [device_named(name, listed, cancel) for name in wanted]
    described = {
        "name": text.name,
        "sha256": hashlib.sha256(words.encode("utf-8")).hexdigest(),
        "tokens": len(pieces) * settings.window,
        "window": settings.window,
    }
    children = len(variants) * (settings.rounds + 1) * sum(device.available for device in chosen)
    course = _Course(text, settings, cancel, children)
    seen = {device.name: device for device in [*listed, *chosen]}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(list(seen.values()), described, settings),
        "rows": [],
    }
    for event in _measure(variants, chosen, course):
        if isinstance(event, Measured):
            document["rows"].append(event.row)
            # A file of figures is not given up for one of failures.
            if not out.exists() or any(row["status"] == "ok" for row in document["rows"]):
                write_json(out, document)
        yield event
    yield Finished({"path": str(out), "rows": len(document["rows"])})


def bench_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """`bench` for a worker process.

    Parameters
    ----------
    params : dict
        ``folders``, ``out``, and optionally ``devices``, ``text`` and any field of `Settings`.
    """
    given = {name: params[name] for name in Settings.__dataclass_fields__ if params.get(name) is not None}
    folders, out = [Path(folder) for folder in params["folders"]], Path(params["out"])
    text = Path(params["text"]) if params.get("text") else None
    yield from bench(folders, params.get("devices"), text, out, cancel, Settings(**given))


def _check_settings(settings: Settings) -> None:
    least = {"rounds": 1, "repeats": 1, "prompt_tokens": 1, "new_tokens": 2, "chunk": 1}
    for name, count in least.items():
        if getattr(settings, name) < count:
            raise InputError("Cannot measure", f"{name} is less than {count}", f"Ask for at least {count}")
    if settings.precision not in ("user", "f32"):
        raise InputError("Cannot measure", f"{settings.precision!r} is no precision", "Choose user or f32")


def find_variants(folders: Sequence[Path]) -> list[Variant]:
    """The variants in `folders`, named by folder (with the parent's name or a number where two are alike).

    Raises
    ------
    InputError
        If there is none or one of them is no IR folder.
    """
    if not folders:
        raise InputError("Nothing to measure", "no folder was given", "Name at least one exported model")
    for folder in folders:
        if not (folder / "openvino_model.xml").is_file() or not (folder / "openvino_model.bin").is_file():
            why = "it holds no openvino_model.xml and .bin"
            raise InputError(f"Cannot measure {folder}", why, "Choose the folder of an exported model")
    plans = [load_plan(path) if (path := folder / "plan.json").is_file() else None for folder in folders]
    variants = [
        Variant(name, folder, plan)
        for name, folder, plan in zip(_names(folders), folders, plans, strict=True)
    ]
    return [replace(variant, reference=_reference(variant, variants)) for variant in variants]


def environment(devices: list[Device], text: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Where and with what a bench was run, for a reader on another computer."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "os": platform.platform(),
        "cpu": next((device.full_name for device in devices if device.name == "CPU"), platform.processor()),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": psutil.cpu_count(),
        "ram_mb": psutil.virtual_memory().total / 2**20,
        "power": "unknown" if battery is None else "mains" if battery.power_plugged else "battery",
        "battery_percent": None if battery is None else float(battery.percent),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "devices": [asdict(device) for device in devices],
        "text": text,
        "settings": asdict(settings),
    }


@dataclass(slots=True)
class _Course:
    """What the runs of one bench share, and how many of their child processes are done."""

    text: Path
    settings: Settings
    cancel: Cancel
    total: int
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def progress(self, part: float, message: str) -> Progress:
        done = self.done + part
        eta_s = (time.monotonic() - self.started) * (self.total - done) / done if done > 0 else None
        return Progress("bench", done, self.total, message, "runs", eta_s)


def _measure(variants: list[Variant], devices: list[Device], course: _Course) -> Iterator[Event]:
    for device in devices:
        runs = [_Run(variant, device.name) for variant in variants]
        if not device.available:
            yield from (Measured(_row(run, device.reason)) for run in runs)
            continue
        for number in range(course.settings.rounds):
            # every round starts with another variant, so that none is always the first after a pause
            turn = number % len(runs)
            for run in runs[turn:] + runs[:turn]:
                yield from _speed(run, number, course)
        for run in runs:
            yield from _quality(run, course)
            yield Measured(_row(run))


def _speed(run: _Run, number: int, course: _Course) -> Iterator[Event]:
    settings = course.settings
    params = {name: getattr(settings, name) for name in ("prompt_tokens", "new_tokens", "repeats")}
    what = f"speed, round {number + 1} of {settings.rounds}"
    result = yield from _child("bench-speed", params, run, what, course)
    if result:
        run.speed.append(result)


def _quality(run: _Run, course: _Course) -> Iterator[Event]:
    settings, reference = course.settings, run.variant.reference
    params = {name: getattr(settings, name) for name in ("tokens", "window", "chunk", "precision")}
    params["reference"] = str(reference.absolute()) if reference else None
    run.quality = yield from _child("bench-quality", params, run, "quality", course)
    gate = run.quality.get("fidelity", {"ok": True})
    if not gate["ok"]:
        share = gate["relative_difference"]
        why = "they are not numbers" if share is None else f"they are off by {share:.0%} of their spread"
        run.failure = f"wrong answers (its logits against CPU f32: {why}, the limit is {gate['bound']:.0%})"


def _child(
    task: str, params: dict[str, Any], run: _Run, what: str, course: _Course
) -> Generator[Event, None, dict[str, Any]]:
    """The result of a task in a child process, or {} if this run failed, now or before; then it says why."""
    if run.failure:
        course.done += 1
        return {}
    course.cancel.check()
    message = f"{run.variant.name} on {run.device}: {what}"
    yield course.progress(0, message)
    folder, text = run.variant.folder.absolute(), course.text.absolute()
    given = {"folder": str(folder), "device": run.device, "text": str(text), **params}
    limit_mb = course.settings.memory_limit_mb or _MEMORY_SHARE * psutil.virtual_memory().available / 2**20
    child = Child(task, given, time_limit_s=course.settings.time_limit_s, memory_limit_mb=limit_mb)
    result: dict[str, Any] = {}
    try:
        with contextlib.closing(child):
            for event in child.events(course.cancel):
                if isinstance(event, Finished):
                    result = event.result
                elif isinstance(event, Progress):
                    yield course.progress(event.done / event.total, message)
                elif isinstance(event, Note):
                    yield event
    except ChildError as error:
        result, run.failure = {}, " ".join(f"{error.what}: {error.why}".split())[:600]
        yield Note(f"{message} failed. {error}", "warning")
    if task == "bench-speed":
        run.sampled_peaks_mb.append(child.peak_rss_mb)
    course.done += 1
    return result


def _row(run: _Run, unavailable: str = "") -> dict[str, Any]:
    variant, plan = run.variant, run.variant.plan
    speed, quality = run.speed[0] if run.speed else {}, run.quality
    in_speed, in_quality = speed.get("settings", {}), quality.get("settings", {})
    files = [path for path in variant.folder.rglob("*") if path.is_file()]
    return {
        "variant": variant.name,
        "device": run.device,
        "status": "unavailable" if unavailable else f"failed: {run.failure}" if run.failure else "ok",
        "reason": unavailable or None,
        "model": asdict(plan.model) if plan else None,
        "method": plan.method if plan else None,
        "size_bytes": (variant.folder / "openvino_model.bin").stat().st_size,
        "folder_bytes": sum(path.stat().st_size for path in files),
        **{name: _over_rounds(run.speed, name) for name in _SPEED_FIGURES},
        "load_ms": spread([each["load_ms"] for each in run.speed]) if run.speed else None,
        **{name: quality.get(name) for name in _QUALITY_FIGURES},
        "fidelity": quality.get("fidelity"),
        "peak_rss_mb": _peak_mb(run),
        "system_used_change_mb": _median([each["system_used_change_mb"] for each in run.speed]),
        "gpu_memory_mb": quality.get("gpu_memory_mb"),
        "backend": speed.get("backend"),
        "precision": in_speed.get("precision"),
        "quality_precision": in_quality.get("precision"),
        "kv_cache_precision": in_speed.get("kv_cache_precision"),
        "dynamic_quantization_group_size": in_speed.get("dynamic_quantization_group_size"),
        "threads": in_quality.get("threads"),
    }


def _over_rounds(results: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    if not results:
        return None
    pooled = [sample for result in results for sample in result["samples"][name]]
    return {**spread(pooled), "rounds": [statistics.median(result["samples"][name]) for result in results]}


def _peak_mb(run: _Run) -> float | None:
    counted = [each["peak_rss_mb"] for each in run.speed if each["peak_rss_mb"] is not None]
    return max(counted or run.sampled_peaks_mb, default=None)


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _names(folders: Sequence[Path]) -> list[str]:
    resolved = [folder.resolve() for folder in folders]
    short = [folder.name for folder in resolved]
    names = [
        name if short.count(name) == 1 else f"{folder.parent.name}/{name}"
        for folder, name in zip(resolved, short, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _reference(variant: Variant, variants: list[Variant]) -> Path | None:
    def of_the_same_model(other: Variant) -> bool:
        if variant.plan and other.plan:
            return variant.plan.model.sha256 == other.plan.model.sha256
        return _tokenizer(variant.folder) == _tokenizer(other.folder)

    full = (each for each in variants if _is_fp16(each) and of_the_same_model(each))
    return next((each.folder for each in full), None)


def _is_fp16(variant: Variant) -> bool:
    if variant.plan is not None:
        return set(variant.plan.assignments.values()) == {"fp16"}
    return variant.folder.resolve().name.lower() == "fp16"


def _tokenizer(folder: Path) -> bytes:
    path = folder / "tokenizer.json"
    return path.read_bytes() if path.is_file() else b""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
