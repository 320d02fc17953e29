"""Options that a graph brings along, and that OpenVINO's plugins take where a client names none."""

import openvino as ov

DYNAMIC_QUANTIZATION = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# The CPU plugin (2026.4.1) keeps keys and values in eight bits by default. Where a request that has answered
# fewer rows is given more, it loses the scales of those that came in addition, and their answers are rubbish.
KEPT_IN_FP16 = {"KV_CACHE_PRECISION": "f16"}


def set_options(graph: ov.Model, options: dict[str, str]) -> None:
    """Write options into a graph, where `ov.Core.compile_model` finds them."""
    for name, value in options.items():
        graph.set_rt_info(value, ["runtime_options", name])
