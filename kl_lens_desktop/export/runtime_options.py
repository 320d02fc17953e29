"""Options that a graph brings along, and that OpenVINO's plugins take where a client names none."""

from collections.abc import Iterable

import openvino as ov

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.quant.formats import Format, group_size

DYNAMIC_QUANTIZATION = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# The CPU plugin (2026.4.1) keeps keys and values in eight bits by default. Where a request that has answered
# fewer rows is given more, it loses the scales of those that came in addition, and their answers are rubbish.
KEPT_IN_FP16 = {"KV_CACHE_PRECISION": "f16"}


def check_groups(size: int, weights: Iterable[tuple[int, Format]]) -> None:
    """Raise `InputError` unless weights can be multiplied with activations quantized in groups of `size`.

    Parameters
    ----------
    weights : iterable of (int, Format)
        Input channels and format of each.
    """
    for channels, fmt in weights:
        if fmt.scheme != "fp16" and group_size(fmt, channels) % size:
            raise InputError(
                f"Cannot quantize activations in groups of {size}",
                f"{fmt.label} of {channels:,} channels has groups of {group_size(fmt, channels)}",
                "Choose smaller groups, or formats with larger ones",
            )


def set_options(graph: ov.Model, options: dict[str, str]) -> None:
    """Write options into a graph, where `ov.Core.compile_model` finds them."""
    for name, value in options.items():
        graph.set_rt_info(value, ["runtime_options", name])
