"""RecurrentGemma's recurrent blocks over the cache, which its modelling code keeps no state of theirs in."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn
from torch.nn.functional import softplus
from transformers import PreTrainedModel

_RATE, _FORGOTTEN = -8.0, -1e4


class LinearRecurrence(nn.Module):
    """Stand-in for h = a·h + u over (batch, tokens, channels); only its shape is real."""

    def forward(self, a: Tensor, u: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(u)


def linear_recurrence(context: Any) -> list[ov.Output]:
    """The operation of a `LinearRecurrence`; its second output is the last state."""
    a, u, past = (context.get_input(i) for i in range(3))
    channels = u.get_partial_shape()[2].get_length()
    a_t, u_t = (ops.parameter([-1, 1, channels], np.float32) for _ in range(2))
    state, token = ops.parameter([-1, channels], np.float32), ops.constant(np.int64(1))
    new = ops.add(ops.multiply(state, ops.squeeze(a_t, token)), ops.squeeze(u_t, token))
    y = ops.unsqueeze(new, token)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [a_t, u_t, state]))
    loop.set_sliced_input(a_t, a, 0, 1, 1, -1, 1)
    loop.set_sliced_input(u_t, u, 0, 1, 1, -1, 1)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return [loop.output(0)]


@contextlib.contextmanager
def cached_recurrent_blocks(model: PreTrainedModel, loops: Any) -> Iterator[None]:
    """Let the blocks of RecurrentGemma keep their states in the cache: a prompt may come in pieces."""
    replaced = []
    if model.config.model_type == "recurrent_gemma":
        for index, layer in enumerate(model.base_model.layers):
            if hasattr(layer.temporal_block, "rg_lru"):
                layer.temporal_block.forward = functools.partial(_block, layer.temporal_block, index, loops)
                replaced.append(layer.temporal_block)
    try:
        yield
    finally:
        for block in replaced:
            del block.forward


def _block(
    block: Any,
    index: int,
    loops: Any,
    hidden: Tensor,
    *,
    position_ids: Tensor,
    past_key_values: Any,
    **_: Any,
) -> tuple[Tensor, None]:
    gate = block.act_fn(block.linear_y(hidden))
    x = block.linear_x(hidden).transpose(1, 2)
    x = past_key_values.update_conv_state(x, index, conv_kernel_size=block.conv1d_width)
    x = loops.convolution(x, block.conv_1d.weight[:, 0], block.conv_1d.bias).transpose(1, 2)
    past = past_key_values.get_recurrent_state(index)
    tokens = loops.tokens()
    a, u = _gates(block.rg_lru, x, position_ids[..., None] == 0, tokens)
    y, state = loops.linear_recurrence(a, u, past)
    past_key_values.update_recurrent_state(state, index)
    # The GPU plugin (2026.4) makes one operation of a product and the gate behind it, which must not read a
    # loop: it asks for the shape of what the loop gives before the loop has run.
    return block.linear_out(y * tokens * gate), None


def _gates(lru: Any, x: Tensor, first: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the state stays, and what is added to it: section 2.4 of Griffin, arXiv 2402.19427.

    The `first` token of a text forgets what was before; what is none of the `tokens` changes nothing.
    """
    heads = x.reshape(-1, lru.num_attention_heads, lru.block_width).transpose(0, 1)

    def gate(weight: Tensor, bias: Tensor) -> Tensor:
        return torch.sigmoid((torch.bmm(heads, weight) + bias[:, None]).transpose(0, 1).reshape(x.shape))

    log = _RATE * gate(lru.recurrent_gate_weight, lru.recurrent_gate_bias) * softplus(lru.recurrent_param)
    log = torch.where(first, _FORGOTTEN, log)
    added = x * gate(lru.input_gate_weight, lru.input_gate_bias) * torch.sqrt(1 - torch.exp(2 * log))
    return torch.exp(log * tokens), added * tokens
