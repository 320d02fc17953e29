"""What OpenVINO's paged runtime makes of an exported graph: the one that `openvino_genai` uses by default."""

from collections import Counter

import openvino as ov
from openvino._offline_transformations import paged_attention_transformation

# What takes the place of the states of each kind, by a part of their variables' names.
_REPLACED = {
    ".key": ("PagedAttentionExtension",),
    ".past.conv.": ("PagedCausalConv1D",),
    ".past.ssm.": ("PagedSelectiveSSM", "PagedGatedDeltaNet"),
}


def runs_paged(graph: ov.Model) -> bool:
    """Whether the paged runtime replaces every state of a stateful graph by a cache of its own.

    Where it does not, `openvino_genai.LLMPipeline` falls back to its SDPA backend.

    Parameters
    ----------
    graph : ov.Model
        Left as it is.
    """
    variables = [
        op.get_attributes()["variable_id"] for op in graph.get_ops() if op.get_type_name() == "ReadValue"
    ]
    changed = graph.clone()
    try:
        paged_attention_transformation(changed)
    except RuntimeError:
        return False
    kinds = Counter(op.get_type_name() for op in changed.get_ops())
    return all(
        sum(part in name for name in variables) == sum(kinds[kind] for kind in replaced)
        for part, replaced in _REPLACED.items()
    )
