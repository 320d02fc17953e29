"""The computer stays awake while a job works: a laptop that sleeps after ten idle minutes ends no analysis.

Only the sleep for want of a user is held off; a closed lid, an empty battery and the power button do as they
are set, and the screen may go dark. By `wakepy`: SetThreadExecutionState on Windows, the desktop's own
service on Linux. Where there is no such service, nothing happens. On battery, Windows heeds such a wish for a
few minutes only, so a person is told to plug the computer in.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from kl_lens_desktop.process.battery import battery
from kl_lens_desktop.process.events import Note
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


def battery_notes(jobs: Iterable[Job[Any]]) -> Iterator[Note]:
    """What to tell a person who begins a long job on battery; nothing otherwise."""
    if not any(job.LONG for job in jobs):
        return
    found = battery()
    if found is not None and found.power_plugged is False:  # None where nobody says how it is fed
        words = "This computer runs on battery and may sleep before the job ends. Plug it in for long jobs."
        yield Note(words, "warning")
