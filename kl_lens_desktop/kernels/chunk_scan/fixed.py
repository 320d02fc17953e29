"""Mamba-2's scan for a graph of fixed shapes: one dual form over the whole call, which is one chunk."""

from typing import Any

import torch
from torch import Tensor

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.chunk_scan.fast import limited_steps, with_skip


def traced(
    call: Call,
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
    """In place of ``mamba2_chunk_scan``: see `chunk_scan.fast.scan`."""
    heads, head_size, groups, size = (int(n) for n in (*x.shape[2:], *B.shape[2:]))
    shape = (-1, heads, head_size, size)
    past = x.new_zeros(x.shape[0], *shape[1:]) if initial_states is None else initial_states.view(shape)
    dt = limited_steps(dt, dt_bias, dt_softplus, dt_limit) * call.tokens()
    since = torch.cumsum((dt * A).transpose(1, 2), dim=2)  # (b, h, t), log decay since the start
    steps = (x * dt[..., None]).transpose(1, 2)  # (b, h, t, p)
    B, C = (value.transpose(1, 2).repeat_interleave(heads // groups, 1) for value in (B, C))
    place = torch.arange(x.shape[1])
    until_now = (place[:, None] >= place[None]).float()
    decay = torch.exp((since[..., :, None] - since[..., None, :]).clamp(max=0)) * until_now
    y = (C @ B.transpose(-1, -2) * decay) @ steps
    y = y + (C @ past.transpose(-1, -2)) * torch.exp(since)[..., None]
    y = with_skip(y.transpose(1, 2), x, D).contiguous()
    last = since[..., -1:]
    faded = steps * torch.exp(last - since)[..., None]
    state = past * torch.exp(last)[..., None] + faded.transpose(-1, -2) @ B
    return (y, state.reshape(-1, heads * head_size, size)) if return_final_states else y
