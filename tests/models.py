"""Small models of other architectures, built from configurations, in folders like those of the Hub."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kl_lens_desktop import resources
from kl_lens_desktop.families import FAMILIES

VOCABULARY = 4096  # the sample's, so that its tokenizer serves
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
IN_FLOAT32 = ("A_log", "dt_bias", ".D")  # in files whose matrices are in bfloat16
ROUTING = ("e_score_correction_bias", "expert_bias")  # by which experts are chosen, and not weighted
CONFIGURATIONS: dict[str, Mapping[str, Any]] = {
    f"{family.model_type} {apart}".strip(): sizes
    for family in FAMILIES.values()
    for apart, sizes in family.tiny.items()
}
# Those whose graphs need nothing of the weights when they begin.
PLAIN = [name for name in CONFIGURATIONS if not FAMILIES[name.split()[0]].begins]
# The same families once more, with what else their configurations allow: for the exporter's test only.
VARIATIONS: dict[str, Mapping[str, Any]] = {
    f"{family.model_type} {apart}": sizes
    for family in FAMILIES.values()
    for apart, sizes in family.variations.items()
}


def build(family: str, **changes: Any) -> PreTrainedModel:
    """A model with random weights, the same at every call; `family` is a key of one of the tables."""
    chosen = CONFIGURATIONS.get(family) or VARIATIONS[family]
    FAMILIES[family.split()[0]].known()
    config = CONFIG_MAPPING[family.split()[0]](**{**_SMALL, **chosen, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        _make_random(parameter.data, name, generator)
    for name, buffer in model.named_buffers():
        if name.endswith(ROUTING):
            buffer.normal_(0, 0.3, generator=generator)
    return model


def _make_random(values: torch.Tensor, name: str, generator: torch.Generator) -> None:
    """Random weights with which logits depend on the recurrent states of dozens of tokens ago.

    As transformers makes them, a lost state of Mamba-2 changes logits by less than a thousandth.
    """
    if "A_log" in name:
        values.uniform_(0.05, 1.0, generator=generator).log_()
    elif name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_bias")):
        values.fill_(-1.0)
    elif name.endswith("conv1d.bias") or name.endswith("conv.bias"):
        values.uniform_(-0.3, 0.3, generator=generator)
    elif "conv" in name and values.dim() == 3:
        values.normal_(0, 0.3, generator=generator)
    elif values.dim() >= 2:
        # A block adds little to what it reads, else a rounding error grows from block to block.
        adds = re.search(r"out_proj|o_proj|linear_out|down_proj|output_linear|\bw2\b", name)
        values.normal_(0, 0.02 if adds else 0.08, generator=generator)


def build_folder(family: str, folder: Path, **changes: Any) -> Path:
    """The same as a folder, with the sample's tokenizer."""
    return saved(build(family, **changes), folder)


def build_bf16_folder(family: str, folder: Path, **changes: Any) -> Path:
    """The same as published models are: matrices in bfloat16, and what decays states in float32."""
    model = build(family, **changes)
    for name, parameter in model.named_parameters():
        if not name.endswith(IN_FLOAT32):
            parameter.data = parameter.data.bfloat16()
    return saved(model, folder)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """A model as a folder, with the sample's tokenizer."""
    model.save_pretrained(folder)
    copy_tokenizer(folder)
    return folder


def copy_tokenizer(folder: Path) -> None:
    """Put the sample's tokenizer into a folder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(resources.path("sample-hybrid", name), folder / name)


def build_short_sample(folder: Path) -> Path:
    """The sample with two blocks of its eight, one of each kind: quick, but no good model."""
    shutil.copytree(resources.path("sample-hybrid"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.layers = model.model.layers[2:4]
    model.config.num_hidden_layers, model.config.layer_types = 2, model.config.layer_types[2:4]
    model.save_pretrained(folder)
    return folder


def build_deep_sample(folder: Path, times: int = 3) -> Path:
    """The sample with every block `times` over, at a fraction of its strength: trained weights, 24 blocks."""
    model = AutoModelForCausalLM.from_pretrained(resources.path("sample-hybrid"))
    config = model.config
    deep = type(config).from_dict(
        {
            **config.to_dict(),
            "num_hidden_layers": times * config.num_hidden_layers,
            "layer_types": [kind for kind in config.layer_types for _ in range(times)],
            "residual_multiplier": config.residual_multiplier / times,
        }
    )
    made = AutoModelForCausalLM.from_config(deep).eval()
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[:2] != ["model", "layers"]:
            state[name] = value
            continue
        for copy in range(times):
            state[".".join([*parts[:2], str(times * int(parts[2]) + copy), *parts[3:]])] = value.clone()
    made.load_state_dict(state)
    return saved(made, folder)
