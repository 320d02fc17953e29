"""What an exported model answers on the CPU with nothing rounded, to prompts that are known beforehand.

It is loaded whole where memory holds it. Otherwise it runs piece by piece, all prompts together: laid out in
float32, the weights of a model of three billion parameters take more than a laptop has.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.bench.memory import holds
from kl_lens_desktop.bench.stateful_model import StatefulModel, plugin_words
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export import proof
from kl_lens_desktop.export.calls import FULL_PRECISION
from kl_lens_desktop.files import MODEL_XML, WEIGHTS
from kl_lens_desktop.process.cancel import Cancel

Logits = NDArray[np.float32]
Call = tuple[int, Sequence[int]]


def exact_answers(
    core: Any, folder: Path, calls: Sequence[Call], cancel: Cancel
) -> Generator[float, None, Iterator[Logits]]:
    """Yield the share of the preparation that is done; return the logits of each call, (tokens, vocabulary).

    They are computed as they are asked for; each may be overwritten by the next.

    Parameters
    ----------
    core : openvino.Core
    calls : sequence of (int, sequence of int)
        How many ids of its prompt came before each call, and its own. With none before, a prompt begins.

    Raises
    ------
    ModelError
        If OpenVINO cannot read the model or compile it.
    """
    if holds((folder / WEIGHTS).stat().st_size):
        return _whole(StatefulModel(core, folder, "CPU", FULL_PRECISION, proof.TOKENS), calls, cancel)
    from kl_lens_desktop.export.in_pieces import InPieces

    with _in_words(folder):
        pieces = InPieces(core.read_model(folder / MODEL_XML), calls, proof.PIECE)
        yield from pieces.prepare(cancel)
    return _last(pieces.answers(cancel), folder)


def _whole(model: StatefulModel, calls: Sequence[Call], cancel: Cancel) -> Iterator[Logits]:
    for past, ids in calls:
        cancel.check()
        if not past:
            model.reset()
        yield model.step(list(ids))


def _last(answers: Iterator[Logits], folder: Path) -> Iterator[Logits]:
    with _in_words(folder):
        yield from answers


@contextlib.contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ModelError(
            f"OpenVINO cannot open {folder.name} on CPU", plugin_words(error), "Export it again"
        ) from error
