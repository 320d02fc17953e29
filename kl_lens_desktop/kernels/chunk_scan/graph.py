"""Mamba-2's scan as a graph whose cost for one token is that of the recurrence, for many that of matrices.

The last token always goes through the recurrence. Those before it go through the dual form of arXiv
2405.21060 (section 6: matrices inside chunks, states between them), so that time and memory grow with the
length of a prompt and not with its square. The dual form is in a branch that a call with one token does not
enter: even operations on empty tensors would cost it more than its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import CHUNK, Call
from kl_lens_desktop.kernels.chunk_scan.fast import limited_steps
from kl_lens_desktop.kernels.chunk_scan.paged import PagedScan
from kl_lens_desktop.kernels.parts.branch import behind_branch, branch, no_tokens
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.constants import scalar, vector
from kl_lens_desktop.kernels.parts.padding import kept
from kl_lens_desktop.kernels.parts.paged import chosen
from kl_lens_desktop.kernels.parts.states import KeptStates
from kl_lens_desktop.kernels.short_convolution.paged import paged_convolution
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions, Taps

_END = 2**31 - 1
_NAME = "dual_scan"


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
        rows: Tensor,
        not_later: Tensor,
        beams: Tensor,
        own: Tensor,
        batch: Tensor,
        one: Tensor,
        full: Tensor,
        mask: Tensor,
        paged: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        return torch.zeros_like(x)


class DualState(nn.Module):
    """The state (batch, heads, head size, state) after a `DualScan`, of which `y` is the output."""

    def forward(self, y: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(past)


def traced(
    call: Call,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Any:
    """In place of ``mamba2_chunk_scan``: see `chunk_scan.fast.scan`."""
    heads, head_size, groups, size = (int(n) for n in (*x.shape[2:], *B.shape[2:]))
    dt = limited_steps(dt, dt_bias, dt_softplus, dt_limit)
    past = initial_states
    if past is None:
        past = x.new_zeros(x.shape[0], heads, head_size, size)
    sizes = torch.tensor([heads, head_size, groups, size, int(call.pages)])
    skip = torch.zeros(heads) if D is None else D
    shared = *call.parts, call.attention_mask, call.paged
    y = call.stand_in(DualScan)(x, dt, A, B, C, skip, past, *shared, sizes)
    state = call.stand_in(DualState)(y, past)
    return (y, state) if return_final_states else y


def conversions(convolutions: Convolutions) -> dict[type[nn.Module], Builder]:
    """The stand-ins of this form, and what builds their operations."""
    scans = DualScans(convolutions)
    return {DualScan: scans.build, DualState: scans.states.find}


class _Scan:
    """One scan: its sizes, and what its parts share."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.heads, self.head_size, self.groups, self.size = sizes
        self.rows = self.heads * self.head_size

    def by_head(self, value: Any) -> Any:
        """(batch, groups, …) to (batch, heads or 1, …)."""
        if self.groups in (1, self.heads):
            return value
        group = np.arange(self.heads) * self.groups // self.heads
        return ops.gather(value, ops.constant(group), scalar(1))

    def nothing(self, *inputs: Any) -> list[ov.Node]:
        """No outputs for a batch, the last input; and one row in place of a state that is not read."""
        zeros = np.zeros((1, 1, self.size), np.float32)
        return [no_tokens(inputs[-1], self.rows), ops.constant(zeros)]

    def last(
        self, xbc: Sequence[Any], dt: Any, A: Any, D: Any, past: Any, batch: Any, one: Any
    ) -> tuple[ov.Node, ov.Node]:
        """The recurrence for the last token: its output (batch, one, channels), and the state after it.

        In the shape in which the CPU plugin's loop over the state is longest.
        """
        x, B, C = xbc
        heads, head_size, groups, size, rows = self.heads, self.head_size, self.groups, self.size, self.rows
        x = _reshaped(x, 0, heads, head_size)
        rates = ops.multiply(_reshaped(A, heads, 1), ops.constant(np.ones((1, head_size), np.float32)))
        dt = _reshaped(_rows(dt, vector(-1), vector(_END)), 0, heads, 1)
        decay = ops.exp(ops.multiply(dt, rates))
        inputs = ops.multiply(x, dt)
        if groups == 1:
            update = ops.multiply(_reshaped(inputs, 0, rows, 1), B)
        else:
            by_row = _reshaped(inputs, 0, heads, head_size, 1)
            update = ops.multiply(by_row, self.by_head(_reshaped(B, 0, groups, 1, size)))
            update = _reshaped(update, 0, rows, size)
        state = ops.add(ops.multiply(past, _reshaped(decay, 0, rows, 1)), update)
        if groups == 1:
            read = ops.matmul(state, C, False, True)
        else:
            seen = self.by_head(_reshaped(C, 0, groups, 1, size))
            read = ops.matmul(_reshaped(state, 0, heads, head_size, size), seen, False, True)
        y = ops.add(ops.multiply(x, D), _reshaped(read, 0, heads, head_size))
        return behind_branch(y, batch, one, [rows]), state

    def before(
        self, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, past: Any, parts: Sequence[Any]
    ) -> tuple[ov.Node, ov.Node]:
        """The dual form: outputs (batch, before, channels) and the state after them.

        `x`, `B` and `C` are (batch, chunks · CHUNK, channels) already, and whatever they hold behind the end
        is left out by steps of zero there.
        """
        length, chunks, rows, not_later = parts
        heads, head_size, size = self.heads, self.head_size, self.size
        until_now, up_to_it, itself = _orders(length)
        missing = ops.subtract(ops.multiply(chunks, vector(CHUNK)), length)
        ends = ops.concat([vector(0), missing, vector(0)], 0)
        dt = ops.pad(dt, vector(0, 0, 0), ends, "constant", ops.constant(np.float32(0)))
        dt = _reshaped(dt, 0, chunks, CHUNK, heads)  # (b, c, t, h)
        since = ops.matmul(until_now, ops.multiply(dt, A), False, False)
        # `since` is the log decay since the start of the chunk.
        since, dt = (_turned(value, 0, 3, 1, 2) for value in (since, dt))  # (b, h, c, t)
        # Every product as the plugins' kernels want it, without a transpose: time last, or first for B.
        x = _turned(_reshaped(x, 0, chunks, CHUNK, heads, head_size), 0, 3, 1, 4, 2)  # (b, h, c, p, t)
        b = _turned(_reshaped(B, 0, chunks, CHUNK, self.groups, size), 0, 3, 1, 2, 4)  # (b, g, c, t, n)
        c = _turned(_reshaped(C, 0, chunks, CHUNK, self.groups, size), 0, 3, 1, 4, 2)  # (b, g, c, n, t)
        seen = ops.multiply(ops.matmul(b, c, False, False), up_to_it)
        within = ops.matmul(x, self._weights(since, dt, seen, D, itself, chunks), False, False)
        starts, reached = self._states(x, since, dt, self.by_head(b), past, chunks, not_later)

        # In four dimensions, for the GPU plugin (2026.4) gives wrong results where it makes a factor or a sum
        # part of a product of five.
        flat = 0, -1, head_size, CHUNK
        across = _reshaped(ops.matmul(starts, self.by_head(c), False, False), *flat)
        across = ops.multiply(across, _reshaped(_decay(since), 0, -1, 1, CHUNK))
        y = _reshaped(ops.add(across, _reshaped(within, *flat)), 0, heads, chunks, head_size, CHUNK)
        y = _turned(y, 0, 2, 4, 1, 3)  # (b, c, t, h, p)
        y = _reshaped(y, 0, ops.multiply(chunks, vector(CHUNK)), self.rows)
        y = ops.gather(y, ops.slice(rows, vector(0), length, vector(1)), scalar(1))
        return y, _reshaped(reached, 0, self.rows, size)

    def _weights(self, since: Any, dt: Any, seen: Any, D: Any, itself: Any, chunks: Any) -> ov.Node:
        """What each token adds to each later output of its chunk and, through D too, to its own."""
        heads, groups = self.heads, self.groups
        gap = ops.subtract(_wider(since, -2), _wider(since, -1))
        weights = ops.multiply(_decay(gap), _wider(dt, -1))
        if groups in (1, heads):
            weights = ops.multiply(weights, seen)
        else:  # the two axes of tokens as one: the GPU plugin (2026.4) is wrong beyond five dimensions
            axes = 0, groups, heads // groups, chunks, CHUNK * CHUNK
            seen = _wider(_reshaped(seen, 0, groups, chunks, CHUNK * CHUNK), 2)
            weights = ops.multiply(_reshaped(weights, *axes), seen)
            weights = _reshaped(weights, 0, heads, chunks, CHUNK, CHUNK)
        return ops.add(weights, ops.multiply(_reshaped(D, heads, 1, 1, 1), itself))

    def _states(
        self, x: Any, since: Any, dt: Any, b: Any, past: Any, chunks: Any, not_later: Any
    ) -> tuple[ov.Node, ov.Node]:
        """The state before each chunk, and after all: what the stored one and the chunks before leave."""
        heads, head_size, size = self.heads, self.head_size, self.size
        total = ops.slice(since, vector(CHUNK - 1), vector(CHUNK), vector(1), vector(3))
        share = ops.multiply(_decay(ops.subtract(total, since)), dt)
        left = ops.matmul(ops.multiply(x, _wider(share, -2)), b, False, False)
        left = ops.concat([
            _reshaped(past, 0, heads, 1, head_size * size),
            _reshaped(left, 0, heads, chunks, head_size * size),
        ], 2)  # fmt: skip
        none = ops.constant(np.float32(0))
        total = ops.pad(total, vector(0, 0, 1, 0), vector(0, 0, 0, 0), "constant", none)
        until = ops.matmul(not_later, total, False, False)  # (b, h, c + 1, 1), log decay since the start
        spans = ops.multiply(_decay(ops.subtract(until, _turned(until, 0, 1, 3, 2))), not_later)
        starts, reached = (
            ops.matmul(ops.slice(spans, *bounds, vector(1), vector(2)), left, False, False)
            for bounds in ((vector(0), chunks), (chunks, vector(_END)))
        )
        return _reshaped(starts, 0, heads, chunks, head_size, size), reached


