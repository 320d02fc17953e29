"""From a graph with states as inputs and outputs to one that keeps them between calls."""

import numpy as np
import openvino as ov
from openvino import opset15 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import PreTrainedModel

from kl_lens_desktop.export.trace import INPUT_NAMES, OWN, State, first_states
from kl_lens_desktop.families import family_of


def make_stateful(graph: ov.Model, states: list[State]) -> None:
    """Turn the states of a traced graph into variables, in place.

    After a reset every state is zero with the batch size of ``input_ids``, keys and values with no tokens.
    The graph then has exactly the inputs of `INPUT_NAMES` and the one output ``logits``.
    """
    offset, pairs = sum(bool(port.get_names() & set(INPUT_NAMES)) for port in graph.inputs), {}
    for k, state in enumerate(states):
        past, present = state.names
        shape = [-1, *state.shape[1:]]
        if state.kind in ("key", "value"):
            shape[2] = -1
        graph.inputs[offset + k].get_node().set_partial_shape(ov.PartialShape(shape))
        pairs[past] = present
    _forget_names(graph)
    for k, state in enumerate(states):
        past, present = state.names
        graph.inputs[offset + k].get_tensor().set_names({past})
        graph.outputs[1 + k].get_tensor().set_names({present})
    graph.outputs[0].get_tensor().set_names({"logits"})
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    _initialize_from_batch(graph)
    _add_missing_inputs(graph)
    graph.validate_nodes_and_infer_types()


def begin(graph: ov.Model, states: list[State], model: PreTrainedModel) -> None:
    """Let a stateful graph begin with what a model's own tokens leave, if it has such, instead of nothing.

    They are run with the weights that the model has at the moment.
    """
    if not family_of(model.config.model_type).begins:
        return
    held, own = first_states(model, states)
    for place, value in enumerate(own):
        parameter = graph.input(f"{OWN}{place}").get_node()
        parameter.output(0).replace(ops.constant(value).output(0))
        graph.remove_parameter(parameter)
    batch = _batch(graph)
    values = {"".join(state.names): value for state, value in zip(states, held, strict=True)}
    for op in graph.get_ops():
        if op.get_type_name() == "ReadValue" and values[op.get_attributes()["variable_id"]].size:
            value = values[op.get_attributes()["variable_id"]]
            shape = ops.concat([batch, ops.constant(np.array(value.shape[1:], np.int64))], 0)
            op.set_arguments([ops.broadcast(ops.constant(value), shape)])
    graph.validate_nodes_and_infer_types()


def _forget_names(graph: ov.Model) -> None:
    """Names inside the graph: a plugin that removes an operation gives its names to an input."""
    for op in graph.get_ops():
        if op.get_type_name() != "Parameter":
            for output in op.outputs():
                output.get_tensor().set_names(set())


def _initialize_from_batch(graph: ov.Model) -> None:
    batch = _batch(graph)
    zero = ops.constant(np.float32(0))
    for op in graph.get_ops():
        if op.get_type_name() == "ReadValue":
            sizes = [0 if d.is_dynamic else d.get_length() for d in list(op.get_output_partial_shape(0))[1:]]
            shape = ops.concat([batch, ops.constant(np.array(sizes, np.int64))], 0)
            op.set_arguments([ops.broadcast(zero, shape)])


def _batch(graph: ov.Model) -> ov.Node:
    """How many rows a call has, (1,)."""
    ids = graph.input("input_ids").get_node()
    first = ops.constant(np.array([0], np.int64)), ops.constant(np.int64(0))
    return ops.gather(ops.shape_of(ids, output_type="i64"), *first)


def _add_missing_inputs(graph: ov.Model) -> None:
    """Models without attention read no mask and no positions; their clients feed all four inputs still."""
    present = {name for port in graph.inputs for name in port.get_names()}
    for name in INPUT_NAMES:
        if name not in present:
            parameter = ops.parameter([-1, -1], np.int64, name=name)
            parameter.output(0).get_tensor().set_names({name})
            graph.add_parameters([parameter])
