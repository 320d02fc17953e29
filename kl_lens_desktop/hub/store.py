"""Models on this computer, in the cache that all Hugging Face tools share or in our own older folders."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name
from huggingface_hub.utils import WeakFileLock

from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.files import check_unused, link_or_copy, read_json, reason, remove_folder, write_text
from kl_lens_desktop.home import home
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.repository.listing import HubFile
from kl_lens_desktop.repository.model_files import CONFIG, UnusableError, model_files
from kl_lens_desktop.repository.names import is_safe_name
from kl_lens_desktop.repository.support import check_tokenizer_files

OLD_MANIFEST, _MANIFEST_LIMIT = "kl-lens-model.json", 2**20  # in folders of earlier versions
_PARTIAL = ".kl-lens.incomplete"  # listed by `hf cache` as what it is


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
    bytes : int
        What it weighs on disk.
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

    @property
    def is_half_pulled(self) -> bool:
        """Whether a part of a file is there, so that pulling again goes on."""
        return self.old or any(self.folder.parents[1].glob("blobs/*.incomplete"))


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
        return self.blob(etag + _PARTIAL)

    def lock(self, etag: str) -> Path:
        """The very one that huggingface_hub takes."""
        return cache() / ".locks" / self.repository.name / f"{etag}.lock"

    def has(self, file: HubFile) -> bool:
        return _weighs(self.folder / file.name, file.size)

    def has_blob(self, file: HubFile) -> bool:
        return _weighs(self.blob(file.etag), file.size)

    def bytes_there(self, file: HubFile) -> int:
        """How much of a file need not be fetched any more."""
        places = (self.folder / file.name, self.blob(file.etag), self.partial(file.etag))
        return next((min(path.stat().st_size, file.size) for path in places if path.is_file()), 0)

    def elsewhere(self, file: HubFile) -> Iterator[Path]:
        """Files of other commits that may have the same content, where links to blobs are not allowed."""
        for path in self.folder.parent.glob(f"*/{file.name}"):
            if path.parent != self.folder and not path.is_symlink() and _weighs(path, file.size):
                yield path

    def place(self, file: HubFile) -> None:
        """Give a blob its name in the snapshot: by a symbolic link, else a hard one, else as the file itself.

        A hard link leaves the blob where other programs that wait for it look.
        """
        pointer, blob = self.folder / file.name, self.blob(file.etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        if are_symlinks_supported(cache()):
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            return
        try:
            os.link(blob, pointer)
        except OSError:
            os.replace(blob, pointer)

    def discard(self, file: HubFile) -> None:
        """Delete a damaged file and its blob."""
        for path in ((self.folder / file.name).resolve(), self.blob(file.etag), self.folder / file.name):
            path.unlink(missing_ok=True)

    def refer(self, asked: str) -> None:
        """Note that a branch or tag means this commit."""
        if asked != self.commit and all(map(is_safe_name, asked.split("/"))):
            write_text(self.repository / "refs" / asked, self.commit)

    def sweep(self, *, partials: bool) -> None:
        """Delete blobs that no commit names any more, which only hard links leave, and `partials`."""
        named = {path.resolve() for path in self.repository.glob("snapshots/*/*")}
        for blob in self.repository.glob("blobs/*"):
            etag = blob.name.removesuffix(_PARTIAL)
            lone = not blob.is_symlink() and blob.stat().st_nlink == 1 and blob.resolve() not in named
            if (partials and etag != blob.name) or (lone and etag == blob.name):
                with contextlib.suppress(Timeout), WeakFileLock(self.lock(etag), timeout=0.1):
                    blob.unlink(missing_ok=True)  # else somebody is writing it


def cache() -> Path:
    """The folder of huggingface_hub's cache: ``HF_HUB_CACHE``, or ``hub`` under ``HF_HOME``."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def list_models() -> list[StoredModel]:
    """All models on this computer, the last pulled first; a half-pulled one is there too, and says so."""
    root = home() / "models"
    folders = [path for path in (root.iterdir() if root.is_dir() else ()) if path.name[0] != "."]
    old = [folder / OLD_MANIFEST for folder in folders if (folder / OLD_MANIFEST).is_file()]
    old.sort(key=lambda manifest: -manifest.stat().st_mtime_ns)
    return [model for _, model in sorted(_cached(), key=lambda pair: -pair[0])] + [_old(each) for each in old]


