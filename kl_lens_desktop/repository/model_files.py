"""Which files a model consists of, in a folder or in a repository: the one list that everything uses.

What is hashed, loaded, sized, downloaded and copied is chosen here alone. Needs no torch.
"""

import codecs
import contextlib
import json
import math
import re
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.files import reason
from kl_lens_desktop.repository.names import is_safe_name

CONFIG, GENERATION, INDEX = "config.json", "generation_config.json", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SINGLE, _SUFFIX = "model.safetensors", ".safetensors"
_MB = 2**20
# Several times what the largest published models have.
_MOST_BYTES = {
    CONFIG: 4 * _MB,
    GENERATION: _MB,
    INDEX: 64 * _MB,
    TOKENIZER: 64 * _MB,
    TOKENIZER_CONFIG: 16 * _MB,
    "special_tokens_map.json": 16 * _MB,
    "added_tokens.json": 16 * _MB,
    "vocab.json": 64 * _MB,
    "vocab.txt": 64 * _MB,
    "merges.txt": 64 * _MB,
    "tokenizer.model": 64 * _MB,
    "chat_template.jinja": 4 * _MB,
    "chat_template.json": 4 * _MB,
}
_LICENCE = re.compile(r"(LICENSE|NOTICE)(\.\w+)?")
MOST_DOCUMENT_BYTES = 16 * _MB
_DEEPEST = 64
_FLAT = ("vocab", "merges")  # a million entries, which only the tokenizer's own library reads
_SHARD = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,6})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class UnusableError(Exception):
    """A folder or repository is no model that can be opened: `why`, and the `next_step` that helps."""

    def __init__(self, why: str, next_step: str) -> None:
        super().__init__(why, next_step)
        self.why, self.next_step = why, next_step


class PicklesError(UnusableError):
    """There are weights, but only as pickles."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model folder.

    Attributes
    ----------
    folder : Path
    weights : tuple of Path
        The safetensors files in order of name.
    index : dict
        The file name of every tensor, as the folder's index says; empty without one.
    small : tuple of Path
        Configuration, tokenizer and generation files: what an exported model takes along.
    """

    folder: Path
    weights: tuple[Path, ...]
    index: dict[str, str]
    small: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """What the weights weigh on disk."""
        return sum(file.stat().st_size for file in self.weights)


def model_files(folder: Path) -> ModelFiles:
    """The files that make up the model in `folder`; what is in them is not read, but for the index.

    Raises
    ------
    ModelError
        If there is no config.json, it is unclear which files hold the weights, or one of the files is
        missing, a link to somewhere else, no regular file or too large.
    """
    try:
        names = {path.name for path in folder.iterdir() if path.is_file() or path.is_symlink()}
    except OSError as error:
        raise ModelError(f"Cannot open {folder}", reason(error), "Choose another folder") from error
    small = [name for name in _MOST_BYTES if name in names and name != INDEX]
    if CONFIG not in small:
        missing = no_config(names)
        raise ModelError(f"Cannot open {folder}", missing.why, missing.next_step)
    if SINGLE in names and folder.parent.name == "snapshots":
        names.discard(INDEX)  # of shards that are there too: the Hub's cache holds what other tools pulled
    index = parse_index(read_bytes(_own_file(folder, INDEX)), folder / INDEX) if INDEX in names else {}
    try:
        if index and SINGLE in names and SINGLE not in index.values():
            raise UnusableError(
                f"it has a {SINGLE} and a {INDEX} that names other files",
                "Remove the ones that you do not want",
            )
        weights = weight_names(names, index)
    except UnusableError as error:
        raise ModelError(f"Cannot open {folder}", error.why, error.next_step) from error
    return ModelFiles(
        folder,
        tuple(_own_file(folder, name) for name in weights),
        index,
        tuple(_own_file(folder, name) for name in small),
    )


