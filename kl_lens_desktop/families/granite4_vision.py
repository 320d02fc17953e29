"""Granite 4 Vision: its text part, which is Granite."""

from dataclasses import replace

from kl_lens_desktop.families.granite import FAMILY as GRANITE

FAMILY = replace(
    GRANITE,
    model_type="granite4_vision",
    title="Granite 4 Vision (attention alone; its text part)",
    text={"model_type": "granite", "tie_word_embeddings": False},
    checkpoints=(),
    tiny={},
)