def find(model_id: str, revision: str | None = None) -> StoredModel | None:
    """The complete model of that Hub id, in capital letters or small ones, that was pulled last.

    `revision` is a commit, its first seven or more digits, or the branch or tag that was asked for.
    """
    for model in list_models():
        if model.complete and model.id.lower() == model_id.lower() and model.is_at(revision):
            return model
    return None


def at(folder: Path) -> StoredModel | None:
    """The model that lies in a folder of the cache, or of an earlier version; None for any other folder."""
    return next((model for model in list_models() if model.folder.resolve() == folder.resolve()), None)


def remove_model(model: StoredModel) -> None:
    """Delete a model's files, but for what another commit of it shares; `InputError` if one is in use."""
    try:
        if model.old:
            remove_folder(model.folder)
            return
        check_unused(model.folder)
        found = scan_cache_dir(cache())
        # A copy of a repository has the same commits, and huggingface_hub would take either of the two.
        its = frozenset(r for r in found.repos if (r.repo_type, r.repo_id) == ("model", model.id))
        replace(found, repos=its).delete_revisions(model.revision).execute()
        Snapshot(model.id, model.revision).sweep(partials=not model.complete)
    except OSError as error:
        raise _in_use(model, error.strerror or str(error)) from error
    if model.folder.exists():
        raise _in_use(model, "a file is in use or protected")


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
        for path in model.folder.iterdir():
            other = path.name in (OLD_MANIFEST, ".lock") or path.suffix == ".partial" or not path.is_file()
            if not other and not _weighs(place.folder / path.name, path.stat().st_size):
                link_or_copy(path, place.folder / path.name, cancel.check)
        for asked in model.names:
            place.refer(asked)
        remove_folder(model.folder)
    except OSError as error:
        step = "Free some space, or close the programs that use it, and try again"
        raise InputError(f"Cannot move {model.id}", reason(error), step) from error
    moved = at(place.folder)
    assert moved is not None
    return moved


def _cached() -> Iterator[tuple[float, StoredModel]]:
    try:
        found = scan_cache_dir(cache())
    except (CacheNotFound, ValueError, OSError):
        return
    for its in found.repos:
        for r in its.revisions if its.repo_type == "model" else ():
            folder = r.snapshot_path
            if (folder / CONFIG).is_file():  # other repositories are for other tools
                whole = _is_complete(folder)
                model = StoredModel(its.repo_id, r.commit_hash, r.refs, folder, r.size_on_disk, whole)
                yield r.last_modified, model


def _is_complete(folder: Path) -> bool:
    try:
        model_files(folder)
        check_tokenizer_files({path.name for path in folder.iterdir()})
    except (ModelError, UnusableError):
        return False
    return True


def _old(manifest: Path) -> StoredModel:
    """What a folder with a manifest holds; one that is damaged is still told, so that its size is seen."""
    folder = manifest.parent
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    try:
        value = read_json(manifest, _MANIFEST_LIMIT)
    except InputError:
        value = None
    match value:
        case {"schema": "kl-lens/model/1", "id": str(name), "revision": str(revision), "asked": str(asked)}:
            whole = value.get("complete") is True
            return StoredModel(name, revision, frozenset({asked}), folder, size, whole, old=True)
    return StoredModel(folder.name, "", frozenset(), folder, size, complete=False, old=True)


def _weighs(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _in_use(model: StoredModel, why: str) -> InputError:
    return InputError(f"Cannot delete {model.id}", why, "Close the programs that use it, and try again")
