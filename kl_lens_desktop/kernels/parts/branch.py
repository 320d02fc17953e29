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
        From outputs to as many outputs, of the same types.
    """
    sources = [value if isinstance(value, ov.Output) else value.output(0) for value in inputs]
    node = ops.if_op(condition.output(0))  # 2026.4's binding loses the node itself
    results, parameters = [], []
    for body, setter in ((then, node.set_then_body), (otherwise, node.set_else_body)):
        given = _Given()
        outputs = [ops.result(output) for output in body(*map(given.inside, sources))]
        used = given.used()
        setter(ov.Model(outputs, list(used.values())))
        parameters.append(used)
        results.append(outputs)
    for whole in dict.fromkeys(map(_whole, sources)):
        both = [used.get(whole) for used in parameters]
        if any(parameter is not None for parameter in both):
            node.set_input(whole, *both)
    return [node.set_output(*pair) for pair in zip(*results, strict=True)]


class _Given:
    """The inputs of one body. What is a share of a split outside comes in whole and is split inside.

    The GPU plugin (2026.4) lets the shares of a split lie in the whole's memory, and the bodies of an If read
    them as if each lay alone.
    """

    def __init__(self) -> None:
        self._parameters: dict[ov.Output, ov.Node] = {}
        self._splits: dict[ov.Node, ov.Node] = {}

    def inside(self, source: ov.Output) -> ov.Output:
        whole, split = _whole(source), source.get_node()
        if whole not in self._parameters:
            self._parameters[whole] = ops.parameter(whole.get_partial_shape(), whole.get_element_type())
        parameter = self._parameters[whole]
        if whole == source:
            return parameter.output(0)
        if split not in self._splits:
            axis, lengths = (value.get_node().data for value in split.input_values()[1:])
            self._splits[split] = ops.variadic_split(parameter, ops.constant(axis), ops.constant(lengths))
        return self._splits[split].output(source.get_index())

    def used(self) -> dict[ov.Output, ov.Node]:
        """The parameters that something reads, by what they stand for."""
        idle = [split for split in self._splits.values() if not _readers(split)]
        return {w: p for w, p in self._parameters.items() if any(r not in idle for r in _readers(p))}


def _whole(source: ov.Output) -> ov.Output:
    node = source.get_node()
    return node.input_value(0) if node.get_type_name() == "VariadicSplit" else source


def _readers(node: ov.Node) -> list[ov.Node]:
    return [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]


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
