"""Frozen dataclasses as JSON and back: strictly between processes, leniently from settings kept for years."""

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from kl_lens_desktop.errors import InputError

Record = TypeVar("Record")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


class _Wrong(Exception):
    """A value that is not of its field's type, in words."""


def encode(record: Any) -> dict[str, Any]:
    """A record as JSON: paths as texts, tuples as lists, records in it as objects."""
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def decode(kind: type[Record], value: object) -> Record:
    """The record of what `encode` gave.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are str, int, float, bool, Path or records, or tuples, dicts by name and
        optionals of these.

    Raises
    ------
    InputError
        If a name is unknown, a value is missing or is not of its field's type.
    """
    try:
        made = _record(kind, value)
    except _Wrong as wrong:
        raise InputError(f"Cannot use the {kind.__name__} given", str(wrong), "Correct it") from None
    return typing.cast(Record, made)


def decode_known(
    kind: type[Record], value: object, set_aside: list[str] | None = None, place: str = ""
) -> Record:
    """The record of settings that another version may have written, and of the records in it.

    Fields that are unknown, missing or damaged have their defaults, which every field of `kind` must have.

    Parameters
    ----------
    set_aside : list of str, optional
        Gets the names of what is unknown or damaged.
    place : str
        Where `value` is, for those names.
    """
    aside = [] if set_aside is None else set_aside
    given, hints = value if isinstance(value, dict) else {}, _hints(kind)
    aside += [place or kind.__name__] if value is not None and given is not value else []
    aside += [_inside(place, str(name)) for name in given if name not in hints]
    good: dict[str, Any] = {}
    for name, hint in hints.items():
        if name in given:
            with contextlib.suppress(_Wrong):
                good[name] = _known(hint, given[name], aside, _inside(place, name))
    return kind(**good)


def _known(hint: Any, value: object, aside: list[str], place: str) -> Any:
    """A value as far as it is known; what else is in it goes to `aside`."""
    if dataclasses.is_dataclass(hint):
        return decode_known(typing.cast(type[Any], hint), value, aside, place)
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is dict and isinstance(value, dict) and dataclasses.is_dataclass(parts[1]):
        return {
            str(name): _known(parts[1], item, aside, _inside(place, str(name)))
            for name, item in value.items()
        }
    try:
        return _value(hint, value, place)
    except _Wrong:
        aside.append(place)
        raise


def paths(value: Any) -> Iterator[Path]:
    """Every path in a record, whatever it is in."""
    if isinstance(value, Path):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from paths(getattr(value, field.name))
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from paths(item)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return encode(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _record(kind: type[Any], value: object, place: str = "") -> Any:
    if not isinstance(value, dict):
        raise _Wrong(f"{place or kind.__name__} is {_short(value)}, not an object")
    hints = _hints(kind)
    if unknown := sorted(map(str, set(value) - set(hints))):
        raise _Wrong(f"{_inside(place, unknown[0])} is unknown")
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(needed - set(value)):
        raise _Wrong(f"{_inside(place, missing[0])} is missing")
    return kind(**{name: _value(hints[name], item, _inside(place, name)) for name, item in value.items()})


def _value(hint: Any, value: object, place: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        (hint,) = (part for part in parts if part is not type(None))
        return _value(hint, value, place)
    if origin is tuple:
        return _items(parts, value, place)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise _Wrong(f"{place} is {_short(value)}, not an object")
        return {name: _value(parts[1], item, _inside(place, name)) for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _record(typing.cast(type[Any], hint), value, place)
    return _simple(hint, value, place)


def _items(parts: tuple[Any, ...], value: object, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"{place} is {_short(value)}, not a list")
    hints = [parts[0]] * len(value) if parts[1:] == (...,) else list(parts)
    if len(hints) != len(value):
        raise _Wrong(f"{place} has {len(value)} items, not {len(hints)}")
    pairs = zip(hints, value, strict=True)
    return tuple(_value(hint, item, f"{place}[{index}]") for index, (hint, item) in enumerate(pairs))


def _simple(kind: Any, value: object, place: str) -> Any:
    is_bool = isinstance(value, bool)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind is float and isinstance(value, (int, float)) and not is_bool and math.isfinite(value):
        return float(value)
    if kind in (str, int, bool) and isinstance(value, kind) and (kind is bool or not is_bool):
        return value
    raise _Wrong(f"{place} is {_short(value)}, not {_WORDS[kind]}")


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _short(value: object) -> str:
    return repr(value)[:60]
