"""What runs in a child process: the speed of a variant on a device, and its quality there.

Two tasks, in processes of their own, since two compiled models in one process slow each other down.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench import divergence
from kl_lens_desktop.bench.figures import by_window, perplexity
from kl_lens_desktop.bench.memory import gpu_memory_mb, peak_rss_mb, system_used_mb
from kl_lens_desktop.bench.stateful import FULL_PRECISION, StatefulModel, defaults, plugin_words
from kl_lens_desktop.bench.static import StaticModel, check_made_for_npu, needs_fixed_shapes, open_model
from kl_lens_desktop.bench.text import token_ids, windows
from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.events import Event, Finished, Note, Progress
from kl_lens_desktop.texts import held_out_text, read_text

_DECODED = 16  # tokens of the first window that the gate feeds one by one
# More characters than any text needs for a token: a prefix this long is tokenized instead of a whole book.
_CHARACTERS_PER_TOKEN = 16
_Model = StatefulModel | StaticModel
# Parts of a graph that the NPU plugin would compile apart do not fit together again for some of the families.
_NPU = {"NPUW_LLM_PREFILL_CHUNK_SIZE": "256", "NPUW_ONLINE_PIPELINE": "NONE"}


def speed_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """Time a variant in `openvino_genai.LLMPipeline`, as its users run it, at the device's default precision.

    Parameters
    ----------
    params : dict
        ``folder``, ``device``, ``prompt_tokens``, ``new_tokens``, ``repeats``, and ``text`` (a path; the
        bundled held-out text without it). Each repeat reads another piece of the text, since a prefix cache
        would answer a prompt seen before; the ids are given directly and the end token is ignored, so that
        counts are exact.

    Yields
    ------
    Event
        Progress by generation, then ``Finished`` with ``load_ms`` (read and compile), ``samples`` of
        ``tokens_per_s`` (decode: one over the mean time between tokens), ``ttft_ms`` (from ids to the first
        new id) and ``prefill_tokens_per_s`` (prompt tokens over time to first token), memory, backend and
        the settings in force.
    """
    import openvino
    import openvino_genai

    folder, device = Path(params["folder"]), str(params["device"])
    length, repeats = int(params["prompt_tokens"]), int(params["repeats"])
    prompts = _prompts(folder, params.get("text"), length, repeats + 1)
    used_before = system_used_mb()
    yield Progress("bench-speed", 0, repeats + 1, f"Loading {folder.name} on {device}", "generations")
    started = time.perf_counter()
    pipeline, backend = open_pipeline(folder, device)
    load_ms = 1000 * (time.perf_counter() - started)
    settings = openvino_genai.GenerationConfig(
        max_new_tokens=int(params["new_tokens"]), ignore_eos=True, do_sample=False
    )
    samples: dict[str, list[float]] = {"tokens_per_s": [], "ttft_ms": [], "prefill_tokens_per_s": []}
    for index, prompt in enumerate(prompts):
        cancel.check()
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        metrics = pipeline.generate(ids, settings).perf_metrics
        if index > 0:  # the first one pays for kernels and buffers
            ttft_ms = metrics.get_ttft().mean
            samples["tokens_per_s"].append(metrics.get_throughput().mean)
            samples["ttft_ms"].append(ttft_ms)
            samples["prefill_tokens_per_s"].append(1000 * length / ttft_ms)
        yield Progress("bench-speed", index + 1, repeats + 1, f"{folder.name} on {device}", "generations")
    yield Finished({
        "load_ms": load_ms,
        "samples": samples,
        "peak_rss_mb": peak_rss_mb(),
        "system_used_change_mb": system_used_mb() - used_before,
        "backend": backend,
        "settings": defaults(openvino.Core(), device),
    })  # fmt: skip


def quality_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """Measure what a variant predicts on a device: perplexity, and divergence from FP16 on CPU in f32.

    Parameters
    ----------
    params : dict
        ``folder``, ``device``, ``reference`` (the FP16 variant's folder, or None), ``text`` (a path; the
        bundled held-out text without it), ``tokens``, ``window``, ``chunk``, and ``precision``: ``user`` for
        the device's defaults or ``f32``. Windows are consecutive from the start of the text, without overlap
        or special tokens; the state is forgotten between them, and the first token of a window is not
        predicted.

    Yields
    ------
    Event
        Progress by window, then ``Finished`` with ``nats_per_token``, ``perplexity``, ``kl_to_fp16``
        KL(fp16‖variant), ``kl_reverse``, ``delta_ce`` (paired with the reference), ``top1_agreement`` (each
        ``{mean, se, n}`` or None), ``fidelity`` ``{relative_difference, bound, ok}``, settings and GPU
        memory.
    """
    import openvino

    folder, device, chunk = Path(params["folder"]), str(params["device"]), int(params["chunk"])
    text, tokens = read_text(Path(params.get("text") or held_out_text())), int(params["tokens"])
    ids = token_ids(folder, text[: _CHARACTERS_PER_TOKEN * tokens])
    pieces = windows(ids, int(params["window"]), tokens)
    core = openvino.Core()
    yield Progress("bench-quality", 0, len(pieces), f"Loading {folder.name} on {device}", "windows")
    hints = _hints(core, device, params["precision"])
    model = open_model(core, folder, device, hints, chunk, int(params["window"]))
    cancel.check()
    bound = answer_bound(model.settings.get("precision"))
    difference = logit_difference(model, StatefulModel(core, folder, "CPU", FULL_PRECISION, chunk), pieces[0])
    cancel.check()
    reference = None
    if given := params.get("reference"):
        try:
            reference = StatefulModel(core, Path(given), "CPU", FULL_PRECISION, chunk)
        except ModelError as error:
            yield Note(f"{folder.name} is not compared with FP16. {error}", "warning")
    measured = []
    for index, piece in enumerate(pieces):
        cancel.check()
        measured.append(window_means(model, reference, piece))
        yield Progress("bench-quality", index + 1, len(pieces), f"{folder.name} on {device}", "windows")
    # every position of a window has a distribution to compare, every one but the last a token to predict
    compared = len(pieces) * len(pieces[0])
    counts = {"nats_per_token": compared - len(pieces), "delta_ce": compared - len(pieces)}
    figures = {
        name: by_window([means[name] for means in measured], counts.get(name, compared))
        for name in measured[0]
    }
    yield Finished({
        **figures,
        "perplexity": perplexity(figures["nats_per_token"]),
        "fidelity": {
            "relative_difference": difference if math.isfinite(difference) else None,
            "bound": bound,
            "ok": difference <= bound,
        },
        "settings": model.settings,
        "gpu_memory_mb": gpu_memory_mb(core, device),
    })  # fmt: skip


def window_means(model: _Model, reference: StatefulModel | None, ids: list[int]) -> dict[str, float]:
    """Means over one window of `quality_task`'s figures, the compared ones only where there is a reference.

    Model and reference take the window in step, chunk by chunk, so that the logits are never kept.

    Raises
    ------
    ModelError
        If the reference has another vocabulary.
    """
    targets = np.array([*ids[1:], 0], dtype=np.int64)
    nats, reference_nats, forward, backward, agree = [], [], [], [], []
    start = 0
    references = reference.logits(ids) if reference else None
    for logits in model.logits(ids):
        expected = next(references) if references else None
        if expected is not None and expected.shape != logits.shape:
            why = f"its vocabulary has {expected.shape[1]} tokens, the variant's {logits.shape[1]}"
            raise ModelError("The reference is another model", why, "Compare variants of one model")
        for part in divergence.slices(*logits.shape):
            wanted = targets[start + part.start : start + part.stop]
            log_q, _ = divergence.probabilities(logits[part])
            nats.append(divergence.token_nats(log_q, wanted))
            if expected is not None:
                log_p, p = divergence.probabilities(expected[part])
                there, back = divergence.kl_both_ways(log_p, p, log_q)
                reference_nats.append(divergence.token_nats(log_p, wanted))
                forward.append(there)
                backward.append(back)
                agree.append(log_p.argmax(-1) == log_q.argmax(-1))
        start += len(logits)
    mean_nats = float(np.concatenate(nats)[:-1].mean())
    if reference is None:
        return {"nats_per_token": mean_nats}
    return {
        "nats_per_token": mean_nats,
        "kl_to_fp16": float(np.concatenate(forward).mean()),
        "kl_reverse": float(np.concatenate(backward).mean()),
        "delta_ce": mean_nats - float(np.concatenate(reference_nats)[:-1].mean()),
        "top1_agreement": float(np.concatenate(agree).mean()),
    }


def logit_difference(model: _Model, reference: StatefulModel, ids: list[int]) -> float:
    """How far the logits of one window lie from the reference's, as a share of the reference's own spread.

    The window's last tokens are fed one by one: prefill and decode run different kernels on some devices,
    and the worse of the two counts. NaN if either model gives anything that is no number.
    """
    singly = min(_DECODED, len(ids) // 2)
    squares, position = np.zeros((2, 2)), 0  # [prefill, decode] × [difference, reference]
    for logits, expected in zip(model.logits(ids, singly), reference.logits(ids, singly), strict=True):
        squares[int(position >= len(ids) - singly)] += divergence.squares(logits, expected)
        position += len(logits)
    return float(np.sqrt(squares[:, 0] / squares[:, 1]).max())


def answer_bound(precision: str | None) -> float:
    """The fidelity gate: the largest `logit_difference` from CPU f32 that rounding can explain.

    Measured on the bundled sample model: 8-bit activations and cache in f32 give 0.006, in bf16 0.05, and
    errors grow about with the root of the depth. Every weight rounded to INT4 gives 0.07, to INT3 0.15, to
    INT2 0.33; one output projection in the wrong order 0.16 to 0.81; unrelated logits 1.4. So a device that
    computes in f16 or f32 may be no further off than a model on 3 bits, and one in bf16, or that does not
    say, than halfway to 2 bits.
    """
    return 0.15 if precision in ("f32", "f16") else 0.25


def open_pipeline(folder: Path, device: str, **properties: Any) -> tuple[Any, str]:
    """An `LLMPipeline` and its attention backend: ``PA`` (paged), ``SDPA`` or, on an NPU, ``static``.

    LLMPipeline itself tries paged attention first and falls back to the other; doing it here tells which.
    `properties` are OpenVINO's, for the device.

    Raises
    ------
    ModelError
        If the folder cannot be opened on the device.
    """
    import openvino_genai

    def opened(**more: Any) -> Any:
        return openvino_genai.LLMPipeline(str(folder), device, **properties, **more)

    try:
        if needs_fixed_shapes(device):
            return _static_pipeline(folder, device, properties), "static"
        try:
            return opened(ATTENTION_BACKEND="PA"), "PA"
        except RuntimeError:
            return opened(ATTENTION_BACKEND="SDPA"), "SDPA"
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot open {folder.name} on {device}", plugin_words(error),
                         "Export it again or choose another device") from error  # fmt: skip


def _static_pipeline(folder: Path, device: str, given: dict[str, Any]) -> Any:
    import openvino
    import openvino_genai

    from kl_lens_desktop.export.static import NPU_MODEL

    check_made_for_npu(folder, device)
    graph = (folder / NPU_MODEL).read_text(encoding="utf-8")
    weights = np.memmap(folder / "openvino_model.bin", np.uint8, "c")
    properties = {**_NPU, **given}
    if 'type="TensorIterator"' in graph:  # the plugin would look for the head in the loops of Mamba-1
        properties["NPUW_LLM_SHARED_HEAD"] = "NO"
    return openvino_genai.LLMPipeline(
        graph,
        openvino.Tensor(weights, shared_memory=True),
        openvino_genai.Tokenizer(str(folder)),
        device,
        openvino_genai.GenerationConfig(str(folder / "generation_config.json")),
        **properties,
    )


def _prompts(folder: Path, text: str | None, length: int, count: int) -> list[list[int]]:
    if length < 1:
        raise InputError("Cannot time a prompt", "it has no tokens", "Ask for at least one")
    words = read_text(Path(text or held_out_text()))[: _CHARACTERS_PER_TOKEN * length * count]
    ids = token_ids(folder, words)
    if not ids:
        raise InputError("Cannot time a prompt", "the text is empty", "Choose another text")
    # one token more than the length apart, so that a short text, read again, starts another way each time
    starts = range(0, (length + 1) * count, length + 1)
    ids = ids * math.ceil((length + 1) * count / len(ids))
    return [ids[start : start + length] for start in starts]


def _hints(core: Any, device: str, precision: str) -> dict[str, str]:
    if precision == "user":
        return {}
    composed = ":" in device  # AUTO:GPU and its like pass on what they do not list
    known = () if composed else core.get_property(device, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in FULL_PRECISION.items() if composed or name in known}
