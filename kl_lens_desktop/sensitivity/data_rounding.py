"""Integers for weights by what a text gives them for inputs, and which of them are better than the nearest.

The windows that choose between the two are others than those the integers were fitted to; and all of them are
others than those on which sensitivity is measured.
"""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.model.inventory import Weight, inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.quant.formats import Format, parse_format
from kl_lens_desktop.quant.gptq import Curvature, pieces, rounded_piece, scaled_columns
from kl_lens_desktop.quant.growing import Growing
from kl_lens_desktop.quant.integers import (
    Packed,
    Pair,
    held_integers,
    most_packed_bytes,
    open_integers,
)
from kl_lens_desktop.quant.rounding import Quantized, fake_quantize
from kl_lens_desktop.quant.roundings import NEAREST, KeptRounding, Roundings, joined, kept_in, packed
from kl_lens_desktop.quantities import plural, size
from kl_lens_desktop.sensitivity.clock import TimeUp
from kl_lens_desktop.sensitivity.moments import (
    DAMP,
    DAMP_TIED,
    Moment,
    Remembered,
    Seen,
    Unseen,
    moments_at_once,
    weighted_error,
)
from kl_lens_desktop.text.bundled import calibration_text, text_sha256
from kl_lens_desktop.text.windows import calibration_windows

_AHEAD = 2  # weights that are rounded while another is written
MOST_BITS = 4  # of eight, nearest rounding loses nothing that matters, but for small columns of large inputs


@dataclass(frozen=True, slots=True)
class Calibration:
    """The text a rounding looks at: windows to fit to, others to judge by, and the record of both.

    Attributes
    ----------
    fit, judge : Tensor
        Token ids (windows, window).
    record : mapping
    inputs : Remembered
        What weights see of it.
    """

    fit: Tensor
    judge: Tensor
    record: Mapping[str, Any]
    inputs: Remembered = field(init=False, repr=False)

    @property
    def windows(self) -> int:
        return len(self.fit) + len(self.judge)

    def __post_init__(self) -> None:
        inputs = Remembered(self.fit, self.judge, scaled=is_scaled(self.record))
        object.__setattr__(self, "inputs", inputs)


def calibration(
    loaded: LoadedModel,
    texts: Sequence[tuple[Path, str]],
    window: int,
    *,
    skip: int | None = None,
    scored: int = 0,
    seed: int = 0,
    scaled: bool = True,
) -> Calibration | None:
    """Windows of the first of `texts` (file, name) that is long enough; None if none is.

    Parameters
    ----------
    skip, scored, seed : int
        As for `text.windows.calibration_windows`.
    scaled : bool
        Whether columns of large inputs are scaled (see `outliers`), as in all roundings but those of older
        versions.
    """
    for file, name in texts:
        found = calibration_windows(loaded, file, window, skip, scored, seed)
        if found is not None:
            fit, judge, skipped = found
            record = {
                "method": "gptq",
                "text": name,
                "sha256": text_sha256(file),
                "tokens": fit.numel() + judge.numel(),
                "window": window,
                "skip": skipped,
                "seed": seed,
                "damp": DAMP,
                "damp_tied": DAMP_TIED,
                **({"scaled": True} if scaled else {}),
            }
            return Calibration(fit, judge, record)
    return None


def calibration_of(loaded: LoadedModel, record: Mapping[str, Any], texts: Sequence[Path]) -> Calibration:
    """The windows that a record names, from one of `texts` or the bundled one.

    Raises
    ------
    InputError
        If none of them is the text, or the model's tokenizer makes other tokens of it.
    """
    for file in (*texts, calibration_text()):
        if text_sha256(file) == record["sha256"]:
            window, skip, seed = (int(record[key]) for key in ("window", "skip", "seed"))
            of_text = [(file, str(record["text"]))]
            found = calibration(loaded, of_text, window, skip=skip, seed=seed, scaled=is_scaled(record))
            if found is not None and found.record == record:
                return found
    raise InputError(
        "Cannot compute the rounded weights again",
        f"they were fitted to {record['text']}, which is not here or not the same",
        "Copy the .safetensors file that was written beside the scores or the plan, or analyze again",
    )


