"""Mamba-1's selective scan on a CPU: from any state, and without the whole sequence of states in memory.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16  # tokens whose states are held at a time: their product with C is one batch of matrix products


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Tensor | None = None,
    **_: Any,
) -> Any:
    """The recurrence h = exp(dt·A)·h + dt·x·Bᵀ, y = h·C + D·x, gated by silu(z).

    Parameters
    ----------
    x, dt, z : Tensor
        (batch, channels, tokens); `dt` before bias and softplus.
    A : Tensor
        (channels, state), negative.
    B, C : Tensor
        (batch, state, tokens).
    D, delta_bias : Tensor, optional
        (channels,).
    initial_state : Tensor, optional
        (batch, channels, state).

    Returns
    -------
    Tensor or tuple of Tensor
        Outputs shaped like `x` in float32 and, if asked for, the last state.
    """
    dt = step_sizes(dt, delta_bias, delta_softplus).transpose(1, 2)  # (b, t, d)
    scaled = dt * x.float().transpose(1, 2)
    A, B, C = A.float(), B.float().transpose(1, 2), C.float().transpose(1, 2)
    batch, tokens, channels = scaled.shape
    state = scaled.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state.float()
    outputs = []
    for start in range(0, tokens, CHUNK):
        cut = slice(start, start + CHUNK)
        decay = torch.exp(dt[:, cut, :, None] * A)
        states = scaled[:, cut, :, None] * B[:, cut, None]  # (b, t, d, n): inputs, then states in place
        for token in range(states.shape[1]):
            state = states[:, token].addcmul_(decay[:, token], state)
        outputs.append((states @ C[:, cut, :, None]).squeeze(-1))
    y = gated(torch.cat(outputs, 1).transpose(1, 2), x, D, z)
    return (y, state) if return_last_state else y


def step_sizes(dt: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """The steps after bias and softplus, in float32."""
    dt = dt.float()
    if delta_bias is not None:
        dt = dt + delta_bias.float()[..., None]
    return F.softplus(dt) if delta_softplus else dt


def gated(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """The scan's output with its skip connection and its gate."""
    if D is not None:
        y = y + x * D[None, :, None]
    return y if z is None else y * F.silu(z)
