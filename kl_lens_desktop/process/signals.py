"""The signals by which a system or a person asks a program to end: each where the system has it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A console on Windows that is closed, and the system when it shuts down, send SIGBREAK.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
STOPPING = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


class Stopped(BaseException):
    """A signal asked this program to end; `status` is the exit status that says which one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def stop(number: int) -> None:
    """Raise `Stopped` where the program is now; the next signal ends it as if nobody answered."""
    default()
    raise Stopped(number)


def default() -> None:
    """Answer no signal any more."""
    _set(signal.SIG_DFL)


def ignore() -> None:
    """For a child: its parent hears the signals too, and tells it what to do."""
    _set(signal.SIG_IGN)


def answer(by: Callable[[int], None]) -> None:
    """Call `by` with each signal's number, in the main thread, from now on.

    A signal that was ignored stays so: programs started with ``nohup`` outlive their terminal.
    """
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda got, _: by(got))


@contextmanager
def answered(by: Callable[[int], None]) -> Iterator[None]:
    """`answer` for the length of the block."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    answer(by)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set(handler: signal.Handlers) -> None:
    for number in STOPPING:
        signal.signal(number, handler)
