"""The gated delta rule as the Loop that OpenVINO's plugins replace by their GatedDeltaNet kernel.

That is `GatedDeltaNetFusion` in OpenVINO's common transformations.
"""

from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from kl_lens_desktop.kernels.call import Call
from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.states import FinalState
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions


class DeltaRule(nn.Module):
    """Stand-in for the rule of a model that is being traced; only its shape is real."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, past: Tensor
    ) -> Tensor:
        return torch.zeros_like(value)


def traced(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """In place of ``torch_chunk_gated_delta_rule`` of transformers, with its layouts."""
    per_key = value.shape[2] // query.shape[2]
    if per_key > 1:
        query, key = (tensor.repeat_interleave(per_key, dim=2) for tensor in (query, key))
    # Sizes as constants: with an unknown number of heads the fusion passes the loop by.
    query, key, value = (
        tensor.reshape(*tensor.shape[:2], int(tensor.shape[2]), int(tensor.shape[3])).transpose(1, 2)
        for tensor in (query, key, value)
    )
    if use_qk_l2norm_in_kernel:
        query, key = (t * (1 / torch.sqrt((t * t).sum(dim=-1, keepdim=True) + 1e-6)) for t in (query, key))
    if initial_state is None:
        initial_state = value.new_zeros(value.shape[0], value.shape[1], key.shape[3], value.shape[3])
    y = call.stand_in(DeltaRule)(query, key, value, g.transpose(1, 2), beta.transpose(1, 2), initial_state)
    return y.transpose(1, 2), call.stand_in(FinalState)(y, initial_state)


def conversions(_: Convolutions) -> dict[type[nn.Module], Builder]:
    """The stand-in of this form, and what builds its operations."""
    return {DeltaRule: delta_loop}


def delta_loop(context: Any) -> list[ov.Output]:
    """The operations of a `DeltaRule`: the one loop that `GatedDeltaNetFusion` knows, scaling included."""
    query, key, value, g, beta, past = (context.get_input(i) for i in range(6))
    axis = {
        name: ops.constant(np.int64(n)) for name, n in (("first", 0), ("token", 2), ("last", -1), ("key", -2))
    }
    first = ops.constant(np.int64(0))  # not the body's: NNCF would look for its user in the graph outside
    size = ops.convert(ops.gather(ops.shape_of(query), ops.constant(np.int64(3)), first), "f32")
    scaled = ops.divide(query, ops.power(size, ops.constant(np.float32(0.5))))
    tokens = ops.gather(ops.shape_of(value), ops.constant(np.int64(2)), first)
    buffer = ops.broadcast(ops.constant(np.float32(0)), ops.shape_of(value))

    step = ops.parameter([], np.int64)
    q_t, k_t, v_t = (ops.parameter([-1, -1, 1, -1], np.float32) for _ in range(3))
    g_t, beta_t = (ops.parameter([-1, -1, 1], np.float32) for _ in range(2))
    state, written = (ops.parameter([-1, -1, -1, -1], np.float32) for _ in range(2))
    decayed = ops.multiply(state, ops.unsqueeze(ops.exp(g_t), axis["last"]))
    k = ops.unsqueeze(ops.squeeze(k_t, axis["token"]), axis["last"])
    held = ops.reduce_sum(ops.multiply(decayed, k), axis["key"], False)
    delta = ops.multiply(ops.subtract(ops.squeeze(v_t, axis["token"]), held), beta_t)
    new = ops.add(decayed, ops.multiply(k, ops.unsqueeze(delta, axis["key"])))
    q = ops.unsqueeze(ops.squeeze(q_t, axis["token"]), axis["last"])
    y = ops.reduce_sum(ops.multiply(new, q), axis["key"], True)
    out = ops.scatter_update(written, ops.unsqueeze(step, axis["first"]), y, axis["token"])
    true = ops.constant(np.array(True))
    loop = ops.loop(tokens, ops.constant(np.array(True)))
    loop.set_function(ov.Model([true, new, out], [step, q_t, k_t, v_t, g_t, beta_t, state, written]))
    for parameter, whole in ((q_t, scaled.output(0)), (k_t, key), (v_t, value), (g_t, g), (beta_t, beta)):
        loop.set_sliced_input(parameter, whole, 0, 1, 1, -1, 2)
    loop.set_merged_input(state, past, new.output(0))
    loop.set_merged_input(written, buffer.output(0), out.output(0))
    loop.set_special_body_ports([0, 0])
    loop.get_iter_value(out.output(0), -1)
    loop.get_iter_value(new.output(0), -1)
    return [loop.output(0)]
