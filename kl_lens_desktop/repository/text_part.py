"""The text part of a checkpoint, as transformers has that model alone: of a model that sees too, or native.

Needs no torch.
"""

import re
from typing import Any

from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.repository.model_files import UnusableError
from kl_lens_desktop.repository.native import in_transformers, name_in_transformers

# What the whole has a say in: tokens, precision, and whether the head is the embedding.
_OF_ALL = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype")
_TIED = ("tie_word_embeddings", "tie_embedding")
_PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
_SEEING = re.compile(r"(model\.)?(vision_\w+|visual|\w*projectors?|image_\w+)(\..+)?")


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the text model; of any that is such already, that one itself.

    Raises
    ------
    UnusableError
        If transformers does not compute such a model.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or not family.text:
        return in_transformers(_tied_as_a_whole(config))
    part = config.get("text_config")
    if not isinstance(part, dict):
        raise UnusableError("its config.json has no text_config", "Download the model again")
    own = {name: value for name, value in part.items() if name not in _TIED}
    if own.get("model_type") == f"{family.model_type}_text":  # which transformers has no model of
        del own["model_type"]
    whole = {name: config[name] for name in _OF_ALL if config.get(name) is not None}
    made = {**family.text, **whole, **own}
    for name in _TIED:
        if name in config:
            made["tie_word_embeddings"] = config[name]
    return made


def _tied_as_a_whole(config: dict[str, Any]) -> dict[str, Any]:
    """The same, with a text part whose head is its embedding too: text models ask only that."""
    part = config.get("text_config")
    tied = config.get("tie_word_embeddings") is True
    if not tied or not isinstance(part, dict) or part.get("tie_word_embeddings"):
        return config
    return {**config, "text_config": {**part, "tie_word_embeddings": True}}


def text_name(tensor: str) -> str:
    """What the text model calls the tensor of that name; it has no other tensor of this name."""
    for prefix, plain in _PREFIXES.items():
        if tensor.startswith(prefix):
            return plain + tensor.removeprefix(prefix)
    return name_in_transformers(tensor)


def is_for_seeing(tensor: str) -> bool:
    """Whether a tensor belongs to what turns pictures into embeddings."""
    return bool(_SEEING.fullmatch(tensor))
