"""The short convolution of a model that is being traced; `taps` builds its operations."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions


class ShortConvolution(nn.Module):
    """Stand-in for the convolution of a model that is being traced; only its shape is real."""

    def forward(
        self,
        hidden: Tensor,
        window: Tensor,
        weight: Tensor,
        bias: Tensor,
        order: Tensor,
        length: Tensor,
        batch: Tensor,
        one: Tensor,
        beams: Tensor,
        paged: Tensor,
        silu: Tensor,
        alone: Tensor,
    ) -> Tensor:
        return torch.zeros_like(hidden[..., window.shape[1] :])


def traced(
    call: Call,
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> Tensor:
    """In place of ``causal_conv1d_fn``: (batch, channels, kept + new) to (batch, channels, new)."""
    silu = activation in ("silu", "swish")
    bias = torch.zeros(weight.shape[0]) if bias is None else bias
    parts = call.parts
    y: Tensor = call.stand_in(ShortConvolution)(
        hidden_states,
        call.window,
        weight,
        bias,
        call.places(int(weight.shape[1])),
        parts.length,
        parts.batch,
        parts.one,
        call.beams,
        call.paged,
        torch.tensor(int(silu)),
        torch.tensor(int(call.pages and not call.fuses_convolutions)),
    )
    return y if activation is None or silu else ACT2FN[activation](y)


def conversions(convolutions: Convolutions) -> dict[type[nn.Module], Builder]:
    """The stand-in of this form, and what builds its operations."""
    return {ShortConvolution: convolutions.build}
