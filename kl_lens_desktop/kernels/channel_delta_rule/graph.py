"""The delta rule as a graph: the last token by plain operations, those before it by a loop in a branch.

OpenVINO has no kernel for decays of channels, so the loop is its TensorIterator, one turn a token.
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
from kl_lens_desktop.kernels.parts.padding import before_last
from kl_lens_desktop.kernels.parts.states import KeptStates
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions


class ChannelRule(nn.Module):
    """Stand-in for the rule of a model that is being traced; only its shape is real."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        past: Tensor,
        length: Tensor,
        batch: Tensor,
        one: Tensor,
        mask: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        return torch.zeros_like(value)


class ChannelState(nn.Module):
    """The state (batch, heads, key size, value size) after a `ChannelRule`, of which `y` is the output."""

    def forward(self, y: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(past)


class ChannelLoop(nn.Module):
    """Stand-in for the rule in one loop over all tokens, without a branch; its state is its second output."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, past: Tensor, sizes: Tensor
    ) -> Tensor:
        return torch.zeros_like(value)


def traced(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """In place of ``chunk_kimi_delta_attention`` of transformers, with its layouts."""
    inputs, past, sizes = prepared(call, query, key, value, g, beta, initial_state, use_qk_l2norm_in_kernel)
    parts = call.parts
    shared = parts.length, parts.batch, parts.one, call.attention_mask
    y = call.stand_in(ChannelRule)(*inputs, past, *shared, sizes)
    return y.reshape(value.shape), call.stand_in(ChannelState)(y, past)


def prepared(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    past: Tensor | None,
    normalized: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The inputs with all heads in one axis, (batch, tokens, heads · size), the state before them, its sizes.

    Padding neither decays the state nor adds to it. `normalized` says that queries and keys are to be.
    """
    batch, _, heads, size = key.shape
    if normalized:
        query, key = (t * (1 / torch.sqrt((t * t).sum(dim=-1, keepdim=True) + 1e-6)) for t in (query, key))
    query = query * float(size) ** -0.5
    if past is None:
        past = value.new_zeros(batch, heads, size, value.shape[3])
    kept = call.tokens()
    flat = [t.reshape(*t.shape[:2], int(t.shape[2]) * int(t.shape[3])) for t in (query, key, value, g)]
    sizes = torch.tensor([int(heads), int(size), int(value.shape[3])])
    return [*flat[:3], flat[3] * kept, beta * kept], past, sizes


def conversions(_: Convolutions) -> dict[type[nn.Module], Builder]:
    """The stand-ins of this form and of `fixed`, and what builds their operations."""
    rules = _Rules()
    return {ChannelRule: rules.build, ChannelState: rules.states.find, ChannelLoop: _whole_loop}


class _Rules:
    """The rules of one traced model."""

    def __init__(self) -> None:
        self.states = KeptStates("channel_rule")

    def build(self, context: Any) -> list[ov.Output]:
        *inputs, past, length, batch, one, mask = (context.get_input(i) for i in range(10))
        sizes = _sizes(context, 10)
        heads, size, width = sizes

        def before(*given: Any) -> list[Any]:
            *values, past, length, mask, _ = given
            tokens = before_last(mask, length)
            y, reached = _loop([ops.multiply(value, tokens).output(0) for value in values], past, sizes)
            return [ops.slice(y, _numbers(0), length, _numbers(1), _numbers(1)), reached]

        def nothing(*given: Any) -> list[ov.Node]:
            """No outputs, and one row in place of a state that is not read."""
            state = ops.constant(np.zeros((1, 1, size, width), np.float32))
            return [no_tokens(given[-1], heads * width), state]

        some = ops.greater(length, _numbers(0))
        y, reached = branch(some, [*inputs, past, length, mask, batch], before, nothing)
        held = ops.select(some, reached, past)
        last = [ops.slice(v, _numbers(-1), _numbers(2**31 - 1), _numbers(1), _numbers(1)) for v in inputs]
        y_last, state = _turn(last, held, sizes)
        joined = with_last(y, y_last, batch, one, [heads * width])
        self.states.keep(joined, state)
        return [joined.output(0)]


def _turn(inputs: Sequence[Any], past: Any, sizes: tuple[int, int, int]) -> tuple[ov.Node, ov.Node]:
    """One token: its output (batch, 1, heads · value size), and the state after it."""
    heads, size, width = sizes
    query, key, value, g, beta = inputs
    query, key, g = (_shaped(channels, heads, size, 1) for channels in (query, key, g))
    decayed = ops.multiply(past, ops.exp(g))
    # Sums of products, for the GPU plugin (2026.4) is wrong where a loop multiplies its state by a matrix.
    held = ops.reduce_sum(ops.multiply(decayed, key), ops.constant(np.int64(-2)), True)
    delta = ops.multiply(ops.subtract(_shaped(value, heads, 1, width), held), _shaped(beta, heads, 1, 1))
    state = ops.add(decayed, ops.multiply(key, delta))
    y = ops.reduce_sum(ops.multiply(state, query), ops.constant(np.int64(-2)), True)
    return ops.reshape(y, _numbers(0, 1, heads * width), True), state


def _whole_loop(context: Any) -> list[ov.Output]:
    """The operation of a `ChannelLoop`, for OpenVINO's converter."""
    *inputs, past = (context.get_input(i) for i in range(6))
    return _loop(inputs, past, _sizes(context, 6))[:1]


def _sizes(context: Any, index: int) -> tuple[int, int, int]:
    heads, size, width = (int(n) for n in context.get_values_from_const_input(index))
    return heads, size, width


def _loop(inputs: Sequence[ov.Output], past: Any, sizes: tuple[int, int, int]) -> list[ov.Output]:
    heads, size, width = sizes
    channels = (heads * size, heads * size, heads * width, heads * size, heads)
    tokens = [ops.parameter([-1, 1, count], np.float32) for count in channels]
    state = ops.parameter([-1, heads, size, width], np.float32)
    y, new = _turn(tokens, state, sizes)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [*tokens, state]))
    for parameter, whole in zip(tokens, inputs, strict=True):
        loop.set_sliced_input(parameter, whole, 0, 1, 1, -1, 1)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return list(loop.outputs())


def _shaped(value: Any, *shape: int) -> ov.Node:
    return ops.reshape(value, _numbers(0, *shape), True)


def _numbers(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
