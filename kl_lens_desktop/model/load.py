"""A model folder as a transformers model in memory: safetensors only, no code from the folder."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.families import family_of
from kl_lens_desktop.kernels.replace import unreplaced
from kl_lens_desktop.kernels.table import KERNELS
from kl_lens_desktop.model.checkpoint import weight_files
from kl_lens_desktop.model.config import read_config


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with its tokenizer and the files it came from."""

    model: PreTrainedModel
    tokenizer: Any
    files: list[Path]


def load_model(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """Open a model folder for inference.

    Raises
    ------
    ModelError
        If the folder is not a supported model, or lacks weights or a tokenizer.
    """
    _checked_config(folder)
    files = weight_files(folder)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = load_tokenizer(folder)
    with _in_words(folder):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"Cannot open {folder}",
            f"{len(missing)} weights are missing, such as {missing[0]}",
            "Download it again",
        )
    return LoadedModel(model.eval().requires_grad_(False).to(device), tokenizer, files)


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; `ModelError` if it has none that opens without its own code."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"Cannot open {folder}",
            "it has no tokenizer that works without running the model's own code",
            "Add the tokenizer files",
        ) from error


def empty_model(folder: Path) -> PreTrainedModel:
    """The model's structure without memory for its weights: for an inventory in a second at any size."""
    config = _checked_config(folder)
    with _in_words(folder), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _checked_config(folder: Path) -> Any:
    """The configuration; refused if no kernel of ours stands in for a recurrence, which would trace wrong."""
    read_config(folder)
    with _in_words(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    family = family_of(config.model_type)
    modelling = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__module__
    left = unreplaced(modelling, [KERNELS[name] for name in family.kernels])
    if left:
        raise ModelError(
            f"Cannot open {folder}",
            f"{config.model_type} computes a recurrence that is not known here: {', '.join(left)}",
            "Choose another model",
        )
    return config


@contextlib.contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """What transformers raises over a model's files, as a `ModelError`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"Cannot open {folder}", reason, "Download the model again") from error
