"""Models in folders of KL Lens's own, as its earlier versions pulled them: still read, moved on request."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kl_lens_desktop import files
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.home import home

MANIFEST = "kl-lens-model.json"
_MANIFEST_LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class OldFolder:
    """What the manifest of a folder says; `revision` is empty if the manifest is damaged."""

    folder: Path
    id: str
    revision: str
    asked: str
    complete: bool
    bytes: int


def list_folders() -> list[OldFolder]:
    """The folders of earlier versions, the last pulled first."""
    root = home() / "models"
    found = [path / MANIFEST for path in (root.iterdir() if root.is_dir() else ()) if path.name[0] != "."]
    found = sorted((path for path in found if path.is_file()), key=lambda path: -path.stat().st_mtime_ns)
    return [read_folder(path.parent) for path in found]


def read_folder(folder: Path) -> OldFolder:
    """What a folder with a manifest holds; one that is damaged is still told, so that its size is seen."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    try:
        value = files.read_json(folder / MANIFEST, _MANIFEST_LIMIT)
    except InputError:
        value = None
    manifest: dict[str, Any] = value if isinstance(value, dict) else {}
    texts: dict[str, Any] = {key: manifest.get(key) for key in ("id", "revision", "asked")}
    if manifest.get("schema") != "kl-lens/model/1" or not all(isinstance(t, str) for t in texts.values()):
        return OldFolder(folder, folder.name, "", "", False, size)
    return OldFolder(folder, **texts, complete=manifest.get("complete") is True, bytes=size)


def model_paths(folder: Path) -> list[Path]:
    """The files of the model itself."""
    return [
        path
        for path in folder.iterdir()
        if path.is_file() and path.name not in (MANIFEST, ".lock") and path.suffix != ".partial"
    ]


def remove(folder: Path) -> None:
    """Delete a folder, first aside as a whole: a half-deleted model must never look usable."""
    gone = folder.with_name(f".{folder.name}.removed")  # not listed any more
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone)