def round_by_data(
    loaded: LoadedModel,
    model_sha256: str,
    path: Path,
    weights: Sequence[Weight],
    wanted: Sequence[Pair],
    by: Calibration,
    cancel: Cancel,
    stage: str,
    *,
    judged: bool = True,
    noticed: Callable[[Seen], None] | None = None,
) -> Generator[Event, None, Roundings]:
    """The integers of every wanted pair, kept at `path`; what that file holds already is not computed again.

    Formats of which no integers are kept (`is_kept`) are left out. A pair for which nearest rounding has the
    smaller weighted error on the judging windows is noted and rounded so, unless `judged` is false. `noticed`
    is called with what these weights have seen, as far as they have to be rounded. Where `cancel` says that
    the time is up (see `clock.InTime`), what is not rounded by then stays as the nearest until another run.

    Yields
    ------
    Progress, with the time left. Note, of what stays as the nearest for want of time or memory.
    """
    shapes = {weight.name: weight.shape for weight in weights}
    scaled = is_scaled(by.record)
    pairs = [(name, fmt) for name, fmt in dict.fromkeys(wanted) if is_kept(parse_format(fmt), scaled=scaled)]
    grown = Growing(path, model_sha256, by.record, shapes)
    left = [pair for pair in pairs if pair not in grown.pairs]
    if left or grown.is_in_parts:
        # Of eight bits few are kept, if any: no room is asked for them beforehand.
        asked = [(shapes[name], parse_format(fmt)) for name, fmt in left]
        sizes = [most_packed_bytes(shape, fmt) if is_fitted(fmt) else 0 for shape, fmt in asked]
        with grown.by(sizes) as writer:
            try:
                if left:
                    yield from _fitted(loaded, left, by, writer, cancel, stage, judged, noticed)
            except TimeUp:
                rest = sum(pair not in writer.pairs for pair in left)
                yield Note(
                    f"Rounding by {by.record['text']} has had its part of the time: {rest} of {len(left)} "
                    "roundings stay those to nearest"
                )
    if not (pairs and grown.pairs):
        return NEAREST
    integers = open_integers(path)
    kept = kept_in(integers, shapes)
    return Roundings({pair: kept[pair] for pair in pairs if pair in kept})


def roundings_of(
    loaded: LoadedModel,
    model_sha256: str,
    record: Mapping[str, Any] | None,
    pairs: Sequence[Pair],
    files: Sequence[Path],
    cancel: Cancel,
    stage: str,
    texts: Sequence[Path] = (),
) -> Generator[Event, None, Roundings]:
    """The integers of pairs that were rounded by data before, as a plan or a score file says.

    Parameters
    ----------
    record : dict or None
        Which text the rounding looked at.
    files : sequence of Path
        Where they may be. What none of these has is computed again, and kept in the first.
    texts : sequence of Path
        Where that text may be, beside the bundled one.

    Yields
    ------
    Note, saying where they come from; Progress.

    Raises
    ------
    InputError
        If they must be computed again and the text is not at hand.
    """
    if not pairs or record is None:
        return NEAREST
    found, of_file = kept_in_files(loaded, model_sha256, record, pairs, files, cancel)
    left = [pair for pair in pairs if pair not in found]
    if not left:
        yield Note(f"Using the integers kept in {named(of_file)}")
        return Roundings(found)
    count = plural(len(left), "weight")
    yield Note(f"Computing the integers of {count}, which {files[0].name} does not hold")
    by = calibration_of(loaded, record, texts)
    weights = quantizable(inventory(loaded.model))
    shapes = {weight.name: weight.shape for weight in weights}
    again = yield from round_by_data(
        loaded, model_sha256, files[0], weights, left, by, cancel, stage, judged=False
    )
    stale = [pair for pair, file in of_file.items() if file == files[0]]
    renewed = kept_in(open_integers(files[0]), shapes)  # it was written anew, with what it held before
    return Roundings({**found, **again.kept, **{pair: renewed[pair] for pair in stale}})


def kept_in_files(
    loaded: LoadedModel,
    model_sha256: str,
    record: Mapping[str, Any],
    pairs: Sequence[Pair],
    files: Sequence[Path],
    cancel: Cancel,
) -> tuple[dict[Pair, KeptRounding], dict[Pair, Path]]:
    """What of some pairs the first of `files` that holds it undamaged has, and which file that is."""
    shapes = {weight.name: weight.shape for weight in quantizable(inventory(loaded.model))}
    found: dict[Pair, KeptRounding] = {}
    of_file: dict[Pair, Path] = {}
    for file in dict.fromkeys(files):
        held = held_integers(file, model_sha256, record) if file.is_file() else None
        usable = kept_in(held, shapes) if held else {}
        for pair in [pair for pair in pairs if pair in usable and pair not in found]:
            cancel.check()
            if held and held.is_sound(pair):
                found[pair], of_file[pair] = usable[pair], file
    return found, of_file


