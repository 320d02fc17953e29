"""Whether the files of a downloaded model are what the Hub lists, byte for byte."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import pieces
from kl_lens_desktop.hub import client, store
from kl_lens_desktop.hub.download import complete
from kl_lens_desktop.hub.jobs import Verified, VerifyFilesJob
from kl_lens_desktop.hub.session import answer
from kl_lens_desktop.hub.store import Snapshot
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.repository.listing import HubFile

STAGE = "verify-files"
_EVERY_S = 0.1


def verify_files(job: VerifyFilesJob, cancel: Cancel) -> Iterator[Event]:
    """Hash every file of a model; the last event is Finished with `jobs.Verified`.

    In the cache a file's hash is the name of the blob that it links to. Where there are no links, the Hub is
    asked.

    Raises
    ------
    InputError
        If the model was not pulled from the Hub.
    HubError
        If the Hub must be asked and does not answer.
    Cancelled
    """
    folder = Path(job.model).expanduser()
    stored = store.at(folder) if folder.is_dir() else store.find(job.model, job.revision)
    if stored is None or not stored.revision:
        why = "no model of that name was pulled from the Hub, so there is nothing to compare with"
        raise InputError(f"Cannot verify {job.model}", why, "See the Library page, or pull it first")
    if stored.old and job.repair:
        why = "it lies in a folder of an earlier version"
        raise InputError(f"Cannot repair {job.model}", why, f"Run `kl-lens pull {stored.id} --move` first")
    name, commit, folder = stored.id, stored.revision, stored.folder
    files = _named_by_links(folder)
    if not files:
        listed = answer(lambda: client.repository(name, commit), cancel).files
        files = [file for file in listed if (folder / file.name).is_file() and file.is_verifiable]
    damaged = yield from _damaged(folder, files, cancel)
    repaired = bool(damaged) and job.repair
    if repaired:
        of = answer(lambda: client.repository(name, commit), cancel)
        for file in damaged:
            Snapshot(name, commit).discard(file)
        yield from complete(of, cancel)
    result: Verified = {
        "id": name,
        "folder": str(folder),
        "files": [file.name for file in files],
        "damaged": [file.name for file in damaged],
        "repaired": repaired,
    }
    yield job.finished(result)


def _named_by_links(folder: Path) -> list[HubFile]:
    """The files with their hashes, if every one is a link to a blob that is named by it."""
    paths = sorted(path for path in folder.iterdir() if not path.is_dir())
    links = [path for path in paths if path.is_symlink()]
    files = [HubFile(path.name, path.stat().st_size, path.readlink().name) for path in links]
    return files if len(links) == len(paths) and all(file.is_verifiable for file in files) else []


def _damaged(folder: Path, files: list[HubFile], cancel: Cancel) -> Generator[Event, None, list[HubFile]]:
    total, done, told, damaged = sum(file.size for file in files), 0, 0.0, []
    for file in files:
        digest = file.new_digest()
        for piece in pieces(folder / file.name):
            cancel.check()
            digest.update(piece)
            done += len(piece)
            if (now := time.monotonic()) - told >= _EVERY_S:
                yield Progress(STAGE, done, total, file.name, "bytes")
                told = now
        if digest.hexdigest() != file.etag:
            damaged.append(file)
    return damaged
