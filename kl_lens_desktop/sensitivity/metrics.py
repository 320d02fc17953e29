"""How two output distributions differ, per token, summed up by window.

Everything is computed in pieces that stay in a core's cache: over a vocabulary of 100,000 the same operations
on whole slices of logits wait for memory and take several times as long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kl_lens_desktop.sensitivity.means import estimates, mean, samples_of
from kl_lens_desktop.sensitivity.scores import Estimate, Samples

_PIECE = 2**17  # elements: 512 KB in float32
_WILD = 60.0  # log(q/p) beyond which float32 loses p, or q/p, altogether
_COLUMNS = ("kl_pq", "kl_qp", "mse", "top1_agreement", "delta_ce")


@dataclass(frozen=True, slots=True)
class Reference:
    """The full-precision model on some tokens.

    Attributes
    ----------
    logits : Tensor
        (tokens, vocabulary), float32.
    log_norm, top, signal, ce : Tensor
        (tokens,): log Σ exp(logits), the largest logit's place, the mean square of the logits, and the
        cross-entropy of the next token, 0 where it is not known.
    labels : Tensor
        (tokens,), the next token, or −1 where the window ends.
    rows : Tensor
        (tokens,), the window each token belongs to.
    """

    logits: Tensor
    log_norm: Tensor
    top: Tensor
    signal: Tensor
    ce: Tensor
    labels: Tensor
    rows: Tensor


def reference(logits: Tensor, labels: Tensor, rows: Tensor) -> Reference:
    """What comparisons on the same tokens share."""
    found = []
    for piece in _pieces(logits):
        best, top = piece.max(-1)
        found.append((_log_norm(piece, best), top, piece.square().mean(-1)))
    log_norm, top, signal = (torch.cat(each) for each in zip(*found, strict=True))
    return Reference(logits, log_norm, top, signal, _cross_entropy(logits, log_norm, labels), labels, rows)


def next_token_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (tokens,) of the `labels`, 0 where they are −1."""
    log_norm = torch.cat([_log_norm(piece, piece.amax(-1)) for piece in _pieces(logits)])
    return _cross_entropy(logits, log_norm, labels)


class Tally:
    """Sums over tokens, one row a window, of everything compared.

    Parameters
    ----------
    windows, window : int
        How many windows there are, and tokens in each.
    """

    def __init__(self, windows: int, window: int) -> None:
        self._sums = torch.zeros(windows, len(_COLUMNS), dtype=torch.float64)
        self._clean = torch.zeros(windows, 2, dtype=torch.float64)  # signal, cross-entropy
        self._window = window

    def add(self, full: Reference, logits: Tensor) -> None:
        """Add tokens: `logits` (tokens, vocabulary) of the compared model, in float32."""
        found, start = [], 0
        for piece in _pieces(logits):
            found.append(_compare(full, slice(start, start + len(piece)), piece))
            start += len(piece)
        log_norm, *columns = (torch.cat(each) for each in zip(*found, strict=True))
        change = _cross_entropy(logits, log_norm, full.labels) - full.ce
        rows = full.rows.cpu()
        self._sums.index_add_(0, rows, torch.stack([*columns, change], -1).double().cpu())
        self._clean.index_add_(0, rows, torch.stack([full.signal, full.ce], -1).double().cpu())

    @property
    def samples(self) -> Samples:
        """The mean of each window; of the change of cross-entropy over one token fewer."""
        means = {name: self._sums[:, place] / self._window for place, name in enumerate(_COLUMNS)}
        means["delta_ce"] = means["delta_ce"] * self._window / (self._window - 1)
        return samples_of({name: column.tolist() for name, column in means.items()})

    @property
    def signal(self) -> list[float]:
        """Mean square of the full-precision logits in each window."""
        means: list[float] = (self._clean[:, 0] / self._window).tolist()
        return means

    def estimates(self) -> dict[str, Estimate]:
        """Every metric of the score file."""
        return estimates(self.samples, self.signal, self._window)

    def by_window(self, column: str) -> list[float]:
        """The mean per token of each window: ``kl_pq``, or the next token's ``ce`` and ``ce_full``."""
        if column.startswith("ce"):
            values = self._cross_entropies(column)
        else:
            values = self._sums[:, _COLUMNS.index(column)] / self._window
        means: list[float] = values.tolist()
        return means

    def perplexity(self, column: str = "ce") -> Estimate:
        """exp(mean cross-entropy of the next token), its standard error to first order.

        `column` is ``ce`` for the compared model, ``ce_full`` for the full-precision one.
        """
        nats = self._cross_entropies(column)
        ce = mean(nats.tolist(), len(nats) * (self._window - 1))
        return Estimate(math.exp(ce.mean), math.exp(ce.mean) * ce.se, ce.n)

    @property
    def finite(self) -> bool:
        return bool(self._sums.isfinite().all())

    def _cross_entropies(self, column: str) -> Tensor:
        change = self._sums[:, _COLUMNS.index("delta_ce")] if column == "ce" else 0
        return (self._clean[:, 1] + change) / (self._window - 1)


def _compare(full: Reference, cut: slice, logits: Tensor) -> tuple[Tensor, ...]:
    """Per token: log Σ exp(logits), both KL directions, squared error, whether the best stays the best."""
    best = logits.amax(-1)
    log_norm = _log_norm(logits, best)
    full_logits, full_norm = full.logits[cut], full.log_norm[cut, None]
    d = logits - full_logits
    noise = d.square().mean(-1)
    d -= log_norm[:, None] - full_norm  # log q − log p
    p = (full_logits - full_norm).exp_()
    kl_pq, kl_qp = _divergences(p, d)
    if bool((wild := d.amax(-1) > _WILD).any()):
        exact = _divergences((full_logits - full_norm)[wild].double().exp_(), d[wild].double())
        kl_pq[wild], kl_qp[wild] = (each.float() for each in exact)
    same: Tensor = logits.gather(-1, full.top[cut, None])[:, 0] >= best
    return log_norm, kl_pq, kl_qp, noise, same.float()


def _divergences(p: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p‖q) and KL(q‖p) of d = log q − log p.

    Σ p·(expm1(d) − d) equals KL(p‖q) and has no negative terms: the plain sum cancels for small KL. The sum
    of both directions is Σ (q − p)·d.
    """
    grown = d.expm1()
    weighted = p * d
    both = weighted.mul_(grown).sum(-1)
    kl_pq = grown.sub_(d).mul_(p).sum(-1)
    return kl_pq, both - kl_pq


def _log_norm(logits: Tensor, best: Tensor) -> Tensor:
    return (logits - best[:, None]).exp_().sum(-1).log_() + best


def _cross_entropy(logits: Tensor, log_norm: Tensor, labels: Tensor) -> Tensor:
    target = logits.gather(-1, labels.clamp(min=0)[:, None])[:, 0]
    return torch.where(labels >= 0, log_norm - target, 0.0)


def _pieces(logits: Tensor) -> Sequence[Tensor]:
    pieces: Sequence[Tensor] = logits.split(max(1, _PIECE // logits.shape[-1]))
    return pieces
