"""The gate: whether a device answers as the CPU in f32 does, and the CPU as torch."""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench import divergence
from kl_lens_desktop.bench.exact import Logits, exact_answers
from kl_lens_desktop.bench.jobs import Gate
from kl_lens_desktop.bench.memory import holds
from kl_lens_desktop.bench.static_model import LoadedModel
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export import proof
from kl_lens_desktop.export.calls import FULL_PRECISION
from kl_lens_desktop.files import WEIGHTS
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import returned
from kl_lens_desktop.text.bundled import CHARACTERS_PER_TOKEN
from kl_lens_desktop.text.passage import token_ids

# Shares of the logits' spread, see `fidelity`. The CPU is what the others are compared with.
DOUBT_ON_CPU, DOUBT = 0.03, 0.005
_STRICT_BOUND, _TORCH_BOUND = 0.005, 0.01


@dataclass(frozen=True, slots=True)
class Truth:
    """What a device's answers for a folder are held to.

    Attributes
    ----------
    ids : list of int
        The prompt, which is fed as `export.proof.answers` does.
    expected : list of ndarray
        The folder's logits on the CPU in f32, by call, (tokens, vocabulary).
    said : TorchAnswers, optional
        Torch's answers to the prompt.
    """

    ids: list[int]
    expected: list[Logits]
    said: proof.TorchAnswers | None = None


def truth_of(core: Any, folder: Path, text: str, cancel: Cancel) -> Truth:
    """That of a folder, for the prompt that its export was compared with torch on.

    The model that it takes is gone when this returns, so that it is never in memory beside the one on the
    device.

    Parameters
    ----------
    text : str
        What is read in place of that prompt by folders exported before there was one.
    """
    said = proof.load_reference(folder)
    ids = said.ids if said else token_ids(folder, text[: CHARACTERS_PER_TOKEN * proof.TOKENS])[: proof.TOKENS]
    answers = returned(exact_answers(core, folder, list(proof.pieces(ids)), cancel))
    return Truth(ids, [logits.copy() for logits in answers], said)


def judged(
    core: Any, folder: Path, device: str, model: LoadedModel, opened: Callable[..., LoadedModel], truth: Truth
) -> Gate:
    """`fidelity` of a folder's model on a device.

    Parameters
    ----------
    opened : callable
        Opens the model on the device with properties of OpenVINO.
    """
    hints = hints_for(core, device, "f32")
    again = bool(hints) and holds((folder / WEIGHTS).stat().st_size)
    strictly = functools.partial(opened, hints) if again else None
    return fidelity(model, truth, strictly, DOUBT_ON_CPU if device == "CPU" else DOUBT)


def fidelity(
    model: LoadedModel,
    truth: Truth,
    strictly: Callable[[], LoadedModel] | None = None,
    doubt: float = DOUBT_ON_CPU,
) -> Gate:
    """The gate: whether a variant's answers on a device are those of the CPU in f32, but for rounding.

    Measured on the bundled sample: bf16, 8-bit activations and cache together put logits 0.7 % of their
    spread off, one matrix with its rows in the wrong order 6 to 81 % (in half of the cases less than 11 %),
    unrelated logits 140 %; every weight rounded to INT4 7 %, to INT3 15 %, to INT2 33 %. Rounding alone may
    do more in a model with large activations. So up to `doubt` is rounding, more than `answer_bound` is
    wrong, and in between the device is asked again in f32, with nothing rounded: a right device is then
    within 0.5 %, and one that multiplies wrongly is not. A GPU that took the wrong factors in a scan, from
    the second chunk of a prompt on, was 1.6 % off, and a right one 0.14 % in f16.

    The CPU's answers are compared with torch's too, where the export has kept them: both are in f32 with the
    same weights, so beyond 1 % the graph is wrong wherever it runs.

    Parameters
    ----------
    model : LoadedModel
        The variant as it is measured.
    truth : Truth
        Long prompts, single tokens and lengths that come again run different kernels on some devices, and
        the worst counts.
    strictly : callable, optional
        Opens the variant on the device in f32; without it, or where it cannot be opened so, there is nothing
        to ask again.
    doubt : float
        `DOUBT_ON_CPU`, or `DOUBT` for other devices.

    Returns
    -------
    Gate
        ``relative_difference`` (root of the sums of squares of the logits' difference over that of their
        spread; None if something is no number), its ``bound`` and whether it is ``ok``; for the reader also
        ``kl`` (median over positions, nats per token) and ``top1_agreement``. If it was asked again,
        ``strict_difference`` and ``strict_bound``. With torch's answers, ``torch_difference``, the CPU's from
        torch.
    """
    found = _differences(model, truth)
    bound = answer_bound(model.settings.get("precision"))
    gate: Gate = {
        "relative_difference": _number(found.difference),
        "bound": bound,
        "ok": found.difference <= bound,
        "kl": _number(found.kl),
        "top1_agreement": found.alike if math.isfinite(found.difference) else None,
    }
    if truth.said:
        gate["torch_difference"] = _number(found.torch_difference)
        gate["ok"] &= found.torch_difference <= _TORCH_BOUND
    if doubt < found.difference <= bound and strictly:
        with contextlib.suppress(ModelError):  # experts are not compiled in f32 by every GPU
            again = _differences(strictly(), truth).difference
            gate["strict_difference"], gate["strict_bound"] = _number(again), _STRICT_BOUND
            gate["ok"] &= again <= _STRICT_BOUND
    return gate


