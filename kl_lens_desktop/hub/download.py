"""Pull a model from the Hub: resumable to the byte, verified by hash, usable only when whole."""

import collections
import contextlib
import hashlib
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from filelock import FileLock, Timeout

from kl_lens_desktop.errors import HubError, InputError
from kl_lens_desktop.files import reason
from kl_lens_desktop.hub import client as hub
from kl_lens_desktop.hub import library
from kl_lens_desktop.hub.interruptible import OpenSockets, interruptible
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.room import room_for

STAGE = "pull"
_ADVICE = "Free some space, or set KL_LENS_HOME to a folder on another disk that you may write to"
_ATTEMPTS = 6  # in a row without one new byte
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_EVERY_S = 0.1
_PACE_OVER_S = 10.0
_PACE_AFTER_S = 0.5


def pull(model_id: str, revision: str | None = None, cancel: Cancel | None = None) -> Generator[Event]:
    """Download a model into the library, or go on with a download that was interrupted.

    Parameters
    ----------
    model_id : str
        The Hub id.
    revision : str, optional
        Branch, tag or commit; ``main`` by default. The files are those of the one commit it means now.
    cancel : Cancel, optional
        Stops within a second; what has arrived is kept and the next pull goes on from there.

    Yields
    ------
    Progress
        Stage ``pull``, in bytes of all files together, with the time left; the total is 0 until it is known.
    Note
        Connections that broke, and what is done about it; without the Hub, a copy pulled before is used.
    Finished
        ``{"folder": str, "id": str, "revision": str}``; the revision is the commit.

    Raises
    ------
    HubError
        If the Hub refuses or cannot be reached and no copy was pulled before, the repository is unusable, or
        a file arrives wrong twice.
    InputError
        If the disk is too small or cannot be written.
    Cancelled
    """
    cancel = cancel or Cancel()
    asked = revision or "main"
    stored = library.find(model_id, asked) if hub.is_commit(asked) else None
    if stored:  # the network could add nothing
        yield _finished(stored.folder, stored.id, stored.revision)
        return
    yield Progress(STAGE, 0, 0, f"asking the Hub for {model_id}", "bytes")
    with contextlib.ExitStack() as held:
        try:
            client = held.enter_context(hub.open_client())
            sockets = OpenSockets(client)
            info = _ask(client, sockets, model_id, asked, cancel)
        except HubError as error:
            stored = library.find(model_id, revision)
            if stored is None:
                raise
            yield Note(f"{error} Using the copy downloaded before, at {stored.revision[:7]}.", "warning")
            yield _finished(stored.folder, stored.id, stored.revision)
            return
        folder = library.folder_for(info.id, info.revision)
        chosen = hub.choose_files(info)
        missing = [file for file in chosen if not _is_there(folder, file)]
        with _writing(folder):
            if missing:
                needed = sum(file.size - _partial_bytes(folder, file) for file in missing)
                with room_for(info.id, needed, folder, _ADVICE), _one_at_a_time(folder, info.id):
                    library.write_manifest(folder, info.id, info.revision, asked, complete=False)
                    yield from _Pull(client, sockets, info, folder, _Meter(chosen), cancel).files(chosen)
            library.write_manifest(folder, info.id, info.revision, asked, complete=True)
    yield _finished(folder, info.id, info.revision)


def fetch_file(dataset: str, name: str, folder: Path, cancel: Cancel) -> Generator[Event, None, Path]:
    """One file of a data set on the Hub, resumed and verified as a model's; returns its path below `folder`.

    Raises
    ------
    HubError
        If the Hub refuses or cannot be reached, or has no such file.
    InputError
        If the disk is too small or cannot be written.
    Cancelled
    """
    yield Progress(STAGE, 0, 0, f"asking the Hub for {dataset}", "bytes")
    with contextlib.ExitStack() as held:
        client = held.enter_context(hub.open_client())
        sockets = OpenSockets(client)
        info = _ask(client, sockets, dataset, "main", cancel, "datasets")
        chosen = tuple(file for file in info.files if file.name == name and file.size >= 0)
        if not chosen or not (chosen[0].sha256 or chosen[0].blob_sha1):
            raise HubError(f"Cannot pull {dataset}", f"it has no {name} with a hash", "Use your own text")
        folder = folder / info.revision[:12]  # a partial file belongs to one commit
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            needed = chosen[0].size - _partial_bytes(folder, chosen[0])
            with room_for(dataset, needed, folder, _ADVICE), _one_at_a_time(folder, dataset):
                yield from _Pull(client, sockets, info, folder, _Meter(chosen), cancel).files(chosen)
    return folder / name


