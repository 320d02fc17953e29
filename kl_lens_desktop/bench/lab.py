"""The benchmark: every variant on every device, one process working at a time, a row for whatever happens."""

import contextlib
import hashlib
import itertools
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from kl_lens_desktop.bench import noise
from kl_lens_desktop.bench.devices import Device, as_listed, device_named, list_devices
from kl_lens_desktop.bench.environment import environment
from kl_lens_desktop.bench.fidelity import wrong_words
from kl_lens_desktop.bench.jobs import (
    BenchJob,
    LlamaJob,
    Loaded,
    LoadJob,
    MemoryReadJob,
    QualityJob,
    RequestsJob,
    SpeedJob,
    SpeedOrder,
    TimedRound,
)
from kl_lens_desktop.bench.llama import llama_row
from kl_lens_desktop.bench.memory import fit_together, limit_mb
from kl_lens_desktop.bench.model_card import fill
from kl_lens_desktop.bench.rows import SCHEMA, Run, check_rows, row
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.bench.static_model import needs_fixed_shapes
from kl_lens_desktop.bench.variants import Variant, find_variants, weights_bytes
from kl_lens_desktop.disk_space import check_room
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.files import write_json
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Event, Finished, Measured, Memory, Note, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.temporary import partial_of
from kl_lens_desktop.text.bundled import held_out_text, read_text, remarks
from kl_lens_desktop.text.passage import Passage, passage

_CONTEXT_ROUNDS = 2
_CACHE_FACTOR = 2  # a processor without products in FP16 keeps such weights in f32

Result = TypeVar("Result")


def bench(job: BenchJob, cancel: Cancel, listed: list[Device] | None = None) -> Iterator[Event]:
    """Measure IR folders side by side.

    Variants take turns at being timed, each in a process of its own that stays loaded where memory allows, so
    that a machine that warms up or gets busy favours none, and for as many rounds as it takes to tell them
    apart; then each variant's loading and quality are measured and its row is done. A child that crashes,
    hangs, takes too much memory or is ended from outside costs its own row only.

    Parameters
    ----------
    job : BenchJob
        Checked already.
    cancel : Cancel
    listed : list of Device, optional
        What `devices.list_devices` gave, if it was asked already: it tries each device.

    Yields
    ------
    Event
        Progress, `Memory` samples, `Measured` rows as they are finished, and Finished with `jobs.Benched`.

    Raises
    ------
    InputError
        If a folder is no IR folder or the text too short, before anything is started.
    Cancelled
        Within a second of the request; what was finished is in the bench file.
    """
    settings, out = job.benchmark, job.out
    text = settings.text or held_out_text()
    variants = find_variants(job.folders)
    words = read_text(text)
    yield from remarks(text)
    read = passage(variants[0].folder, words, settings.tokens, settings.window, settings.stride, cancel)
    yield Progress("bench", 0, 1, "Looking for devices")
    listed = list_devices(cancel) if listed is None else listed
    usual = (*(device.name for device in listed), *settings.combinations)
    wanted = usual if job.devices is None else job.devices
    chosen = [device_named(name, listed, cancel) for name in as_listed(wanted)]
    check_rows(len(variants) * len(chosen) + len(job.gguf))
    once = len(variants) * (1 + settings.raw + 2 * settings.cache)
    devices = sum(device.available for device in chosen)
    total = (len(variants) * settings.most_rounds + once) * devices
    course = BenchCourse(text.absolute(), settings, cancel, total, devices, once, out=out.absolute())
    gb_s = (yield from _memory_read(course)) if settings.raw else None
    seen = {device.name: device for device in [*listed, *chosen]}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(list(seen.values()), _described(text, words, read), settings, gb_s),
        "rows": [],
    }
    for event in itertools.chain(_measure(variants, chosen, course), _llama(job, course)):
        if isinstance(event, Measured):
            document["rows"].append(event.row)
            # A file of figures is not given up for one of failures.
            if not out.exists() or any(each["status"] == "ok" for each in document["rows"]):
                write_json(out, document)
        yield event
    for variant in variants:
        if not variant.backend:
            try:
                fill(variant.folder, document["rows"], variant.name)
            except InputError as error:  # a folder that is only read
                yield Note(str(error), "warning")
    yield job.finished({"path": str(out), "rows": len(document["rows"])})


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
class _Took:
    """How many runs, and their seconds."""

    count: int = 0
    seconds: float = 0.0

    @property
    def mean_s(self) -> float:
        return self.seconds / max(self.count, 1)


