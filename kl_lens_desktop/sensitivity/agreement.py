"""How well each metric foretells the perplexity of the model with that one weight quantized: Kendall's τ.

Re-does Table 2 of arXiv 2604.13440 on the user's own model. The metrics come from the score file; the
perplexities are measured on other text, so that no metric is compared with its own sample.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import write_json
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.inventory import Weight, inventory
from kl_lens_desktop.model.load import LoadedModel, load_or_open
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.quant.roundings import Change, changed_values
from kl_lens_desktop.sensitivity.data_rounding import roundings_of
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.engine import in_forward_order, use_cores
from kl_lens_desktop.sensitivity.jobs import Agreed, AgreeJob, Tau
from kl_lens_desktop.sensitivity.lanes import Lane, Lanes, Work
from kl_lens_desktop.sensitivity.scores import Entry, ModelIdentity, load_rankable
from kl_lens_desktop.sensitivity.stream import Changed, Stream, changed
from kl_lens_desktop.sensitivity.walk import Position, Walk
from kl_lens_desktop.text.bundled import held_out_text, remarks
from kl_lens_desktop.text.windows import windows

COMPARED = ("kl_pq", "kl_qp", "mse", "sqnr_db", "delta_ce")
RESAMPLES = 1000
STAGE = "agree"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Kendall's τ-b of a metric's ranking with the perplexity ranking, and its 95 % bootstrap interval."""

    tau: float
    low: float
    high: float


def agree(local: LocalModel, job: AgreeJob, cancel: Cancel) -> Iterator[Event]:
    """Measure the perplexity of every scored (weight, format) alone, and its agreement with each metric.

    Yields
    ------
    Progress, and last Finished with `jobs.Agreed`; the job's `out` holds the same.

    Raises
    ------
    InputError
        If the scores are of another model, or fewer than three are measured in the job's formats.
    """
    path, held_out = job.scores, job.text or held_out_text()
    scores = load_rankable(path, job.formats)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = yield from load_or_open(local.folder, "analyze")
    use_cores()
    identity = ModelIdentity(local.id, local.revision, weights_sha256(loaded.files))
    scores.model.check_same(identity, path, "Open the model that was scored")
    weights = {weight.name: weight for weight in inventory(loaded.model)}
    if unknown := [entry.weight for entry in scores.entries if entry.weight not in weights]:
        raise InputError(f"Cannot use {path}", f"the model has no {unknown[0]}", "Analyze the model again")
    yield from remarks(held_out)
    ids, about = windows(loaded, [held_out], job.tokens, job.window)
    points: list[dict[str, Any]] = []
    fitted = [(entry.weight, entry.format) for entry in scores.entries if entry.rounding != "nearest"]
    roundings = yield from roundings_of(
        loaded, identity.sha256, scores.rounding, fitted, [path.with_suffix(SUFFIX)], cancel, STAGE
    )
    entries = _in_order(scores.entries, weights)
    todo = [(weights[entry.weight], roundings.change(entry.weight, entry.format)) for entry in entries]
    with torch.no_grad(), fast_kernels(loaded.model):
        measure = _nats_on_disk if loaded.mapped else _nats_in_memory
        found = measure(loaded, ids, todo, cancel)
        full = next(found)
        for entry, nats in zip(entries, found, strict=True):
            cancel.check()
            metrics = {name: getattr(entry, name).mean for name in COMPARED}
            point = {"weight": entry.weight, "kind": entry.kind, "format": entry.format, **metrics}
            halves = [_perplexity(nats[::2]), _perplexity(nats[1::2])]
            points.append({**point, "perplexity": _perplexity(nats), "perplexity_halves": halves})
            yield Progress(STAGE, len(points), len(todo), entry.weight, "entries")
    agreements: dict[str, Tau] = {
        name: {"tau": of.tau, "low": of.low, "high": of.high} for name, of in agreement(points).items()
    }
    pairs = np.array([point["perplexity_halves"] for point in points]).T
    result: Agreed = {
        "metrics": agreements,
        "ceiling": _tau(pairs[0], pairs[1]),
        "ceiling_interval": _interval(pairs[0], pairs[1]),
        "points": points,
        "text": about.as_dict(),
        "perplexity_full": _perplexity(full),
    }
    if job.out:
        write_json(job.out, {"schema": "kl-lens/agreement/1", "model": asdict(scores.model), **result})
    yield job.finished(result)


def agreement(points: list[dict[str, Any]], seed: int = 0) -> dict[str, Agreement]:
    """τ-b of every metric against perplexity, with a percentile bootstrap over the points.

    SQNR falls where the others rise, so its sign is turned.
    """
    perplexity = np.array([point["perplexity"] for point in points])
    result = {}
    for name in COMPARED:
        values = np.array([point[name] for point in points]) * (-1 if name == "sqnr_db" else 1)
        result[name] = Agreement(_tau(values, perplexity), *_interval(values, perplexity, seed))
    return result


def _interval(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], seed: int = 0) -> list[float]:
    """The 95 % interval of τ by a percentile bootstrap over pairs."""
    draws = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, len(a)))
    low, high = np.percentile([_tau(a[draw], b[draw]) for draw in draws], (2.5, 97.5))
    return [float(low), float(high)]


def _nats_in_memory(
    loaded: LoadedModel, ids: Tensor, todo: Sequence[tuple[Weight, Change]], cancel: Cancel
) -> Iterator[list[float]]:
    """Cross-entropies by window in full precision, then with each weight of `todo` changed."""
    with Lanes(loaded.model, cancel) as lanes:
        walk = Walk(lanes.main, ids, lanes=lanes.count, compared=False)
        yield walk.cross_entropies({}, head_only=True, lane=lanes.main, position=walk.position)
        yield from lanes.in_order(_jobs(walk, todo))


def _nats_on_disk(
    loaded: LoadedModel, ids: Tensor, todo: Sequence[tuple[Weight, Change]], cancel: Cancel
) -> Iterator[list[float]]:
    """As `_nats_in_memory`."""
    models = [Changed({}, None), *(changed(weight, change) for weight, change in todo)]
    with DiskLanes(loaded.model, cancel) as lanes:
        found = Stream(lanes, ids, compared=False).cross_entropies(models)
        yield from (nats for nats in found if not isinstance(nats, float))


def _jobs(walk: Walk, todo: Iterable[tuple[Weight, Change]]) -> Iterator[Work[list[float]]]:
    for weight, change in todo:
        if weight.block is not None:
            walk.advance(weight.block)
        yield Work(functools.partial(_nats, walk, walk.position, weight, change), weight.parameters)


def _nats(walk: Walk, position: Position, weight: Weight, change: Change, lane: Lane) -> list[float]:
    swap = {weight.name: changed_values(lane.parameters[weight.name], change)}
    return walk.cross_entropies(swap, head_only=weight.kind == "head", lane=lane, position=position)


def _perplexity(nats: Sequence[float]) -> float:
    return math.exp(math.fsum(nats) / len(nats))


def _tau(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """τ-b, and 0 where one side is constant, for then nothing is ranked."""
    from scipy.stats import kendalltau  # takes two seconds to load

    tau = float(kendalltau(a, b).statistic)
    return 0.0 if math.isnan(tau) else tau


def _in_order(entries: list[Entry], weights: dict[str, Weight]) -> list[Entry]:
    order = {weight.name: place for place, weight in enumerate(in_forward_order(list(weights.values())))}
    return sorted(entries, key=lambda entry: order[entry.weight])
