"""A harder sample: the same function, with a few channels as large as in large models."""

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

SHARE = 0.04  # of the channels of every norm
LEAST, MOST = 8.0, 64.0


def stressed_folder(source: Path, folder: Path, seed: int = 0) -> Path:
    """A copy of the Granite-like model at `source` in which norm channels are ×s and what reads them ÷s.

    s is drawn log-uniformly between 8 and 64. The function stays the same but for rounding; a group of a
    quantized matrix now holds columns whose small values stand before large activations.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for norm, readers in _norms(model):
        _stress(norm, readers, generator)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.half().save_pretrained(folder)
    return folder


def _norms(model: PreTrainedModel) -> list[tuple[nn.Module, list[nn.Linear]]]:
    found: list[tuple[nn.Module, list[nn.Linear]]] = []
    for layer in model.base_model.layers:
        mixer = getattr(layer, "mamba", None)
        if mixer is not None:
            found.append((layer.input_layernorm, [mixer.in_proj]))
            found.append((mixer.norm, [mixer.out_proj]))
        else:
            attention = layer.self_attn
            found.append((layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]))
        found.append((layer.post_attention_layernorm, [layer.shared_mlp.input_linear]))
    return found


@torch.no_grad()
def _stress(norm: nn.Module, readers: list[nn.Linear], generator: torch.Generator) -> None:
    channels = norm.weight.numel()
    chosen = torch.randperm(channels, generator=generator)[: max(1, round(SHARE * channels))]
    span = torch.log(torch.tensor(MOST / LEAST))
    factors = LEAST * torch.exp(span * torch.rand(len(chosen), generator=generator))
    norm.weight[chosen] *= factors
    for reader in readers:
        reader.weight[:, chosen] /= factors
