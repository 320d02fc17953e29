"""RecurrentGemma's recurrent blocks over the cache, which its modelling code keeps no state of theirs in."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus
from transformers import PreTrainedModel

from kl_lens_desktop.kernels.call import Call

_RATE, _FORGOTTEN = -8.0, -1e4


@contextlib.contextmanager
def cached_blocks(model: PreTrainedModel, call: Call) -> Iterator[None]:
    """Let recurrent blocks keep their states in the cache while tracing: a prompt may come in pieces."""
    replaced = []
    for index, layer in enumerate(model.base_model.layers):
        if hasattr(layer.temporal_block, "rg_lru"):
            layer.temporal_block.forward = functools.partial(_block, layer.temporal_block, index, call)
            replaced.append(layer.temporal_block)
    try:
        yield
    finally:
        for block in replaced:
            del block.forward


def _block(
    block: Any,
    index: int,
    call: Call,
    hidden: Tensor,
    *,
    position_ids: Tensor,
    past_key_values: Any,
    **_: Any,
) -> tuple[Tensor, None]:
    gate = block.act_fn(block.linear_y(hidden))
    x = block.linear_x(hidden).transpose(1, 2)
    x = past_key_values.update_conv_state(x, index, conv_kernel_size=block.conv1d_width)
    x = call.form("short_convolution")(x, block.conv_1d.weight[:, 0], block.conv_1d.bias).transpose(1, 2)
    past = past_key_values.get_recurrent_state(index)
    tokens = call.tokens()
    a, u = _gates(block.rg_lru, x, position_ids[..., None] == 0, tokens)
    y, state = call.form("linear_recurrence")(a, u, past)
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
