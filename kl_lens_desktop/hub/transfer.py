"""Files on their way into the cache, up to four at once, resumed and hashed as they arrive."""

import collections
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
from filelock import Timeout
from huggingface_hub import get_session, hf_raise_for_status
from huggingface_hub.utils import WeakFileLock

from kl_lens_desktop.errors import Cancelled, HubError
from kl_lens_desktop.hub import client as hub
from kl_lens_desktop.hub import session
from kl_lens_desktop.hub.client import HubFile, Repository
from kl_lens_desktop.hub.store import Snapshot, link_or_copy
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress

STAGE = "pull"
_AT_ONCE = 4
_ATTEMPTS = 6  # in a row that brought next to nothing
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_EVERY_S = 0.1
_PACE_OVER_S = 10.0
_PACE_AFTER_S = 0.5
_SILENT_AFTER_S = 3.0
_TRICKLE_S = 60.0  # a connection that brings less than _TRICKLE_BYTES in this time is given up
_TRICKLE_BYTES = 64 * 1024
_PIECE = 4 * 2**20


class Transfer:
    """Fetches files of one commit in threads; the one who iterates over `files` pauses and cancels them."""

    def __init__(self, of: Repository, snapshot: Snapshot, every: list[HubFile], cancel: Cancel) -> None:
        self._of, self._snapshot, self._cancel = of, snapshot, cancel
        self._what = f"Cannot pull {of.id}"
        self._total = sum(file.size for file in every)
        self._there = {file.name: bytes_there(snapshot, file) for file in every}
        self._received = dict.fromkeys(self._there, 0)
        self._doing: dict[str, str] = {}  # of each file in work, what it waits for; empty while it arrives
        self._left: collections.deque[HubFile] = collections.deque()
        self._notes: queue.SimpleQueue[Note] = queue.SimpleQueue()
        self._stop, self._changed = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._pace = _Pace()

    def files(self, missing: list[HubFile]) -> Iterator[Event]:
        """Fetch them; raises what `download.pull` does."""
        self._headers = hub.headers()
        self._left.extend(sorted(missing, key=lambda file: (file.size, file.name)))
        count = min(_AT_ONCE, len(missing))
        threads = [threading.Thread(target=self._work, daemon=True, name="network") for _ in range(count)]
        for thread in threads:
            thread.start()
        last = None
        try:
            while self._error is None and any(thread.is_alive() for thread in threads):
                self._cancel.check()
                yield from self._told()
                if (now := self._progress()) != last:
                    yield (last := now)
                self._changed.wait(_EVERY_S)
                self._changed.clear()
        finally:
            self._stop.set()
            session.leave(threads)
        yield from self._told()
        if self._error:
            raise self._error
        self._stop.clear()
        yield self._progress()

    def _told(self) -> Iterator[Note]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._notes.get_nowait()

    def _progress(self) -> Progress:
        done = sum(self._there.values())
        doing = dict(self._doing)
        arriving = [name for name, wait in doing.items() if not wait]
        per_s, silent_s = self._pace.at(sum(self._received.values()), waiting=not arriving)
        eta_s = (self._total - done) / per_s if per_s else None
        first = next(iter(arriving or doing), "")
        words = f"{doing.get(first, '')} {first}".strip()
        if len(doing) > 1:
            words += f" and {len(doing) - 1} more"
        if silent_s >= _SILENT_AFTER_S:
            words += f", no data for {silent_s:.0f} s"
        return Progress(STAGE, done, self._total, words, "bytes", eta_s, per_s)

    def _work(self) -> None:
        try:
            while self._left:
                with contextlib.suppress(IndexError):  # another thread was quicker
                    self._fetch(self._left.popleft())
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again where the files are waited for)
            self._error = self._error or error
        self._changed.set()

    def _fetch(self, file: HubFile) -> None:
        """Bring one file into the snapshot, from wherever it can be had without asking for its bytes."""
        snapshot = self._snapshot
        try:
            with self._alone(file):
                blob = snapshot.blob(file.etag)
                if snapshot.has(file.name, file.size):
                    pass  # another program has fetched it meanwhile
                elif blob.is_file() and blob.stat().st_size == file.size:
                    snapshot.place(file.name, file.etag, new=False)
                else:
                    if not self._copied(file):
                        self._download(file)
                    snapshot.place(file.name, file.etag, new=True)
        finally:
            self._doing.pop(file.name, None)
        self._there[file.name] = file.size

    @contextlib.contextmanager
    def _alone(self, file: HubFile) -> Iterator[None]:
        """Hold the lock that huggingface_hub takes for a file; whoever has it now is waited for."""
        lock = self._snapshot.lock(file.etag)
        lock.parent.mkdir(parents=True, exist_ok=True)
        self._snapshot.blob(file.etag).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(WeakFileLock(lock, timeout=_EVERY_S))
                    break
                except Timeout:
                    self._doing[file.name] = "waiting for another program that downloads"
                    self._check()
            self._doing[file.name] = ""
            yield

    def _copied(self, file: HubFile) -> bool:
        """Take the file from another commit, if one has the same content."""
        for path in self._snapshot.elsewhere(file.name, file.size):
            digest = file.new_digest()
            with path.open("rb") as disk:
                while piece := disk.read(_PIECE):
                    self._check()
                    digest.update(piece)
            if digest.hexdigest() == file.etag:
                link_or_copy(path, self._snapshot.blob(file.etag), self._check)
                return True
        return False

    def _download(self, file: HubFile) -> None:
        """Fetch a file, and once more if its hash is wrong; only then does it become a blob."""
        partial = self._snapshot.partial(file.etag)
        for last in (False, True):
            self._doing[file.name] = "checking"
            with contextlib.closing(_Partial(partial, file, self._check)) as part:
                self._complete(file, part)
                right = part.digest.hexdigest() == file.etag
            if right:
                os.replace(partial, self._snapshot.blob(file.etag))
                return
            partial.unlink()
            if last:
                step = "Try again later, or without HF_ENDPOINT"
                raise HubError(self._what, f"{file.name} arrived with a wrong hash twice", step)
            self._notes.put(Note(f"{file.name} arrived with a wrong hash; downloading it again", "warning"))

    def _complete(self, file: HubFile, part: "_Partial") -> None:
        """Fetch what `part` lacks, over as many connections as it takes."""
        failures = furthest = 0
        while part.size < file.size:
            pause = None
            try:
                self._receive(file, part)
                error = HubError(self._what, "the connection ended early", "Pull again to resume")
            except httpx2.RequestError as broken:
                error = hub.unreachable(broken, self._what)
            except hub.PassingError as busy:
                error, pause = busy, busy.retry_after_s
            self._check()
            if part.size >= file.size:
                return
            failures = 1 if part.size - furthest >= _TRICKLE_BYTES else failures + 1
            furthest = max(furthest, part.size)
            delay = delay_s(error, failures, pause)
            again = f"{file.name}: {error.why}; resuming at byte {part.size:,} in {delay:.1f} s"
            self._notes.put(Note(again, "warning"))
            self._changed.set()
            self._doing[file.name] = "asking again for"
            self._wait(delay)

    def _receive(self, file: HubFile, part: "_Partial") -> None:
        """Append the bytes of one connection, from the start if the server does not resume."""
        headers = {**self._headers, **({"Range": f"bytes={part.size}-"} if part.size else {})}
        self._doing[file.name] = ""
        url, limit = hub.file_url(self._of, file.name), session.timeout()
        with get_session().stream("GET", url, headers=headers, timeout=limit) as response:
            if response.status_code == 416:  # it holds less than we do: begin again
                part.restart()
                return
            if response.is_error:
                with hub.worded(self._what, self._of.id, self._of.commit):
                    hf_raise_for_status(response)
            if response.status_code != 206:
                part.restart()
            elif not response.headers.get("content-range", "").startswith(f"bytes {part.size}-"):
                raise httpx2.RemoteProtocolError("the server sent the wrong part of the file")
            self._check_length(file, part.size, response)
            until, least = time.monotonic() + _TRICKLE_S, part.size + _TRICKLE_BYTES
            for piece in response.iter_raw():  # unbuffered: what arrived before a break counts
                self._check()
                part.write(piece[: file.size - part.size])
                self._there[file.name] = part.size
                self._received[file.name] += len(piece)
                if part.size >= file.size:
                    return
                if (now := time.monotonic()) > until:
                    if part.size < least:
                        raise httpx2.ReadTimeout("almost nothing arrives")
                    until, least = now + _TRICKLE_S, part.size + _TRICKLE_BYTES

    def _check_length(self, file: HubFile, start: int, response: httpx2.Response) -> None:
        """Refuse a body of another length than the Hub lists, before it is received."""
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and start + int(announced) != file.size:
            why = f"{file.name} is listed with {file.size:,} bytes and sent with {start + int(announced):,}"
            raise HubError(self._what, why, "Try again later, or without HF_ENDPOINT")

    def _check(self) -> None:
        """Wait while paused; raise `Cancelled` once nobody waits for the files any more."""
        while self._cancel.paused and not self._stop.is_set():
            self._stop.wait(_EVERY_S)
        if self._stop.is_set():
            raise Cancelled

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._stop.wait(min(left, _EVERY_S))
            self._check()


