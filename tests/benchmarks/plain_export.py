"""The export that one would write first, for comparison: traced as the model is, nothing rewritten.

States go in and out one by one and each is gathered by ``beam_idx``, convolutions are padded and cut, the
scan of Mamba-2 is its dual form over the whole call, that of Mamba-1 a loop over its tokens. Every token
passes all experts. NNCF's public function compresses it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest.mock import patch

import nncf
import numpy as np
import openvino as ov
import torch
import torch.nn.functional as F
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.frontend.pytorch import ConversionExtension, ModuleExtension
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, LinearAttentionLayer

from kl_lens_desktop.families import family_of
from kl_lens_desktop.kernels.chunk_scan import fast as scans
from kl_lens_desktop.kernels.replace import replaced_functions
from kl_lens_desktop.kernels.selective_scan.fast import gated, step_sizes

_KINDS = {"conv": "conv_states", "ssm": "recurrent_states", "key": "keys", "value": "values"}
Key = tuple[int, str]


def plain_export(model: PreTrainedModel) -> ov.Model:
    """A stateful graph with INT4 weights in groups of 128."""
    loops, ids = _Loops(), torch.arange(1, 13)[None]
    attends = family_of(model.config.model_type).attends
    with (
        torch.no_grad(),
        replaced_functions(model, {"mamba2_chunk_scan": scans.scan, "mamba_selective_scan": loops.scan}),
        patch.object(scans, "_decay", _decay),
        _functional(loops),
        _dense(model),
    ):
        cache = DynamicCache(config=model.config)
        model(ids[:, :5], use_cache=True, **{"past_key_values" if attends else "cache_params": cache})
        keys, tensors = _read(cache)
        example = (
            ids[:, 5:],
            torch.ones(1, 12, dtype=torch.long),
            torch.arange(5, 12)[None],
            torch.zeros(1, dtype=torch.int32),
            tuple(tensors),
        )
        step = _Step(model, keys, attends, loops).eval()
        extensions = [
            extension
            for module, name, build in ((_Loop, "plain.loop", _loop), (_Final, "plain.final", _final))
            for extension in (ModuleExtension(module, name), ConversionExtension(name, build))
        ]
        graph = ov.convert_model(step, example_input=example, extension=extensions)
    _make_stateful(graph, keys, tensors)
    convolutions = [
        op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() == "GroupConvolution"
    ]
    return nncf.compress_weights(
        graph,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        group_size=128,
        ratio=1.0,
        all_layers=True,
        ignored_scope=nncf.IgnoredScope(names=convolutions),
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
    )


def _decay(log: Tensor) -> Tensor:
    return log.clamp(max=0).exp()


@contextmanager
def _dense(model: PreTrainedModel) -> Iterator[None]:
    layers = [module for module in model.modules() if hasattr(module, "gate_up_proj")]
    for layer in layers:
        layer.forward = MethodType(_all_experts, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _all_experts(self: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    count = int(self.down_proj.shape[0])
    routing = torch.zeros(hidden.shape[0], count).scatter(1, top_k_index, top_k_weights)
    repeated = hidden.repeat(count, 1).view(count, -1, hidden.shape[-1])
    gate, up = torch.bmm(repeated, self.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
    outputs = torch.bmm(self.act_fn(gate) * up, self.down_proj.transpose(1, 2))
    return (outputs * routing.t()[..., None]).sum(0)


class _Loops(nn.Module):
    """Mamba-1's scan of a model that is being traced; `past` is what the layer in turn starts from."""

    def __init__(self) -> None:
        super().__init__()
        self.past: list[Tensor] = []
        self._loop, self._final = _Loop(), _Final()

    def scan(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, D: Tensor, z: Tensor,
        delta_bias: Tensor, delta_softplus: bool, return_last_state: bool, **_: Any,
    ) -> Any:  # fmt: skip
        past = self.past.pop(0) if self.past else x.new_zeros(x.shape[0], x.shape[1], A.shape[1])
        steps = step_sizes(dt, delta_bias, delta_softplus).transpose(1, 2)
        y = self._loop(steps, steps * x.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2), past)
        state = self._final(y, past)
        y = gated(y.transpose(1, 2), x, D, z)
        return (y, state) if return_last_state else y


class _Loop(nn.Module):
    def forward(self, steps: Tensor, scaled: Tensor, A: Tensor, B: Tensor, C: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(scaled)


class _Final(nn.Module):
    def forward(self, y: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(past)


def _final(context: Any) -> list[ov.Output]:
    return [context.get_input(0).get_node().output(1)]


def _loop(context: Any) -> list[ov.Output]:
    steps, scaled, A, B, C, past = (context.get_input(i) for i in range(6))
    channels, size = A.get_shape()
    step_t, scaled_t = (ops.parameter([-1, 1, channels], np.float32) for _ in range(2))
    b_t, c_t = (ops.parameter([-1, 1, size], np.float32) for _ in range(2))
    a, state = ops.parameter([channels, size], np.float32), ops.parameter([-1, channels, size], np.float32)
    column = ops.constant(np.array([0, -1, 1]))
    decay = ops.exp(ops.multiply(ops.reshape(step_t, column, True), a))
    new = ops.add(ops.multiply(state, decay), ops.multiply(ops.reshape(scaled_t, column, True), b_t))
    y = ops.matmul(c_t, new, False, True)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [step_t, scaled_t, b_t, c_t, a, state]))
    for parameter, value in ((step_t, steps), (scaled_t, scaled), (b_t, B), (c_t, C)):
        loop.set_sliced_input(parameter, value, 0, 1, 1, -1, 1)
    loop.set_invariant_input(a, A)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return [loop.output(0)]


