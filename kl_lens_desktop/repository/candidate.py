"""Whether a listed repository can be used, and which of its files, before any weight is downloaded."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kl_lens_desktop.repository.listing import HubFile, Repository
from kl_lens_desktop.repository.model_files import (
    CONFIG,
    INDEX,
    MOST_DOCUMENT_BYTES,
    SINGLE,
    UnusableError,
    is_licence,
    most_bytes,
    no_config,
    parse_index,
    parse_object,
    weight_names,
)
from kl_lens_desktop.repository.names import is_safe_name
from kl_lens_desktop.repository.native import TOKENIZER_OF, is_native
from kl_lens_desktop.repository.support import (
    check_architecture,
    check_tokenizer_files,
    check_unquantized,
    has_tokenizer,
)
from kl_lens_desktop.repository.text_part import text_config

_CARD = "README.md"


@dataclass(frozen=True, slots=True)
class UsableRepository:
    """A repository that can be used.

    Attributes
    ----------
    of : Repository
    config : dict
        Its config.json.
    small, weights : tuple of HubFile
        What opening it takes: configs, tokenizer, card and licence, and the safetensors.
    contents : dict of str to bytes
        Of the small files that were read to find that out.
    tokenizer_of : str
        The Hub id of the model whose tokenizer it needs; empty if it has its own.
    """

    of: Repository
    config: dict[str, Any]
    small: tuple[HubFile, ...]
    weights: tuple[HubFile, ...]
    contents: dict[str, bytes]
    tokenizer_of: str = ""

    @property
    def files(self) -> tuple[HubFile, ...]:
        return self.small + self.weights

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def candidate(of: Repository, read: Callable[[HubFile], bytes]) -> UsableRepository:
    """Read a repository's config.json, and its index if it has several weight files, and judge it by them.

    Of several copies of the weights one is taken, as transformers would: ``model.safetensors``, else what the
    index names, else its shards. Folders in the repository hold further copies and are left.

    Parameters
    ----------
    read : callable
        Gives the content of a file.

    Raises
    ------
    UnusableError
        If the repository cannot be used: its architecture is not known or is code of its own, it has no
        tokenizer, no config.json or no safetensors, its weights are quantized or unclear, or a file has no
        hash, is too large or has a name that is not safe to store.
    ModelError
        If one of the files that are read is damaged.
    """
    listed = {file.name: file for file in of.files}
    for name in filter(_is_needed, listed):
        if not all(map(is_safe_name, name.split("/"))):
            why = f"it contains a file named {name[:80]!r}, which is not safe to store"
            raise UnusableError(why, "Choose another model")
    names = {name for name in listed if "/" not in name}
    contents: dict[str, bytes] = {}

    def content(name: str) -> bytes:
        _check_listed(listed[name])
        return contents.setdefault(name, read(listed[name]))

    index = parse_index(content(INDEX), Path(INDEX)) if INDEX in names and SINGLE not in names else {}
    weights = weight_names(names, index)
    if CONFIG not in names:
        raise no_config(names)
    published = parse_object(content(CONFIG), Path(CONFIG))
    config = text_config(published)
    check_architecture(config)
    check_unquantized(published, names, _origin(of))
    lacks_tokenizer = is_native(published) and not has_tokenizer(names)
    if not lacks_tokenizer:
        check_tokenizer_files(names)
    taken = (name for name in sorted(names) if _is_needed(name) and not name.endswith(".safetensors"))
    # Of two that differ only in capital letters one is taken: Windows has room for one.
    small = {name.casefold(): listed[name] for name in taken if name != INDEX or index}
    large = tuple(listed[name] for name in weights)
    for file in (*small.values(), *large):
        _check_listed(file)
    tokenizer_of = TOKENIZER_OF if lacks_tokenizer else ""
    return UsableRepository(of, config, tuple(small.values()), large, contents, tokenizer_of)


def _origin(of: Repository) -> str:
    """The model that a quantized one says it was made from."""
    prefix = "base_model:quantized:"
    tags = (str(tag) for tag in of.about.tags or ())
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), "")


def _is_needed(name: str) -> bool:
    base = re.split(r"[\\/]", name)[-1]
    return base.endswith(".safetensors") or _most_bytes(base) is not None


def _most_bytes(name: str) -> int | None:
    """The most that a file beside the weights may have; None if it is not needed."""
    return MOST_DOCUMENT_BYTES if name == _CARD or is_licence(name) else most_bytes(name)


def _check_listed(file: HubFile) -> None:
    """Refuse a file that cannot be verified, or is larger than any real one of its name."""
    if not file.is_verifiable:
        raise UnusableError(f"the Hub gives no size or hash for {file.name}", "Try without HF_ENDPOINT")
    most = _most_bytes(file.name)
    if most and file.size > most:
        raise UnusableError(
            f"its {file.name} is larger than {most // 2**20} MB, which no real one is", "Choose another model"
        )
