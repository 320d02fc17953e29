"""The integers of a plan: from a file beside it, or computed again."""

from collections.abc import Generator, Sequence
from pathlib import Path

from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.model.inventory import inventory, quantizable
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note
from kl_lens_desktop.quant.growing import remove
from kl_lens_desktop.quant.integers import SUFFIX, Pair
from kl_lens_desktop.quant.roundings import Roundings
from kl_lens_desktop.sensitivity.data_rounding import (
    calibration_of,
    is_scaled,
    kept_in_files,
    named,
    round_by_data,
    roundings_of,
)
from kl_lens_desktop.sensitivity.sequential import base_of, is_in_sequence, round_in_sequence, without_place


def plan_roundings(
    loaded: LoadedModel,
    plan: Plan,
    files: Sequence[Path],
    cancel: Cancel,
    stage: str,
    further: Sequence[Pair] = (),
) -> Generator[Event, None, Roundings]:
    """What rounds the weights of a plan and, where it was not rounded in sequence, of `further` pairs.

    Parameters
    ----------
    files : sequence of Path
        Where integers may be. What none of these has is computed again, and kept in the first.

    Yields
    ------
    Note, saying where they come from; Progress.

    Raises
    ------
    InputError
        If they must be computed again and the text is not at hand.
    """
    record, sha256 = plan.rounding, plan.model.sha256
    if record is None or not is_in_sequence(record):
        pairs = list(dict.fromkeys([*plan.fitted, *further]))
        return (yield from roundings_of(loaded, sha256, record, pairs, files, cancel, stage))
    found, of_file = kept_in_files(loaded, sha256, record, plan.fitted, files, cancel)
    if len(found) == len(plan.fitted):
        yield Note(f"Using the integers kept in {named(of_file)}")
        return Roundings(found)
    yield Note(f"Rounding the plan in sequence again: {files[0].name} does not hold its integers")
    by = calibration_of(loaded, base_of(record), ())
    apart = files[0].with_name(f"{files[0].stem}.apart{SUFFIX}")
    kept = False
    try:
        weights = quantizable(inventory(loaded.model))
        # Scaled columns are so in either order.
        pairs = plan.fitted if is_scaled(record) else without_place(loaded, plan.assignments)
        base = yield from round_by_data(loaded, sha256, apart, weights, pairs, by, cancel, stage)
        return (
            yield from round_in_sequence(
                loaded, sha256, files[0], plan.assignments, base, by.fit, record, cancel, stage
            )
        )
    except Cancelled:  # the next time goes on from there
        kept = True
        raise
    finally:
        if not kept:
            remove(apart)
