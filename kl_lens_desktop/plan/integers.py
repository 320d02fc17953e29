"""The integers of a plan's weights, in a file beside it that travels with it. Needs no torch."""

from pathlib import Path

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.quant.integers import SUFFIX, Integers, open_integers, writing


def beside(plan: Path) -> list[Path]:
    """Where the integers of a plan file may lie: beside it under its name, or under that of its scores."""
    own = plan.with_suffix(SUFFIX)
    return [own, *sorted(file for file in plan.absolute().parent.glob(f"*{SUFFIX}") if file.name != own.name)]


def save_integers(path: Path, plan: Plan, source: Path) -> bool:
    """Write the integers of `plan`, which `source` holds, beside the plan's own file `path`.

    Returns
    -------
    bool
        Whether they are there. Where `source` does not hold all of them, whoever needs them computes them.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    target = path.with_suffix(SUFFIX)
    if not plan.fitted or not _holds(source, plan):
        return False
    if _holds(target, plan):
        return True
    held = open_integers(source)
    sizes = [held.size(pair) for pair in plan.fitted]
    with writing(target, held.model_sha256, held.record, sizes) as writer:
        for pair in plan.fitted:
            writer.add(pair, held.whole(pair))
    return True


def _holds(file: Path, plan: Plan) -> bool:
    try:
        held: Integers = open_integers(file)
    except InputError:
        return False
    same = held.model_sha256 == plan.model.sha256 and held.record == plan.rounding
    return same and held.pairs >= set(plan.fitted)
