"""What the command line prints: progress on standard error, tables and JSON on standard output."""

import contextlib
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kl_lens_desktop import quantities
from kl_lens_desktop.course import hours_words
from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.exclusive import exclusive
from kl_lens_desktop.printable import is_steering, printable, printable_lines
from kl_lens_desktop.process.awake import awake, battery_notes
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Event, Failed, Finished, Note, Progress, Repaired, Weights
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.process.signals import Stopped, answered
from kl_lens_desktop.run import RunJob

if TYPE_CHECKING:
    from kl_lens_desktop.bench.compare import Comparison

Result = TypeVar("Result")
Carry = Callable[[Job[Any], Cancel], Iterator[Event]]


def in_child(job: Job[Any], cancel: Cancel) -> Iterator[Event]:
    """Do a job in a child process: this one answers signals at once, whatever that one is busy with."""
    return Child(job).events(cancel)


def events(job: Job[Any], carry: Carry) -> Iterator[Event]:
    """The events of a job, with its progress shown as they pass.

    A signal cancels the job, which then has a moment to leave its work ready to be resumed; a second one
    ends it at once.

    Parameters
    ----------
    carry : callable
        Does the job: `in_child`, or `process.job.perform` in this process.

    Raises
    ------
    InputError
        If another process writes what this job writes.
    Stopped
        If a signal came.
    """
    meter, cancel, heard = _Meter(), Cancel(), list[int]()

    def hear(number: int) -> None:
        if heard:
            cancel.cancel_at_once()
        heard.append(number)
        cancel.cancel()

    try:
        for note in battery_notes([job]):
            meter.tell(note.text)
        with exclusive(job.writes()), answered(hear), awake([job]), contextlib.suppress(Cancelled):
            for event in carry(job, cancel):
                if isinstance(event, Progress):
                    meter.show(event)
                elif isinstance(event, Note):
                    meter.tell(event.text)
                elif isinstance(event, Repaired):
                    gain = f"{event.gain:.2g} ± {event.gain_se:.1g}"
                    meter.tell(f"{len(event.changes)} formats exchanged: KL {event.kl:.4g}, lower by {gain}")
                elif isinstance(event, Weights) and isinstance(job, RunJob):
                    if words := hours_words(event, job):
                        meter.tell(words)
                elif not isinstance(event, (Weights, Failed)):
                    yield event
        if heard:
            raise Stopped(heard[0])
    finally:
        meter.clear()


def finish(job: Job[Result], carry: Carry) -> Result:
    """The result of a job, with its progress shown."""
    *_, last = events(job, carry)
    assert isinstance(last, Finished)  # a job that does not raise ends so
    return job.result(last)


class _Meter:
    """One line of progress, redrawn on a terminal; elsewhere new lines, but not too many."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""
        self._drawn: Any = None

    def show(self, progress: Progress) -> None:
        if self._terminal:
            self._draw(progress)
            return
        # In a log: each new message or, where they come by the hundred, each tenth of the way.
        tenth = int(10 * progress.done / progress.total) if progress.total else 0
        known = [f"{10 * tenth} %", *_pace(progress)]
        step = ", ".join(known) if progress.unit and progress.total else progress.message
        if (key := f"{progress.stage}: {tenth if progress.unit else step}") != self._last:
            tell(f"{progress.stage}: {step}")
            self._last = key

    def tell(self, text: str) -> None:
        self.clear()
        tell(text)

    def clear(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None

    def _draw(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        if self._drawn is None:
            words = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
            figures = TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True))
            self._drawn = Bar(
                words,
                BarColumn(20),
                figures,
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
                expand=True,
            )
            self._drawn.add_task("", figures="")
            self._drawn.start()
        share = [f"{100 * progress.done / progress.total:.0f} %"] if progress.total else []
        (task,) = self._drawn.task_ids
        self._drawn.update(
            task,
            description=printable(f"{progress.stage}: {progress.message}"),
            completed=progress.done,
            total=progress.total or None,
            figures=", ".join([*share, *_pace(progress)]),
            refresh=True,
        )


def _pace(progress: Progress) -> list[str]:
    """Bytes per second and the time left, as far as they are known."""
    pace = [f"{quantities.size(progress.per_s)}/s"] if progress.per_s and progress.unit == "bytes" else []
    return pace + ([f"{duration(progress.eta_s)} left"] if progress.eta_s is not None else [])


def say(text: str) -> None:
    """One line of results, on standard output; what steers a terminal is spelt out, here and below."""
    print(printable(text))


def print_script(text: str) -> None:
    """What a program is to read, made of our own words alone, as it is."""
    print(text)


def tell(text: str) -> None:
    """One line for the person, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def tell_traceback() -> None:
    """Of the exception being handled, on standard error."""
    print(printable_lines(traceback.format_exc()), file=sys.stderr)


