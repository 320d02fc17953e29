"""Mixture-of-experts layers in a form without branches, in which a token meets only its chosen experts.

It is written with the products that OpenVINO's GroupedMatMul is made for: tokens in the order of their
experts, and where each expert's tokens end. The CPU plugin makes GatherMatmul of it
(`ConvertGroupedMatMulToGatherMatmul` in its common transformations), which reads no other expert's weights,
INT8 and INT4 as they are stored. The GPU plugin (2026.4) has oneDNN's product for it, on GPUs with matrix
engines and in f16 only; a graph with experts does not compile for other GPUs, nor in f32.
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def grouped_experts(model: PreTrainedModel) -> Iterator[None]:
    """Replace the forward of every stack of experts: transformers' own are made for other products."""
    with _replaced(model, _chosen_experts):
        yield


@contextlib.contextmanager
def dense_experts(model: PreTrainedModel) -> Iterator[None]:
    """Let every token pass all experts and be weighted by its routing, zero for those not chosen.

    For a graph of fixed shapes: devices that take no others have no grouped product.
    """
    with _replaced(model, _all_experts):
        yield


@contextlib.contextmanager
def _replaced(model: PreTrainedModel, forward: Callable[..., Tensor]) -> Iterator[None]:
    layers = [module for module in model.modules() if holds_experts(module)]
    for layer in layers:
        layer.forward = types.MethodType(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def holds_experts(module: nn.Module) -> bool:
    """Whether a module is a stack of experts."""
    down = getattr(module, "down_proj", None)
    return isinstance(down, nn.Parameter) and down.dim() == 3 and hasattr(module, "act_fn")


def _chosen_experts(self: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """`hidden` (tokens, size) and the routing (tokens, chosen) to (tokens, size)."""
    # Numbers, for a weight whose shape the graph asks for is not left compressed.
    count, width, chosen = (int(n) for n in (*self.down_proj.shape[::2], top_k_index.shape[1]))
    experts, order = top_k_index.flatten().sort()
    ends = torch.searchsorted(experts, torch.arange(count), right=True).int()
    rows = hidden.index_select(0, order // chosen)
    if self.has_gate:
        gate, up = torch.split(_grouped(rows, self.gate_up_proj, ends), width, -1)
        inner = self.act_fn(gate) * up
    else:
        inner = self.act_fn(_grouped(rows, self.up_proj, ends))
    outputs = _grouped(inner, self.down_proj, ends).index_select(0, order.argsort())
    weighted = outputs.view(-1, chosen, outputs.shape[1]) * top_k_weights[..., None]
    return weighted.sum(1).to(hidden.dtype)


def _grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows (tokens, input) up to each of `ends` by the matrix of that expert in `weight`."""
    return nn.functional.grouped_mm(rows, weight.transpose(1, 2), offs=ends)


def _all_experts(self: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """As `_chosen_experts`."""
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
