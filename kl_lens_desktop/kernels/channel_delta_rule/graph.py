"""The delta rule as a graph: the last token by plain operations, those before it by a loop in a branch.

OpenVINO has no kernel for decays of channels, so the loop is its TensorIterator, one turn a token.
"""

from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.constants import scalar, vector
from kl_lens_desktop.kernels.parts.states import KeptStates
from kl_lens_desktop.kernels.parts.tokenwise import Recurrence, Tokens, token_by_token, token_loop
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
        tokens = Tokens(length, batch, one, mask)
        y, state = token_by_token(inputs, [], past, tokens, _recurrence(context, 10))
        self.states.keep(y, state)
        return [y.output(0)]


def _whole_loop(context: Any) -> list[ov.Output]:
    """The operation of a `ChannelLoop`, for OpenVINO's converter."""
    *inputs, past = (context.get_input(i) for i in range(6))
    return token_loop(inputs, [], past, _recurrence(context, 6))[:1]


def _recurrence(context: Any, index: int) -> Recurrence:
    """For the sizes that a stand-in has as its input of that number."""
    heads, size, width = (int(n) for n in context.get_values_from_const_input(index))

    def turn(inputs: Sequence[Any], constants: Sequence[Any], past: Any) -> tuple[ov.Node, ov.Node]:
        query, key, value, g, beta = inputs
        query, key, g = (_shaped(channels, heads, size, 1) for channels in (query, key, g))
        decayed = ops.multiply(past, ops.exp(g))
        # Sums of products: the GPU plugin (2026.4) is wrong where a loop multiplies its state by a matrix.
        held = ops.reduce_sum(ops.multiply(decayed, key), scalar(-2), True)
        delta = ops.multiply(ops.subtract(_shaped(value, heads, 1, width), held), _shaped(beta, heads, 1, 1))
        state = ops.add(decayed, ops.multiply(key, delta))
        y = ops.reduce_sum(ops.multiply(state, query), scalar(-2), True)
        return ops.reshape(y, vector(0, 1, heads * width), True), state

    widths = (heads * size, heads * size, heads * width, heads * size, heads)
    return Recurrence(turn, widths, heads * width, (heads, size, width))


def _shaped(value: Any, *shape: int) -> ov.Node:
    return ops.reshape(value, vector(0, *shape), True)
