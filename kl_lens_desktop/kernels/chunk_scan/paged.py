"""Mamba-2's scan as `SelectiveSSMFusion` and `PagedSelectiveSSMFusion` know it (OpenVINO 2026.4).

Of opset13: the Squeeze of opset15 is another operation, and the loop would be left alone without a word.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from kl_lens_desktop.kernels.parts.constants import scalar, vector


@dataclass(frozen=True, slots=True)
class PagedScan:
    """The sizes of a scan."""

    heads: int
    head_size: int
    groups: int
    size: int

    def build(self, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, past: Any) -> tuple[ov.Node, ov.Output]:
        """The outputs (batch, tokens, channels), and the state after them.

        Parameters
        ----------
        x, dt, A, B, C, D
            (batch, tokens, channels), (batch, tokens, heads), (heads,), (batch, tokens, groups · size) twice,
            and (heads,).
        past
            The state before, (batch, heads, head size, size), as its rows were gathered.
        """
        channels = self.heads * self.head_size
        by_head = ops.reshape(x, vector(0, 0, self.heads, self.head_size), True)
        B, C = (ops.reshape(value, vector(0, 0, self.groups, self.size), True) for value in (B, C))
        y, state = self._loop(by_head, dt, A, B, C, past)
        wide = ops.multiply(
            ops.reshape(D, vector(self.heads, -1), False),
            ops.constant(np.ones((1, self.head_size), np.float32)),
        )
        # Over flat channels: with heads, there would be a reshape more on either side.
        skip = ops.multiply(x, ops.reshape(wide, vector(1, 1, channels), False))
        return ops.add(ops.reshape(y, vector(0, 0, channels), True), skip), state

    def _loop(self, x: Any, dt: Any, A: Any, B: Any, C: Any, past: Any) -> list[ov.Output]:
        heads, head_size, size, one = self.heads, self.head_size, self.size, scalar(1)
        decay = ops.reshape(ops.exp(ops.multiply(A, dt)), vector(0, 0, 0, 1, 1), True)
        inner = ops.multiply(ops.unsqueeze(dt, scalar(-1)), self._by_head(B))
        update = ops.multiply(ops.unsqueeze(inner, scalar(-2)), ops.unsqueeze(x, scalar(-1)))
        read = ops.unsqueeze(self._by_head(C), scalar(-2))
        count = ops.convert(ops.gather(ops.shape_of(dt), scalar(1), scalar(0)), "i32")
        buffer = ops.broadcast(ops.constant(np.float32(0)), ops.shape_of(x))

        step = ops.parameter([], np.int32)
        tails = (heads, 1, 1), (heads, head_size, size), (heads, 1, size)
        tokens = [ops.parameter([-1, 1, *tail], np.float32) for tail in tails]
        state = ops.parameter([-1, heads, head_size, size], np.float32)
        out = ops.parameter([-1, -1, heads, head_size], np.float32)
        decay_t, update_t, read_t = (ops.squeeze(token, one) for token in tokens)
        new = ops.add(ops.multiply(state, decay_t), update_t)
        y = ops.unsqueeze(ops.reduce_sum(ops.multiply(new, read_t), scalar(-1), False), one)
        written = ops.scatter_update(out, ops.unsqueeze(step, scalar(0)), y, one)
        loop = ops.loop(count, ops.constant(np.array(True)))
        loop.set_function(
            ov.Model([ops.constant(np.array([True])), new, written], [step, *tokens, state, out])
        )
        for token, whole in zip(tokens, (decay, update, read), strict=True):
            loop.set_sliced_input(token, whole.output(0), 0, 1, 1, -1, 1)
        loop.set_merged_input(state, past.output(0), new.output(0))
        loop.set_merged_input(out, buffer.output(0), written.output(0))
        loop.set_special_body_ports([0, 0])
        loop.get_iter_value(written.output(0), -1)
        loop.get_iter_value(new.output(0), -1)
        return list(loop.outputs())

    def _by_head(self, value: Any) -> ov.Node:
        """(batch, tokens, groups, size) to (batch, tokens, heads, size)."""
        copies = ops.tile(ops.unsqueeze(value, scalar(3)), vector(1, 1, 1, self.heads // self.groups, 1))
        return ops.reshape(copies, vector(0, 0, self.heads, self.size), True)
