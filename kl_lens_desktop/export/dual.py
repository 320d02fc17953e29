"""Mamba-2's scan as a graph whose cost for one token is that of the recurrence, for many that of matrices.

The last token always goes through the recurrence. Those before it go through the dual form of arXiv 2405.21060
(section 6: matrices inside chunks, states between them), so that time and memory grow with the length of a
prompt and not with its square. When a call brings one token, all tensors of the dual form are empty and a
plugin skips their operations: no branch, and one pass over the state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.export.convolution import last_and_before

CHUNK = 64  # tokens; the work inside chunks grows with it, the states between them shrink
_END = 2**31 - 1


class DualScan(nn.Module):
    """Stand-in for the scan of a model that is being traced; only its shape is real."""

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        past: Tensor,
        length: Tensor,
        chunks: Tensor,
        earlier: Tensor,
        between: Tensor,
        beams: Tensor,
        own: Tensor,
        batch: Tensor,
        full: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        return torch.zeros_like(x)


class DualState(nn.Module):
    """The state after a `DualScan`, of which `y` is the output."""

    def forward(self, y: Tensor, past: Tensor, sizes: Tensor) -> Tensor:
        return torch.zeros_like(past)


def dual_parts(input_ids: Tensor, beam_idx: Tensor) -> tuple[Tensor, ...]:
    """What all layers share.

    Returns
    -------
    tuple of Tensor
        The number of tokens before the last and of chunks they take, (1,) each; which chunks come before each
        chunk and before the last token, and the same as a mask to add, (chunks + 1, chunks) each; `beam_idx` as
        a column; which rows of the batch go on from their own stored state, (batch, 1, 1); the size of the
        batch; and 1 if some do not: if there are tokens before the last or a row takes another's place. Else
        the two matrices have no rows.
    """
    length = torch.as_tensor(input_ids.shape[1] - 1).reshape(1)
    chunks = (length + (CHUNK - 1)) // CHUNK
    kept = beam_idx == torch.arange(beam_idx.shape[0])
    full = torch.maximum(length.clamp(max=1), 1 - kept.long().min())
    earlier = torch.arange(chunks[0])[None] < torch.arange((chunks + full)[0])[:, None]
    between = torch.where(earlier, 0.0, -1e30)
    own = (kept & (length == 0))[:, None, None]
    batch = torch.as_tensor(beam_idx.shape[0]).reshape(1)
    return length, chunks, earlier.float(), between, beam_idx.long()[:, None], own, batch, full


class _Scan:
    """The sizes of one scan and the operations that its parts share."""

    def __init__(self, sizes: Sequence[int], length: ov.Output, chunks: ov.Output) -> None:
        self.heads, self.head_size, self.groups, self.size = sizes
        self.rows = self.heads * self.head_size
        self.length, self.chunks = length, chunks

    def by_head(self, value: Any) -> Any:
        """(batch, groups, …) to (batch, heads or 1, …)."""
        if self.groups in (1, self.heads):
            return value
        group = np.arange(self.heads) * self.groups // self.heads
        return ops.gather(value, ops.constant(group), _axis(1))

    def in_chunks(self, value: Any, *shape: int) -> ov.Node:
        """(batch, before, …) to (batch, chunks, CHUNK, …); what is added at the end is zero."""
        missing = ops.subtract(ops.multiply(self.chunks, _numbers(CHUNK)), self.length)
        ends = ops.concat([_numbers(0), missing, _numbers(*(0 for _ in shape))], 0)
        padded = ops.pad(value, _numbers(0, 0, *(0 for _ in shape)), ends, "constant", ops.constant(np.float32(0)))
        return _reshaped(padded, 0, self.chunks, CHUNK, *shape)


def dual_scan(context: Any) -> list[ov.Output]:
    """The operations of a `DualScan`, for OpenVINO's converter."""
    x, dt, A, B, C, D, stored, length, chunks, earlier, between, beams, own, batch, full = (
        context.get_input(i) for i in range(15)
    )
    scan = _Scan([int(n) for n in context.get_values_from_const_input(15)], length, chunks)
    heads, head_size, groups, size = scan.heads, scan.head_size, scan.groups, scan.size
    skip = _reshaped(D, heads, -1)
    x_last, x_before = last_and_before(x, length, (heads, head_size))
    b_last, b_before = last_and_before(B, length, (groups, size))
    c_last, c_before = last_and_before(C, length, (groups, size))
    dt_last, dt_before = last_and_before(dt, length, (heads,))

    # The past in the order of the beams. Gathering all of it costs a pass over it and is needed for tokens
    # before the last or when rows change places; else one head of it stands in, and is not read.
    count = ops.add(ops.multiply(full, _numbers(heads - 1)), _numbers(1))
    some_heads = ops.range(_axis(0), ops.squeeze(count, _axis(0)), _axis(1), "i64")
    places = ops.add(ops.multiply(beams, _axis(heads)), some_heads)
    past = ops.gather(_reshaped(stored, -1, head_size * size), places, _axis(0))  # (b, heads or 1, p·n)
    y_before, reached = _before_the_last(
        scan, x_before, dt_before, A, b_before, c_before, past, earlier, between
    )
    y_before = ops.add(ops.multiply(x_before, skip), y_before)

    # The last token: the recurrence itself, in the shape in which the CPU plugin's loop over it is longest.
    # Where all rows go on from what is stored, one row stands in for the state that the others reached.
    unread = _rows(_reshaped(c_last, 0, groups, size), _numbers(0), ops.subtract(_numbers(1), full))
    shape = ops.concat([batch, ops.multiply(full, _numbers(scan.rows)), _numbers(size)], 0)
    others = ops.concat([ops.reshape(reached, shape, False), unread], 1)
    rates = ops.multiply(_reshaped(A, heads, 1), ops.constant(np.ones((1, head_size), np.float32)))
    decay = ops.exp(ops.multiply(_reshaped(dt_last, 0, heads, 1), rates))
    inputs = ops.multiply(x_last, _reshaped(dt_last, 0, 1, heads, 1))
    if groups == 1:
        update = ops.multiply(_reshaped(inputs, 0, scan.rows, 1), _reshaped(b_last, 0, 1, size))
    else:
        written = scan.by_head(_reshaped(b_last, 0, groups, 1, size))
        by_row = ops.multiply(_reshaped(inputs, 0, heads, head_size, 1), written)
        update = _reshaped(by_row, 0, scan.rows, size)
    held = ops.select(own, _reshaped(stored, 0, scan.rows, size), others)
    state = ops.add(ops.multiply(held, _reshaped(decay, 0, scan.rows, 1)), update)
    if groups == 1:
        read = ops.matmul(state, _reshaped(c_last, 0, 1, size), False, True)
    else:
        seen = scan.by_head(_reshaped(c_last, 0, groups, 1, size))
        read = ops.matmul(_reshaped(state, 0, heads, head_size, size), seen, False, True)
    y_last = ops.add(ops.multiply(x_last, skip), _reshaped(read, 0, 1, heads, head_size))
    return [ops.concat([y_before, y_last], 1).output(0)]


