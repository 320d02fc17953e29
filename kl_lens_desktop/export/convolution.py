"""The short causal convolution over the kept tokens and the new ones, without padding and without a cut.

transformers pads, convolves and cuts the new tokens out. Here a state holds just the tokens that the kernel
reaches back to, so the output has just the new tokens and the cut, which tracing records, does nothing.
"""

from typing import Any

import openvino as ov
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

_PASSED = ("Swish", "Add", "Convert", "Transpose")


def convolution(
    hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **_: Any
) -> Tensor:
    """In place of ``causal_conv1d_fn``: (batch, channels, kept + new) to (batch, channels, new)."""
    out = F.conv1d(hidden_states, weight.unsqueeze(1), bias, groups=hidden_states.shape[1])
    return ACT2FN[activation](out) if activation is not None else out


def remove_cuts(graph: ov.Model) -> None:
    """Remove the slices of the last tokens after each convolution, in place."""
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "Slice" and _from_convolution(op.input_value(0).get_node()):
            op.output(0).replace(op.input_value(0))


def _from_convolution(op: ov.Node) -> bool:
    while op.get_type_name() in _PASSED:
        op = op.input_value(0).get_node()
    return bool(op.get_type_name() == "GroupConvolution")
