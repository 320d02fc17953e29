"""The child's side: read one job, do it, write its events as JSON lines.

The parent writes one JSON line ``{"job": …, "given": …}`` and then, at any time, ``pause``, ``resume``,
``cancel`` or, to a job that takes orders, one as a JSON object. End of input means that the parent is gone;
the child then ends at once, so no orphan remains.
"""

import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from kl_lens_desktop.errors import Cancelled, KLLensError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Failed, to_line
from kl_lens_desktop.process.job import Job, perform

CANCELLED_EXIT = 130


def serve(read: Callable[[bytes], Job[Any]]) -> int:
    """Do the one job asked for on standard input; return 0 when done, 1 if it failed, 130 if cancelled.

    Parameters
    ----------
    read : callable
        The job of a line: `kl_lens_desktop.jobs.from_line`.
    """
    output = _claim_stdout()
    # Unbuffered: a daemon thread inside a buffered reader holds its lock and aborts the interpreter at its
    # end.
    requests = io.FileIO(sys.stdin.fileno(), closefd=False)
    line = requests.readline()
    cancel = Cancel()
    threading.Thread(target=_obey, args=(requests, cancel), daemon=True, name="parent").start()
    name = "The job"
    try:
        job = read(line)
        name = job.NAME
        for event in perform(job, cancel):
            _write(output, event)
    except Cancelled:
        return CANCELLED_EXIT
    except KLLensError as error:
        _write(
            output,
            Failed(error.what, error.why, error.next_step, type(error).__name__, traceback.format_exc()),
        )
        return 1
    except MemoryError:
        _write(
            output,
            Failed(
                "Not enough memory",
                "the computer has no memory left",
                "Close other programs",
                "MemoryError",
                traceback.format_exc(),
            ),
        )
        return 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  (the last frame: the parent must hear it, Rust's panics too)
        _write(
            output,
            Failed(
                f"{name} failed",
                f"{type(error).__name__}: {error}",
                "See the log",
                type(error).__name__,
                traceback.format_exc(),
            ),
        )
        return 1
    return 0


def _claim_stdout() -> TextIO:
    """Keep the real standard output for events; whatever libraries print goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(kept, "w", encoding="utf-8", newline="\n")


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
    os._exit(CANCELLED_EXIT)
