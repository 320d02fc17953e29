"""Files that are either whole or not there: atomic writes, bounded reads, hashes."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kl_lens_desktop import temporary
from kl_lens_desktop.errors import InputError

JSON_LIMIT = 256 * 2**20
DEPTH_LIMIT = 32  # of files of ours, which need ten
CARD = "kl_lens.json"  # says what an exported folder is, and lists its files
MODEL_XML = "openvino_model.xml"  # its graph
WEIGHTS = "openvino_model.bin"  # and the weights of it
NPU_MODEL = "openvino_model_npu.xml"  # a second graph in it, of the same weights
_BRIEFLY_S = 2.0
_WRITE_ADVICE = "Choose a folder with free space that you may write to"


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 so that a reader sees the old file or the new one, never half of either.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    # Names may hold lone surrogates, which UTF-8 does not have; escaped so, JSON reads them back.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` as `write_text` does a text."""
    _check_file_name(path)
    place = behind_links(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.sweep_partials(place.parent)
        with temporary.partial_of(place) as partial:
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with temporary.placing():
                rename(partial, place)
    except OSError as error:
        raise InputError(f"Cannot write {path}", reason(error), _WRITE_ADVICE) from error


def behind_links(path: Path) -> Path:
    """Where to write what a person calls `path`: a link stays, and what it points at is written."""
    return path.resolve() if path.is_symlink() else path.absolute()


def check_file(path: Path) -> None:
    """Raise `InputError` now if `write_text` would."""
    _check_file_name(path)
    check_writable(behind_links(path).parent)


def _check_file_name(path: Path) -> None:
    if not path.name:
        raise InputError(f"Cannot write {str(path)!r}", "it is not the name of a file", "Give a file name")
    if path.exists() and not path.is_file():
        raise InputError(f"Cannot write {path}", "it is not a file", "Choose another name")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN and infinity, which JSON lacks, are refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_start(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a regular file, or all of it.

    Raises
    ------
    InputError
        If it cannot be read, or is a folder, a device or a pipe, which may have no end.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            why = "it is a folder" if stat.S_ISDIR(about.st_mode) else "it is a device or a pipe"
            raise InputError(f"Cannot read {path}", why, "Choose a file")
        with path.open("rb") as file:
            return file.read(min(limit, about.st_size + 1))  # for as much is set aside at once
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = reason(error) if isinstance(error, OSError) else "that is no file name"
        raise InputError(f"Cannot read {path}", why, "Check the name") from error


def read_document(path: Path, limit: int = JSON_LIMIT) -> str:
    """The whole text of a UTF-8 file of at most `limit` bytes; `InputError` if it is none."""
    content = read_start(path, limit + 1)
    if len(content) > limit:
        raise InputError(
            f"Cannot read {path}", f"it is larger than {limit // 2**20} MB", "Choose another file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read {path}", "it is not UTF-8 text", "Choose another file") from error


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file of at most `limit` bytes from anyone.

    Raises
    ------
    InputError
        If the file is absent, no regular file, too large, not UTF-8, not JSON, nested more than `DEPTH_LIMIT`
        deep, or holds a key twice or a number that JSON does not allow or that is not finite.
    """
    text = read_document(path, limit)
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
        _check_depth(value)
    except RecursionError as error:
        raise InputError(f"Cannot read {path}", "it is nested too deeply", "Choose another file") from error
    except ValueError as error:
        several = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        why = "it holds more than one JSON value" if several else f"it is not valid JSON ({error})"
        raise InputError(f"Cannot read {path}", why, "Choose another file") from error
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [[value]]
    for _ in range(DEPTH_LIMIT):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in inner for child in each if isinstance(child, (dict, list))]
    if level:
        raise RecursionError


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:40]} is too large a number")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


@contextlib.contextmanager
def atomic_folder(target: Path, manifest: str) -> Iterator[Path]:
    """A staging folder beside `target` that takes its place if the block ends well and vanishes if not.

    An existing `target` is replaced only if it is empty, or its file `manifest` lists under ``files`` every
    name in it: one file of somebody else's, and the folder is left alone.

    Raises
    ------
    InputError
        If `target` is somebody else's folder or cannot be written.
    """
    check_folder(target, manifest)
    place = behind_links(target)
    temporary.sweep_partials(place.parent)
    with temporary.partial_of(place) as staging, temporary.partial_of(place) as aside:
        try:
            staging.mkdir()
        except OSError as error:
            raise InputError(f"Cannot write {target}", reason(error), _WRITE_ADVICE) from error
        yield staging
        try:
            with temporary.placing():
                if place.exists():
                    rename(place, aside)  # which fails whole where a file in it is open
                rename(staging, place)
        except OSError as error:
            if aside.exists() and not place.exists():
                rename(aside, place)
            raise InputError(
                f"Cannot replace {target}", reason(error), "Close the programs that use it"
            ) from error


def check_folder(target: Path, manifest: str) -> None:
    """Raise `InputError` now if `atomic_folder` would."""
    target = behind_links(target)
    if target.exists() and not target.is_dir():
        raise InputError(f"Cannot write {target}", "a file with that name exists", "Choose another folder")
    if target.is_dir() and not {path.name for path in target.iterdir()} <= _listed(target / manifest):
        raise InputError(f"Cannot write {target}", "it contains other files", "Choose an empty or new folder")
    check_writable(target.parent)


def _listed(manifest: Path) -> set[str]:
    try:
        return set(read_json(manifest)["files"])
    except (InputError, KeyError, TypeError):
        return set()


def set_aside(path: Path, patience_s: float | None = None) -> Path:
    """Keep a file that another will replace as ``NAME-before``, patient as `rename`; return its place."""
    kept = path.with_stem(f"{path.stem}-before")
    rename(path, kept, patience_s)
    return kept


def rename(source: Path, target: Path, patience_s: float | None = None) -> None:
    """`os.replace`, tried again on Windows, where a virus scanner or a reader may hold a file.

    Parameters
    ----------
    patience_s : float, optional
        How long to try; by default a minute for a folder, since scanners read what has just been written to
        it and none of it may be open, and ten seconds for a file.
    """
    if patience_s is None:
        patience_s = 60.0 if source.is_dir() else 10.0
    until, pause_s = time.monotonic() + patience_s, 0.05
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 1.0)


def remove_folder(folder: Path) -> None:
    """Delete a folder, first aside as a whole: what is half deleted must never look usable.

    Raises
    ------
    OSError
        If it cannot be moved aside: on Windows, while a file in it is open. It is then as it was.
    """
    gone = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    rename(folder, gone, _BRIEFLY_S)
    shutil.rmtree(gone)


def check_unused(folder: Path) -> None:
    """Raise `OSError` now if deleting `folder` would stop half-way: on Windows, at a file that is open."""
    if sys.platform == "win32":
        aside = folder.with_name(f".{folder.name}.removed")
        rename(folder, aside, _BRIEFLY_S)
        rename(aside, folder)


def check_writable(folder: Path) -> None:
    """Raise `InputError` now, before hours of work, if nothing can be written into `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not `tempfile`: refused, it would try two billion names on Windows before Python 3.13.
        with temporary.partial_of(folder / "check") as partial:
            partial.open("xb").close()
    except OSError as error:
        raise InputError(f"Cannot write into {folder}", reason(error), _WRITE_ADVICE) from error


def check_replaceable(path: Path, kind: str) -> None:
    """Raise `InputError` now if `path` cannot be written, or holds anything but a file of ours of that kind.

    Parameters
    ----------
    kind : str
        Such as ``plan``, of the schema ``kl-lens/plan/1``, which our files name first.
    """
    check_writable(behind_links(path).parent)
    if path.exists():
        _check_file_name(path)
        start = read_start(path, 200)
        if f'"schema": "kl-lens/{kind}/'.encode() not in start:
            raise InputError(f"Cannot write {path}", "it contains something else", "Choose another name")


def sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in hexadecimal; `on_bytes` is told the size of each piece as it is read."""
    digest = hashlib.sha256()
    for piece in pieces(path):
        digest.update(piece)
        if on_bytes:
            on_bytes(len(piece))
    return digest.hexdigest()


def pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, 4 MB at a time."""
    with path.open("rb") as file:
        while piece := file.read(4 * 2**20):
            yield piece


def link_or_copy(source: Path, target: Path, check: Callable[[], None]) -> None:
    """Give a file a second name, which takes no room and no right as symbolic links do; or copy it.

    `check` is called before every piece that is copied, and may raise.
    """
    # At once under its name: Windows renames no file that another program has open under any of its names.
    with contextlib.suppress(OSError):  # another disk
        target.unlink(missing_ok=True)
        os.link(source, target)
        return
    temporary.sweep_partials(target.parent)
    with temporary.partial_of(target) as partial:
        with partial.open("wb") as new:
            for piece in pieces(source):
                check()
                new.write(piece)
        rename(partial, target)


def reason(error: OSError) -> str:
    """Why the operating system refused, in plain words."""
    reasons = {
        errno.ENOENT: "there is no such file",
        errno.EACCES: "permission is denied",
        errno.EPERM: "permission is denied",
        errno.EROFS: "the disk is read-only",
        errno.ENOSPC: "the disk is full",
        errno.EISDIR: "it is a folder",
        errno.ENOTDIR: "a part of its path is a file",
        errno.EEXIST: "a part of its path is a file",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error))
