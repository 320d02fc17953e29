"""Kimi Linear (delta rule with decays of channels, latent attention and experts)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "mlp_layer_types": ["dense"] * 4,
}
FAMILY = Family(
    model_type="kimi_linear",
    title="Kimi Linear (delta rule with decays of channels, latent attention and experts)",
    kernels=("short_convolution", "channel_delta_rule"),
    mixers={
        "KimiLinearDeltaAttention": "ssm",
        "KimiLinearAttention": "attention",
        "KimiLinearMLP": "mlp",
        "KimiLinearMoE": "mlp",
    },
    latent=True,
    checkpoints=("moonshotai/Kimi-Linear-48B-A3B-Instruct",),
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
)
