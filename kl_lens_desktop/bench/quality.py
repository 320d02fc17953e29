"""What runs in a child process to measure quality: what a variant predicts on a device, and how rightly."""

import functools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench import divergence
from kl_lens_desktop.bench.exact import Logits, exact_answers
from kl_lens_desktop.bench.fidelity import hints_for, judged, truth_of
from kl_lens_desktop.bench.figures import OF_TOKEN, over_batches, perplexity
from kl_lens_desktop.bench.jobs import QualityJob
from kl_lens_desktop.bench.stateful_model import pieces
from kl_lens_desktop.bench.static_model import LONGEST_CALL, LoadedModel, needs_fixed_shapes, open_model
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export import proof
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.text.bundled import held_out_text, read_text
from kl_lens_desktop.text.passage import TokenWindow, passage


def measure_quality(job: QualityJob, cancel: Cancel) -> Iterator[Event]:
    """Yield progress by window, and last Finished with `jobs.Quality`.

    The state is forgotten between windows.
    """
    import openvino

    folder, device, chunk = job.folder, job.device, job.chunk
    if needs_fixed_shapes(device):
        chunk = min(chunk, LONGEST_CALL)  # for the reference too: both take a window in step
    text = read_text(job.text or held_out_text())
    read = passage(folder, text, job.tokens, job.window, job.stride, cancel)
    core = openvino.Core()
    yield Progress("bench-quality", 0, len(read.windows), f"Loading {folder.name} on {device}", "windows")
    longest = max(proof.TOKENS, *(len(window.ids) for window in read.windows))
    opened = functools.partial(open_model, core, folder, device, chunk=chunk, capacity=longest)
    truth = truth_of(core, folder, text, cancel)
    cancel.check()
    model = opened(hints_for(core, device, job.precision))
    cancel.check()
    gate = judged(core, folder, device, model, opened, truth)
    cancel.check()
    reference, ahead = None, 0
    if job.reference:
        try:
            reference, ahead = yield from _reference(core, job.reference, read.windows, chunk, cancel)
        except ModelError as error:
            yield Note(f"Cannot compare {folder.name} with FP16. {error}", "warning")
    counts = [0] * (read.windows[-1].batch + 1)
    sums = {name: [0.0] * len(counts) for name in OF_TOKEN if reference or name == "nats_per_token"}
    for index, window in enumerate(read.windows):
        cancel.check()
        counts[window.batch] += window.counted
        for name, total in window_sums(model, reference, window).items():
            sums[name][window.batch] += total
        done, total = ahead + index + 1, ahead + len(read.windows)
        yield Progress("bench-quality", done, total, f"{folder.name} on {device}", "windows")
    figures = {name: over_batches(batches, counts) for name, batches in sums.items()}
    by_word = over_batches(sums["nats_per_token"], read.words) if read.words else None
    yield job.finished({
        "nats_per_token": figures["nats_per_token"],
        "perplexity": perplexity(figures["nats_per_token"]),
        "word_perplexity": perplexity(by_word),
        "kl_to_fp16": figures.get("kl_to_fp16"),
        "kl_reverse": figures.get("kl_reverse"),
        "delta_ce": figures.get("delta_ce"),
        "top1_agreement": figures.get("top1_agreement"),
        "fidelity": gate,
        "settings": model.settings,
    })  # fmt: skip


def _reference(
    core: Any, folder: Path, windows: list[TokenWindow], chunk: int, cancel: Cancel
) -> Generator[Event, None, tuple[Iterator[Logits], int]]:
    """The logits of the FP16 variant, window after window, in the chunks that the variant is fed.

    And as how many windows the work counts that was done before the first of them.
    """
    calls = list[tuple[int, list[int]]]()
    for window in windows:
        past = 0
        for ids in pieces(window.ids[:-1], chunk, 0):
            calls.append((past, ids))
            past += len(ids)
    answers, ahead = exact_answers(core, folder, calls, cancel), 0
    while True:
        try:
            share = next(answers)
        except StopIteration as end:
            return end.value, ahead
        ahead = len(windows)  # the variant reads them in about the same time
        done, what = int(share * ahead), f"Reading the text with {folder.name}"
        yield Progress("bench-quality", done, 2 * ahead, what, "windows")


def window_sums(
    model: LoadedModel, reference: Iterator[Logits] | None, window: TokenWindow
) -> dict[str, float]:
    """Sums over a window's predicted tokens of `OF_TOKEN`, the compared ones only where there is a reference.

    Model and reference take the window in step, chunk by chunk, so that the logits are never kept.

    Raises
    ------
    ModelError
        If the reference has another vocabulary.
    """
    ids, targets = window.ids[:-1], np.array(window.ids[1:], dtype=np.int64)
    skipped = len(ids) - window.counted  # positions that are context only
    sums = dict.fromkeys(OF_TOKEN if reference else OF_TOKEN[:1], 0.0)
    start = 0
    for logits in model.logits(ids):
        expected = next(reference) if reference else None
        if expected is not None and expected.shape != logits.shape:
            why = f"its vocabulary has {expected.shape[1]} tokens, the variant's {logits.shape[1]}"
            raise ModelError("The reference is another model", why, "Compare variants of one model")
        context = min(max(skipped - start, 0), len(logits))
        for part in divergence.slices(len(logits) - context, logits.shape[1]):
            rows = slice(part.start + context, part.stop + context)
            wanted = targets[start + rows.start : start + rows.stop]
            log_q, _ = divergence.probabilities(logits[rows])
            nats = divergence.token_nats(log_q, wanted)
            sums["nats_per_token"] += float(nats.sum())
            if expected is not None:
                log_p, p = divergence.probabilities(expected[rows])
                there, back = divergence.kl_both_ways(log_p, p, log_q)
                sums["kl_to_fp16"] += float(there.sum())
                sums["kl_reverse"] += float(back.sum())
                sums["delta_ce"] += float((nats - divergence.token_nats(log_p, wanted)).sum())
                sums["top1_agreement"] += float((log_p.argmax(-1) == log_q.argmax(-1)).sum())
        start += len(logits)
    return sums
