"""The short causal convolution over a state and the new tokens, in the layout in which the tokens come.

A convolution operation would ask the CPU plugin for two transposes and two reorders around it. With a kernel
of three or four taps it is as many products instead, and for the last token one product with the kept window.
The last token and those before it stay apart, so that a call with one token does nothing for the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from kl_lens_desktop.kernels.parts.branch import branch, no_tokens, with_last
from kl_lens_desktop.kernels.parts.layout import CHANNELS_FIRST, tokens_first
from kl_lens_desktop.kernels.parts.padding import taken
from kl_lens_desktop.kernels.parts.paged import chosen
from kl_lens_desktop.kernels.short_convolution.paged import paged_convolution

_NAME = "short_convolution"


@dataclass(frozen=True, slots=True)
class Taps:
    """What the tokens before the last are made from.

    Attributes
    ----------
    tokens : ov.Output
        (batch, taps + new, channels): the window before this call, and the new tokens.
    weight, bias : ov.Output
        (taps, channels) and (channels,).
    order : ov.Output
        Where each of `tokens` is found once padding stands before the window: `padding.Order`.
    silu : bool
    """

    tokens: ov.Output
    weight: ov.Output
    bias: ov.Output
    order: ov.Output
    silu: bool

    @property
    def inputs(self) -> list[ov.Output]:
        return [self.tokens, self.weight, self.bias, self.order]

    def before(self, inputs: Sequence[Any], rows: Any, length: Any) -> ov.Node:
        """The convolution of the new tokens at `rows`, (batch, rows, channels).

        By gathering them: the CPU plugin's slice takes three times as long, and in bf16 another layout.
        """
        tokens, weight, bias, order = inputs
        first, second = (ops.constant(np.int64(axis)) for axis in (0, 1))
        total: Any = None
        # An index that is known at run time only, else every row would be stored as a constant of its own.
        nought = ops.multiply(length, ops.constant(np.array([0])))
        for tap in range(self.weight.get_partial_shape()[0].get_length()):
            places = ops.gather(order, ops.add(rows, ops.constant(np.array([tap + 1]))), second)
            shifted = taken(tokens, places)
            row = ops.gather(weight, ops.add(nought, ops.constant(np.array([tap]))), first)
            product = ops.multiply(shifted, row)
            total = product if total is None else ops.add(product, total)
        return self.activated(total, bias)

    def activated(self, value: Any, bias: Any) -> ov.Node:
        value = ops.add(value, bias)
        return ops.swish(value) if self.silu else value


class Convolutions:
    """The convolutions of one traced model, found again by what they give."""

    def __init__(self) -> None:
        self._known: dict[str, Taps] = {}

    def build(self, context: Any) -> list[ov.Output]:
        """The operations of a `ShortConvolution`, for OpenVINO's converter."""
        hidden, window, weight, bias, order, length, batch, one, beams, paged = (
            context.get_input(i) for i in range(10)
        )
        by_tap = ops.transpose(weight, ops.constant(np.array([1, 0]))).output(0)
        silu, alone = (bool(context.get_values_from_const_input(i)) for i in (10, 11))
        taps = Taps(tokens_first(hidden), by_tap, bias, order, silu)
        channels = weight.get_partial_shape()[0].get_length()

        def before(*inputs: Any) -> list[ov.Node]:
            *made_from, length, _ = inputs
            start, step = (ops.constant(np.int64(n)) for n in (0, 1))
            rows = ops.range(start, ops.squeeze(length, start), step, "i64")
            return [taps.before(made_from, rows, length)]

        def nothing(*inputs: Any) -> list[ov.Node]:
            return [no_tokens(inputs[-1], channels)]

        some = ops.greater(length, ops.constant(np.array([0])))
        (others,) = branch(some, [*taps.inputs, length, batch], before, nothing)
        summed = ops.reduce_sum(ops.multiply(window, by_tap), ops.constant(np.array([1])), True)
        joined = with_last(others, taps.activated(summed, bias), batch, one, [channels])
        joined.set_friendly_name(f"{_NAME}.{len(self._known)}")
        self._known[joined.get_friendly_name()] = taps
        if alone:
            (either,) = chosen(paged, [paged_convolution(taps, beams)], [joined])
            either.get_node().set_friendly_name(f"{_NAME}.paged.{len(self._known)}")
            return [ops.transpose(either, ops.constant(CHANNELS_FIRST)).output(0)]
        return [ops.transpose(joined, ops.constant(CHANNELS_FIRST)).output(0)]

    def above(self, value: ov.Output) -> tuple[ov.Output, Taps] | None:
        """Of the tokens that `value` repeats, the last, (batch, 1, channels), and what the others come from.

        Between them are a transpose, cuts of the new tokens that take nothing away, and a transpose back.
        """
        node = value.get_node()
        if node.get_type_name() != "Transpose":
            return None
        node = node.input_value(0).get_node()
        while node.get_type_name() == "Slice":
            node = node.input_value(0).get_node()
        if node.get_type_name() == "Transpose":
            node = node.input_value(0).get_node()
        taps = self._known.get(node.get_friendly_name())
        # The last token, before it passes through what `with_last` adds.
        return None if taps is None else (node.input_value(1).get_node().input_value(0), taps)


def remove_cuts(graph: ov.Model) -> None:
    """Remove the slices of the new tokens after each convolution, which gives no others, in place."""
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "Slice":
            source = op.input_value(0).get_node()
            if source.get_type_name() == "Transpose":
                source = source.input_value(0).get_node()
                if source.get_friendly_name().startswith(_NAME):
                    op.output(0).replace(op.input_value(0))
