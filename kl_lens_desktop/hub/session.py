"""huggingface_hub's connections, with time limits that it lacks, and waits that a person can leave."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from kl_lens_desktop.process.cancel import Cancel

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
POLL_S = 0.1
_LEAVE_S = 0.3
T = TypeVar("T")
_open: list[Any] = []  # httpcore's streams of the client, by which a read that blocks can be made to fail


def timeout() -> httpx2.Timeout:
    """How long to wait for a connection and between two pieces of an answer."""
    return httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)


def answer(question: Callable[[], T], cancel: Cancel) -> T:
    """What `question` returns or raises, asked in a thread that a cancel leaves within a second."""
    answers: list[T] = []
    for _ in running([lambda: answers.append(question())], cancel, threading.Event()):
        pass
    return answers[0]


def running(work: list[Callable[[], None]], cancel: Cancel, stop: threading.Event) -> Iterator[None]:
    """Do all of `work` in threads, and yield now and then until it is done; the first error is raised.

    `stop` tells the threads that nobody waits for them any more. One that sits in ``recv`` cannot be told, so
    its connection is shut; one that looks up a name or connects ends by its own time limit.
    """
    futures = [Future[None]() for _ in work]
    threads = [
        threading.Thread(target=_do, args=pair, daemon=True, name="network")
        for pair in zip(work, futures, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        left = set(futures)
        while left:
            cancel.check()
            done, left = wait(futures, POLL_S, FIRST_EXCEPTION)
            for future in done:
                future.result()
            yield
    finally:
        stop.set()
        if any(thread.is_alive() for thread in threads):
            _shut()
            for thread in threads:
                thread.join(_LEAVE_S)


def _do(work: Callable[[], None], future: "Future[None]") -> None:
    try:
        work()
        future.set_result(None)
    except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
        future.set_exception(error)


def _shut() -> None:
    """Make everything that waits on a connection of this process fail now."""
    for stream in tuple(_open):
        with contextlib.suppress(OSError):  # closed already
            # The plain socket's method: the TLS layer's own would disturb the reading thread.
            socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


def _client() -> httpx2.Client:
    """huggingface_hub's own, which sets no time limit and cannot be interrupted."""
    _open.clear()
    client = default_client_factory()
    client.event_hooks = {"request": [*client.event_hooks["request"], _watch]}
    return client


def _watch(request: httpx2.Request) -> None:
    request.extensions["trace"] = _trace
    limits = request.extensions.get("timeout") or {}
    if limits.get("read") is None:  # huggingface_hub asks without a limit
        request.extensions["timeout"] = timeout().as_dict()


def _trace(name: str, info: dict[str, Any]) -> None:
    if name.endswith(("connect_tcp.complete", "start_tls.complete")):
        _open[:] = [stream for stream in _open if stream.get_extra_info("socket").fileno() >= 0]
        _open.append(info["return_value"])


set_client_factory(_client)
