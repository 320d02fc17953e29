"""What a loss means to somebody who reads the answers, in words. Needs no torch.

The thresholds are anchored on llama.cpp's scoreboard of Llama 3 8B, whose formats many people know from use:
KL and share of unchanged next words are 0.0014 and 97.7 % for Q8_0, 0.0055 and 96.0 % for Q6_K, 0.031 and
91.9 % for Q4_K_M, 0.10 for Q3_K_M, 0.45 and 71.1 % for Q2_K.
"""

import math
from dataclasses import dataclass

from kl_lens_desktop.sensitivity.scores import Scores


@dataclass(frozen=True, slots=True)
class Threshold:
    """A verdict, and what it takes: KL up to `kl` nats per token, and at least `unchanged` of next words."""

    words: str
    kl: float
    unchanged: float


STEPS = (
    Threshold("Practically identical", 0.002, 0.97),
    Threshold("Hard to notice", 0.02, 0.94),
    Threshold("Noticeable at times", 0.06, 0.88),
    Threshold("Clearly different", 0.2, 0.78),
)
WORST = "Badly damaged"
HARD_TO_NOTICE = STEPS[1]


def verdict(kl: float, unchanged: float | None = None) -> str:
    """The words for a loss: the first of `STEPS` that it keeps in both figures, as far as they are known.

    Parameters
    ----------
    kl : float
        KL(full‖quantized), nats per token.
    unchanged : float, optional
        Share of tokens whose most likely next token stays the same.
    """
    for step in STEPS:
        if kl <= step.kl and (unchanged is None or unchanged >= step.unchanged):
            return step.words
    return WORST


def change_rate(scores: Scores) -> float | None:
    """c of the law that predicts changed next words: their share is c·√KL.

    KL is of second order in a small change of the logits, and the share of tokens where two of them change
    places is of first order. Least squares through the origin over the measured entries, whose own KL and
    agreement are on the same tokens; None where there is none.
    """
    pairs = [
        (max(entry.kl_pq.mean, 0.0), 1 - entry.top1_agreement.mean)
        for entry in scores.entries
        if not entry.is_predicted and entry.top1_agreement is not None and entry.kl_pq.n
    ]
    total = sum(kl for kl, _ in pairs)
    return sum(math.sqrt(kl) * changed for kl, changed in pairs) / total if total > 0 else None


def unchanged_share(kl: float, rate: float | None) -> float | None:
    """Share of next words that stay the same at a KL, by the law of `change_rate`."""
    return None if rate is None else max(1 - rate * math.sqrt(max(kl, 0.0)), 0.0)
