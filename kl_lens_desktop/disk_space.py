"""Room on disks: asked for before anything large is written, and said in words when it ran out after all."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.quantities import size

SPARE_BYTES = 64 * 2**20  # left free beside what is written, for small files and everybody else
FREE_SOME = "Free some space, or choose a folder on another disk"
FREE_TEMPORARY = "Free some space, or set TEMP (on Linux, TMPDIR) to a folder on another disk"
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FULL_WORDS = ("No space left", "os error 28", "os error 112")  # of libraries in Rust
_STREAM_ERROR = "iostream error"  # OpenVINO writes through C++ streams, which know no reason
_ALMOST_FULL_BYTES = 16 * 2**20


@contextlib.contextmanager
def room_for(what: str, needed: int, folder: Path, advice: str = FREE_SOME) -> Iterator[None]:
    """Write `what`, of about `needed` bytes, into `folder` in the block.

    Raises
    ------
    InputError
        As `check_room` does, before the block; or if the disk becomes full in it.
    """
    check_room(what, needed, folder, advice)
    free = free_bytes(folder)
    try:
        yield
    except Exception as error:
        if not (why := _failed_write(error, folder)):
            raise
        were = f"about {size(needed)} were needed, and {size(free)} were free at the start"
        raise InputError(f"Cannot write {what}", f"{why}; {were}", advice) from error


def check_room(what: str, needed: int, folder: Path, advice: str = FREE_SOME) -> None:
    """Raise `InputError` if `folder` has no room for `needed` bytes and a little more."""
    free = free_bytes(folder)
    if needed + SPARE_BYTES > free:
        raise InputError(
            f"Not enough disk space for {what}",
            f"it needs about {size(needed + SPARE_BYTES)}, and {size(free)} are free in {folder}",
            advice,
        )


def free_bytes(folder: Path) -> int:
    """Free on the disk of `folder`, which need not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that a disk is full."""
    return any(
        (isinstance(each, OSError) and each.errno in _FULL) or any(sign in str(each) for sign in _FULL_WORDS)
        for each in _causes(error)
    )


def _failed_write(error: BaseException, folder: Path) -> str:
    """Why writing failed, in words; empty if the error is of another kind."""
    stream = any(_STREAM_ERROR in str(each) for each in _causes(error))
    if is_disk_full(error) or (stream and free_bytes(folder) < _ALMOST_FULL_BYTES):
        return f"the disk of {folder} is full"
    return f"the system refused to write into {folder}" if stream else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
