"""The sample in torch with the weights that a plan leaves of it: what a measured quality is held to."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from kl_lens_desktop import resources
from kl_lens_desktop.model.inventory import weight_parameters
from kl_lens_desktop.plan.document import load_plan
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.text.bundled import held_out_text, read_text
from kl_lens_desktop.text.passage import token_ids, windows


@torch.no_grad()
def dequantized_sample(folder: Path) -> PreTrainedModel:
    """The sample in f32, its weights rounded as the plan in an exported folder says."""
    source = resources.path("sample-hybrid")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    weights = weight_parameters(model)
    for name, chosen in load_plan(folder / "plan.json").assignments.items():
        if chosen != "fp16":
            weights[name].copy_(fake_quantize(weights[name], parse_format(chosen)))
    return model


def torch_nats(folder: Path, tokens: int, window: int) -> float:
    """Mean nats per predicted token of held-out text, in windows side by side."""
    model = dequantized_sample(folder)
    pieces = windows(token_ids(folder, read_text(held_out_text())), window, tokens)
    return sum(window_nats(model, ids) for ids in pieces) / len(pieces)


@torch.no_grad()
def window_nats(model: PreTrainedModel, ids: list[int], counted: int | None = None) -> float:
    """Mean nats of the last `counted` tokens of a window; of all but the first without it."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    return nats[-(counted or len(nats)) :].mean().item()
