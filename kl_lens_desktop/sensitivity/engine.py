"""The analysis: every weight in every format, alone, against the full-precision model.

Method: Kong, Pandey, Ponzina, Rosing, "A KL Lens on Quantization", arXiv 2604.13440, with both KL directions
computed as such, per-token means with standard errors, the exported file's own rounding, and each block run
only when a change can reach it.
"""

import contextlib
import hashlib
import math
import platform
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import check_writable
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.devices import check_device
from kl_lens_desktop.model.inventory import Weight, experts_chosen, inventory, kept_bytes, quantizable
from kl_lens_desktop.model.load import LoadedModel, load_or_open, warnings
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Event, Note, Progress, Scored, Weights
from kl_lens_desktop.quant.formats import formats_to_measure, parse_format
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.quant.roundings import NEAREST, Roundings, changed_values
from kl_lens_desktop.quantities import duration, plural
from kl_lens_desktop.sensitivity import race
from kl_lens_desktop.sensitivity.calibrate import calibrate
from kl_lens_desktop.sensitivity.clock import ROUNDING, Clock, InTime
from kl_lens_desktop.sensitivity.cluster import Cluster, joined
from kl_lens_desktop.sensitivity.data_rounding import (
    Calibration,
    calibration,
    is_fitted,
    is_scaled,
    round_by_data,
)
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.estimate import MOMENT_WINDOWS, rounding_seconds
from kl_lens_desktop.sensitivity.jobs import ANCHOR, Analysis
from kl_lens_desktop.sensitivity.lanes import Lane
from kl_lens_desktop.sensitivity.ledger import Ledger, open_ledger, order_of
from kl_lens_desktop.sensitivity.local_error import LOCAL_ERRORS, LocalErrors
from kl_lens_desktop.sensitivity.means import SQNR_LIMIT_DB
from kl_lens_desktop.sensitivity.measuring import Measuring, measuring_here
from kl_lens_desktop.sensitivity.menu import Menu, Wish, note_time, tell_errors
from kl_lens_desktop.sensitivity.metrics import Tally
from kl_lens_desktop.sensitivity.moments import Seen
from kl_lens_desktop.sensitivity.scan import STAGE, Scan, place_of
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Pair, Scores, Windows, check_size, load_scores
from kl_lens_desktop.sensitivity.stream import Changed, Stream, only
from kl_lens_desktop.sensitivity.walk import Walk
from kl_lens_desktop.text.bundled import calibration_text, remarks
from kl_lens_desktop.text.calibration import source_text
from kl_lens_desktop.text.windows import FIT_TOKENS, JUDGE_TOKENS, TextIdentity, windows

_ROUNDING_SHARE = 0.4  # of the time left, for rounding by data


def analyze(
    local: LocalModel,
    out: Path,
    how: Analysis,
    cancel: Cancel,
) -> Iterator[Event]:
    """Score every (weight, format), writing `out` at every step; what `out` holds is not measured again.

    Parameters
    ----------
    out : Path
        The score file; it may hold the same text's beginning.
    how : Analysis

    Yields
    ------
    Weights
        The inventory, first.
    Scored
        Each entry, those of an earlier run first, and again whenever more is known of it.
    Progress, Note

    Raises
    ------
    InputError
        If `out` holds scores of another model, text or way of measuring, or cannot be written.
    ModelError
        If the full-precision model's own predictions are not finite.
    """
    wanted, clock = formats_to_measure(how.offered), Clock(how.minutes)
    check_device(how.device)
    check_writable(out.absolute().parent)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = yield from load_or_open(local.folder, STAGE, how.device)
    yield from warnings(loaded)
    use_cores()
    precision = yield from _precision(how)
    weights = inventory(loaded.model)
    chosen = experts_chosen(loaded.model.config.get_text_config())
    yield Weights([weight.as_dict() for weight in weights], chosen)
    ids, text, sources = yield from _text(loaded, out, how, cancel)
    by = None
    if how.rounding != "nearest" and (yield from _has_time_to_round(local, out, how, weights, cancel)):
        by = yield from _calibration(loaded, out, how, sources)
    wish = Wish(in_forward_order(quantizable(weights)), wanted, how.bits)
    check_size(len(wish.weights), len(wanted), len(ids))
    hashes = _hashes(ids)
    fresh = Scores(
        ModelIdentity(local.id, local.revision, weights_sha256(loaded.files)),
        text.as_dict(),
        [weight.as_dict() for weight in weights],
        kept_bytes(loaded.model, weights),
        _settings(how, precision, len(ids), by),
        _environment(loaded.model),
        windows=Windows(hashes[-1], order_of([len(ids)], how.seed)),
    )
    ledger = open_ledger(out, fresh, hashes)
    yield from _known(ledger, out, len(wish.weights))
    clock.note("opening the model")
    measurement = _Measurement(local, loaded, out, how, precision, wish, by, ids, ledger, clock, cancel)
    yield from measurement.events()


