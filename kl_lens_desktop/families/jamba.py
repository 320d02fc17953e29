"""Jamba (Mamba, attention and experts)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 8,
    "num_experts": 1,
    "num_experts_per_tok": 1,
}
FAMILY = Family(
    model_type="jamba",
    title="Jamba (Mamba, attention and experts)",
    kernels=("short_convolution", "selective_scan"),
    mixers={
        "JambaMambaMixer": "ssm",
        "JambaAttention": "attention",
        "JambaMLP": "mlp",
        "JambaSparseMoeBlock": "mlp",
    },
    checkpoints=(
        "ai21labs/AI21-Jamba-Reasoning-3B",
        "ai21labs/Jamba-v0.1",
        "ai21labs/AI21-Jamba-Mini-1.6",
    ),
    tiny={
        "": _TINY,
        "with experts": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    },
    variations={
        "tied": {
            **_TINY,
            "mamba_proj_bias": True,
            "tie_word_embeddings": True,
        },
    },
)
