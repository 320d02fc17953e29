"""One graph that is two: what runs where nothing changes it, and what OpenVINO's paged runtime makes of it.

`SDPAToPagedAttention` (2026.4), which `openvino_genai` applies by default, knows a recurrence by one loop,
which it replaces by its own kernel. Where nothing replaces it, that loop is slow. So it stands in the graph
with no turns, and hands on what a faster form computed, as the value that its outputs start from. What
replaces the loop does not read that value, and with it the faster form is gone. What only the loop reads is
behind a condition that every plugin finds constant, and so is gone where nothing replaces the loop.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.parts.branch import branch
from kl_lens_desktop.kernels.parts.constants import scalar, vector

_CONDITION, _HELD, _EMPTIED = "kl_lens.is_paged", "kl_lens.held", "kl_lens.emptied"


class IsPaged(nn.Module):
    """Whether the paged runtime has changed the graph; only its shape is real."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(1, dtype=torch.bool)


def is_paged(context: Any) -> list[ov.Output]:
    """A stand-in for the condition: see `settle`."""
    size = ops.gather(ops.shape_of(context.get_input(0)), vector(0), scalar(0))
    condition = ops.less(size, vector(0))
    condition.set_friendly_name(_CONDITION)
    return [condition.output(0)]


def zero_unless_paged(paged: ov.Output, value: Any, shape: Sequence[int]) -> ov.Output:
    """`value` with the paged runtime, else zeros of `shape`."""
    (chosen,) = branch(
        paged.get_node(), [value], lambda given: [given], lambda _: [ops.constant(np.zeros(shape, np.float32))]
    )
    return chosen


def emptied(node: ov.Node) -> ov.Node:
    """`node`, whose second input `settle` replaces by zeros."""
    node.set_friendly_name(f"{_EMPTIED}.{node.get_friendly_name()}")
    return node


def held(y: ov.Output, state: ov.Output) -> ov.Output:
    """`y`, until `settle` as if made of `state` too: transformations remove outputs that nobody reads."""
    both = ops.add(y, ops.reduce_sum(state, vector(0, 1, 2, 3), False))
    both.set_friendly_name(f"{_HELD}.{both.get_friendly_name()}")
    return both.output(0)


def settle(graph: ov.Model) -> None:
    """Finish a traced graph, in place: earlier, transformations would remove what only the paged runtime needs.

    The condition becomes whether a product with no columns of the attention mask has columns.
    There is none, but for the paged runtime's pass that takes such products for their other factor
    (`EliminateConvPaddingMaskGating`).
    """
    nodes = graph.get_ops()
    for op in nodes:
        if op.get_friendly_name() == _CONDITION:
            op.output(0).replace(_condition(graph.input("input_ids"), graph.input("attention_mask")))
        elif op.get_friendly_name().startswith(_HELD):
            op.output(0).replace(op.input_value(0))
        elif op.get_friendly_name().startswith(_EMPTIED):
            none = _no_rows() if op.get_type_name() == "Gather" else vector(*[0] * op.get_input_shape(1)[0])
            op.input(1).replace_source_output(none.output(0))
    graph.validate_nodes_and_infer_types()


def _no_rows() -> ov.Node:
    """Of which OpenVINO does not know that there are none as long as it infers the paged runtime's shapes.

    It does not compute sines of this type. Plugins compute in another, and find a constant.
    """
    none = ops.convert(ops.sin(ops.constant(np.float64(0))), "i64")
    return ops.range(scalar(0), none, scalar(1), "i64")


def _condition(ids: ov.Output, mask: ov.Output) -> ov.Output:
    no_columns = ops.slice(mask, vector(0), vector(0), vector(1), vector(1))
    other = ops.reshape(ops.convert(ops.shape_of(ids), "f32"), vector(1, 1, 2), False)
    gated = ops.multiply(other, ops.convert(ops.unsqueeze(no_columns, scalar(2)), "f32"))
    columns = ops.gather(ops.shape_of(gated), vector(1), scalar(0))
    return ops.greater(columns, vector(0)).output(0)
