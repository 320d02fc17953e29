"""Memory that ran out: how libraries and systems say so, and how a person is told."""

import errno
import sys
from typing import Any

from kl_lens_desktop.errors import ChildError, KLLensError
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.quantities import size

_SIGNS = (
    "MemoryError",  # Python, where it cannot even be raised, in the last words of a process
    "bad_alloc",  # C++
    "can't alloc",  # OpenVINO and torch, whose sentence goes on
    "Failed to allocate",  # OpenVINO
    "not enough memory",  # torch on Windows
    "CUDA out of memory",
    "Unable to allocate",  # NumPy
    "memory allocation of",  # Rust, as it aborts
    "Memory allocation still failed",  # OpenBLAS
    "Cannot allocate memory",
    "failed to map segment",  # a library that does not fit
    "can't start new thread",
    "without exception set",  # Python, of an extension that found no room for the exception
    "without setting an exception",
    "Thread creation failed",  # OpenMP of GCC
    "system unable to allocate necessary resources",  # and of LLVM
)
_NO_PAGING_FILE = 1455  # Windows: the paging file is too small, as when torch's libraries are loaded
# How a process ends that the system ends for want of memory: SIGKILL of Linux, and Windows' STATUS_NO_MEMORY
# and STATUS_COMMITMENT_LIMIT.
_ENDED_BY_SYSTEM = (-9, 0xC0000017, 0xC000012D)
# How one ends that crashed in native code: SIGABRT, SIGBUS and SIGSEGV; abort() on Windows, its access
# violation, corrupt heap and failed fast check. Libraries that do not look whether they got memory end so.
_CRASHED = (-6, -7, -10, -11, 3, 0xC0000005, 0xC0000374, 0xC0000409)


def private_bytes(info: Any) -> int:
    """Of psutil's figures of a process, what the system cannot drop: without the pages of mapped files."""
    return int(info.private if sys.platform == "win32" else info.rss - getattr(info, "shared", 0))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that there is no memory left."""
    while error is not None:
        if isinstance(error, MemoryError) or _is_of_system(error):
            return True
        if not isinstance(error, KLLensError) and says_out_of_memory(str(error)):
            return True
        error = error.__cause__
    return False


def _is_of_system(error: BaseException) -> bool:
    if not isinstance(error, OSError):
        return False
    return error.errno == errno.ENOMEM or getattr(error, "winerror", None) == _NO_PAGING_FILE


def says_out_of_memory(words: str) -> bool:
    """Whether the last words of a process say so."""
    return any(sign in words for sign in _SIGNS)


def ended_by_system(status: int) -> bool:
    """Whether an exit status is that of a process which the system ended, most likely for want of memory."""
    return status in _ENDED_BY_SYSTEM


def crashed(status: int) -> bool:
    """Whether an exit status is that of a process whose native code crashed, as it may for want of memory."""
    return status in _CRASHED


def out_of_memory(job: Job[Any], free: float) -> ChildError:
    """The error that says so; `free` bytes of memory were when the job began."""
    kept = job.KEEPS and f"{job.KEEPS}. "
    return ChildError(f"Not enough memory for {job.NAME}", memory_words(job, free), kept + job.SAVES_MEMORY)


def memory_words(job: Job[Any], free: float) -> str:
    """What a job takes, as far as it can be told, and what there was."""
    needed = (job.memory_mb() or 0) * 2**20
    if not needed:
        return f"{size(free)} of memory was free when it began"
    if needed < free:
        return f"it takes about {size(needed)}, and the system gave it less"
    return f"it takes about {size(needed)}, and {size(free)} of memory was free when it began"
