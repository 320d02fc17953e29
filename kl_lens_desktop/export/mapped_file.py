"""A temporary file for arrays that are read from it as if they lay in memory."""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
_SEGMENT = 64 * 2**20  # mapped at once: every mapping keeps a file open


class MappedFile:
    """Arrays put into a new file, and mapped: the system keeps what it has memory for, and reads the rest.

    What is written goes through the file, for a full disk would end a process that writes through a mapping;
    the mapping shows it at once.
    OpenVINO's constants do not hold what they share: it lasts until the file is closed.

    Parameters
    ----------
    path : Path
        Removed by the caller.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("xb", buffering=0)
        self._segments: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)]
        self._start = self._end = 0  # in the file: of the last segment, and of what is written

    def put(self, size: int, parts: Iterable[NDArray[Any]]) -> NDArray[np.uint8]:
        """The bytes of `parts`, `size` of them in all, one after the other; they may only be read."""
        place = self._end + -self._end % _ALIGNMENT
        if place + size > self._start + len(self._segments[-1]):
            place = self._start = self._end + -self._end % mmap.ALLOCATIONGRANULARITY
            length = max(size, _SEGMENT)
            self._file.truncate(place + length)
            self._segments.append(np.memmap(self._path, np.uint8, "r", place, (length,)))
        self._file.seek(place)
        for part in parts:
            rest = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            while rest:
                rest = rest[self._file.write(rest) :]
        self._end = self._file.tell()
        assert self._end == place + size
        return self._segments[-1][place - self._start :][:size]

    def close(self) -> None:
        """Unmap it: Windows removes no mapped file."""
        self._file.close()
        self._segments.clear()
