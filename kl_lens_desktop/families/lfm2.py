"""LFM2 (short convolutions and attention)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "block_ff_dim": 96,
    "block_multiple_of": 8,
}
FAMILY = Family(
    model_type="lfm2",
    title="LFM2 (short convolutions and attention)",
    kernels=("short_convolution",),
    fused=(("q_proj", "k_proj", "v_proj"), ("w1", "w3")),
    mixers={
        "Lfm2ShortConv": "ssm",
        "Lfm2Attention": "attention",
        "Lfm2MLP": "mlp",
    },
    checkpoints=(
        "LiquidAI/LFM2-350M",
        "LiquidAI/LFM2-700M",
        "LiquidAI/LFM2-1.2B",
        "LiquidAI/LFM2-2.6B",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "with biases, untied": {
            **_TINY,
            "conv_bias": True,
            "conv_L_cache": 4,
            "tie_word_embeddings": False,
        },
    },
)
