"""The analysis: every weight in every format, alone, against the full-precision model.

Method: Kong, Pandey, Ponzina, Rosing, "A KL Lens on Quantization", arXiv 2604.13440, with both KL directions
computed as such, per-token means with standard errors, the exported file's own rounding, and each block run
only when a change can reach it.
"""

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import check_writable
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.events import Event, Note, Progress, Scored, Weights
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.inventory import Weight, inventory, kept_bytes, quantizable
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.model.scan import fast_scans
from kl_lens_desktop.quant.formats import Format, parse_format, stored_bytes
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.metrics import Tally
from kl_lens_desktop.sensitivity.scores import (
    Entry,
    Estimate,
    ModelIdentity,
    Scores,
    load_scores,
    save_scores,
)
from kl_lens_desktop.sensitivity.texts import TextIdentity, windows
from kl_lens_desktop.sensitivity.walk import Walk

DEFAULT_FORMATS = ("int4_sym_g64", "int8_sym")
DEFAULT_TOKENS = 4096
DEFAULT_WINDOW = 256
STAGE = "analyze"


def analyze(
    local: LocalModel,
    out: Path,
    texts: Sequence[Path],
    cancel: Cancel,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    tokens: int = DEFAULT_TOKENS,
    window: int = DEFAULT_WINDOW,
) -> Iterator[Event]:
    """Score every (weight, format) and write `out` after each; what `out` holds already is not measured
    again.

    Yields
    ------
    Weights
        The inventory, first.
    Scored
        Each entry, those of an earlier run first.
    Progress, Note

    Raises
    ------
    InputError
        If `out` holds scores of another model, text or way of measuring, or cannot be written.
    """
    wanted = [parse_format(name) for name in dict.fromkeys(formats) if name != "fp16"]
    check_writable(out.absolute().parent)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = load_model(local.folder)
    use_cores()
    weights = inventory(loaded.model)
    yield Weights([weight.as_dict() for weight in weights])
    ids, text = windows(loaded.tokenizer, texts, tokens, window)
    scores = _start_or_resume(out, local, loaded, weights, text)
    for entry in scores.entries:
        yield Scored(asdict(entry))
    done = {(entry.weight, entry.format) for entry in scores.entries}
    todo = [
        (weight, fmt)
        for weight in in_forward_order(quantizable(weights))
        for fmt in wanted
        if (weight.name, fmt.name) not in done
    ]
    if not todo:
        save_scores(out, scores)
        return
    parameters = dict(loaded.model.named_parameters(remove_duplicate=False))
    with torch.no_grad(), fast_scans(loaded.model):
        yield Progress(STAGE, 0, len(todo), "Running the full-precision model", "entries")
        walk = Walk(loaded.model, ids, cancel)
        clock = _Clock(todo, walk.depth)
        for count, (weight, fmt) in enumerate(todo):
            cancel.check()
            parameter = parameters[weight.name]
            if weight.block is not None:
                walk.advance(weight.block)
            tally = _compare(walk, weight, parameter, fmt) if bool(parameter.isfinite().all()) else None
            if tally is None or not tally.finite:
                yield Note(f"{weight.name} in {fmt.label} gives no finite result; it stays FP16", "warning")
            else:
                entry = _entry(weight, fmt, tally.estimates())
                scores = scores.with_entry(entry)
                save_scores(out, scores)
                yield Scored(asdict(entry))
            left = clock.tick(weight)
            yield Progress(STAGE, count + 1, len(todo), f"{weight.name} in {fmt.label}", "entries", left)


def measure_plan(
    loaded: LoadedModel,
    assignments: dict[str, str],
    texts: Sequence[Path],
    tokens: int,
    window: int,
    cancel: Cancel,
) -> dict[str, Any]:
    """The whole plan at once against the full-precision model: the ``measured`` of a plan file."""
    ids, text = windows(loaded.tokenizer, texts, tokens, window)
    use_cores()
    parameters = dict(loaded.model.named_parameters(remove_duplicate=False))
    with torch.no_grad(), fast_scans(loaded.model):
        walk = Walk(loaded.model, ids, cancel)
        tally = walk.compare(
            {
                parameters[name]: fake_quantize(parameters[name], parse_format(f))
                for name, f in assignments.items()
            }
        )
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
    """Leave the window a core where there are more than two."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    torch.set_num_threads(cores - 1 if cores > 2 else cores)


def _compare(walk: Walk, weight: Weight, parameter: nn.Parameter, fmt: Format) -> Tally:
    return walk.compare({parameter: fake_quantize(parameter, fmt)}, head_only=weight.kind == "head")


def _entry(weight: Weight, fmt: Format, estimates: dict[str, Estimate]) -> Entry:
    size = stored_bytes(weight.shape, fmt)
    return Entry(weight.name, weight.kind, weight.block, fmt.name, size, **estimates)


def _start_or_resume(
    out: Path, local: LocalModel, loaded: LoadedModel, weights: list[Weight], text: TextIdentity
) -> Scores:
    fresh = Scores(
        ModelIdentity(local.id, local.revision, weights_sha256(loaded.files)),
        text.as_dict(),
        [weight.as_dict() for weight in weights],
        kept_bytes(loaded.model, weights),
        {"precision": "f32", "standard_error": "batch means over windows", "sqnr_limit_db": 200},
        _environment(loaded.model),
    )
    if not out.exists():
        return fresh
    kept = load_scores(out)
    differences = kept.model.differences(fresh.model)
    differences += [
        f"text {key} {kept.text.get(key)!r} against {value!r}"
        for key, value in fresh.text.items()
        if kept.text.get(key) != value
    ]
    if differences:
        raise InputError(
            f"Cannot continue {out}",
            f"it was measured otherwise: {'; '.join(differences)}",
            "Choose another file name, or the same model and text",
        )
    return kept


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


class _Clock:
    """Time left, from the work left: a change in block i makes the blocks from i on run, and the head."""

    def __init__(self, todo: Sequence[tuple[Weight, Format]], depth: int) -> None:
        self._depth = depth
        self._left = sum(self._work(weight) for weight, _ in todo)
        self._done = 0.0
        self._started = time.monotonic()

    def tick(self, weight: Weight) -> float:
        self._done += self._work(weight)
        self._left -= self._work(weight)
        return self._left * (time.monotonic() - self._started) / self._done

    def _work(self, weight: Weight) -> float:
        if weight.kind == "head":
            return 1
        return self._depth - (weight.block or 0) + 1
