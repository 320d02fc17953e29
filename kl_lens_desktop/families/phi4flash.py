"""Phi-4-mini-flash (Mamba and differential attention, whose values later blocks share)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "mamba_d_state": 8,
    "sliding_window": 24,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
FAMILY = Family(
    model_type="phi4flash",
    title="Phi-4-mini-flash (Mamba and differential attention, whose values later blocks share)",
    kernels=("short_convolution", "selective_scan"),
    mixers={
        "Phi4FlashMamba": "ssm",
        # It stands where other blocks have Mamba, and gates what the last of these has scanned.
        "Phi4FlashMemoryUnit": "ssm",
        "Phi4FlashAttention": "attention",
        "Phi4FlashMLP": "mlp",
    },
    own="kl_lens_desktop.families.own.phi4flash",
    checkpoints=("microsoft/Phi-4-mini-flash-reasoning",),
    tiny={
        "": _TINY,
    },
    variations={
        "with four heads to a key, untied": {
            **_TINY,
            "num_hidden_layers": 12,
            "num_key_value_heads": 2,
            "sliding_window": 512,
            "tie_word_embeddings": False,
        },
    },
)
