"""What the figures, the settings and the surroundings of a bench file are called, with their units."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FigureLabel:
    """A figure in words.

    Attributes
    ----------
    name : str
        With its unit.
    best : callable or None
        ``min`` or ``max``; None where neither end is better.
    scale : float
        From the file's number to one in this unit.
    """

    name: str
    best: Callable[..., Any] | None = None
    scale: float = 1.0


LABELS = {
    "tokens_per_s": FigureLabel("Decode, tokens/s", max),
    "ttft_ms": FigureLabel("Time to first token, ms", min),
    "prefill_tokens_per_s": FigureLabel("Prefill, tokens/s", max),
    "raw.tokens_per_s": FigureLabel("Decode with plain requests, tokens/s", max),
    "bandwidth_gb_s": FigureLabel("Weights read while decoding, GB/s", max),
    "rounds": FigureLabel("Rounds taken in turn"),
    "load_ms": FigureLabel("Load without a cache, ms", min),
    "load_cached_ms": FigureLabel("Load from OpenVINO's model cache, ms", min),
    "cache_bytes": FigureLabel("Size of the model cache", min),
    "perplexity": FigureLabel("Perplexity by tokens", min),
    "word_perplexity": FigureLabel("Perplexity by words, as lm-eval counts", min),
    "kl_to_fp16": FigureLabel("KL(FP16‖variant), nats per token", min),
    "kl_reverse": FigureLabel("KL(variant‖FP16), nats per token", min),
    "delta_ce": FigureLabel("Change of cross-entropy, nats per token", min),
    "top1_agreement": FigureLabel("Same best next token as FP16, %", max, 100.0),
    "fidelity.relative_difference": FigureLabel("Logits against CPU in f32, % of their spread", min, 100.0),
    "peak_rss_mb": FigureLabel("Peak RSS, from the operating system, MiB", min),
    "peak_rss_sampled_mb": FigureLabel("Peak RSS, sampled, MiB", min),
    "system_used_change_mb": FigureLabel("Change of the whole computer's memory, MiB"),
    "gpu_memory_mb": FigureLabel("Memory allocated on the device, MiB", min),
    "precision": FigureLabel("Precision of the speed run"),
    "quality_precision": FigureLabel("Precision of the quality run"),
    "kv_cache_precision": FigureLabel("Precision of the attention cache"),
    "backend": FigureLabel("Attention backend"),
    "threads": FigureLabel("Threads"),
    "core_type": FigureLabel("Type of cores"),
    "performance_hint": FigureLabel("Performance hint"),
    "execution_devices": FigureLabel("Devices it ran on"),
    "power": FigureLabel("Power source"),
    "size_bytes": FigureLabel("Size of the weights, MB", min, 1e-6),
}
_NO_MATRIX_ENGINES = (
    "OpenVINO finds no matrix engines (XMX) on this GPU. Models with experts do not load on it, and models "
    "with Mamba layers can give wrong answers. Run them on the CPU if the benchmark finds any."
)
_AROUND = {
    "os": "system",
    "cpu": "processor",
    "ram_mb": "memory, MiB",
    "memory_read_gb_s": "memory bandwidth, GB/s",
    "power": "power source",
    "python": "Python",
}
_TEXT = {
    "sha256": "text: SHA-256",
    "tokens": "text: tokens read",
    "predicted": "text: tokens predicted",
    "window": "text: tokens in a window",
    "stride": "text: tokens from window to window",
}
_SETTINGS = {
    "tokens": "tokens of text at most",
    "window": "tokens in a window, if chosen",
    "stride": "tokens from window to window, if chosen",
    "chunk": "tokens in one call for quality",
    "precision": "precision of the quality run",
    "prompt_tokens": "tokens in the prompt",
    "new_tokens": "tokens generated",
    "repeats": "generations in a round",
    "turn_s": "latest start of a turn, s",
    "rounds": "minimum rounds",
    "max_rounds": "maximum rounds",
    "speed_minutes": "longest timing on a device, min",
    "contexts": "other prompt lengths",
    "raw": "plain requests timed",
    "cache": "model cache timed",
    "cool_down_s": "rest before each turn, s",
    "time_limit_s": "limit without progress, s",
    "memory_limit_mb": "limit of a process, MiB",
}


def around(name: str) -> str:
    """What `Comparison.environment` calls `name`, in words: ``memory, MiB`` for ``ram_mb``."""
    kind, _, rest = name.partition(" ")
    if kind == "setting":
        return setting(rest)
    if kind == "text:":
        return _TEXT.get(rest, name)
    return _AROUND.get(name, rest if kind in ("package", "device") else name)


def device_notes(device: dict[str, Any]) -> list[str]:
    """What to know of a device of a bench file before its figures are trusted, as sentences; mostly none."""
    said = [_NO_MATRIX_ENGINES] if device.get("matrix_engines") is False else []
    return [*said, *filter(None, [device.get("warning")])]


def setting(name: str) -> str:
    """A setting in words: ``rest before each turn, s`` for ``cool_down_s``."""
    return _SETTINGS.get(name, name)
