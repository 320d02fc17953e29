"""Models whose weights are rounded, of any kind and without a text."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from kl_lens_desktop.model.inventory import weight_parameters
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import quantize
from kl_lens_desktop.quant.roundings import KeptRounding, Roundings, packed


def round_to_fp16(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A_log" not in name:  # a graph holds the rates, in float32
                parameter.copy_(parameter.half())


def scaled_roundings(model: PreTrainedModel, assignments: Mapping[str, str]) -> Roundings:
    """Rounded to nearest after their columns were multiplied: what may be, but for embeddings and heads."""
    parameters, kept = weight_parameters(model), {}
    ends = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    random = torch.Generator().manual_seed(11)
    for name, chosen in assignments.items():
        weight, fmt = parameters[name].detach(), parse_format(chosen)
        if (
            fmt.bits <= 8
            and weight.dim() == 2
            and not any(weight.data_ptr() == end.data_ptr() for end in ends)
        ):
            powers = torch.randint(-2, 3, (weight.shape[1],), generator=random)
            stored = packed(quantize(torch.ldexp(weight, powers), fmt), powers)
            kept[name, chosen] = KeptRounding(stored, (name, chosen), tuple(weight.shape))
    assert kept
    return Roundings(kept)
