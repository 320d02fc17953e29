"""Try it: one prompt, one variant, the text as it comes."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kl_lens_desktop.bench.genai import open_pipeline
from kl_lens_desktop.bench.jobs import GenerateJob
from kl_lens_desktop.bench.static_model import needs_fixed_shapes
from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Generated, Progress

_TEMPLATE_TOKENS = 256  # that a chat template may put around a prompt


def generate(job: GenerateJob, cancel: Cancel) -> Iterator[Event]:
    """Yield `Generated` pieces of text, and last Finished with `jobs.GeneratedAll`."""
    import openvino_genai

    folder, device, new_tokens = job.folder, job.device, job.max_new_tokens
    variant = job.variant or folder.name
    yield Progress("generate", 0, 1, f"Loading {variant} on {device}")
    length = 0
    if needs_fixed_shapes(device):
        length = openvino_genai.Tokenizer(str(folder)).encode(job.prompt).input_ids.shape[1]
    pipeline, _ = open_pipeline(folder, device, length + _TEMPLATE_TOKENS, new_tokens)
    cancel.check()
    settings = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, do_sample=False)
    settings.set_eos_token_id(pipeline.get_generation_config().eos_token_id)
    pieces: queue.Queue[str | None] = queue.Queue()

    def on_text(text: str) -> Any:
        pieces.put(text)
        try:
            cancel.check()
        except Cancelled:
            return openvino_genai.StreamingStatus.CANCEL
        return openvino_genai.StreamingStatus.RUNNING

    def work() -> Any:
        try:
            return pipeline.generate([job.prompt], settings, on_text).perf_metrics
        finally:
            pieces.put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="generate") as pool:
        running = pool.submit(work)
        while (piece := pieces.get()) is not None:
            yield Generated(variant, piece)
        metrics = running.result()
    cancel.check()
    tokens = metrics.get_num_generated_tokens()
    yield job.finished({
        "tokens_per_s": metrics.get_throughput().mean if tokens > 1 else None,
        "ttft_ms": metrics.get_ttft().mean,
        "tokens": tokens,
    })  # fmt: skip
