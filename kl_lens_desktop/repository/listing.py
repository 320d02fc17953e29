"""A repository of models or data as its host lists it: which files there are, and how each is verified."""

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its size in bytes, and the hash that names its content in the cache.

    `etag` is the SHA-256 of a large file, and the SHA-1 of git's blob of a small one.
    """

    name: str
    size: int
    etag: str

    def new_digest(self) -> "hashlib._Hash":
        """What to feed the content to; its hexadecimal digest is then the `etag`."""
        if _SHA256.fullmatch(self.etag):
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    @property
    def is_verifiable(self) -> bool:
        """Whether there are a size and a hash to check the content by."""
        return self.size >= 0 and bool(_SHA256.fullmatch(self.etag) or _SHA1.fullmatch(self.etag))


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit: its id as the Hub spells it, all files, and what the Hub says of it.

    `kind` is ``model`` or ``dataset``.
    """

    id: str
    commit: str
    files: tuple[HubFile, ...]
    about: "ModelInfo"
    kind: str = "model"


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit hash, which always means the same files."""
    return bool(_SHA1.fullmatch(revision))
