"""What sets two plans apart: weight by weight, by part of the model, in bytes and in words."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kl_lens_desktop.plan.document import Plan, natural_order
from kl_lens_desktop.quant.formats import parse_format


@dataclass(frozen=True, slots=True)
class FormatChange:
    """A weight that two plans give different formats; `block` and `part` are told by its name."""

    weight: str
    block: int | None
    part: str
    before: str
    after: str

    @property
    def bits(self) -> int:
        """Bits of an element in the second plan beyond those in the first."""
        return parse_format(self.after).bits - parse_format(self.before).bits


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """Two plans of one model, or of two whose weights have the same names."""

    first: Plan
    second: Plan
    changes: tuple[FormatChange, ...]
    same: int

    @property
    def by_part(self) -> dict[str, Counter[tuple[str, str]]]:
        """Part of a block, such as ``mamba.in_proj``, to how often which format became which."""
        parts: dict[str, Counter[tuple[str, str]]] = {}
        for change in self.changes:
            parts.setdefault(change.part, Counter())[change.before, change.after] += 1
        return parts

    def as_words(self) -> str:
        """One or two sentences: how many differ, the bytes, and what is known of the KL."""
        count = len(self.changes)
        total = count + self.same
        if not count:
            return f"Both plans give all {total} weights the same formats."
        finer = sum(change.bits > 0 for change in self.changes)
        coarser = sum(change.bits < 0 for change in self.changes)
        size = (self.second.predicted["bytes"] or 0) - (self.first.predicted["bytes"] or 0)
        more = f"{abs(size) / 1e6:.3g} MB {'more' if size > 0 else 'less'}"
        verb = "differs" if count == 1 else "differ"
        words = (
            f"{count} of {total} weights {verb}. The second plan has more bits in {finer} of them "
            f"and fewer in {coarser}, and takes "
            f"{(more if abs(size) >= 500 else 'the same bytes')}."
        )
        return words + _quality(self.first, self.second)


def difference(first: Plan, second: Plan) -> PlanDifference:
    """Compare two plans; a weight that one does not name is FP16 in it."""
    names = sorted({*first.assignments, *second.assignments}, key=natural_order)
    changes = []
    for name in names:
        before, after = (plan.assignments.get(name, "fp16") for plan in (first, second))
        if before != after:
            changes.append(FormatChange(name, *place(name), before, after))
    return PlanDifference(first, second, tuple(changes), len(names) - len(changes))


def place(weight: str) -> tuple[int | None, str]:
    """Block and part of a weight by its name: ``model.layers.3.mamba.in_proj.weight`` is 3, mamba.in_proj."""
    name = weight.removesuffix(".weight")
    match = re.search(r"\.(\d+)\.", name)
    return (int(match[1]), name[match.end() :]) if match else (None, name.rpartition(".")[2])


def _quality(first: Plan, second: Plan) -> str:
    """Measured KLs are compared only if they are of one text."""
    if first.measured and second.measured and first.measured["text"] == second.measured["text"]:
        a, b = (_kl(plan.measured) for plan in (first, second) if plan.measured)
        return f" Measured KL: {a[0]:.3g} ± {a[1]:.1g} and {b[0]:.3g} ± {b[1]:.1g} nats per token."
    if first.predicted["kl"] is not None and second.predicted["kl"] is not None:
        return f" Predicted KL: {first.predicted['kl']:.3g} and {second.predicted['kl']:.3g} nats per token."
    return ""


def _kl(measured: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    return measured["kl_pq"]["mean"], measured["kl_pq"]["se"]