@dataclass(slots=True)
class BenchCourse:
    """What the runs of one bench share, and how much of it is done."""

    text: Path
    settings: Benchmark
    cancel: Cancel
    total: int
    devices: int = 1
    once: int = 0  # of the runs of a device, those that are no turns
    out: Path = Path("bench.json")  # beside which there is room
    done: int = 0
    turns: _Took = field(default_factory=_Took)
    others: _Took = field(default_factory=_Took)
    until: float | None = None  # by the clock, when the turns of the moment end at the latest

    def progress(self, part: float, message: str) -> Progress:
        return Progress("bench", self.done + part, self.total, message, "runs", self._left_s(part))

    def _left_s(self, part: float) -> float | None:
        """Seconds left: turns end with their minutes, and other runs take as long as those before."""
        if not self.turns.count:
            return None
        each = self.total / max(self.devices, 1)
        here = self.done % each + part
        other_s = (self.others if self.others.count else self.turns).mean_s
        if self.until is None:
            left_s = (each - here) * other_s
        else:
            by_time = max(self.until - time.monotonic(), 0.0)
            left_s = min((each - self.once - here) * self.turns.mean_s, by_time) + self.once * other_s
        whole_s = min((each - self.once) * self.turns.mean_s, 60 * self.settings.speed_minutes)
        further = self.devices - 1 - int(self.done / each)
        return max(left_s, 0.0) + max(further, 0) * (whole_s + self.once * other_s)

    @contextlib.contextmanager
    def step(self, *, turn: bool = False) -> Iterator[None]:
        """Around a run, which is a turn or another."""
        took, started = self.turns if turn else self.others, time.monotonic()
        yield
        self.done += 1
        took.count, took.seconds = took.count + 1, took.seconds + time.monotonic() - started

    def name(self, run: Run) -> str:
        return f"{run.variant.name} on {run.device}"

    def rest(self, run: Run, what: str) -> Progress:
        """Cool down, and say what begins."""
        self.cancel.rest(self.settings.cool_down_s)
        return self.progress(0, f"{self.name(run)}: {what}")

    def start(self, job: Job[Any], run: Run) -> Child:
        settings = self.settings
        return Child(
            job,
            time_limit_s=settings.time_limit_s,
            memory_limit_mb=settings.memory_limit_mb or limit_mb(),
            label=self.name(run),
        )


def _measure(variants: list[Variant], devices: list[Device], course: BenchCourse) -> Iterator[Event]:
    for device in devices:
        # A device of fixed shapes has one way to run a folder.
        fixed = needs_fixed_shapes(device.name)
        runs = [Run(variant, device.name) for variant in variants if not (fixed and variant.backend)]
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
            yield from _once(
                run, course, next((r for r in runs if r.quality and r.folder == run.folder), None)
            )
            yield Measured(row(run, session))


def _llama(job: BenchJob, course: BenchCourse) -> Iterator[Event]:
    """The rows of GGUF files: once for as many repetitions as the variants have at least."""
    settings = job.benchmark
    for path in job.gguf:
        yield course.progress(0, f"{path.name}: llama.cpp")
        course.cancel.rest(settings.cool_down_s)
        lengths = settings.prompt_tokens, settings.new_tokens
        program = job.llama_bench and job.llama_bench.absolute()
        timing = LlamaJob(path.absolute(), program, *lengths, settings.rounds * settings.repeats)
        try:
            with contextlib.closing(Child(timing, time_limit_s=settings.time_limit_s)) as child:
                for event in child.events(course.cancel):
                    if isinstance(event, Finished):
                        yield Measured(llama_row(path, timing.result(event)))
        except ChildError as error:
            yield Note(f"{path.name}: {error}", "warning")
            yield Measured(llama_row(path, None, f"{error.what}: {error.why}"))


def take_turns(runs: list[Run], course: BenchCourse) -> Iterator[Event]:
    """Time variants on one device in turn, until every two are told apart or known well enough.

    The processes are left running where they fit into memory together.
    """
    settings, cancel = course.settings, course.cancel
    together = fit_together(weights_bytes(run.variant) for run in runs)
    until = course.until = time.monotonic() + 60 * settings.speed_minutes
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
            with course.step(turn=True):
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
    course.until = None


def _settle(runs: list[Run], settings: Benchmark) -> None:
    timed = [run for run in runs if not run.failure]
    for run in timed:
        pairs = [noise.paired(_rounds(run, settings), _rounds(o, settings)) for o in timed if o is not run]
        run.settled = all(pair.settled for pair in pairs)


def _rounds(run: Run, settings: Benchmark) -> list[float]:
    return [turn["round"]["tokens_per_s"] for turn in run.turns[settings.prompt_tokens]]