def _known(ledger: Ledger, out: Path, count: int) -> Iterator[Event]:
    """What the score file holds already."""
    for entry in ledger.entries:
        yield Scored(asdict(entry))
    if measured := len({entry.weight for entry in ledger.entries if not entry.is_predicted}):
        yield Note(f"Continuing {out.name}: {measured:,} of {plural(count, 'weight')} are measured")


def _precision(how: Analysis) -> Generator[Event, None, str]:
    """The precision that was asked for, where it gains anything."""
    if how.precision != "bf16" or _gains_from_bf16(how.device):
        return how.precision
    yield Note("This processor is not faster in bfloat16; measuring in float32")
    return "f32"


def _text(
    loaded: LoadedModel, out: Path, how: Analysis, cancel: Cancel
) -> Generator[Event, None, tuple[Tensor, TextIdentity, list[tuple[Path, str]]]]:
    """Token ids (windows, window), what the score file says of the text, and its files by name."""
    if how.text:
        yield from remarks(*how.text)
        return *windows(loaded, how.text, how.tokens, how.window), [(file, file.name) for file in how.text]
    found = yield from source_text(how.source, loaded, out, how.tokens, how.window, how.seed, cancel)
    read = windows(loaded, [found.file], how.tokens, how.window, found.name)
    return *read, [(found.file, found.name)]


