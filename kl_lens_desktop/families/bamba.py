"""Bamba (Mamba-2 and attention)."""

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
    "attn_layer_indices": [2],
}
FAMILY = Family(
    model_type="bamba",
    title="Bamba (Mamba-2 and attention)",
    kernels=("short_convolution", "chunk_scan"),
    mixers={
        "BambaMixer": "ssm",
        "BambaAttention": "attention",
        "BambaMLP": "mlp",
    },
    checkpoints=(
        "ibm-ai-platform/Bamba-9B-v1",
        "ibm-ai-platform/Bamba-9B-v2",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "with groups, tied": {
            **_TINY,
            "mamba_n_groups": 2,
            "mamba_proj_bias": True,
            "tie_word_embeddings": True,
        },
    },
)
