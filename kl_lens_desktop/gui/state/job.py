"""What runs now: jobs in child processes, a thread that listens, a timer that turns events into signals.

Events wait in a queue and are delivered together every 50 ms, so no stage can flood the window with repaints.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from kl_lens_desktop.errors import Cancelled, ChildError, KLLensError
from kl_lens_desktop.exclusive import exclusive
from kl_lens_desktop.files import reason
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.printable import printable
from kl_lens_desktop.process.awake import awake, battery_notes
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import (
    Event,
    Exported,
    Failed,
    Finished,
    Measured,
    Memory,
    Note,
    Progress,
    Repaired,
    Scored,
    Weights,
)
from kl_lens_desktop.process.job import Job

DRAIN_MS = 50
DRAIN_BUDGET_S = 0.02  # a longer burst waits for the next tick, so that input is never kept waiting
CLOSE_S = 1.9


@dataclass(frozen=True, slots=True)
class Step:
    """One of the jobs that run one after the other.

    `about` says for the window what it works on, for example the variant's name; with a `label`, the memory
    of its process is sampled under that name.
    """

    job: Job[Any]
    about: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """What the job is, such as ``analyze``."""
        return self.job.NAME


@dataclass(frozen=True, slots=True)
class _Outcome:
    how: str


class Runner(QObject):
    """At most one job, or one row of jobs, at a time.

    Signals
    -------
    started(str)
        The first job's name.
    step_started(Step), step_finished(Step, Finished)
    progress(Progress), note(Note), weights(list), scored(Entry JSON), measured(dict), repaired(Repaired),
    exported(Exported), memory(Memory)
        As the stages yield them.
    delivered()
        After each batch of events: the time to repaint.
    failed(Step, Failed), cancelled(Step)
        Instead of the last `step_finished`.
    ended(str)
        ``finished``, ``failed`` or ``cancelled``; a new job may start.
    occupied_changed()
        `occupy` was called.

    Attributes
    ----------
    stay_awake : bool
        Whether the computer is kept from sleeping while a long job works, from the next job on.
    """

    started = Signal(str)
    step_started = Signal(object)
    step_finished = Signal(object, object)
    progress = Signal(object)
    note = Signal(object)
    weights = Signal(object)
    scored = Signal(object)
    measured = Signal(object)
    repaired = Signal(object)
    exported = Signal(object)
    memory = Signal(object)
    delivered = Signal()
    failed = Signal(object, object)
    cancelled = Signal(object)
    ended = Signal(str)
    paused_changed = Signal(bool)
    occupied_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.current: Step | None = None
        self._queue: deque[tuple[Step, Event | _Outcome | None]] = deque()
        self._cancel = Cancel()
        self.stay_awake = True
        self._occupied = ""
        self._thread: threading.Thread | None = None
        self._timer = QTimer(self, interval=DRAIN_MS)
        self._timer.timeout.connect(self._drain)

    @property
    def running(self) -> bool:
        return self._thread is not None

    @property
    def paused(self) -> bool:
        return self._cancel.paused

    @property
    def reason(self) -> str:
        """Why nothing else can start now; empty if something can."""
        return tr("A job is running. Wait for it or cancel it.") if self.running else self._occupied

    def occupy(self, reason: str) -> None:
        """Say why jobs should not start now, for something else works; an empty `reason` ends that."""
        if reason != self._occupied:
            self._occupied = reason
            self.occupied_changed.emit()

    def start(self, *steps: Step, place: Path | None = None) -> None:
        """Run `steps` one after the other; the first failure or a cancel ends them all.

        Those that write results have them, and the folder `place`, to themselves: see `exclusive`.
        """
        if self.running:
            raise RuntimeError("a job is running already")
        self._cancel = Cancel()
        self.current = steps[0]
        self._thread = threading.Thread(
            target=_listen,
            args=(steps, self._queue, self._cancel, place, self.stay_awake),
            name="job",
            daemon=True,
        )
        self._thread.start()
        self._timer.start()
        self.started.emit(steps[0].name)

    def pause(self) -> None:
        if self.running and not self._cancel.cancelled:
            self._cancel.pause()
            self.paused_changed.emit(True)

    def resume(self) -> None:
        self._cancel.resume()
        self.paused_changed.emit(False)

    def cancel(self) -> None:
        self._cancel.cancel()

    @property
    def cancelling(self) -> bool:
        return self.running and self._cancel.cancelled

    def close(self) -> None:
        """End the job, its thread and its child for good, within two seconds; nothing is emitted any more."""
        self._timer.stop()
        if self._thread:
            self._cancel.cancel()
            self._thread.join(CLOSE_S)
        self._queue.clear()

    def _drain(self) -> None:
        until = time.monotonic() + DRAIN_BUDGET_S
        any_event = bool(self._queue)
        while self._queue and time.monotonic() < until:
            step, event = self._queue.popleft()
            self._deliver(step, event)
        if any_event:
            self.delivered.emit()

    def _deliver(self, step: Step, event: Event | _Outcome | None) -> None:
        if event is None:
            self.current = step
            self.step_started.emit(step)
        elif isinstance(event, _Outcome):
            self._end(step, event.how)
        elif isinstance(event, Progress):
            self.progress.emit(event)
        elif isinstance(event, Scored):
            self.scored.emit(event.entry)
        elif isinstance(event, Measured):
            self.measured.emit(event.row)
        elif isinstance(event, Repaired):
            self.repaired.emit(event)
        elif isinstance(event, Exported):
            self.exported.emit(event)
        elif isinstance(event, Weights):
            self.weights.emit(event.weights)
        elif isinstance(event, Note):
            self.note.emit(event)
        elif isinstance(event, Memory):
            self.memory.emit(event)
        elif isinstance(event, Finished):
            self.step_finished.emit(step, event)
        elif isinstance(event, Failed):
            self.failed.emit(step, event)

    def _end(self, step: Step, how: str) -> None:
        assert self._thread is not None
        self._thread.join()
        self._thread, self.current = None, None
        self._timer.stop()
        self._cancel.resume()
        if how == "cancelled":
            self.cancelled.emit(step)
        self.ended.emit(how)


def _listen(
    steps: Sequence[Step],
    queue: "deque[tuple[Step, Event | _Outcome | None]]",
    cancel: Cancel,
    place: Path | None,
    stay_awake: bool,
) -> None:
    step = steps[0]
    results = {path for each in steps for path in each.job.writes()}
    try:
        # Jobs read what others write beside their results, so they have the folder to themselves.
        with (
            exclusive(results | ({place} if place and results else set())),
            awake([each.job for each in steps], wanted=stay_awake),
        ):
            queue.extend((step, note) for note in battery_notes(each.job for each in steps))
            for step in steps:
                queue.append((step, None))
                for event in Child(step.job, label=step.label).events(cancel):
                    queue.append((step, event))
        queue.append((step, _Outcome("finished")))
    except Cancelled:
        queue.append((step, _Outcome("cancelled")))
    except KLLensError as error:
        details = "\n".join(getattr(error, "__notes__", []))
        kind = error.kind if isinstance(error, ChildError) else type(error).__name__
        queue.append((step, Failed(error.what, error.why, error.next_step, kind, details)))
        queue.append((step, _Outcome("failed")))
    except OSError as error:
        queue.append(
            (
                step,
                Failed(
                    tr("The job could not start"),
                    _refused(error),
                    tr("Check that the work folder can be written to, close other programs, and try again"),
                ),
            )
        )
        queue.append((step, _Outcome("failed")))


def _refused(error: OSError) -> str:
    """Why the system refused, and which file or folder, if it is about one."""
    place = printable(str(error.filename)) if error.filename else ""
    return f"{place}: {reason(error)}" if place else reason(error)
