"""From a score file and a wish to a plan."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.baselines import paper_greedy
from kl_lens_desktop.plan.constraints import Constraints, parse_limits
from kl_lens_desktop.plan.document import MOST_BITS, MOST_BYTES, MOST_KL, SCORED_FILES, Plan
from kl_lens_desktop.plan.options import WeightOptions, total, weight_options
from kl_lens_desktop.plan.prices import ModelPrices
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores
from kl_lens_desktop.text.bundled import HEAD

_SIZES = 4000  # how finely a size is looked for that keeps a KL
_MOST_FILES = 200  # whose digits fit into what a plan file may hold of provenance
METRIC_OF_METHOD = {"kl": "kl", "sqnr": "sqnr", "mse": "mse", "delta-ce": "delta_ce", "paper": "kl_qp"}


def propose(
    scores: Scores,
    *,
    size_bytes: int | None = None,
    bits: float | None = None,
    max_kl: float | None = None,
    max_perplexity_increase: float | None = None,
    min_tokens_per_s: float | None = None,
    memory_bytes: int | None = None,
    fastest: bool = False,
    method: str = "kl",
    constraints: Constraints | None = None,
    prices: ModelPrices | None = None,
) -> Plan:
    """A plan that spends one budget as well as `method` can.

    Parameters
    ----------
    size_bytes : int, optional
        Bytes of all exported weights, the FP16 rest included, tokenizer excluded.
    bits : float, optional
        Average bits per parameter of the quantizable weights, scales and zero points included.
    max_kl : float, optional
        Limit on the summed KL(full‖quantized), nats per token. Where pins and limits alone lose more, the
        plan of least loss is made.
    max_perplexity_increase : float, optional
        Limit on the predicted perplexity over that of full precision, less 1: 0.01 is one per cent.
    min_tokens_per_s : float, optional
        Least predicted speed of decoding on the device of `prices`.
    memory_bytes : int, optional
        Most predicted memory there.
    fastest : bool
        Of the plans within a limit on KL or perplexity take the fastest on that device, not the smallest.
    method : str
        ``kl``, ``sqnr``, ``mse``, ``delta-ce``, ``paper``, or ``uniform-FORMAT``, which needs no budget.
    constraints : Constraints, optional
        Pins, shared and forbidden formats; what budget they leave goes to the other weights.
    prices : ModelPrices, optional
        Of formats on a device, for budgets of speed and memory and for what the plan is predicted to take.

    Notes
    -----
    A model whose text is likely under it, as calibrated models' is, loses KL(full‖quantized) nats of
    cross-entropy per token on average: perplexity grows by the factor exp(KL).

    Raises
    ------
    InputError
        If no plan fits, or the budget and the method do not go together.
    """
    constraints = constraints or Constraints()
    if max_perplexity_increase is not None and max_kl is None and max_perplexity_increase >= 0:
        max_kl = math.log1p(max_perplexity_increase)
        plan = propose(
            scores,
            size_bytes=size_bytes,
            bits=bits,
            max_kl=max_kl,
            min_tokens_per_s=min_tokens_per_s,
            memory_bytes=memory_bytes,
            fastest=fastest,
            method=method,
            constraints=constraints,
            prices=prices,
        )
        asked = {"max_perplexity_increase": max_perplexity_increase}
        return replace(plan, provenance={**plan.provenance, **asked})
    of_device = min_tokens_per_s, memory_bytes
    wishes = _checked_wishes(size_bytes, bits, max_kl, max_perplexity_increase, *of_device)
    _check_goes_together(method, max_kl, fastest, of_device != (None, None), prices)
    if method.startswith("uniform-"):
        if wishes:
            raise InputError("Cannot make a plan", "a uniform plan has a fixed size", "Remove the budget")
        assignments = _uniform(scores, method.removeprefix("uniform-"), constraints.pins)
        return _plan(scores, assignments, None, method, constraints, prices)
    if len(wishes) != 1:
        raise InputError(
            "Cannot make a plan", "it needs exactly one budget", "Set a size, bits or a largest KL"
        )
    budget: dict[str, float]
    if prices is not None and of_device != (None, None):
        options = _options(scores, method, prices)
        assignments, budget = _on_device(options, constraints, prices, min_tokens_per_s, memory_bytes)
        return _plan(scores, assignments, budget, method, constraints, prices)
    options = _options(scores, method, prices if fastest else None)
    front = Front(options, constraints, "seconds" if fastest else "bytes")

    def in_bytes(limit: int) -> dict[str, str]:
        return paper_greedy(options, limit, constraints) if method == "paper" else front.within_bytes(limit)

    if max_kl is None:
        limit, budget = _room(scores, options, front.smallest, size_bytes, bits)
        assignments = in_bytes(limit)
    elif method == "kl":
        assignments, budget = front.within_loss(max_kl), {"max_kl": max_kl}
    else:
        in_kl, budget = weight_options(scores), {"max_kl": max_kl}
        largest = sum(option.choices[0].bytes for option in options)
        size = size_that_keeps(max_kl, front.smallest, largest, lambda size: total(in_kl, in_bytes(size))[1])
        assignments = in_bytes(size)
    plan = _plan(scores, assignments, budget, method, constraints, prices)
    return replace(plan, provenance={**plan.provenance, "fastest": "yes"}) if fastest else plan


def _check_goes_together(
    method: str, max_kl: float | None, fastest: bool, of_device: bool, prices: ModelPrices | None
) -> None:
    """Raise `InputError` for a budget that needs prices, or that a method does not know."""
    if prices is None and (fastest or of_device):
        raise InputError(
            "Cannot make a plan",
            "what formats cost on a device was not measured",
            "Measure it with kl-lens prices",
        )
    if method.startswith("uniform-"):
        return
    if fastest and max_kl is not None and method != "kl":
        why = f"the fastest plan is looked for by KL, not by {method}"
        raise InputError("Cannot make a plan", why, "Use the method kl, or leave out fastest")
    if fastest and max_kl is None and not of_device:
        why = "the fastest plan is looked for within a KL or a perplexity"
        raise InputError("Cannot make a plan", why, "Set a largest KL instead of a size")


def size_that_keeps(max_kl: float, smallest: int, largest: int, kl_at: Callable[[int], float]) -> int:
    """The bytes at which a method's plan keeps a KL, where the method minimizes something else.

    Its KL may rise with the size here and there; so this is a size that keeps it, found by bisection, and not
    always the smallest. `largest` if that is the only one.
    """
    low, size = smallest, largest
    while size - low > largest // _SIZES:
        middle = (low + size) // 2
        low, size = (low, middle) if kl_at(middle) <= max_kl else (middle, size)
    return size


def beyond(limit: float, kl: float) -> str:
    """Why a plan loses more than the KL that was asked for, as a sentence; empty if it does not."""
    if kl <= limit * (1 + 1e-9):
        return ""
    return (
        f"No plan keeps a KL of {limit:.3g} nats per token under these pins and limits; "
        f"this one, the mildest, is predicted to lose {kl:.3g}."
    )


def _on_device(
    options: list[WeightOptions],
    constraints: Constraints,
    prices: ModelPrices,
    tokens_per_s: float | None,
    memory: int | None,
) -> tuple[dict[str, str], dict[str, float]]:
    """The assignment of least loss that decodes so fast, or takes so little memory; and its budget."""
    rest, fp16 = prices.rest(), parse_format("fp16").name
    named = {option.weight for option in options}
    unmeasured = [weight for weight in prices.matrices if weight["name"] not in named]
    others = [price for weight in unmeasured if (price := prices.of(weight, fp16))]
    if tokens_per_s is not None:
        fixed = rest.seconds + sum(price.seconds for price in others)
        front = Front(options, constraints, "seconds")
        found = front.within(1 / tokens_per_s - fixed) if tokens_per_s > 0 else None
        if found is None:
            fastest = 1 / max(front.least + fixed, 1e-9)
            raise InputError(
                f"No plan decodes {tokens_per_s:g} tokens/s on {prices.device}",
                f"the fastest possible plan is predicted to decode {fastest:.3g} tokens/s",
                "Ask for less, or analyze other formats too",
            )
        return found, {"tokens_per_s": tokens_per_s}
    assert memory is not None
    held = rest.memory + sum(price.memory for price in others)
    front = Front(options, constraints, "memory")
    if (found := front.within(memory - held)) is None:
        raise InputError(
            f"No plan fits in {memory / 1e6:.0f} MB of memory on {prices.device}",
            f"the smallest possible plan is predicted to take {math.ceil((front.least + held) / 1e6)} MB",
            "Raise the budget, or analyze smaller formats too",
        )
    return found, {"memory_bytes": memory}


def _checked_wishes(
    size_bytes: int | None, bits: float | None, max_kl: float | None, *others: float | None
) -> list[float]:
    """The budgets that are given; `InputError` if one cannot be met or stored."""
    wishes = [w for w in (size_bytes, bits, max_kl, *others) if w is not None]
    if not (
        all(0 <= wish <= MOST_BYTES for wish in wishes)
        and (bits is None or bits <= MOST_BITS)
        and (max_kl is None or max_kl <= MOST_KL)
    ):
        raise InputError(
            "Cannot make a plan",
            f"a budget is a size, 0 to {MOST_BITS:g} bits, or a KL of 0 to {MOST_KL:g}",
            "Change it",
        )
    return wishes


def _options(scores: Scores, method: str, prices: ModelPrices | None = None) -> list[WeightOptions]:
    if method not in METRIC_OF_METHOD:
        raise InputError(
            f"Unknown method {method!r}",
            f"the methods are {', '.join(METRIC_OF_METHOD)}, uniform-FORMAT",
            "Choose from these",
        )
    options = weight_options(scores, METRIC_OF_METHOD[method], prices)
    if not options:
        raise InputError("Cannot make a plan", "the score file has no entries", "Run the analysis first")
    return options


def _uniform(scores: Scores, name: str, pins: Mapping[str, str]) -> dict[str, str]:
    name = parse_format(name).name
    assignments = {weight["name"]: name for weight in scores.weights if weight["kind"] != "conv"}
    if unknown := sorted(set(pins) - set(assignments)):
        raise InputError(
            f"Cannot pin {unknown[0]}", "the model has no weight with that name", "Check the name"
        )
    return assignments | dict(pins)


def _room(
    scores: Scores, options: list[WeightOptions], smallest: int, size_bytes: int | None, bits: float | None
) -> tuple[int, dict[str, float]]:
    """The bytes that a size or bits leave to the options, and the budget as a plan says it."""
    fixed, parameters = fixed_bytes(scores, options), sum(option.parameters for option in options)
    budget: dict[str, float]
    if bits is not None:
        limit, budget = int(bits * parameters / 8), {"bits": bits}
        wanted, least = f"{bits:g} bits", f"{math.ceil(800 * smallest / parameters) / 100:g} bits"
    else:
        assert size_bytes is not None
        limit, budget = size_bytes - fixed, {"bytes": size_bytes}
        wanted, least = f"{size_bytes / 1e6:g} MB", f"{math.ceil((fixed + smallest) / 1e4) / 100:g} MB"
    if limit < smallest:
        raise InputError(
            f"No plan fits in {wanted}",
            f"the smallest possible plan takes {least} with the measured formats",
            "Raise the budget, or analyze smaller formats too",
        )
    return limit, budget


def uniform_plan(model: ModelIdentity, weights: list[dict[str, object]], kept_bytes: int, name: str) -> Plan:
    """Every quantizable weight in the one format `name`; needs no scores."""
    return propose(Scores(model, {}, weights, kept_bytes), method=f"uniform-{parse_format(name).name}")


def fixed_bytes(scores: Scores, options: list[WeightOptions]) -> int:
    """Bytes of what the options do not cover, in FP16: kept parameters and weights that were not measured."""
    covered = {option.weight for option in options}
    fp16 = parse_format("fp16")
    rest = (w for w in scores.weights if w["kind"] != "conv" and w["name"] not in covered)
    return scores.kept_bytes + sum(stored_bytes(w["shape"], fp16) for w in rest)


def predicted(scores: Scores, assignments: Mapping[str, str]) -> dict[str, float | None]:
    """Bytes of an assignment, and its KL with standard error where every format in it was measured."""
    size = scores.kept_bytes
    for weight in scores.weights:
        if weight["kind"] != "conv":
            size += stored_bytes(weight["shape"], parse_format(assignments.get(weight["name"], "fp16")))
    options = weight_options(scores)
    measured = {(option.weight, choice.format) for option in options for choice in option.choices}
    if any(name != "fp16" and (weight, name) not in measured for weight, name in assignments.items()):
        return {"kl": None, "se": None, "bytes": size}
    _, kl, se = total(options, assignments)
    return {"kl": kl, "se": se, "bytes": size}


def on_device(prices: ModelPrices, assignments: Mapping[str, str]) -> dict[str, float | None]:
    """Speed of decoding and memory of an assignment on a device, as a plan's `predicted` has them."""
    price = prices.of_plan(assignments)
    return {
        "tokens_per_s": None if price is None else 1 / price.seconds,
        "memory_bytes": None if price is None else price.memory,
    }


