"""What runs in a child process to measure quality: what a variant predicts on a device, and how rightly."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench import divergence
from kl_lens_desktop.bench.figures import OF_TOKEN, over_batches, perplexity
from kl_lens_desktop.bench.stateful import FULL_PRECISION, StatefulModel
from kl_lens_desktop.bench.static import LONGEST_CALL, LoadedModel, needs_fixed_shapes, open_model
from kl_lens_desktop.bench.text import Window, passage
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.events import Event, Finished, Note, Progress
from kl_lens_desktop.texts import held_out_text, read_text

_GATE_TOKENS, _DECODED = 256, 16  # of the first window, and how many of them the gate feeds one by one
# Shares of the logits' spread, see `fidelity`.
_DOUBT, _STRICT_BOUND = 0.03, 0.02


def quality_task(params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    """Measure what a variant predicts on a device: perplexity, and divergence from FP16 on CPU in f32.

    Parameters
    ----------
    params : dict
        ``folder``, ``device``, ``reference`` (the FP16 variant's folder, or None), ``text`` (a path; the
        bundled held-out text without it), ``tokens``, ``window``, ``stride`` (see `bench.text.passage`),
        ``chunk``, and ``precision``: ``user`` for the device's defaults or ``f32``. The state is forgotten
        between windows; every figure is over the predicted tokens.

    Yields
    ------
    Event
        Progress by window, then ``Finished`` with ``nats_per_token``, ``perplexity``, ``word_perplexity``
        (of WikiText), ``kl_to_fp16`` KL(fp16‖variant), ``kl_reverse``, ``delta_ce`` (paired with the
        reference), ``top1_agreement`` (each ``{mean, se, n}`` or None), ``fidelity`` (see `fidelity`),
        and settings.
    """
    import openvino

    folder, device, chunk = Path(params["folder"]), str(params["device"]), int(params["chunk"])
    if needs_fixed_shapes(device):
        chunk = min(chunk, LONGEST_CALL)  # for the reference too: both take a window in step
    text = read_text(Path(params.get("text") or held_out_text()))
    read = passage(folder, text, int(params["tokens"]), params.get("window"), params.get("stride"), cancel)
    core = openvino.Core()
    yield Progress("bench-quality", 0, len(read.windows), f"Loading {folder.name} on {device}", "windows")
    longest = max(len(window.ids) for window in read.windows)
    opened = functools.partial(open_model, core, folder, device, chunk=chunk, capacity=longest)
    model = opened(_hints(core, device, params["precision"]))
    cancel.check()
    exact = StatefulModel(core, folder, "CPU", FULL_PRECISION, chunk)
    hints = _hints(core, device, "f32")
    strictly = functools.partial(opened, hints) if hints else None
    gate = fidelity(model, exact, read.windows[0].ids[:_GATE_TOKENS], strictly)
    del exact
    cancel.check()
    reference = None
    if given := params.get("reference"):
        try:
            reference = StatefulModel(core, Path(given), "CPU", FULL_PRECISION, chunk)
        except ModelError as error:
            yield Note(f"{folder.name} is not compared with FP16. {error}", "warning")
    counts = [0] * (read.windows[-1].batch + 1)
    sums = {name: [0.0] * len(counts) for name in OF_TOKEN if reference or name == "nats_per_token"}
    for index, window in enumerate(read.windows):
        cancel.check()
        counts[window.batch] += window.counted
        for name, total in window_sums(model, reference, window).items():
            sums[name][window.batch] += total
        yield Progress("bench-quality", index + 1, len(read.windows), f"{folder.name} on {device}", "windows")
    figures = {name: over_batches(batches, counts) for name, batches in sums.items()}
    by_word = over_batches(sums["nats_per_token"], read.words) if read.words else None
    yield Finished({
        **figures,
        "perplexity": perplexity(figures["nats_per_token"]),
        "word_perplexity": perplexity(by_word),
        "fidelity": gate,
        "settings": model.settings,
    })  # fmt: skip


def window_sums(model: LoadedModel, reference: StatefulModel | None, window: Window) -> dict[str, float]:
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
    references = reference.logits(ids) if reference else None
    for logits in model.logits(ids):
        expected = next(references) if references else None
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


def fidelity(
    model: LoadedModel,
    exact: StatefulModel,
    ids: list[int],
    strictly: Callable[[], LoadedModel] | None = None,
) -> dict[str, Any]:
    """The gate: whether a variant's answers on a device are those of the CPU in f32, but for rounding.

    Measured on the bundled sample: bf16, 8-bit activations and cache together put logits 0.7 % of their
    spread off, one matrix with its rows in the wrong order 6 to 81 % (in half of the cases less than 11 %),
    unrelated logits 140 %; every weight rounded to INT4 7 %, to INT3 15 %, to INT2 33 %. Rounding alone may
    do more in a model with large activations. So up to 3 % is rounding, more than `answer_bound` is wrong,
    and in between the device is asked again in f32, with nothing rounded: a right device is then within
    2 %, and one that multiplies wrongly is not.

    Parameters
    ----------
    model, exact : LoadedModel, StatefulModel
        The variant as it is measured, and on the CPU in f32.
    ids : list of int
        The last of them are fed one by one: prefill and decode run different kernels on some devices, and
        the worse of the two counts.
    strictly : callable, optional
        Opens the variant on the device in f32; without it there is nothing to ask again.

    Returns
    -------
    dict
        ``relative_difference`` (root of the sums of squares of the logits' difference over that of their
        spread; None if something is no number), its ``bound`` and whether it is ``ok``; for the reader also
        ``kl`` (median over positions, nats per token) and ``top1_agreement``. If it was asked again,
        ``strict_difference`` and ``strict_bound``.
    """
    difference, kl, alike = _differences(model, exact, ids)
    finite = math.isfinite(difference)
    bound = answer_bound(model.settings.get("precision"))
    gate: dict[str, Any] = {
        "relative_difference": difference if finite else None,
        "bound": bound,
        "ok": difference <= bound,
        "kl": kl if math.isfinite(kl) else None,
        "top1_agreement": alike if finite else None,
    }
    if _DOUBT < difference <= bound and strictly:
        again, _, _ = _differences(strictly(), exact, ids)
        gate["strict_difference"] = again if math.isfinite(again) else None
        gate |= {"strict_bound": _STRICT_BOUND, "ok": again <= _STRICT_BOUND}
    return gate


def answer_bound(precision: str | None) -> float:
    """The largest relative difference that rounding can explain where nothing more can be asked.

    A device that computes in f16 or f32 may be no further off than a model on 3 bits, and one in bf16, or
    that does not say, than halfway to 2 bits.
    """
    return 0.15 if precision in ("f32", "f16") else 0.25


def _differences(model: LoadedModel, exact: StatefulModel, ids: list[int]) -> tuple[float, float, float]:
    singly = min(_DECODED, len(ids) // 2)
    squares, position = np.zeros((2, 2)), 0  # [prefill, decode] × [difference, reference]
    nats: list[Any] = []
    alike = 0
    for logits, expected in zip(model.logits(ids, singly), exact.logits(ids, singly), strict=True):
        squares[int(position >= len(ids) - singly)] += divergence.squares(logits, expected)
        position += len(logits)
        for part in divergence.slices(*logits.shape):
            (log_p, p), (log_q, _) = map(divergence.probabilities, (expected[part], logits[part]))
            nats.append(divergence.kl_both_ways(log_p, p, log_q)[0])
            alike += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
    difference = float(np.sqrt(squares[:, 0] / squares[:, 1]).max())
    return difference, float(np.median(np.concatenate(nats))), alike / len(ids)


def _hints(core: Any, device: str, precision: str) -> dict[str, str]:
    if precision == "user":
        return {}
    composed = ":" in device  # AUTO:GPU and its like pass on what they do not list
    known = () if composed else core.get_property(device, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in FULL_PRECISION.items() if composed or name in known}