def _before_the_last(
    scan: _Scan,
    x: ov.Node,
    dt: ov.Node,
    A: ov.Output,
    B: ov.Node,
    C: ov.Node,
    past: ov.Node,
    earlier: ov.Output,
    between: ov.Output,
) -> tuple[ov.Node, ov.Node]:
    """The outputs (batch, before, heads, head size) and the state after them; nothing runs if there are none."""
    heads, head_size, groups, size = scan.heads, scan.head_size, scan.groups, scan.size
    triangle = np.tril(np.ones((CHUNK, CHUNK), np.float32))
    steps = scan.in_chunks(dt, heads)  # (b, c, t, h)
    since = ops.matmul(ops.constant(triangle), ops.multiply(steps, A), False, False)
    since = _turned(since, 0, 3, 1, 2)  # (b, h, c, t), log decay since the start of the chunk
    inputs = ops.multiply(scan.in_chunks(x, heads, head_size), _wider(steps, -1))
    inputs = _turned(inputs, 0, 3, 1, 2, 4)  # (b, h, c, t, p)
    b, c = (_turned(scan.in_chunks(value, groups, size), 0, 3, 1, 2, 4) for value in (B, C))
    scores = scan.by_head(ops.matmul(c, b, False, True))
    b, c = scan.by_head(b), scan.by_head(c)  # (b, h or 1, c, t, n)

    # Inside the chunks. Masked before the exponential: above the diagonal the gap is positive.
    mask = ops.constant(np.where(triangle > 0, np.float32(0), np.float32(-1e30)))
    gap = ops.add(ops.subtract(_wider(since, -1), _wider(since, -2)), mask)
    within = ops.matmul(ops.multiply(ops.exp(gap), scores), inputs, False, False)

    # What each chunk leaves in the state, and what those before leave to each chunk and to the last token.
    total = ops.slice(since, _numbers(CHUNK - 1), _numbers(CHUNK), _numbers(1), _numbers(3))  # (b, h, c, 1)
    left = ops.multiply(inputs, _wider(ops.exp(ops.subtract(total, since)), -1))
    left = _reshaped(ops.matmul(left, b, True, False), 0, heads, scan.chunks, head_size * size)
    until = ops.matmul(earlier, total, False, False)  # (b, h, c + 1, 1), log decay since the start
    after = ops.slice(until, _numbers(1), _numbers(_END), _numbers(1), _numbers(2))
    spans = ops.exp(ops.add(ops.subtract(until, _turned(after, 0, 1, 3, 2)), between))  # (b, h, c + 1, c)
    states = ops.add(
        ops.multiply(_wider(past, 2), ops.exp(until)), ops.matmul(spans, left, False, False)
    )  # (b, h, c + 1, p·n)
    starts = ops.slice(states, _numbers(0), scan.chunks, _numbers(1), _numbers(2))
    reached = ops.slice(states, scan.chunks, _numbers(_END), _numbers(1), _numbers(2))

    starts = _reshaped(starts, 0, heads, scan.chunks, head_size, size)
    across = ops.multiply(ops.matmul(c, starts, False, True), _wider(ops.exp(since), -1))
    y = _turned(ops.add(across, within), 0, 2, 3, 1, 4)  # (b, c, t, h, p)
    y = _reshaped(y, 0, ops.multiply(scan.chunks, _numbers(CHUNK)), heads, head_size)
    return _rows(y, _numbers(0), scan.length), reached


