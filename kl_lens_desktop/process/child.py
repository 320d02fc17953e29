"""The parent's side: a job in a process of its own, that may crash, hang or be killed without harm to us."""

import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any
from uuid import uuid4

import psutil

from kl_lens_desktop import temporary
from kl_lens_desktop.errors import Cancelled, ChildError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Answer, Event, Failed, Finished, Memory, Note, Progress, from_line
from kl_lens_desktop.process.job import Job, to_line
from kl_lens_desktop.process.memory import (
    crashed,
    ended_by_system,
    memory_words,
    out_of_memory,
    private_bytes,
    says_out_of_memory,
)
from kl_lens_desktop.process.record import encode

GRACE_S = 0.5  # between asking a child to stop and ending it: cancel answers within a second
_POLL_S = 0.05
_LAST_WAIT_S = 1.0  # for a child's last words, and for its children that were ended
_STDERR_LINES = 40
_MARK = "KL_LENS_CHILD"  # in the environment of a child and of whatever it starts
_SAMPLE_S = 0.5  # between two `Memory` events


class Child:
    """One job in one child process.

    Parameters
    ----------
    job : Job
        What it is to do.
    time_limit_s : float, optional
        Seconds without progress after which the child is ended and `ChildError` raised; an order starts them
        anew, as `Progress` does.
    memory_limit_mb : float, optional
        Private memory in MB (see `memory.private_bytes`) above which the child is ended and `ChildError`
        raised.
    environment : dict of str, optional
        Environment variables set for the child besides ours.
    label : str, optional
        With it, `Memory` events under this name are among the child's, twice a second.

    Attributes
    ----------
    peak_rss_mb : float
        The largest resident set size sampled so far, in MB (2**20 bytes).
    """

    def __init__(
        self,
        job: Job[Any],
        *,
        time_limit_s: float | None = None,
        memory_limit_mb: float | None = None,
        environment: dict[str, str] | None = None,
        label: str = "",
    ) -> None:
        self.name, self.peak_rss_mb = job.NAME, 0.0
        self._job, self._free = job, psutil.virtual_memory().available
        self._label, self._mark, self._started = label, uuid4().hex, time.time()
        self._rss_mb, self._sampled = 0.0, time.monotonic()
        self._limit_s, self._limit_mb = time_limit_s, memory_limit_mb
        self._words: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._telling = threading.Lock()
        marks = f"{os.environ.get(_MARK, '')} {self._mark}"  # of children's children, too
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only: no console flashes up
        command, variables = worker_command()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            creationflags=flags,
            env={**os.environ, "PYTHONUTF8": "1", _MARK: marks, **variables, **(environment or {})},
        )
        self._pumps = [
            threading.Thread(target=pump, daemon=True, name=f"{job.NAME} {pump.__name__}")
            for pump in (self._pump_stdout, self._pump_stderr)
        ]
        for pump in self._pumps:
            pump.start()
        self._tell(to_line(job))
        self._deadline = self._new_deadline()
        self._running: Iterator[Event] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self, cancel: Cancel, order: object | None = None) -> Iterator[Event]:
        """Give an order (a record), if any, and yield events up to the `Answer`; the child then waits.

        It raises what `events` does, and `ChildError` if the child ended without an answer.
        """
        if self._running is None:
            self._running = self.events(cancel)
        if order is not None:
            self._deadline = self._new_deadline()
            self._tell(json.dumps(encode(order)))
        for event in self._running:
            yield event
            if isinstance(event, (Answer, Finished)):
                return
        raise ChildError(f"The {self.name} process ended early", "it gave no result", "Try again")

    def answered(
        self,
        cancel: Cancel,
        order: object | None = None,
        *,
        passing: type[Event] | tuple[type[Event], ...],
    ) -> Generator[Event, None, dict[str, Any]]:
        """What the child answers; on the way to it, only events of the kinds that are `passing` are yielded.

        It raises what `answer` does.
        """
        for event in self.answer(cancel, order):
            if isinstance(event, Answer):
                return event.result
            if isinstance(event, passing):
                yield event
        raise AssertionError("`answer` ends in an answer or raises")

    def order(self, order: object) -> None:
        """Give an order (a record) while the child is at another, and expect no answer; from any thread."""
        self._tell(json.dumps(encode(order)))

    def events(self, cancel: Cancel | None = None) -> Iterator[Event]:
        """Yield the child's events until it ends, passing on what `cancel` asks for.

        Raises
        ------
        Cancelled
            Within a second of `cancel.cancel()`.
        ChildError
            If the child failed, crashed, hung or passed a limit: with the last words of its standard error.
        """
        cancel = cancel or Cancel()
        end_by: float | None = None
        paused_since: float | None = None
        failed: Failed | None = None
        try:
            while True:
                if cancel.cancelled and end_by is None:
                    end_by = time.monotonic() + GRACE_S
                    self._tell("cancel")
                if end_by is not None and (cancel.at_once or time.monotonic() > end_by):
                    raise Cancelled
                now = time.monotonic()
                if cancel.paused and paused_since is None:
                    paused_since = now
                    self._tell("pause")
                elif not cancel.paused and paused_since is not None:
                    if self._deadline is not None:
                        self._deadline += now - paused_since
                    paused_since = None
                    self._tell("resume")
                self._enforce_limits(None if paused_since is not None else self._deadline)
                if self._label and now - self._sampled > _SAMPLE_S:
                    self._sampled = now
                    used = psutil.virtual_memory()
                    yield Memory(
                        self._label, self._rss_mb, self.peak_rss_mb, used.used / 2**20, used.total / 2**20
                    )
                try:
                    line = self._lines.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if line is None:
                    break
                event = self._parse(line)
                if isinstance(event, Progress):
                    self._deadline = self._new_deadline()
                if isinstance(event, Failed):
                    failed = event
                else:
                    yield event
            self._finish(cancel, failed)
        finally:
            self.close()

    def close(self) -> None:
        """End the child and everything it started, if any of it still runs."""
        if self._closed:
            return
        self._closed = True
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._end_descendants()
        temporary.sweep()
        for folder in self._job.places():
            temporary.sweep_partials(folder)
        pipes = (self._process.stdout, self._process.stderr)
        for pump, pipe in zip(self._pumps, pipes, strict=True):
            pump.join(timeout=2)
            # A process the child left behind may hold the other end; closing a pipe that is being read would
            # wait.
            if pipe and not pump.is_alive():
                pipe.close()
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()

    def _end_descendants(self) -> None:
        """What a dead process started belongs to nobody, and is known by the mark that it inherited."""
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                recent = process.create_time() >= self._started - 2
                if recent and self._mark in process.environ().get(_MARK, ""):
                    process.kill()
                    left.append(process)
        until = time.monotonic() + _LAST_WAIT_S
        while any(_runs(process) for process in left) and time.monotonic() < until:
            time.sleep(_POLL_S / 10)

    def _new_deadline(self) -> float | None:
        return None if self._limit_s is None else time.monotonic() + self._limit_s

    def _finish(self, cancel: Cancel, failed: Failed | None) -> None:
        if cancel.cancelled:
            raise Cancelled  # without waiting for its libraries to unload; `close` ends it
        status = self._process.wait()
        if failed:
            error = ChildError(failed.what, failed.why, failed.next_step)
            error.kind = failed.kind
            error.add_note(failed.traceback)
            raise error
        if status:
            raise self._ended_early(status)

    def _ended_early(self, status: int) -> ChildError:
        # Its last words may be on their way still, or never end where a process that it left holds the pipe.
        self._pumps[1].join(timeout=_LAST_WAIT_S)
        words = self._last_words(status)
        if says_out_of_memory(words):
            return out_of_memory(self._job, self._free)
        what, kept = f"The {self.name} process ended early", self._job.KEEPS and f"{self._job.KEEPS}. "
        if ended_by_system(status):
            why, advice = "the system ended it, as it does when memory runs out", self._job.SAVES_MEMORY
        elif crashed(status):
            why = f"a library crashed, as a lack of memory or a faulty driver can cause{self._last_output()}"
            advice = f"Try again. {self._job.SAVES_MEMORY}"
        else:
            advice = "Try again. If it happens again, choose a smaller model or another device"
            return ChildError(what, words, kept + advice)
        error = ChildError(what, f"{why}; {memory_words(self._job, self._free)}", kept + advice)
        error.add_note(words)
        return error

    def _enforce_limits(self, deadline: float | None) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise ChildError(
                f"The {self.name} process was stopped",
                f"it made no progress for {self._limit_s:g} s",
                "Try another device or a smaller model",
            )
        private_mb = 0.0
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = psutil.Process(self._process.pid).memory_info()
            self._rss_mb, private_mb = info.rss / 2**20, private_bytes(info) / 2**20
            self.peak_rss_mb = max(self.peak_rss_mb, self._rss_mb)
        if self._limit_mb is not None and private_mb > self._limit_mb:
            raise ChildError(
                f"The {self.name} process was stopped",
                f"it used more than {self._limit_mb:.0f} MB",
                "Try a smaller model or a smaller format",
            )

    def _parse(self, line: str) -> Event:
        try:
            return from_line(line)
        except ValueError:
            return Note(f"{self.name} wrote a line that is no event: {line[:200]!r}", "warning")

    def _last_words(self, status: int) -> str:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return how + self._last_output()

    def _last_output(self) -> str:
        """What it said last, as the end of a sentence; nothing where it said nothing."""
        fatal = [line for line in list(self._words)[:-3] if "error" in line.lower()]
        words = " / ".join([*fatal[-1:], *list(self._words)[-3:]])
        return f"; its last output was: {words}" if words else ""

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # The child may be gone already; its outcome says so.
        with self._telling, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _pump_stdout(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _pump_stderr(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):
            for line in self._process.stderr:
                if line.strip():
                    self._words.append(line.strip())


def _runs(process: psutil.Process) -> bool:
    """Whether it still has memory and files: what its new parent did not ask the outcome of has none."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def worker_command() -> tuple[list[str], dict[str, str]]:
    """How to start this program as a worker, from a checkout or frozen: the command, and variables for it.

    On Windows, the ``python.exe`` of a virtual environment starts another Python that does the work, of which
    nothing could be measured; so that one is started, as `multiprocessing` does.
    """
    if getattr(sys, "frozen", False):
        return [sys.executable, "worker"], {}
    python, variables = sys.executable, dict[str, str]()
    base = getattr(sys, "_base_executable", python)
    if sys.platform == "win32" and os.path.normcase(base) != os.path.normcase(python):
        python, variables = base, {"__PYVENV_LAUNCHER__": python}
    return [python, "-m", "kl_lens_desktop", "worker"], variables
