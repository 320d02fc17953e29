"""Cancel, pause and orders: what a stage hears from outside between two steps that cannot be divided."""

import queue
import threading
from typing import Any

from kl_lens_desktop.errors import Cancelled


class Cancel:
    """Requests to stop, to pause or to do one more thing, shared by the thread that works and another."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._at_once = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._orders: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def cancel(self) -> None:
        self._stop.set()
        self._go.set()
        self._orders.put(None)

    def cancel_at_once(self) -> None:
        """Cancel, and give nothing the time to end well."""
        self._at_once.set()
        self.cancel()

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    def rest(self, seconds: float) -> None:
        """Sleep, but not through a cancel."""
        self._stop.wait(seconds)
        self.check()

    def order(self, what: dict[str, Any]) -> None:
        self._orders.put(what)

    def next_order(self) -> dict[str, Any]:
        """Wait for an order, idle; raise `Cancelled` once cancelled."""
        what = self._orders.get()
        self.check()
        assert what is not None  # only a cancel leaves one
        return what

    @property
    def has_order(self) -> bool:
        """Whether an order waits, or a cancel."""
        return not self._orders.empty()

    @property
    def cancelled(self) -> bool:
        return self._stop.is_set()

    @property
    def at_once(self) -> bool:
        return self._at_once.is_set()

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def check(self) -> None:
        """Wait while paused; raise `Cancelled` once cancelled."""
        if (
            not self._go.is_set()
        ):  # a signal's handler may cancel at any point of this thread, but not in a wait
            self._go.wait()
        if self._stop.is_set():
            raise Cancelled