class _Meter:
    """Bytes done of all files, and how long the rest takes at the pace of the last seconds of this file."""

    def __init__(self, chosen: tuple[hub.HubFile, ...]) -> None:
        self.total = sum(file.size for file in chosen)
        self.done = self._arrived = 0
        self._pace: collections.deque[tuple[float, int]] = collections.deque()
        self._told = 0.0

    def begin_file(self) -> None:
        self._pace.clear()  # small files mostly wait: their pace says nothing of the large ones

    def arrived(self, count: int) -> None:
        now = time.monotonic()
        self.done += count
        self._arrived += count
        self._pace.append((now, self._arrived))
        while self._pace[0][0] < now - _PACE_OVER_S:
            self._pace.popleft()

    def due(self) -> bool:
        return time.monotonic() - self._told >= _EVERY_S

    def progress(self, message: str) -> Progress:
        self._told = time.monotonic()
        return Progress(STAGE, self.done, self.total, message, "bytes", self._eta_s())

    def _eta_s(self) -> float | None:
        if not self._pace or self._pace[-1][0] - self._pace[0][0] < _PACE_AFTER_S:
            return None
        (start, first), (end, last) = self._pace[0], self._pace[-1]
        return (self.total - self.done) * (end - start) / (last - first)


@dataclass(frozen=True)
class _Pull:
    """What fetching each file of one commit needs."""

    client: httpx.Client
    sockets: OpenSockets
    info: hub.ModelInfo
    folder: Path
    meter: _Meter
    cancel: Cancel

    def files(self, chosen: tuple[hub.HubFile, ...]) -> Iterator[Event]:
        before = 0
        for file in chosen:
            self.cancel.check()
            if not _is_there(self.folder, file):
                self.meter.begin_file()
                yield from self._verified(file, before)
            before += file.size
            self.meter.done = before
            yield self.meter.progress(file.name)

    def _verified(self, file: hub.HubFile, before: int) -> Iterator[Event]:
        """Fetch a file, and once more if its hash is wrong; only then does it get its name."""
        partial = _partial(self.folder, file)
        for last in (False, True):
            yield from self._complete(file, partial, before)
            yield self.meter.progress(f"checking {file.name}")
            if _hash_matches(partial, file, self.cancel):
                os.replace(partial, self.folder / file.name)
                return
            partial.unlink()
            if last:
                raise HubError(
                    self._what,
                    f"{file.name} arrived with a wrong hash twice",
                    "Try again later, or without HF_ENDPOINT",
                )
            yield Note(f"{file.name} arrived with a wrong hash; downloading it again", "warning")

    def _complete(self, file: hub.HubFile, partial: Path, before: int) -> Iterator[Event]:
        """Fetch what `partial` lacks, over as many connections as it takes."""
        partial.touch()
        failures = furthest = 0
        while (have := partial.stat().st_size) < file.size:
            self.meter.done = before + have
            pause = None
            try:
                yield from self._receive(file, partial, have, before)
                error = HubError(self._what, "the connection ended early", "Pull again to resume")
            except httpx.RequestError as broken:
                error = hub.unreachable(broken, self._what)
            except hub.HubBusyError as busy:
                error, pause = busy, busy.retry_after_s
            now = partial.stat().st_size
            if now >= file.size:
                return
            failures = 1 if now > furthest else failures + 1
            furthest = max(furthest, now)
            if failures >= _ATTEMPTS or (pause or 0) > _LONGEST_DELAY_S:
                raise error
            delay = pause or min(_FIRST_DELAY_S * 2 ** (failures - 1), _LONGEST_DELAY_S)
            yield Note(f"{file.name}: {error.why}; resuming at byte {now:,} in {delay:.1f} s", "warning")
            _wait(delay, self.cancel)

    def _receive(self, file: hub.HubFile, partial: Path, have: int, before: int) -> Iterator[Event]:
        """Append the bytes of one connection, or write from the start if the server does not resume."""
        pieces = interruptible(lambda: self._pieces(file, have), self.cancel, self.sockets.shut)
        with contextlib.closing(pieces), partial.open("r+b") as disk:
            disk.seek(have)
            for position, piece in pieces:
                if position != disk.tell():
                    disk.seek(position)
                    disk.truncate()
                    self.meter.done = before + position
                wanted = piece[: file.size - position]
                disk.write(wanted)
                self.meter.arrived(len(wanted))
                if self.meter.due():
                    yield self.meter.progress(file.name)
                if len(wanted) < len(piece):  # more than was announced; the hash will tell whether it matters
                    break
            disk.flush()
            os.fsync(disk.fileno())

    def _pieces(self, file: hub.HubFile, start: int) -> Generator[tuple[int, bytes]]:
        """(position in the file, bytes), in order; from 0 if the server does not resume at `start`."""
        place = self.info.id if self.info.kind == "models" else f"{self.info.kind}/{self.info.id}"
        url = f"{hub.endpoint()}/{place}/resolve/{self.info.revision}/{quote(file.name)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self.client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:  # it holds less than we do: begin again
                yield 0, b""
                return
            if not response.is_success:
                response.read()
                raise hub.refusal(response, self._what, self.info.id, self.info.revision)
            position = start if response.status_code == 206 else 0
            if position and not response.headers.get("content-range", "").startswith(f"bytes {position}-"):
                raise httpx.RemoteProtocolError("the server sent the wrong part of the file")
            for piece in response.iter_raw():  # unbuffered: what arrived before a break counts
                yield position, piece
                position += len(piece)

    @property
    def _what(self) -> str:
        return f"Cannot pull {self.info.id}"