def dual_state(context: Any) -> list[ov.Output]:
    """The operation of a `DualState`: a part of its scan."""
    y, sizes = context.get_input(0), context.get_values_from_const_input(2)
    heads, head_size, _, size = (int(n) for n in sizes)
    node = y.get_node()
    # Up from the outputs: the last one, without the skip, unreshaped; its product; the state it was read from.
    for index in (1, 1, 0, 0):
        node = node.input_value(index).get_node()
    if node.get_type_name() == "Reshape":
        node = node.input_value(0).get_node()
    return [_reshaped(node, 0, heads, head_size, size).output(0)]


def _numbers(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


def _axis(value: int) -> ov.Node:
    return ops.constant(np.int64(value))


def _reshaped(value: Any, *shape: Any) -> ov.Node:
    """`shape` of sizes, known or one-element tensors; 0 keeps a size."""
    if all(isinstance(size, int) for size in shape):
        return ops.reshape(value, _numbers(*shape), True)
    return ops.reshape(value, ops.concat([_numbers(n) if isinstance(n, int) else n for n in shape], 0), True)


def _rows(value: Any, start: Any, stop: Any) -> ov.Node:
    """Of the second axis."""
    return ops.slice(value, start, stop, _numbers(1), _numbers(1))


def _turned(value: Any, *order: int) -> ov.Node:
    return ops.transpose(value, _numbers(*order))


def _wider(value: Any, axis: int) -> ov.Node:
    return ops.unsqueeze(value, _axis(axis))
