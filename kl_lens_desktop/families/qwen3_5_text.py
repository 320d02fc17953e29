"""Qwen3.5 (gated delta nets and attention)."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="qwen3_5_text",
    title="Qwen3.5 (gated delta nets and attention)",
    kernels=("short_convolution", "gated_delta_rule"),
    mixers={
        "Qwen3_5GatedDeltaNet": "ssm",
        "Qwen3_5Attention": "attention",
        "Qwen3_5MLP": "mlp",
    },
    tiny={
        "": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "head_dim": 16,
        },
    },
)
