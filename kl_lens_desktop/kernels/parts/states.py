"""The states that a recurrence leaves, which no module of torch can give beside its outputs."""

from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn


class FinalState(nn.Module):
    """The state that a loop leaves, of which `y` is the output."""

    def forward(self, y: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(past)


def final_state(context: Any) -> list[ov.Output]:
    """The operation of a `FinalState`, for OpenVINO's converter: the loop's second output."""
    return [context.get_input(0).get_node().output(1)]


class KeptStates:
    """The states of one traced model's recurrences, found again by what they give.

    Parameters
    ----------
    name : str
        Of the operations that give it, before their number.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._states: dict[str, ov.Output] = {}

    def keep(self, y: ov.Node, state: ov.Node | ov.Output) -> None:
        """Remember the state beside the outputs `y`, whose node is given a name."""
        y.set_friendly_name(f"{self._name}.{len(self._states)}")
        self._states[y.get_friendly_name()] = state if isinstance(state, ov.Output) else state.output(0)

    def find(self, context: Any) -> list[ov.Output]:
        """The state of the recurrence that the first input comes from, for OpenVINO's converter."""
        node = context.get_input(0).get_node()
        while node.get_friendly_name() not in self._states:
            node = node.input_value(0).get_node()
        return [self._states[node.get_friendly_name()]]
