"""OLMo Hybrid (gated delta nets and attention)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
}
FAMILY = Family(
    model_type="olmo_hybrid",
    title="OLMo Hybrid (gated delta nets and attention)",
    kernels=("short_convolution", "gated_delta_rule"),
    mixers={
        "OlmoHybridGatedDeltaNet": "ssm",
        "OlmoHybridAttention": "attention",
        "OlmoHybridMLP": "mlp",
    },
    checkpoints=("allenai/Olmo-Hybrid-7B",),
    tiny={
        "": _TINY,
    },
    variations={
        "tied": {
            **_TINY,
            "tie_word_embeddings": True,
        },
    },
)