def _ask(
    client: httpx.Client,
    sockets: OpenSockets,
    model_id: str,
    revision: str,
    cancel: Cancel,
    kind: str = "models",
) -> hub.ModelInfo:
    def answer() -> Generator[hub.ModelInfo]:
        yield hub.model_info(client, model_id, revision, kind)

    (info,) = interruptible(answer, cancel, sockets.shut)
    return info


def _partial(folder: Path, file: hub.HubFile) -> Path:
    # The folder belongs to one commit, so a partial file of that name can only be a part of that one content.
    return folder / (file.name + ".partial")


def _is_there(folder: Path, file: hub.HubFile) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size


def _partial_bytes(folder: Path, file: hub.HubFile) -> int:
    path = _partial(folder, file)
    return path.stat().st_size if path.is_file() else 0


def _hash_matches(path: Path, file: hub.HubFile, cancel: Cancel) -> bool:
    digest = (
        hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    )
    with path.open("rb") as disk:
        while piece := disk.read(2**22):
            cancel.check()
            digest.update(piece)
    return digest.hexdigest() == (file.sha256 or file.blob_sha1)


@contextlib.contextmanager
def _one_at_a_time(folder: Path, model_id: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    # thread_local: a generator may be begun in one thread and closed in another
    lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise HubError(
            f"Cannot pull {model_id}", "another window or command is downloading it", "Wait for it"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write into {folder}", reason(error), _ADVICE) from error


def _wait(seconds: float, cancel: Cancel) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        cancel.check()
        time.sleep(min(left, 0.05))


def _finished(folder: Path, model_id: str, revision: str) -> Finished:
    return Finished({"folder": str(folder), "id": model_id, "revision": revision})
