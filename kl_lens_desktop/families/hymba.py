"""Hymba (attention beside Mamba in every layer, behind meta tokens)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "mamba_d_state": 8,
    "mamba_dt_rank": 8,
    "num_memory_tokens": 8,
    "sliding_window": 24,
    "global_attn_idx": [0, 5],
    "kv_reuse_group": [[1, 2], [3, 4]],
    "max_position_embeddings": 512,
    "orig_max_position_embeddings": 128,
    "rope": True,
    "rope_type": "ntk",
    "kq_norm": "none",
    "tie_word_embeddings": True,
}
FAMILY = Family(
    model_type="hymba",
    title="Hymba (attention beside Mamba in every layer, behind meta tokens)",
    kernels=("short_convolution", "selective_scan"),
    mixers={
        "HymbaMixer": "ssm",
        "HymbaMLP": "mlp",
    },
    npu="its states begin with those that its meta tokens leave",
    own="kl_lens_desktop.families.own.hymba",
    begins=True,
    checkpoints=(
        "nvidia/Hymba-1.5B-Base",
        "nvidia/Hymba-1.5B-Instruct",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "with one block of three layers, untied": {
            **_TINY,
            "kv_reuse_group": [[1, 2, 3]],
            "tie_word_embeddings": False,
        },
    },
)
