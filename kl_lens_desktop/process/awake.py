"""The computer stays awake while a job works: a laptop that sleeps after ten idle minutes ends no analysis.

Only the sleep for want of a user is held off; a closed lid, an empty battery and the power button do as they
are set, and the screen may go dark. By `wakepy`: SetThreadExecutionState on Windows, the desktop's own
service on Linux. Where there is no such service, nothing happens.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from kl_lens_desktop.process.job import Job


@contextlib.contextmanager
def awake(jobs: Iterable[Job[Any]], *, wanted: bool = True) -> Iterator[bool]:
    """Hold off sleep for the length of the block, if one of the jobs is a long one.

    Yields
    ------
    bool
        Whether that succeeded.
    """
    if not (wanted and any(job.LONG for job in jobs)):
        yield False
        return
    from wakepy import keep

    with keep.running(on_fail="pass") as mode:
        yield bool(mode.active)
