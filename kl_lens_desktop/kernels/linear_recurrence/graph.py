"""The linear recurrence h = a·h + u as a loop in the graph."""

from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.constants import scalar
from kl_lens_desktop.kernels.parts.states import FinalState
from kl_lens_desktop.kernels.parts.tokenwise import Recurrence, token_loop
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions


class LinearRecurrence(nn.Module):
    """Stand-in for h = a·h + u over (batch, tokens, channels); only its shape is real."""

    def forward(self, a: Tensor, u: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(u)


def traced(call: Call, a: Tensor, u: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """h = a·h + u over (batch, tokens, channels), and the last h."""
    past = u.new_zeros(u.shape[0], u.shape[2]) if past is None else past
    y = call.stand_in(LinearRecurrence)(a, u, past)
    return y, call.stand_in(FinalState)(y, past)


def conversions(_: Convolutions) -> dict[type[nn.Module], Builder]:
    """The stand-in of this form, and what builds its operations."""
    return {LinearRecurrence: linear_recurrence}


def linear_recurrence(context: Any) -> list[ov.Output]:
    """The operation of a `LinearRecurrence`; its second output is the last state."""
    a, u, past = (context.get_input(i) for i in range(3))
    channels = u.get_partial_shape()[2].get_length()
    return token_loop([a, u], [], past, Recurrence(_turn, (channels, channels), channels, (channels,)))[:1]


def _turn(inputs: Sequence[Any], constants: Sequence[Any], past: Any) -> tuple[ov.Node, ov.Node]:
    token = scalar(1)
    a, u = (ops.squeeze(value, token) for value in inputs)
    new = ops.add(ops.multiply(past, a), u)
    return ops.unsqueeze(new, token), new
