"""The signals by which a system or a person asks a program to end: each where the system has it."""

import _thread
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# A console on Windows that is closed, and the system when it shuts down, send SIGBREAK.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
STOPPING = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
_AGAIN_S = 0.05


class Stopped(BaseException):
    """A signal asked this program to end; `status` is the exit status that says which one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.status = number, 128 + number


def stop_when_asked() -> None:
    """Raise `Stopped` wherever the program is when a signal comes; a second one ends it without an answer.

    Where Python ignores exceptions, as in a finalizer or when the lock of a module is let go, it is raised
    again a moment later.
    """
    sys.unraisablehook = _not_lost
    answer(_stop)


def _stop(number: int) -> None:
    default()
    raise Stopped(number)


def _not_lost(lost: "UnraisableHookArgs") -> None:
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
        return
    from threading import Timer  # not before signals are answered

    answer(_stop)
    again = Timer(_AGAIN_S, _thread.interrupt_main, (lost.exc_value.number,))
    again.daemon = True
    again.start()


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
