"""The recurrences of a model that is being traced, and the gated delta rule as a loop in the graph.

Each recurrence is traced as one opaque operation, which OpenVINO's converter then asks `export.dual`,
`export.selective` or this module to build. The gated delta rule is the Loop that OpenVINO's plugins replace
by their GatedDeltaNet kernel (`GatedDeltaNetFusion` in its common transformations).
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
from kl_lens_desktop.export.dual import DualScan, DualScans, DualState, dual_state, shared_parts
from kl_lens_desktop.export.selective import SelectiveScan, SelectiveScans, SelectiveState
from kl_lens_desktop.model.scan import limited_steps


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
        self.parts = shared_parts(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        self._convolution, self._dual, self._dual_state = ShortConvolution(), DualScan(), DualState()
        self._selective, self._selective_state = SelectiveScan(), SelectiveState()
        self._delta, self._final = _Delta(), _Final()

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
        parts = self.parts
        y: Tensor = self._convolution(
            hidden_states,
            self.window,
            weight,
            bias,
            parts.length,
            parts.batch,
            parts.one,
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
        *,
        z: Tensor,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **_: Any,
    ) -> Any:
        """In place of ``mamba_selective_scan``: see `model.selective.selective_scan`."""
        past = self.past.pop(0) if self.past else x.new_zeros(x.shape[0], x.shape[1], A.shape[1])
        bias, skip = (x.new_zeros(x.shape[1]) if value is None else value for value in (delta_bias, D))
        parts = self.parts
        softplus = torch.tensor(int(delta_softplus))
        y = self._selective(
            x, dt, A, B, C, skip, z, bias, past, parts.length, parts.batch, parts.one, softplus
        )
        state = self._selective_state(y, past)
        return (y, state) if return_last_state else y

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
        y = self._dual(x, dt, A, B, C, skip, past, *self.parts, sizes)
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
    convolutions, selective = Convolutions(), SelectiveScans()
    built: list[tuple[type[nn.Module], str, Callable[[Any], list[ov.Output]]]] = [
        (ShortConvolution, "kl_lens.short_convolution", convolutions.build),
        (DualScan, "kl_lens.dual_scan", DualScans(convolutions).build),
        (DualState, "kl_lens.dual_state", dual_state),
        (SelectiveScan, "kl_lens.selective_scan", selective.build),
        (SelectiveState, "kl_lens.selective_state", selective.state),
        (_Delta, "kl_lens.delta_rule", _delta_loop),
        (_Final, "kl_lens.final_state", _final_state),
    ]
    modules = {module: ModuleExtension(module, name) for module, name, _ in built}
    return modules, [ConversionExtension(name, build) for _, name, build in built]


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
    # A constant of the body's own: NNCF stumbles over one that the graph around it has too.
    out = ops.scatter_update(written, ops.unsqueeze(step, ops.constant(np.int64(0))), y, axis["token"])
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
