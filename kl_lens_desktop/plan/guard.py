"""What a rounding that looked at one text does on another: the same plan rounded to nearest beside it."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.plan.joint import Bench, Joint, standard_error
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.quant.roundings import Roundings
from kl_lens_desktop.text.bundled import dialogue_text, held_out_text
from kl_lens_desktop.text.windows import windows

ERRORS = 2.0  # beyond which a difference counts


def beside_nearest(
    loaded: LoadedModel,
    assignments: Mapping[str, str],
    roundings: Roundings,
    held_out: Path,
    tokens: int,
    window: int,
    cancel: Cancel,
    stage: str,
) -> Generator[Event, None, dict[str, Any]]:
    """The same formats rounded to nearest on held-out text, and both roundings on text of another domain.

    Returns
    -------
    dict
        ``nearest`` and ``elsewhere`` of a plan's ``measured``.

    Yields
    ------
    Progress, and a warning if the plan is better at home and worse elsewhere by more than two paired errors.
    """
    yield Progress(stage, 1, 2, "Measuring the same formats rounded to nearest")
    ids, _ = windows(loaded, [held_out], tokens, window)
    bench = Bench(loaded, ids, cancel, roundings=roundings)
    home, plain_home = bench.measure(assignments), bench.measure_nearest(assignments)
    other = dialogue_text() if held_out != dialogue_text() else held_out_text()
    yield Progress(stage, 1, 2, "Measuring both on text of another kind")
    ids, about = windows(loaded, [other], max(tokens // 2, 2 * window), window)
    bench = Bench(loaded, ids, cancel, roundings=roundings)
    there, plain_there = bench.measure(assignments), bench.measure_nearest(assignments)
    if why := worse_elsewhere(home, plain_home, there, plain_there):
        yield Note(f"Rounding by the data is better on {held_out.name}, and worse on {other.name}: {why}. "
                   "Calibrate on text of your own kind, or round to nearest", "warning")  # fmt: skip
    return {
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
