"""What the Hub says of a model, in its own card and figures: each of the type that it should have."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelInfo

from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.repository.support import quantization, remote_code


@dataclass(frozen=True, slots=True)
class Facts:
    """A model on the Hub.

    Attributes
    ----------
    id : str
    architecture : str
        transformers' model type, for example ``granitemoehybrid``; this and other texts are empty if the Hub
        does not tell.
    parameters : int or None
        Number of weights in its safetensors.
    downloads, likes : int
        Downloads count the last 30 days.
    gated : bool
        Whether its authors must be asked for access.
    licence, base_model, languages, updated : str
        From its card; `updated` is a date.
    obstacle : str
        Why it cannot be used here, in a few words; empty if nothing that is known so far speaks against it.
    """

    id: str
    architecture: str
    parameters: int | None
    downloads: int
    likes: int
    gated: bool
    licence: str
    base_model: str
    languages: str
    updated: str
    obstacle: str


def facts(info: ModelInfo) -> Facts:
    """The facts in what the Hub answers; whatever has another type than expected is left out."""
    config = info.config if isinstance(info.config, dict) else {}
    tags = [tag for tag in info.tags or () if isinstance(tag, str)]
    card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
    total = getattr(info.safetensors, "total", None)
    return Facts(
        info.id,
        _words(config.get("model_type")),
        total if isinstance(total, int) else None,
        info.downloads if isinstance(info.downloads, int) else 0,
        info.likes if isinstance(info.likes, int) else 0,
        bool(info.gated),
        _words(card.get("license_name") or card.get("license")) or _tagged(tags, "license:"),
        _words(card.get("base_model")) or _tagged(tags, "base_model:"),
        _words(card.get("language")),
        f"{info.last_modified:%Y-%m-%d}" if info.last_modified else "",
        _obstacle(config, tags),
    )


def _obstacle(config: dict[str, Any], tags: list[str]) -> str:
    kind = config.get("model_type")
    if kind is not None and kind not in FAMILIES:
        return "its own code" if remote_code(config) or "custom_code" in tags else "not supported"
    return "quantized" if quantization(config) else ""


def _words(value: object) -> str:
    if isinstance(value, str):
        return value[:200]
    return ", ".join(map(str, value[:5])) if isinstance(value, list) else ""


def _tagged(tags: Iterable[str], prefix: str) -> str:
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), "")
