"""Recurrences for a graph of fixed shapes: one form for one token and for many, without branches and beams.

A graph for an NPU is made twice from the same operations, once for a single token and once for a chunk, each
with every shape known. So nothing is decided at run time, the batch has one row, and Mamba-2's scan is one
dual form over the whole call (arXiv 2405.21060, section 6): chunks are short there.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from kl_lens_desktop.export.recurrence import Recurrences
from kl_lens_desktop.export.selective import SelectiveLoop
from kl_lens_desktop.model.scan import limited_steps, with_skip
from kl_lens_desktop.model.selective import gated, step_sizes


class UnbranchedRecurrences(Recurrences):
    """As `Recurrences`, where a call is one chunk: padding stands before its tokens and is passed by."""

    def __init__(self) -> None:
        super().__init__()
        self._selective_loop = SelectiveLoop()

    def begin(self, input_ids: Tensor, attention_mask: Tensor, beam_idx: Tensor) -> None:
        self._input_ids, self._attention_mask = input_ids, attention_mask
        self._orders: dict[int, Tensor] = {}

    def _places(self, taps: int) -> Tensor:
        if taps not in self._orders:
            kept = self.tokens()[0, :, 0]
            missing = (1 - kept).sum().long()
            place = torch.arange(taps + kept.shape[0])
            self._orders[taps] = torch.where(place < missing + taps, (place - missing).clamp(min=0), place)
        return self._orders[taps]

    def windowed(self, past: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        taps = int(past.shape[1])
        full = torch.cat([past, new], 1).index_select(1, self._places(taps))
        return full, full[:, -taps:]

    def convolution(
        self,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **_: Any,
    ) -> Tensor:
        taps = int(weight.shape[1])
        x = hidden_states.transpose(1, 2)
        y = x[:, taps:] * weight[:, -1]
        for back in range(1, taps):
            y = y + x[:, taps - back : -back] * weight[:, -1 - back]
        if bias is not None:
            y = y + bias
        if activation is not None:
            y = ACT2FN[activation](y)
        return y.transpose(1, 2)

    def selective_scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        *,
        z: Tensor,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **_: Any,
    ) -> Any:
        past = self.past.pop(0) if self.past else x.new_zeros(x.shape[0], x.shape[1], A.shape[1])
        steps = step_sizes(dt, delta_bias, delta_softplus).transpose(1, 2) * self.tokens()
        scaled = steps * x.transpose(1, 2)
        y = self._selective_loop(steps, scaled, A, B.transpose(1, 2), C.transpose(1, 2), past)
        state = self._final_state(y, past)
        y = gated(y.transpose(1, 2), x, D, z)
        return (y, state) if return_last_state else y

    def dual_scan(
        self,
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
        heads, head_size, groups, size = (int(n) for n in (*x.shape[2:], *B.shape[2:]))
        shape = (-1, heads, head_size, size)
        past = x.new_zeros(x.shape[0], *shape[1:]) if initial_states is None else initial_states.view(shape)
        dt = limited_steps(dt, dt_bias, dt_softplus, dt_limit) * self.tokens()
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

    def delta_rule(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        kept = self.tokens()
        return super().delta_rule(query, key, value, g * kept, beta * kept, *args, **options)
