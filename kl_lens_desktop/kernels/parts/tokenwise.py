"""Recurrences that go token by token, as loops of the graph.

A loop of one turn costs three times what its operations do, so a call should do its last token without.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from kl_lens_desktop.kernels.parts.branch import branch, no_tokens, with_last
from kl_lens_desktop.kernels.parts.constants import vector
from kl_lens_desktop.kernels.parts.padding import before_last

Outputs = Sequence[Any]


class Tokens(NamedTuple):
    """Of a call: the number of tokens before the last, the batch and the one (see `call.Parts`), the mask."""

    length: ov.Output
    batch: ov.Output
    one: ov.Output
    mask: ov.Output


class Recurrence(NamedTuple):
    """What a kernel does with one token.

    Attributes
    ----------
    turn : callable
        From a token's inputs, the constants and the state to its output (batch, 1, channels) and the state
        after it. Inputs that are all 0 must leave the state as it is.
    widths : sequence of int
        Channels of each input.
    channels : int
        Of the output.
    state : tuple of int
        The state's shape without the batch.
    """

    turn: Callable[[Outputs, Outputs, Any], tuple[ov.Node, ov.Node]]
    widths: Sequence[int]
    channels: int
    state: tuple[int, ...]


def token_loop(inputs: Outputs, constants: Outputs, past: Any, recurrence: Recurrence) -> list[ov.Output]:
    """Outputs (batch, tokens, channels) and the state after the last token, by one TensorIterator.

    Parameters
    ----------
    inputs : sequence of ov.Output
        (batch, tokens, width) each.
    constants : sequence of ov.Output
        What the recurrence reads besides, the same for all tokens; of known shapes.
    past : ov.Output
        The state before the call.
    """
    tokens = [ops.parameter([-1, 1, width], np.float32) for width in recurrence.widths]
    fixed = [ops.parameter(constant.get_partial_shape(), np.float32) for constant in constants]
    state = ops.parameter([-1, *recurrence.state], np.float32)
    y, new = recurrence.turn(tokens, fixed, state)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [*tokens, *fixed, state]))
    for parameter, whole in zip(tokens, inputs, strict=True):
        loop.set_sliced_input(parameter, whole, 0, 1, 1, -1, 1)
    for parameter, constant in zip(fixed, constants, strict=True):
        loop.set_invariant_input(parameter, constant)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return list(loop.outputs())


def token_by_token(
    inputs: Outputs, constants: Outputs, past: Any, tokens: Tokens, recurrence: Recurrence
) -> tuple[ov.Node, ov.Node]:
    """As `token_loop`, the last token by plain operations; a call with one token enters no loop."""
    length, batch, one, mask = tokens

    def before(*given: Any) -> list[Any]:
        """The loop takes the last token too, with inputs of zero; its output is cut off."""
        *values, past, length, mask, _ = given
        kept = before_last(mask, length)
        read = [ops.multiply(value, kept).output(0) for value in values[: len(inputs)]]
        y, reached = token_loop(read, values[len(inputs) :], past, recurrence)
        return [ops.slice(y, vector(0), length, vector(1), vector(1)), reached]

    def nothing(*given: Any) -> list[ov.Node]:
        """No outputs, and one row in place of a state that is not read."""
        state = ops.constant(np.zeros((1, 1, *recurrence.state[1:]), np.float32))
        return [no_tokens(given[-1], recurrence.channels), state]

    some = ops.greater(length, vector(0))
    y, reached = branch(some, [*inputs, *constants, past, length, mask, batch], before, nothing)
    held = ops.select(some, reached, past)
    last = [ops.slice(v, vector(-1), vector(2**31 - 1), vector(1), vector(1)) for v in inputs]
    y_last, state = recurrence.turn(last, constants, held)
    return with_last(y, y_last, batch, one, [recurrence.channels]), state
