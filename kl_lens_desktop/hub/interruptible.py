"""Blocking network calls that the one who waits for them can leave at any moment."""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import httpx

from kl_lens_desktop.process.cancel import Cancel

T = TypeVar("T")
_POLL_S = 0.1
_AHEAD = 8  # items fetched ahead of the one who takes them; more would only use memory


class OpenSockets:
    """The sockets of a client, so that reads that block on them can be made to fail from another thread."""

    def __init__(self, client: httpx.Client) -> None:
        self._streams: list[Any] = []
        client.event_hooks = {"request": [lambda request: request.extensions.update(trace=self._trace)]}

    def shut(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(OSError):  # closed long ago
                # The plain socket's method: the TLS layer's own would disturb the reading thread.
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(info["return_value"])


class _End:
    pass


class _Raised:
    def __init__(self, error: Exception) -> None:
        self.error = error


def interruptible(
    source: Callable[[], Generator[T]], cancel: Cancel, unblock: Callable[[], None]
) -> Generator[T]:
    """Yield the items of a generator that blocks, produced in a thread of its own.

    A thread that sits in ``connect`` or ``recv`` cannot be told anything; the one that waits for it can. On
    cancel the waiting side leaves at once, calls `unblock`, and the other thread ends when its call returns.

    Parameters
    ----------
    source : callable
        Gives the generator; it is made, advanced and closed in the thread, and what it raises is raised here.
    cancel : Cancel
        Looked at ten times a second; while it is paused no more than a few items are fetched.
    unblock : callable
        Makes a blocked call in `source` fail, for example by shutting its socket down.

    Raises
    ------
    Cancelled
        Within a fraction of a second of `cancel.cancel()`.
    """
    items: queue.Queue[T | _End | _Raised] = queue.Queue(_AHEAD)
    left = threading.Event()

    def put(item: T | _End | _Raised) -> bool:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=_POLL_S)
                return True
        return False

    def run() -> None:
        try:
            with contextlib.closing(source()) as produced:
                for item in produced:
                    if not put(item):
                        return
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for, whatever it is)
            put(_Raised(error))
        else:
            put(_End())

    thread = threading.Thread(target=run, daemon=True, name="network")
    thread.start()
    ended = False
    try:
        while True:
            cancel.check()
            try:
                item = items.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            ended = isinstance(item, _End | _Raised)
            if isinstance(item, _Raised):
                raise item.error
            if isinstance(item, _End):
                return
            yield item
    finally:
        left.set()
        if not ended:
            unblock()
        thread.join(
            timeout=0.3
        )  # a name look-up or a connect cannot be cut short; it ends by its own time limit