class _Step(nn.Module):
    def __init__(self, model: PreTrainedModel, keys: list[Key], attends: bool, loops: _Loops) -> None:
        super().__init__()
        self.model, self._keys, self._attends = model, keys, attends
        self._loops = loops  # a part of it, that the converter finds its stand-ins

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, beam_idx: Tensor, states: Any
    ) -> Any:
        cache = DynamicCache(config=self.model.config)
        for (place, kind), held in zip(self._keys, states, strict=True):
            state, layer = held.index_select(0, beam_idx), cache.layers[place]
            layer.dtype, layer.device = state.dtype, state.device
            if kind == "conv":
                layer.conv_states[0], layer.conv_kernel_size[0] = state, state.shape[-1]
                layer.is_conv_states_initialized[0] = layer.has_previous_state[0] = True
            elif kind == "ssm":
                layer.recurrent_states[0], layer.is_recurrent_states_initialized[0] = state, True
            else:
                setattr(layer, _KINDS[kind], state)
                layer.is_initialized = True
        if not self._attends:
            logits = self.model(input_ids=input_ids, use_cache=True, cache_params=cache).logits
            return (logits, *_read(cache)[1])
        new, total = input_ids.shape[1], attention_mask.shape[1]
        seen = torch.arange(total)[None] <= (torch.arange(new) + (total - new))[:, None]
        seen = seen[None, None] & (attention_mask[:, None, None] > 0)
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        masks = {
            **dict.fromkeys(("full_attention", "attention", "hybrid"), mask),
            **dict.fromkeys(("linear_attention", "mamba", "conv"), None),
        }
        logits = self.model(
            input_ids=input_ids,
            attention_mask=masks,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return (logits, *_read(cache)[1])


def _read(cache: DynamicCache) -> tuple[list[Key], list[Tensor]]:
    found = []
    for place, layer in enumerate(cache.layers):
        for kind, attribute in _KINDS.items():
            held = getattr(layer, attribute, None)
            held = held.get(0) if isinstance(held, dict) else held
            if held is not None:
                found.append(((place, kind), held))
    return [key for key, _ in found], [tensor for _, tensor in found]


def _make_stateful(graph: ov.Model, keys: list[Key], tensors: list[Tensor]) -> None:
    offset, pairs = len(graph.inputs) - len(keys), {}
    names = ("input_ids", "attention_mask", "position_ids", "beam_idx")
    for port, name in zip(
        graph.inputs[:offset], names if offset == 4 else ("input_ids", "beam_idx"), strict=True
    ):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape([-1] if name == "beam_idx" else [-1, -1]))
    for k, ((place, kind), tensor) in enumerate(zip(keys, tensors, strict=True)):
        shape = [-1, *tensor.shape[1:]]
        if kind in ("key", "value"):
            shape[2] = -1
        past, present = f"past.{kind}.{place}", f"present.{kind}.{place}"
        graph.inputs[offset + k].get_tensor().set_names({past})
        graph.inputs[offset + k].get_node().set_partial_shape(ov.PartialShape(shape))
        graph.outputs[1 + k].get_tensor().set_names({present})
        pairs[past] = present
    graph.outputs[0].get_tensor().set_names({"logits"})
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    first = ops.constant(np.array([0])), ops.constant(np.int64(0))
    batch = ops.gather(ops.shape_of(graph.input("input_ids").get_node()), *first)
    for op in graph.get_ops():
        if op.get_type_name() == "ReadValue":
            sizes = [0 if d.is_dynamic else d.get_length() for d in list(op.get_output_partial_shape(0))[1:]]
            shape = ops.concat([batch, ops.constant(np.array(sizes, np.int64))], 0)
            op.set_arguments([ops.broadcast(ops.constant(np.float32(0)), shape)])
    graph.validate_nodes_and_infer_types()


@contextmanager
def _functional(loops: _Loops) -> Iterator[None]:
    """Cache updates without copies in place, which tracing would not see."""

    def convolved(
        self: Any, new: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        size = conv_kernel_size or self.conv_kernel_size[state_idx]
        known = self.is_conv_states_initialized[state_idx]
        full = torch.cat([self.conv_states[state_idx], new], -1) if known else F.pad(new, (size, 0))
        self.conv_states[state_idx] = full[..., -size:]
        self.is_conv_states_initialized[state_idx] = True
        return full

    def recurred(self: Any, new: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        self.recurrent_states[state_idx] = new
        self.is_recurrent_states_initialized[state_idx] = True
        return new

    def read(self: Any, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        state: Tensor | None = stock_read(self, layer_idx, state_idx)
        loops.past = [] if state is None else [state]
        return state

    stock = LinearAttentionLayer.update_conv_state, LinearAttentionLayer.update_recurrent_state
    stock_read = Cache.get_recurrent_state
    LinearAttentionLayer.update_conv_state, LinearAttentionLayer.update_recurrent_state = convolved, recurred
    Cache.get_recurrent_state = read
    try:
        yield
    finally:
        LinearAttentionLayer.update_conv_state, LinearAttentionLayer.update_recurrent_state = stock
        Cache.get_recurrent_state = stock_read
