"""The short convolution for a graph of fixed shapes: as many products as it has taps."""

from typing import Any

from torch import Tensor
from transformers.activations import ACT2FN

from kl_lens_desktop.kernels.call import Call


def traced(
    call: Call,
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> Tensor:
    """In place of ``causal_conv1d_fn``: (batch, channels, kept + new) to (batch, channels, new)."""
    taps = int(weight.shape[1])
    x = hidden_states.transpose(1, 2)
    y = x[:, taps:] * weight[:, -1]
    for back in range(1, taps):
        y = y + x[:, taps - back : -back] * weight[:, -1 - back]
    if bias is not None:
        y = y + bias
    if activation is not None:
        y = ACT2FN[activation](y)
    return y.transpose(1, 2)
