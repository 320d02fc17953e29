"""The short causal convolution over a state and the new tokens, in the layout in which the tokens come.

A convolution operation would ask the CPU plugin for two transposes and two reorders around it. With a kernel of
three or four taps it is as many products instead, and for the last token one product with the kept window. The
last token and those before it stay apart (see `last_and_before`), so that a call with one token does nothing
for the others.
"""

from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

_NAME = "short_convolution"


class ShortConvolution(nn.Module):
    """Stand-in for the convolution of a model that is being traced; only its shape is real."""

    def forward(
        self, hidden: Tensor, window: Tensor, weight: Tensor, bias: Tensor, length: Tensor, silu: Tensor
    ) -> Tensor:
        return torch.zeros_like(hidden[..., window.shape[1] :])


def short_convolution(context: Any) -> list[ov.Output]:
    """The operations of a `ShortConvolution`, for OpenVINO's converter.

    Inputs: the stored window and the new tokens (batch, channels, taps + tokens), the window after them
    (batch, taps, channels), weight (channels, taps), bias (channels,), the number of tokens before the last,
    and whether SiLU follows.
    """
    hidden, window, weight, bias, length = (context.get_input(i) for i in range(5))
    silu = bool(context.get_values_from_const_input(5))
    turn = ops.constant(np.array([0, 2, 1]))
    one = ops.constant(np.array([1]))
    source = hidden.get_node()
    tokens = source.input_value(0) if source.get_type_name() == "Transpose" else ops.transpose(hidden, turn)
    taps = weight.get_partial_shape()[1].get_length()
    by_tap = ops.transpose(weight, ops.constant(np.array([1, 0])))  # (taps, channels)

    def activated(value: ov.Node) -> ov.Node:
        value = ops.add(value, bias)
        return ops.swish(value) if silu else value

    last = activated(ops.reduce_sum(ops.multiply(window, by_tap), one, True))
    before: Any = None
    for tap in range(taps):
        start = ops.constant(np.array([tap + 1]))
        shifted = ops.slice(tokens, start, ops.add(length, start), one, one)
        product = ops.multiply(shifted, ops.gather(by_tap, ops.constant(np.array([tap])), ops.constant(np.int64(0))))
        before = product if before is None else ops.add(product, before)
    joined = ops.concat([activated(before), last], 1)
    joined.set_friendly_name(f"{_NAME}.{joined.get_friendly_name()}")
    return [ops.transpose(joined, turn).output(0)]


def last_and_before(value: ov.Output, length: ov.Output, tail: tuple[int, ...]) -> tuple[ov.Node, ov.Node]:
    """The last token of `value` (batch, tokens, …) and those before it, each reshaped to (batch, tokens, *tail).

    What comes from a short convolution, reshaped and split by channels at most, is taken from where that has
    the two apart.
    """
    one = ops.constant(np.array([1]))
    node, split = value.get_node(), None
    if node.get_type_name() == "Reshape":
        node = node.input_value(0).get_node()
    above = value if node is value.get_node() else value.get_node().input_value(0)
    if node.get_type_name() == "VariadicSplit":
        split, node = above, node.input_value(0).get_node()
    joined = _convolved(node)
    if joined is None:
        last = ops.slice(value, ops.constant(np.array([-1])), ops.constant(np.array([2**31 - 1])), one, one)
        parts: list[Any] = [last, ops.slice(value, ops.constant(np.array([0])), length, one, one)]
    else:
        parts = [joined.input_value(1), joined.input_value(0)]
        if split is not None:
            sizes = split.get_node().input_value(2)
            parts = [
                ops.variadic_split(part, ops.constant(np.int64(2)), sizes).output(split.get_index())
                for part in parts
            ]
    last, before = parts
    return (
        ops.reshape(last, ops.constant(np.array([0, 1, *tail])), True),
        ops.reshape(before, ops.constant(np.array([0, 0, *tail])), True),
    )


def _convolved(node: ov.Node) -> ov.Node | None:
    """Up from (batch, tokens, channels): a transpose, cuts of the new tokens, a transpose, the joined tokens."""
    if node.get_type_name() != "Transpose":
        return None
    node = node.input_value(0).get_node()
    while node.get_type_name() == "Slice":
        node = node.input_value(0).get_node()
    joined = node.input_value(0).get_node() if node.get_type_name() == "Transpose" else node
    return joined if _is_joined(joined) else None


def remove_cuts(graph: ov.Model) -> None:
    """Remove the slices of the new tokens after each convolution, which gives no others, in place."""
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "Slice":
            source = op.input_value(0).get_node()
            if source.get_type_name() == "Transpose" and _is_joined(source.input_value(0).get_node()):
                op.output(0).replace(op.input_value(0))


def _is_joined(node: ov.Node) -> bool:
    return bool(node.get_friendly_name().startswith(_NAME))
