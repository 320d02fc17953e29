"""A whole plan measured at once, on text that no weight was scored on; and repaired first, where asked."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, cast

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.inventory import inventory, quantizable
from kl_lens_desktop.model.load import LoadedModel, load_or_open
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.cluster import PlanCluster, plan_cluster
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import Plan, check_applies, load_plan, save_plan
from kl_lens_desktop.plan.guard import measured
from kl_lens_desktop.plan.integers import beside
from kl_lens_desktop.plan.jobs import RepairDone, RepairSettings, VerifiedPlan, VerifyJob
from kl_lens_desktop.plan.joint import Bench, spread_windows, tokens_remembered
from kl_lens_desktop.plan.options import Choice, WeightOptions, total, weight_options
from kl_lens_desktop.plan.propose import METRIC_OF_METHOD, constraints_of, predicted, rounded
from kl_lens_desktop.plan.refine import Refined, refined
from kl_lens_desktop.plan.repair import Repair, repair
from kl_lens_desktop.plan.roundings import plan_roundings
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.quant.formats import DEFAULT_FORMATS, parse_format, stored_bytes
from kl_lens_desktop.quant.integers import BY_DATA, SUFFIX
from kl_lens_desktop.quant.roundings import Roundings
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores, load_scores
from kl_lens_desktop.sensitivity.sequential import base_of, is_in_sequence
from kl_lens_desktop.text.bundled import (
    REPAIR_TOKENS,
    calibration_text,
    check_repair_text,
    held_out_text,
    remarks,
    text_sha256,
)

STAGE = "verify"
MOST_REPAIR_TOKENS = 2**15  # on which a model with 1,000 channels keeps 128 MB of states
_SURE = 0.8  # of the time left: what a round on more text is expected to take


def verify(local: LocalModel, job: VerifyJob, cancel: Cancel) -> Iterator[Event]:
    """Measure the joint KL and perplexity of the job's plan and write them into it.

    To repair it, better plans of the same bytes are looked for first, on a third text, and each that is found
    replaces the one in the file. What was measured on the way lies beside it, in ``NAME.joint.json``, so that
    the same call, after a cancel, goes on where it was. Integers in sequence belong to one set of formats: a
    repair begins with those that the scores are of.

    Yields
    ------
    Progress, Repaired, Note, and last Finished with `jobs.Verified`.

    Raises
    ------
    InputError
        If the plan is for another model, the scores are, or the texts overlap.
    """
    path = job.plan
    plan = load_plan(path)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = yield from load_or_open(local.folder, STAGE)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(loaded.files))
    check_applies(plan, identity, [weight.name for weight in quantizable(inventory(loaded.model))], path)
    if plan.rounded_by:
        yield Note("Measuring the plan rounded to nearest: a plan does not hold the integers that NNCF chose")
        plan = plan.without_strange_figures
    held_out = job.text or held_out_text()
    yield from remarks(held_out)
    refining: Refined | None = None
    with plan_cluster(job.cluster, loaded, cancel) as cluster:
        if cluster:
            yield from cluster.begin(STAGE, local, identity.sha256)
        plan, roundings, repaired = yield from _with_repair(loaded, plan, job, held_out, cancel, cluster)
        if job.refine:
            refining = yield from refined(
                loaded,
                path,
                plan,
                roundings,
                held_out,
                job.tokens,
                job.window,
                cancel,
                STAGE,
                [job.refine_text] if job.refine_text else (),
                cluster,
            )
            plan, roundings = refining.plan, refining.roundings
        figures = yield from measured(
            loaded, plan, roundings, held_out, job.tokens, job.window, cancel, STAGE, cluster
        )
    if not load_plan(path).is_same_as(plan):
        raise InputError(
            f"{path} changed while it was measured", "the measurement is for the earlier plan", "Verify again"
        )
    save_plan(path, plan.with_measured(figures))
    yield Progress(STAGE, 1, 1, "Measured")
    verified: VerifiedPlan = {"plan": str(path), "measured": figures}
    if repaired:
        verified["repair"] = repaired
    if refining and refining.done:
        verified["refine"] = refining.done
    yield job.finished(verified)


def _with_repair(
    loaded: LoadedModel,
    plan: Plan,
    job: VerifyJob,
    held_out: Path,
    cancel: Cancel,
    cluster: PlanCluster | None,
) -> Generator[Event, None, tuple[Plan, Roundings, RepairDone | None]]:
    """The plan, repaired where the job says so, what rounds it, and what came of the repair."""
    path, given = job.plan, plan
    if job.repair and is_in_sequence(plan.rounding):
        plan = _out_of_sequence(plan, job.repair)
    roundings = yield from _roundings(loaded, plan, path, job.repair, cancel)
    if job.repair is None:
        return plan, roundings, None
    found, repaired = plan, None
    events = _repaired(
        loaded, path, given, plan, job.repair, job.window, held_out, cancel, roundings, cluster
    )
    for event in events:
        if isinstance(event, Plan):
            found = event
        elif isinstance(event, dict):
            repaired = cast(RepairDone, event)
        else:
            yield event
    if found is plan and plan is not given:  # nothing found: what is in the file stays
        roundings = yield from plan_roundings(loaded, given, beside(path), cancel, STAGE)
        return given, roundings, repaired
    return found, roundings, repaired


def _roundings(
    loaded: LoadedModel, plan: Plan, path: Path, by: RepairSettings | None, cancel: Cancel
) -> Generator[Event, None, Roundings]:
    """The integers of a plan and, with the scores it was made from, of all that a repair may try."""
    files = beside(path)
    further: list[tuple[str, str]] = []
    if by and by.scores:
        scores = tried(load_scores(by.scores), plan)
        files.append(by.scores.with_suffix(SUFFIX))
        if scores.rounding and plan.rounding in (None, scores.rounding):
            fitted = [(entry.weight, entry.format) for entry in scores.entries if entry.rounding != "nearest"]
            further, plan = fitted, replace(plan, rounding=scores.rounding)
    return (yield from plan_roundings(loaded, plan, files, cancel, STAGE, further))


def _out_of_sequence(plan: Plan, by: RepairSettings) -> Plan:
    """The plan with the integers that its scores are of."""
    scores = load_scores(by.scores) if by.scores else None
    if scores and scores.rounding == base_of(plan.rounding or {}):
        fitted, record = rounded(scores, plan.assignments)
    else:
        fitted, record = dict.fromkeys(plan.roundings, BY_DATA), base_of(plan.rounding or {})
    return replace(plan, roundings=fitted, rounding=record, measured=None)


def tried(scores: Scores, plan: Plan) -> Scores:
    """Scores of what can be measured at once: of formats whose integers nobody has computed, the plan's."""
    entries = [
        entry
        for entry in scores.entries
        if not entry.is_predicted
        or entry.rounding == "nearest"
        or plan.assignments.get(entry.weight) == entry.format
    ]
    return replace(scores, entries=entries)


