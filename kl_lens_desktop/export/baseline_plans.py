"""Every baseline as a plan file beside a plan of the same bytes, each measured on the same held-out text."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.export.nncf_choice import NNCF_METRICS, Chooser
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.load import LoadedModel, load_or_open
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.baselines import (
    PAPER_FORMATS,
    PREFIXES,
    paper_gamma,
    paper_prefixes,
    paper_walk,
    random_assignment,
)
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.joint import Bench
from kl_lens_desktop.plan.options import WeightOptions, total, weight_options
from kl_lens_desktop.plan.propose import predicted, provenance, rounded
from kl_lens_desktop.plan.verify import tried
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.quant.roundings import NEAREST, Roundings
from kl_lens_desktop.sensitivity.data_rounding import roundings_of
from kl_lens_desktop.sensitivity.engine import measure_plan
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores, load_scores
from kl_lens_desktop.text.bundled import SCORED_TOKENS, calibration_text, held_out_text, remarks
from kl_lens_desktop.text.windows import windows

STAGE = "baselines"
RANDOM_ROOM = 1.005  # a random plan may take up to so many times the plan's bytes
NNCF_LOWS = ("int4_sym_g64", "int3_sym_g64", "int2_sym_g64")
UNIFORMS = ("fp16", "int8_sym", "int4_sym_g32", "int4_sym_g64", "int4_sym_g128", "int4_sym_pc")

_METRICS = {"sqnr": "sqnr", "mse": "mse", "delta-ce": "delta_ce", "kl-qp": "kl_qp"}
_NAMES = {
    "uniform": [f"uniform-{name}" for name in UNIFORMS],
    "metrics": list(_METRICS),
    "paper": ["paper", *(f"p{number:02}" for number in range(1, PREFIXES + 1)), "paper-gamma"],
    "random": [f"random-{seed}" for seed in range(3)],
    "nncf": [f"nncf-{metric}" for metric in NNCF_METRICS],
}

Assignments = Iterator[tuple[str, dict[str, str]]]


def baselines(local: LocalModel, job: BaselinesJob, cancel: Cancel) -> Iterator[Event]:
    """Write ``NAME.json`` into the job's `out` for each baseline, verified on held-out text.

    Knapsacks on SQNR, MSE, ΔCE and reverse KL, the paper's list, chance and NNCF's mixed precision take the
    bytes of the plan, or the next more that they can; uniform formats, the paper's ten prefixes and its
    greedy at `gamma` have sizes of their own. What `out` holds already, verified on the same text, is not
    measured again.

    Yields
    ------
    Progress, Note, and last Finished with `jobs.Baselines`.

    Raises
    ------
    InputError
        If scores, plan and model are not of the same weights, or `out` cannot be written.
    """
    scores, plan = load_scores(job.scores), load_plan(job.plan)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = yield from load_or_open(local.folder, STAGE)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(loaded.files))
    for path, model in ((job.scores, scores.model), (job.plan, plan.model)):
        model.check_same(identity, path, "Open the model that was scored")
    scores = tried(scores, plan)
    fitted = [(entry.weight, entry.format) for entry in scores.entries if entry.rounding != "nearest"]
    files = [job.scores.with_suffix(SUFFIX)]
    roundings = yield from roundings_of(
        loaded, identity.sha256, scores.rounding, fitted, files, cancel, STAGE
    )
    held_out = job.text or held_out_text()
    yield from remarks(held_out)
    _, about = windows(loaded, [held_out], job.tokens, job.window)
    calibration, _ = windows(
        loaded,
        [calibration_text()],
        min(int(scores.text.get("tokens") or SCORED_TOKENS), SCORED_TOKENS),
        job.window,
    )
    families = [family for family in job.only if family != "nncf" or not loaded.mapped]
    if len(families) < len(job.only):
        yield Note("NNCF needs all weights in memory to choose. Its plans are left out", "warning")
    names = [name for family in families for name in _NAMES[family]]
    written: dict[str, str] = {}
    for family in families:
        made_by = _family(family, loaded, scores, plan, calibration, job.gamma, cancel, roundings)
        for name, assignments in made_by:
            cancel.check()
            yield Progress(STAGE, len(written), len(names), name, "plans")
            nearest = family in ("nncf", "uniform")  # as others round
            made = _plan(scores, name, assignments)
            if nearest and made.roundings:
                sums = {"kl": None, "se": None, "bytes": made.predicted["bytes"]}
                made = replace(made, predicted=sums, roundings={}, rounding=None)
            rounding = NEAREST if nearest else roundings
            path = job.out / f"{name}.json"
            measured = _measured(path, made, about.as_dict())
            if measured is None:
                measured = measure_plan(
                    loaded, assignments, [held_out], job.tokens, job.window, cancel, rounding
                )
                save_plan(path, replace(made, measured=measured))
            written[name] = str(path)
    if missing := sorted(set(names) - set(written)):
        yield Note(f"No plan {', '.join(missing)}: impossible at this size or with the scored formats")
    yield Progress(STAGE, len(names), len(names), "Measured", "plans")
    yield job.finished({"plans": written})


def _family(
    family: str,
    loaded: LoadedModel,
    scores: Scores,
    plan: Plan,
    calibration: Tensor,
    gamma: float,
    cancel: Cancel,
    roundings: Roundings,
) -> Assignments:
    options = weight_options(scores)
    size, _, _ = total(options, {o.weight: plan.assignments.get(o.weight, "fp16") for o in options})
    if family == "uniform":
        every = [weight["name"] for weight in scores.weights if weight["kind"] != "conv"]
        for name in UNIFORMS:
            yield f"uniform-{name}", dict.fromkeys(every, name)
    elif family == "metrics":
        for method, metric in _METRICS.items():
            yield method, Front(weight_options(scores, metric)).no_smaller(size)
    elif family == "paper":
        ranked = weight_options(scores, "kl_qp")
        yield from _paper(loaded, ranked, options, size, calibration, gamma, cancel, roundings)
    elif family == "random":
        for name in _NAMES["random"]:
            with contextlib.suppress(InputError):  # too few formats to come near those bytes by chance
                yield name, random_assignment(options, size, int(RANDOM_ROOM * size), int(name[-1]))
    else:
        yield from _nncf(loaded, options, size, calibration, cancel)


def _paper(
    loaded: LoadedModel,
    options: list[WeightOptions],
    sizes: list[WeightOptions],
    least: int,
    calibration: Tensor,
    gamma: float,
    cancel: Cancel,
    roundings: Roundings,
) -> Assignments:
    walk = [chosen for chosen in paper_walk(options) if total(sizes, chosen)[0] >= least]
    yield "paper", walk[-1]
    if all({*PAPER_FORMATS} <= {choice.format for choice in option.choices} for option in options):
        yield from paper_prefixes(options).items()
        bench = Bench(loaded, calibration, cancel, roundings=roundings)
        yield "paper-gamma", paper_gamma(options, lambda plan: bench.measure(plan).perplexity_ratio, gamma)


def _nncf(
    loaded: LoadedModel,
    options: list[WeightOptions],
    least: int,
    calibration: Tensor,
    cancel: Cancel,
) -> Assignments:
    """The low format is the finest that leaves NNCF something to choose."""
    shapes = {option.weight: option.shape for option in options}
    sizes = {low: sum(stored_bytes(s, parse_format(low)) for s in shapes.values()) for low in NNCF_LOWS}
    low = next((low for low in NNCF_LOWS if sizes[low] < least), NNCF_LOWS[-1])
    chooser = Chooser(loaded, calibration, cancel)
    try:
        for metric in NNCF_METRICS:
            order = chooser.order(metric)
            count = order.count(least, low)
            if count is not None:
                yield f"nncf-{metric}", chooser.choose(metric, low, order.ratio(count))
    finally:
        chooser.close()


def _plan(scores: Scores, name: str, assignments: dict[str, str]) -> Plan:
    return Plan(
        scores.model,
        assignments,
        None,
        name,
        predicted(scores, assignments),
        None,
        [],
        provenance(scores),
        *rounded(scores, assignments),
    )


def _measured(path: Path, plan: Plan, text: Mapping[str, object]) -> Mapping[str, object] | None:
    """What an earlier run measured of this plan on this text."""
    try:
        earlier = load_plan(path)
    except InputError:
        return None
    if not earlier.is_same_as(plan) or not earlier.measured or earlier.measured["text"] != text:
        return None
    return earlier.measured