def named(of_file: Mapping[Pair, Path]) -> str:
    """The names of files, in words."""
    return " and ".join(sorted({file.name for file in of_file.values()}))


def is_fitted(fmt: Format) -> bool:
    """Whether weights in a format are rounded by data at all."""
    return fmt.bits <= MOST_BITS


def is_scaled(record: Mapping[str, Any]) -> bool:
    """Whether columns of large inputs are scaled in roundings of that record; not in older versions."""
    return bool(record.get("scaled"))


def is_kept(fmt: Format, *, scaled: bool) -> bool:
    """Whether integers of a format are kept: those of eight bits of scaled columns only."""
    return is_fitted(fmt) or (fmt.bits == 8 and scaled)


def _fitted(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    by: Calibration,
    writer: Growing,
    cancel: Cancel,
    stage: str,
    judged: bool,
    noticed: Callable[[Seen], None] | None,
) -> Iterator[Event]:
    formats: dict[str, list[Format]] = {}
    for name, fmt in pairs:
        formats.setdefault(name, []).append(parse_format(fmt))
    done, started = 0, time.monotonic()
    unseen: list[Unseen] = []
    message = f"Rounding by {by.record['text']}"
    yield Progress(stage, 0, len(pairs), message, "roundings")
    parameters = weight_parameters(loaded.model)  # before stand-ins take their places
    with threads() as pool:
        for seen in by.inputs.seen(loaded.model, cancel, set(formats)):
            if isinstance(seen, Seen):
                done += sum(len(formats[weight.name]) for weight in seen.weights)
                _round_seen(parameters, seen, formats, pool, writer, cancel, judged)
                if noticed:
                    noticed(seen)
            elif isinstance(seen, Unseen):
                if not judged:
                    raise _no_memory(seen)
                done += sum(len(formats[weight.name]) for weight in seen.weights)
                unseen.append(seen)
            spent = time.monotonic() - started
            left = spent / done * (len(pairs) - done) if done else None
            yield Progress(stage, done, len(pairs), message, "roundings", left)
            if done == len(pairs):
                break
    if unseen:
        yield lack_of_memory(unseen, "rounded to nearest", "rounding by data")


def lack_of_memory(unseen: Sequence[Unseen], stay: str, instead: str) -> Note:
    """What is said of weights that memory does not suffice for: how they stay, and instead of what."""
    widest = max(unseen, key=lambda each: each.needed)
    weights = [weight.name for each in unseen for weight in each.weights]
    names = f"{len(weights)} weights are" if len(weights) > 1 else f"{weights[0]} is"
    return Note(
        f"{names} {stay}: {instead} would take {size(widest.needed)} of memory, and "
        f"{size(widest.free)} is free",
        "warning",
    )


def _no_memory(unseen: Unseen) -> InputError:
    return InputError(
        "Cannot compute the rounded weights again",
        f"{unseen.weights[0].name} takes {size(unseen.needed)} of memory, and {size(unseen.free)} is free",
        "Close other programs, or copy the .safetensors file that was written beside the scores or the plan",
    )


