"""Phi-4-mini-flash: Mamba and differential attention, whose values later blocks share (SambaY).

Ren et al., "Decoder-Hybrid-Decoder Architecture for Efficient Reasoning with Long Generation", arXiv
2507.06607; Ye et al., "Differential Transformer", arXiv 2410.05258. Names of the tensors and what the papers
leave open are those of the checkpoint microsoft/Phi-4-mini-flash-reasoning and its config.json. The
repository's code is neither run nor copied.

The first half of the blocks alternates Mamba and differential attention to a window of tokens. Two blocks
follow whose values the others read: Mamba, of which the scan's outputs are the memory, and attention to all
tokens. The rest alternates gated memory units and attention with the keys and values of that block.

A block is a function of what the one before it gives. So blocks hand on what later ones read, as further
channels behind the hidden state: see `Phi4FlashConfig.channels`. Of tokens in a cache no values are handed
on, and later blocks read them from the cache.
"""

import math
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

_EPS = 1e-5  # of the norm after the difference, whatever the configuration says


@strict
class Phi4FlashConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """The fields of the published config.json, with the defaults of its configuration class.

    Raises
    ------
    ModelError
        For what the published code does not compute.
    """

    model_type = "phi4flash"

    vocab_size: int = 51200
    hidden_size: int = 2560
    intermediate_size: int = 9216
    num_hidden_layers: int = 32
    num_attention_heads: int = 40
    num_key_value_heads: int = 4
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    tie_word_embeddings: bool = True
    sliding_window: int = 2047
    mb_per_layer: int = 2
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        rank = -(-self.hidden_size // 16)
        if self.mamba_dt_rank == "auto":
            self.mamba_dt_rank = rank
        self.layer_types = [self._layer_type(layer) for layer in range(self.num_hidden_layers)]
        super().__post_init__(**kwargs)
        assumed = {
            "mb_per_layer": 2,
            "hidden_act": "silu",
            "mamba_dt_rank": rank,
            "mamba_conv_bias": True,
            "mamba_proj_bias": False,
            "mlp_bias": False,
            "lm_head_bias": False,
        }
        if odd := [name for name, value in assumed.items() if getattr(self, name) != value]:
            raise _refused(
                f"sets {odd[0]} to {getattr(self, odd[0])!r}, which its authors' code does not use"
            )
        if self.num_hidden_layers % 4 or self.num_hidden_layers < 4:
            raise _refused(f"asks for {self.num_hidden_layers} layers, which are not a multiple of four")
        heads, keys = self.num_attention_heads, self.num_key_value_heads
        if keys < 2 or keys % 2 or heads % keys or self.hidden_size % heads:
            raise _refused(f"asks for {heads} heads and {keys} of keys, which do not make pairs")

    def _layer_type(self, layer: int) -> str:
        if layer % 2 == 0:
            return "linear_attention"
        return "sliding_attention" if layer < self.last_mamba else "full_attention"

    @property
    def last_mamba(self) -> int:
        """The layer whose scan is the memory; the next one computes the keys and values of later ones."""
        return self.num_hidden_layers // 2

    @property
    def kv_sharing_modes(self) -> list[str]:
        """For the cache: which layers keep nothing of their own there."""
        own = self.last_mamba + 2
        return ["none"] * own + ["reuse"] * (self.num_hidden_layers - own)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def intermediate(self) -> int:
        """Channels of the Mamba heads and of the memory."""
        return self.mamba_expand * self.hidden_size

    def channels(self, layer: int) -> list[int]:
        """Of the hidden state, the memory, the keys and the values that a layer is given, as far as it is."""
        shared = [self.intermediate, *2 * [self.num_key_value_heads * self.head_dim]]
        return [self.hidden_size, *shared[: {0: 0, 1: 1}.get(max(layer - self.last_mamba, 0), 3)]]

    @property
    def block_channels(self) -> list[int]:
        """Of the input of each block."""
        return [sum(self.channels(layer)) for layer in range(self.num_hidden_layers)]


def _refused(why: str) -> ModelError:
    return ModelError(
        "Cannot open the model", f"its config.json {why}", "Report it, with the name of the model"
    )


class Phi4FlashMLP(nn.Module):
    """A gated perceptron, arXiv 2002.05202; the gate's rows come first."""

    def __init__(self, config: Phi4FlashConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        y: Tensor = self.fc2(F.silu(gate) * value)
        return y


class Phi4FlashMamba(nn.Module):
    """Mamba-1, arXiv 2312.00752. The last one's scan, before its gate, is the memory of later blocks."""

    def __init__(self, config: Phi4FlashConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.remembered = layer, layer == config.last_mamba
        inner, self.rank, self.size = config.intermediate, int(config.mamba_dt_rank), config.mamba_d_state
        self.in_proj = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.mamba_d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * self.size, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        rates = torch.arange(1, self.size + 1).float().expand(inner, -1).contiguous()
        self.A_log, self.D = nn.Parameter(rates.log()), nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(
        self, u: Tensor, shared: list[Tensor], masks: Masks, cache: Any
    ) -> tuple[Tensor, list[Tensor]]:
        del shared, masks
        x, z = self.in_proj(u).chunk(2, -1)
        y = self._scan(x, cache)
        return self.out_proj(y * F.silu(z)), [y] if self.remembered else []

    def _scan(self, x: Tensor, cache: Any) -> Tensor:
        """(batch, tokens, channels): the short convolution and the selective scan."""
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
        dt, B, C = self.x_proj(x.transpose(1, 2)).split([self.rank, self.size, self.size], -1)
        dt = self.dt_proj.weight @ dt.transpose(1, 2)
        rates, skip, step = -self.A_log.float().exp(), self.D.float(), self.dt_proj.bias.float()
        if single:
            one: Tensor = mamba_selective_state_update(
                state, x[..., 0], dt[..., 0], rates, B[:, 0], C[:, 0], skip,
                z=None, dt_bias=step, dt_softplus=True,
            )  # fmt: skip
            return one[:, None]
        scanned = mamba_selective_scan(
            x, dt, rates, B.transpose(1, 2), C.transpose(1, 2), D=skip, z=None,
            delta_bias=step, delta_softplus=True, return_last_state=cache is not None, initial_state=state,
        )  # fmt: skip
        y: Tensor = scanned if cache is None else scanned[0]
        if cache is not None:
            cache.update_recurrent_state(scanned[1], self.layer)
        return y.transpose(1, 2).to(self.out_proj.weight.dtype)


class Phi4FlashMemoryUnit(nn.Module):
    """The memory, gated by each token: section 2 of arXiv 2507.06607."""

    def __init__(self, config: Phi4FlashConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.hidden_size, config.intermediate, bias=False)
        self.out_proj = nn.Linear(config.intermediate, config.hidden_size, bias=False)

    def forward(
        self, u: Tensor, shared: list[Tensor], masks: Masks, cache: Any
    ) -> tuple[Tensor, list[Tensor]]:
        del masks, cache
        return self.out_proj(F.silu(self.in_proj(u)) * shared[0]), []


class Phi4FlashDifference(nn.Module):
    """What one softmax of a pair of heads sees, less a learned share of what the other does.

    Section 2.1 of arXiv 2410.05258.
    """

    def __init__(self, size: int, layer: int) -> None:
        super().__init__()
        self.start = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.zeros(size)) for _ in range(4)
        )
        self.subln = RMSNorm(2 * size, _EPS)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        share = (self.lambda_q1 * self.lambda_k1).sum().exp() - (self.lambda_q2 * self.lambda_k2).sum().exp()
        y: Tensor = self.subln(first - (share + self.start) * second) * (1 - self.start)
        return y


class Phi4FlashAttention(nn.Module):
    """Differential attention without positions; with `crosses`, to the keys and values of another block."""

    def __init__(self, config: Phi4FlashConfig, layer: int) -> None:
        super().__init__()
        self.source = config.last_mamba + 1
        self.layer, self.crosses, self.local = layer, layer > self.source, layer < self.source
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        hidden, keys = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.cuts = [hidden] if self.crosses else [hidden, keys, keys]
        self.Wqkv = nn.Linear(hidden, sum(self.cuts))
        self.inner_cross_attn = Phi4FlashDifference(config.head_dim, layer)
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(
        self, u: Tensor, shared: list[Tensor], masks: Masks, cache: Any
    ) -> tuple[Tensor, list[Tensor]]:
        query, *own = self.Wqkv(u).split(self.cuts, -1)
        if self.crosses and cache is not None:
            held = cache.layers[self.source]
            keys, values = held.keys, held.values
        else:
            flat_keys, flat_values = own or shared[1:]
            keys, values = _by_half(flat_keys, self.key_heads), _by_pair(flat_values, self.key_heads)
            if cache is not None:
                keys, values = cache.update(keys, values, self.layer)
        mask = masks.every
        if self.local:
            mask = masks.local
            if mask is not None and mask.shape[-1] > keys.shape[2]:  # a cache of the window's tokens alone
                mask = mask[..., -keys.shape[2] :]
        times = self.heads // self.key_heads
        both = F.scaled_dot_product_attention(
            _by_half(query, self.heads), repeated(keys, times), repeated(values, times),
            attn_mask=mask, is_causal=mask is None and query.shape[1] > 1,
        )  # fmt: skip
        seen = self.inner_cross_attn(*both.chunk(2, 1))
        return self.out_proj(seen.transpose(1, 2).flatten(-2)), own if self.layer == self.source else []


class Phi4FlashDecoderLayer(nn.Module):
    """A mixer and a perceptron, each behind a norm and added to what it was given.

    Its input and output are the hidden state and, side by side with it, what later layers read.
    """

    def __init__(self, config: Phi4FlashConfig, layer: int) -> None:
        super().__init__()
        self.channels, self.is_last = config.channels(layer), layer == config.num_hidden_layers - 1
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        if layer % 2:
            self.attn: nn.Module = Phi4FlashAttention(config, layer)
        elif layer <= config.last_mamba:
            self.attn = Phi4FlashMamba(config, layer)
        else:
            self.attn = Phi4FlashMemoryUnit(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Phi4FlashMLP(config)

    def forward(self, hidden_states: Tensor, masks: Masks, cache: Any = None) -> Tensor:
        hidden, *shared = torch.split(hidden_states, self.channels, -1)
        mixed, made = self.attn(self.input_layernorm(hidden), shared, masks, cache)
        hidden = hidden + mixed
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return hidden if self.is_last else torch.cat([hidden, *shared, *made], -1)


class Phi4FlashPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    config_class = Phi4FlashConfig
    base_model_prefix = "model"
    _no_split_modules = ("Phi4FlashDecoderLayer",)
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, Phi4FlashDifference):
            for each in (module.lambda_q1, module.lambda_k1, module.lambda_q2, module.lambda_k2):
                nn.init.normal_(each, std=0.1)


class Phi4FlashModel(Phi4FlashPreTrainedModel):
    """Embeddings, the blocks and the last norm. There are no positions."""

    def __init__(self, config: Phi4FlashConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [Phi4FlashDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)]
        )
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | Mapping[str, Tensor | None] | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        cache = past_key_values if use_cache else None
        hidden = self.embed_tokens(input_ids)
        if isinstance(attention_mask, Mapping):
            masks = Masks(attention_mask["full_attention"], attention_mask["sliding_attention"])
        else:
            past = 0 if cache is None else int(cache.get_seq_length(self.config.last_mamba + 1))
            masks = self._masks(hidden, attention_mask, past)
        for block in self.layers:
            hidden = block(hidden, masks, cache)
        hidden = self.final_layernorm(hidden)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _masks(self, hidden: Tensor, attention_mask: Tensor | None, past: int) -> Masks:
        """For new tokens behind `past` others."""
        new, window = hidden.shape[1], self.config.sliding_window
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("rows of unequal length: give them one by one")
        if (not past or new == 1) and past + new <= window:
            return Masks(None, None)
        place = torch.arange(past + new, device=hidden.device)
        age = place[past:, None] - place
        low = torch.finfo(hidden.dtype).min
        every, local = (
            torch.where(seen, 0.0, low).to(hidden.dtype)[None, None]
            for seen in (age >= 0, (age >= 0) & (age < window))
        )
        return Masks(every, local)


