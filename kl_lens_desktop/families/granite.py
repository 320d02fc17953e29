"""Granite (attention alone)."""

from kl_lens_desktop.families.family import Family

_TINY = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "logits_scaling": 3.0,
    "residual_multiplier": 0.7,
}
FAMILY = Family(
    model_type="granite",
    title="Granite (attention alone)",
    kernels=(),
    mixers={"GraniteAttention": "attention", "GraniteMLP": "mlp"},
    checkpoints=("ibm-granite/granite-3.3-2b-instruct", "ibm-granite/granite-3.3-8b-instruct"),
    tiny={"": _TINY},
)
