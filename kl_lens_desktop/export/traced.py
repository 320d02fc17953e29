"""A traced graph compared with its model before anything is written, and where the two part.

A trace can freeze what depends on the number of tokens without a word, so every export is held to its model:
130 tokens in calls of 70, 1 and 59, which no trace has seen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from torch import nn
from transformers import PreTrainedModel

from kl_lens_desktop.export.calls import FULL_PRECISION, call_inputs
from kl_lens_desktop.export.compress import fill
from kl_lens_desktop.export.proof import (
    Logits,
    TorchAnswers,
    difference_from,
    graph_answers,
    model_answer,
    pieces,
)
from kl_lens_desktop.export.streamed import HollowWeights
from kl_lens_desktop.export.trace import first_states, trace, watched_blocks
from kl_lens_desktop.families import family_of
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.by_block import ByBlock
from kl_lens_desktop.model.inventory import blocks
from kl_lens_desktop.process.cancel import Cancel

CALLS = (70, 1, 59)
TOKENS = sum(CALLS)


def difference(graph: ov.Model, model: PreTrainedModel, ids: Sequence[int], cancel: Cancel) -> float:
    """How far the stateful graph's logits are off the model's: see `proof.difference_from`.

    Parameters
    ----------
    graph : ov.Model
        Of `trace` and `make_stateful`, with weights in FP16.
    model : PreTrainedModel
        As `model.load.open_model` gives it.
    ids : sequence of int
        At least two; the first `TOKENS` are used.
    """
    ids = list(ids[:TOKENS])
    logits = model_answer(model, ids, {}, cancel).numpy()
    said = TorchAnswers(ids, np.arange(logits.shape[1]), logits)
    return difference_from(said, graph_answers(graph, ids, cancel, CALLS))


def first_wrong_block(
    model: PreTrainedModel, ids: Sequence[int], limit: float, weights: HollowWeights, cancel: Cancel
) -> str:
    """The first block which in the graph adds something else than in the model, in words.

    Off by more than `limit` as `difference` counts it. Empty where no block is: then the head is.
    """
    ids = list(ids[:TOKENS])
    graph, states = trace(model, watched=True, hollow=True)
    fill(graph, weights, weights.tensors, cancel)
    request = ov.Core().compile_model(graph, "CPU", FULL_PRECISION).create_infer_request()
    stack = blocks(model)
    with torch.no_grad(), fast_kernels(model), ByBlock(model, cancel):
        with watched_blocks(stack) as expected:
            model(torch.tensor([ids]), use_cache=False)
        held, own = first_states(model, states)
    found: list[list[Logits]] = [[] for _ in stack]
    names = {name for port in graph.inputs for name in port.names}
    for past, piece in pieces(ids, CALLS):
        given = call_inputs(piece, past)
        feeds: dict[int | str, Any] = {name: given[name] for name in given if name in names}
        feeds |= dict(enumerate([*held, *own], len(feeds)))
        outputs = list(request.infer(feeds).values())
        held = [np.array(state) for state in outputs[1 : 1 + len(states)]]
        for parts, added in zip(found, outputs[1 + len(states) :], strict=True):
            parts.append(np.array(added[0]))
    for number, (parts, wanted) in enumerate(zip(found, expected, strict=True)):
        channels = np.arange(wanted.shape[2])
        if not difference_from(TorchAnswers(ids, channels, wanted[0].numpy()), parts) <= limit:
            return f"block {number} ({', '.join(_parts(model, stack[number]))})"
    return ""


def _parts(model: PreTrainedModel, block: nn.Module) -> list[str]:
    """The parts of a block that the family's record names, in its order."""
    mixers = family_of(model.config.model_type).mixers
    return list(dict.fromkeys(type(m).__name__ for m in block.modules() if type(m).__name__ in mixers))
