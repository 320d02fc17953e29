"""The analysis: every weight in every format, alone, against the full-precision model.

Method: Kong, Pandey, Ponzina, Rosing, "A KL Lens on Quantization", arXiv 2604.13440, with both KL directions
computed as such, per-token means with standard errors, the exported file's own rounding, and each block run
only when a change can reach it.
"""

import contextlib
import hashlib
import itertools
import math
import platform
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.files import check_writable
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.devices import check_device
from kl_lens_desktop.model.inventory import Weight, inventory, kept_bytes, quantizable
from kl_lens_desktop.model.load import LoadedModel, load_or_open, warnings
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Event, Note, Progress, Scored, Weights
from kl_lens_desktop.quant.formats import formats_to_measure, parse_format, stored_bytes
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.quant.roundings import NEAREST, Roundings, changed_values
from kl_lens_desktop.sensitivity import decision, race
from kl_lens_desktop.sensitivity.data_rounding import Calibration, calibration, round_by_data
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.lanes import Lane, Lanes
from kl_lens_desktop.sensitivity.ledger import Ledger, open_ledger, order_of
from kl_lens_desktop.sensitivity.means import SQNR_LIMIT_DB
from kl_lens_desktop.sensitivity.measuring import Candidate, Found, InMemory, Measuring, OnDisk, Text
from kl_lens_desktop.sensitivity.pace import Cost, Pace
from kl_lens_desktop.sensitivity.scores import (
    ModelIdentity,
    Samples,
    Scores,
    Windows,
    check_size,
    load_scores,
)
from kl_lens_desktop.sensitivity.stream import Changed, Stream, only
from kl_lens_desktop.sensitivity.walk import CACHE_ELEMENTS, Walk
from kl_lens_desktop.text.bundled import calibration_text, remarks
from kl_lens_desktop.text.calibration import source_text
from kl_lens_desktop.text.windows import windows

PIECE_TOKENS = 1024  # walked at a time: a step that can be repeated, in a moderate peak of memory
STAGE = "analyze"


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
    wanted = formats_to_measure(how.formats)
    check_device(how.device)
    check_writable(out.absolute().parent)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = yield from load_or_open(local.folder, STAGE, how.device)
    yield from warnings(loaded)
    use_cores()
    precision = how.precision
    if precision == "bf16" and not _gains_from_bf16(how.device):
        yield Note("This processor is not faster in bfloat16; measuring in float32")
        precision = "f32"
    weights = inventory(loaded.model)
    yield Weights([weight.as_dict() for weight in weights])
    if how.text:
        yield from remarks(*how.text)
        sources = [(file, file.name) for file in how.text]
        ids, text = windows(loaded, how.text, how.tokens, how.window)
    else:
        found = yield from source_text(how.source, loaded, out, how.tokens, how.window, how.seed, cancel)
        sources = [(found.file, found.name)]
        ids, text = windows(loaded, [found.file], how.tokens, how.window, found.name)
    by = None if how.rounding == "nearest" else (yield from _calibration(loaded, out, how, sources))
    check_size(len(quantizable(weights)), len(wanted), len(ids))
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
    for entry in ledger.entries:
        yield Scored(asdict(entry))
    ordered = in_forward_order(quantizable(weights))
    roundings = NEAREST
    if by is not None:
        pairs = [(weight.name, fmt.name) for weight in ordered for fmt in wanted]
        path, sha256 = out.with_suffix(SUFFIX), fresh.model.sha256
        roundings = yield from round_by_data(loaded, sha256, path, ordered, pairs, by, cancel, STAGE)
        ledger.roundings = dict.fromkeys(roundings.kept, "gptq")
    candidates = [
        Candidate(weight, fmt, roundings.change(weight.name, fmt.name))
        for weight in ordered
        for fmt in wanted
    ]
    try:
        with (
            torch.no_grad(),
            fast_kernels(loaded.model),
            matrix_products(precision),
            _measuring(loaded, cancel) as measuring,
        ):
            run = Run(measuring, ids, ledger, candidates, cancel)
            if precision == "bf16" and "rounding_floor" not in ledger.settings:
                yield Progress(STAGE, 0, 0, "Measuring the error of bfloat16")
                ledger.settings["rounding_floor"] = floor = run.rounding_floor()
                yield Note(
                    f"In bfloat16, KL below {floor['mean']:.1g} nats per token comes from rounding, not "
                    "from quantization"
                )
            yield from run.events(None if how.exhaustive else how.bits)
    finally:
        ledger.save(now=True)


