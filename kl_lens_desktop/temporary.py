"""What is only there for a while: named after the process that owns it, and gone when that process is.

A file or folder that is being written has a name that ends in ``PID-START-RANDOM.partial`` and lies beside
its target; other temporary folders are called ``kl-lens-PID-START-RANDOM`` and lie in the system's temporary
folder. START is when the process began, since numbers of processes are used again.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import psutil

_PARTIAL = re.compile(r"\..+\.(\d+)-(\d+)-[0-9a-f]{8}\.partial")
_FOLDER = re.compile(r"kl-lens-(\d+)-(\d+)-\w+")
# The system may step its clock, and on Linux the time at which a process began is told by that clock.
_SAME_START_S = 120
_ATTEMPTS = 20

_held: set[Path] = set()  # what this process would leave behind if it ended now
_placing = threading.Lock()


@contextlib.contextmanager
def partial_of(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to; whatever still has it when the block ends is removed."""
    with _holding(target.with_name(f".{target.name}.{owner()}-{uuid4().hex[:8]}.partial")) as path:
        yield path


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder in the system's temporary folder, removed when the block ends."""
    with _holding(Path(tempfile.mkdtemp(prefix=f"kl-lens-{owner()}-"))) as path:
        yield path


@contextlib.contextmanager
def placing() -> Iterator[None]:
    """Around the renaming of a partial file or folder: `leave` waits for it, and none is renamed after."""
    with _placing:
        yield


def leave(status: int) -> NoReturn:
    """End this process now, whatever its other threads do, and leave nothing temporary of it behind."""
    _placing.acquire()  # and never released: nothing that is half removed may take its place
    for _ in range(_ATTEMPTS):  # another thread may be writing into a folder while it is removed
        if not [path for path in tuple(_held) if not _removed(path)]:
            break
    os._exit(status)


def sweep() -> None:
    """Remove the temporary folders of dead processes of ours."""
    _sweep(Path(tempfile.gettempdir()), _FOLDER)


def sweep_partials(folder: Path) -> None:
    """Remove from `folder` what dead processes of ours did not write to the end."""
    _sweep(folder, _PARTIAL)


def _sweep(folder: Path, names: re.Pattern[str]) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = names.fullmatch(entry.name)
            if named and not is_alive(int(named[1]), int(named[2])):
                _removed(Path(entry.path))


@contextlib.contextmanager
def _holding(path: Path) -> Iterator[Path]:
    _held.add(path)
    try:
        yield path
    finally:
        _removed(path)
        _held.discard(path)


def _removed(path: Path) -> bool:
    """Remove a file or folder; whether nothing has its name now."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # still held by a dying process; the next sweep gets it
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


@cache
def _started(pid: int) -> int:
    return int(psutil.Process(pid).create_time())


def owner() -> str:
    """This process as names say it: its number and when it began."""
    return f"{os.getpid()}-{_started(os.getpid())}"


def is_alive(pid: int, start: int) -> bool:
    """Whether the process of that number which began then still runs."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(abs(process.create_time() - start) < _SAME_START_S)
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True
