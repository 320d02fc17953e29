"""How two output distributions differ, per token, accumulated by window so that the error bars are honest.

Tokens inside a window are correlated, so standard errors come from the means of windows (batch means), not
of tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kl_lens_desktop.sensitivity.scores import Estimate

SQNR_LIMIT_DB = 200.0  # stated where quantization changes no logit at all
_COLUMNS = ("kl_pq", "kl_qp", "noise", "signal", "top1", "delta_ce", "ce_full", "ce")


class Tally:
    """Sums over tokens, one row a window, of everything compared.

    Parameters
    ----------
    windows, window : int
        How many windows there are, and tokens in each.
    """

    def __init__(self, windows: int, window: int) -> None:
        self._sums = torch.zeros(windows, len(_COLUMNS), dtype=torch.float64)
        self._windows, self._window = windows, window
        self._vocabulary = 1

    def add(self, full: Tensor, log_p: Tensor, logits: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Add tokens.

        Parameters
        ----------
        full, logits : Tensor
            (tokens, vocabulary) of the full-precision model and of the other.
        log_p : Tensor
            (tokens, vocabulary), the log-probabilities of `full`.
        labels : Tensor
            (tokens,), the next token, or −1 where the window ends.
        rows : Tensor
            (tokens,), the window each token belongs to.
        """
        log_q = F.log_softmax(logits, -1)
        d = log_q - log_p
        p, grown = log_p.exp(), torch.expm1(d)
        # Σ p·(expm1(d) − d) equals KL(p‖q) and has no negative terms: the plain sum cancels for small KL.
        kl_pq = (p * (grown - d)).sum(-1)
        kl_qp = (p * (d * (1 + grown) - grown)).sum(-1)
        noise, signal = (logits - full).square().sum(-1), full.square().sum(-1)
        top1 = (logits.argmax(-1) == full.argmax(-1)).double()
        known = labels >= 0
        target = labels.clamp(min=0)[:, None]
        ce = torch.where(known, -log_q.gather(-1, target)[:, 0], 0.0)
        ce_full = torch.where(known, -log_p.gather(-1, target)[:, 0], 0.0)
        columns = torch.stack([kl_pq, kl_qp, noise, signal, top1, ce - ce_full, ce_full, ce], -1).double()
        self._sums.index_add_(0, rows, columns.cpu())
        self._vocabulary = logits.shape[-1]

    def estimates(self) -> dict[str, Estimate]:
        """Every metric of the score file."""
        tokens = self._window
        return {
            "kl_pq": self._mean("kl_pq", tokens),
            "kl_qp": self._mean("kl_qp", tokens),
            "mse": self._mean("noise", tokens * self._vocabulary, tokens),
            "sqnr_db": self._sqnr(),
            "delta_ce": self._mean("delta_ce", tokens - 1),
            "top1_agreement": self._mean("top1", tokens),
        }

    def by_window(self, column: str) -> list[float]:
        """The mean per token of each window: ``kl_pq``, or the next token's ``ce`` and ``ce_full``."""
        tokens = self._window - 1 if column.startswith("ce") else self._window
        values: list[float] = (self._column(column) / tokens).tolist()
        return values

    def perplexity_of_halves(self) -> tuple[float, float]:
        """Perplexity from the first, third, … window and from the others: two measurements of one thing."""
        nats = self._column("ce") / (self._window - 1)
        return math.exp(nats[::2].mean().item()), math.exp(nats[1::2].mean().item())

    def perplexity(self, column: str = "ce") -> Estimate:
        """exp(mean cross-entropy of the next token), its standard error to first order.

        `column` is ``ce`` for the compared model, ``ce_full`` for the full-precision one.
        """
        ce = self._mean(column, self._window - 1)
        return Estimate(math.exp(ce.mean), math.exp(ce.mean) * ce.se, ce.n)

    @property
    def finite(self) -> bool:
        return bool(self._sums.isfinite().all())

    def _column(self, name: str) -> Tensor:
        return self._sums[:, _COLUMNS.index(name)]

    def _mean(self, column: str, divisor: int, tokens: int | None = None) -> Estimate:
        means = self._column(column) / divisor
        return Estimate(
            means.mean().item(),
            _standard_error(means),
            self._windows * (divisor if tokens is None else tokens),
        )

    def _sqnr(self) -> Estimate:
        noise, signal = self._column("noise"), self._column("signal")
        count = self._windows * self._window
        if noise.sum() == 0:
            return Estimate(SQNR_LIMIT_DB, 0.0, count)
        ratio = (10 * torch.log10(signal.sum() / noise.sum())).item()
        # To first order the log of a ratio of means varies as the difference of the relative deviations.
        spread = _standard_error(signal / signal.mean() - noise / noise.mean())
        return Estimate(min(ratio, SQNR_LIMIT_DB), 10 / math.log(10) * spread, count)


def _standard_error(means: Tensor) -> float:
    return (means.std(correction=1) / math.sqrt(len(means))).item()
