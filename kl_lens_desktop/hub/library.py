"""The pulled models on this computer: where they lie, what they are, what they weigh, how to remove them."""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from kl_lens_desktop import files
from kl_lens_desktop.errors import HubError, InputError

MANIFEST = "kl-lens-model.json"
_SCHEMA = "kl-lens/model/1"
_MANIFEST_LIMIT = 2**20
_NAME_LIMIT = 120
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
# Names that Windows gives to devices, with any extension: writing to NUL.safetensors writes to nowhere.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')


@dataclass(frozen=True)
class StoredModel:
    """A model in the library.

    Attributes
    ----------
    id : str
        The Hub id, for example ``ibm-granite/granite-4.0-h-350m``.
    revision : str
        The commit (40 hexadecimal digits) it was pulled at; empty if its manifest is damaged.
    asked : str
        What was asked for when it was pulled, for example ``main``.
    folder : Path
        Where its files lie.
    bytes : int
        What they weigh on disk.
    complete : bool
        Whether every file is there and verified; otherwise pulling again goes on where it stopped.
    """

    id: str
    revision: str
    asked: str
    folder: Path
    bytes: int
    complete: bool


def models_folder() -> Path:
    """The folder of the library: ``models`` under ``KL_LENS_HOME``, or under the user's own data folder."""
    home = os.environ.get("KL_LENS_HOME")
    return (
        Path(home).expanduser() if home else platformdirs.user_data_path("kl-lens", appauthor=False)
    ) / "models"


def folder_for(model_id: str, revision: str) -> Path:
    """The folder of one commit of one model; short, since Windows paths end at 260 characters."""
    name = re.sub(r"[^a-z0-9._-]", "-", model_id.rpartition("/")[2].lower())[:32].strip(".-")
    digest = hashlib.sha256(f"{model_id.lower()}@{revision}".encode()).hexdigest()[:10]
    return models_folder() / f"m-{name}-{digest}"


def is_model_id(text: str) -> bool:
    """Whether `text` has the form of a Hub id: ``name`` or ``owner/name``."""
    return bool(_MODEL_ID.fullmatch(text)) and ".." not in text and "--" not in text


def is_safe_name(name: str) -> bool:
    """Whether `name` is that of a plain file in its folder on every system.

    It is not if it is empty, ``.`` or ``..``, holds a separator, colon or control character, is a device name
    of Windows, ends in a dot or space, or is too long.
    """
    bad = _FORBIDDEN.search(name) or _RESERVED.fullmatch(name)
    return not bad and bool(name.strip(". ")) and name[-1] not in ". " and len(name) <= _NAME_LIMIT


def refuse_unsafe_name(name: str) -> None:
    """Raise `HubError` for a file name from the network that is not safe (see `is_safe_name`)."""
    if not is_safe_name(name):
        raise HubError(
            "Cannot use this repository",
            f"it contains a file named {name[:80]!r}, which is not safe to store",
            "Choose another model",
        )


def list_models() -> list[StoredModel]:
    """All models of the library, the last pulled first; a half-pulled one is there too, and says so."""
    root = models_folder()
    folders = [path for path in root.iterdir() if path.name[0] != "."] if root.is_dir() else []
    found = [path for path in folders if (path / MANIFEST).is_file()]
    found.sort(key=lambda path: (path / MANIFEST).stat().st_mtime_ns, reverse=True)
    return [_stored(path) for path in found]


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
        if model.complete and model.id.lower() == model_id.lower() and _is_revision(model, revision):
            return model
    return None


def remove_model(model: StoredModel) -> None:
    """Delete a model's files.

    Raises
    ------
    InputError
        If a file of it is in use or cannot be deleted; the model is then untouched.
    """
    gone = model.folder.with_name(f".{model.folder.name}.removed")  # not listed any more
    try:
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(model.folder, gone)  # first aside as a whole: a half-deleted model must never look usable
        shutil.rmtree(gone)
    except OSError as error:
        raise InputError(
            f"Cannot delete {model.id}",
            error.strerror or str(error),
            "Close the programs that use it, and try again",
        ) from error


def write_manifest(folder: Path, model_id: str, revision: str, asked: str, *, complete: bool) -> None:
    """State which model `folder` holds; with `complete` it becomes usable, so this is written last."""
    manifest = {"schema": _SCHEMA, "id": model_id, "revision": revision, "asked": asked, "complete": complete}
    files.write_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of the library.

    Raises
    ------
    InputError
        If it is absent or not one of ours.
    """
    path = folder / MANIFEST
    value = files.read_json(path, _MANIFEST_LIMIT)
    texts = ("id", "revision", "asked")
    manifest: dict[str, Any] = value if isinstance(value, dict) else {}
    typed = [
        manifest.get("complete") in (True, False),
        *(isinstance(manifest.get(key), str) for key in texts),
    ]
    if manifest.get("schema") != _SCHEMA or not all(typed):
        raise InputError(f"Cannot read {path}", "it is not a model of this library", "Pull the model again")
    return manifest


def _stored(folder: Path) -> StoredModel:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    try:
        manifest = read_manifest(folder)
    except InputError:  # still listed, so that what it weighs is seen and can be removed
        return StoredModel(folder.name, "", "", folder, size, complete=False)
    return StoredModel(
        manifest["id"], manifest["revision"], manifest["asked"], folder, size, manifest["complete"]
    )


def _is_revision(model: StoredModel, revision: str | None) -> bool:
    if revision is None or revision in (model.revision, model.asked):
        return True
    return len(revision) >= 7 and model.revision.startswith(revision.lower())
