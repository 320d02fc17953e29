"""The delta rule for a graph of fixed shapes: one loop over all tokens, without a branch."""

from typing import Any

from torch import Tensor

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.channel_delta_rule.graph import ChannelLoop, prepared
from kl_lens_desktop.kernels.parts.states import FinalState


def traced(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """In place of ``chunk_kimi_delta_attention`` of transformers, with its layouts."""
    inputs, past, sizes = prepared(call, query, key, value, g, beta, initial_state, use_qk_l2norm_in_kernel)
    y = call.stand_in(ChannelLoop)(*inputs, past, sizes)
    return y.reshape(value.shape), call.stand_in(FinalState)(y, past)
