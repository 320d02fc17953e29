"""Integers of weights that were rounded by data, in a file beside the scores or the plan. Needs no torch.

Each weight has three tensors, ``WEIGHT|FORMAT|elements`` (…, rows, bytes), ``…|scale`` (…, rows, groups) and,
where the format has them, ``…|zero_point``. Elements count from the lowest of the format; of 4 and 3 bits two
share a byte, of 2 bits four, the first lowest; one of 8 bits has its own. A matrix whose columns were
multiplied by powers of two before they were rounded has ``…|exponents`` (1, channels) too, and what it is
multiplied with is divided by them. The metadata names the model, the text the rounding looked at, the pairs
for which nearest rounding is better, and the SHA-256 of each pair.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop import temporary
from kl_lens_desktop.disk_space import room_for
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import behind_links, reason, rename
from kl_lens_desktop.quant.formats import SCALE_BYTES, Format, group_size, parse_format

SCHEMA = "kl-lens/integers/1"
SUFFIX = ".safetensors"
BY_DATA, IN_SEQUENCE = "gptq", "gptaq"  # how integers are chosen: see `sensitivity.sequential`
_HEADER_LIMIT = 64 * 2**20
_PAIR_HEADER = 1700  # bytes that a pair takes in the header, with the longest name of a weight, at most
_RECORD_BYTES = 8192
_DTYPES: dict[str, type[np.generic]] = {"U8": np.uint8, "F16": np.float16, "I8": np.int8}
MOST_POWER = 12  # the largest exponent of two by which a column is multiplied, either way
_PARTS = ("elements", "scale", "zero_point")  # of each row
_BUFFER = 2**24

Pair = tuple[str, str]  # weight, format


@dataclass(frozen=True, slots=True)
class Packed:
    """One weight in one format, as the file holds it: elements and zero points uint8, scales float16.

    `powers` are the exponents of two (1, channels), int8, by which its columns were multiplied before they
    were rounded, if they were.
    """

    elements: NDArray[np.uint8]
    scale: NDArray[np.float16]
    zero_point: NDArray[np.uint8] | None
    powers: NDArray[np.int8] | None = None

    @property
    def parts(self) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {"elements": self.elements, "scale": self.scale}
        if self.zero_point is not None:
            found["zero_point"] = self.zero_point
        return found if self.powers is None else {**found, "exponents": self.powers}

    def rows(self, pair: Pair, start: int, stop: int) -> "Packed":
        """Some rows, whose leading axes count as one; `pair` is what it holds, as of `Integers.rows`."""
        del pair
        flat = {
            name: part.reshape(-1, part.shape[-1])[start:stop]
            for name, part in self.parts.items()
            if name in _PARTS
        }
        return Packed(flat["elements"], flat["scale"], flat.get("zero_point"), self.powers)

    def exponents(self, pair: Pair) -> NDArray[np.int8] | None:
        """Of each column; as `Integers.exponents`."""
        del pair
        return None if self.powers is None else self.powers[0]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in the file."""

    dtype: type[np.generic]
    shape: tuple[int, ...]
    start: int

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Integers:
    """An open file; it is read anew for each request, so that nothing keeps it from being replaced.

    Attributes
    ----------
    path : Path
    model_sha256 : str
    record : dict
        Which text the rounding looked at, and how.
    nearest : frozenset of (weight, format)
        Pairs that were tried and for which nearest rounding is better.
    sha256 : dict
        Of each pair's tensors, one after the other.
    """

    path: Path
    model_sha256: str
    record: Mapping[str, Any]
    nearest: frozenset[Pair]
    sha256: Mapping[Pair, str]
    _places: Mapping[Pair, Mapping[str, _Place]] = field(repr=False)

    @property
    def pairs(self) -> set[Pair]:
        return set(self._places)

    def size(self, pair: Pair) -> int:
        """Bytes of its tensors."""
        return sum(place.rows * place.row_bytes for place in self._places[pair].values())

    def fits(self, pair: Pair, shape: Sequence[int]) -> bool:
        """Whether a weight of `shape` (…, channels) has tensors of these sizes in that format."""
        fmt, places = parse_format(pair[1]), self._places[pair]
        channels, lead = shape[-1], tuple(shape[:-1])
        groups = channels // group_size(fmt, channels)
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
            "elements": (np.uint8, (*lead, bytes_of_row(fmt, channels))),
            "scale": (np.float16, (*lead, groups)),
        }
        if fmt.has_zero_point:
            wanted["zero_point"] = np.uint8, (*lead, groups)
        if "exponents" in places and len(shape) == 2:
            wanted["exponents"] = np.int8, (1, channels)
        return wanted == {name: (place.dtype, place.shape) for name, place in places.items()}

    def rows(self, pair: Pair, start: int, stop: int) -> Packed:
        """Some rows of a weight, whose leading axes count as one."""
        places = self._places[pair]
        with _in_words(self.path), self.path.open("rb") as file:
            read = {name: _read(file, places[name], start, stop) for name in _PARTS if name in places}
            powers = self._powers(file, pair)
        return Packed(read["elements"], read["scale"], read.get("zero_point"), powers)

    def exponents(self, pair: Pair) -> NDArray[np.int8] | None:
        """Of two, by which each column was multiplied before it was rounded; None for as they are."""
        with _in_words(self.path), self.path.open("rb") as file:
            powers = self._powers(file, pair)
        return None if powers is None else powers[0]

    def _powers(self, file: BinaryIO, pair: Pair) -> NDArray[np.int8] | None:
        if (place := self._places[pair].get("exponents")) is None:
            return None
        powers = _read(file, place, 0, 1)
        if (np.abs(powers.astype(np.int32)) > MOST_POWER).any():
            raise InputError(
                f"Cannot use {self.path}",
                f"{pair[0]} has columns scaled by more than 2 to the {MOST_POWER}",
                "Analyze the model again",
            )
        return powers

    def whole(self, pair: Pair) -> Packed:
        """A weight in its own shape."""
        places = self._places[pair]
        flat = self.rows(pair, 0, places["elements"].rows)
        shaped = {name: part.reshape(places[name].shape) for name, part in flat.parts.items()}
        return Packed(shaped["elements"], shaped["scale"], shaped.get("zero_point"), shaped.get("exponents"))

    def is_sound(self, pair: Pair) -> bool:
        """Whether a pair's tensors have the hash that the file says."""
        return packed_sha256(self.whole(pair)) == self.sha256.get(pair)