def print_comparison(found: "Comparison", first: str, second: str) -> None:
    """Two benchmarks side by side, by the names `first` and `second`."""
    from kl_lens_desktop.bench.report import around_table, comparison_table, ratio_words

    columns = {
        "variant": "variant", "other": "in the second", "device": "device", "figure": "figure",
        "first": first, "second": second, "ratio": "second to first (95 %)", "verdict": "the second is",
    }  # fmt: skip
    if lines := comparison_table(found):
        print_table(list(columns.values()), [[line[key] for key in columns] for line in lines])
        say(ratio_words("the first", "the second"))
    else:
        say("No variant was measured on the same device in both, so there is nothing to compare.")
    for side, rows in ((first, found.only_first), (second, found.only_second)):
        for row in rows:
            say(f"Only in {side}: {row['variant']} on {row['device']}, {row['status']}")
    if found.environment:
        around = [list(line.values()) for line in around_table(found)]
        print_table(["environment", first, second], around)
    for caution in found.cautions:
        say(caution)


def print_bench(rows: list[dict[str, Any]], devices: Sequence[dict[str, Any]] = ()) -> None:
    """The closing table: one row a variant and device, what to know of the bench file's `devices` that are
    in it, and a line on what the figures mean."""
    from kl_lens_desktop.bench.labels import device_notes
    from kl_lens_desktop.bench.outcome import outcome
    from kl_lens_desktop.bench.report import pairs, table

    columns = {
        "variant": "variant",
        "device": "device",
        "size": "size",
        "perplexity": "perplexity ± se",
        "kl_to_fp16": "KL to FP16 ± se",
        "tokens_per_s": "tokens/s ± sd",
        "speed": "",
        "ttft": "TTFT ± sd",
        "peak_rss": "peak RSS",
        "precision": "precision",
        "status": "status",
    }
    lines = table(rows)
    print_table(list(columns.values()), [[line[key] for key in columns] for line in lines])
    for line in lines:
        if line["note"]:
            say(f"{line['variant']} on {line['device']}: {line['note']}")
    used = {part for row in rows for part in re.split("[:,]", row["device"])}
    for device in devices:
        if device["name"] in used and (notes := device_notes(device)):
            say(f"{device['name']}: {' '.join(notes)}")
    if found := outcome(rows):
        say(f"The plan on {found.device}: {found.sentence}.")
    taken_in_turn = pairs(rows)
    for pair in taken_in_turn:
        say(
            f"On {pair['device']}, {pair['second']} decodes at {pair['ratio']} of {pair['first']}: "
            f"{pair['verdict']} after {pair['rounds']} rounds"
        )
    if taken_in_turn:
        say(
            "These ratios come from the least disturbed parts of each round, so ratios of the "
            "means may differ."
        )
    say("Perplexity and KL (nats per token, against the FP16 variant in f32) are of held-out text, on the")
    say("device in its default precision; ≈ marks a speed that noise does not tell apart from the fastest.")


def duration(seconds: float) -> str:
    """``2 min 10 s``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def print_table(header: list[str], rows: list[list[Any]]) -> None:
    """A table as wide as the terminal; columns of numbers to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(cell: Any) -> Text:  # for rich reads a plain string as markup
        return Text(f"{cell:,}" if isinstance(cell, int) else printable(str(cell)))

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(header):
        numbers = all(isinstance(row[column], (int, float)) for row in rows)
        table.add_column(text(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(text, row))
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(table)


def print_json(value: Any) -> None:
    print_json_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def print_json_text(text: str) -> None:
    """A document as it is in a file, with the escapes of JSON for what steers a terminal."""
    for line in text.split("\n"):
        print(line if line.isprintable() else "".join(map(_in_json, line)))


def _in_json(character: str) -> str:
    return json.dumps(character)[1:-1] if is_steering(character) else character