def _repaired(
    loaded: LoadedModel,
    path: Path,
    given: Plan,
    begun: Plan,
    by: RepairSettings,
    window: int,
    held_out: Path,
    cancel: Cancel,
    roundings: Roundings,
    cluster: PlanCluster | None,
) -> Iterator[Event | Plan | dict[str, Any]]:
    """The events of a repair, each better plan once it is saved, and at the end what came of it.

    Small gains hide behind the error of a short text. Unless somebody chose how much to read, the search
    goes on, where nothing more is found and time is left, with as much more text as that time allows: from
    the better of the plan that it began with and the one that it found on less text. `begun` is the plan of
    the file, `given`, with the integers that a repair begins with.
    """
    scores = tried(load_scores(by.scores), begun) if by.scores else None
    if scores and by.scores:
        scores.model.check_same(begun.model, by.scores, "Choose the score file that the plan was made from")
    text = by.text or calibration_text()
    check_repair_text(text, held_out)
    yield from remarks(text)
    skip, limits, until = _scored(begun, scores, text), constraints_of(begun), monotonic() + 60 * by.minutes
    about = {"model": begun.model.sha256, "text": text_sha256(text), "skip": skip, "window": window}
    if begun.rounding:
        about["rounding"] = begun.rounding
    memory, options, found = path.with_suffix(".joint.json"), list[WeightOptions](), begun
    last: Repair | None = None
    done, tokens = 0, by.tokens or max(REPAIR_TOKENS, tokens_remembered(memory, about))
    while tokens > done:
        ids = spread_windows(loaded, text, tokens, window, skip)
        if ids.numel() <= done:
            break  # the text has no more
        if done:
            yield Note(f"Nothing more was found on {done:,} tokens; trying {ids.numel():,}")
        began, done = monotonic(), ids.numel()
        bench = Bench(loaded, ids, cancel, memory, {**about, "tokens": done}, roundings, cluster)
        options = options or (weight_options(scores) if scores else unscored_options(bench, begun))
        _check_scored(begun, options, by.scores)
        others = [found.assignments, *(starts(scores, options, begun, limits) if scores else ())]
        search = repair(
            bench, begun.assignments, options, limits, starts=others, seconds=max(until - began, 0)
        )
        try:
            for event in search:
                if not isinstance(event, Repair):
                    yield event
                    continue
                last, is_new = event, event.assignments != begun.assignments
                now = _replaced(begun, scores, event, text, roundings) if is_new else begun
                if now != found:  # where more text says that it is no better, the one in the file comes back
                    found = now
                    save_plan(path, found if is_new else given)
                    yield found
        finally:
            bench.remember()
        assert last is not None
        if by.tokens is None:
            tokens = more_tokens(done, (monotonic() - began) / last.rounds, until - monotonic())
        else:
            tokens = done
    assert last is not None
    yield from _said(last)