def is_licence(name: str) -> bool:
    """Whether a file of that name says what others may do with the model."""
    return bool(_LICENCE.fullmatch(name))


def licence_files(folder: Path) -> list[Path]:
    """The licence of a model folder and its notices, in order of name, but for links to somewhere else."""
    found = []
    for name in sorted(path.name for path in folder.iterdir() if is_licence(path.name)):
        with contextlib.suppress(ModelError):
            path = _own_file(folder, name)
            found += [path] if path.stat().st_size <= MOST_DOCUMENT_BYTES else []
    return found


def no_config(names: Collection[str]) -> UnusableError:
    """What files without a config.json are."""
    if "adapter_config.json" in names:
        return UnusableError(
            "it is an adapter for another model", "Merge it into that model first, or choose that model"
        )
    return UnusableError("it has no config.json", "Choose a model in transformers' layout")


def weight_names(names: Collection[str], index: dict[str, str]) -> list[str]:
    """Which of the files called `names` hold the weights, in order of name.

    Those that the index names; without one ``model.safetensors``, else a whole set of shards, else the only
    safetensors file that there is.

    Raises
    ------
    UnusableError
        If one is missing, its name is not that of a file in the same folder, there are several choices, or
        there are only pickles.
    """
    found = sorted(name for name in names if name.endswith(_SUFFIX))
    if not found and any(name.endswith(_PICKLES) for name in names):
        raise PicklesError(
            "its weights are pickles, which can run code",
            "KL Lens reads only safetensors: convert the model, or choose another",
        )
    if index:
        return _named_by(index, names)
    if not found:
        raise UnusableError(
            "it has no *.safetensors", "KL Lens reads only safetensors: convert the model, or choose another"
        )
    if SINGLE in found:
        return [SINGLE]
    sets = _shards(found)
    if len(sets) > 1:  # an adapter or a copy in another precision may lie beside the model
        sets = {key: files for key, files in sets.items() if key[0].startswith("model")}
    if len(sets) == 1:
        ((stem, count), files) = next(iter(sets.items()))
        if len(files) != count:
            why = f"it has {len(files)} of the {count} weight files of {stem}"
            raise UnusableError(why, "Download the model again")
        return files
    if len(found) == 1:
        return found
    raise UnusableError(
        f"it has several weight files and no {INDEX} that says which of them belong together: "
        f"{listed(found)}",
        "Keep only the files of one model",
    )


def most_bytes(name: str) -> int | None:
    """The most bytes that a file of that name may have beside the weights; None if no model needs it."""
    return _MOST_BYTES.get(name)


def read_bytes(path: Path) -> bytes:
    """A small file of a model folder, without the byte-order mark that some editors put before text.

    Raises
    ------
    ModelError
        If it is larger than any real one or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES[path.name] + 1)
    except OSError as error:
        raise ModelError(f"Cannot read {path}", reason(error), "Check the file") from error
    _check_size(path, len(content))
    return content.removeprefix(codecs.BOM_UTF8)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file of a model folder from anyone.

    Raises
    ------
    ModelError
        If the file is too large, cannot be read, or `parse_object` refuses it.
    """
    return parse_object(read_bytes(path), path)


