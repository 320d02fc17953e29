"""Zamba2 (Mamba-2 and a shared transformer block)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "mamba_d_state": 16,
    "mamba_headdim": 16,
    "n_mamba_heads": 8,
    "mamba_ngroups": 1,
    "num_mem_blocks": 1,
    "layers_block_type": [
        "linear_attention",
        "linear_attention",
        "hybrid",
        "linear_attention",
        "linear_attention",
        "hybrid",
    ],
    "chunk_size": 16,
    "use_mem_rope": True,
    "adapter_rank": 8,
}
FAMILY = Family(
    model_type="zamba2",
    title="Zamba2 (Mamba-2 and a shared transformer block)",
    kernels=("short_convolution", "chunk_scan"),
    mixers={
        "Zamba2MambaMixer": "ssm",
        "Zamba2Attention": "attention",
        "Zamba2MLP": "mlp",
        "Zamba2HybridLayer": "mlp",
    },
    checkpoints=(
        "Zyphra/Zamba2-1.2B",
        "Zyphra/Zamba2-2.7B",
        "Zyphra/Zamba2-7B",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "with two blocks, adapters and groups": {
            **_TINY,
            "num_hidden_layers": 7,
            "num_mem_blocks": 2,
            "mamba_ngroups": 2,
            "use_shared_attention_adapter": True,
            "layers_block_type": [
                "linear_attention",
                "hybrid",
                "hybrid",
                "linear_attention",
                "hybrid",
                "linear_attention",
                "hybrid",
            ],
        },
    },
)
