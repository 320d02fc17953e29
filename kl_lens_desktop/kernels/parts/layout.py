"""Modelling code of Mamba turns (batch, tokens, channels) into other shapes and back; the graph need not."""

import numpy as np
import openvino as ov
from openvino import opset13 as ops

CHANNELS_FIRST = np.array([0, 2, 1])  # and back


def tokens_first(value: ov.Output) -> ov.Output:
    """`value` (batch, channels, tokens) as (batch, tokens, channels), without a transpose if that can be."""
    return _turned_back(value) or ops.transpose(value, ops.constant(CHANNELS_FIRST)).output(0)


def remove_turns_back(graph: ov.Model) -> None:
    """Remove the transposes that undo an earlier one, in place.

    OpenVINO would first make one of the two part of a product behind it, and then keep the other.
    """
    for op in graph.get_ordered_ops():
        if _swaps_last_two(op) and (source := _turned_back(op.input_value(0))):
            op.output(0).replace(source)


def remove_single_groups(graph: ov.Model) -> None:
    """Let a norm over the channels in groups, of which there is one, be one over the channels, in place.

    With the views around it OpenVINO would find no norm with weights to fuse.
    """
    for op in graph.get_ordered_ops():
        if op.get_type_name() != "Reshape":
            continue
        whole, grouped = op.input_value(0).get_partial_shape(), op.get_output_partial_shape(0)
        if len(whole) != 3 or len(grouped) != 4 or grouped[2] != 1 or grouped[3] != whole[2]:
            continue
        users = {
            user.get_node().get_type_name(): user.get_node() for user in op.output(0).get_target_inputs()
        }
        if set(users) == {"Power", "Multiply"}:
            normed = users["Multiply"].output(0)
            backs = [target.get_node() for target in normed.get_target_inputs()]
            if [back.get_type_name() for back in backs] == ["Reshape"]:
                backs[0].output(0).replace(normed)
                op.output(0).replace(op.input_value(0))


def remove_splits_of_joins(graph: ov.Model) -> None:
    """Let what is split again as it was joined, or not at all, be read where it was before, in place."""
    for op in graph.get_ordered_ops():
        if op.get_type_name() != "VariadicSplit":
            continue
        joined = op.input_value(0).get_node()
        parts = joined.input_values() if joined.get_type_name() == "Concat" else op.input_values()[:1]
        if [part.get_partial_shape() for part in parts] == [
            part.get_partial_shape() for part in op.outputs()
        ]:
            for before, after in zip(parts, op.outputs(), strict=True):
                after.replace(before)


def _turned_back(value: ov.Output) -> ov.Output | None:
    """What `value` is the transpose of, directly or through a split of the channels or a matrix product."""
    node = value.get_node()
    kind = node.get_type_name()
    if _swaps_last_two(node):
        return node.input_value(0)
    if kind == "VariadicSplit" and _swaps_last_two(node.input_value(0).get_node()):
        whole = node.input_value(0).get_node().input_value(0)
        axis = node.input_value(1).get_node()
        if axis.get_type_name() == "Constant" and axis.get_data() == 1:
            split = ops.variadic_split(whole, ops.constant(np.int64(2)), node.input_value(2))
            return split.output(value.get_index())
    if kind == "MatMul" and _swaps_last_two(node.input_value(1).get_node()):
        matrix, turned = node.input_value(0), node.input_value(1).get_node()
        if len(matrix.get_partial_shape()) == 2 and not any(node.get_attributes().values()):
            product = ops.matmul(turned.input_value(0), matrix, False, True)
            product.set_friendly_name(node.get_friendly_name())
            return product.output(0)
    return None


def _swaps_last_two(node: ov.Node) -> bool:
    if node.get_type_name() != "Transpose":
        return False
    order = node.input_value(1).get_node()
    return order.get_type_name() == "Constant" and np.array_equal(order.get_data(), CHANNELS_FIRST)
