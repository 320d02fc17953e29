"""Pull a model into the cache that all Hugging Face tools share: resumed to the byte, and verified by hash.

huggingface_hub says what there is and where it belongs. It starts a file anew after every interruption, does
not check its content and cannot be paused, so `transfer` receives the bytes.
"""

import contextlib
import itertools
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

from kl_lens_desktop.disk_space import room_for
from kl_lens_desktop.errors import HubError, InputError
from kl_lens_desktop.files import reason
from kl_lens_desktop.hub import client, store
from kl_lens_desktop.hub.candidate import examine
from kl_lens_desktop.hub.refusals import PassingError
from kl_lens_desktop.hub.session import answer
from kl_lens_desktop.hub.store import Snapshot
from kl_lens_desktop.hub.transfer import STAGE, Transfer
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.repository.candidate import UsableRepository
from kl_lens_desktop.repository.listing import HubFile, Repository, is_commit
from kl_lens_desktop.repository.support import TOKENIZER_FILES, has_tokenizer

_ADVICE = "Free some space, or set HF_HOME to a folder on another disk that you may write to"


def pull(
    model_id: str,
    revision: str | None = None,
    cancel: Cancel | None = None,
    *,
    move: bool = False,
    tokenizer: bool = False,
) -> Generator[Event]:
    """Download a model, or go on with a download that was interrupted.

    Parameters
    ----------
    revision : str, optional
        Branch, tag or commit; ``main`` by default. The files are those of the one commit it means now.
    cancel : Cancel, optional
        Stops within a second; what has arrived is kept and the next pull goes on from there.
    move : bool
        Move a copy that an earlier version pulled into a folder of its own.
    tokenizer : bool
        Where the model has no tokenizer, also download the one that its authors use.

    Yields
    ------
    Progress
        Stage ``pull``, in bytes of all files together; the total is 0 until it is known.
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
    cancel, asked = cancel or Cancel(), revision or "main"
    stored = store.find(model_id, asked) if is_commit(asked) else None
    if stored is None:
        yield Progress(STAGE, 0, 0, f"asking the Hub for {model_id}", "bytes")
        try:
            of = answer(lambda: client.repository(model_id, asked), cancel)
        except HubError as error:
            stored = store.find(model_id, revision)
            if stored is None and "/" in model_id:
                raise
            if stored is None:
                why = f"no folder here has that name, and {error.why}"
                raise HubError(error.what, why, error.next_step) from error
            yield Note(f"{error} Using the copy downloaded before, at {stored.revision[:7]}.", "warning")
        else:
            stored = store.find(of.id, of.commit)
            if stored is None or not stored.old:
                folder = yield from complete(of, cancel, tokenizer=tokenizer)
                Snapshot(of.id, of.commit).refer(asked)
                yield Finished({"folder": str(folder), "id": of.id, "revision": of.commit})
                return
    if stored.old and move:
        stored = store.move_to_cache(stored, cancel)
    elif stored.old:
        yield Note(
            f"{stored.id} lies in a folder of an earlier version, where no other program looks. "
            f"`kl-lens pull {stored.id} --move` moves it to the Hugging Face cache."
        )
    yield Finished({"folder": str(stored.folder), "id": stored.id, "revision": stored.revision})


def fetch_file(dataset: str, name: str, cancel: Cancel) -> Generator[Event, None, Path]:
    """One file of a data set on the Hub, resumed and verified as a model's; returns its path in the cache.

    Raises what `pull` does.
    """
    of = answer(lambda: client.repository(dataset, kind="dataset"), cancel)
    chosen = tuple(file for file in of.files if file.name == name and file.is_verifiable)
    if not chosen:
        raise HubError(f"Cannot pull {dataset}", f"it has no {name} with a hash", "Use your own text")
    yield from _transferred(of, [chosen], cancel)
    snapshot = Snapshot(of.id, of.commit, of.kind)
    snapshot.refer("main")
    return snapshot.folder / name


def complete(of: Repository, cancel: Cancel, *, tokenizer: bool = False) -> Generator[Event, None, Path]:
    """Fetch what the cache lacks of a repository at its commit, and return the folder; raises as `pull`."""
    snapshot = Snapshot(of.id, of.commit)
    judged = yield from _judged(of, snapshot, cancel)
    if judged.tokenizer_of:
        yield from _with_tokenizer(judged, snapshot, tokenizer, cancel)
    with _writing(snapshot.repository):
        for file in judged.small:
            if file.name in judged.contents and not snapshot.has(file):
                snapshot.partial(file.etag).parent.mkdir(parents=True, exist_ok=True)
                snapshot.partial(file.etag).write_bytes(judged.contents[file.name])
    yield from _transferred(of, [judged.small, judged.weights], cancel)
    return snapshot.folder


def _judged(of: Repository, snapshot: Snapshot, cancel: Cancel) -> Generator[Event, None, UsableRepository]:
    def read(file: HubFile) -> bytes:
        there = snapshot.has(file)
        return (snapshot.folder / file.name).read_bytes() if there else client.read_file(of, file)

    for failures in itertools.count(1):
        try:
            return answer(lambda: examine(of, read), cancel)
        except PassingError as error:
            delay = error.delay_s(failures)
            yield Note(f"{error.why}; asking again in {delay:.1f} s", "warning")
            cancel.rest(delay)
    raise AssertionError  # `delay_s` raises after the last attempt


def _with_tokenizer(
    judged: UsableRepository, snapshot: Snapshot, allowed: bool, cancel: Cancel
) -> Iterator[Event]:
    """Give a model without a tokenizer copies of another model's, if that was `allowed`."""
    name, source = judged.of.id, judged.tokenizer_of
    if snapshot.folder.is_dir() and has_tokenizer({path.name for path in snapshot.folder.iterdir()}):
        return
    if not allowed:
        step = f"Run `kl-lens pull {name} --with-tokenizer` to download that too"
        raise HubError(f"{name} has no tokenizer", f"its authors use that of {source}", step)
    yield Note(f"{name} has no tokenizer. Its authors use that of {source}, so do we.")
    other = answer(lambda: client.repository(source), cancel)
    files = tuple(file for file in other.files if file.name in TOKENIZER_FILES)
    yield from _transferred(other, [files], cancel)
    with _writing(snapshot.folder):
        snapshot.folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(Snapshot(other.id, other.commit).folder / file.name, snapshot.folder / file.name)


def _transferred(of: Repository, groups: list[tuple[HubFile, ...]], cancel: Cancel) -> Iterator[Event]:
    """The files of each group after those of the one before: weights come last, and make a model complete."""
    snapshot = Snapshot(of.id, of.commit, of.kind)
    transfer = Transfer(of, snapshot, [file for group in groups for file in group], cancel)
    missing = [[file for file in group if not snapshot.has(file)] for group in groups]
    needed = sum(file.size - snapshot.bytes_there(file) for group in missing for file in group)
    with _writing(snapshot.repository):
        if any(missing):
            with room_for(of.id, needed, snapshot.repository, _ADVICE):
                for group in filter(None, missing):
                    yield from transfer.files(group)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write into {folder}", reason(error), _ADVICE) from error