class _Measurement:
    """What `analyze` does once model, text and score file are open: rounding, predicting, measuring.

    Parameters
    ----------
    by : Calibration or None
        What the weights are rounded by; to nearest without it.
    ids : Tensor
        Token ids (windows, window).
    """

    def __init__(
        self,
        local: LocalModel,
        loaded: LoadedModel,
        out: Path,
        how: Analysis,
        precision: str,
        wish: Wish,
        by: Calibration | None,
        ids: Tensor,
        ledger: Ledger,
        clock: Clock,
        cancel: Cancel,
    ) -> None:
        self._local, self._loaded, self._out, self._how = local, loaded, out, how
        self._precision, self._by, self._ids = precision, by, ids
        self._ledger, self._clock, self._cancel = ledger, clock, cancel
        self._cluster: Cluster | None = None
        self._wish = wish
        self._chosen = bool(how.formats or how.exhaustive)  # by a person: nothing else is told of
        self._by_menu = clock.is_limited or not self._chosen
        compared = list(dict.fromkeys([parse_format(ANCHOR), *wish.formats]))
        self._errors = LocalErrors(
            loaded.model,
            self._wish.weights,
            compared,
            ledger,
            by_data=by is not None,
            brief=clock.is_limited,
        )

    def events(self) -> Iterator[Event]:
        """Measure, and keep what was measured however it ends."""
        by, clock, pairs = self._by, self._clock, self._wish.pairs if self._chosen else self._wish.anchors
        with contextlib.ExitStack() as stack:
            stack.callback(self._ledger.save, now=True)
            if self._how.cluster:
                ray = stack.enter_context(joined(self._how.cluster))
                self._cluster = Cluster(ray, self._loaded, self._precision, self._cancel)
                yield from self._cluster.begin(STAGE, self._local, self._ledger.model_sha256)
            roundings = yield from self._rounded(pairs)
            if self._by_menu:
                inputs = by.inputs if by else None
                yield from tell_errors(self._errors, self._ids, inputs, clock, self._cancel)
            candidates = [self._wish.candidate(pair, roundings) for pair in pairs]
            menu = [] if self._chosen else self._wish.formats
            scan = Scan(self._ids, self._ledger, candidates, self._cancel, clock, menu)
            yield from self._rounding_floor(scan)
            if self._by_menu:
                count = len(self._ids)
                rest = Menu(scan, self._ledger, self._wish, candidates, count, clock, self._passes)
                yield from rest.events(self._measuring, self._rounded)
            else:
                with scan.measured_by(self._measuring()):
                    yield from scan.events(None if self._how.exhaustive else self._how.bits)
            if clock.is_limited:
                yield note_time(clock)

    def _rounded(self, pairs: Sequence[Pair]) -> Generator[Event, None, Roundings]:
        """What rounds these, computed where it is not kept yet."""
        if self._by is None:
            return NEAREST
        limited = self._clock.is_limited
        found = yield from round_by_data(
            self._loaded,
            self._ledger.model_sha256,
            self._out.with_suffix(SUFFIX),
            self._wish.weights,
            [pair for pair in pairs if not self._ledger.is_nearest(pair)],
            self._by,
            InTime(self._cancel, self._clock, _ROUNDING_SHARE) if limited else self._cancel,
            STAGE,
            noticed=self._noticed,
        )
        self._ledger.roundings = {**self._ledger.roundings, **dict.fromkeys(found.kept, "gptq")}
        self._clock.note(ROUNDING)
        return found

    def _noticed(self, seen: Seen) -> None:
        if self._by_menu:
            self._errors.note(seen, self._cancel)

    def _passes(self) -> int:
        """Windows of the model's run that rounding further pairs takes.

        What memory holds at the moment must not count: a run that goes on would measure other pairs.
        """
        if self._by is None:
            return MOMENT_WINDOWS
        return 0 if self._by.inputs.may_hold(self._wish.weights) else self._by.windows

    def _measuring(self) -> contextlib.AbstractContextManager[Measuring[Any]]:
        if self._cluster:
            return contextlib.nullcontext(self._cluster)
        return measuring_here(self._loaded, self._precision, self._cancel)

    def _rounding_floor(self, scan: Scan) -> Iterator[Event]:
        """What the precision's own rounding looks like, measured once."""
        if self._precision != "bf16" or "rounding_floor" in self._ledger.settings:
            return
        yield Progress(STAGE, 0, 0, "Measuring the error of bfloat16")
        with scan.measured_by(self._measuring()):
            self._ledger.settings["rounding_floor"] = floor = scan.rounding_floor()
        yield Note(
            f"In bfloat16, KL below {floor['mean']:.1g} nats per token comes from rounding, not "
            "from quantization"
        )


def _calibration(
    loaded: LoadedModel, out: Path, how: Analysis, sources: Sequence[tuple[Path, str]]
) -> Generator[Event, None, Calibration | None]:
    """What the weights are rounded by: the text that is scored, where it is not scored, or a bundled one.

    None, and a note, where the scores at hand are of nearest rounding, as older versions measured.
    """
    begun = load_scores(out) if out.exists() else None
    earlier = begun.rounding if begun else None
    if begun and begun.entries and earlier is None:
        yield Note(f"{out.name} was measured with rounding to nearest, and goes on so. To round by the data, "
                   "choose another file name")  # fmt: skip
        return None
    skip = int(earlier["skip"]) if earlier else None
    scaled = is_scaled(earlier) if earlier else True
    scored = how.tokens // len(sources)
    found = calibration(loaded, sources, how.window, skip=skip, scored=scored, seed=how.seed, scaled=scaled)
    if found is not None and skip is not None and scored > skip:
        yield Note(f"From token {skip:,} on, the weights were fitted to windows that are scored now, and "
                   "score too well there. For more text, choose another file name", "warning")  # fmt: skip
    if found is None:
        yield Note("The text is too short to round by it as well: rounding by the bundled novels")
        bundled = [(calibration_text(), calibration_text().name)]
        found = calibration(loaded, bundled, how.window, skip=skip, seed=how.seed, scaled=scaled)
    if found is None:
        raise InputError(
            f"Cannot round by windows of {how.window} tokens",
            "the bundled text does not have five of them",
            "Choose shorter windows, or round to nearest",
        )
    return found