def more_tokens(tokens: int, spent_s: float, left_s: float) -> int:
    """How many tokens a round may read in the time left, if one on `tokens` took `spent_s` seconds.

    The same number where that is not twice as many.
    """
    most = min(int(tokens * _SURE * left_s / max(spent_s, 1e-3)), MOST_REPAIR_TOKENS)
    return most if most >= 2 * tokens else tokens


def _check_scored(plan: Plan, options: Sequence[WeightOptions], scores: Path | None) -> None:
    if strange := set(plan.assignments) - {option.weight for option in options}:
        raise InputError(
            f"{scores} lacks {len(strange)} weights of the plan, such as {min(strange)}",
            "the analysis did not finish",
            "Finish the analysis, or repair without scores",
        )


def _said(last: Repair) -> Iterator[Event | dict[str, Any]]:
    gain, error = last.joint.less_than(last.start)
    if not gain:
        yield Note("No exchange of formats lowers the joint KL by more than its error")
    yield {
        "kl_before": last.start.mean,
        "kl_after": last.joint.mean,
        "gain": gain,
        "gain_se": error,
        "rounds": last.rounds,
    }


def starts(
    scores: Scores, options: Sequence[WeightOptions], plan: Plan, limits: Constraints
) -> list[dict[str, str]]:
    """The plans of all metrics in the bytes of `plan`: a repair begins with the best of them."""
    size, _, _ = total(options, plan.assignments)
    found = []
    for metric in dict.fromkeys(METRIC_OF_METHOD.values()):
        front = Front(weight_options(scores, metric), limits)
        if front.smallest <= size:
            found.append(front.within_bytes(size))
    return found


def unscored_options(bench: Bench, plan: Plan) -> list[WeightOptions]:
    """Formats to try where no scores are at hand; the loss of each is the relative error of the weight."""
    names = sorted({"fp16", *DEFAULT_FORMATS, *plan.assignments.values()})
    options = []
    for weight in bench.weights.values():
        sizes = {name: stored_bytes(weight.shape, parse_format(name)) for name in names}
        choices = [Choice(name, sizes[name], bench.weight_error(weight.name, name), 0.0) for name in names]
        choices.sort(key=lambda choice: (choice.format != "fp16", -choice.bytes, choice.format))
        options.append(WeightOptions(weight.name, weight.kind, weight.block, weight.shape, tuple(choices)))
    return options


def _replaced(plan: Plan, scores: Scores | None, found: Repair, text: Path, roundings: Roundings) -> Plan:
    gain, error = found.joint.less_than(found.start)
    notes: dict[str, str | float | None] = {
        "repaired_on": text.name,
        "repair_gain": gain,
        "repair_gain_se": error,
    }
    fitted = roundings.of(found.assignments)
    if scores:
        sums = predicted(scores, found.assignments)
    else:
        size = plan.predicted["bytes"] or 0
        sums = {"kl": None, "se": None, "bytes": size - found.saved_bytes}
    return replace(
        plan,
        assignments=found.assignments,
        predicted=sums,
        measured=None,
        provenance={**plan.provenance, **notes},
        roundings=fitted,
        rounding=(plan.rounding or (scores.rounding if scores else None)) if fitted else None,
    )


def _scored(plan: Plan, scores: Scores | None, text: Path) -> int:
    """Tokens at the start of `text` that the scores have seen."""
    made = plan.provenance
    about = {"name": made.get("scored_on"), "sha256": made.get("scored_sha256")}
    tokens: Any = made.get("scored_tokens")
    if scores:
        about, tokens = scores.text, scores.text.get("tokens")
    seen = text.name in str(about["name"]).split(" + ") or about.get("sha256") == text_sha256(text)
    return tokens if seen and isinstance(tokens, int) else 0
