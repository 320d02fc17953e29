"""Hymba: attention and Mamba heads side by side in every layer, behind learned meta tokens.

Dong et al., "Hymba: A Hybrid-head Architecture for Small Language Models", arXiv 2411.13676; names of the
tensors, sizes and what the paper leaves open are those of the checkpoint nvidia/Hymba-1.5B-Base and its
config.json. The repository's code is neither run nor copied. Where it differs from itself, this follows its
parallel pass: a local layer sees a token at a distance of `sliding_window`, which its cached decoding forgets
one token earlier.

Layers that share keys and values are one block here, a `HymbaGroup`: what the first of them computes is read
by the others, so that a block is still a function of its input.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.jamba.modeling_jamba import (
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba_selective_scan,
    mamba_selective_state_update,
)

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.families.own.parts import Masks, RMSNorm, WithHead, repeated

_NTK_FACTOR = 2  # of the published code, whatever the configuration says
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


@strict
class HymbaConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """The fields of the published config.json, with the defaults of its configuration class.

    Raises
    ------
    ModelError
        For what the published checkpoints do not use, and is not implemented here.
    """

    model_type = "hymba"

    vocab_size: int = 65536
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    kq_head_dim: int = -1
    attn_hidden_size: int = -1
    kq_norm: str | None = None
    hidden_act: str = "silu"
    mlp_hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 262144
    orig_max_position_embeddings: int | None = None
    rope: bool = False
    rope_theta: float = 10000.0
    rope_type: str | None = None
    sliding_window: int | None = None
    global_attn_idx: list[int] | None = None
    kv_reuse_group: list[list[int]] | None = None
    kv_reuse_every_i_layer: int = -1
    num_memory_tokens: int = 0
    memory_tokens_interspersed_every: int = 0
    num_experts: int = 1
    num_mamba: int = 1
    mamba_expand: int = 2
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    mamba_inner_layernorms: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.mamba_dt_rank == "auto":
            self.mamba_dt_rank = -(-self.hidden_size // 16)
        self.layer_types = ["linear_attention"] * self.num_hidden_layers
        for producer, *_ in self.groups:
            self.layer_types[producer] = "hybrid"
        super().__post_init__(**kwargs)
        odd = [name for name, (value, usual) in self._assumed().items() if value not in usual]
        if odd:
            raise ModelError(
                "Cannot open the model",
                f"its config.json sets {odd[0]} to {getattr(self, odd[0])!r}, which no published Hymba does",
                "Report it, with the name of the model",
            )

    def _assumed(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        return {
            "kq_norm": (self.kq_norm, (None, "none")),
            "rope": (self.rope, (True,)),
            "rope_type": (self.rope_type, (None, "default", "ntk")),
            "attn_hidden_size": (self.attn_hidden_size, (-1, 0, self.hidden_size)),
            "kv_reuse_every_i_layer": (self.kv_reuse_every_i_layer, (-1,)),
            "memory_tokens_interspersed_every": (self.memory_tokens_interspersed_every, (0,)),
            "num_experts": (self.num_experts, (1,)),
            "num_mamba": (self.num_mamba, (1,)),
            "mamba_inner_layernorms": (self.mamba_inner_layernorms, (True,)),
            "mlp_hidden_act": (self.mlp_hidden_act, ("silu",)),
            "hidden_act": (self.hidden_act, ("silu",)),
        }

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The layers of each block: those that share keys and values, the one that computes them first."""
        first = {group[0]: tuple(group) for group in self.kv_reuse_group or ()}
        found, layer = list[tuple[int, ...]](), 0
        while layer < self.num_hidden_layers:
            group = first.get(layer, (layer,))
            if group != tuple(range(layer, layer + len(group))) or group[-1] >= self.num_hidden_layers:
                raise ModelError(
                    "Cannot open the model",
                    f"its config.json shares keys and values among the layers {list(group)}, which do not "
                    "follow one another",
                    "Download the model again",
                )
            found.append(group)
            layer += len(group)
        return found

    @property
    def head_dim(self) -> int:
        """Of queries and keys."""
        return self.kq_head_dim if self.kq_head_dim > 0 else self.hidden_size // self.num_attention_heads

    @property
    def intermediate(self) -> int:
        """Channels of the Mamba heads, and of the attention heads' outputs together."""
        return self.mamba_expand * self.hidden_size

    @property
    def window_keys(self) -> int | None:
        """How many tokens a local layer sees, itself included."""
        return None if self.sliding_window is None else self.sliding_window + 1


