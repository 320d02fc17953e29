"""Qwen3.5 (gated delta nets and attention; its text part)."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="qwen3_5",
    title="Qwen3.5 (gated delta nets and attention; its text part)",
    kernels=("short_convolution", "gated_delta_rule"),
    mixers={
        "Qwen3_5GatedDeltaNet": "ssm",
        "Qwen3_5Attention": "attention",
        "Qwen3_5MLP": "mlp",
    },
    checkpoints=(
        "Qwen/Qwen3.5-4B",
        "Qwen/Qwen3.5-9B",
        "Qwen/Qwen3.5-27B",
    ),
)
