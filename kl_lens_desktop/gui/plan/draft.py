"""The plan in the making: scores, method, budget and pins become an assignment, as fast as a slider moves."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.baselines import paper_greedy
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.device_limits import only_small
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.options import Choice, WeightOptions, total, weight_options
from kl_lens_desktop.plan.prices import ModelPrices, Price
from kl_lens_desktop.plan.propose import (
    METRIC_OF_METHOD,
    fixed_bytes,
    on_device,
    propose,
    provenance,
    rounded,
    size_that_keeps,
)
from kl_lens_desktop.plan.verdict import change_rate
from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.sensitivity.scores import Scores

# Of a budget: perplexity counts as per cent more than in full precision.
UNITS = (("MB", "mb"), (tr("bits"), "bits"), (tr("nats of KL"), "kl"), (tr("% perplexity"), "perplexity"))
# Where a device was measured: at least so fast, at most so much memory.
DEVICE_UNITS = (("tokens/s", "speed"), (tr("MB of memory"), "memory"))


@dataclass(frozen=True, slots=True)
class Totals:
    """What an assignment costs: bytes of all exported weights, average bits, summed KL and its error.

    And on the device, where it was measured, seconds of a token and bytes of memory.
    """

    bytes: int
    bits: float
    kl: float
    se: float
    price: Price | None = None

    def in_unit(self, unit: str) -> float:
        """The cost in one of `UNITS` or `DEVICE_UNITS`."""
        if self.price is not None and unit in ("speed", "memory"):
            return 1 / self.price.seconds if unit == "speed" else self.price.memory / 1e6
        return {
            "mb": self.bytes / 1e6,
            "bits": self.bits,
            "kl": self.kl,
            "perplexity": 100 * math.expm1(min(self.kl, 100)),
        }.get(unit, math.nan)


class Draft:
    """All that planning needs of one score file, computed once.

    Parameters
    ----------
    scores : Scores
        With at least one entry.
    prices : ModelPrices, optional
        What formats cost on `device`.
    device : str
        Where the plan is to run.
    """

    def __init__(self, scores: Scores, prices: ModelPrices | None = None, device: str = "CPU") -> None:
        self.scores, self.prices, self.device = scores, prices, device
        self.costly = only_small(device, prices)
        self._weights = {weight["name"]: weight for weight in scores.weights}
        self.options = weight_options(scores)
        self.fixed = fixed_bytes(scores, self.options)
        self._parameters = sum(option.parameters for option in self.options)
        self._choices = {(o.weight, c.format): c for o in self.options for c in o.choices}
        self._by_metric: dict[str, list[WeightOptions]] = {"kl": self.options}
        self._fronts: dict[tuple[str, str], Front] = {}
        self._uniform: dict[str, Totals] = {}
        self.change_rate = change_rate(scores)

    def front(self, metric: str = "kl", constraints: Constraints | None = None) -> Front:
        """The optimal plans in a metric, with some weights decided or limited already.

        Raises
        ------
        InputError
            If the limits leave a weight no format.
        """
        key = metric, repr(constraints or Constraints())
        if key not in self._fronts:
            if len(self._fronts) > 40:  # every pin makes another; only the last few are asked for again
                self._fronts.clear()
            self._fronts[key] = Front(self._options_in(metric), constraints)
        return self._fronts[key]

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """The formats measured for every weight, FP16 first."""
        return tuple(
            name for name in all_formats() if all((o.weight, name) in self._choices for o in self.options)
        )

    @cached_property
    def smallest(self) -> int:
        return self.fixed + self.front().smallest

    @property
    def largest(self) -> int:
        return self.uniform("fp16").bytes

    def uniform(self, name: str) -> Totals:
        """What one format for every weight costs."""
        if name not in self._uniform:
            self._uniform[name] = self.totals({option.weight: name for option in self.options})
        return self._uniform[name]

    def choice(self, weight: str, name: str) -> Choice | None:
        """A weight's choice of a format, if it was measured."""
        return self._choices.get((weight, name))

    def plans_by(self, method: str) -> bool:
        """Whether `assign` knows the method, and for a uniform one its format was measured."""
        kind, _, name = method.partition("-")
        return method in METRIC_OF_METHOD or (kind == "uniform" and name in self.formats)

    def assign(self, method: str, budget: int, constraints: Constraints) -> dict[str, str]:
        """The assignment of a method in `budget` bytes of exported weights; `uniform-FORMAT` sets its own.

        Limits come first: where they alone take more than the budget, the smallest plan under them is
        returned. Formats that only save disk on the device are left out where the rest is small enough.

        Raises
        ------
        InputError
            If the limits leave a weight no format.
        """
        if method.startswith("uniform-"):
            name = method.removeprefix("uniform-")
            return {option.weight: name for option in self.options} | dict(constraints.pins)
        metric = METRIC_OF_METHOD[method]
        constraints = self._sparing(metric, budget, constraints)
        if method == "paper":
            return paper_greedy(self._options_in(metric), budget - self.fixed, constraints)
        front = self.front(metric, constraints)
        return front.within_bytes(max(budget - self.fixed, front.smallest))

    def totals(self, assignments: Mapping[str, str]) -> Totals:
        """Size and predicted KL; a format that was not measured for a weight is refused.

        Raises
        ------
        InputError
        """
        size, loss, error = total(self.options, assignments)
        price = None if self.prices is None else self.prices.of_plan(assignments)
        return Totals(self.fixed + size, 8 * size / self._parameters, loss, error, price)

    def price(self, weight: str, name: str) -> Price | None:
        """What a format costs a weight on the device, where it was measured."""
        return None if self.prices is None else self.prices.of(self._weights[weight], name)

    def _sparing(self, metric: str, budget: int, constraints: Constraints) -> Constraints:
        stricter = self._without_costly(constraints)
        try:
            enough = self.front(metric, stricter).smallest <= budget - self.fixed
        except InputError:  # nothing else was measured for some weight
            return constraints
        return stricter if enough else constraints

    def _without_costly(self, constraints: Constraints) -> Constraints:
        names = {choice.format for option in self.options for choice in option.choices}
        costly = tuple(("*", name) for name in self.costly if name in names)
        return replace(constraints, forbidden=(*constraints.forbidden, *costly)) if costly else constraints

    def bytes_within(self, budget: float, unit: str, method: str, constraints: Constraints) -> int:
        """Bytes of all exported weights that a budget in one of `UNITS` allows a method.

        For a budget of quality they are those of the smallest plan that is predicted to keep it, of the
        formats that `assign` chooses from at that size; for other methods than ``kl`` see `size_that_keeps`.
        """
        if unit == "mb":
            return int(budget * 1e6)
        if unit == "bits":
            return self.bytes_of_bits(budget)
        limit = budget if unit == "kl" else math.log1p(budget / 100)
        if method == "kl":
            sparing = self._sparing("kl", self.largest, constraints)
            return self.totals(self.front("kl", sparing).within_loss(limit)).bytes
        return size_that_keeps(
            limit,
            self.smallest,
            self.largest,
            lambda size: self.totals(self.assign(method, size, constraints)).kl,
        )

    def out_of_range(self, size: int) -> str:
        """That no plan has so few bytes or needs so many, and what the budget is instead; else empty."""
        if self.smallest <= size <= self.largest:
            return ""
        if size < self.smallest:
            nearest = self.smallest
            words = tr("The smallest plan takes {size} ({bits:.2f} bits), so that is the budget now.")
        else:
            nearest = self.largest
            words = tr("FP16 for all weights takes {size} ({bits:.2f} bits), so that is the budget now.")
        bits = 8 * (nearest - self.fixed) / self._parameters
        return words.format(size=quantities.size(nearest), bits=bits)

    def plan_on_device(self, budget: float, unit: str, method: str, constraints: Constraints) -> Plan:
        """The plan of least loss that keeps a budget in one of `DEVICE_UNITS`, as the command line makes it.

        Raises
        ------
        InputError
            If no plan is predicted so fast, or to take so little memory.
        """
        speed, memory = (budget, None) if unit == "speed" else (None, int(budget * 1e6))

        def under(limits: Constraints) -> Plan:
            return propose(
                self.scores,
                min_tokens_per_s=speed,
                memory_bytes=memory,
                method=method,
                constraints=limits,
                prices=self.prices,
            )

        try:
            made = under(self._without_costly(constraints))
        except InputError:
            made = under(constraints)
        return replace(self.plan(method, 0, constraints, made.assignments), budget=made.budget)

    def bytes_of_bits(self, bits: float) -> int:
        """Bytes of all exported weights at so many bits per quantizable parameter."""
        return self.fixed + int(bits * self._parameters / 8)

    def plan(self, method: str, budget: int, constraints: Constraints, assignments: dict[str, str]) -> Plan:
        """The assignment as a plan, ready to be saved."""
        totals = self.totals(assignments)
        foretold: dict[str, float | None] = {"kl": totals.kl, "se": totals.se, "bytes": totals.bytes}
        priced: dict[str, str | float | None] = {}
        if self.prices is not None:
            foretold |= on_device(self.prices, assignments)
            priced = {"priced_on": self.prices.device}
        uniform = method.startswith("uniform-")
        return Plan(
            self.scores.model,
            assignments,
            None if uniform else {"bytes": budget},
            method,
            foretold,
            None,
            sorted(constraints.pins),
            {**provenance(self.scores), **constraints.as_words(), **priced},
            *rounded(self.scores, assignments),
        )

    def _options_in(self, metric: str) -> list[WeightOptions]:
        if metric not in self._by_metric:
            self._by_metric[metric] = weight_options(self.scores, metric)
        return self._by_metric[metric]


