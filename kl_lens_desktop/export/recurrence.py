"""Recurrences that have no cheap closed form, as loops in the graph: Mamba-1's scan and the gated delta rule.

While a model is traced each recurrence is one opaque operation, which OpenVINO's converter then asks this
module to build: a TensorIterator over slices, or the Loop that its plugins replace by their GatedDeltaNet
kernel (`GatedDeltaNetFusion` in OpenVINO's common transformations).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend.pytorch import ConversionExtension, ModuleExtension
from torch import Tensor, nn
from transformers.activations import ACT2FN

from kl_lens_desktop.export.convolution import Convolutions, ShortConvolution
from kl_lens_desktop.export.dual import DualScan, DualScans, DualState, dual_parts, dual_state
from kl_lens_desktop.export.lru import LinearRecurrence, linear_recurrence
from kl_lens_desktop.export.padding import (
    Kept,
    Order,
    Rows,
    converted_kept,
    converted_order,
    converted_rows,
)
from kl_lens_desktop.model.scan import limited_steps
from kl_lens_desktop.model.selective import gated, step_sizes


class Recurrences(nn.Module):
    """Stand-ins for the recurrences of a model that is being traced; only their shapes are real.

    Attributes
    ----------
    past : list of Tensor
        The states that the layer in turn starts from, one per head of Zamba's scan and otherwise one. The
        modelling code of Mamba-1 hands none to its scan.
    window : Tensor or None
        The last tokens that the short convolution of the layer in turn keeps, the new ones included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.past: list[Tensor] = []
        self.window: Tensor | None = None
        self._rows, self._order, self._kept = Rows(), Order(), Kept()
        self._convolution, self._dual, self._dual_state = ShortConvolution(), DualScan(), DualState()
        self._selective, self._delta, self._final = _Selective(), _Delta(), _Final()
        self._linear = LinearRecurrence()

    def begin(self, input_ids: Tensor, attention_mask: Tensor, beam_idx: Tensor) -> None:
        """What all layers of one call share."""
        self._input_ids, self._attention_mask = input_ids, attention_mask
        self.parts = dual_parts(input_ids, beam_idx)
        self._orders: dict[int, Tensor] = {}

    def windowed(self, past: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """What a short convolution reads, (batch, taps + tokens, channels), and the window it keeps."""
        full = torch.cat([past, new], 1)
        taps = int(past.shape[1])
        self.window = self._rows(full, self._places(taps)[:, -taps:])
        return full, self.window

    def _places(self, taps: int) -> Tensor:
        if taps not in self._orders:
            self._orders[taps] = self._order(self._input_ids, self._attention_mask, torch.tensor(taps))
        return self._orders[taps]

    def tokens(self) -> Tensor:
        """1 for the tokens of this call and 0 for padding, (batch, tokens, 1)."""
        kept: Tensor = self._kept(next(iter(self._orders.values())), self._input_ids)
        return kept

    def convolution(
        self,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        **_: Any,
    ) -> Tensor:
        """In place of ``causal_conv1d_fn``: (batch, channels, kept + new) to (batch, channels, new)."""
        silu = activation in ("silu", "swish")
        bias = torch.zeros(weight.shape[0]) if bias is None else bias
        y: Tensor = self._convolution(
            hidden_states,
            self.window,
            weight,
            bias,
            self.parts[0],
            self._places(int(weight.shape[1])),
            torch.tensor(int(silu)),
        )
        return y if activation is None or silu else ACT2FN[activation](y)

    def selective_scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **_: Any,
    ) -> Any:
        """In place of ``mamba_selective_scan``: see `model.selective.selective_scan`."""
        past = self.past.pop(0) if self.past else x.new_zeros(x.shape[0], x.shape[1], A.shape[1])
        steps = step_sizes(dt, delta_bias, delta_softplus).transpose(1, 2) * self.tokens()
        scaled = steps * x.transpose(1, 2)
        y = self._selective(steps, scaled, A, B.transpose(1, 2), C.transpose(1, 2), past)
        state = self._final(y, past)
        y = gated(y.transpose(1, 2), x, D, z)
        return (y, state) if return_last_state else y

    def linear_recurrence(self, a: Tensor, u: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """h = a·h + u over (batch, tokens, channels), and the last h."""
        past = u.new_zeros(u.shape[0], u.shape[2]) if past is None else past
        y = self._linear(a, u, past)
        return y, self._final(y, past)

    def dual_scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        chunk_size: int | None = None,
        *,
        D: Tensor | None = None,
        dt_bias: Tensor | None = None,
        initial_states: Tensor | None = None,
        dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        return_final_states: bool = False,
        **_: Any,
    ) -> Any:
        """In place of ``mamba2_chunk_scan``: see `model.scan.scan`."""
        heads, head_size, groups, size = (int(n) for n in (*x.shape[2:], *B.shape[2:]))
        dt = limited_steps(dt, dt_bias, dt_softplus, dt_limit)
        past = initial_states
        if past is None:
            past = x.new_zeros(x.shape[0], heads * head_size, size)
        sizes = torch.tensor([heads, head_size, groups, size])
        skip = torch.zeros(heads) if D is None else D
        y = self._dual(x, dt, A, B, C, skip, past, *self.parts, self.tokens(), sizes)
        state = self._dual_state(y, past)
        return (y, state) if return_final_states else y

    def delta_rule(
        self,
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
            query, key = (
                t * (1 / torch.sqrt((t * t).sum(dim=-1, keepdim=True) + 1e-6)) for t in (query, key)
            )
        if initial_state is None:
            initial_state = value.new_zeros(value.shape[0], value.shape[1], key.shape[3], value.shape[3])
        y = self._delta(query, key, value, g.transpose(1, 2), beta.transpose(1, 2), initial_state)
        return y.transpose(1, 2), self._final(y, initial_state)


def recurrence_extensions() -> tuple[dict[type[nn.Module], Any], list[Any]]:
    """What OpenVINO's converter needs: the stand-ins, and what each is built from."""
    convolutions = Convolutions()
    built: list[tuple[type[nn.Module], str, Callable[[Any], list[ov.Output]]]] = [
        (ShortConvolution, "kl_lens.short_convolution", convolutions.build),
        (DualScan, "kl_lens.dual_scan", DualScans(convolutions).build),
        (DualState, "kl_lens.dual_state", dual_state),
        (_Selective, "kl_lens.selective_scan", _selective_loop),
        (_Delta, "kl_lens.delta_rule", _delta_loop),
        (_Final, "kl_lens.final_state", _final_state),
        (LinearRecurrence, "kl_lens.linear_recurrence", linear_recurrence),
        (Order, "kl_lens.order", converted_order),
        (Kept, "kl_lens.kept", converted_kept),
        (Rows, "kl_lens.rows", converted_rows),
    ]
    modules = {module: ModuleExtension(module, name) for module, name, _ in built}
    return modules, [ConversionExtension(name, build) for _, name, build in built]


class _Selective(nn.Module):
    def forward(self, steps: Tensor, scaled: Tensor, A: Tensor, B: Tensor, C: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(scaled)


class _Delta(nn.Module):
    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, past: Tensor
    ) -> Tensor:
        return torch.zeros_like(value)


class _Final(nn.Module):
    def forward(self, y: Tensor, past: Tensor) -> Tensor:
        return torch.zeros_like(past)


def _final_state(context: Any) -> list[ov.Output]:
    return [context.get_input(0).get_node().output(1)]


def _selective_loop(context: Any) -> list[ov.Output]:
    steps, scaled, A, B, C, past = (context.get_input(i) for i in range(6))
    channels, size = A.get_shape()
    step_t, scaled_t = (ops.parameter([-1, 1, channels], np.float32) for _ in range(2))
    b_t, c_t = (ops.parameter([-1, 1, size], np.float32) for _ in range(2))
    a, state = ops.parameter([channels, size], np.float32), ops.parameter([-1, channels, size], np.float32)
    column = ops.constant(np.array([0, -1, 1]))
    decay = ops.exp(ops.multiply(ops.reshape(step_t, column, True), a))
    update = ops.multiply(ops.reshape(scaled_t, column, True), b_t)
    new = ops.add(ops.multiply(state, decay), update)
    y = ops.matmul(c_t, new, False, True)  # (b, 1, channels)
    loop = ops.tensor_iterator()
    loop.set_function(ov.Model([y, new], [step_t, scaled_t, b_t, c_t, a, state]))
    for parameter, value in ((step_t, steps), (scaled_t, scaled), (b_t, B), (c_t, C)):
        loop.set_sliced_input(parameter, value, 0, 1, 1, -1, 1)
    loop.set_invariant_input(a, A)
    loop.set_merged_input(state, past, new.output(0))
    loop.get_concatenated_slices(y.output(0), 0, 1, 1, -1, 1)
    loop.get_iter_value(new.output(0), -1)
    return [loop.output(0)]


def _delta_loop(context: Any) -> list[ov.Output]:
    """The loop in the one form that `GatedDeltaNetFusion` knows, scaling of the query included."""
    query, key, value, g, beta, past = (context.get_input(i) for i in range(6))
    axis = {name: ops.constant(np.int64(n)) for name, n in (("token", 2), ("last", -1), ("key", -2))}
    first = ops.constant(np.int64(0))
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
    out = ops.scatter_update(written, ops.unsqueeze(step, first), y, axis["token"])
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
