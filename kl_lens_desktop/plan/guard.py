"""A whole plan measured; and what a rounding that looked at one text does on another, beside the nearest."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.plan.cluster import PlanCluster
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.joint import Joint, Way, joint_of, standard_error, tallies
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note
from kl_lens_desktop.quant.roundings import NEAREST, Roundings
from kl_lens_desktop.sensitivity.engine import figures_of
from kl_lens_desktop.text.bundled import dialogue_text, held_out_text
from kl_lens_desktop.text.windows import windows

ERRORS = 2.0  # beyond which a difference counts


def measured(
    loaded: LoadedModel,
    plan: Plan,
    roundings: Roundings,
    held_out: Path,
    tokens: int,
    window: int,
    cancel: Cancel,
    stage: str,
    cluster: PlanCluster | None = None,
) -> Generator[Event, None, dict[str, Any]]:
    """Measure a plan on held-out text.

    Where it is not rounded to nearest, the same formats rounded so are measured as well, and both roundings
    on text of another domain.

    Returns
    -------
    dict
        The ``measured`` of a plan file.

    Yields
    ------
    Progress, and a warning if the plan is better at home and worse elsewhere by more than two paired errors.
    """
    ids, text = windows(loaded, [held_out], tokens, window)
    ways = [Way(ids, roundings, "Measuring the whole plan on held-out text")]
    if not plan.roundings:
        (tally,) = yield from tallies(loaded, cancel, plan.assignments, ways, stage, cluster)
        return {"text": text.as_dict(), **figures_of(tally)}
    other = dialogue_text() if held_out != dialogue_text() else held_out_text()
    ids_there, about = windows(loaded, [other], max(tokens // 2, 2 * window), window)
    ways.append(Way(ids, NEAREST, "Measuring the same formats rounded to nearest"))
    ways += [Way(ids_there, each, "Measuring both on text of another kind") for each in (roundings, NEAREST)]
    tally, *others = yield from tallies(loaded, cancel, plan.assignments, ways, stage, cluster)
    home, (plain_home, there, plain_there) = joint_of(tally), map(joint_of, others)
    if why := worse_elsewhere(home, plain_home, there, plain_there):
        yield Note(f"Rounding by the data is better on {held_out.name}, and worse on {other.name}: {why}. "
                   "Calibrate on text of your own kind, or round to nearest", "warning")  # fmt: skip
    return {
        "text": text.as_dict(),
        **figures_of(tally),
        "nearest": _figures(plain_home, window),
        "elsewhere": {
            "text": about.as_dict(),
            **_figures(there, window),
            "nearest": _figures(plain_there, window),
        },
    }


def worse_elsewhere(home: Joint, plain_home: Joint, there: Joint, plain_there: Joint) -> str:
    """In words, what a plan that is better at home than the nearest rounding loses elsewhere; or nothing."""
    gain, error = home.less_than(plain_home)
    if gain <= ERRORS * error:
        return ""
    loss, error = plain_there.less_than(there)
    if loss > ERRORS * error:
        return f"KL is {loss:.2g} ± {error:.1g} nats per token higher there"
    added, error = there.perplexity_over(plain_there)
    if added > ERRORS * error:
        return f"cross-entropy is {added:.2g} ± {error:.1g} nats per token higher there"
    return ""


def _figures(joint: Joint, window: int) -> dict[str, Any]:
    windows = len(joint.kl)
    added, error = joint.perplexity_over()
    return {
        "kl_pq": {"mean": float(np.mean(joint.kl)), "se": standard_error(joint.kl), "n": windows * window},
        "delta_ce": {"mean": added, "se": error, "n": windows * (window - 1)},  # the last has no next token
    }
