"""How far one model's next-token distributions lie from another's, in nats, without cancellation."""

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.export import proof

Logits = NDArray[np.float32]
Doubles = NDArray[np.float64]
_SLICE = 2**16  # logits handled at once: half a megabyte per array of doubles stays in a core's cache


def probabilities(logits: Logits) -> tuple[Doubles, Doubles]:
    """Log-probabilities and probabilities over the last axis, in double precision."""
    log_q = logits.astype(np.float64)
    log_q -= log_q.max(-1, keepdims=True)
    q = np.exp(log_q)
    total = q.sum(-1, keepdims=True)
    log_q -= np.log(total)
    q /= total
    return log_q, q


def kl_both_ways(log_p: Doubles, p: Doubles, log_q: Doubles) -> tuple[Doubles, Doubles]:
    """KL(p‖q) and KL(q‖p) per position [t] from log-probabilities [t, vocabulary].

    With d = log q − log p and x = expm1(d), Σ p·(x − d) equals Σ p·(−d), since Σ p·x = Σ q − Σ p = 0, but has
    only non-negative terms: an INT8 weight's 1e-6 nats are not lost in rounding. The other way the same sum
    Σ q·(expm1(−d) + d) is Σ p·((1 + x)·d − x), as q = p·(1 + x).
    """
    d = log_q - log_p
    x = np.expm1(d)
    forward = np.einsum("tv,tv->t", p, x - d)
    backward = np.einsum("tv,tv->t", p, (1 + x) * d - x)
    return forward, backward


def token_nats(log_q: Doubles, targets: NDArray[np.int64]) -> Doubles:
    """Negative log-likelihood of `targets` [t] under log-probabilities [t, vocabulary]."""
    return -np.take_along_axis(log_q, targets[:, None], -1)[:, 0]


def squares(logits: Logits, reference: Logits) -> tuple[float, float]:
    """`export.proof.squares` of the whole vocabulary, slice by slice."""
    sums = np.zeros(2)
    for part in slices(*reference.shape):
        sums += proof.squares(logits[part], reference[part])
    return float(sums[0]), float(sums[1])


def slices(positions: int, vocabulary: int) -> list[slice]:
    """Consecutive slices of positions, each small enough to work on in double precision."""
    step = max(1, _SLICE // vocabulary)
    return [slice(start, min(start + step, positions)) for start in range(0, positions, step)]
