"""LFM2-VL: its text part, which is LFM2."""

from dataclasses import replace

from kl_lens_desktop.families.lfm2 import FAMILY as LFM2

FAMILY = replace(
    LFM2,
    model_type="lfm2_vl",
    title="LFM2-VL (short convolutions and attention; its text part)",
    text={"model_type": "lfm2", "tie_word_embeddings": True},
    checkpoints=("LiquidAI/LFM2-VL-450M", "LiquidAI/LFM2-VL-1.6B", "LiquidAI/LFM2-VL-3B"),
    tiny={},
    variations={},
)
