"""Padding before the tokens of a call, which recurrent layers must pass by as if it were not there.

A row of a batch is padded where `attention_mask` is 0 among the tokens of the call, always before its own
tokens. Attention masks it; a scan must not step there, and a short convolution must not see it. What that
takes is found once for all layers, in a branch that a call with one token does not enter: it is no padding.
"""

from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.parts.branch import branch
from kl_lens_desktop.kernels.parts.constants import scalar

_END = 2**31 - 1


class PaddedOrder(nn.Module):
    """Where each of (batch, window + tokens) is found once padding stands before the window.

    So a convolution that reads in this order sees the window right before a row's first token. Only the
    shape is real in a model that is being traced; `window` is its size.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor, window: Tensor) -> Tensor:
        return torch.zeros(input_ids.shape[0], int(window) + input_ids.shape[1], dtype=torch.long)


class TokensAt(nn.Module):
    """Of `tokens` (batch, tokens, channels) those at `places` (batch, count)."""

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        return torch.zeros(*places.shape, tokens.shape[2])


def converted_order(context: Any) -> list[ov.Output]:
    """The operations of a `PaddedOrder`, for OpenVINO's converter."""
    ids, mask = context.get_input(0), context.get_input(1)
    window = int(context.get_values_from_const_input(2))
    shape = ops.shape_of(ids, output_type="i64")
    batch, tokens = (ops.gather(shape, ops.constant([axis]), scalar(0)) for axis in range(2))

    def several(mask: Any, batch: Any, tokens: Any) -> list[ov.Node]:
        one = ops.constant([1])
        start = ops.subtract(ops.constant([0]), tokens)
        own = ops.slice(mask, start, ops.constant([_END]), one, one)
        missing = ops.subtract(tokens, ops.reduce_sum(own, one, True))
        count = ops.add(ops.squeeze(tokens, scalar(0)), ops.constant(window))
        place = ops.unsqueeze(ops.range(scalar(0), count, scalar(1), "i64"), scalar(0))
        behind = ops.maximum(ops.subtract(place, missing), scalar(0))
        padded = ops.less(place, ops.add(missing, scalar(window)))
        return [ops.select(padded, behind, place)]

    def one(mask: Any, batch: Any, tokens: Any) -> list[ov.Node]:
        places = ops.constant(np.arange(window + 1, dtype=np.int64)[None])
        shape = ops.concat([batch, ops.constant([window + 1])], 0)
        return [ops.broadcast(places, shape)]

    return branch(ops.greater(tokens, ops.constant([1])), [mask, batch, tokens], several, one)


def kept(mask: Any, length: Any) -> ov.Node:
    """1 for tokens and 0 for padding in a call of `length` tokens and a last one, (batch, length + 1, 1)."""
    start, stop = ops.subtract(ops.constant([-1]), length), ops.constant([_END])
    tokens = ops.slice(mask, start, stop, ops.constant([1]), ops.constant([1]))
    return ops.unsqueeze(ops.convert(tokens, "f32"), scalar(2))


def before_last(mask: Any, length: Any) -> ov.Node:
    """As `kept`, and 0 for the last token: with it a loop over all tokens leaves the state before it.

    Slices that end before the last token would do, and what is to be masked could come from anywhere, but for
    the GPU plugin (2026.4). Where a loop over such slices has one turn it writes past the end of its memory,
    and what a loop reads right from outside its branch it reads from the call before, if that had as many
    tokens.
    """
    place = ops.range(scalar(0), ops.add(ops.squeeze(length, scalar(0)), scalar(1)), scalar(1), "i64")
    before = ops.unsqueeze(ops.convert(ops.less(place, length), "f32"), scalar(1))
    return ops.multiply(kept(mask, length), before)


def converted_taken(context: Any) -> list[ov.Output]:
    """The operation of a `TokensAt`."""
    return [taken(context.get_input(0), context.get_input(1)).output(0)]


def taken(tokens: Any, places: Any) -> ov.Node:
    """Of `tokens` (batch, tokens, channels) those at `places` (batch, count)."""
    return ops.gather(tokens, places, scalar(1), 1)
