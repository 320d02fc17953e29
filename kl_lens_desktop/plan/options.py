"""What there is to choose from: each weight's formats, their exact bytes and what each costs in quality."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.plan.prices import ModelPrices
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.sensitivity.scores import Entry, Scores

LOSSES = ("kl", "kl_qp", "mse", "sqnr", "delta_ce")


@dataclass(frozen=True, slots=True)
class Choice:
    """One format for one weight: bytes in the file, the loss and its standard error in the metric's unit.

    `seconds` of a token and bytes of `memory` are 0 where nobody asked for them.
    """

    format: str
    bytes: int
    loss: float
    se: float
    seconds: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """A weight and its choices, FP16 first and then by falling bytes."""

    weight: str
    kind: str
    block: int | None
    shape: tuple[int, ...]
    choices: tuple[Choice, ...]

    @property
    def parameters(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    def choice(self, name: str) -> Choice:
        """The choice of format `name`; `InputError` if it is none, or not measured for this weight."""
        for choice in self.choices:
            if choice.format == name:
                return choice
        parse_format(name)  # of what is no format at all, it says so
        raise InputError(
            f"{self.weight} cannot be {name}",
            "that format was not measured for it",
            "Run the analysis with this format as well",
        )


def weight_options(
    scores: Scores, metric: str = "kl", prices: ModelPrices | None = None
) -> list[WeightOptions]:
    """The choices of every quantizable weight of a score file.

    Parameters
    ----------
    metric : str
        The loss to be minimized, additive over weights: ``kl`` is KL(full‖quantized) and ``kl_qp`` the
        reverse, in nats per token; ``mse`` is on logits; ``sqnr`` is the noise-to-signal power ratio,
        10^(−SQNR/10); ``delta_ce`` is the added cross-entropy of the next token, and may be negative.
    prices : ModelPrices, optional
        With them, choices have their time and memory, and formats that the device was not measured with are
        left out.

    Notes
    -----
    FP16 is always a choice, at no loss: it is how the full-precision model is stored. A negative or undefined
    estimate counts as zero or is left out, for no format improves on the model it approximates.
    """
    by_weight: dict[str, list[Entry]] = {}
    for entry in scores.entries:
        by_weight.setdefault(entry.weight, []).append(entry)
    options = []
    for weight in scores.weights:
        entries = by_weight.get(weight["name"])
        if not entries:
            continue
        shape = tuple(weight["shape"])
        full = Choice("fp16", _stored_bytes(shape, "fp16"), 0.0, 0.0)
        rest = [
            choice
            for entry in entries
            if entry.format != "fp16" and (choice := _choice(entry, shape, metric))
        ]
        rest.sort(key=lambda choice: (-choice.bytes, choice.format))
        choices = [full, *rest]
        if prices is not None:
            choices = [priced for choice in choices if (priced := _priced(choice, weight, prices))]
        options.append(WeightOptions(weight["name"], weight["kind"], weight["block"], shape, tuple(choices)))
    return options


def _choice(entry: Entry, shape: tuple[int, ...], metric: str) -> Choice | None:
    size = _stored_bytes(shape, entry.format)
    if metric == "sqnr":
        loss = 10 ** (-entry.sqnr_db.mean / 10)
        return Choice(entry.format, size, loss, loss * entry.sqnr_db.se * 0.2302585)
    if metric == "delta_ce":
        if entry.delta_ce is None:  # it is predicted, and that cannot be
            return None
        return Choice(entry.format, size, entry.delta_ce.mean, entry.delta_ce.se)
    estimate = {"kl": entry.kl_pq, "kl_qp": entry.kl_qp, "mse": entry.mse}[metric]
    return Choice(entry.format, size, max(estimate.mean, 0.0), estimate.se) if estimate.n else None


@lru_cache(maxsize=1024)
def _stored_bytes(shape: tuple[int, ...], name: str) -> int:
    """`stored_bytes`, computed once for the many weights of one shape."""
    return stored_bytes(shape, parse_format(name))


def _priced(choice: Choice, weight: Mapping[str, Any], prices: ModelPrices) -> Choice | None:
    price = prices.of(weight, choice.format)
    return None if price is None else replace(choice, seconds=price.seconds, memory=price.memory)


def total(options: Iterable[WeightOptions], assignments: Mapping[str, str]) -> tuple[int, float, float]:
    """Bytes, summed loss and its standard error of an assignment; weights it does not name stay FP16.

    All weights were scored on the same windows, so their errors go together: they are added, not their
    squares, which bounds the error of the sum from above.
    """
    size, loss, error = 0, 0.0, 0.0
    for option in options:
        choice = option.choice(assignments.get(option.weight, "fp16"))
        size, loss, error = size + choice.bytes, loss + choice.loss, error + choice.se
    return size, loss, error
