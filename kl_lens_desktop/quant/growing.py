"""A file of integers that takes hours to make, kept in parts on the way, so that a killed job goes on.

The parts are files of integers themselves, ``NAME.part1.safetensors`` and so on beside ``NAME.safetensors``,
which a later job reads as it reads that one. The bytes of the whole tell nothing of them. Needs no torch.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kl_lens_desktop.quant.integers import (
    SUFFIX,
    Integers,
    Packed,
    Pair,
    Writer,
    held_integers,
    writing,
)

_PART_S = 120.0  # of work, at least, in a part


def parts_of(path: Path) -> list[Path]:
    """The parts that lie beside `path`, in their order."""
    named = re.compile(rf"{re.escape(path.stem)}\.part(\d+){re.escape(SUFFIX)}")
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for file in path.absolute().parent.iterdir():
            if match := named.fullmatch(file.name):
                found.append((int(match[1]), file))
    return [file for _, file in sorted(found)]


def remove(path: Path) -> None:
    """Remove a file of integers and its parts."""
    for file in (path, *parts_of(path)):
        file.unlink(missing_ok=True)


class Growing:
    """The integers at `path` and in its parts, as far as they are of that model, record and those shapes.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        Of the weights.
    """

    def __init__(
        self,
        path: Path,
        model_sha256: str,
        record: Mapping[str, Any],
        shapes: Mapping[str, Sequence[int]],
    ) -> None:
        self._path, self._model_sha256, self._record = path, model_sha256, record
        self._shapes = shapes
        self._held: dict[Pair, Integers] = {}
        self._nearest: set[Pair] = set()
        self._part: Writer | None = None
        self._open = contextlib.ExitStack()
        self._begun = 0.0
        self._count = 0
        self.is_in_parts = bool(parts_of(path))
        for file in (path, *parts_of(path)):
            self._take(file)

    @property
    def held(self) -> Mapping[Pair, Integers]:
        """The files of what is rounded."""
        return self._held

    @property
    def pairs(self) -> set[Pair]:
        """What is rounded, or noted as better rounded to nearest."""
        return self._held.keys() | self._nearest | (self._part.pairs if self._part else set())

    @contextlib.contextmanager
    def by(self, sizes: Sequence[int]) -> Iterator["Growing"]:
        """Add pairs of at most those `sizes` in bytes; after the block all is in the file at `path`.

        What is added before an exception stays where it is, for another time.

        Raises
        ------
        InputError
            As `integers.writing` does.
        """
        self._sizes = sizes
        with self._open:
            yield self
            self._end_part()
        self._join()

    def add(self, pair: Pair, packed: Packed) -> None:
        """A weight in a format; nothing happens if it is there already."""
        if pair not in self._held:
            self._writer().add(pair, packed)
            self._end_part(_PART_S)

    def add_nearest(self, pair: Pair) -> None:
        """Note that nearest rounding is better for a pair."""
        if pair not in self._nearest:
            self._writer().add_nearest(pair)
            self._end_part(_PART_S)

    def _writer(self) -> Writer:
        if self._part is None:
            # The first of all needs no other name, and other stages find it if the job goes no further.
            self._file = self._path
            if self._held or self._nearest:
                numbers = [int(part.stem.rpartition("part")[2]) for part in parts_of(self._path)]
                name = f"{self._path.stem}.part{max(numbers, default=0) + 1}{SUFFIX}"
                self._file = self._path.with_name(name)
            left = self._sizes[self._count :]
            self._part = self._open.enter_context(
                writing(self._file, self._model_sha256, self._record, left or [0])
            )
            self._begun = time.monotonic()
        self._count += 1
        return self._part

    def _end_part(self, after: float = 0.0) -> None:
        """Place the part that is written, if that has taken so many seconds."""
        if self._part is not None and time.monotonic() - self._begun >= after:
            self._part = None
            self._open.close()
            self._take(self._file)

    def _take(self, file: Path) -> None:
        if held := held_integers(file, self._model_sha256, self._record):
            known = [pair for pair in held.pairs if pair[0] in self._shapes]
            self._held |= {pair: held for pair in known if held.fits(pair, self._shapes[pair[0]])}
            self._nearest |= held.nearest

    def _join(self) -> None:
        """Everything in one file, in the same order and with the same bytes however it came about."""
        pairs, nearest = sorted(self._held), sorted(self._nearest - self._held.keys())
        if not (pairs or nearest):
            return
        sizes = [self._held[pair].size(pair) for pair in pairs] + [0] * len(nearest)
        with writing(self._path, self._model_sha256, self._record, sizes, whole=True) as writer:
            for pair in pairs:
                writer.add(pair, self._held[pair].whole(pair))
            for pair in nearest:
                writer.add_nearest(pair)
        for part in parts_of(self._path):
            part.unlink(missing_ok=True)