class DualScans:
    """The scans of one traced model, whose convolutions are `convolutions`."""

    def __init__(self, convolutions: Convolutions) -> None:
        self._convolutions = convolutions
        self.states = KeptStates(_NAME)
        self._kept: ov.Node | None = None

    def build(self, context: Any) -> list[ov.Output]:
        """The operations of a `DualScan`, for OpenVINO's converter."""
        (
            x,
            dt,
            A,
            B,
            C,
            D,
            held,
            length,
            chunks,
            rows,
            not_later,
            beams,
            own,
            batch,
            one,
            full,
            mask,
            paged,
        ) = (context.get_input(i) for i in range(18))
        *sizes, pages = (int(n) for n in context.get_values_from_const_input(18))
        scan = _Scan(sizes)
        stored = _reshaped(held, 0, scan.rows, scan.size).output(0)
        skip = _reshaped(D, scan.heads, -1)
        last, sources, made = self._made_from(x, B, C)

        def before(*inputs: Any) -> list[Any]:
            """Where rows only change places there is nothing to scan: the GPU plugin (2026.4) goes wrong on
            empty tensors, and the CPU plugin takes a third of the time of a token for them."""
            *made_from, dt, A, skip, stored, beams, length, chunks, rows, not_later, batch = inputs
            past = ops.gather(stored, ops.squeeze(beams, scalar(1)), scalar(0)).output(0)
            some = ops.greater(length, vector(0))
            given = [*made_from, dt, A, skip, past, length, chunks, rows, not_later, batch]
            y, reached = branch(some, given, several, scan.nothing)
            return [y, ops.select(some, reached, past)]

        def several(*inputs: Any) -> list[ov.Node]:
            *made_from, dt, A, skip, past, length, chunks, rows, not_later, _ = inputs
            x, B, C = made(made_from, rows, length)
            dt = _rows(dt, vector(0), length)
            return list(scan.before(x, dt, A, B, C, skip, past, (length, chunks, rows, not_later)))

        self._kept = self._kept or kept(mask, length)  # all layers read the same
        steps = ops.multiply(dt, self._kept)  # none where a row is padded, be it to its end
        given = [*sources, steps, A, skip, stored, beams, length, chunks, rows, not_later, batch]
        y, reached = branch(ops.greater(full, vector(0)), given, before, scan.nothing)
        past = ops.select(own, stored, reached)
        y_last, state = scan.last(last, steps, A, skip, past, batch, one)
        y, state = ops.concat([y, y_last], 1), _reshaped(state, 0, scan.heads, scan.head_size, scan.size)
        rows = ops.squeeze(beams, scalar(1)).output(0)
        if pages:
            past = ops.gather(held, rows, scalar(0))
            y, state = chosen(paged, self._paged(scan, (x, B, C), dt, A, D, past, rows), (y, state))
        by_head = _reshaped(y, 0, 0, scan.heads, scan.head_size)
        self.states.keep(by_head, state)
        return [by_head.output(0)]

    def _paged(
        self, scan: "_Scan", xbc: Sequence[Any], dt: Any, A: Any, D: Any, past: Any, beams: Any
    ) -> tuple[Any, Any]:
        """Outputs and state as the paged runtime knows them, of shares of one short convolution."""
        above = [place for place in map(self._above, xbc) if place is not None]
        split = ops.variadic_split(paged_convolution(above[0][1], beams), scalar(2), vector(*above[0][2]))
        x, B, C = (split.output(place[3]) for place in above)
        return PagedScan(scan.heads, scan.head_size, scan.groups, scan.size).build(x, dt, A, B, C, D, past)

    def _made_from(self, *values: Any) -> tuple[list[Any], list[Any], Callable[..., list[Any]]]:
        """The values' last tokens; what the others are made from; and how, inside a branch.

        Where all are shares of one short convolution, the tokens before the last pass it in the branch.
        """
        above = [self._above(value) for value in values]
        found = [place for place in above if place is not None]
        if len(found) < len(above):
            last = [_reshaped(_rows(value, vector(-1), vector(_END)), 0, 0, -1) for value in values]
            return last, list(values), _whole
        last_token, taps, sizes = found[0][:3]
        parts = ops.variadic_split(last_token, scalar(2), vector(*sizes))

        def convolved(sources: Sequence[Any], rows: Any, length: Any) -> list[Any]:
            split = ops.variadic_split(taps.before(sources, rows, length), scalar(2), vector(*sizes))
            return [split.output(place[3]) for place in found]

        return [parts.output(place[3]) for place in found], taps.inputs, convolved

    def _above(self, value: ov.Output) -> tuple[ov.Output, Taps, list[int], int] | None:
        """Where `value`, reshaped from a share of its channels, comes from a short convolution.

        The last token, what the others are made from, the sizes of the shares, and which one it is.
        """
        if value.get_node().get_type_name() == "Reshape":
            value = value.get_node().input_value(0)
        split = value.get_node()
        if split.get_type_name() != "VariadicSplit":
            return None
        place = self._convolutions.above(split.input_value(0))
        sizes = [int(out.get_partial_shape()[-1].get_length()) for out in split.outputs()]
        return None if place is None else (*place, sizes, value.get_index())


