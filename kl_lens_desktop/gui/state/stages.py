"""Where each stage of the work stands, told in one place: the rail and the pages read it here."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.state.translation import tr

if TYPE_CHECKING:
    from kl_lens_desktop.gui.state.session import Session
    from kl_lens_desktop.sensitivity.scores import Entry

STAGES = ("Model", "Sensitivity", "Plan", "Export", "Benchmark")  # as their pages are called
PLAN = "plan"  # the exported model that follows the plan; the others are uniform
# The page on which what a job or one of its stages does is seen.
PAGE_OF = {
    "pull": "Model",
    "download": "Model",
    "inspect": "Model",
    "load": "Model",
    "analyze": "Sensitivity",
    "agree": "Sensitivity",
    "plan": "Plan",
    "verify": "Plan",
    "repair": "Plan",
    "baselines": "Plan",
    "prices": "Plan",
    "export": "Export",
    "export-all": "Export",
    "push": "Export",
    "bench": "Benchmark",
}


class Standing(Enum):
    """How far a stage is; the value is what a screen reader says."""

    EMPTY = tr("not started")
    RUNNING = tr("running")
    PARTIAL = tr("incomplete")
    STALE = tr("out of date")
    FAILED = tr("failed")
    DONE = tr("done")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's standing and, where it is less than done, what is missing and what to do, in words."""

    standing: Standing
    words: str = ""


def stages(session: "Session") -> dict[str, Stage]:
    """All five stages of the open model."""
    found = {
        "Model": Stage(Standing.DONE if session.model and session.opening is None else Standing.EMPTY),
        "Sensitivity": _sensitivity(session),
        "Plan": _plan(session),
        "Export": _export(session),
        "Benchmark": _benchmark(session),
    }
    if session.opening is not None:
        found = dict.fromkeys(STAGES, Stage(Standing.EMPTY))
    for name in session.failures:
        if found[name].standing in (Standing.EMPTY, Standing.PARTIAL):
            words = found[name].words
            found[name] = Stage(
                Standing.FAILED,
                tr("The last job failed; the Log says why. {words}").format(words=words).strip(),
            )
    if (running := session.running_page) in found:
        found[running] = Stage(Standing.RUNNING)
    return found


def measured_weights(session: "Session") -> tuple[int, int]:
    """How many weights are measured in every format that any is measured in, and how many there are."""
    if session.model is None:
        return 0, 0
    known = session.entries.keys() | (session.scores.unmeasurable.keys() if session.scores else set())
    formats = {name for _, name in session.entries}
    weights = [weight["name"] for weight in session.model.matrices]
    done = sum(bool(formats) and all((weight, name) in known for name in formats) for weight in weights)
    return done, len(weights)


def unplanned(session: "Session") -> int:
    """How many weights have no format in the plan, and so stay FP16."""
    if session.model is None or session.plan is None:
        return 0
    return sum(weight["name"] not in session.plan.assignments for weight in session.model.matrices)


def _sensitivity(session: "Session") -> Stage:
    if not session.entries:
        return Stage(Standing.EMPTY)
    done, total = measured_weights(session)
    if done < total:
        rest = quantities.plural(total - done, "weight")
        return Stage(
            Standing.PARTIAL,
            tr(
                "{done:,} of {total:,} weights are measured. The other {rest} stay FP16 in "
                "every plan until you continue."
            ).format(done=done, total=total, rest=rest),
        )
    tokens = session.scores.text["tokens"] if session.scores else 0
    if short := [entry.kl_pq.n for entry in _unfinished(session, tokens)]:
        least = min(short)
        return Stage(
            Standing.PARTIAL,
            tr(
                "{count} used only {least:,} or more of {tokens:,} tokens. Continue for smaller errors."
            ).format(count=quantities.plural(len(short), "result"), least=least, tokens=tokens),
        )
    return Stage(Standing.DONE)


def _unfinished(session: "Session", tokens: int) -> "Iterator[Entry]":
    """Entries that are to be measured on more text."""
    measured = (entry for entry in session.entries.values() if not entry.is_predicted)
    return (entry for entry in measured if not entry.settled and entry.kl_pq.n < tokens)


def _plan(session: "Session") -> Stage:
    plan = session.plan
    if plan is None:
        return Stage(Standing.EMPTY)
    left, (done, total) = unplanned(session), measured_weights(session)
    if left:
        words = tr("The plan covers {planned:,} of {total:,} weights; the others stay FP16. ").format(
            planned=total - left, total=total
        )
        more = tr("Move the budget to plan all of them.") if done == total else tr("Measure the rest first.")
        return Stage(Standing.PARTIAL, words + more)
    made, scores = plan.provenance, session.scores
    if (
        scores is not None
        and plan.model.sha256 == scores.model.sha256
        and made.get("scored_sha256") == scores.text.get("sha256")
        and (made.get("scored_tokens") or 0) != scores.text.get("tokens")
    ):
        return Stage(
            Standing.STALE,
            tr("The plan is from before the latest measurements. Move the budget to renew it."),
        )
    return Stage(Standing.DONE)


def _export(session: "Session") -> Stage:
    if not session.exports:
        return Stage(Standing.EMPTY)
    if is_stale_export(session):
        return Stage(Standing.STALE, tr("The exported plan is an earlier one. Export it again."))
    if PLAN in session.exports and (left := unplanned(session)):
        words = tr("{left} of the exported plan stay FP16: no analysis covered them.").format(
            left=quantities.plural(left, "weight")
        )
        return Stage(Standing.PARTIAL, words)
    return Stage(Standing.DONE)


def is_stale_export(session: "Session") -> bool:
    """Whether another plan than the one shown is exported."""
    plan, audit = session.plan, session.audits.get(PLAN)
    return plan is not None and audit is not None and audit.get("assignments") != plan.assignments


def _benchmark(session: "Session") -> Stage:
    if not session.bench:
        return Stage(Standing.EMPTY)
    measured = {row["variant"]: row.get("plan_sha256") for row in session.bench}
    written = {name: audit["plan_sha256"] for name, audit in session.audits.items()}
    old = [name for name, plan in written.items() if measured.get(name, plan) != plan]
    if old:
        return Stage(
            Standing.STALE,
            tr("The benchmark measured an earlier export of {old}. Run it again.").format(
                old=", ".join(sorted(old))
            ),
        )
    if left := sorted(session.exports.keys() - measured.keys()):
        return Stage(
            Standing.PARTIAL,
            tr("Not measured yet: {left}. Run the benchmark again.").format(left=", ".join(left)),
        )
    return Stage(Standing.DONE)
