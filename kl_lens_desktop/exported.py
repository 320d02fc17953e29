"""Whether an exported folder is still as it was written: its card records size and SHA-256 of every file."""

from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import CARD, MODEL_XML, WEIGHTS, read_json, sha256

_MEASURED_LATER = (CARD, "plan.json", "README.md")  # to which figures are added


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file that stays as it is, by name."""
    files = sorted(path for path in folder.iterdir() if path.name not in _MEASURED_LATER)
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def damage(folder: Path, *, hashes: bool = False) -> str:
    """What is wrong with an exported folder, in words; empty if nothing is.

    Of folders that were exported before there was a record, or by other programs, only graph and weights are
    asked for.

    Parameters
    ----------
    hashes : bool
        Also read every file, at a gigabyte or two a second.
    """
    if not (folder / MODEL_XML).is_file() or not (folder / WEIGHTS).is_file():
        return "it has no openvino_model.xml and .bin"
    if not (folder / CARD).is_file():
        return ""
    try:
        card = read_json(folder / CARD)
        record = card.get("contents", {})
        files = [(str(name), int(about["bytes"]), str(about["sha256"])) for name, about in record.items()]
    except (InputError, AttributeError, KeyError, TypeError, ValueError):
        return f"{CARD} is damaged"
    for name, size, digest in files:
        path = folder / Path(name).name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name} is damaged: it has {found:,} bytes, not {size:,}"
        if hashes and sha256(path) != digest:
            return f"{name} is damaged: its SHA-256 is not the one it was written with"
    return ""