class HymbaMLP(nn.Module):
    """A gated perceptron, arXiv 2002.05202."""

    def __init__(self, config: HymbaConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class HymbaExperts(nn.Module):
    """One perceptron, under the name that several would have."""

    def __init__(self, config: HymbaConfig) -> None:
        super().__init__()
        self.experts = nn.ModuleList([HymbaMLP(config)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.experts[0](x)
        return y


Keys = tuple[
    Tensor, Tensor
]  # (batch, heads, tokens, head size) of keys, turned by their positions; of values


class HymbaMixer(nn.Module):
    """Attention and a Mamba-1 scan of the same input, each normalized, averaged and projected back."""

    def __init__(self, config: HymbaConfig, layer: int, *, shares: bool) -> None:
        super().__init__()
        self.layer, self.shares, self.heads = layer, shares, config.num_attention_heads
        self.key_heads, self.head_dim = config.num_key_value_heads, config.head_dim
        self.inner = config.intermediate
        self.value_dim = self.inner // self.heads
        self.rank, self.size = int(config.mamba_dt_rank), config.mamba_d_state
        queries, keys = self.heads * self.head_dim, self.key_heads * self.head_dim
        own = [] if shares else [keys, self.key_heads * self.value_dim]
        self.cuts = [queries, *own, self.inner, self.inner]
        self.local = layer not in (config.global_attn_idx or ()) and config.sliding_window is not None
        self.in_proj = nn.Linear(config.hidden_size, sum(self.cuts), bias=config.mamba_proj_bias)
        self.conv1d = nn.Conv1d(
            self.inner, self.inner, config.mamba_d_conv, groups=self.inner, bias=config.mamba_conv_bias
        )
        self.x_proj = nn.ModuleList([nn.Linear(self.inner, self.rank + 2 * self.size, bias=False)])
        self.dt_proj = nn.ModuleList([nn.Linear(self.rank, self.inner)])
        rates = torch.arange(1, self.size + 1).float().expand(self.inner, -1).contiguous()
        self.A_log = nn.ParameterList([nn.Parameter(rates.log())])
        self.D = nn.ParameterList([nn.Parameter(torch.ones(self.inner))])
        eps = config.rms_norm_eps
        self.dt_layernorm = RMSNorm(self.rank, eps)
        self.B_layernorm, self.C_layernorm = RMSNorm(self.size, eps), RMSNorm(self.size, eps)
        self.pre_avg_layernorm1 = RMSNorm(self.inner, eps)
        self.pre_avg_layernorm2 = RMSNorm(self.inner, eps)
        self.out_proj = nn.Linear(self.inner, config.hidden_size, bias=config.mamba_proj_bias)

    def forward(
        self, u: Tensor, turn: Keys, masks: Masks, cache: Any, shared: Keys | None
    ) -> tuple[Tensor, Keys]:
        parts = self.in_proj(u).split(self.cuts, -1)
        query, x, z = parts[0], parts[-2], parts[-1]
        if shared is None:
            keys = _turned(_by_head(parts[1], self.key_heads), turn)
            values = _by_head(parts[2], self.key_heads)
            shared = (keys, values) if cache is None else cache.update(keys, values, self.layer)
        seen = self._attend(_turned(_by_head(query, self.heads), turn), shared, masks)
        scanned = self._scan(x, z, cache)
        mixed = (self.pre_avg_layernorm1(seen) + self.pre_avg_layernorm2(scanned)) / 2
        return self.out_proj(mixed), shared

    def _attend(self, query: Tensor, shared: Keys, masks: Masks) -> Tensor:
        keys, values = (repeated(each, self.heads // self.key_heads) for each in shared)
        mask = masks.local if self.local else masks.every
        seen = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None and query.shape[2] > 1
        )
        return seen.transpose(1, 2).flatten(-2)

    def _scan(self, x: Tensor, z: Tensor, cache: Any) -> Tensor:
        """(batch, tokens, channels): the short convolution, the selective scan and its gate."""
        tokens = x.shape[1]
        state = None if cache is None else cache.get_recurrent_state(self.layer, state_idx=0)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x = x.transpose(1, 2)
        single = state is not None and tokens == 1
        if single and not cache.is_recording_past(self.layer):
            conv_state = cache.get_conv_state(self.layer, state_idx=0)
            x = causal_conv1d_update(x, conv_state, weight, bias, activation="silu")
        else:
            if cache is not None:
                x = cache.update_conv_state(x, self.layer, conv_kernel_size=self.conv1d.kernel_size[0])
            x = causal_conv1d_fn(x, weight, bias, activation="silu")[:, :, -tokens:]
        x = x.transpose(1, 2)
        dt, B, C = self.x_proj[0](x).split([self.rank, self.size, self.size], -1)
        dt, B, C = self.dt_layernorm(dt), self.B_layernorm(B), self.C_layernorm(C)
        dt = self.dt_proj[0].weight @ dt.transpose(1, 2)
        rates, skip, step = -self.A_log[0].float().exp(), self.D[0].float(), self.dt_proj[0].bias.float()
        x, z = x.transpose(1, 2), z.transpose(1, 2)
        if single:
            one: Tensor = mamba_selective_state_update(
                state, x[..., 0], dt[..., 0], rates, B[:, 0], C[:, 0], skip,
                z=z[..., 0], dt_bias=step, dt_softplus=True,
            )  # fmt: skip
            return one[:, None]
        scanned = mamba_selective_scan(
            x, dt, rates, B.transpose(1, 2), C.transpose(1, 2), D=skip, z=z,
            delta_bias=step, delta_softplus=True, return_last_state=cache is not None,
        )  # fmt: skip
        y: Tensor = scanned if cache is None else scanned[0]
        if cache is not None:
            cache.update_recurrent_state(scanned[1], self.layer)
        return y.transpose(1, 2).to(self.out_proj.weight.dtype)


class HymbaDecoderLayer(nn.Module):
    """Mixer and perceptron, each behind a norm and added to what it was given."""

    def __init__(self, config: HymbaConfig, layer: int, *, shares: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mamba = HymbaMixer(config, layer, shares=shares)
        self.pre_moe_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.moe = HymbaExperts(config)

    def forward(
        self, hidden: Tensor, turn: Keys, masks: Masks, cache: Any, shared: Keys | None
    ) -> tuple[Tensor, Keys]:
        mixed, shared = self.mamba(self.input_layernorm(hidden), turn, masks, cache, shared)
        hidden = hidden + mixed
        return hidden + self.moe(self.pre_moe_layernorm(hidden)), shared


class HymbaGroup(nn.Module):
    """Layers that share the keys and values of the first."""

    def __init__(self, config: HymbaConfig, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [HymbaDecoderLayer(config, layer, shares=layer != layers[0]) for layer in layers]
        )

    def forward(self, hidden_states: Tensor, turn: Keys, masks: Masks, cache: Any = None) -> Tensor:
        shared: Keys | None = None
        for layer in self.parts:
            hidden_states, shared = layer(hidden_states, turn, masks, cache, shared)
        return hidden_states


class HymbaPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    config_class = HymbaConfig
    base_model_prefix = "model"
    _no_split_modules = ("HymbaGroup",)
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, HymbaModel):
            nn.init.normal_(module.memory_tokens, std=self.config.initializer_range)


class HymbaModel(HymbaPreTrainedModel):
    """Embeddings behind the meta tokens, the blocks and the last norm.

    A cache that holds nothing yet is given the meta tokens first. Positions and masks are those of the text.
    """

    def __init__(self, config: HymbaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.memory_tokens = nn.Parameter(torch.zeros(config.num_memory_tokens, config.hidden_size))
        self.layers = nn.ModuleList([HymbaGroup(config, layers) for layers in config.groups])
        self.final_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Mapping[str, Tensor | None] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        cache = past_key_values if use_cache else None
        fresh = cache is None or not cache.layers[0].is_initialized
        past = 0 if cache is None or fresh else int(cache.get_seq_length(0))
        meta, hidden = self.config.num_memory_tokens, self.embed_tokens(input_ids)
        if isinstance(attention_mask, Mapping):  # ready ones, of the text: the meta tokens are seen by all
            every, local = (_with_meta(attention_mask[kind], meta) for kind in ("hybrid", "hybrid_sliding"))
            masks = Masks(every, local)
        else:
            masks = self._masks(hidden, attention_mask, past)
        if position_ids is None:
            start = max(past - meta, 0)
            position_ids = torch.arange(start, start + input_ids.shape[1], device=hidden.device)[None]
        places = position_ids + meta
        if fresh:
            hidden = torch.cat([self.memory_tokens.expand(len(hidden), -1, -1).to(hidden.dtype), hidden], 1)
            first = torch.arange(meta, device=hidden.device)[None].expand(len(places), -1)
            places = torch.cat([first, places], 1)
        turn = self._turn(places, hidden.dtype)
        for block in self.layers:
            hidden = block(hidden, turn, masks, cache)
        hidden = self.final_layernorm(hidden)
        if fresh:
            hidden = hidden[:, meta:]
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _turn(self, places: Tensor, dtype: torch.dtype) -> Keys:
        """Cosines and sines (batch, 1, tokens, head size) of rotary embeddings, arXiv 2104.09864.

        With the base that the published code makes of ``ntk``, whatever the length of a text.
        """
        config = self.config
        size, base = config.head_dim, config.rope_theta
        if config.rope_type == "ntk":
            longer = config.max_position_embeddings / (
                config.orig_max_position_embeddings or config.max_position_embeddings
            )
            base *= (_NTK_FACTOR * longer - (_NTK_FACTOR - 1)) ** (size / (size - 2))
        speeds = base ** (-torch.arange(0, size, 2, device=places.device).float() / size)
        angles = places[:, None, :, None].float() * speeds
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _masks(self, hidden: Tensor, attention_mask: Tensor | None, past: int) -> Masks:
        """Over all places, those of the meta tokens included; `past` of them are held already."""
        meta, window = self.config.num_memory_tokens, self.config.window_keys
        new = hidden.shape[1] + (0 if past else meta)
        total = past + new
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("rows of unequal length: give them one by one")
        if (not past or new == 1) and (window is None or total <= window):
            return Masks(None, None)
        place = torch.arange(total, device=hidden.device)
        age = place[total - new :, None] - place
        every = (age >= 0)[None, None]
        near = every if window is None else every & ((age < window) | (place < meta))
        low = torch.finfo(hidden.dtype).min
        added, nearby = (torch.where(each, 0.0, low).to(hidden.dtype) for each in (every, near))
        return Masks(added, nearby)


class HymbaForCausalLM(WithHead, HymbaPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    def __init__(self, config: HymbaConfig) -> None:
        super().__init__(config)
        self.model = HymbaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def names(config: HymbaConfig) -> Callable[[str], str]:
    """From what the checkpoint calls a tensor to its name here, where layers lie in blocks."""
    places = {
        str(layer): f"{block}.parts.{place}"
        for block, layers in enumerate(config.groups)
        for place, layer in enumerate(layers)
    }

    def name(tensor: str) -> str:
        found = _LAYER.fullmatch(tensor)
        if found is None or found[1] not in places or found[2].startswith("parts."):
            return tensor
        return f"model.layers.{places[found[1]]}.{found[2]}"

    return name


def register() -> None:
    """Let transformers find the architecture by its ``model_type``."""
    AutoConfig.register(HymbaConfig.model_type, HymbaConfig, exist_ok=True)
    AutoModelForCausalLM.register(HymbaConfig, HymbaForCausalLM, exist_ok=True)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads · size) to (batch, heads, tokens, size)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _turned(x: Tensor, turn: Keys) -> Tensor:
    cos, sin = turn
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _with_meta(mask: Tensor | None, meta: int) -> Tensor | None:
    return None if mask is None else F.pad(mask, (meta, 0))


register()
