"""Granite 4 hybrid (Mamba-2 and attention, with or without experts)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "shared_intermediate_size": 96,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "position_embedding_type": "rope",
    "tie_word_embeddings": True,
}
FAMILY = Family(
    model_type="granitemoehybrid",
    title="Granite 4 hybrid (Mamba-2 and attention, with or without experts)",
    kernels=("short_convolution", "chunk_scan"),
    mixers={
        "GraniteMoeHybridMambaLayer": "ssm",
        "GraniteMoeHybridAttention": "attention",
        "GraniteMoeHybridMLP": "mlp",
        "GraniteMoeHybridMoE": "mlp",
    },
    checkpoints=(
        "ibm-granite/granite-4.0-h-350m",
        "ibm-granite/granite-4.0-h-1b",
        "ibm-granite/granite-4.0-h-micro",
        "ibm-granite/granite-4.0-h-tiny",
        "ibm-granite/granite-4.0-h-small",
    ),
    tiny={
        "": _TINY,
        "with experts": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 2,
            "mamba_chunk_size": 16,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
            "shared_intermediate_size": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "position_embedding_type": None,
            "tie_word_embeddings": False,
        },
    },
    variations={
        "with attention alone": {**_TINY, "layer_types": ["full_attention"] * 4},
        "with groups, scaled, untied": {
            **_TINY,
            "mamba_n_groups": 4,
            "position_embedding_type": None,
            "tie_word_embeddings": False,
            "mamba_proj_bias": True,
            "attention_bias": True,
            "logits_scaling": 3.0,
            "residual_multiplier": 0.7,
            "embedding_multiplier": 2.0,
        },
    },
)
