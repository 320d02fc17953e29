"""Falcon Mamba."""

from kl_lens_desktop.families.family import Family

FAMILY = Family(
    model_type="falcon_mamba",
    title="Falcon Mamba",
    kernels=("short_convolution", "selective_scan"),
    mixers={
        "FalconMambaMixer": "ssm",
    },
    cache_argument="cache_params",
    checkpoints=(
        "tiiuae/falcon-mamba-7b",
        "tiiuae/falcon-mamba-7b-instruct",
    ),
    tiny={
        "": {
            "state_size": 8,
            "use_conv_bias": True,
            "tie_word_embeddings": False,
        },
    },
)
