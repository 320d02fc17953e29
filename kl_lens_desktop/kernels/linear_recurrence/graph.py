"""The linear recurrence h = a·h + u as a loop in the graph."""

from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.states import FinalState
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
    a_t, u_t = (ops.parameter([-1, 1, channels], np.float32) for _ in range(2))
    state, token = ops.parameter([-1, channels], np.float32), ops.constant(np.int64(1))
    new = ops.add(ops.multiply(state, ops.squeeze(a_t, token)), ops.squeeze(u_t, token))
    y = ops.unsqueeze(new, token)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [a_t, u_t, state]))
    loop.set_sliced_input(a_t, a, 0, 1, 1, -1, 1)
    loop.set_sliced_input(u_t, u, 0, 1, 1, -1, 1)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return [loop.output(0)]
