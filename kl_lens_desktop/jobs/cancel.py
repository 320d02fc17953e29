"""Cancel and pause, checked by the stages between two steps that cannot be divided."""

import threading

from kl_lens_desktop.errors import Cancelled


class Cancel:
    """A request to stop or to pause, shared between the thread that works and the one that asks."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def cancel(self) -> None:
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    @property
    def cancelled(self) -> bool:
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def check(self) -> None:
        """Wait while paused; raise `Cancelled` once cancelled."""
        self._go.wait()
        if self._stop.is_set():
            raise Cancelled
