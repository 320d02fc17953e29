"""Small models of other architectures, built from configurations, in folders like those of the Hub."""

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kl_lens_desktop import resources

VOCABULARY = 4096  # the sample's, so that its tokenizer serves
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
_RECURRENT, _FULL = "linear_attention", "full_attention"
_JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8}
_NEMOTRON = {
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 16,
    "head_dim": 16,
}
_DELTA = {
    "layer_types": [_RECURRENT, _RECURRENT, _FULL, _RECURRENT],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "head_dim": 16,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {
        **_ATTENTION,
        **_MAMBA2,
        "layer_types": [_RECURRENT, _RECURRENT, _FULL, _RECURRENT],
        "shared_intermediate_size": 96,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        "tie_word_embeddings": True,
    },
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "n_groups": 2,
        "chunk_size": 16,
        "expand": 2,
        "tie_word_embeddings": False,
    },
    "bamba": {**_ATTENTION, **_MAMBA2, "attn_layer_indices": [2]},
    "zamba2": {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
        "layers_block_type": [_RECURRENT, _RECURRENT, "hybrid", _RECURRENT, _RECURRENT, "hybrid"],
        "chunk_size": 16,
        "use_mem_rope": True,
        "adapter_rank": 8,
    },
    "falcon_h1": {**_ATTENTION, **_MAMBA2, "mamba_d_ssm": 128, "head_dim": 16},
    "lfm2": {
        **_ATTENTION,
        "layer_types": ["conv", "conv", _FULL, "conv"],
        "block_ff_dim": 96,
        "block_multiple_of": 8,
    },
    "mamba": {"state_size": 8, "tie_word_embeddings": True},
    "falcon_mamba": {"state_size": 8, "use_conv_bias": True, "tie_word_embeddings": False},
    "zamba": {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
    },
    "jamba": {**_ATTENTION, **_JAMBA, "num_experts": 1, "num_experts_per_tok": 1},
    "jamba with experts": {**_ATTENTION, **_JAMBA, "num_experts": 4, "num_experts_per_tok": 2},
    "granitemoehybrid with experts": {
        **_ATTENTION,
        **{**_MAMBA2, "mamba_n_groups": 2},
        "layer_types": [_RECURRENT, _FULL, _RECURRENT, _RECURRENT],
        "shared_intermediate_size": 96,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "position_embedding_type": None,
        "tie_word_embeddings": False,
    },
    "nemotron_h": {**_ATTENTION, **_NEMOTRON, "hybrid_override_pattern": "M-*M"},
    "nemotron_h with experts": {
        **_ATTENTION,
        **_NEMOTRON,
        "hybrid_override_pattern": "ME*E",
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 32,
        "moe_latent_size": 32,
    },
    "lfm2_moe with experts": {
        **_ATTENTION,
        "layer_types": ["conv", "conv", _FULL, "conv"],
        "num_dense_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "lfm3": {**_ATTENTION, "layer_types": ["conv", "conv", _FULL, "conv"]},
    "qwen3_5_text": {**_ATTENTION, **_DELTA},
    "qwen3_5_moe_text with experts": {
        **_ATTENTION,
        **_DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3_next": {**_ATTENTION, **_DELTA, "num_experts": 0, "mlp_only_layers": [0, 1, 2, 3]},
    "qwen3_next with experts": {
        **_ATTENTION,
        **_DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "recurrent_gemma": {
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 192,
        "attention_window_size": 24,
    },
    "olmo_hybrid": {**_ATTENTION, "layer_types": [_RECURRENT, _RECURRENT, _FULL, _RECURRENT]},
}


# The same families once more, with what else their configurations allow: for the exporter's test only.
VARIATIONS: dict[str, dict[str, Any]] = {
    "granitemoehybrid with groups, scaled, untied": {
        **CONFIGURATIONS["granitemoehybrid"],
        "mamba_n_groups": 4,
        "mamba_proj_bias": True,
        "attention_bias": True,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.7,
        "embedding_multiplier": 2.0,
        "position_embedding_type": None,
        "tie_word_embeddings": False,
    },
    "mamba2 with a group a head, biases, tied": {
        **CONFIGURATIONS["mamba2"],
        "n_groups": 8,
        "use_bias": True,
        "use_conv_bias": False,
        "tie_word_embeddings": True,
    },
    "bamba with groups, tied": {
        **CONFIGURATIONS["bamba"],
        "mamba_n_groups": 2,
        "mamba_proj_bias": True,
        "tie_word_embeddings": True,
    },
    "falcon_h1 with groups, gated norm, scaled": {
        **CONFIGURATIONS["falcon_h1"],
        "mamba_n_groups": 2,
        "mamba_rms_norm": True,
        "lm_head_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "key_multiplier": 0.5,
        "attention_out_multiplier": 0.8,
        "ssm_in_multiplier": 1.3,
        "ssm_out_multiplier": 0.7,
        "ssm_multipliers": [0.9, 0.6, 1.4, 1.2, 0.8],
        "mlp_multipliers": [0.8, 0.5],
        "tie_word_embeddings": True,
    },
    "lfm2 with biases, untied": {
        **CONFIGURATIONS["lfm2"],
        "conv_bias": True,
        "conv_L_cache": 4,
        "tie_word_embeddings": False,
    },
    "mamba with biases, untied": {
        **CONFIGURATIONS["mamba"],
        "use_bias": True,
        "use_conv_bias": False,
        "tie_word_embeddings": False,
    },
    "jamba tied": {**CONFIGURATIONS["jamba"], "mamba_proj_bias": True, "tie_word_embeddings": True},
    "nemotron_h with one group, tied": {
        **CONFIGURATIONS["nemotron_h"],
        "n_groups": 1,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    "qwen3_next tied": {**CONFIGURATIONS["qwen3_next"], "tie_word_embeddings": True},
    "recurrent_gemma wide, untied": {
        **CONFIGURATIONS["recurrent_gemma"],
        "num_key_value_heads": 2,
        "lru_width": 128,
        "conv1d_width": 3,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "olmo_hybrid tied": {**CONFIGURATIONS["olmo_hybrid"], "tie_word_embeddings": True},
}


def build(family: str, **changes: Any) -> PreTrainedModel:
    """A model with random weights, the same at every call; `family` is a key of one of the tables."""
    chosen = CONFIGURATIONS.get(family) or VARIATIONS[family]
    config = CONFIG_MAPPING[family.split()[0]](**{**_COMMON, **chosen, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        _make_random(parameter.data, name, generator)
    return model


def _make_random(values: torch.Tensor, name: str, generator: torch.Generator) -> None:
    """Random weights with which logits depend on the recurrent states of dozens of tokens ago.

    As transformers makes them, a lost state of Mamba-2 changes logits by less than a thousandth.
    """
    if "A_log" in name:
        values.uniform_(0.05, 1.0, generator=generator).log_()
    elif name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_bias")):
        values.fill_(-1.0)
    elif "conv" in name and values.dim() == 3:
        values.normal_(0, 0.3, generator=generator)
    elif values.dim() >= 2:
        # A block adds little to what it reads, else a rounding error grows from block to block.
        adds = re.search(r"out_proj|o_proj|linear_out|down_proj|output_linear|\bw2\b", name)
        values.normal_(0, 0.02 if adds else 0.08, generator=generator)


def build_folder(family: str, folder: Path, **changes: Any) -> Path:
    """The same as a folder, with the sample's tokenizer."""
    build(family, **changes).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(resources.path("sample-hybrid", name), folder / name)
    return folder


def build_deep_sample(folder: Path, times: int = 3) -> Path:
    """The sample with every block `times` over, at a fraction of its strength: trained weights, 24 blocks."""
    model = AutoModelForCausalLM.from_pretrained(resources.path("sample-hybrid"))
    config = model.config
    deep = type(config).from_dict(
        {
            **config.to_dict(),
            "num_hidden_layers": times * config.num_hidden_layers,
            "layer_types": [kind for kind in config.layer_types for _ in range(times)],
            "residual_multiplier": config.residual_multiplier / times,
        }
    )
    made = AutoModelForCausalLM.from_config(deep).eval()
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[:2] != ["model", "layers"]:
            state[name] = value
            continue
        for copy in range(times):
            state[".".join([*parts[:2], str(times * int(parts[2]) + copy), *parts[3:]])] = value.clone()
    made.load_state_dict(state)
    made.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(resources.path("sample-hybrid", name), folder / name)
    return folder
