"""Mamba-1's scan as a graph: the last token by plain operations, those before it by a loop.

A loop of one turn costs three times what its operations do, so a call with one token enters none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.branch import branch, no_tokens, with_last
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.layout import CHANNELS_FIRST, tokens_first
from kl_lens_desktop.kernels.parts.padding import before_last
from kl_lens_desktop.kernels.parts.states import KeptStates
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
    z: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """In place of ``mamba_selective_scan``: see `selective_scan.fast.selective_scan`."""
    past = call.past_or(x.new_zeros(x.shape[0], x.shape[1], A.shape[1]))
    bias, skip = (x.new_zeros(x.shape[1]) if value is None else value for value in (delta_bias, D))
    shared = call.parts.length, call.parts.batch, call.parts.one, call.attention_mask
    softplus = torch.tensor(int(delta_softplus))
    y = call.stand_in(SelectiveScan)(x, dt, A, B, C, skip, z, bias, past, *shared, softplus)
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
        x, dt, B, C, z = (tokens_first(value) for value in (x, dt, B, C, z))
        steps: Any = ops.add(dt, bias)
        if context.get_values_from_const_input(13):
            steps = ops.softplus(steps)
        scaled = ops.multiply(steps, x)
        some = ops.greater(length, _numbers(0))
        given = [steps, scaled, B, C, A, past, length, mask, batch]
        y, reached = branch(some, given, _before, _nothing)
        held = ops.select(some, reached, past)
        step, each, b, c = (
            ops.slice(v, _numbers(-1), _numbers(2**31 - 1), _numbers(1), _numbers(1)) for v in given[:4]
        )
        y_last, state = _turn(step, each, b, c, A, held)
        y = with_last(y, y_last, batch, one, D.get_partial_shape().to_shape())
        self._states.keep(y, state)
        gated = ops.multiply(ops.add(y, ops.multiply(x, D)), ops.swish(z))
        return [ops.transpose(gated, ops.constant(CHANNELS_FIRST)).output(0)]

    def state(self, context: Any) -> list[ov.Output]:
        """The operation of a `SelectiveState`: a part of its scan."""
        return self._states.find(context)


def _turn(step: Any, scaled: Any, B: Any, C: Any, A: Any, past: Any) -> tuple[ov.Node, ov.Node]:
    """One token: its output (batch, 1, channels) before the skip, and the state after it."""
    column = _numbers(0, -1, 1)
    decay = ops.exp(ops.multiply(ops.reshape(step, column, True), A))
    update = ops.multiply(ops.reshape(scaled, column, True), B)
    state = ops.add(ops.multiply(past, decay), update)
    return ops.matmul(C, state, False, True), state


def _before(*inputs: Any) -> list[Any]:
    """The loop takes the last token too, with a step of zero; its output is cut off."""
    steps, scaled, B, C, A, past, length, mask, _ = inputs
    tokens = before_last(mask, length)
    steps, scaled, B, C = (ops.multiply(value, tokens).output(0) for value in (steps, scaled, B, C))
    y, reached = _loop([steps, scaled, A, B, C, past])
    return [ops.slice(y, _numbers(0), length, _numbers(1), _numbers(1)), reached]


def selective_loop(context: Any) -> list[ov.Output]:
    """The operation of a `SelectiveLoop`, for OpenVINO's converter."""
    return _loop([context.get_input(i) for i in range(6)])[:1]


def _loop(inputs: Sequence[ov.Output]) -> list[ov.Output]:
    steps, scaled, A, B, C, past = inputs
    channels, size = A.get_partial_shape().to_shape()
    step_t, scaled_t = (ops.parameter([-1, 1, channels], np.float32) for _ in range(2))
    b_t, c_t = (ops.parameter([-1, 1, size], np.float32) for _ in range(2))
    a, state = ops.parameter([channels, size], np.float32), ops.parameter([-1, channels, size], np.float32)
    y, new = _turn(step_t, scaled_t, b_t, c_t, a, state)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [step_t, scaled_t, b_t, c_t, a, state]))
    for parameter, value in ((step_t, steps), (scaled_t, scaled), (b_t, B), (c_t, C)):
        loop.set_sliced_input(parameter, value, 0, 1, 1, -1, 1)
    loop.set_invariant_input(a, A)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return list(loop.outputs())


def _nothing(*inputs: Any) -> list[ov.Node]:
    """No outputs, and one row in place of a state that is not read."""
    *_, A, _, _, _, batch = inputs
    channels, size = A.get_partial_shape().to_shape()
    return [no_tokens(batch, channels), ops.constant(np.zeros((1, 1, size), np.float32))]


def _numbers(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
