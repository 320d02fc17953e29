"""Other ways to choose formats, to stand beside the KL plan: the paper's list, and chance."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.constraints import Constraints, items
from kl_lens_desktop.plan.options import Choice, WeightOptions

FAMILIES = ("uniform", "metrics", "paper", "random", "nncf")
PREFIXES = 10
PAPER_FORMATS = ("int8_sym", "int4_sym_g64")


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of the paper's merged list."""

    weights: tuple[str, ...]
    choice: Choice


def check_families(names: Sequence[str]) -> None:
    """Raise `InputError` unless all `names` are of `FAMILIES`."""
    if unknown := sorted(set(names) - set(FAMILIES)):
        raise InputError(
            f"Unknown baselines {unknown[0]!r}",
            f"the baselines are {', '.join(FAMILIES)}",
            "Choose from these",
        )


def paper_list(options: Sequence[WeightOptions], constraints: Constraints | None = None) -> list[ListEntry]:
    """All (weight, low format) entries in ascending order of loss (arXiv 2604.13440, "Allocation")."""
    entries = [
        ListEntry(item.weights, choice)
        for item in items(options, constraints or Constraints())
        if len(item.choices) > 1
        for choice in item.choices
        if choice.format != "fp16"
    ]
    return sorted(entries, key=lambda entry: (entry.choice.loss, entry.weights, entry.choice.bytes))


def paper_walk(
    options: Sequence[WeightOptions], constraints: Constraints | None = None
) -> Iterator[dict[str, str]]:
    """The paper's walk down its list: the assignment after each entry, a smaller format replacing a larger
    one, from all FP16 on."""
    limits = constraints or Constraints()
    chosen = {
        weights: next((c for c in choices if c.format == "fp16"), choices[0])
        for weights, choices in ((item.weights, item.choices) for item in items(options, limits))
    }
    yield _spread(chosen)
    for entry in paper_list(options, limits):
        if entry.choice.bytes < chosen[entry.weights].bytes:
            chosen[entry.weights] = entry.choice
            yield _spread(chosen)


def paper_greedy(
    options: Sequence[WeightOptions], budget: int, constraints: Constraints | None = None
) -> dict[str, str]:
    """The paper's walk, stopped at a size instead of a perplexity.

    Raises
    ------
    InputError
        If the whole list leaves more than `budget` bytes.
    """
    table = {(option.weight, choice.format): choice.bytes for option in options for choice in option.choices}
    size = 0
    for assignment in paper_walk(options, constraints):
        size = sum(table[item] for item in assignment.items())
        if size <= budget:
            return assignment
    raise InputError(
        f"No plan fits in {budget / 1000000.0:.2f} MB",
        f"the smallest possible plan takes {size / 1000000.0:.2f} MB",
        "Raise the budget, or analyze smaller formats too",
    )


def paper_prefixes(
    options: Sequence[WeightOptions], formats: Sequence[str] = PAPER_FORMATS
) -> dict[str, dict[str, str]]:
    """``p01`` (mildest) to ``p10`` (near uniform): tenths of the list in two formats.

    The last entry, the most sensitive one, is never accepted.
    """
    kept = [_only(option, formats) for option in options]
    entries = paper_list(kept)[:-1]
    plans = {}
    for number in range(1, PREFIXES + 1):
        chosen: dict[tuple[str, ...], Choice] = {(option.weight,): option.choices[0] for option in kept}
        for entry in entries[: round(number * len(entries) / PREFIXES)]:
            if entry.choice.bytes < chosen[entry.weights].bytes:
                chosen[entry.weights] = entry.choice
        plans[f"p{number:02}"] = _spread(chosen)
    return plans


def paper_gamma(
    options: Sequence[WeightOptions],
    perplexity_ratio: Callable[[dict[str, str]], float],
    gamma: float,
    formats: Sequence[str] = PAPER_FORMATS,
) -> dict[str, str]:
    """The paper's greedy: each entry of the list is accepted if perplexity stays below gamma times the base.

    The base is that of full precision throughout; the authors' script lets it move after each acceptance, so
    that the losses allowed compound.

    Parameters
    ----------
    perplexity_ratio : callable
        From an assignment to its perplexity over that of full precision.
    """
    kept = [_only(option, formats) for option in options]
    chosen: dict[tuple[str, ...], Choice] = {(option.weight,): option.choices[0] for option in kept}
    for entry in paper_list(kept):
        if entry.choice.bytes >= chosen[entry.weights].bytes:
            continue
        tried = {**chosen, entry.weights: entry.choice}
        if perplexity_ratio(_spread(tried)) <= gamma:
            chosen = tried
    return _spread(chosen)


def random_assignment(
    options: Sequence[WeightOptions], least: int, budget: int, seed: int, tries: int = 4000
) -> dict[str, str]:
    """Formats drawn by chance until the bytes lie between `least` and `budget`.

    A weight and a format are drawn again and again, and kept where the size comes nearer to the range; inside
    it, where it stays there.

    Raises
    ------
    InputError
        If no draw reaches the range.
    """
    draw = random.Random(seed)
    chosen = {option.weight: draw.choice(option.choices) for option in options}
    size = sum(choice.bytes for choice in chosen.values())
    for _ in range(tries):
        option = draw.choice(options)
        choice = draw.choice(option.choices)
        changed = size + choice.bytes - chosen[option.weight].bytes
        if _outside(changed, least, budget) <= _outside(size, least, budget):
            chosen[option.weight], size = choice, changed
    if not least <= size <= budget:
        raise InputError(
            f"No random plan takes {least:,} to {budget:,} bytes",
            "no draw had such a size",
            "Widen the range",
        )
    return {weight: choice.format for weight, choice in chosen.items()}


def _outside(size: int, least: int, budget: int) -> int:
    return max(least - size, size - budget, 0)


def _only(option: WeightOptions, formats: Sequence[str]) -> WeightOptions:
    choices = tuple(choice for choice in option.choices if choice.format in ("fp16", *formats))
    return WeightOptions(option.weight, option.kind, option.block, option.shape, choices)


def _spread(chosen: Mapping[tuple[str, ...], Choice]) -> dict[str, str]:
    return {weight: choice.format for weights, choice in chosen.items() for weight in weights}
