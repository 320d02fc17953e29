"""LFM3 (short convolutions and attention)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
}
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
        "": _TINY,
    },
    variations={
        "with a window": {
            **_TINY,
            "layer_types": ["conv", "sliding_attention", "full_attention", "conv"],
            "sliding_window": 24,
        },
    },
)
