"""Qwen3.5 with experts."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="qwen3_5_moe_text",
    title="Qwen3.5 with experts",
    kernels=("short_convolution", "gated_delta_rule"),
    mixers={
        "Qwen3_5MoeGatedDeltaNet": "ssm",
        "Qwen3_5MoeAttention": "attention",
        "Qwen3_5MoeMLP": "mlp",
        "Qwen3_5MoeSparseMoeBlock": "mlp",
    },
    tiny={
        "with experts": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    },
)