def _calibration(
    loaded: LoadedModel, out: Path, how: Analysis, sources: Sequence[tuple[Path, str]]
) -> Generator[Event, None, Calibration]:
    """What the weights are rounded by: the text that is scored, where it is not scored, or a bundled one."""
    earlier = load_scores(out).rounding if out.exists() else None
    skip = int(earlier["skip"]) if earlier else None
    scored = how.tokens // len(sources)
    found = calibration(loaded, sources, how.window, skip=skip, scored=scored, seed=how.seed)
    if found is None:
        yield Note("The text is too short to round by it as well: rounding by the bundled novels")
        bundled = [(calibration_text(), calibration_text().name)]
        found = calibration(loaded, bundled, how.window, skip=skip, seed=how.seed)
    if found is None:
        raise InputError(
            f"Cannot round by windows of {how.window} tokens",
            "the bundled text does not have five of them",
            "Choose shorter windows, or round to nearest",
        )
    return found


def _settings(how: Analysis, precision: str, count: int, by: Calibration | None) -> dict[str, Any]:
    """How so many windows are measured, as the score file says it."""
    return {
        **({} if by is None else {"rounding": dict(by.record)}),
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


class Run:
    """One run over all candidates, piece of text by piece of text."""

    def __init__(
        self,
        measuring: Measuring[Any],
        ids: Tensor,
        ledger: Ledger,
        candidates: list[Candidate],
        cancel: Cancel,
    ) -> None:
        self._measuring, self._ids, self._ledger, self._cancel = measuring, ids, ledger, cancel
        self._candidates = [each for each in candidates if not ledger.is_unmeasurable(each.pair)]
        self._total, window = ids.shape
        vocabulary = measuring.model.config.get_text_config().vocab_size
        fits = min(PIECE_TOKENS, CACHE_ELEMENTS // vocabulary)
        self._per_piece = max(1, fits // window)  # windows whose full-precision logits can be kept
        self._stopped: dict[tuple[str, str], int] = {}
        costs = {
            each.pair: Cost(_blocks_to_run(each.weight, measuring.depth), each.weight.parameters)
            for each in candidates
        }
        self._pace = Pace(measuring.count, window, self._per_piece, costs)

    def events(self, bits: float | None) -> Iterator[Event]:
        """Measure, window by window, whatever is not settled and not in the ledger yet.

        With no `bits` nothing is stopped.
        """
        bounds = race.looks(self._total)
        for look, (start, stop) in enumerate(itertools.pairwise([0, *bounds])):
            for first in range(start, stop, self._per_piece):
                last = min(first + self._per_piece, stop)
                yield from self._piece(first, last, bounds[look:] if bits is not None else [self._total])
            if stop < self._total and bits is not None:
                yield from self._look(look, stop, bits)
        for candidate in self._racing():
            if entry := self._ledger.mark(candidate.pair, settled=False):
                yield Scored(asdict(entry))
        self._ledger.save(now=True)

    def rounding_floor(self) -> dict[str, float]:
        """KL of a change too small to matter, as computed: what the precision's rounding alone looks like."""
        text = self._measuring.open(self._ids[: max(self._per_piece, 2)])
        kl = self._measuring.noise(text).estimates()["kl_pq"]
        return {"mean": kl.mean, "se": kl.se}

    def _racing(self) -> list[Candidate]:
        return [each for each in self._candidates if each.pair not in self._stopped]

    def _piece(self, first: int, last: int, bounds: Sequence[int]) -> Iterator[Event]:
        """All racing candidates on the windows from `first` to `last` that they were not measured on yet."""
        held = {each.pair: max(first, self._ledger.measured(each.pair)) for each in self._racing()}
        for start in sorted(set(held.values())):
            todo = [each for each in self._racing() if held[each.pair] == start < last]
            if not todo:
                continue
            places = list(self._ledger.order[start:last])
            yield Progress(
                STAGE, self._done(), len(self._candidates), "Running the full-precision model", "entries"
            )
            started = time.perf_counter()
            text = self._measuring.open(self._ids[places])
            self._pace.opened(len(places), time.perf_counter() - started)
            if not text.finite:
                raise ModelError(
                    "Cannot measure this model",
                    f"its full-precision predictions are not finite{self._culprit()}",
                    "Download the model again, or choose another",
                )
            yield from self._measured(text, todo, bounds)

    def _measured(self, text: Text, todo: Sequence[Candidate], bounds: Sequence[int]) -> Iterator[Event]:
        place = 0
        for found in self._measuring.found(text, todo):
            candidate = todo[place]
            self._cancel.check()
            if isinstance(found, Found):
                place += 1
                self._pace.measured(found.timing)
                yield from self._entered(candidate, found.samples, text.signal)
            left = self._pace.left(
                {each.pair: self._ledger.measured(each.pair) for each in self._racing()}, bounds
            )
            message = f"{candidate.weight.name} in {candidate.format.label}"
            yield Progress(STAGE, self._done(), len(self._candidates), message, "entries", left)

    def _entered(
        self, candidate: Candidate, samples: Samples | str, signal: Sequence[float]
    ) -> Iterator[Event]:
        if isinstance(samples, Samples):
            entry = self._ledger.add(candidate.pair, samples, signal)
            self._ledger.save()
            if entry:
                yield Scored(asdict(entry))
            return
        self._ledger.reject(candidate.pair, samples)
        self._ledger.save()
        self._candidates.remove(candidate)
        yield Note(
            f"{candidate.weight.name} in {candidate.format.label} gives no finite result: {samples}; "
            "it stays FP16",
            "warning",
        )

    def _look(self, look: int, windows_so_far: int, bits: float) -> Iterator[Event]:
        """Stop the entries whose rank is known."""
        series = {
            each.pair: self._ledger.samples(each.pair).kl_pq[: self._stopped.get(each.pair, windows_so_far)]
            for each in self._candidates
        }
        decided = self._decided(series, look, bits)
        for fmt in dict.fromkeys(each.format for each in self._candidates):
            runners = [each for each in self._candidates if each.format == fmt]
            racing = [index for index, each in enumerate(runners) if each.pair not in self._stopped]
            for index in race.settled(
                [series[each.pair] for each in runners],
                racing,
                look,
                decided=[index for index, each in enumerate(runners) if each.weight.name in decided],
            ):
                pair = runners[index].pair
                self._stopped[pair] = windows_so_far
                if self._ledger.measured(pair) < self._total and (
                    entry := self._ledger.mark(pair, settled=True)
                ):
                    yield Scored(asdict(entry))
        self._ledger.save()
        tokens = windows_so_far * self._ids.shape[1]
        yield Note(
            f"After {tokens:,} tokens, {len(self._stopped):,} of {len(self._candidates):,} entries "
            f"are settled ({race.CONFIDENCE:.0%} confidence for each comparison)"
        )

    def _decided(self, series: Mapping[tuple[str, str], Sequence[float]], look: int, bits: float) -> set[str]:
        """The weights whose format in a plan of so many bits no more text will change."""
        formats = list(dict.fromkeys(each.format for each in self._candidates))
        about = {each.weight.name: each.weight for each in self._candidates}
        weights = [
            weight for weight in about.values() if all((weight.name, fmt.name) in series for fmt in formats)
        ]
        if not weights:
            return set()
        sizes = [
            [stored_bytes(weight.shape, fmt) for fmt in (parse_format("fp16"), *formats)]
            for weight in weights
        ]
        found = decision.decided(
            np.array(sizes, dtype=float),
            [[series[weight.name, fmt.name] for fmt in formats] for weight in weights],
            bits / 8 * sum(weight.parameters for weight in weights),
            look,
        )
        return {weights[index].name for index in found}

    def _done(self) -> float:
        """Entries finished, those under way by the share of the text they were measured on."""
        return sum(
            1.0 if each.pair in self._stopped else min(self._ledger.measured(each.pair) / self._total, 1.0)
            for each in self._candidates
        )

    def _culprit(self) -> str:
        broken = next(self._measuring.broken(), "")
        return f"; {broken} contains NaN or infinity" if broken else ""


@contextlib.contextmanager
def _measuring(loaded: LoadedModel, cancel: Cancel) -> Iterator[Measuring[Any]]:
    if loaded.mapped:
        with DiskLanes(loaded.model, cancel) as lanes:
            yield OnDisk(lanes)
    else:
        with Lanes(loaded.model, cancel) as lanes:
            yield InMemory(lanes)


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
    estimates = tally.estimates()
    measured = {name: asdict(estimates[name]) for name in ("kl_pq", "kl_qp", "top1_agreement", "delta_ce")}
    return {
        "text": text.as_dict(),
        **measured,
        "perplexity": asdict(tally.perplexity()),
        "perplexity_full": asdict(tally.perplexity("ce_full")),
    }


def in_forward_order(weights: Sequence[Weight]) -> list[Weight]:
    """Embeddings, then block by block, then the head: the order in which the walk meets them."""
    return sorted(weights, key=lambda w: (w.kind == "head", -1 if w.block is None else w.block))


def use_cores() -> None:
    """Let torch compute with as many threads as the job may use."""
    torch.set_num_threads(usable_cores())


@contextlib.contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Compute products of float32 matrices in float32 or, for ``bf16``, from operands rounded to bfloat16."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bf16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)


def bf16_bound(kl: float, floor: float) -> float:
    """How far a KL measured in bfloat16 may be from `kl`, both in nats per token.

    To second order KL is a squared length of the change of logits, so rounding, whose own length squared is
    the `floor` (see `Run.rounding_floor`), adds at most floor + 2·√(floor · KL). The floor is taken twice,
    for it was measured on one change only.
    """
    return float(2 * floor + 2 * math.sqrt(2 * floor * kl))


def _gains_from_bf16(device: str) -> bool:
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _blocks_to_run(weight: Weight, depth: int) -> int:
    return 0 if weight.kind == "head" else depth - (weight.block or 0)


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
