"""The gated delta rule for a graph of fixed shapes: the same loop, which padding does not change."""

from typing import Any

from torch import Tensor

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.gated_delta_rule import graph


def traced(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    *args: Any,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """In place of ``torch_chunk_gated_delta_rule`` of transformers, with its layouts."""
    kept = call.tokens()
    return graph.traced(call, query, key, value, g * kept, beta * kept, *args, **options)
