"""Ling 3 (delta rule with decays of channels, latent attention and experts)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "mlp_layer_types": ["dense"] * 4,
    "num_mtp_layers": 0,
}
FAMILY = Family(
    model_type="bailing_hybrid",
    title="Ling 3 (delta rule with decays of channels, latent attention and experts)",
    kernels=("short_convolution", "channel_delta_rule"),
    mixers={
        "BailingHybridDeltaAttention": "ssm",
        "BailingHybridAttention": "attention",
        "BailingHybridMLP": "mlp",
        "BailingHybridMoE": "mlp",
    },
    latent=True,
    checkpoints=("inclusionAI/Ling-3.0-Flash",),
    tiny={
        "": _TINY,
        "with experts": {
            **_TINY,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
        },
    },
    variations={
        "with an unbounded gate": {**_TINY, "kda_safe_gate": False},
        "with groups of experts": {
            **_TINY,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 4,
            "topk_group": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
        },
    },
)
