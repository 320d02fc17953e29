"""huggingface_hub's connections, with time limits that it lacks, and waits that a person can leave."""

import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx2
from huggingface_hub import is_offline_mode, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled

from kl_lens_desktop.process.cancel import Cancel

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_POLL_S = 0.05
_LEAVE_S = 0.3
T = TypeVar("T")
_open: list[Any] = []  # httpcore's streams of the client, by which a read that blocks can be made to fail


def timeout() -> httpx2.Timeout:
    """How long to wait for a connection and between two pieces of an answer."""
    return httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)


def shut() -> None:
    """Make everything that waits on a connection of this process fail now."""
    for stream in tuple(_open):
        with contextlib.suppress(OSError):  # closed already
            # The plain socket's method: the TLS layer's own would disturb the reading thread.
            socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


def answer(question: Callable[[], T], cancel: Cancel) -> T:
    """What `question` returns or raises, asked in a thread of its own that a cancel leaves within a second.

    A thread that sits in ``connect`` or ``recv`` cannot be told anything; the one that waits for it can.
    """
    future: Future[T] = Future()

    def ask() -> None:
        try:
            future.set_result(question())
        except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
            future.set_exception(error)

    thread = threading.Thread(target=ask, daemon=True, name="network")
    thread.start()
    try:
        while not future.done():
            cancel.check()
            thread.join(_POLL_S)
    finally:
        leave([thread])
    return future.result()


def leave(threads: list[threading.Thread]) -> None:
    """End threads that use the network; one that looks up a name or connects ends by its own time limit."""
    if any(thread.is_alive() for thread in threads):
        shut()
        for thread in threads:
            thread.join(_LEAVE_S)


def _client() -> httpx2.Client:
    """As huggingface_hub's own, which sets no time limit and cannot be interrupted."""
    _open.clear()
    hooks: list[Callable[..., Any]] = [_refuse_offline, _watch]
    return httpx2.Client(follow_redirects=True, timeout=timeout(), event_hooks={"request": hooks})


def _refuse_offline(request: httpx2.Request) -> None:
    if is_offline_mode():
        raise OfflineModeIsEnabled(f"Cannot reach {request.url}")


def _watch(request: httpx2.Request) -> None:
    request.extensions["trace"] = _trace
    limits = request.extensions.get("timeout") or {}
    if limits.get("read") is None:  # huggingface_hub asks some questions with an explicit "no limit"
        request.extensions["timeout"] = timeout().as_dict()


def _trace(name: str, info: dict[str, Any]) -> None:
    if name.endswith(("connect_tcp.complete", "start_tls.complete")):
        _open[:] = [stream for stream in _open if stream.get_extra_info("socket").fileno() >= 0]
        _open.append(info["return_value"])


set_client_factory(_client)
