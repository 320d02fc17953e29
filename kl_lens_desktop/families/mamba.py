"""Mamba."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "state_size": 8,
    "tie_word_embeddings": True,
}
FAMILY = Family(
    model_type="mamba",
    title="Mamba",
    kernels=("short_convolution", "selective_scan"),
    mixers={
        "MambaMixer": "ssm",
    },
    cache_argument="cache_params",
    checkpoints=(
        "state-spaces/mamba-130m-hf",
        "state-spaces/mamba-370m-hf",
        "state-spaces/mamba-790m-hf",
        "state-spaces/mamba-1.4b-hf",
        "state-spaces/mamba-2.8b-hf",
    ),
    tiny={
        "": _TINY,
    },
    variations={
        "with biases, untied": {
            **_TINY,
            "tie_word_embeddings": False,
            "use_bias": True,
            "use_conv_bias": False,
        },
    },
)
