"""What runs in a child process to measure speed: in `LLMPipeline` as users run it, and by plain requests.

A process holds one compiled model, since two in one slow each other down; it stays alive and idle while
others have their turn, which costs them nothing (its threads sleep; measured).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench.figures import OF_TURN
from kl_lens_desktop.bench.memory import device_memory_mb, peak_rss_mb, system_used_mb
from kl_lens_desktop.bench.noise import round_speed
from kl_lens_desktop.bench.pipeline import open_pipeline
from kl_lens_desktop.bench.stateful import defaults
from kl_lens_desktop.bench.static import LoadedModel, open_model
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Answer, Event, Finished, Progress
from kl_lens_desktop.text.bundled import CHARACTERS_PER_TOKEN, held_out_text, read_text
from kl_lens_desktop.text.passage import token_ids

_WARM_PROMPT, _WARM_TOKENS = 32, 4
_TEXT_TOKENS = 2**16  # of a long text as many are tokenized; then it is read again, a token further on


def speed_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """Hold a variant in an `openvino_genai.LLMPipeline` at the device's defaults and time it on order.

    Parameters
    ----------
    params : dict
        ``folder``, ``device``, and optionally ``prompt_tokens`` and ``new_tokens`` (the most that orders will
        ask for) and ``text`` (a path; the bundled held-out text without it).

    Yields
    ------
    Event
        First an ``Answer`` with ``load_ms`` (read and compile), ``backend`` and the settings in force. Then,
        for each order ``{"prompt_tokens", "new_tokens", "repeats", "seconds"}``, an ``Answer`` with
        ``samples`` of a generation's ``tokens_per_s`` (decode: one over the mean time between tokens),
        ``ttft_ms`` (from ids to the first new id) and ``prefill_tokens_per_s`` (prompt tokens over time to
        first token); ``round``, the same three of the round as a whole (see `bench.noise`); ``peak_rss_mb``,
        ``system_used_change_mb`` and ``gpu_memory_mb`` (see `device_memory_mb`). A round ends after `repeats`
        generations, or earlier once it has taken `seconds`. Each generation reads another piece of the text,
        since a prefix cache would answer a prompt seen before; ids are given directly and the end token is
        ignored, so that counts are exact.
    """
    import openvino
    import openvino_genai

    folder, device = Path(params["folder"]), str(params["device"])
    reader = _Reader(folder, params.get("text"))
    used_before = system_used_mb()
    yield Progress("bench-speed", 0, 1, f"Loading {folder.name} on {device}")
    started = time.perf_counter()
    pipeline, backend = open_pipeline(folder, device, **_longest(params))
    load_ms = 1000 * (time.perf_counter() - started)

    def generate(prompt: list[int], new_tokens: int) -> Any:
        settings = openvino_genai.GenerationConfig(
            max_new_tokens=new_tokens, ignore_eos=True, do_sample=False
        )
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        return pipeline.generate(ids, settings).perf_metrics

    core = openvino.Core()
    yield Answer({"load_ms": load_ms, "backend": backend, "settings": defaults(core, device)})
    seen: set[int] = set()
    while True:
        order = cancel.next_order()
        length, repeats = int(order["prompt_tokens"]), int(order["repeats"])
        # kernels for a length, and buffers, are paid for before the clock starts; then only caches are cold
        generate(reader.read(_WARM_PROMPT if length in seen else length), _WARM_TOKENS)
        seen.add(length)
        begun, latencies = time.perf_counter(), []
        samples: dict[str, list[float]] = {name: [] for name in OF_TURN}
        for index in range(repeats):
            if index and time.perf_counter() - begun > order["seconds"]:
                break
            cancel.check()
            metrics = generate(reader.read(length), int(order["new_tokens"]))
            ttft_ms = metrics.get_ttft().mean
            # the first step after a prompt settles it: it belongs to the mean, not to the steady speed
            steps = metrics.raw_metrics.m_durations
            latencies += [1e-6 * step for step in steps[1:] or steps]
            samples["tokens_per_s"].append(metrics.get_throughput().mean)
            samples["ttft_ms"].append(ttft_ms)
            samples["prefill_tokens_per_s"].append(1000 * length / ttft_ms)
        yield Answer({
            "samples": samples,
            "round": of_round(samples, latencies),
            "peak_rss_mb": peak_rss_mb(),
            "system_used_change_mb": system_used_mb() - used_before,
            "gpu_memory_mb": device_memory_mb(core, device),
        })  # fmt: skip


def raw_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """Time a variant by plain inference requests, each prompt in one call and greedy decoding by hand.

    Parameters
    ----------
    params : dict
        ``folder``, ``device``, ``prompt_tokens``, ``new_tokens``, ``repeats``, and optionally ``text``.

    Yields
    ------
    Event
        ``Finished`` with ``samples`` and ``round`` as of `speed_task`, ``read_ms``, ``compile_ms``,
        ``bytes_per_token`` and ``execution_devices``.
    """
    import openvino

    folder, device = Path(params["folder"]), str(params["device"])
    length, count, repeats = (int(params[name]) for name in ("prompt_tokens", "new_tokens", "repeats"))
    reader = _Reader(folder, params.get("text"))
    yield Progress("bench-raw", 0, repeats, f"Loading {folder.name} on {device}", "generations")
    model = open_model(openvino.Core(), folder, device, {}, length, length + count)
    samples: dict[str, list[float]] = {name: [] for name in OF_TURN}
    latencies: list[float] = []
    for index in range(repeats + 1):
        cancel.check()
        times = _generate(model, reader.read(length), count)
        if index:  # the first pays for kernels and buffers
            samples["tokens_per_s"].append((count - 1) / sum(times[1:]))
            samples["ttft_ms"].append(1000 * times[0])
            samples["prefill_tokens_per_s"].append(length / times[0])
            latencies += times[2:] or times[1:]
        yield Progress("bench-raw", index, repeats, f"{folder.name} on {device}", "generations")
    yield Finished({
        "samples": samples,
        "round": of_round(samples, latencies),
        "read_ms": model.read_ms,
        "compile_ms": model.compile_ms,
        "bytes_per_token": model.bytes_per_token,
        "execution_devices": model.settings.get("execution_devices"),
    })  # fmt: skip


def load_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """The folder, device and sizes of `speed_task` and ``cache`` (a folder) → ``load_ms`` with OpenVINO's
    model cache there, which is filled if it is empty, and ``cache_bytes``."""
    import openvino_genai  # noqa: F401  (importing is not loading)

    folder, device, cache = Path(params["folder"]), str(params["device"]), Path(params["cache"])
    yield Progress("bench-load", 0, 1, f"Loading {folder.name} on {device} with a model cache")
    started = time.perf_counter()
    open_pipeline(folder, device, **_longest(params), CACHE_DIR=str(cache))
    load_ms = 1000 * (time.perf_counter() - started)
    cancel.check()
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    yield Finished({"load_ms": load_ms, "cache_bytes": size})


def of_round(samples: dict[str, list[float]], latencies_s: list[float]) -> dict[str, float]:
    """One figure each for a round: what was least disturbed by other programs."""
    return {
        "tokens_per_s": round_speed(latencies_s),
        "ttft_ms": min(samples["ttft_ms"]),
        "prefill_tokens_per_s": max(samples["prefill_tokens_per_s"]),
    }


def _longest(params: dict[str, Any]) -> dict[str, int]:
    """What a pipeline must have room for, as `open_pipeline` takes it."""
    return {name: int(params[name]) for name in ("prompt_tokens", "new_tokens") if name in params}


class _Reader:
    """Pieces of a text's token ids, one after another and no two alike."""

    def __init__(self, folder: Path, text: str | None) -> None:
        words = read_text(Path(text or held_out_text()))[: CHARACTERS_PER_TOKEN * _TEXT_TOKENS]
        self._ids, self._at = token_ids(folder, words)[:_TEXT_TOKENS], 0
        if not self._ids:
            raise InputError("Cannot time a prompt", "the text is empty", "Choose another text")

    def read(self, length: int) -> list[int]:
        size = len(self._ids)
        piece = [self._ids[(self._at + place) % size] for place in range(length)]
        self._at += length
        if self._at >= size:
            self._at = self._at % size + 1  # another way on each reading
        return piece


def _generate(model: LoadedModel, prompt: list[int], count: int) -> list[float]:
    """Seconds for the prompt and for each further token."""
    model.reset()
    ids, times = prompt, []
    for _ in range(count):
        started = time.perf_counter()
        ids = [int(model.step(ids)[-1].argmax())]
        times.append(time.perf_counter() - started)
    return times
