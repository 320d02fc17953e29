"""What the model in torch answers to a prompt, kept beside its graph: what a device's answers are held to.

The prompt comes as a conversation does: a long call, single tokens, a call of the same length again, single
tokens. Faults of graphs and plugins have shown in one of these and in no other: only beyond two chunks of
Mamba-2's scan, only in single tokens, only where a length comes again.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.export.calls import FULL_PRECISION, call_inputs
from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.process.cancel import Cancel

if TYPE_CHECKING:
    import torch

    from kl_lens_desktop.quant.roundings import Change

REFERENCE = "kl_lens_reference.json"
CALLS = (140, *[1] * 8, 140, *[1] * 8)  # tokens
TOKENS = sum(CALLS)
_COLUMNS = 64  # of the vocabulary; the whole of it would take as much as a small model
_SEED = 0
LARGE = 2**28  # elements of weights: the device takes up to five bytes for each while it compiles a graph
PIECE = 2**27
_LARGEST_VOCABULARY = 2**24

Logits = NDArray[np.float32]
Call = TypeVar("Call")


@dataclass(frozen=True, slots=True)
class TorchAnswers:
    """The answers of a model in torch, its weights rounded as the graph holds them.

    Attributes
    ----------
    ids : list of int
        The prompt, at most `TOKENS` of them.
    columns : ndarray of int
        Which of the vocabulary's logits are kept.
    logits : ndarray of float32
        (tokens, columns).
    """

    ids: list[int]
    columns: NDArray[np.int64]
    logits: Logits


def call_sizes(count: int, calls: Sequence[int] = CALLS) -> list[int]:
    """`calls`, as far as `count` tokens go."""
    ends = np.minimum(np.cumsum([0, *calls]), count)
    return [int(end - start) for start, end in pairwise(ends) if end > start]


def pieces(ids: Sequence[int], calls: Sequence[int] = CALLS) -> Iterator[tuple[int, list[int]]]:
    """For each of the `call_sizes` that `ids` are fed in, how many came before, and its ids."""
    start = 0
    for count in call_sizes(len(ids), calls):
        yield start, list(ids[start : start + count])
        start += count


def answers(step: Callable[[list[int]], Logits], ids: Sequence[int]) -> Iterator[Logits]:
    """The logits of each of the `CALLS` that `ids` are fed in, [tokens, vocabulary]."""
    return (step(piece) for _, piece in pieces(ids))


def graph_answers(
    graph: Any, ids: Sequence[int], cancel: Cancel, calls: Sequence[int] = CALLS
) -> Iterator[Logits]:
    """The logits of a stateful graph, an `ov.Model`, on the CPU with nothing rounded.

    By call, [tokens, vocabulary]; each is overwritten by the next. One of more than
    `LARGE` elements runs in pieces.
    """
    import openvino as ov

    from kl_lens_desktop.export.in_pieces import InPieces, elements

    if elements(graph) > LARGE:
        yield from InPieces(graph.clone(), list(pieces(ids, calls)), PIECE).answers(cancel)
        return
    request = ov.Core().compile_model(graph, "CPU", FULL_PRECISION).create_infer_request()
    for past, piece in pieces(ids, calls):
        cancel.check()
        yield request.infer(call_inputs(piece, past), share_outputs=True)["logits"][0]


def model_answer(
    model: Any, ids: Sequence[int], changes: "Mapping[str, Change]", cancel: Cancel
) -> "torch.Tensor":
    """The logits of a model for `ids` in one call, in float32, with weights rounded as a graph holds them.

    Parameters
    ----------
    model : PreTrainedModel
        As `model.load.open_model` gives it.
    changes : mapping of str to Change
        What each weight is rounded to; everything else is rounded to FP16.

    Returns
    -------
    Tensor
        (tokens, vocabulary).
    """
    import torch

    with as_exported(model, changes, cancel):
        logits: torch.Tensor = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits


@contextlib.contextmanager
def as_exported(model: Any, changes: "Mapping[str, Change]", cancel: Cancel) -> Iterator[None]:
    """Let a model compute in the block as a graph does that holds its weights so: see `model_answer`."""
    import torch

    from kl_lens_desktop.kernels.replace import fast_kernels
    from kl_lens_desktop.model.by_block import ByBlock

    with torch.no_grad(), fast_kernels(model), ByBlock(model, cancel) as streamed:
        named = {id(streamed.stored[name]) for name in changes}  # tied weights have other names too
        rest = {
            name: _in_fp16
            for name, stored in streamed.stored.items()
            if id(stored) not in named and "A_log" not in name  # a graph holds the rates, in float32
        }
        with streamed.changed({**rest, **changes}):
            yield


def _in_fp16(rows: "torch.Tensor") -> "torch.Tensor":
    """As a graph holds what is no weight: what is beyond FP16 stays."""
    rounded = rows.half().float()
    return rounded.where(rounded.isfinite(), rows)


def reference(
    model: Any, ids: Sequence[int], changes: "Mapping[str, Change]", cancel: Cancel
) -> TorchAnswers:
    """What a model answers to `ids`: see `model_answer`.

    Raises
    ------
    ModelError
        If that is no number.
    """
    logits = model_answer(model, ids, changes, cancel)
    if not logits.isfinite().all():
        raise ModelError(
            "Cannot export the model", "its own predictions are not finite numbers", "Choose another model"
        )
    vocabulary = logits.shape[1]
    kept = np.random.default_rng(_SEED).choice(vocabulary, min(_COLUMNS, vocabulary), replace=False)
    columns = np.sort(kept).astype(np.int64)
    return TorchAnswers(list(ids), columns, logits[:, columns].numpy())


def save_reference(folder: Path, said: TorchAnswers) -> None:
    """Into an exported folder."""
    logits = [[float(f"{value:.7g}") for value in row] for row in said.logits.tolist()]
    value = {"ids": said.ids, "columns": said.columns.tolist(), "logits": logits}
    write_json(folder / REFERENCE, value)


def load_reference(folder: Path) -> TorchAnswers | None:
    """That of an exported folder; None where there is none, as in folders exported before there were any.

    Raises
    ------
    InputError
        If it is damaged.
    """
    path = folder / REFERENCE
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        ids = [int(number) for number in value["ids"]]
        columns = np.array(value["columns"], np.int64)
        logits = np.array(value["logits"], np.float32)
        if not ids or logits.shape != (len(ids), len(columns)):
            raise ValueError("the numbers of tokens differ")
        if not 0 <= columns.min() <= columns.max() < _LARGEST_VOCABULARY:
            raise ValueError("no vocabulary has such tokens")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"Cannot read {path}", "it is damaged", "Export the model again") from error
    return TorchAnswers(ids, columns, logits)


def worst(calls: Iterable[tuple[int, float, float]]) -> float:
    """How far the logits of the worst call are off: root of the sums of squares, as a share of their spread.

    Parameters
    ----------
    calls : iterable of (int, float, float)
        Tokens, and the sums of squares of the difference and of what was expected (see `squares`). Single
        tokens that follow one another count as one call.

    Returns
    -------
    float
        Infinite if something is no number.
    """
    sums = [
        np.sum([(off, spread) for _, off, spread in together], 0)
        for together in _joined(calls, lambda call: call[0])
    ]
    shares = [float(np.sqrt(off / spread)) if spread else 0.0 for off, spread in sums]
    return max(share if np.isfinite(share) else float("inf") for share in shares)


def difference_from(said: TorchAnswers, parts: Iterable[Logits]) -> float:
    """How far a model's `answers` to the reference's prompt are off, of which `parts` are the kept columns.

    Of each call, single tokens that follow one another being one, the token counts than which a quarter are
    further off: where two experts score all but alike, rounding chooses, and a token or two differ in models
    that are right. Of the calls, the worst counts.
    """
    start, calls = 0, []
    for part in parts:
        end = start + len(part)
        calls.append(np.array(_by_token(part, said.logits[start:end])))
        start = end
    found = []
    for together in _joined(calls, lambda call: call.shape[1]):
        off, spread = np.concatenate(together, 1)
        off = np.nan_to_num(off, nan=np.inf, posinf=np.inf)
        found.append(float(np.sqrt(np.quantile(off, 0.75, method="higher") / spread.mean())))
    return max(share if np.isfinite(share) else float("inf") for share in found)


def _joined(calls: Iterable[Call], tokens: Callable[[Call], int]) -> list[list[Call]]:
    """The calls, each alone but for single tokens that follow one another: those together."""
    groups: list[list[Call]] = []
    single = False
    for call in calls:
        if single and tokens(call) == 1:
            groups[-1].append(call)
        else:
            groups.append([call])
        single = tokens(call) == 1
    return groups


def squares(logits: Logits, expected: Logits) -> tuple[float, float]:
    """Sums of squares of (logits − expected) and of expected, each position's mean removed.

    A constant added to all logits of a position changes no probability, so it is not a difference.
    """
    off, spread = _by_token(logits, expected)
    return float(off.sum()), float(spread.sum())


def _by_token(logits: Logits, expected: Logits) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wanted = expected.astype(np.float64)
    wanted -= wanted.mean(-1, keepdims=True)
    got = logits.astype(np.float64)
    got -= got.mean(-1, keepdims=True)
    return np.square(got - wanted).sum(-1), np.square(wanted).sum(-1)
