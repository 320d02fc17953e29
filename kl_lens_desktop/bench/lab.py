"""The benchmark: every variant on every device, one process working at a time, a row for whatever happens."""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from kl_lens_desktop.bench import noise
from kl_lens_desktop.bench.devices import Device, check_device_name, device_named, list_devices
from kl_lens_desktop.bench.figures import spread
from kl_lens_desktop.bench.text import Passage, passage
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.files import check_writable, write_json
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.child import Child
from kl_lens_desktop.jobs.events import Answer, Event, Finished, Measured, Memory, Note, Progress
from kl_lens_desktop.plan.document import Plan, load_plan
from kl_lens_desktop.texts import held_out_text, read_text

SCHEMA = "kl-lens/bench/1"
_PACKAGES = ("kl-lens-desktop", "openvino", "openvino-genai", "openvino-tokenizers", "nncf", "numpy")
_MEMORY_SHARE = 0.9  # of what is free when a child starts; beyond it the computer would swap
# Variants stay loaded while others have their turn if they are expected to take no more of what is free:
# twice the weights, which a plugin may lay out anew, and the libraries' own.
_TOGETHER_SHARE, _WEIGHTS_FACTOR, _LIBRARIES_MB = 0.7, 2.0, 400.0
_CONTEXT_ROUNDS = 2
_SPEED_FIGURES = ("tokens_per_s", "ttft_ms", "prefill_tokens_per_s")
_QUALITY_FIGURES = (
    "perplexity", "word_perplexity", "nats_per_token", "kl_to_fp16", "kl_reverse", "delta_ce",
    "top1_agreement",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    Attributes
    ----------
    tokens, window, stride : int
        Held-out text for quality: see `bench.text.passage`; None for its own defaults.
    chunk : int
        The most tokens given to a model at once in the quality run.
    precision : str
        Of the quality run: ``user`` for what a user gets on the device, ``f32`` for the exported weights'
        own quality.
    prompt_tokens, new_tokens : int
        Of every timed generation that is compared.
    repeats, turn_s : int, float
        Timed generations in a round, and seconds after which it does not begin another.
    rounds, max_rounds, speed_minutes : int, int, float
        Rounds in which the variants take turns: at least, and, until their speeds are told apart or known
        well enough (see `bench.noise`), at most; on one device for so long.
    contexts : sequence of int
        Other lengths of prompt to time, in the first two rounds.
    raw : bool
        Also time plain requests, and how fast this computer reads memory.
    cache : bool
        Also time loading with OpenVINO's model cache, in a temporary folder.
    cool_down_s : float
        Rest before every turn and every process.
    time_limit_s : float
        For each child process, and each turn of it.
    memory_limit_mb : float or None
        Resident set size at which a child is ended; None for 90 % of what is free when it starts.
    """

    tokens: int = 8192
    window: int | None = None
    stride: int | None = None
    chunk: int = 256
    precision: str = "user"
    prompt_tokens: int = 256
    new_tokens: int = 64
    repeats: int = 3
    turn_s: float = 3.0
    rounds: int = 4
    max_rounds: int = 32
    speed_minutes: float = 10.0
    contexts: Sequence[int] = (128, 512, 2048)
    raw: bool = True
    cache: bool = True
    cool_down_s: float = 0.2
    time_limit_s: float = 1200.0
    memory_limit_mb: float | None = None

    @property
    def most_rounds(self) -> int:
        return max(self.rounds, self.max_rounds)


@dataclass(frozen=True, slots=True)
class Variant:
    """An IR folder under the name its rows carry; `reference` is the FP16 variant of its model, if any."""

    name: str
    folder: Path
    plan: Plan | None
    reference: Path | None = None


@dataclass(slots=True)
class Run:
    """What is known so far of one variant on one device."""

    variant: Variant
    device: str
    child: Child | None = None
    loads: list[dict[str, Any]] = field(default_factory=list)
    turns: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # by length of prompt
    raw: dict[str, Any] = field(default_factory=dict)
    cached: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)  # lengths of prompts that failed, beyond the main one
    sampled_peak_mb: float = 0.0
    settled: bool | None = None
    failure: str = ""


def bench(
    folders: Sequence[Path],
    devices: Sequence[str] | None,
    text: Path | None,
    out: Path,
    cancel: Cancel | None = None,
    settings: Settings | None = None,
    listed: list[Device] | None = None,
) -> Iterator[Event]:
    """Measure IR folders side by side.

    Variants take turns at being timed, each in a process of its own that stays loaded where memory allows, so
    that a machine that warms up or gets busy favours none, and for as many rounds as it takes to tell them
    apart; then each variant's loading and quality are measured and its row is done. A child that crashes,
    hangs, takes too much memory or is ended from outside costs its own row only.

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
    listed : list of Device, optional
        What `devices.list_devices` gave, if it was asked already: it tries each device.

    Yields
    ------
    Event
        Progress, `Memory` samples, `Measured` rows as they are finished, and
        ``Finished({"path": …, "rows": number})``.

    Raises
    ------
    InputError
        If a folder is no IR folder, a name no device's, the text too short or `out` cannot be written,
        before anything is started.
    Cancelled
        Within a second of the request; what was finished is in `out`.
    """
    settings, cancel, text = settings or Settings(), cancel or Cancel(), text or held_out_text()
    _check_settings(settings)
    for name in devices or ():
        check_device_name(name)
    variants = find_variants(folders)
    check_writable(out.absolute().parent)
    words = read_text(text)
    read = passage(variants[0].folder, words, settings.tokens, settings.window, settings.stride, cancel)
    yield Progress("bench", 0, 1, "Looking for devices")
    listed = list_devices(cancel) if listed is None else listed
    wanted = [device.name for device in listed] if devices is None else dict.fromkeys(devices)
    chosen = [device_named(name, listed, cancel) for name in wanted]
    steps = settings.most_rounds + 1 + settings.raw + 2 * settings.cache
    total = len(variants) * steps * sum(device.available for device in chosen)
    course = Course(text, settings, cancel, total)
    gb_s = (yield from _memory_read(course)) if settings.raw else None
    seen = {device.name: device for device in [*listed, *chosen]}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(list(seen.values()), _described(text, words, read), settings, gb_s),
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
    if any(length < 1 for length in settings.contexts):
        raise InputError("Cannot measure", "a context has no tokens", "Ask for at least one")
    if settings.precision not in ("user", "f32"):
        raise InputError("Cannot measure", f"{settings.precision!r} is no precision", "Choose user or f32")


def _described(path: Path, words: str, read: Passage) -> dict[str, Any]:
    about = {
        "name": path.name,
        "sha256": hashlib.sha256(words.encode("utf-8")).hexdigest(),
        "tokens": read.tokens,
        "predicted": read.predicted,
        "window": read.window,
        "stride": read.stride,
    }
    return about | ({"task": "wikitext", "documents": read.documents} if read.documents else {})


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


def environment(
    devices: list[Device], text: dict[str, Any], settings: Settings, memory_read_gb_s: float | None
) -> dict[str, Any]:
    """Where and with what a bench was run, for a reader on another computer."""
    battery = _battery()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "os": platform.platform(),
        "cpu": next((device.full_name for device in devices if device.name == "CPU"), platform.processor()),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": psutil.cpu_count(),
        "ram_mb": psutil.virtual_memory().total / 2**20,
        "memory_read_gb_s": memory_read_gb_s,
        "power": _power(),
        "battery_percent": None if battery is None else float(battery.percent),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "devices": [asdict(device) for device in devices],
        "text": text,
        "settings": asdict(settings) | {"contexts": list(settings.contexts)},
    }


@dataclass(slots=True)
class Course:
    """What the runs of one bench share, and how much of it is done."""

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

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        yield
        self.done += 1

    def name(self, run: Run) -> str:
        return f"{run.variant.name} on {run.device}"

    def rest(self, run: Run, what: str) -> Progress:
        """Cool down, and say what begins."""
        self.cancel.rest(self.settings.cool_down_s)
        return self.progress(0, f"{self.name(run)}: {what}")

    def start(self, task: str, params: dict[str, Any], run: Run) -> Child:
        folder, text = run.variant.folder.absolute(), self.text.absolute()
        given = {"folder": str(folder), "device": run.device, "text": str(text), **params}
        settings = self.settings
        limit_mb = settings.memory_limit_mb or _MEMORY_SHARE * psutil.virtual_memory().available / 2**20
        return Child(
            task,
            given,
            time_limit_s=settings.time_limit_s,
            memory_limit_mb=limit_mb,
            label=self.name(run),
        )


def _measure(variants: list[Variant], devices: list[Device], course: Course) -> Iterator[Event]:
    for device in devices:
        runs = [Run(variant, device.name) for variant in variants]
        if not device.available:
            yield from (Measured(_row(run, "", device.reason)) for run in runs)
            continue
        session = uuid4().hex
        try:
            yield from take_turns(runs, course)
        finally:
            for run in runs:
                _dismiss(run)
        for run in runs:
            yield from _once(run, course)
            yield Measured(_row(run, session))


def take_turns(runs: list[Run], course: Course) -> Iterator[Event]:
    """Time variants on one device in turn, until every two are told apart or known well enough.

    The processes are left running where they fit into memory together.
    """
    settings, cancel = course.settings, course.cancel
    together = _fit_together(runs)
    until = time.monotonic() + 60 * settings.speed_minutes
    racing, before = list(runs), course.done
    for number in range(settings.most_rounds):
        # there and back, so that over two rounds a steady drift is the same for all, and from another start
        # each time, so that none always follows the same
        start = number // 2 % len(racing)
        order = racing[start:] + racing[:start]
        for run in order if number % 2 == 0 else order[::-1]:
            message = f"speed, round {number + 1} of at most {settings.most_rounds}"
            lengths = [settings.prompt_tokens]
            lengths += settings.contexts if number < _CONTEXT_ROUNDS else ()
            with course.step():
                yield from _turn(run, list(dict.fromkeys(lengths)), message, course)
            if not together:
                _dismiss(run)
        cancel.check()
        late = time.monotonic() > until or number + 1 == settings.most_rounds
        # only where `noise` looks: looking more often would find what is not there
        if number + 1 >= settings.rounds and (late or number + 1 in noise.LOOKS):
            _settle(runs, settings)
            racing = [run for run in racing if not (run.settled or run.failure)]
            if not racing or late:
                break
    course.done = before + len(runs) * settings.most_rounds  # also those that were not needed


def _fit_together(runs: list[Run]) -> bool:
    """Whether all variants may stay loaded while one of them works."""
    needed_mb = sum(_WEIGHTS_FACTOR * _weights(run.variant) / 2**20 + _LIBRARIES_MB for run in runs)
    free_mb = float(psutil.virtual_memory().available) / 2**20
    return needed_mb <= _TOGETHER_SHARE * free_mb


def _settle(runs: list[Run], settings: Settings) -> None:
    timed = [run for run in runs if not run.failure]
    for run in timed:
        pairs = [noise.paired(_rounds(run, settings), _rounds(o, settings)) for o in timed if o is not run]
        run.settled = all(pair.settled for pair in pairs)


def _rounds(run: Run, settings: Settings) -> list[float]:
    return [turn["round"]["tokens_per_s"] for turn in run.turns[settings.prompt_tokens]]


def _turn(run: Run, lengths: list[int], what: str, course: Course) -> Iterator[Event]:
    """One round of a variant: its prompts one after another, in its own process, loaded first if need be."""
    if run.failure:
        return
    settings = course.settings
    yield course.rest(run, what)
    for length in lengths:
        if length in run.refused:
            continue
        try:
            if run.child is None:
                run.child = course.start("bench-speed", _longest(settings), run)
                yield from _answers(run, None, run.loads, course)
            order = {name: getattr(settings, name) for name in ("new_tokens", "repeats")}
            order |= {"prompt_tokens": length, "seconds": settings.turn_s}
            yield from _answers(run, order, run.turns.setdefault(length, []), course)
        except ChildError as error:
            if length == settings.prompt_tokens:
                yield _failed(run, what, error)
                return
            _dismiss(run)
            run.refused.add(length)
            run.turns.pop(length, None)
            yield Note(f"{course.name(run)}: no speed after {length:,} tokens. {error}", "warning")


def _longest(settings: Settings) -> dict[str, int]:
    """The sizes that a pipeline is opened for."""
    return {
        "prompt_tokens": max(settings.prompt_tokens, *settings.contexts, 1),
        "new_tokens": settings.new_tokens,
    }


def _answers(
    run: Run, order: dict[str, Any] | None, results: list[dict[str, Any]], course: Course
) -> Iterator[Event]:
    assert run.child is not None
    try:
        for event in run.child.answer(course.cancel, order):
            if isinstance(event, Answer):
                results.append(event.result)
            elif isinstance(event, (Note, Memory)):
                yield event
    finally:
        run.sampled_peak_mb = max(run.sampled_peak_mb, run.child.peak_rss_mb)


def _dismiss(run: Run) -> None:
    if run.child is not None:
        run.child.close()
        run.child = None


def _once(run: Run, course: Course) -> Iterator[Event]:
    """What is measured of a variant without the others: raw requests, loading, quality."""
    settings = course.settings
    if settings.raw:
        params = {name: getattr(settings, name) for name in ("prompt_tokens", "new_tokens", "repeats")}
        yield from _child("bench-raw", params, run, "plain requests", run.raw, course)
    if settings.cache:
        with tempfile.TemporaryDirectory(prefix="kl-lens-", ignore_cleanup_errors=True) as cache:
            for what in ("filling the model cache", "loading from the model cache"):
                params = {"cache": cache, **_longest(settings)}
                yield from _child("bench-load", params, run, what, run.cached, course)
    reference = run.variant.reference
    names = ("tokens", "window", "stride", "chunk", "precision")
    params = {name: getattr(settings, name) for name in names}
    params["reference"] = str(reference.absolute()) if reference else None
    yield from _child("bench-quality", params, run, "quality", run.quality, course)
    gate = run.quality.get("fidelity", {"ok": True})
    if not gate["ok"]:
        run.failure = f"wrong answers (its logits against CPU f32: {_wrong(gate)})"


def _wrong(gate: dict[str, Any]) -> str:
    strict = "strict_bound" in gate
    share, bound = (
        (gate["strict_difference"], gate["strict_bound"])
        if strict
        else (gate["relative_difference"], gate["bound"])
    )
    why = "they are not numbers" if share is None else f"they are off by {share:.0%} of their spread"
    return f"{why}{', also in full precision' if strict else ''}, the limit is {bound:.0%}"


def _child(
    task: str, params: dict[str, Any], run: Run, what: str, result: dict[str, Any], course: Course
) -> Iterator[Event]:
    """Run a task in a child process of its own, its result into `result`, unless this run has failed."""
    with course.step():
        if run.failure:
            return
        yield course.rest(run, what)
        try:
            with contextlib.closing(course.start(task, params, run)) as child:
                for event in child.events(course.cancel):
                    if isinstance(event, Finished):
                        result.update(event.result)
                    elif isinstance(event, Progress) and event.total:
                        yield course.progress(event.done / event.total, f"{course.name(run)}: {what}")
                    elif isinstance(event, (Note, Memory)):
                        yield event
        except ChildError as error:
            result.clear()
            yield _failed(run, what, error)


def _failed(run: Run, what: str, error: ChildError) -> Note:
    _dismiss(run)
    run.failure = " ".join(f"{error.what}: {error.why}".split())[:600]
    return Note(f"{run.variant.name} on {run.device}: {what} failed. {error}", "warning")


def _memory_read(course: Course) -> Generator[Event, None, float | None]:
    yield Progress("bench", 0, 1, "Measuring how fast memory is read")
    gb_s = None
    try:
        for event in Child("memory-read", {}, time_limit_s=60).events(course.cancel):
            if isinstance(event, Finished):
                gb_s = event.result["gb_s"]
    except ChildError as error:
        yield Note(f"How fast memory is read is not known. {error}", "warning")
    return gb_s


def _row(run: Run, session: str, unavailable: str = "") -> dict[str, Any]:
    variant, plan = run.variant, run.variant.plan
    load, quality, raw = run.loads[0] if run.loads else {}, run.quality, run.raw
    in_speed, in_quality = load.get("settings", {}), quality.get("settings", {})
    main = next(iter(run.turns.values()), [])  # the prompt that every round has
    files = [path for path in variant.folder.rglob("*") if path.is_file()]
    speed, read = _over_rounds(main, "tokens_per_s"), raw.get("bytes_per_token")
    cached_ms = run.cached.get("load_ms")
    return {
        "variant": variant.name,
        "device": run.device,
        "status": "unavailable" if unavailable else f"failed: {run.failure}" if run.failure else "ok",
        "reason": unavailable or None,
        "model": asdict(plan.model) if plan else None,
        "method": plan.method if plan else None,
        "plan_sha256": _plan_sha256(plan) if plan else None,
        "session": session or None,
        "size_bytes": _weights(variant),
        "folder_bytes": sum(path.stat().st_size for path in files),
        **{name: _over_rounds(main, name) for name in _SPEED_FIGURES},
        "settled": run.settled,
        "by_context": [
            {"prompt_tokens": length, **{name: _over_rounds(turns, name) for name in _SPEED_FIGURES}}
            for length, turns in sorted(run.turns.items())
            if turns
        ] or None,
        "raw": {
            **{name: _over_rounds([raw], name) for name in _SPEED_FIGURES},
            "read_ms": raw["read_ms"],
            "compile_ms": raw["compile_ms"],
        } if raw else None,
        "bytes_per_token": read,
        "bandwidth_gb_s": read * speed["mean"] / 1e9 if read and speed else None,
        "load_ms": spread([each["load_ms"] for each in run.loads]) if run.loads else None,
        "load_cached_ms": spread([cached_ms]) if cached_ms else None,
        "cache_bytes": run.cached.get("cache_bytes"),
        **{name: quality.get(name) for name in _QUALITY_FIGURES},
        "fidelity": quality.get("fidelity"),
        "peak_rss_mb": _peak_mb(run),
        "peak_rss_sampled_mb": run.sampled_peak_mb or None,
        "system_used_change_mb": main[0]["system_used_change_mb"] if main else None,
        "gpu_memory_mb": quality.get("gpu_memory_mb"),
        "backend": load.get("backend"),
        "precision": in_speed.get("precision") or in_quality.get("precision"),
        "quality_precision": in_quality.get("precision"),
        "kv_cache_precision": in_speed.get("kv_cache_precision"),
        "dynamic_quantization_group_size": in_speed.get("dynamic_quantization_group_size"),
        "threads": in_quality.get("threads"),
        "core_type": in_speed.get("core_type"),
        "performance_hint": in_quality.get("performance_hint"),
        "execution_devices": in_quality.get("execution_devices"),
        "power": _power(),
    }  # fmt: skip


def _over_rounds(turns: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    if not turns:
        return None
    pooled = [sample for turn in turns for sample in turn["samples"][name]]
    return {**spread(pooled), "rounds": [turn["round"][name] for turn in turns]}


def _peak_mb(run: Run) -> float | None:
    counted = [turn["peak_rss_mb"] for turns in run.turns.values() for turn in turns if turn["peak_rss_mb"]]
    return max(counted, default=run.sampled_peak_mb or None)


def _weights(variant: Variant) -> int:
    return (variant.folder / "openvino_model.bin").stat().st_size


def _plan_sha256(plan: Plan) -> str:
    assignments = json.dumps(plan.assignments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(assignments.encode("utf-8")).hexdigest()


def _battery() -> Any:
    return psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None


def _power() -> str:
    battery = _battery()
    return "unknown" if battery is None else "mains" if battery.power_plugged else "battery"


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
