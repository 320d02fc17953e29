"""The export that one would write first, for comparison: traced as the model is, nothing rewritten.

States go in and out one by one and each is gathered by ``beam_idx``, convolutions are padded and cut, the
scan of Mamba-2 is its dual form over the whole call. NNCF's public function compresses it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
import torch.nn.functional as F
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, LinearAttentionLayer

from kl_lens_desktop.export.recurrence import Recurrences, recurrence_extensions
from kl_lens_desktop.model.scan import MAMBA1, MAMBA2, replaced_kernels, scan

_KINDS = {"conv": "conv_states", "ssm": "recurrent_states", "key": "keys", "value": "values"}
Key = tuple[int, str]


def plain_export(model: PreTrainedModel) -> ov.Model:
    """A stateful graph with INT4 weights in groups of 128."""
    loops, ids = Recurrences(), torch.arange(1, 13)[None]
    attends = model.config.model_type not in ("mamba", "mamba2", "falcon_mamba")
    with (
        torch.no_grad(),
        replaced_kernels(model, {MAMBA2: scan, MAMBA1: loops.selective_scan}),
        _functional(loops),
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
        modules, operations = recurrence_extensions()
        step = _Step(model, keys, attends, loops).eval()
        graph = ov.convert_model(step, example_input=example, extension=[*modules.values(), *operations])
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


class _Step(nn.Module):
    def __init__(self, model: PreTrainedModel, keys: list[Key], attends: bool, loops: Recurrences) -> None:
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
def _functional(loops: Recurrences) -> Iterator[None]:
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