def _whole(values: Sequence[Any], rows: Any, _: Any) -> list[Any]:
    return [_reshaped(ops.gather(value, rows, scalar(1)), 0, 0, -1) for value in values]


def remove_views(graph: ov.Model) -> None:
    """Remove the reshapes after each scan that put its heads side by side again, in place."""
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "Reshape" and len(op.get_output_partial_shape(0)) == 3:
            by_head = op.input_value(0).get_node()
            if by_head.get_friendly_name().startswith(_NAME):
                op.output(0).replace(by_head.input_value(0))


def _reshaped(value: Any, *shape: Any) -> ov.Node:
    """`shape` of sizes, known or one-element tensors; 0 keeps a size."""
    if all(isinstance(size, int) for size in shape):
        return ops.reshape(value, vector(*shape), True)
    return ops.reshape(value, ops.concat([vector(n) if isinstance(n, int) else n for n in shape], 0), True)


def _orders(length: Any) -> tuple[ov.Node, ov.Node, ov.Node]:
    """For the tokens of a chunk (t, t): up to now from each row, up to it from each column, and itself.

    Made from the length, else every layer would hold the matrices as constants.
    """
    start = ops.squeeze(ops.multiply(length, vector(0)), scalar(0))
    order = ops.range(start, ops.add(start, scalar(CHUNK)), scalar(1), "i64")
    column, row = _wider(order, 1), _wider(order, 0)
    until_now, up_to_it, itself = (
        ops.convert(matrix, "f32")
        for matrix in (ops.less_equal(row, column), ops.less_equal(column, row), ops.equal(column, row))
    )
    return until_now, up_to_it, itself


def _decay(logarithm: Any) -> ov.Node:
    """Its exponential, neither over 1, where the past would grow, nor so small that products are denormal.

    The CPU takes a hundred times as long for those. What is left out is 1e-26 of what is kept.
    """
    return ops.exp(ops.clamp(logarithm, -60.0, 0.0))


def _rows(value: Any, start: Any, stop: Any) -> ov.Node:
    """Of the second axis."""
    return ops.slice(value, start, stop, vector(1), vector(1))


def _turned(value: Any, *order: int) -> ov.Node:
    return ops.transpose(value, vector(*order))


def _wider(value: Any, axis: int) -> ov.Node:
    return ops.unsqueeze(value, scalar(axis))
