"""The measures of sensitivity as the window shows them: names, units, and the scale of their colours."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.sensitivity.labels import NAMES
from kl_lens_desktop.sensitivity.scores import Entry, Estimate

PREDICTED_SIGN = "≈"  # before a figure that was not measured


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure.

    Attributes
    ----------
    key : str
        Its name in the score file.
    label, unit, help : str
    harm : callable
        From a value to how much it hurts: above zero, larger is worse. Colours follow its logarithm.
    value : callable
        Back from harm to a value, for the legend.
    low, high : int
        Decades of harm that the colours span while a scan runs, so that a colour keeps its meaning.
    """

    key: str
    label: str
    unit: str
    help: str
    harm: Callable[[float], float]
    value: Callable[[float], float]
    low: int
    high: int

    def estimate(self, entry: Entry) -> Estimate | None:
        """None where the entry is predicted, and this measure cannot be."""
        estimate: Estimate | None = getattr(entry, self.key)
        return estimate

    def decades(self, entry: Entry) -> float | None:
        """log10 of the harm; None where nothing could be measured or predicted."""
        estimate = self.estimate(entry)
        if estimate is None or not estimate.n or not math.isfinite(estimate.mean):
            return None
        return math.log10(max(self.harm(estimate.mean), 1e-12))

    def words(self, entry: Entry, *, powers: bool = False) -> str:
        """``≈ 0.0031 ± 0.0004 nats`` where it is predicted; with `powers` as a power of ten."""
        estimate = self.estimate(entry)
        if estimate is None:
            return tr("not measured")
        sign = f"{PREDICTED_SIGN} " if entry.is_predicted else ""
        return sign + quantities.plus_minus(estimate.mean, estimate.se, self.unit, powers=powers)

    def need_powers(self, entries: Iterable[Entry]) -> bool:
        """Whether this measure of some entries is so small that all are better written as powers of ten."""
        estimates = (self.estimate(entry) for entry in entries)
        return quantities.need_powers(estimate.mean for estimate in estimates if estimate)

    def tick(self, decade: int) -> str:
        if self.key == "sqnr_db":
            return f"{-10 * decade} dB"
        return quantities.significant(10.0**decade, 1) if decade >= -3 else f"1e{decade}"


def _same(value: float) -> float:
    return value


MEASURES = (
    Measure(
        "kl_pq",
        *NAMES["kl_pq"],
        tr(
            "How far the quantized model's predictions q are from the full model's p: Σ "
            "p·log(p/q), averaged over the tokens of the text."
        ),
        _same,
        _same,
        -7,
        -1,
    ),
    Measure(
        "kl_qp",
        *NAMES["kl_qp"],
        tr("The other direction, Σ q·log(q/p). It penalizes probability where the full model has none."),
        _same,
        _same,
        -7,
        -1,
    ),
    Measure("mse", *NAMES["mse"], tr("Mean squared difference of the logits."), _same, _same, -6, 1),
    Measure(
        "sqnr_db",
        *NAMES["sqnr_db"],
        tr("Signal-to-quantization-noise ratio of the logits, in decibels. Higher is better."),
        lambda db: 10 ** (-db / 10),
        lambda harm: -10 * math.log10(harm),
        -7,
        0,
    ),
    Measure(
        "delta_ce",
        *NAMES["delta_ce"],
        tr("Change of the cross-entropy on the text. Noise can make it negative."),
        abs,
        _same,
        -7,
        -1,
    ),
    Measure(
        "top1_agreement",
        *NAMES["top1_agreement"],
        tr("Share of tokens whose most likely next token stays the same."),
        lambda share: 1 - share,
        lambda harm: 1 - harm,
        -4,
        0,
    ),
)


def tokens_used(entry: Entry) -> str:
    """``measured on 4,096 tokens, rank settled``."""
    if entry.is_predicted:
        return tr("predicted from another format")
    return tr("measured on {n:,} tokens{tr}").format(
        n=entry.kl_pq.n, tr=tr(", rank settled") if entry.settled else ""
    )


def measure(key: str) -> Measure:
    return next(each for each in MEASURES if each.key == key)


def component(weight: str, block: int | None) -> str:
    """The part of a weight's name after its block: ``mamba.in_proj``, ``embed_tokens``."""
    name = weight.removesuffix(".weight")
    if block is None:
        return name.rpartition(".")[2]
    return name.partition(f".{block}.")[2] or name


def short_name(weight: str, block: int | None) -> str:
    """``0 · mamba.in_proj``."""
    return component(weight, block) if block is None else f"{block} · {component(weight, block)}"
