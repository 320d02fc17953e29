"""The child's side: read one job, do it, write its events as JSON lines.

The parent writes one JSON line ``{"job": …, "given": …}`` and then, at any time, ``pause``, ``resume``,
``cancel`` or, to a job that takes orders, one as a JSON object. End of input means that the parent is gone;
the child then ends within a second, so no orphan remains, and removes what is temporary of it.
"""

import io
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import psutil

from kl_lens_desktop import temporary
from kl_lens_desktop.disk_space import FREE_SOME, is_disk_full
from kl_lens_desktop.errors import Cancelled, KLLensError, is_fault
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Failed, to_line
from kl_lens_desktop.process.job import Job, perform
from kl_lens_desktop.process.memory import is_out_of_memory, out_of_memory

CANCELLED_EXIT = 130
_GRACE_S = 0.5  # for a child without a parent to end well


def serve(read: Callable[[bytes], Job[Any]]) -> int:
    """Do the one job asked for on standard input; return 0 when done, 1 if it failed.

    Cancelled, the process ends here with 130: libraries take seconds to unload.

    Parameters
    ----------
    read : callable
        The job of a line: `kl_lens_desktop.jobs.from_line`.
    """
    free = psutil.virtual_memory().available
    output, requests = _claim_stdout(), _claim_stdin()
    line = requests.readline()
    cancel = Cancel()
    threading.Thread(target=_obey, args=(requests, cancel), daemon=True, name="parent").start()
    job: Job[Any] | None = None
    try:
        job = read(line)
        temporary.sweep()
        for folder in job.places():
            temporary.sweep_partials(folder)
        for event in perform(job, cancel):
            _write(output, event)
    except Cancelled:
        temporary.leave(CANCELLED_EXIT)
    except BaseException as error:
        if not is_fault(error):
            raise
        _write(output, _failed(job, error, free))
        return 1
    return 0


def _failed(job: Job[Any] | None, error: BaseException, free: int) -> Failed:
    trace, name = traceback.format_exc(), job.NAME if job else "The job"
    if job and is_out_of_memory(error):
        said: KLLensError = out_of_memory(job, free)
    elif isinstance(error, KLLensError):
        said = error
    elif is_disk_full(error):
        said = KLLensError(f"{name} failed", f"a disk is full ({error})", FREE_SOME)
    else:
        advice = "See the log, or run the command again with --debug, and report it"
        said = KLLensError(f"{name} failed", f"{type(error).__name__}: {error}", advice)
    return Failed(said.what, said.why, said.next_step, type(error).__name__, trace)


def _claim_stdout() -> TextIO:
    """Keep the real standard output for events; whatever libraries print goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    _redirect(1, 2)
    sys.stdout = sys.stderr
    return os.fdopen(kept, "w", encoding="utf-8", newline="\n")


def _claim_stdin() -> io.FileIO:
    """Keep the real standard input for the parent's lines; whatever libraries read is empty.

    On Windows, a library that asks what standard input is waits for whoever reads it, so `import numpy` would
    never end while a thread waits for the parent (numpy issue 24290).

    It is unbuffered: a daemon thread inside a buffered reader holds its lock and aborts the interpreter at
    its end.
    """
    kept, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    _redirect(0, nothing)
    os.close(nothing)
    return io.FileIO(kept, closefd=False)


def _redirect(number: int, to: int) -> None:
    """Make the standard stream of that number (0, 1) another file, for every library in this process."""
    os.dup2(to, number)
    if sys.platform == "win32":  # for those with a C runtime of their own
        import ctypes
        import msvcrt

        handle = ctypes.c_void_p(msvcrt.get_osfhandle(number))
        ctypes.windll.kernel32.SetStdHandle(ctypes.c_ulong(2**32 - 10 - number), handle)


def _write(output: TextIO, event: Event) -> None:
    output.write(to_line(event) + "\n")
    output.flush()


def _obey(requests: io.FileIO, cancel: Cancel) -> None:
    actions = {b"cancel": cancel.cancel, b"pause": cancel.pause, b"resume": cancel.resume}
    while line := requests.readline():
        if line.startswith(b"{"):
            cancel.order(json.loads(line))
        elif action := actions.get(line.strip()):
            action()
    cancel.cancel()
    time.sleep(_GRACE_S)
    temporary.leave(CANCELLED_EXIT)
