"""The benchmark: every variant on every device, one process working at a time, a row for whatever happens."""

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from kl_lens_desktop.bench import noise
from kl_lens_desktop.bench.devices import Device, check_device_name, device_named, list_devices
from kl_lens_desktop.bench.environment import environment
from kl_lens_desktop.bench.fidelity import wrong_words
from kl_lens_desktop.bench.rows import SCHEMA, Run, row
from kl_lens_desktop.bench.settings import QUICK, Settings, check_settings
from kl_lens_desktop.bench.variants import Variant, find_variants, weights_bytes
from kl_lens_desktop.errors import ChildError
from kl_lens_desktop.files import check_writable, write_json
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Answer, Event, Finished, Measured, Memory, Note, Progress
from kl_lens_desktop.text.bundled import held_out_text, read_text
from kl_lens_desktop.text.passage import Passage, passage

_MEMORY_SHARE = 0.9  # of what is free when a child starts; beyond it the computer would swap
# Variants stay loaded while others have their turn if they are expected to take no more of what is free:
# twice the weights, which a plugin may lay out anew, and the libraries' own.
_TOGETHER_SHARE, _WEIGHTS_FACTOR, _LIBRARIES_MB = 0.7, 2.0, 400.0
_CONTEXT_ROUNDS = 2


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
    check_settings(settings)
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
            if not out.exists() or any(each["status"] == "ok" for each in document["rows"]):
                write_json(out, document)
        yield event
    yield Finished({"path": str(out), "rows": len(document["rows"])})


def bench_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """`bench` for a worker process.

    Parameters
    ----------
    params : dict
        ``folders``, ``out``, and optionally ``devices``, ``text``, ``quick`` (true for `QUICK`) and any field
        of `Settings`.
    """
    given = dict(QUICK) if params.get("quick") else {}
    given |= {name: params[name] for name in Settings.__dataclass_fields__ if params.get(name) is not None}
    folders, out = [Path(folder) for folder in params["folders"]], Path(params["out"])
    text = Path(params["text"]) if params.get("text") else None
    yield from bench(folders, params.get("devices"), text, out, cancel, Settings(**given))


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
            yield from (Measured(row(run, "", device.reason)) for run in runs)
            continue
        session = uuid4().hex
        try:
            yield from take_turns(runs, course)
        finally:
            for run in runs:
                _dismiss(run)
        for run in runs:
            yield from _once(run, course)
            yield Measured(row(run, session))


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
    needed_mb = sum(_WEIGHTS_FACTOR * weights_bytes(run.variant) / 2**20 + _LIBRARIES_MB for run in runs)
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
            yield Note(
                f"{course.name(run)}: cannot measure speed after {length:,} tokens. {error}", "warning"
            )


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
        run.failure = wrong_words(gate)


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
    yield Progress("bench", 0, 1, "Measuring memory bandwidth")
    gb_s = None
    try:
        for event in Child("memory-read", {}, time_limit_s=60).events(course.cancel):
            if isinstance(event, Finished):
                gb_s = event.result["gb_s"]
    except ChildError as error:
        yield Note(f"Memory bandwidth is unknown. {error}", "warning")
    return gb_s
