"""Short waits, for a large file or the network, outside the window's thread; the answer comes back in it."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, Qt, Signal

from kl_lens_desktop.errors import KLLensError

CLOSE_S = 1.0


class Background(QObject):
    """Runs functions in threads of their own; anything but a `KLLensError` goes to the crash hook."""

    _answered = Signal(object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._threads: list[threading.Thread] = []
        self._answered.connect(self._call, Qt.ConnectionType.QueuedConnection)

    def run(
        self,
        function: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[KLLensError], None],
    ) -> None:
        """Call `function` in a thread, then `done` with its result or `failed` with its error in this one."""

        def work() -> None:
            try:
                result = function()
            except KLLensError as error:
                self._answer(failed, error)
            else:
                self._answer(done, result)

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, daemon=True, name="background")
        self._threads.append(thread)
        thread.start()

    def _answer(self, callback: Callable[[Any], None], value: object) -> None:
        """Hand over to the window's thread; nobody is left to hear of it where the window is gone."""
        with contextlib.suppress(RuntimeError):
            self._answered.emit(callback, value)

    def close(self) -> None:
        """Deliver nothing more, and wait a moment for what runs; the network may take longer and is left."""
        self._answered.disconnect()
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    def _call(self, callback: Callable[[Any], None], value: object) -> None:
        callback(value)
