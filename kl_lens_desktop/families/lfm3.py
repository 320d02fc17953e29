"""LFM3 (short convolutions and attention)."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="lfm3",
    title="LFM3 (short convolutions and attention)",
    kernels=("short_convolution",),
    fused=(("q_proj", "k_proj", "v_proj"), ("w1", "w3")),
    mixers={
        "Lfm3ShortConv": "ssm",
        "Lfm3Attention": "attention",
        "Lfm3MLP": "mlp",
    },
    checkpoints=("LiquidAI/LFM3-1.7B",),
    tiny={
        "": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
        },
    },
)
