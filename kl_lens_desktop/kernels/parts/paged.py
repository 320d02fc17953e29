"""One graph that is two: what runs where nothing changes it, and what OpenVINO's paged runtime makes of it.

`SDPAToPagedAttention` (2026.4), which `openvino_genai` applies by default, knows recurrences by forms that it
replaces by its own kernels. Where nothing replaces them they are slow. So both forms stand in the graph, and
a condition that every plugin finds constant chooses: the other form is gone before anything runs.

The pass removes `attention_mask` and `beam_idx`, and must find nothing that still reads them. It takes each
product with an expression of the mask for its other factor (`EliminateConvPaddingMaskGating`). So what it
does not replace reads both from such products only, and the condition is the size of one.
"""

from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.parts.branch import branch
from kl_lens_desktop.kernels.parts.constants import scalar, vector

_END = 2**31 - 1
_CONDITION = "kl_lens.is_paged"


class IsPaged(nn.Module):
    """Whether the paged runtime has changed the graph; only its shape is real."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(1, dtype=torch.bool)


class ForStates(nn.Module):
    """A mask (batch, tokens) and beams (batch) that the paged runtime can remove, side by side.

    The beams are the first column.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor, beams: Tensor) -> Tensor:
        return torch.cat([beams[:, None], attention_mask], 1)


def is_paged(context: Any) -> list[ov.Output]:
    """A stand-in for the condition, which transformations would else compute: see `settle`."""
    size = ops.gather(ops.shape_of(context.get_input(0)), vector(0), scalar(0))
    condition = ops.less(size, vector(0))
    condition.set_friendly_name(_CONDITION)
    return [condition.output(0)]


def settle(graph: ov.Model) -> None:
    """Let `IsPaged` be whether a product with no columns of the mask has columns, in place."""
    ids, mask = (graph.input(name) for name in ("input_ids", "attention_mask"))
    for op in graph.get_ops():
        if op.get_friendly_name() == _CONDITION:
            other = ops.reshape(ops.shape_of(ids), vector(1, 1, 2), False)
            columns = ops.gather(ops.shape_of(ops.multiply(other, _columns(mask, 0))), vector(1), scalar(0))
            op.output(0).replace(ops.greater(columns, vector(0)).output(0))
    graph.validate_nodes_and_infer_types()


def for_states(context: Any) -> list[ov.Output]:
    """The operations of `ForStates`, for OpenVINO's converter."""
    ids, mask, beams = (context.get_input(i) for i in range(3))
    first = ops.slice(ids, vector(0, 0), vector(1, 1), vector(1, 1), vector(0, 1))
    # Nothing that OpenVINO would know to be 1.
    one = ops.convert(ops.unsqueeze(ops.greater_equal(first, scalar(0)), scalar(2)), "i64")
    column = ops.add(ops.multiply(_columns(mask, 1), scalar(0)), ops.unsqueeze(beams, vector(1, 2)))
    both = ops.concat([ops.multiply(one, column), ops.multiply(one, _columns(mask, _END))], 1)
    return [ops.squeeze(both, scalar(2)).output(0)]


def chosen(paged: ov.Output, known: Sequence[Any], faster: Sequence[Any]) -> list[ov.Output]:
    """The values that the paged runtime replaces, where it has; else those that run as they are."""
    count = len(known)
    return branch(paged.get_node(), [*known, *faster], lambda *v: v[:count], lambda *v: v[count:])


def stored(value: ov.Output) -> ov.Output:
    """The state that `value` is, before its rows changed places and it took another shape."""
    while value.get_node().get_type_name() in ("Reshape", "Gather"):
        value = value.get_node().input_value(0)
    return value


def _columns(mask: Any, stop: int) -> ov.Node:
    """The first ones of a mask, (batch, columns, 1)."""
    return ops.unsqueeze(ops.slice(mask, vector(0), vector(stop), vector(1), vector(1)), scalar(2))
