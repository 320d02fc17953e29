"""Mamba-2's scan as a graph whose cost for one token is that of the recurrence, for many that of matrices.

The last token always goes through the recurrence, those before it through the dual form of arXiv 2405.21060
(see `model.scan`). When a call brings one token, all tensors of the dual form are empty and a plugin skips
their operations: no branch, and one pass over the state.
"""

from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn


class DualScan(nn.Module):
    """Stand-in for the scan of a model that is being traced; only its shape is real."""

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        past: Tensor,
        parts: Tensor,
        mask: Tensor,
        beam_idx: Tensor,
        kept: Tensor,
        moved: Tensor,
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
        The two lengths, before the last token and one; the causal mask to add; `beam_idx`; which rows keep
        their own past (batch, 1, 1); and 1 if any row takes another's.
    """
    before = input_ids.shape[1] - 1
    position = torch.arange(before)
    mask = torch.where(position[None] <= position[:, None], 0.0, -1e30)
    lengths = torch.stack([torch.as_tensor(before), torch.ones((), dtype=torch.long)])
    kept = beam_idx == torch.arange(beam_idx.shape[0])
    return lengths, mask, beam_idx, kept[:, None, None], 1 - kept.long().min()


def dual_scan(context: Any) -> list[ov.Output]:
    """The operations of a `DualScan`, for OpenVINO's converter."""
    x, dt, A, B, C, stored, parts, mask, beam_idx, kept, moved = (context.get_input(i) for i in range(11))
    heads, head_size, groups, size = (int(n) for n in context.get_values_from_const_input(11))
    token, last, second_last = (ops.constant(np.int64(n)) for n in (1, -1, -2))
    spread, several = groups not in (1, heads), groups > 1
    head_group = ops.constant(np.arange(heads) * groups // heads)

    def parted(value: ov.Node) -> tuple[ov.Output, ov.Output]:
        split = ops.variadic_split(value, token, parts)
        return split.output(0), split.output(1)

    def by_head(value: ov.Output) -> ov.Node:
        """(b, t, g, n) to (b, heads or 1, t, n)."""
        turned = ops.transpose(value, ops.constant(np.array([0, 2, 1, 3])))
        return ops.gather(turned, head_group, token) if spread else turned

    log_decay = ops.cum_sum(ops.multiply(dt, A), token)  # since the start, (b, t, h)
    inputs = ops.multiply(x, ops.unsqueeze(dt, last))
    u_before, u_last = parted(inputs)
    b_before, b_last = parted(B)
    c_before, c_last = parted(C)
    s_before, s_last = parted(log_decay)

    first, none = ops.constant(np.int64(0)), ops.constant(np.array([0]))
    unit = ops.constant(np.array([1]))
    some = ops.minimum(ops.gather(parts, first, first), token)  # 1 if there are tokens before the last

    # Rows of the state in the order of the beams. Gathering all of it costs a pass over it and is needed for
    # tokens before the last or when rows change places; else one head of it stands in, and is not read.
    needed = ops.maximum(some, moved)
    count = ops.add(ops.multiply(needed, ops.constant(np.int64(heads - 1))), token)
    # Not a Slice, for which the CPU plugin would keep the whole state transposed.
    some_heads = ops.gather(stored, ops.range(first, count, token, "i64"), token)
    past = ops.gather(some_heads, beam_idx, first)

    # The tokens before the last: nothing of this runs when there are none.
    u = ops.transpose(u_before, ops.constant(np.array([0, 2, 1, 3])))  # (b, h, t, p)
    b, c = by_head(b_before), by_head(c_before)
    s = ops.transpose(s_before, ops.constant(np.array([0, 2, 1])))  # (b, h, t)
    gap = ops.subtract(ops.unsqueeze(s, last), ops.unsqueeze(s, second_last))
    weights = ops.multiply(ops.exp(ops.add(gap, mask)), ops.matmul(c, b, False, True))
    within = ops.matmul(weights, u, False, False)
    across = ops.multiply(ops.matmul(c, past, False, True), ops.unsqueeze(ops.exp(s), last))
    y_before = ops.transpose(ops.add(within, across), ops.constant(np.array([0, 2, 1, 3])))
    s_end = ops.reshape(s_last, ops.constant(np.array([0, heads, 1])), True)
    remaining = ops.unsqueeze(ops.exp(ops.subtract(s_end, s)), last)
    # With no tokens the product is zeros of one row and one head, which broadcast, not a state of zeros.
    spans = ops.multiply(some, ops.constant(np.array([heads - 1, head_size - 1])))
    start, step, axes = (ops.constant(np.array(n)) for n in ([0, 0], [1, 1], [1, 3]))
    ends = ops.add(spans, step)
    weighted = ops.slice(ops.multiply(u, remaining), start, ends, step, axes)
    written = ops.slice(b, none, ops.gather(ends, none, first), unit, unit) if several else b
    gathered = ops.matmul(weighted, written, True, False)

    # The last token: the recurrence itself. Each product in the shape in which the CPU plugin's loop over
    # it is longest: two to five times faster than with four axes.
    def shaped(value: Any, *shape: int) -> ov.Node:
        return ops.reshape(value, ops.constant(np.array(shape)), True)

    rows = heads * head_size
    # The exponential before the reshape: right before the product the plugin would take it of every element.
    decay = shaped(ops.exp(s_last), 0, heads, 1)
    held, other = shaped(stored, 0, heads, -1), shaped(past, 0, -1, head_size * size)
    own = ops.select(kept, held, other)
    decayed = ops.multiply(own, decay)
    flat_decayed = shaped(decayed, 0, rows, -1)
    if several:
        product = ops.multiply(shaped(u_last, 0, heads, -1, 1), by_head(b_last))
        update = shaped(product, 0, rows, -1)
    else:
        product = update = ops.multiply(shaped(u_last, 0, rows, 1), shaped(b_last, 0, 1, -1))
    earlier = shaped(gathered, 0, -1, size)
    added = ops.add(update, flat_decayed)
    flat = ops.add(added, earlier)
    state = shaped(flat, 0, heads, head_size, -1)
    if several:
        read = ops.matmul(state, by_head(c_last), False, True)
    else:
        read = ops.matmul(flat, shaped(c_last, 0, 1, -1), False, True)
    y_last = shaped(read, 0, 1, heads, head_size)
    y = ops.concat([y_before, y_last], 1)
    return [y.output(0)]


def dual_state(context: Any) -> list[ov.Output]:
    """The operation of a `DualState`: a part of its scan."""
    y, sizes = context.get_input(0), context.get_values_from_const_input(2)
    read = y.get_node().input_value(1).get_node().input_value(0).get_node()
    heads, head_size, _, size = (int(n) for n in sizes)
    state = ops.reshape(read.input_value(0), ops.constant(np.array([0, heads, head_size, size])), True)
    return [state.output(0)]