def summary(plan: Plan, draft: Draft, beside: Iterable[Plan] = ()) -> str:
    """What a plan does, in words, and what the best baseline of about its size does, if measured too."""
    totals = draft.totals(plan.assignments)
    formats = [parse_format(plan.assignments.get(option.weight, "fp16")) for option in draft.options]
    fine = sum(fmt.bits >= 8 for fmt in formats)
    if plan.measured:
        kl = plan.measured["kl_pq"]
        loss = tr("KL {plus_minus} nats per token on held-out text").format(
            plus_minus=quantities.plus_minus(kl["mean"], kl["se"])
        )
    else:
        loss = tr("KL {plus_minus} nats per token predicted, not yet verified").format(
            plus_minus=quantities.plus_minus(totals.kl, totals.se)
        )
    words = tr("{fine:,} of {count:,} weights stay INT8 or FP16; {bytes}, {share} of FP16; {loss}.").format(
        fine=fine,
        count=len(formats),
        bytes=quantities.size(totals.bytes),
        share=quantities.percent(totals.bytes / draft.largest),
        loss=loss,
    )
    best = best_beside(plan, beside)
    if best is None or best.measured is None:
        return words
    kl = best.measured["kl_pq"]
    return tr(
        "{words} The best baseline of about that size is {method_name}: KL {plus_minus}, {bytes}."
    ).format(
        words=words,
        method_name=method_name(best.method),
        plus_minus=quantities.plus_minus(kl["mean"], kl["se"]),
        bytes=quantities.size(best.predicted["bytes"] or 0),
    )


