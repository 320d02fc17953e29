"""Whether a model can be used here, from its configuration and the names of its files: no weight is read.

Needs no torch.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.repository.model_files import TOKENIZER, TOKENIZER_CONFIG, UnusableError, listed

_TOKENIZERS = (TOKENIZER, "vocab.json", "vocab.txt")  # that are read without further packages
# Those of SentencePiece and tiktoken, which are not.
_OTHERS = ("tokenizer.model", "spiece.model", "tiktoken.model", "tokenizer.tiktoken", "tekken.json")
# How transformers calls models with heads that predict no tokens.
_NO_TEXT = re.compile(r"\w+For\w*(Classification|QuestionAnswering|MultipleChoice|Retrieval|Regression)")
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json")
# What tools that quantize leave beside the weights, and what their methods are called.
_LEFT = {"hf_quant_config.json": "ModelOpt", "quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
_METHODS = {"gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FP8", "modelopt": "ModelOpt"}


def check_architecture(config: dict[str, Any]) -> None:
    """Raise `UnusableError` unless a configuration names an architecture that is known here.

    Code that lies in the repository is never run, so what needs it is refused, and the files are named. So
    is a model of a known architecture with another head than a language model's.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        if other := other_head(config):
            raise UnusableError(f"it predicts no text: it is a {other[:80]}", "Choose a language model")
        return
    if code := remote_code(config):
        raise UnusableError(
            f"its architecture is code in the repository ({listed(code)}), which KL Lens never runs",
            f"Choose a model of an architecture that is supported: {', '.join(FAMILIES)}",
        )
    if not isinstance(kind, str):
        raise UnusableError("its config.json names no architecture", "Choose another model")
    raise UnusableError(
        f"the architecture {kind[:80]!r} is not supported; these are: {', '.join(FAMILIES)}",
        "Choose another model",
    )


def other_head(config: dict[str, Any]) -> str:
    """The class that a configuration names, if that is one with another head than a language model's."""
    named = config.get("architectures")
    found = list(map(str, named)) if isinstance(named, list) else []
    return found[0] if found and all(map(_NO_TEXT.fullmatch, found)) else ""


def remote_code(config: dict[str, Any]) -> list[str]:
    """The files of code that a configuration names for transformers to run."""
    named = config.get("auto_map")
    values = named.values() if isinstance(named, dict) else ()
    modules = {value.rpartition("--")[2].partition(".")[0] for value in values if isinstance(value, str)}
    return sorted(f"{module}.py" for module in modules)


def check_unquantized(config: dict[str, Any], names: Collection[str] = (), origin: str = "") -> None:
    """Raise `UnusableError` if the weights are quantized already, as the configuration or a file says.

    Parameters
    ----------
    names : collection of str
        Of the files beside the weights.
    origin : str
        The Hub id of the model that it was made from, if that is known.
    """
    how = quantization(config) or next((method for name, method in _LEFT.items() if name in names), "")
    if how:
        raise UnusableError(
            f"its weights are quantized already ({how})",
            f"Choose {origin or 'the model in full precision'} instead",
        )


def quantization(config: dict[str, Any]) -> str:
    """How the weights are quantized, such as ``GPTQ, 4 bits``; empty if the configuration does not say so."""
    for _, part in parts(config):
        for name in ("quantization_config", "compression_config"):
            found = part.get(name)
            if found is None:
                continue
            about = found if isinstance(found, dict) else {}
            method = str(about.get("quant_method") or "by an unknown method")[:40]
            loaded = next((bits for bits in (4, 8) if about.get(f"load_in_{bits}bit")), 0)
            bits = about.get("bits") or loaded
            return _METHODS.get(method, method) + (f", {bits} bits" if isinstance(bits, int) and bits else "")
    return ""


def has_tokenizer(names: Collection[str]) -> bool:
    """Whether one of the files called `names` holds a tokenizer that can be read."""
    return bool(set(_TOKENIZERS).intersection(names))


def check_tokenizer_files(names: Collection[str]) -> None:
    """Raise `UnusableError` if no file of a tokenizer is there that can be read."""
    if has_tokenizer(names):
        return
    if other := next((name for name in _OTHERS if name in names), None):
        raise UnusableError(
            f"its tokenizer is only in the format of SentencePiece or tiktoken ({other})",
            "Add the tokenizer.json of another copy of the model, or choose such a copy",
        )
    raise UnusableError(
        "it has no tokenizer", "Choose a copy of the model with tokenizer.json, in transformers' layout"
    )


def parts(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration and those in it, such as that of the text part, each with its prefix."""
    yield "", config
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config"):
            yield f"{name}.", value