class _Partial:
    """The part of a file that has arrived, and the hash of it."""

    def __init__(self, path: Path, file: HubFile, check: Callable[[], None]) -> None:
        self._file = file
        path.touch()
        self._disk = path.open("r+b")
        self.digest, self.size = file.new_digest(), 0
        try:
            while piece := self._disk.read(_PIECE):
                check()
                self._add(piece)
        except BaseException:
            self._disk.close()
            raise
        if self.size > file.size:
            self.restart()

    def restart(self) -> None:
        self._disk.seek(0)
        self._disk.truncate()
        self.digest, self.size = self._file.new_digest(), 0

    def write(self, piece: bytes) -> None:
        self._disk.write(piece)
        self._add(piece)

    def close(self) -> None:
        with self._disk:
            self._disk.flush()
            os.fsync(self._disk.fileno())

    def _add(self, piece: bytes) -> None:
        self.digest.update(piece)
        self.size += len(piece)


class _Pace:
    """Bytes per second over the last seconds, and for how long nothing has come."""

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, int]] = collections.deque()
        self._last = (time.monotonic(), 0)

    def at(self, received: int, *, waiting: bool) -> tuple[float | None, float]:
        now = time.monotonic()
        if waiting or received != self._last[1]:
            self._last = (now, received)
        self._samples.append((now, received))
        while self._samples[0][0] < now - _PACE_OVER_S:
            self._samples.popleft()
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        per_s = (last - first) / (end - start) if end - start >= _PACE_AFTER_S else None
        return per_s or None, now - self._last[0]


def delay_s(error: HubError, failures: int, pause: float | None) -> float:
    """How long to wait before the next attempt: as the Hub asks, or longer each time; the last raises."""
    if failures >= _ATTEMPTS or (pause or 0) > _LONGEST_DELAY_S:
        raise error
    return pause or min(_FIRST_DELAY_S * 2 ** (failures - 1), _LONGEST_DELAY_S)


def bytes_there(snapshot: Snapshot, file: HubFile) -> int:
    """How much of a file need not be fetched any more."""
    places = (snapshot.folder / file.name, snapshot.blob(file.etag), snapshot.partial(file.etag))
    return next((min(path.stat().st_size, file.size) for path in places if path.is_file()), 0)
