"""The commands that make plans, and tell what formats cost on a device."""

import argparse
import math
from collections import Counter
from dataclasses import asdict, replace

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.jobs import PricesJob
from kl_lens_desktop.cli.console import finish, print_json, print_json_text, print_table, say, tell
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import check_replaceable
from kl_lens_desktop.plan.constraints import Constraints, overruled, parse_limits
from kl_lens_desktop.plan.device_limits import only_small
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.integers import save_integers
from kl_lens_desktop.plan.prices import ModelPrices, known_prices
from kl_lens_desktop.plan.propose import average_bits, beyond, propose
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.sensitivity.scores import Scores, load_scores

Arguments = argparse.Namespace


def print_prices(arguments: Arguments) -> None:
    """Measure what formats cost on a device, as far as that is not known, and print it."""
    job = PricesJob(arguments.model, arguments.device, arguments.again)
    found = finish(job, arguments.carry)
    if arguments.json:
        print_json(found)
        return
    rows = [
        [
            parse_format(each["format"]).label,
            quantities.size(each["bytes"]),
            quantities.size(each["memory"]),
            f"{1 / each['seconds']:.1f}",
            "saves disk only" if each["format"] in found["wasteful"] else "",
        ]
        for each in found["formats"]
    ]
    print_table(["all weights in", "file", f"memory on {found['device']}", "tokens/s", ""], rows)
    say(
        "Memory is what the device sets aside and the program's own, without pages of the file that the "
        "system can drop. Speed is that of LLMPipeline after a prompt. Both are predicted from products "
        "that were timed on the device."
    )


def make_plan(arguments: Arguments) -> None:
    if arguments.diff:
        _print_difference(arguments)
        return
    check_replaceable(arguments.out, "plan")
    scores = load_scores(arguments.scores)
    weights = [w for w in scores.weights if w["kind"] != "conv"]
    measured = {entry.weight for entry in scores.entries}
    if len(measured) < len(weights):
        rest = f"only {len(measured)} of {len(weights)} weights are measured; the others stay FP16"
        tell(f"{arguments.scores}: {rest}.")
    least, forbidden = parse_limits(arguments.limit)
    prices = _prices(arguments, scores)
    limits = Constraints(dict(arguments.pin), arguments.fused, least, forbidden, arguments.device)
    plan, limits = _proposed(arguments, scores, limits, prices)
    for conflict in overruled(plan.assignments, {w["name"]: w["kind"] for w in weights}, limits):
        tell(conflict)
    if sentence := beyond((plan.budget or {}).get("max_kl", math.inf), plan.predicted["kl"] or 0):
        tell(sentence)
    save_plan(arguments.out, plan)
    save_integers(arguments.out, plan, arguments.scores.with_suffix(SUFFIX))
    if arguments.json:
        print_json_text(arguments.out.read_text(encoding="utf-8"))
        return
    _say_plan(plan, scores)
    say(f"Wrote {arguments.out}")


def _proposed(
    arguments: Arguments, scores: Scores, limits: Constraints, prices: ModelPrices | None
) -> tuple[Plan, Constraints]:
    """The plan, and the limits it was made under: on a device, formats that only save disk are left out.

    Unless nothing else is small enough.
    """
    percent, size, memory = arguments.max_perplexity_increase, arguments.size_mb, arguments.memory_mb

    def under(limits: Constraints) -> Plan:
        return propose(
            scores,
            size_bytes=None if size is None else int(size * 1e6),
            bits=arguments.bits,
            max_kl=arguments.max_kl,
            max_perplexity_increase=None if percent is None else percent / 100,
            min_tokens_per_s=arguments.min_tokens_per_s,
            memory_bytes=None if memory is None else int(memory * 1e6),
            fastest=arguments.fastest,
            method=arguments.method,
            constraints=limits,
            prices=prices,
        )

    costly = only_small(arguments.device, prices) if arguments.device else ()
    if not costly:
        return under(limits), limits
    stricter = replace(limits, forbidden=(*limits.forbidden, *(("*", name) for name in costly)))
    try:
        return under(stricter), stricter
    except InputError:
        return under(limits), limits


def _prices(arguments: Arguments, scores: Scores) -> ModelPrices | None:
    """What formats cost on the device; measured first where the plan cannot do without.

    Then `arguments.device` is set too, if a person named none.
    """
    asked = arguments.min_tokens_per_s, arguments.memory_mb, arguments.fastest or None
    device, sha256 = arguments.device, scores.model.sha256
    if any(value is not None for value in asked):
        device = arguments.device = device or "CPU"
        if known_prices(device, sha256, scores.weights) is None:
            finish(PricesJob(arguments.model or scores.model.id, device), arguments.carry)
        if (found := known_prices(device, sha256, scores.weights)) is None:
            raise InputError(
                f"Cannot use {arguments.scores}",
                f"{arguments.model or scores.model.id} is now another model than the one analyzed",
                "Name the model with --model",
            )
        return found
    return known_prices(device, sha256, scores.weights) if device else None


def _say_plan(plan: Plan, scores: Scores) -> None:
    counts = Counter(plan.assignments.values())
    formats = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    kl = plan.predicted["kl"]
    predicted = "" if kl is None else f", predicted KL {kl:.3g} ± {plan.predicted['se']:.1g} nats per token"
    megabytes = (plan.predicted["bytes"] or 0) / 1e6
    bits = average_bits(scores, plan.assignments)
    say(f"{formats}; {megabytes:.2f} MB, {bits:.2f} bits per weight{predicted}")
    speed, memory = (plan.predicted.get(name) for name in ("tokens_per_s", "memory_bytes"))
    if speed and memory:
        device = plan.provenance["priced_on"]
        say(f"On {device}: {speed:.1f} tokens/s and {quantities.size(memory)} of memory predicted")


def _print_difference(arguments: Arguments) -> None:
    from kl_lens_desktop.plan.compare import difference

    first, second = (load_plan(path) for path in arguments.diff)
    found = difference(first, second)
    if arguments.json:
        changes = [asdict(change) for change in found.changes]
        print_json({"summary": found.as_words(), "same": found.same, "changes": changes})
        return
    if found.changes:
        names = [str(path) for path in arguments.diff]
        print_table(["weight", *names], [[c.weight, c.before, c.after] for c in found.changes])
        rows = [
            [part, ", ".join(f"{n} × {a} → {b}" for (a, b), n in counts.most_common())]
            for part, counts in found.by_part.items()
        ]
        print_table(["part", "change"], rows)
    say(found.as_words())
