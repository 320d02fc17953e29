"""A model folder's safetensors files: present, whole, and identified by their hash. Needs no torch."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.files import sha256

_HEADER_LIMIT = 100 * 2**20  # the limit of the safetensors format itself


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder in order of name, each checked to be whole.

    Raises
    ------
    ModelError
        If there are none, one that the index names is missing, or one is cut short or damaged.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"Cannot open {folder}", f"{index.name} is damaged", "Download it again"
            ) from error
        files = sorted(folder / Path(name).name for name in names)
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"Cannot open {folder}",
            "it has no safetensors files, the only weight format that is safe to open",
            "Choose a model with safetensors files",
        )
    for file in files:
        _check_whole(file)
    return files


def weights_sha256(files: list[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """A checkpoint's identity: its file's SHA-256 or, of several, that of their lines "name sha256"."""
    digests = [f"{file.name} {sha256(file, on_bytes)}" for file in files]
    if len(digests) == 1:
        return digests[0].split()[-1]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _check_whole(file: Path) -> None:
    if not file.is_file():
        raise ModelError(f"Cannot open {file.parent}", f"{file.name} is missing", "Download the model again")
    header = _header(file)
    entries = (entry for name, entry in header.items() if name != "__metadata__")
    ends = [entry.get("data_offsets", [0, 0])[1] for entry in entries]
    with file.open("rb") as opened:
        start = 8 + int.from_bytes(opened.read(8), "little")
    if start + max(ends, default=0) != file.stat().st_size:
        raise ModelError(f"Cannot open {file}", "the file is incomplete or damaged", "Download it again")


def _header(file: Path) -> dict[str, dict[str, Any]]:
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= min(_HEADER_LIMIT, os.path.getsize(file)):
                raise ValueError("the header does not fit")
            header = json.loads(opened.read(length))
            if not all(isinstance(entry, dict) for entry in header.values()):
                raise ValueError("the header is invalid")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"Cannot open {file}", "the file is incomplete or damaged", "Download it again"
        ) from error
    except OSError as error:
        raise ModelError(f"Cannot open {file}", error.strerror or str(error), "Check the file") from error
    return dict(header)