def _has_time_to_round(
    local: LocalModel, out: Path, how: Analysis, weights: Sequence[Weight], cancel: Cancel
) -> Generator[Event, None, bool]:
    """Whether the minutes suffice to round by data, for which the model reads a text of its own first.

    What was begun goes on as it was.
    """
    if how.minutes is None:
        return True
    if out.exists():
        return load_scores(out).rounding is not None
    yield Progress(STAGE, 0, 0, "Timing this computer")
    costs = calibrate(local.folder, cancel)
    pass_s = (FIT_TOKENS + JUDGE_TOKENS) * sum(costs.block_s)
    formats = sum(is_fitted(parse_format(name)) for name in how.formats) if how.formats else 1
    rounding_s = pass_s + rounding_seconds(costs, [weight.as_dict() for weight in weights], formats)
    if rounding_s <= _ROUNDING_SHARE * 60 * how.minutes:
        return True
    yield Note(
        f"Rounding to nearest: rounding by data takes {duration(rounding_s)}, more than its part of "
        f"{how.minutes:g} minutes"
    )
    return False


def _settings(how: Analysis, precision: str, count: int, by: Calibration | None) -> dict[str, Any]:
    """How so many windows are measured, as the score file says it."""
    return {
        **({} if by is None else {"rounding": dict(by.record)}),
        "local_errors": LOCAL_ERRORS,
        "precision": precision,
        "standard_error": "batch means over windows",
        "sqnr_limit_db": SQNR_LIMIT_DB,
        "seed": how.seed,
        "stages": [count],
        "racing": None
        if how.exhaustive
        else {
            "confidence": race.CONFIDENCE,
            "looks": race.looks(count),
            "rule": race.RULE,
            "bits": how.bits,
        },
    }


def measure_plan(
    loaded: LoadedModel,
    assignments: dict[str, str],
    texts: Sequence[Path],
    tokens: int,
    window: int,
    cancel: Cancel,
    roundings: Roundings = NEAREST,
) -> dict[str, Any]:
    """The whole plan at once against the full-precision model: the ``measured`` of a plan file."""
    ids, text = windows(loaded, texts, tokens, window)
    use_cores()
    changes = roundings.changes(assignments)
    with torch.no_grad(), fast_kernels(loaded.model):
        if loaded.mapped:
            with DiskLanes(loaded.model, cancel) as lanes:
                tally = only(Stream(lanes, ids).compare([Changed(changes, 0)]))
        else:
            lane = Lane(loaded.model, cancel)
            rounded = {name: changed_values(lane.parameters[name], each) for name, each in changes.items()}
            tally = Walk(lane, ids).compare(rounded)
    return {"text": text.as_dict(), **figures_of(tally)}


def figures_of(tally: Tally) -> dict[str, Any]:
    """What a plan file says of a measurement of the whole plan."""
    estimates = tally.estimates()
    measured = {name: asdict(estimates[name]) for name in ("kl_pq", "kl_qp", "top1_agreement", "delta_ce")}
    return {
        **measured,
        "perplexity": asdict(tally.perplexity()),
        "perplexity_full": asdict(tally.perplexity("ce_full")),
    }


def in_forward_order(weights: Sequence[Weight]) -> list[Weight]:
    """Embeddings, then block by block, then the head: the order in which the walk meets them."""
    return sorted(weights, key=place_of)


def use_cores() -> None:
    """Let torch compute with as many threads as the job may use."""
    torch.set_num_threads(usable_cores())


def bf16_bound(kl: float, floor: float) -> float:
    """How far a KL measured in bfloat16 may be from `kl`, both in nats per token.

    To second order KL is a squared length of the change of logits, so rounding, whose own length squared is
    the `floor` (see `Scan.rounding_floor`), adds at most floor + 2·√(floor · KL). The floor is taken twice,
    for it was measured on one change only.
    """
    return float(2 * floor + 2 * math.sqrt(2 * floor * kl))


def _gains_from_bf16(device: str) -> bool:
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _hashes(ids: Tensor) -> list[str]:
    """Of the first window, the first two, and so on."""
    digest, found = hashlib.sha256(), []
    for row in ids:
        digest.update(row.numpy().astype("<i8").tobytes())
        found.append(digest.hexdigest())
    return found


def _environment(model: PreTrainedModel) -> dict[str, Any]:
    packages = {name: version(name) for name in ("torch", "transformers")}
    return {
        "kl_lens_desktop": __version__,
        **packages,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(model.device),
        "architecture": model.config.model_type,
    }
