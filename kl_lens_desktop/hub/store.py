"""Models on this computer, in the cache that all Hugging Face tools share or in our own older folders."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name
from huggingface_hub.utils import WeakFileLock

from kl_lens_desktop import temporary
from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.files import reason, write_text
from kl_lens_desktop.hub import old_folders
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.repository.model_files import CONFIG, UnusableError, model_files
from kl_lens_desktop.repository.names import is_safe_name
from kl_lens_desktop.repository.support import check_tokenizer_files

PARTIAL = ".kl-lens.incomplete"  # listed by `hf cache` as what it is


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this computer.

    Attributes
    ----------
    id : str
        The Hub id, for example ``ibm-granite/granite-4.0-h-350m``.
    revision : str
        The commit (40 hexadecimal digits); empty if that is unknown.
    names : frozenset of str
        Branches and tags that meant this commit when they were asked for.
    folder : Path
        Where its files lie.
    bytes : int
        What they weigh on disk.
    complete : bool
        Whether its configuration and all weights are there; otherwise pulling again goes on.
    old : bool
        Whether it lies in a folder of an earlier version of KL Lens, where no other tool looks.
    """

    id: str
    revision: str
    names: frozenset[str]
    folder: Path
    bytes: int
    complete: bool
    old: bool = False

    def is_at(self, revision: str | None) -> bool:
        """Whether a commit, its first seven or more digits, a branch or a tag means this one."""
        if revision is None or revision == self.revision or revision in self.names:
            return True
        return len(revision) >= 7 and self.revision.startswith(revision.lower())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The place of one commit of a repository in the cache; `folder` is what every stage opens."""

    id: str
    commit: str
    kind: str = "model"

    @property
    def repository(self) -> Path:
        return cache() / repo_folder_name(repo_id=self.id, repo_type=self.kind)

    @property
    def folder(self) -> Path:
        return self.repository / "snapshots" / self.commit

    def blob(self, etag: str) -> Path:
        return self.repository / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Named after the content, so that it is found again whatever happened."""
        return self.repository / "blobs" / (etag + PARTIAL)

    def lock(self, etag: str) -> Path:
        """The very one that huggingface_hub takes."""
        return cache() / ".locks" / self.repository.name / f"{etag}.lock"

    def has(self, name: str, size: int) -> bool:
        path = self.folder / name
        return path.is_file() and path.stat().st_size == size

    def elsewhere(self, name: str, size: int) -> Iterator[Path]:
        """Files of other commits that may have the same content, where links to blobs are not allowed."""
        folders = self.folder.parent.iterdir() if self.folder.parent.is_dir() else ()
        for path in (folder / name for folder in folders if folder != self.folder):
            if path.is_file() and not path.is_symlink() and path.stat().st_size == size:
                yield path

    def place(self, name: str, etag: str, *, new: bool) -> None:
        """Give a blob its name in the snapshot: by a link, or as the file itself where links are not allowed.

        A blob that is not `new` may belong to other commits too, and stays.
        """
        pointer, blob = self.folder / name, self.blob(etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        if are_symlinks_supported(cache()):
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        elif new:
            os.replace(blob, pointer)
        else:
            link_or_copy(blob, pointer, lambda: None)

    def refer(self, asked: str) -> None:
        """Note that a branch or tag means this commit."""
        if asked != self.commit and all(map(is_safe_name, asked.split("/"))):
            write_text(self.repository / "refs" / asked, self.commit)


def cache() -> Path:
    """The folder of huggingface_hub's cache: ``HF_HUB_CACHE``, or ``hub`` under ``HF_HOME``."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def list_models() -> list[StoredModel]:
    """All models on this computer, the last pulled first; a half-pulled one is there too, and says so."""
    found = sorted(_cached(), key=lambda pair: -pair[0])
    return [model for _, model in found] + [
        StoredModel(o.id, o.revision, frozenset({o.asked}), o.folder, o.bytes, o.complete, old=True)
        for o in old_folders.list_folders()
    ]


def find(model_id: str, revision: str | None = None) -> StoredModel | None:
    """The complete model of that Hub id that was pulled last.

    Parameters
    ----------
    model_id : str
        The Hub id; the Hub does not tell capital letters from small ones, so neither does this.
    revision : str, optional
        A commit, its first seven or more digits, or the branch or tag that was asked for.
    """
    for model in list_models():
        if model.complete and model.id.lower() == model_id.lower() and model.is_at(revision):
            return model
    return None


def at(folder: Path) -> StoredModel | None:
    """The model that lies in a folder of the cache, or of an earlier version; None for any other folder."""
    return next((model for model in list_models() if model.folder.resolve() == folder.resolve()), None)


def remove_model(model: StoredModel) -> None:
    """Delete a model's files, but for what another commit of it shares.

    Raises
    ------
    InputError
        If a file of it is in use or cannot be deleted.
    """
    try:
        if model.old:
            old_folders.remove(model.folder)
            return
        found = scan_cache_dir(cache())
        # A copy of a repository has the same commits, and huggingface_hub would take either of the two.
        its = frozenset(r for r in found.repos if (r.repo_type, r.repo_id) == ("model", model.id))
        replace(found, repos=its).delete_revisions(model.revision).execute()
        if not model.complete:
            _remove_partials(Snapshot(model.id, model.revision))
    except OSError as error:
        raise _in_use(model, error.strerror or str(error)) from error
    if model.folder.exists():
        raise _in_use(model, "a file is in use or protected")


def discard(path: Path) -> None:
    """Delete a damaged file of the cache, and the blob that it links to."""
    blob = path.resolve()
    path.unlink()
    blob.unlink(missing_ok=True)


def move_to_cache(model: StoredModel, cancel: Cancel) -> StoredModel:
    """Move a model of an earlier version to the cache, where all tools find it; returns what it is there.

    Raises
    ------
    InputError
        If it cannot be moved, for example to another disk that is too small; the files are then where they
        were.
    Cancelled
    """
    place = Snapshot(model.id, model.revision)
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        for path in old_folders.model_paths(model.folder):
            if not place.has(path.name, path.stat().st_size):
                link_or_copy(path, place.folder / path.name, cancel.check)
        for asked in model.names:
            place.refer(asked)
        old_folders.remove(model.folder)
    except OSError as error:
        step = "Free some space, or close the programs that use it, and try again"
        raise InputError(f"Cannot move {model.id}", reason(error), step) from error
    moved = at(place.folder)
    assert moved is not None
    return moved


def is_half_pulled(model: StoredModel) -> bool:
    """Whether a part of a file is there, so that pulling again goes on."""
    blobs = Snapshot(model.id, model.revision).repository / "blobs"
    return model.old or any(blobs.glob("*.incomplete"))


def _cached() -> Iterator[tuple[float, StoredModel]]:
    try:
        found = scan_cache_dir(cache())
    except (CacheNotFound, ValueError, OSError):
        return
    for repository in found.repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            folder = revision.snapshot_path
            if (folder / CONFIG).is_file():  # other repositories are for other tools
                model = StoredModel(
                    repository.repo_id,
                    revision.commit_hash,
                    revision.refs,
                    folder,
                    revision.size_on_disk,
                    _is_complete(folder),
                )
                yield revision.last_modified, model


def _is_complete(folder: Path) -> bool:
    try:
        model_files(folder)
        check_tokenizer_files({path.name for path in folder.iterdir()})
    except (ModelError, UnusableError):
        return False
    return True


def _remove_partials(snapshot: Snapshot) -> None:
    for partial in (snapshot.repository / "blobs").glob("*" + PARTIAL):
        lock = snapshot.lock(partial.name.removesuffix(PARTIAL))
        with contextlib.suppress(Timeout), WeakFileLock(lock, timeout=0.1):  # else somebody is writing it
            partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path, check: Callable[[], None]) -> None:
    """Give a file a second name, which takes no room and no right as symbolic links do; or copy it.

    `check` is called after every piece that is copied, and may raise.
    """
    temporary.sweep_partials(target.parent)
    with temporary.partial_of(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # another disk
            with source.open("rb") as old, partial.open("wb") as new:
                while piece := old.read(4 * 2**20):
                    check()
                    new.write(piece)
        os.replace(partial, target)


def _in_use(model: StoredModel, why: str) -> InputError:
    return InputError(f"Cannot delete {model.id}", why, "Close the programs that use it, and try again")