@contextlib.contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, and one core for each of them: what they compute is small and independent."""
    pool = ThreadPoolExecutor(usable_cores(), "rounding", partial(torch.set_num_threads, 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _round_seen(
    parameters: Mapping[str, Tensor],
    seen: Seen,
    formats: Mapping[str, Sequence[Format]],
    pool: ThreadPoolExecutor,
    writer: Growing,
    cancel: Cancel,
    judged: bool,
) -> None:
    """All formats of the weights that share inputs, of matrices a few ahead of what is written."""
    ahead: collections.deque[tuple[Pair, Iterator[_Fit]]] = collections.deque()

    def write_first() -> None:
        pair, fits = ahead.popleft()
        _write(writer, pair, _joined(list(fits), np.concatenate), judged)

    for weight in seen.weights:
        stored = parameters[weight.name]
        for fmt in formats[weight.name]:
            pair = weight.name, fmt.name
            if not is_kept(fmt, scaled=seen.exponents is not None):
                ahead.append((pair, iter([_Fit(None)])))
            elif stored.dim() == 2:
                about = seen.about(0, cancel)
                ahead.append((pair, _round_matrix(stored, *about, fmt, cancel, pool, seen.exponents)))
            else:
                experts = list(_round_experts(stored, seen, fmt, cancel, pool))
                _write(writer, pair, _joined(experts, np.stack), judged)
            if len(ahead) > _AHEAD:
                write_first()
    while ahead:
        write_first()


@dataclass(frozen=True, slots=True)
class _Fit:
    """Rows rounded by data, where their inputs allow it; their weighted error and that of the nearest."""

    stored: Packed | None
    error: float = 0.0
    nearest: float = 0.0


def _joined(parts: Sequence[_Fit], how: Callable[[list[NDArray[Any]]], NDArray[Any]]) -> _Fit:
    """One of several: usable where all of them are."""
    usable = [each.stored for each in parts if each.stored is not None]
    return _Fit(
        joined(usable, how) if len(usable) == len(parts) else None,
        sum(each.error for each in parts),
        sum(each.nearest for each in parts),
    )


def _write(writer: Growing, pair: Pair, fit: _Fit, judged: bool) -> None:
    """Write what a weight is rounded to, or a note that nearest rounding is better."""
    if fit.stored is not None and (fit.error < fit.nearest or not judged):
        writer.add(pair, fit.stored)
    else:
        writer.add_nearest(pair)


def _round_experts(
    stack: Tensor, seen: Seen, fmt: Format, cancel: Cancel, pool: ThreadPoolExecutor
) -> Iterator[_Fit]:
    """Experts are small and many: a thread for each, as far as memory takes them side by side."""
    lanes = threading.Semaphore(moments_at_once(stack.shape[-1]))

    def run(place: int) -> _Fit:
        with lanes:
            about, judge = seen.about(place, cancel)
            parts = [_round_piece(piece, about, judge, fmt, cancel, None) for piece in pieces(stack[place])]
            return _joined(parts, np.concatenate)

    return pool.map(run, range(len(stack)))


def _round_matrix(
    matrix: Tensor,
    about: Curvature | None,
    judge: Moment,
    fmt: Format,
    cancel: Cancel,
    pool: ThreadPoolExecutor,
    exponents: Tensor | None,
) -> Iterator[_Fit]:
    """The pieces of a matrix, which are being rounded."""

    def run(piece: Tensor) -> _Fit:
        return _round_piece(piece, about, judge, fmt, cancel, exponents)

    return pool.map(run, pieces(matrix.detach()))


@torch.no_grad()
def _round_piece(
    piece: Tensor,
    about: Curvature | None,
    judge: Moment,
    fmt: Format,
    cancel: Cancel,
    exponents: Tensor | None,
) -> _Fit:
    """`exponents`, `about` and `judge` are as `Seen` has them: the scaled rows are rounded."""
    cancel.check()
    if about is None:
        return _Fit(None)
    (rounded,) = rounded_piece(piece, about, [fmt], cancel, exponents)
    cancel.check()
    return _Fit(packed(rounded, exponents), *_errors(piece, rounded, judge, exponents))


def errors_by_data(
    about: Curvature | None,
    judge: Moment,
    rows: Tensor,
    formats: Sequence[Format],
    cancel: Cancel,
    exponents: Tensor | None = None,
) -> dict[Format, tuple[float, bool]]:
    """The weighted error of some rows of a matrix as they ship, and whether by rounding to nearest.

    `exponents`, `about` and `judge` are as `Seen` has them.
    """
    found = {}
    for fmt in formats:
        cancel.check()
        found[fmt] = _nearest_error(rows, fmt, judge, exponents), True
    tried = [fmt for fmt in formats if about is not None and is_kept(fmt, scaled=exponents is not None)]
    if about is not None and tried:
        scaled = scaled_columns(rows, exponents)
        for rounded in rounded_piece(rows, about, tried, cancel, exponents):
            cancel.check()
            error = weighted_error(rounded.dequantize() - scaled, judge)
            if error < found[rounded.fmt][0]:
                found[rounded.fmt] = error, False
    return found


def _nearest_error(rows: Tensor, fmt: Format, judge: Moment, exponents: Tensor | None) -> float:
    """Of rows rounded to nearest as they are, by the moment of inputs that are divided."""
    return weighted_error(scaled_columns(fake_quantize(rows, fmt) - rows, exponents), judge)


def _errors(
    piece: Tensor, rounded: Quantized, judge: Moment, exponents: Tensor | None
) -> tuple[float, float]:
    """The weighted error of rows as they are rounded and that of nearest rounding."""
    piece = piece.float().cpu()
    ours = weighted_error(rounded.dequantize() - scaled_columns(piece, exponents), judge)
    return ours, _nearest_error(piece, rounded.fmt, judge, exponents)
