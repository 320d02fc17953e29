"""Qwen3.5 with experts (its text part)."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="qwen3_5_moe",
    title="Qwen3.5 with experts (its text part)",
    kernels=("short_convolution", "gated_delta_rule"),
    mixers={
        "Qwen3_5MoeGatedDeltaNet": "ssm",
        "Qwen3_5MoeAttention": "attention",
        "Qwen3_5MoeMLP": "mlp",
        "Qwen3_5MoeSparseMoeBlock": "mlp",
    },
    checkpoints=("Qwen/Qwen3.5-35B-A3B",),
)
