"""Mixture-of-experts layers in a form without branches, which tracing records whole."""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def dense_experts(model: PreTrainedModel) -> Iterator[None]:
    """Let every token pass all experts and be weighted by its routing, zero for those not chosen.

    transformers runs only the chosen experts, by branches or by gathering their weights for every token; a
    graph has no branches, and gathered weights would exceed the memory of a long prompt.
    """
    layers = [module for module in model.modules() if _holds_experts(module)]
    for layer in layers:
        layer.forward = types.MethodType(_all_experts, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _holds_experts(module: nn.Module) -> bool:
    down = getattr(module, "down_proj", None)
    return isinstance(down, nn.Parameter) and down.dim() == 3 and hasattr(module, "act_fn")


def _all_experts(self: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """`hidden` (tokens, size) and the routing (tokens, chosen) to (tokens, size)."""
    count = self.down_proj.shape[0]
    routing = torch.zeros(hidden.shape[0], count).scatter(1, top_k_index, top_k_weights.float())
    repeated = hidden.repeat(count, 1).view(count, -1, hidden.shape[-1])
    if self.has_gate:
        gate, up = torch.bmm(repeated, self.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
        inner = self.act_fn(gate) * up
    else:
        inner = self.act_fn(torch.bmm(repeated, self.up_proj.transpose(1, 2)))
    outputs = torch.bmm(inner, self.down_proj.transpose(1, 2))
    return (outputs * routing.t()[..., None]).sum(0).to(hidden.dtype)
