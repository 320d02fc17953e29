"""RecurrentGemma (gated linear recurrences and local attention)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "intermediate_size": 192,
    "attention_window_size": 24,
}
FAMILY = Family(
    model_type="recurrent_gemma",
    title="RecurrentGemma (gated linear recurrences and local attention)",
    kernels=("short_convolution", "linear_recurrence"),
    mixers={
        "RecurrentGemmaRecurrentBlock": "ssm",
        "RecurrentGemmaAttention": "attention",
        "RecurrentGemmaMlp": "mlp",
    },
    patch="kl_lens_desktop.kernels.linear_recurrence.blocks:cached_blocks",
    checkpoints=(
        "google/recurrentgemma-2b",
        "google/recurrentgemma-2b-it",
        "google/recurrentgemma-9b-it",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "wide, untied": {
            **_TINY,
            "num_key_value_heads": 2,
            "lru_width": 128,
            "conv1d_width": 3,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
    },
)
