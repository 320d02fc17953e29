"""What a call of an exported graph is fed, and the settings in which nothing is rounded. Needs numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# By default the CPU computes in bf16 where it can, keeps 8-bit keys and values and rounds activations to 8
# bits.
FULL_PRECISION = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


def call_inputs(ids: Sequence[int], past: int) -> dict[str, NDArray[Any]]:
    """What a graph is fed for the next tokens of one row, `past` of which came before."""
    end = past + len(ids)
    return {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, end), np.int64),
        "position_ids": np.arange(past, end, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
