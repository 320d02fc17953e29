"""Mamba-2's convolution and scan as OpenVINO's paged runtime knows them (2026.4).

They become its `PagedCausalConv1D` and `PagedSelectiveSSM`. Of opset13, for the Squeeze of opset15 is another
operation, and the loop would be left alone without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from kl_lens_desktop.kernels.parts.constants import scalar, vector
from kl_lens_desktop.kernels.parts.paged import emptied, held, zero_unless_paged
from kl_lens_desktop.kernels.short_convolution.taps import Taps

_END = 2**31 - 1


class Shares(NamedTuple):
    """Of the channels of a short convolution: their sizes, and which of them x, B and C are."""

    taps: Taps
    sizes: Sequence[int]
    places: Sequence[int]


@dataclass(frozen=True, slots=True)
class PagedScan:
    """The sizes of a scan; whether the paged runtime has changed the graph, and the rows of states it reads."""

    heads: int
    head_size: int
    groups: int
    size: int
    paged: ov.Output
    beams: ov.Output

    def build(self, faster: Any, shares: Shares, dt: Any, A: Any, D: Any, stored: ov.Output) -> ov.Node:
        """`faster` (batch, tokens, heads, head size), but with the paged runtime what its kernels compute.

        Parameters
        ----------
        shares : Shares
        dt, A, D : ov.Output
            Steps (batch, tokens, heads), and (heads,) twice.
        stored : ov.Output
            The state before the call, (batch, heads, head size, size).
        """
        channels = self.heads * self.head_size
        split = ops.variadic_split(self._convolved(shares.taps), scalar(2), vector(*shares.sizes))
        x, B, C = (split.output(place) for place in shares.places)
        skip = ops.multiply(x, self._by_channel(D))
        by_head, by_group = (self.heads, self.head_size), (self.groups, self.size)
        x = ops.reshape(x, vector(0, 0, *by_head), True)
        B, C = (ops.reshape(value, vector(0, 0, *by_group), True) for value in (B, C))
        past = emptied(ops.gather(stored, ops.squeeze(self.beams, scalar(1)), scalar(0)))
        y = self._loop(x, dt, A, B, C, past, faster)
        flat = ops.reshape(y, vector(0, 0, channels), True)
        y = ops.add(flat, zero_unless_paged(self.paged, skip, (1, 1, channels)))
        return ops.reshape(y, vector(0, 0, *by_head), True)

    def _convolved(self, taps: Taps) -> ov.Node:
        """The convolution of the new tokens, (batch, tokens, channels).

        Tokens come first again before the bias: the CPU plugin's loop would else be of one element.
        """
        past, new = taps.tokens.get_node().input_values()
        count, channels = (n.get_length() for n in taps.weight.get_partial_shape())
        window = ops.gather(_source(past), ops.squeeze(self.beams, scalar(1)), scalar(0))
        weight = ops.reshape(ops.transpose(taps.weight, vector(1, 0)), vector(channels, 1, 1, count), False)
        both = ops.concat([window, ops.transpose(new, vector(0, 2, 1))], -1)
        y = ops.group_convolution(both, weight, [1], [0], [0], [1])
        tokens = ops.gather(ops.shape_of(new), vector(1), scalar(0))
        y = ops.slice(y, ops.multiply(tokens, vector(-1)), vector(_END), vector(1), vector(2))
        return taps.activated(ops.transpose(y, vector(0, 2, 1)), taps.bias)

    def _by_channel(self, D: Any) -> ov.Node:
        ones = ops.constant(np.ones((1, self.head_size), np.float32))
        wide = ops.multiply(ops.reshape(D, vector(self.heads, -1), False), ones)
        return ops.reshape(wide, vector(1, 1, self.heads * self.head_size), False)

    def _loop(self, x: Any, dt: Any, A: Any, B: Any, C: Any, past: Any, faster: Any) -> ov.Output:
        """The loop that `SelectiveSSMFusion` knows, without a turn: `faster`."""
        heads, head_size, size, one = self.heads, self.head_size, self.size, scalar(1)
        decay = ops.reshape(ops.exp(ops.multiply(A, dt)), vector(0, 0, 0, 1, 1), True)
        inner = ops.multiply(ops.unsqueeze(dt, scalar(-1)), self._by_head(B))
        update = ops.multiply(ops.unsqueeze(inner, scalar(-2)), ops.unsqueeze(x, scalar(-1)))
        read = ops.unsqueeze(self._by_head(C), scalar(-2))

        step = ops.parameter([], np.int32)
        tails = (heads, 1, 1), (heads, head_size, size), (heads, 1, size)
        tokens = [ops.parameter([-1, 1, *tail], np.float32) for tail in tails]
        state = ops.parameter([-1, heads, head_size, size], np.float32)
        out = ops.parameter([-1, -1, heads, head_size], np.float32)
        decay_t, update_t, read_t = (ops.squeeze(token, one) for token in tokens)
        new = ops.add(ops.multiply(state, decay_t), update_t)
        y = ops.unsqueeze(ops.reduce_sum(ops.multiply(new, read_t), scalar(-1), False), one)
        written = ops.scatter_update(out, ops.unsqueeze(step, scalar(0)), y, one)
        loop = ops.loop(ops.constant(np.int32(0)), ops.constant(np.array(True)))
        loop.set_function(ov.Model([ops.constant(np.array([True])), new, written], [step, *tokens, state, out]))
        for token, whole in zip(tokens, (decay, update, read), strict=True):
            loop.set_sliced_input(token, whole.output(0), 0, 1, 1, -1, 1)
        loop.set_merged_input(state, past.output(0), new.output(0))
        loop.set_merged_input(out, faster.output(0), written.output(0))
        loop.set_special_body_ports([0, 0])
        loop.get_iter_value(written.output(0), -1)
        loop.get_iter_value(new.output(0), -1)
        return held(*loop.outputs())

    def _by_head(self, value: Any) -> ov.Node:
        """(batch, tokens, groups, size) to (batch, tokens, heads, size)."""
        copies = ops.tile(ops.unsqueeze(value, scalar(3)), vector(1, 1, 1, self.heads // self.groups, 1))
        return ops.reshape(emptied(copies), vector(0, 0, self.heads, self.size), True)


def _source(value: ov.Output) -> ov.Output:
    """The stored state that `value` is, in another order or shape."""
    while value.get_node().get_type_name() in ("Reshape", "Gather"):
        value = value.get_node().input_value(0)
    return value
