"""Chat with one variant on one device: it stays loaded, and each answer streams as it comes."""

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kl_lens_desktop.bench.genai import open_pipeline
from kl_lens_desktop.bench.jobs import ChatJob, ChatOrder, Message
from kl_lens_desktop.bench.static_model import needs_fixed_shapes
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Answer, Event, Generated, Progress
from kl_lens_desktop.process.record import decode

_FIXED_PROMPT, _FIXED_ANSWER = 2048, 1024  # tokens that a device of fixed shapes makes its graphs for
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_BEFORE = 4  # tokens that a token is decoded together with: some show their space or half a letter only so


def chat(job: ChatJob, cancel: Cancel) -> Iterator[Event]:
    """Yield an Answer with `jobs.Opened`; for each order, `Generated` and an Answer with `jobs.ChatTurn`."""
    folder, device = job.folder, job.device
    variant = job.variant or folder.name
    yield Progress("chat", 0, 1, f"Loading {variant} on {device}")
    pipeline, backend = open_pipeline(folder, device, _FIXED_PROMPT, _FIXED_ANSWER)
    cancel.check()
    tokenizer = pipeline.get_tokenizer()
    template = has_template(tokenizer)
    yield Answer({"template": template, "backend": backend})
    limit = _FIXED_PROMPT if needs_fixed_shapes(device) else None
    while True:
        order = decode(ChatOrder, cancel.next_order())
        if order.messages:
            prompt = prompt_of(tokenizer, order.messages, template)
            inputs = tokenizer.encode(prompt, add_special_tokens=not template)
            if limit and inputs.input_ids.shape[1] > limit:
                why = f"it has more than the {limit:,} tokens that {device} was prepared for"
                raise ModelError("The chat is too long", why, "Start a new chat")
            yield from _answer(pipeline, inputs, order.new_tokens, variant, cancel)


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer can lay out a chat; a template that fails on a greeting cannot."""
    try:
        return bool(
            tokenizer.chat_template
            and tokenizer.apply_chat_template(
                [{"role": "user", "content": "Hello"}], add_generation_prompt=True
            )
        )
    except RuntimeError:
        return False


def prompt_of(tokenizer: Any, messages: Sequence[Message], template: bool) -> str:
    """What the model reads: the chat by its template, or else all texts as one that goes on."""
    if template:
        said = [{"role": message.role, "content": message.text} for message in messages]
        return str(tokenizer.apply_chat_template(said, add_generation_prompt=True))
    text = ""
    for message in messages:
        joined = not text or text[-1].isspace() or message.text[:1].isspace()
        text += ("" if joined or message.role != "user" else " ") + message.text
    return text


def _answer(pipeline: Any, inputs: Any, new_tokens: int, variant: str, cancel: Cancel) -> Iterator[Event]:
    import openvino_genai

    settings = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, do_sample=False)
    own = pipeline.get_generation_config()
    settings.set_eos_token_id(own.eos_token_id)
    settings.stop_token_ids = own.stop_token_ids  # a turn may end with another token than a text
    pieces: queue.Queue[str | None] = queue.Queue()
    stopped = False

    def on_text(text: str) -> Any:
        nonlocal stopped
        pieces.put(text)
        if cancel.has_order:
            stopped = True
            return openvino_genai.StreamingStatus.CANCEL
        return openvino_genai.StreamingStatus.RUNNING

    def work() -> Any:
        try:
            return pipeline.generate(inputs, settings, on_text)
        finally:
            pieces.put(None)

    text = ""
    with ThreadPoolExecutor(1, thread_name_prefix="chat") as pool:
        running = pool.submit(work)
        while (piece := pieces.get()) is not None:
            text += piece
            yield Generated(variant, piece)
        result = running.result()
    cancel.check()
    metrics = result.perf_metrics
    tokens = pieces_of(pipeline.get_tokenizer(), list(result.tokens[0]))
    count = metrics.get_num_generated_tokens()
    yield Answer({
        "tokens": tokens if "".join(tokens) == text else [text],
        "tokens_per_s": metrics.get_throughput().mean if count > 1 else None,
        "ttft_ms": metrics.get_ttft().mean,
        "stopped": stopped,
    })  # fmt: skip


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; nothing until a letter of several tokens is whole."""
    starts = [max(place - _BEFORE, 0) for place in range(len(ids))]
    before = [list(ids[start:place]) for place, start in enumerate(starts)]
    after = [list(ids[start : place + 1]) for place, start in enumerate(starts)]
    pieces = []
    for old, new in zip(_decoded(tokenizer, before), _decoded(tokenizer, after), strict=True):
        known = _alike(old, new)  # at its start may be the end of an earlier letter
        pieces.append("" if new.endswith(_UNFINISHED) else new[known:])
    return pieces


def _decoded(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    return [tokenizer.decode(row) if row else "" for row in rows]


def _alike(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
