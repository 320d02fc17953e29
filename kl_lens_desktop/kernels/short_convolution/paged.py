"""The short convolution as `PagedCausalConv1DFusion` knows it (OpenVINO 2026.4)."""

from typing import Any

import openvino as ov
from openvino import opset13 as ops

from kl_lens_desktop.kernels.parts.constants import scalar, vector
from kl_lens_desktop.kernels.parts.paged import stored

_END = 2**31 - 1


def paged_convolution(taps: Any, beams: Any) -> ov.Node:
    """The convolution of the new tokens, (batch, tokens, channels).

    Tokens come first again before the bias: the CPU plugin's loop would else be of one element.

    Parameters
    ----------
    taps : kl_lens_desktop.kernels.short_convolution.taps.Taps
    beams : ov.Output
        (batch,).
    """
    past, new = taps.tokens.get_node().input_values()
    count, channels = (n.get_length() for n in taps.weight.get_partial_shape())
    window = ops.gather(stored(past), beams, scalar(0))
    weight = ops.reshape(ops.transpose(taps.weight, vector(1, 0)), vector(channels, 1, 1, count), False)
    both = ops.concat([window, ops.transpose(new, vector(0, 2, 1))], -1)
    y = ops.group_convolution(both, weight, [1], [0], [0], [1])
    tokens = ops.gather(ops.shape_of(new), vector(1), scalar(0))
    y = ops.slice(y, ops.multiply(tokens, vector(-1)), vector(_END), vector(1), vector(2))
    return taps.activated(ops.transpose(y, vector(0, 2, 1)), taps.bias)