def wrong_words(gate: Gate) -> str:
    """What a gate that is not ``ok`` has found, in words."""
    from_torch = gate.get("torch_difference", 0.0)
    if from_torch is None or from_torch > _TORCH_BOUND:
        return f"wrong answers (on the CPU in f32, compared with torch: {_off(from_torch)})"
    if "strict_bound" in gate:
        words = f"{_off(gate['strict_difference'])}, also in full precision"
        limit = gate["strict_bound"]
    else:
        words, limit = _off(gate["relative_difference"]), gate["bound"]
    return f"wrong answers (its logits against CPU f32: {words}, the limit is {limit:.1%})"


def _off(share: float | None) -> str:
    return "they are not numbers" if share is None else f"they are off by {share:.1%} of their spread"


def answer_bound(precision: str | None) -> float:
    """The largest relative difference that rounding can explain where nothing more can be asked.

    A device that computes in f16 or f32 may be no further off than a model on 3 bits, and one in bf16, or
    that does not say, than halfway to 2 bits.
    """
    return 0.15 if precision in ("f32", "f16") else 0.25


@dataclass(frozen=True, slots=True)
class _Found:
    difference: float
    kl: float
    alike: float
    torch_difference: float


def _differences(model: LoadedModel, truth: Truth) -> _Found:
    ids, said = truth.ids, truth.said
    sums, kept = list[tuple[int, float, float]](), list[divergence.Logits]()
    nats: list[Any] = []
    alike = 0
    model.reset()
    for logits, expected in zip(proof.answers(model.step, ids), truth.expected, strict=True):
        sums.append((len(logits), *divergence.squares(logits, expected)))
        if said:
            if said.columns.max() >= expected.shape[1]:
                why = f"{proof.REFERENCE} contains tokens that are not in its vocabulary"
                raise ModelError("Cannot compare the folder with its model", why, "Export the model again")
            kept.append(expected[:, said.columns])
        for part in divergence.slices(*logits.shape):
            (log_p, p), (log_q, _) = map(divergence.probabilities, (expected[part], logits[part]))
            nats.append(divergence.kl_both_ways(log_p, p, log_q)[0])
            alike += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
    from_torch = proof.difference_from(said, kept) if said else 0.0
    return _Found(proof.worst(sums), float(np.median(np.concatenate(nats))), alike / len(ids), from_torch)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def hints_for(core: Any, device: str, precision: str) -> dict[str, str]:
    """OpenVINO's properties for a run in ``f32``, as far as the device knows them; none for ``user``."""
    if precision == "user":
        return {}
    composed = ":" in device  # AUTO:GPU and its like pass on what they do not list
    known = () if composed else core.get_property(device, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in FULL_PRECISION.items() if composed or name in known}
