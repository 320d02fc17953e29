"""Files on their way into the cache, up to four at once, resumed and hashed as they arrive."""

import collections
import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

import httpx2
from filelock import Timeout
from huggingface_hub import get_session, hf_raise_for_status
from huggingface_hub.utils import WeakFileLock

from kl_lens_desktop.errors import Cancelled, HubError
from kl_lens_desktop.files import link_or_copy, pieces, rename
from kl_lens_desktop.hub import session
from kl_lens_desktop.hub.client import file_url, headers
from kl_lens_desktop.hub.refusals import TRY_LATER, PassingError, not_the_hub, worded
from kl_lens_desktop.hub.store import Snapshot
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.repository.listing import HubFile, Repository

STAGE = "pull"
_AT_ONCE = 4
_PACE_OVER_S, _PACE_AFTER_S = 10.0, 0.5
_SILENT_AFTER_S = 3.0
_TRICKLE_S, _TRICKLE_BYTES = 60.0, 64 * 1024  # a connection that brings less in this time is given up


class Transfer:
    """Fetches files of one commit in threads; the one who iterates over `files` pauses and cancels them."""

    def __init__(self, of: Repository, snapshot: Snapshot, every: list[HubFile], cancel: Cancel) -> None:
        self._of, self._snapshot, self._cancel = of, snapshot, cancel
        self._what, self._headers = f"Cannot pull {of.id}", headers()
        self._total = sum(file.size for file in every)
        self._there = {file.name: snapshot.bytes_there(file) for file in every}
        self._received = dict.fromkeys(self._there, 0)
        self._doing: dict[str, str] = {}  # of each file in work, what it waits for; empty while it arrives
        self._notes: queue.SimpleQueue[Note] = queue.SimpleQueue()
        self._pace = _Pace()

    def files(self, missing: list[HubFile]) -> Iterator[Event]:
        """Fetch them; raises what `download.pull` does."""
        self._stop = threading.Event()
        self._left = collections.deque(sorted(missing, key=lambda file: (file.size, file.name)))
        last = None
        try:
            for _ in session.running([self._work] * min(_AT_ONCE, len(missing)), self._cancel, self._stop):
                yield from self._told()
                if (now := self._progress()) != last:
                    yield (last := now)
        except HubError:
            yield from self._told()
            raise

    def _told(self) -> Iterator[Note]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._notes.get_nowait()

    def _progress(self) -> Progress:
        done, doing = sum(self._there.values()), dict(self._doing)
        arriving = [name for name, wait in doing.items() if not wait]
        per_s, silent_s = self._pace.at(sum(self._received.values()), waiting=not arriving)
        first = next(iter(arriving or doing), "")
        words = f"{doing.get(first, '')} {first}".strip()
        words += f" and {len(doing) - 1} more" if len(doing) > 1 else ""
        words += f", no data for {silent_s:.0f} s" if silent_s >= _SILENT_AFTER_S else ""
        eta_s = (self._total - done) / per_s if per_s else None
        return Progress(STAGE, done, self._total, words, "bytes", eta_s, per_s)

    def _work(self) -> None:
        while self._left:
            with contextlib.suppress(IndexError):  # another thread was quicker
                file = self._left.popleft()
                try:
                    with self._alone(file):
                        self._fetch(file)
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
                with contextlib.suppress(Timeout):
                    held.enter_context(WeakFileLock(lock, timeout=session.POLL_S))
                    break
                self._doing[file.name] = "waiting for another program that downloads"
                self._check()
            self._doing[file.name] = ""
            yield

    def _fetch(self, file: HubFile) -> None:
        """Bring one file into the snapshot, from wherever it can be had without asking for its bytes."""
        if self._snapshot.has(file):
            return  # another program has fetched it meanwhile
        if not self._snapshot.has_blob(file) and not self._copied(file):
            self._download(file)
        self._snapshot.place(file)

    def _copied(self, file: HubFile) -> bool:
        """Take the file from another commit, if one has the same content."""
        for path in self._snapshot.elsewhere(file):
            digest = file.new_digest()
            for piece in pieces(path):
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
            with partial.open("ab") as disk:
                part = _Partial(disk, file)
                for piece in pieces(partial):
                    self._check()
                    part.count(piece)
                if part.size > file.size:
                    part.restart()
                self._complete(file, part)
                disk.flush()
                os.fsync(disk.fileno())
            if part.digest.hexdigest() == file.etag:
                rename(partial, self._snapshot.blob(file.etag))
                return
            partial.unlink()
            if last:
                raise HubError(self._what, f"{file.name} arrived with a wrong hash twice", TRY_LATER)
            self._notes.put(Note(f"{file.name} arrived with a wrong hash; downloading it again", "warning"))

    def _complete(self, file: HubFile, part: "_Partial") -> None:
        """Fetch what `part` lacks, over as many connections as it takes."""
        failures = furthest = 0
        while part.size < file.size:
            error = PassingError(self._what, "the connection ended early", "Pull again to resume")
            try:
                with worded(self._what, self._of.id, self._of.commit):
                    self._receive(file, part)
            except PassingError as passing:
                error = passing
            self._check()
            if part.size >= file.size:
                return
            failures = 1 if part.size - furthest >= _TRICKLE_BYTES else failures + 1
            furthest = max(furthest, part.size)
            delay = error.delay_s(failures)
            again = f"{file.name}: {error.why}; resuming at byte {part.size:,} in {delay:.1f} s"
            self._notes.put(Note(again, "warning"))
            self._doing[file.name] = "asking again for"
            self._stop.wait(delay)
            self._check()

    def _receive(self, file: HubFile, part: "_Partial") -> None:
        """Append the bytes of one connection, from the start if the server does not resume."""
        more = {"Range": f"bytes={part.size}-"} if part.size else {}
        self._doing[file.name] = ""
        url = file_url(self._of, file.name)
        with get_session().stream("GET", url, headers=self._headers | more) as response:
            if response.status_code == 416:  # it holds less than we do: begin again
                part.restart()
                return
            hf_raise_for_status(response)
            resumed = response.status_code == 206
            self._check_answer(file, part.size if resumed else 0, response)
            if not resumed:
                part.restart()
            elif not response.headers.get("content-range", "").startswith(f"bytes {part.size}-"):
                raise httpx2.RemoteProtocolError("the server sent the wrong part of the file")
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

    def _check_answer(self, file: HubFile, start: int, response: httpx2.Response) -> None:
        """Refuse a page, and a body of another length than the Hub lists, before anything is written."""
        if "text/html" in response.headers.get("content-type", ""):
            raise not_the_hub()
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and start + int(announced) != file.size:
            why = f"{file.name} is listed with {file.size:,} bytes and sent with {start + int(announced):,}"
            raise HubError(self._what, why, TRY_LATER)

    def _check(self) -> None:
        """Wait while paused; raise `Cancelled` once nobody waits for the files any more."""
        while self._cancel.paused and not self._stop.is_set():
            self._stop.wait(session.POLL_S)
        if self._stop.is_set():
            raise Cancelled


class _Partial:
    """The part of a file that has arrived, and the hash of it."""

    def __init__(self, disk: BinaryIO, file: HubFile) -> None:
        self._disk, self._file = disk, file
        self.digest, self.size = file.new_digest(), 0

    def restart(self) -> None:
        self._disk.truncate(0)
        self.digest, self.size = self._file.new_digest(), 0

    def write(self, piece: bytes) -> None:
        self._disk.write(piece)
        self.count(piece)

    def count(self, piece: bytes) -> None:
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