def rounded(scores: Scores, assignments: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The `roundings` and `rounding` of a plan: each weight is rounded as it was scored."""
    fitted = {(entry.weight, entry.format): entry.rounding for entry in scores.entries}
    found = {
        pair[0]: fitted[pair] for pair in assignments.items() if fitted.get(pair, "nearest") != "nearest"
    }
    return found, scores.rounding if found else None


def provenance(scores: Scores) -> dict[str, str | float | None]:
    """With what, when and from which measurements a plan was made."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "kl_lens_desktop": __version__,
        "scored_on": scores.text.get("name"),
        "scored_sha256": scores.text.get("sha256"),
        **scored_files(scores),
        "scored_tokens": scores.text.get("tokens"),
        "scored_formats": " ".join(sorted({entry.format for entry in scores.entries})),
    }


def scored_files(scores: Scores) -> dict[str, str | float | None]:
    """Of provenance: where several texts were scored, the first digits of each one's SHA-256."""
    heads = [str(each)[:HEAD] for each in scores.text.get("files", ())][:_MOST_FILES]
    return {SCORED_FILES: " ".join(heads)} if heads else {}


def constraints_of(plan: Plan) -> Constraints:
    """The pins and limits a plan was made under, as its file says."""
    said = plan.provenance
    least, forbidden = parse_limits(str(said.get("limits") or "").split())
    pins = {weight: plan.assignments[weight] for weight in plan.pins if weight in plan.assignments}
    device = said.get("device")
    return Constraints(pins, said.get("fused") == "yes", least, forbidden, str(device) if device else None)


def average_bits(scores: Scores, assignments: Mapping[str, str]) -> float:
    """Bits per parameter over the quantizable weights, scales and zero points included."""
    weights = [weight for weight in scores.weights if weight["kind"] != "conv"]
    size = sum(stored_bytes(w["shape"], parse_format(assignments.get(w["name"], "fp16"))) for w in weights)
    return 8 * size / sum(int(w["parameters"]) for w in weights)


def _plan(
    scores: Scores,
    assignments: dict[str, str],
    budget: dict[str, float] | None,
    method: str,
    constraints: Constraints,
    prices: ModelPrices | None = None,
) -> Plan:
    foretold = predicted(scores, assignments)
    words = {**provenance(scores), **constraints.as_words()}
    if prices is not None:
        foretold |= on_device(prices, assignments)
        words["priced_on"] = prices.device
    return Plan(
        scores.model,
        assignments,
        budget,
        method,
        foretold,
        None,
        list(constraints.pins),
        words,
        *rounded(scores, assignments),
    )