class Phi4FlashForCausalLM(WithHead, Phi4FlashPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    def __init__(self, config: Phi4FlashConfig) -> None:
        super().__init__(config)
        self.model = Phi4FlashModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def names(config: Phi4FlashConfig) -> Callable[[str], str]:
    """From what the checkpoint calls a tensor to its name here: the same."""
    del config
    return lambda name: name


def register() -> None:
    """Let transformers find the architecture by its ``model_type``."""
    AutoConfig.register(Phi4FlashConfig.model_type, Phi4FlashConfig, exist_ok=True)
    AutoModelForCausalLM.register(Phi4FlashConfig, Phi4FlashForCausalLM, exist_ok=True)


def _by_half(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads · size) to (batch, heads, tokens, size), the first of all pairs first."""
    batch, tokens, channels = x.shape
    paired = x.reshape(batch, tokens, heads // 2, 2, channels // heads)
    return paired.permute(0, 3, 2, 1, 4).reshape(batch, heads, tokens, channels // heads)


def _by_pair(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads · size) to (batch, heads, tokens, 2 · size).

    A pair is one, which stands with the first of each pair of keys, and again with the others.
    """
    pairs = x.reshape(*x.shape[:2], heads // 2, -1).transpose(1, 2)
    return torch.cat([pairs, pairs], 1)


register()