def parse_object(
    content: bytes, path: Path, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> dict[str, Any]:
    """The JSON object that was read from `path`, whose objects `pairs` makes of their keys and values.

    NaN and Infinity are read, since published configurations hold them.

    Raises
    ------
    ModelError
        If it is not UTF-8, not JSON, nested too deeply or no object.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=pairs)
    except RecursionError as error:
        raise _damaged(path, "it is nested too deeply") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise _damaged(path, f"it is not valid JSON ({str(error)[:100]})") from error
    if not isinstance(value, dict):
        raise _damaged(path, "it is not a JSON object")
    if _is_deep(value):
        raise _damaged(path, "it is nested too deeply")
    return value


def strict_json(content: bytes) -> bytes:
    """JSON that every reader takes: NaN and infinity as transformers writes them, ``{"__float__": "NaN"}``.

    JSON has no such numbers, and only Python reads them. What has none stays as it is.
    """
    found = False

    def tagged(name: str) -> dict[str, str]:
        nonlocal found
        found = True
        return {"__float__": name}

    def number(text: str) -> float | dict[str, str]:
        value = float(text)
        return value if math.isfinite(value) else tagged("Infinity" if value > 0 else "-Infinity")

    value = json.loads(content.decode("utf-8-sig"), parse_constant=tagged, parse_float=number)
    return json.dumps(value, indent=2, ensure_ascii=False).encode() if found else content


def parse_index(content: bytes, path: Path) -> dict[str, str]:
    """The file name of every tensor, as the index read from `path` says.

    Raises
    ------
    ModelError
        If it is no such index, or names a tensor twice.
    """
    shards = parse_object(content, path, _unique_keys).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise _damaged(path, "it has no weight_map")
    if wrong := next((tensor for tensor, name in shards.items() if not isinstance(name, str)), None):
        raise _damaged(path, f"it names no file for {wrong[:80]}")
    return shards


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few of many names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + more


def _named_by(index: dict[str, str], names: Collection[str]) -> list[str]:
    wanted = sorted(set(index.values()))
    if bad := next((name for name in wanted if not is_safe_name(name) or not name.endswith(_SUFFIX)), None):
        raise UnusableError(
            f"{INDEX} names {bad[:80]!r}, which is not a safetensors file in the same folder",
            "Download the model again",
        )
    if len({name.casefold() for name in wanted}) != len(wanted):
        raise UnusableError(
            f"{INDEX} names files that differ only in capital letters: {listed(wanted)}",
            "Choose another model",
        )
    if missing := [name for name in wanted if name not in names]:
        raise UnusableError(
            f"{INDEX} names files that are missing: {listed(missing)}", "Download the model again"
        )
    return wanted


def _shards(names: list[str]) -> dict[tuple[str, int], list[str]]:
    """The files of every set such as ``model-00001-of-00002.safetensors``, by its stem and their number."""
    sets: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        if (match := _SHARD.fullmatch(name)) and 1 <= int(match[2]) <= int(match[3]):
            sets.setdefault((match[1], int(match[3])), {})[int(match[2])] = name
    return {key: sorted(files.values()) for key, files in sets.items()}


def _own_file(folder: Path, name: str) -> Path:
    """The file of that name, which must lie in the folder or be a link of the Hub's cache to its blobs."""
    path = folder / name
    home = folder.resolve()
    try:
        real = path.resolve(strict=True)
        about = real.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise ModelError(
            f"Cannot open {folder}", f"{name} is a link to nothing", "Download the model again"
        ) from error
    if real.parent != home and not (home.parent.name == "snapshots" and _is_blob(real, home.parent.parent)):
        raise ModelError(
            f"Cannot open {folder}",
            f"{name} is a link to a file outside the folder",
            "Copy the file itself into the folder",
        )
    if not stat.S_ISREG(about.st_mode):
        raise ModelError(f"Cannot open {folder}", f"{name} is not a regular file", "Download the model again")
    if name in _MOST_BYTES:
        _check_size(path, about.st_size)
    return path


def _is_blob(real: Path, repository: Path) -> bool:
    """Whether a file is where huggingface_hub's cache keeps contents: of one repository, or shared by all."""
    return real.parent == repository / "blobs" or real.parent.parent == repository.parent / "blobs"


def _check_size(path: Path, size: int) -> None:
    most = _MOST_BYTES[path.name]
    if size > most:
        raise ModelError(
            f"Cannot read {path}",
            f"it is larger than {most // _MB} MB, which no real one is",
            "Choose another model",
        )


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (inner for key, inner in value.items() if key not in _FLAT)
    return cast(list[Any], value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"Cannot read {path}", why, "Download the model again")