def best_beside(plan: Plan, beside: Iterable[Plan]) -> Plan | None:
    """The baseline of least measured KL that takes at most 5 % more bytes than a measured plan."""
    if not plan.measured:
        return None
    room = 1.05 * (plan.predicted["bytes"] or 0)
    fair = [
        other
        for other in beside
        if other.measured
        and other.measured["text"] == plan.measured["text"]
        and (other.predicted["bytes"] or 0) <= room
    ]
    return min(fair, key=lambda other: float((other.measured or {})["kl_pq"]["mean"]), default=None)


def method_name(method: str) -> str:
    """A plan's method in words: ``NNCF (hessian)``, ``uniform INT8``, ``the paper's p05``."""
    if method.startswith("uniform-"):
        return tr("uniform {format}").format(format=parse_format(method.removeprefix("uniform-")).label)
    if method.startswith("nncf-"):
        return tr("NNCF ({method})").format(method=method.removeprefix("nncf-").replace("-", " "))
    if method.startswith("random-"):
        return tr("chance")
    if method.startswith("p") and method[1:].isdecimal():
        return tr("the paper's {method}").format(method=method)
    names = {"paper-gamma": tr("the paper's greedy with γ"), "paper": tr("the paper's list"), "kl": "KL"}
    return names.get(method, method.replace("-", " ").upper() if len(method) < 6 else method)
