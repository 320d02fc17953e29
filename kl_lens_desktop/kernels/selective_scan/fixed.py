"""Mamba-1's scan for a graph of fixed shapes: one loop over all tokens, without a branch."""

from typing import Any

from torch import Tensor

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.states import FinalState
from kl_lens_desktop.kernels.selective_scan.fast import gated, step_sizes
from kl_lens_desktop.kernels.selective_scan.graph import SelectiveLoop


def traced(
    call: Call,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """In place of ``mamba_selective_scan``: see `selective_scan.fast.selective_scan`."""
    past = call.past_or(x.new_zeros(x.shape[0], x.shape[1], A.shape[1]))
    steps = step_sizes(dt, delta_bias, delta_softplus).transpose(1, 2) * call.tokens()
    scaled = steps * x.transpose(1, 2)
    y = call.stand_in(SelectiveLoop)(steps, scaled, A, B.transpose(1, 2), C.transpose(1, 2), past)
    state = call.stand_in(FinalState)(y, past)
    y = gated(y.transpose(1, 2), x, D, z)
    return (y, state) if return_last_state else y
