"""Nemotron-H (Mamba-2 and attention, with or without experts)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 16,
    "head_dim": 16,
    "hybrid_override_pattern": "M-*M",
}
FAMILY = Family(
    model_type="nemotron_h",
    title="Nemotron-H (Mamba-2 and attention, with or without experts)",
    kernels=("short_convolution", "chunk_scan"),
    mixers={
        "NemotronHMamba2Mixer": "ssm",
        "NemotronHAttention": "attention",
        "NemotronHMLP": "mlp",
        "NemotronHMoE": "mlp",
    },
    checkpoints=(
        "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
        "nvidia/Nemotron-H-8B-Base-8K",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    ),
    tiny={
        "": _TINY,
        "with experts": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 2,
            "chunk_size": 16,
            "head_dim": 16,
            "hybrid_override_pattern": "ME*E",
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "moe_shared_expert_intermediate_size": 32,
            "moe_latent_size": 32,
        },
    },
    variations={
        "with one group, tied": {
            **_TINY,
            "n_groups": 1,
            "use_bias": True,
            "tie_word_embeddings": True,
        },
    },
)