def per_byte(fmt: Format) -> int:
    """How many elements share a byte."""
    return {2: 4, 8: 1}.get(fmt.bits, 2)


def bytes_of_row(fmt: Format, channels: int) -> int:
    """Bytes of the elements of one row."""
    return -(-channels // per_byte(fmt))


def packed_bytes(shape: Sequence[int], fmt: Format) -> int:
    """Bytes in the file of a weight of `shape` (…, channels), whose columns are as they were."""
    groups = shape[-1] // group_size(fmt, shape[-1])
    per_row = bytes_of_row(fmt, shape[-1]) + groups * (SCALE_BYTES + fmt.has_zero_point)
    return math.prod(shape[:-1]) * per_row


def most_packed_bytes(shape: Sequence[int], fmt: Format) -> int:
    """As `packed_bytes`, if its columns are scaled, too."""
    return packed_bytes(shape, fmt) + (shape[-1] if len(shape) == 2 else 0)


def packed_sha256(packed: Packed) -> str:
    """Of the tensors, one after the other."""
    digest = hashlib.sha256()
    for part in packed.parts.values():
        digest.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def open_integers(path: Path) -> Integers:
    """Open a file from anyone; of its tensors only the header is read.

    Raises
    ------
    InputError
        In one sentence, if it is no such file or is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise ValueError("its header has no such length")
            header = json.loads(file.read(length))
        return _opened(path, header, 8 + length, size)
    except OSError as error:
        raise InputError(f"Cannot read {path}", reason(error), "Check the file") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise InputError(
            f"Cannot use {path}", "it holds no rounded weights, or is damaged", "Analyze the model again"
        ) from error


def held_integers(path: Path, model_sha256: str, record: Mapping[str, Any]) -> Integers | None:
    """The file at `path`, if it is of these weights and of a rounding of that record."""
    with contextlib.suppress(InputError):
        held = open_integers(path)
        if held.model_sha256 == model_sha256 and held.record == record:
            return held
    return None


def _opened(path: Path, header: dict[str, Any], start: int, size: int) -> Integers:
    about = header.pop("__metadata__")
    if about["schema"] != SCHEMA:
        raise ValueError("another schema")
    places: dict[Pair, dict[str, _Place]] = {}
    for name, tensor in header.items():
        weight, fmt, part = name.split("|")
        if parse_format(fmt).bits > 8 or part not in (*_PARTS, "exponents"):
            raise ValueError("a tensor of another kind")
        place = _Place(_DTYPES[tensor["dtype"]], tuple(map(int, tensor["shape"])), start + _first(tensor))
        if not 2 <= len(place.shape) <= 4 or min(place.shape) < 1:
            raise ValueError("a tensor of no shape")
        end = start + int(tensor["data_offsets"][1])
        if place.start + place.rows * place.row_bytes != end or end > size:
            raise ValueError("a tensor that is not all there")
        places.setdefault((weight, fmt), {})[part] = place
    record = json.loads(about["rounding"])
    hashes = {_pair(key): str(value) for key, value in json.loads(about["sha256"]).items()}
    if hashes.keys() != places.keys() or not isinstance(record, dict):
        raise ValueError("hashes of other tensors")
    nearest = frozenset(_pair(key) for key in json.loads(about["nearest"]))
    return Integers(path, str(about["model"]), record, nearest, hashes, places)


def _first(tensor: dict[str, Any]) -> int:
    if (first := int(tensor["data_offsets"][0])) < 0:
        raise ValueError("a tensor before the first")
    return first


def _pair(key: str) -> Pair:
    weight, fmt = key.split("|")
    return weight, parse_format(fmt).name


def _read(file: BinaryIO, place: _Place, start: int, stop: int) -> NDArray[Any]:
    file.seek(place.start + start * place.row_bytes)
    values = np.fromfile(file, place.dtype, (stop - start) * place.shape[-1])
    return values.reshape(stop - start, place.shape[-1])


class Writer:
    """Writes pairs one after the other; see `writing`."""

    def __init__(self, file: BinaryIO, reserved: int, about: Mapping[str, Any]) -> None:
        self._file, self._reserved, self._about = file, reserved, dict(about)
        self._tensors: dict[str, Any] = {}
        self._sha256: dict[str, str] = {}
        self._nearest: list[str] = []
        self._end = 0
        file.seek(8 + reserved)

    @property
    def pairs(self) -> set[Pair]:
        """What it has, rounded or noted as better rounded to nearest."""
        return {_pair(key) for key in (*self._sha256, *self._nearest)}

    def add(self, pair: Pair, packed: Packed) -> None:
        """A weight in a format."""
        tensors, end = {}, self._end
        for name, part in packed.parts.items():
            data = np.ascontiguousarray(part).view(np.uint8).reshape(-1).data
            self._file.write(data)
            dtype = next(key for key, kind in _DTYPES.items() if part.dtype == kind)
            offsets = [end, end + len(data)]
            tensors["|".join((*pair, name))] = {
                "dtype": dtype, "shape": list(part.shape), "data_offsets": offsets
            }  # fmt: skip
            end += len(data)
        self._sha256["|".join(pair)] = packed_sha256(packed)
        self._tensors |= tensors
        self._end = end

    def add_nearest(self, pair: Pair) -> None:
        """Note that nearest rounding is better for a pair."""
        self._nearest.append("|".join(pair))

    def finish(self) -> None:
        """Write the header into the room that was kept for it."""
        about = {**self._about, "nearest": json.dumps(self._nearest), "sha256": json.dumps(self._sha256)}
        header = json.dumps({"__metadata__": about, **self._tensors}).encode()
        if len(header) > self._reserved:
            raise ValueError("more pairs than were announced")
        self._file.seek(0)
        self._file.write(self._reserved.to_bytes(8, "little") + header.ljust(self._reserved))
        self._file.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def writing(
    path: Path, model_sha256: str, record: Mapping[str, Any], sizes: Sequence[int], *, whole: bool = False
) -> Iterator[Writer]:
    """Write a file for pairs of at most those `sizes` in bytes; what was added by the end of the block stays.

    That is so if the block ends by an exception, too, but not where the file is wanted `whole`.

    Raises
    ------
    InputError
        If there is no room for it, or the folder cannot be written.
    """
    about = {"schema": SCHEMA, "model": model_sha256, "rounding": json.dumps(record)}
    reserved = -(-(_RECORD_BYTES + _PAIR_HEADER * len(sizes)) // 8) * 8
    place = behind_links(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.sweep_partials(place.parent)
        needed = reserved + sum(sizes)
        with (
            room_for("the rounded weights", needed, place.parent),
            temporary.partial_of(place) as partial,
            contextlib.closing(partial.open("xb", _BUFFER)) as file,
        ):
            writer = Writer(file, reserved, about)
            ended = False
            try:
                yield writer
                ended = True
            finally:
                if ended or not whole:
                    writer.finish()  # raises where the disk is full, and then the old file stays
                    file.close()  # Windows renames no open file
                    with temporary.placing():
                        rename(partial, place)
    except OSError as error:
        raise InputError(f"Cannot write {path}", reason(error), "Choose another folder") from error


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read {path}", "it changed while it was used", "Start the job again"
        ) from error