def _turn(run: Run, lengths: list[int], what: str, course: BenchCourse) -> Iterator[Event]:
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
                longest, new_tokens = settings.longest_prompt, settings.new_tokens
                backend = run.variant.backend
                job = SpeedJob(run.folder, run.device, longest, new_tokens, course.text, backend)
                run.child = course.start(job, run)
                run.loads.append(cast(Loaded, (yield from _answer(run, None, course))))
            order = SpeedOrder(length, settings.new_tokens, settings.repeats, settings.turn_s)
            turn = cast(TimedRound, (yield from _answer(run, order, course)))
            run.turns.setdefault(length, []).append(turn)
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


def _answer(
    run: Run, order: SpeedOrder | None, course: BenchCourse
) -> Generator[Event, None, dict[str, Any]]:
    """What the child of a run answers to an order, or first of all without one."""
    assert run.child is not None
    try:
        return (yield from run.child.answered(course.cancel, order, passing=(Note, Memory)))
    finally:
        run.sampled_peak_mb = max(run.sampled_peak_mb, run.child.peak_rss_mb)


def _dismiss(run: Run) -> None:
    if run.child is not None:
        run.child.close()
        run.child = None


def _once(run: Run, course: BenchCourse, twin: Run | None) -> Iterator[Event]:
    """What is measured of a variant without the others: raw requests, loading, quality.

    Plain requests know no backend: a `twin` of the same folder has done them already.
    """
    settings, folder, device = course.settings, run.folder, run.device
    if twin is not None and not run.failure:
        run.raw, run.quality, run.failure = twin.raw, twin.quality, twin.failure
        if settings.cache:
            yield from _loading(run, course)
        course.done += 1 + settings.raw
        return
    if settings.raw:
        lengths = settings.prompt_tokens, settings.new_tokens, settings.repeats
        requests = RequestsJob(folder, device, *lengths, course.text)
        run.raw = yield from _child(requests, run, "plain requests", course)
    if settings.cache:
        yield from _loading(run, course)
    reference = run.variant.reference
    quality = QualityJob(
        folder,
        device,
        tokens=settings.tokens,
        chunk=settings.chunk,
        precision=settings.precision,
        text=course.text,
        window=settings.window,
        stride=settings.stride,
        reference=reference.absolute() if reference else None,
    )
    run.quality = yield from _child(quality, run, "quality", course)
    if run.quality and not (gate := run.quality["fidelity"])["ok"]:
        run.failure = wrong_words(gate)


def _loading(run: Run, course: BenchCourse) -> Iterator[Event]:
    """Time loading with a model cache, first to fill it; without room for one there is no such figure."""
    settings, before = course.settings, course.done
    # Not in the system's temporary folder, which may be in memory: it is as large as the model.
    with partial_of(course.out.with_name("model-cache")) as cache:
        try:
            check_room("OpenVINO's model cache", _CACHE_FACTOR * weights_bytes(run.variant), cache)
            cache.mkdir()
        except InputError as error:
            yield Note(f"{course.name(run)}: cannot time loading from a cache. {error}", "warning")
        else:
            lengths = settings.longest_prompt, settings.new_tokens
            load = LoadJob(run.folder, run.device, cache, *lengths, run.variant.backend)
            for what in ("filling the model cache", "loading from the model cache"):
                run.cached = yield from _child(load, run, what, course)
    course.done = before + 2


def _child(
    job: Job[Result], run: Run, what: str, course: BenchCourse
) -> Generator[Event, None, Result | None]:
    """The result of a job in a child process of its own; None if it, or this run before, has failed."""
    with course.step():
        if run.failure:
            return None
        yield course.rest(run, what)
        result = None
        try:
            with contextlib.closing(course.start(job, run)) as child:
                for event in child.events(course.cancel):
                    if isinstance(event, Finished):
                        result = job.result(event)
                    elif isinstance(event, Progress) and event.total:
                        yield course.progress(event.done / event.total, f"{course.name(run)}: {what}")
                    elif isinstance(event, (Note, Memory)):
                        yield event
        except ChildError as error:
            yield _failed(run, what, error)
            return None
        return result


def _failed(run: Run, what: str, error: ChildError) -> Note:
    _dismiss(run)
    run.failure = " ".join(f"{error.what}: {error.why}".split())[:600]
    return Note(f"{run.variant.name} on {run.device}: {what} failed. {error}", "warning")


def _memory_read(course: BenchCourse) -> Generator[Event, None, float | None]:
    yield Progress("bench", 0, 1, "Measuring memory bandwidth")
    gb_s = None
    try:
        job = MemoryReadJob()
        for event in Child(job, time_limit_s=60).events(course.cancel):
            if isinstance(event, Finished):
                gb_s = job.result(event)["gb_s"]
    except ChildError as error:
        yield Note(f"Memory bandwidth is unknown. {error}", "warning")
    return gb_s
