"""The analysis: every weight in every format, alone, against the full-precision model.

Method: Kong, Pandey, Ponzina, Rosing, "A KL Lens on Quantization", arXiv 2604.13440, with both KL directions
computed as such, per-token means with standard errors, the exported file's own rounding, and each block run
only when a change can reach it.
"""

import contextlib
import hashlib
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop import __version__
from kl_lens_desktop.files import check_writable
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.devices import check_device
from kl_lens_desktop.model.inventory import Weight, inventory, kept_bytes, quantizable
from kl_lens_desktop.model.load import LoadedModel, load_or_open, unembedded
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Event, Note, Progress, Scored, Weights
from kl_lens_desktop.quant.formats import formats_to_measure, parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity import race
from kl_lens_desktop.sensitivity.clock import Clock
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.lanes import Lane, Lanes
from kl_lens_desktop.sensitivity.ledger import open_ledger, order_of
from kl_lens_desktop.sensitivity.means import SQNR_LIMIT_DB
from kl_lens_desktop.sensitivity.measuring import Candidate, InMemory, Measuring, OnDisk
from kl_lens_desktop.sensitivity.menu import Menu, Wish, foretell, note_time
from kl_lens_desktop.sensitivity.scan import STAGE, Scan, place_of
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores, Windows, check_size
from kl_lens_desktop.sensitivity.stream import Changed, Stream, only
from kl_lens_desktop.sensitivity.walk import Walk
from kl_lens_desktop.text.bundled import remarks
from kl_lens_desktop.text.calibration import source_text
from kl_lens_desktop.text.windows import windows


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
    yield from unembedded(loaded)
    use_cores()
    precision = how.precision
    if precision == "bf16" and not _gains_from_bf16(how.device):
        yield Note("This processor is not faster in bfloat16; measuring in float32")
        precision = "f32"
    weights = inventory(loaded.model)
    yield Weights([weight.as_dict() for weight in weights])
    if how.text:
        yield from remarks(*how.text)
        ids, text = windows(loaded, how.text, how.tokens, how.window)
    else:
        found = yield from source_text(how.source, loaded, out, how.tokens, how.window, how.seed, cancel)
        ids, text = windows(loaded, [found.file], how.tokens, how.window, found.name)
    check_size(len(quantizable(weights)), len(wanted), len(ids))
    hashes = _hashes(ids)
    fresh = Scores(
        ModelIdentity(local.id, local.revision, weights_sha256(loaded.files)),
        text.as_dict(),
        [weight.as_dict() for weight in weights],
        kept_bytes(loaded.model, weights),
        _settings(how, precision, len(ids)),
        _environment(loaded.model),
        windows=Windows(hashes[-1], order_of([len(ids)], how.seed)),
    )
    ledger = open_ledger(out, fresh, hashes)
    for entry in ledger.entries:
        yield Scored(asdict(entry))
    wish = Wish(in_forward_order(quantizable(weights)), wanted, how.bits)
    clock.note("opening the model")
    by_menu = clock.is_limited or not (how.formats or how.exhaustive)
    try:
        if by_menu:
            yield from foretell(loaded.model, ids, ledger, wish, clock, cancel)
        with (
            torch.no_grad(),
            fast_kernels(loaded.model),
            matrix_products(precision),
            _measuring(loaded, cancel) as measuring,
        ):
            candidates, menu = wish.anchors, wanted
            if how.formats or how.exhaustive:
                candidates, menu = [Candidate(weight, fmt) for weight in wish.weights for fmt in wanted], []
            scan = Scan(measuring, ids, ledger, candidates, cancel, clock, menu)
            if precision == "bf16" and "rounding_floor" not in ledger.settings:
                yield Progress(STAGE, 0, 0, "Measuring the error of bfloat16")
                ledger.settings["rounding_floor"] = floor = scan.rounding_floor()
                yield Note(
                    f"In bfloat16, KL below {floor['mean']:.1g} nats per token comes from rounding, not "
                    "from quantization"
                )
            if by_menu:
                yield from Menu(scan, ledger, wish, candidates, measuring.depth, len(ids), clock).events()
            else:
                yield from scan.events(None if how.exhaustive else how.bits)
            if clock.is_limited:
                yield note_time(clock)
    finally:
        ledger.save(now=True)


def _settings(how: Analysis, precision: str, count: int) -> dict[str, Any]:
    """How so many windows are measured, as the score file says it."""
    return {
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
) -> dict[str, Any]:
    """The whole plan at once against the full-precision model: the ``measured`` of a plan file."""
    ids, text = windows(loaded, texts, tokens, window)
    use_cores()
    formats = {name: parse_format(each) for name, each in assignments.items()}
    with torch.no_grad(), fast_kernels(loaded.model):
        if loaded.mapped:
            with DiskLanes(loaded.model, cancel) as lanes:
                tally = only(Stream(lanes, ids).compare([Changed(formats, 0)]))
        else:
            lane = Lane(loaded.model, cancel)
            rounded = {name: fake_quantize(lane.parameters[name], each) for name, each in formats.items()}
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
    return sorted(weights, key=place_of)


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
