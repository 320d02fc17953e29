"""Mamba-2."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_heads": 8,
    "head_dim": 16,
    "state_size": 16,
    "n_groups": 2,
    "chunk_size": 16,
    "expand": 2,
    "tie_word_embeddings": False,
}
FAMILY = Family(
    model_type="mamba2",
    title="Mamba-2",
    kernels=("short_convolution", "chunk_scan"),
    mixers={
        "Mamba2Mixer": "ssm",
    },
    cache_argument="cache_params",
    checkpoints=("mistralai/Mamba-Codestral-7B-v0.1",),
    tiny={
        "": _TINY,
    },
    variations={
        "with a group a head, biases, tied": {
            **_TINY,
            "n_groups": 8,
            "tie_word_embeddings": True,
            "use_bias": True,
            "use_conv_bias": False,
        },
    },
)
