"""Falcon-H1 (Mamba-2 beside attention)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_d_ssm": 128,
    "head_dim": 16,
}
FAMILY = Family(
    model_type="falcon_h1",
    title="Falcon-H1 (Mamba-2 beside attention)",
    kernels=("short_convolution", "chunk_scan"),
    mixers={
        "FalconH1Mixer": "ssm",
        "FalconH1Attention": "attention",
        "FalconH1MLP": "mlp",
    },
    checkpoints=(
        "tiiuae/Falcon-H1-0.5B-Instruct",
        "tiiuae/Falcon-H1-1.5B-Instruct",
        "tiiuae/Falcon-H1-3B-Instruct",
        "tiiuae/Falcon-H1-7B-Instruct",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "with groups, gated norm, scaled": {
            **_TINY,
            "mamba_n_groups": 2,
            "mamba_rms_norm": True,
            "lm_head_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "key_multiplier": 0.5,
            "attention_out_multiplier": 0.8,
            "ssm_in_multiplier": 1.3,
            "ssm_out_multiplier": 0.7,
            "ssm_multipliers": [0.9, 0.6, 1.4, 1.2, 0.8],
            "mlp_multipliers": [0.8, 0.5],
            "tie_word_embeddings": True,
        },
    },
)
