"""What the Hub says of a model, in its own card and figures: each of the type that it should have."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelInfo

from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.repository.support import other_head, quantization, remote_code


@dataclass(frozen=True, slots=True)
class Facts:
    """A model on the Hub; texts are empty where the Hub does not tell.

    Attributes
    ----------
    architecture : str
        transformers' model type, for example ``granitemoehybrid``.
    parameters : int or None
        Number of weights in its safetensors.
    downloads : int
        In the last 30 days.
    gated : bool
        Whether its authors must be asked for access.
    updated : str
        A date.
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

    def tagged(prefix: str) -> str:
        return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), "")

    return Facts(
        info.id,
        _words(config.get("model_type")),
        _number(getattr(info.safetensors, "total", None)),
        _number(info.downloads) or 0,
        _number(info.likes) or 0,
        bool(info.gated),
        _words(card.get("license_name") or card.get("license")) or tagged("license:"),
        _words(card.get("base_model")) or tagged("base_model:"),
        _words(card.get("language")),
        f"{info.last_modified:%Y-%m-%d}" if info.last_modified else "",
        _obstacle(config, tags),
    )


def _obstacle(config: dict[str, Any], tags: list[str]) -> str:
    kind = config.get("model_type")
    if kind is not None and kind not in FAMILIES:
        return "its own code" if remote_code(config) or "custom_code" in tags else "not supported"
    if other_head(config):
        return "no language model"
    return "quantized" if quantization(config) else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _words(value: object) -> str:
    if isinstance(value, str):
        return value[:200]
    return ", ".join(map(str, value[:5])) if isinstance(value, list) else ""
