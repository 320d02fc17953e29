"""Mamba-1's scan as a graph: the last token by plain operations, those before it by a loop."""

from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.constants import vector
from kl_lens_desktop.kernels.parts.layout import CHANNELS_FIRST, tokens_first
from kl_lens_desktop.kernels.parts.padding import kept
from kl_lens_desktop.kernels.parts.states import KeptStates
from kl_lens_desktop.kernels.parts.tokenwise import Recurrence, Tokens, token_by_token, token_loop
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions


class SelectiveScan(nn.Module):
    """Stand-in for the scan of a model that is being traced; only its shape is real."""

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        bias: Tensor,
        past: Tensor,
        length: Tensor,
        batch: Tensor,
        one: Tensor,
        mask: Tensor,
        softplus: Tensor,
        gate: Tensor,
    ) -> Tensor:
        return torch.zeros_like(x)


class SelectiveState(nn.Module):
    """The state (batch, channels, state) after a `SelectiveScan`, of which `y` is the output."""

    def forward(self, y: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(past)


class SelectiveLoop(nn.Module):
    """Stand-in for a scan in one loop over all tokens, without a branch; its state is its second output."""

    def forward(self, steps: Tensor, scaled: Tensor, A: Tensor, B: Tensor, C: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(scaled)


def traced(
    call: Call,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """In place of ``mamba_selective_scan``: see `selective_scan.fast.selective_scan`."""
    past = call.past_or(x.new_zeros(x.shape[0], x.shape[1], A.shape[1]))
    bias, skip = (x.new_zeros(x.shape[1]) if value is None else value for value in (delta_bias, D))
    shared = call.parts.length, call.parts.batch, call.parts.one, call.attention_mask
    softplus, gate = (torch.tensor(int(value)) for value in (delta_softplus, z is not None))
    z = x if z is None else z
    y = call.stand_in(SelectiveScan)(x, dt, A, B, C, skip, z, bias, past, *shared, softplus, gate)
    state = call.stand_in(SelectiveState)(y, past)
    return (y, state) if return_last_state else y


def conversions(_: Convolutions) -> dict[type[nn.Module], Builder]:
    """The stand-ins of this form and of `fixed`, and what builds their operations."""
    scans = SelectiveScans()
    return {SelectiveScan: scans.build, SelectiveState: scans.state, SelectiveLoop: selective_loop}


class SelectiveScans:
    """The scans of one traced model."""

    def __init__(self) -> None:
        self._states = KeptStates("selective_scan")

    def build(self, context: Any) -> list[ov.Output]:
        """The operations of a `SelectiveScan`, for OpenVINO's converter."""
        x, dt, A, B, C, D, z, bias, past, length, batch, one, mask = (context.get_input(i) for i in range(13))
        x, dt, B, C = (tokens_first(value) for value in (x, dt, B, C))
        steps: Any = ops.add(dt, bias)
        if context.get_values_from_const_input(13):
            steps = ops.softplus(steps)
        # No step where a row is padded to its end, as rows that are done are. Loops mask what is before.
        steps = ops.multiply(steps, kept(mask, length))
        tokens = Tokens(length, batch, one, mask)
        y, state = token_by_token([steps, ops.multiply(steps, x), B, C], [A], past, tokens, _recurrence(A))
        self._states.keep(y, state)
        y = ops.add(y, ops.multiply(x, D))
        if context.get_values_from_const_input(14):
            y = ops.multiply(y, ops.swish(tokens_first(z)))
        return [ops.transpose(y, ops.constant(CHANNELS_FIRST)).output(0)]

    def state(self, context: Any) -> list[ov.Output]:
        """The operation of a `SelectiveState`: a part of its scan."""
        return self._states.find(context)


def selective_loop(context: Any) -> list[ov.Output]:
    """The operation of a `SelectiveLoop`, for OpenVINO's converter."""
    steps, scaled, A, B, C, past = (context.get_input(i) for i in range(6))
    return token_loop([steps, scaled, B, C], [A], past, _recurrence(A))[:1]


def _recurrence(A: ov.Output) -> Recurrence:
    channels, size = (int(n) for n in A.get_partial_shape().to_shape())
    return Recurrence(_turn, (channels, channels, size, size), channels, (channels, size))


def _turn(inputs: Sequence[Any], constants: Sequence[Any], past: Any) -> tuple[ov.Node, ov.Node]:
    """One token: its output (batch, 1, channels) before the skip, and the state after it."""
    step, scaled, B, C = inputs
    (A,) = constants
    column = vector(0, -1, 1)
    decay = ops.exp(ops.multiply(ops.reshape(step, column, True), A))
    update = ops.multiply(ops.reshape(scaled, column, True), B)
    state = ops.add(ops.multiply(past, decay), update)
    return ops.matmul(C, state, False, True), state
