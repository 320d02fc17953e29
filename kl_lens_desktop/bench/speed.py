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
from kl_lens_desktop.bench.genai import open_pipeline
from kl_lens_desktop.bench.jobs import LoadJob, RequestsJob, SpeedJob, SpeedOrder
from kl_lens_desktop.bench.memory import device_memory_mb, peak_rss_mb, private_mb, system_used_mb
from kl_lens_desktop.bench.noise import round_speed
from kl_lens_desktop.bench.stateful_model import defaults
from kl_lens_desktop.bench.static_model import LoadedModel, open_model
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Answer, Event, Progress
from kl_lens_desktop.process.record import decode
from kl_lens_desktop.text.bundled import CHARACTERS_PER_TOKEN, held_out_text, read_text
from kl_lens_desktop.text.passage import token_ids

_WARM_PROMPT, _WARM_TOKENS = 32, 4
_TEXT_TOKENS = 2**16  # of a long text as many are tokenized; then it is read again, a token further on


def time_on_order(job: SpeedJob, cancel: Cancel) -> Iterator[Event]:
    """Yield an Answer with `jobs.Loaded`, then for each `jobs.SpeedOrder` one with a `jobs.Turn`.

    A round ends after its repeats, or earlier once it has taken its seconds. Each generation reads another
    piece of the text, since a prefix cache would answer a prompt seen before; ids are given directly and the
    end token is ignored, so that counts are exact.
    """
    import openvino
    import openvino_genai

    folder, device = job.folder, job.device
    reader = _Reader(folder, job.text)
    used_before = system_used_mb()
    yield Progress("bench-speed", 0, 1, f"Loading {folder.name} on {device}")
    started = time.perf_counter()
    pipeline, backend = open_pipeline(folder, device, job.prompt_tokens, job.new_tokens, job.backend)
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
        order = decode(SpeedOrder, cancel.next_order())
        length = order.prompt_tokens
        # kernels for a length, and buffers, are paid for before the clock starts; then only caches are cold
        generate(reader.read(_WARM_PROMPT if length in seen else length), _WARM_TOKENS)
        seen.add(length)
        begun, latencies = time.perf_counter(), []
        samples: dict[str, list[float]] = {name: [] for name in OF_TURN}
        for index in range(order.repeats):
            if index and time.perf_counter() - begun > order.seconds:
                break
            cancel.check()
            metrics = generate(reader.read(length), order.new_tokens)
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
            "private_mb": private_mb(),
            "system_used_change_mb": system_used_mb() - used_before,
            "gpu_memory_mb": device_memory_mb(core, device),
        })  # fmt: skip


def time_requests(job: RequestsJob, cancel: Cancel) -> Iterator[Event]:
    """Yield last Finished with `jobs.Requests`."""
    import openvino

    folder, device, repeats = job.folder, job.device, job.repeats
    length, count = job.prompt_tokens, job.new_tokens
    reader = _Reader(folder, job.text)
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
    yield job.finished({
        "samples": samples,
        "round": of_round(samples, latencies),
        "read_ms": model.read_ms,
        "compile_ms": model.compile_ms,
        "bytes_per_token": model.bytes_per_token,
        "execution_devices": model.settings.get("execution_devices"),
    })  # fmt: skip


def time_loading(job: LoadJob, cancel: Cancel) -> Iterator[Event]:
    """Yield last Finished with `jobs.LoadedFromCache`."""
    import openvino_genai  # noqa: F401  (importing is not loading)

    folder, device, cache = job.folder, job.device, job.cache
    yield Progress("bench-load", 0, 1, f"Loading {folder.name} on {device} with a model cache")
    started = time.perf_counter()
    open_pipeline(folder, device, job.prompt_tokens, job.new_tokens, job.backend, CACHE_DIR=str(cache))
    load_ms = 1000 * (time.perf_counter() - started)
    cancel.check()
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    yield job.finished({"load_ms": load_ms, "cache_bytes": size})


def of_round(samples: dict[str, list[float]], latencies_s: list[float]) -> dict[str, float]:
    """One figure each for a round: what was least disturbed by other programs."""
    return {
        "tokens_per_s": round_speed(latencies_s),
        "ttft_ms": min(samples["ttft_ms"]),
        "prefill_tokens_per_s": max(samples["prefill_tokens_per_s"]),
    }


class _Reader:
    """Pieces of a text's token ids, one after another and no two alike."""

    def __init__(self, folder: Path, text: Path | None) -> None:
        words = read_text(text or held_out_text())[: CHARACTERS_PER_TOKEN * _TEXT_TOKENS]
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
