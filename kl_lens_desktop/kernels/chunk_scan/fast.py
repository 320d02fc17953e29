"""Mamba-2's scan in its dual (matrix) form, several times faster in torch on a CPU than the stock one.

Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, section 6.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # tokens; the matrix part grows with its square
_FAINTEST = 1e-20


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Any:
    """The selective state-space recurrence over a whole sequence as three matrix products.

    Parameters
    ----------
    x : Tensor
        (batch, tokens, heads, head size).
    dt : Tensor
        (batch, tokens, heads), the step before bias and softplus.
    A : Tensor
        (heads,), negative.
    B, C : Tensor
        (batch, tokens, groups, state).
    D, dt_bias : Tensor, optional
        (heads,).
    initial_states : Tensor, optional
        (batch, heads, head size, state).

    Returns
    -------
    Tensor or tuple of Tensor
        Outputs shaped like `x` in float32 and, if asked for, the final states.
    """
    batch, tokens, heads, size = x.shape
    shared = (B.shape[2], heads // B.shape[2])  # groups, and the heads of each
    dt, x = limited_steps(dt, dt_bias, dt_softplus, dt_limit).float(), x.float()
    log_decay = torch.cumsum(
        (dt * A.float()).transpose(1, 2).contiguous(), dim=2
    )  # (b, h, t): from the start
    last = log_decay[..., -1:]
    decay = _decay(log_decay[..., :, None] - log_decay[..., None, :]).tril_()  # (b, h, t, t)
    B, C = B.float().permute(0, 2, 1, 3), C.float().permute(0, 2, 1, 3)  # (b, g, t, n)
    scores = (C @ B.transpose(-1, -2))[:, :, None]  # (b, g, 1, t, t)
    scores = scores * decay.view(batch, *shared, tokens, tokens)
    steps = x * dt[..., None]
    y = (scores.flatten(1, 2) @ steps.transpose(1, 2)).transpose(1, 2)
    # The heads of a group share B and C: their states are one product of matrices, not one a head.
    faded = steps * _decay(last - log_decay).transpose(1, 2)[..., None]
    state = (faded.view(batch, tokens, shared[0], -1).permute(0, 2, 3, 1) @ B).view(batch, heads, size, -1)
    if initial_states is not None:
        past = initial_states.float()
        seen = C @ past.reshape(batch, shared[0], -1, past.shape[-1]).transpose(-1, -2)  # (b, g, t, h/g·p)
        y = y + seen.transpose(1, 2).reshape(x.shape) * _decay(log_decay).transpose(1, 2)[..., None]
        state = state + past * _decay(last)[..., None]
    y = with_skip(y, x, D)
    y = y.contiguous()  # Falcon-H1 takes a view of it
    return (y, state) if return_final_states else y


def _decay(log: Tensor) -> Tensor:
    """exp of what is at most 0 where it counts, and 0 for what has all but died away.

    Denormal numbers cost a CPU thirty times as much, in the exponential and again in every product. Above
    the diagonal the gap is positive and would overflow.
    """
    return F.threshold(log.clamp(math.log(_FAINTEST), 0).exp_(), 1.01 * _FAINTEST, 0.0, inplace=True)


def limited_steps(dt: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float]) -> Tensor:
    """The steps (batch, tokens, heads) after bias, softplus and limits."""
    if bias is not None:
        dt = dt + bias
    if softplus:
        dt = F.softplus(dt)
    return dt if tuple(limit) == (0.0, float("inf")) else dt.clamp(*limit)


def with_skip(y: Tensor, x: Tensor, D: Tensor | None) -> Tensor:
    """The scan's output (batch, tokens, heads, head size) with its skip connection."""
    return y if D is None else y + x * (D[..., None] if D.dim() == 1 else D)


def scan_in_chunks(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    **options: Any,
) -> Any:
    """`scan` over pieces of `CHUNK` tokens, carrying the state: time and memory linear in the length."""
    outputs, state = [], initial_states
    for start in range(0, x.shape[1], CHUNK):
        cut = slice(start, start + CHUNK)
        y, state = scan(
            x[:, cut],
            dt[:, cut],
            A,
            B[:, cut],
            C[:, cut],
            initial_states=state,
            return_final_states=True,
            **options,
        )
        outputs.append(y)
    y = torch.cat(outputs, 1)
    return (y, state) if return_final_states else y
