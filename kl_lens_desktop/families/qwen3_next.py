"""Qwen3-Next (gated delta nets, attention and experts)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "head_dim": 16,
    "num_experts": 0,
    "mlp_only_layers": [0, 1, 2, 3],
}
FAMILY = Family(
    model_type="qwen3_next",
    title="Qwen3-Next (gated delta nets, attention and experts)",
    kernels=("short_convolution", "gated_delta_rule"),
    mixers={
        "Qwen3NextGatedDeltaNet": "ssm",
        "Qwen3NextAttention": "attention",
        "Qwen3NextMLP": "mlp",
        "Qwen3NextSparseMoeBlock": "mlp",
    },
    checkpoints=("Qwen/Qwen3-Next-80B-A3B-Instruct",),
    tiny={
        "": _TINY,
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
    variations={
        "tied": {
            **_TINY,
            "tie_word_embeddings": True,
        },
    },
)
