"""A worker whose job holds temporary files and then does what the environment's ``STUCK`` says."""

import contextlib
import ctypes
import errno
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from kl_lens_desktop.files import behind_links
from kl_lens_desktop.jobs import from_line
from kl_lens_desktop.process import signals
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.process.record import paths
from kl_lens_desktop.process.worker import serve
from kl_lens_desktop.temporary import partial_of, temporary_folder

WORKER = [sys.executable, "-m", "tests.stuck_worker"]


def read(line: bytes) -> Job[Any]:
    """The job that was asked for, but for what it does."""
    job = from_line(line)
    stuck = type("Stuck", (type(job),), {"check": lambda _: None, "run": run})
    return stuck.from_json(job.as_json())


def run(job: Job[Any], cancel: Cancel) -> Iterator[Event]:
    """Say by an event that files are held, and then hear nothing."""
    with contextlib.ExitStack() as held:
        folders = [held.enter_context(temporary_folder())]
        folders += [held.enter_context(partial_of(behind_links(path))) for path in paths(job)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "half").write_bytes(b"half")
        yield Progress("stuck", 0, 1, f"pid {os.getpid()}")
        if os.environ["STUCK"] == "slow":
            yield from (Progress("stuck", done, 3) for done in range(1, 4))
            return
        {"hang": hang, "sleep": sleep, "memory": memory, "killed": killed, "crash": crash, "full": full}[
            os.environ["STUCK"]
        ]()
        cancel.check()


def hang() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # for centuries, and holding Python's lock


def sleep() -> None:
    """As native code that lets other threads run."""
    time.sleep(3600)


def memory() -> None:
    bytearray(2**62)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    """Read where nothing is, as a library that did not look whether it got memory."""
    ctypes.string_at(0)


if __name__ == "__main__":
    signals.ignore()
    sys.exit(serve(read))
