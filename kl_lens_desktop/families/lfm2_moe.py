"""LFM2 with experts."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="lfm2_moe",
    title="LFM2 with experts",
    kernels=("short_convolution",),
    fused=(("q_proj", "k_proj", "v_proj"), ("w1", "w3")),
    mixers={
        "Lfm2MoeShortConv": "ssm",
        "Lfm2MoeAttention": "attention",
        "Lfm2MoeMLP": "mlp",
        "Lfm2MoeSparseMoeBlock": "mlp",
    },
    checkpoints=("LiquidAI/LFM2-8B-A1B",),
    tiny={
        "with experts": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "num_dense_layers": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
    },
)
