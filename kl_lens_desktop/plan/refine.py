"""A plan's weights rounded once more, in sequence; kept where the whole plan is better for it."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.plan.cluster import PlanCluster
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.plan.guard import ERRORS
from kl_lens_desktop.plan.integers import save_integers
from kl_lens_desktop.plan.jobs import RefineDone
from kl_lens_desktop.plan.joint import Way, joint_of, spread_windows, tallies
from kl_lens_desktop.plan.repair import is_better
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.quant.roundings import Roundings
from kl_lens_desktop.sensitivity.data_rounding import calibration_of
from kl_lens_desktop.sensitivity.sequential import is_in_sequence, record_of, round_in_sequence
from kl_lens_desktop.text.bundled import REFINE_TOKENS, dialogue_text, held_out_text
from kl_lens_desktop.text.windows import windows


@dataclass(frozen=True, slots=True)
class Refined:
    """The plan as it is now, what rounds it, and what came of rounding it in sequence, if that was tried."""

    plan: Plan
    roundings: Roundings
    done: RefineDone | None = None


def refined(
    loaded: LoadedModel,
    path: Path,
    plan: Plan,
    roundings: Roundings,
    held_out: Path,
    tokens: int,
    window: int,
    cancel: Cancel,
    stage: str,
    texts: Sequence[Path] = (),
    cluster: PlanCluster | None = None,
) -> Generator[Event, None, Refined]:
    """Round a plan in sequence, and write it to `path` if that lowers its joint KL by more than its error.

    What judges is the part of the held-out text behind the first `tokens`, which give the verdict, or where
    that is too short, the judging windows of the calibration text. On text of another kind, KL must not rise
    by more than two errors. After a cancel, the same call goes on at the block
    where it was.

    Parameters
    ----------
    texts : sequence of Path
        Where the text may be that the weights were fitted to, beside the bundled one. Without it, the plan
        keeps its integers, and a Note says so.

    Yields
    ------
    Progress, and a Note on what came of it.
    """
    if not plan.fitted or plan.rounding is None:
        yield Note("This plan is rounded to nearest: there is nothing to round in sequence")
        return Refined(plan, roundings)
    if is_in_sequence(plan.rounding):
        return Refined(plan, roundings)
    try:
        by = calibration_of(loaded, plan.rounding, texts)
    except InputError:
        yield Note(f"Not rounded in sequence: {plan.rounding['text']}, which the weights were fitted to, is "
                   "not here", "warning")  # fmt: skip
        return Refined(plan, roundings)
    judging, judged_on = _judging(loaded, held_out, tokens, window, by.judge), held_out.name
    if judging is by.judge:
        judged_on = str(plan.rounding["text"])
        yield Note(f"{held_out.name} has too little text beyond the verdict's. The new integers are judged "
                   f"on windows of {judged_on} that they are not fitted to")  # fmt: skip
    if cluster is not None:
        yield Note("This computer rounds in sequence, and the cluster measures both roundings")
    record, work = record_of(plan.rounding, plan.sha256), path.with_name(f"{path.stem}.sequence{SUFFIX}")
    sequential = yield from round_in_sequence(
        loaded, plan.model.sha256, work, plan.assignments, roundings, by.fit, record, cancel, stage
    )
    other = dialogue_text() if held_out != dialogue_text() else held_out_text()
    elsewhere, _ = windows(loaded, [other], max(tokens // 2, 2 * window), window)
    ways = [
        Way(ids, each, "Comparing both roundings")
        for ids in (judging, elsewhere)
        for each in (roundings, sequential)
    ]
    found = yield from tallies(loaded, cancel, plan.assignments, ways, stage, cluster)
    before, after, before_there, after_there = map(joint_of, found)
    loss, loss_se = before_there.less_than(after_there)
    gain, gain_se = after.less_than(before)
    better = is_better(after, before)
    kept = better and loss <= ERRORS * loss_se
    done: RefineDone = {
        "kl_before": before.mean,
        "kl_after": after.mean,
        "gain": gain,
        "gain_se": gain_se,
        "kept": kept,
    }
    if kept:
        plan = _with_integers(plan, sequential, record, judged_on, gain, gain_se)
        roundings = sequential
        save_plan(path, plan)
        if save_integers(path, plan, work):
            roundings = sequential.read_from(path.with_suffix(SUFFIX))
        yield Note(f"Rounding in sequence lowers the joint KL by {gain:.2g} ± {gain_se:.1g}")
    elif better:
        yield Note(f"Rounding in sequence is worse on {other.name}. The plan keeps its integers")
    else:
        yield Note("Rounding in sequence does not lower the joint KL by more than its error")
    work.unlink(missing_ok=True)
    return Refined(plan, roundings, done)


def _with_integers(
    plan: Plan,
    sequential: Roundings,
    record: Mapping[str, Any],
    judged_on: str,
    gain: float,
    gain_se: float,
) -> Plan:
    """The plan with other integers, which nobody has measured on the text of its verdict yet."""
    notes: dict[str, str | float | None] = {
        "refined_on": judged_on,
        "refine_gain": gain,
        "refine_gain_se": gain_se,
    }
    return replace(
        plan,
        measured=None,
        roundings=sequential.of(plan.assignments),
        rounding=dict(record),
        provenance={**plan.provenance, **notes},
    )


def _judging(loaded: LoadedModel, held_out: Path, skip: int, window: int, judge: Tensor) -> Tensor:
    """Held-out windows that the verdict does not read; `judge`, of the calibration text, if none are left."""
    try:
        return spread_windows(loaded, held_out, REFINE_TOKENS, window, skip)
    except InputError:
        return judge
