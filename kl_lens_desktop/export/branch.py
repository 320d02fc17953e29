"""An `If` of OpenVINO from two functions of the same inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

Body = Callable[..., Sequence[Any]]


def branch(condition: ov.Node, inputs: Sequence[Any], then: Body, otherwise: Body) -> list[ov.Output]:
    """What `then` gives where `condition` holds, else what `otherwise` gives; only one of them is run.

    Parameters
    ----------
    condition : ov.Node
        Boolean, of one element.
    inputs : sequence of ov.Output or ov.Node
        What both functions are called with.
    then, otherwise : callable
        From nodes to as many outputs, of the same types.
    """
    sources = [value if isinstance(value, ov.Output) else value.output(0) for value in inputs]
    node = ops.if_op(condition.output(0))  # 2026.4's binding loses the node itself
    results = []
    parameters = []
    for body, setter in ((then, node.set_then_body), (otherwise, node.set_else_body)):
        given = [ops.parameter(s.get_partial_shape(), s.get_element_type()) for s in sources]
        outputs = [ops.result(output) for output in body(*given)]
        used = [g for g in given if g.output(0).get_target_inputs()]
        setter(ov.Model(outputs, used))
        parameters.append([g if g in used else None for g in given])
        results.append(outputs)
    for source, *both in zip(sources, *parameters, strict=True):
        if any(parameter is not None for parameter in both):
            node.set_input(source, *both)
    return [node.set_output(*pair) for pair in zip(*results, strict=True)]


def no_tokens(batch: Any, channels: int) -> ov.Node:
    """What a branch gives where there are no tokens before the last: (batch, 0, channels)."""
    sizes = ops.concat([batch, ops.constant(np.array([0, channels], np.int64))], 0)
    return ops.broadcast(ops.constant(np.float32(0)), sizes)


def with_last(before: Any, last: Any, batch: Any, one: Any, tail: Sequence[int]) -> ov.Node:
    """The tokens of a branch, (batch, before, *tail), and the last one, (batch, 1, *tail), from outside."""
    return ops.concat([before, behind_branch(last, batch, one, tail)], 1)


def behind_branch(last: Any, batch: Any, one: Any, tail: Sequence[int]) -> ov.Node:
    """What a branch's outputs must be read behind: `last` as (batch, one, *tail), with the same values.

    The CPU plugin (2026.4) lets what is computed after a branch share memory with the branch's outputs, and
    makes room in it before they are read: a call with more tokens than any before it would lose them. Not so
    those that are read behind an operation whose shape depends on data. So the last token passes through one,
    and the state that the branch leaves must be read on the way to it.

    Parameters
    ----------
    batch, one : ov.Node or ov.Output
        (1,) each: the first two sizes of `last`, as sums that OpenVINO does not solve; two of them, for it
        would find one.
    """
    sizes = ops.concat([batch, one, ops.constant(np.array(tail, np.int64))], 0)
    return ops.reshape(last, sizes, False)
