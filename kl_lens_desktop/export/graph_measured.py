"""A graph measured as plans are: what OpenVINO computes of a text, against full precision in torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from torch import Tensor

from kl_lens_desktop.export.calls import FULL_PRECISION, call_inputs
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity.engine import figures_of, use_cores
from kl_lens_desktop.sensitivity.lanes import Lane
from kl_lens_desktop.sensitivity.metrics import Tally
from kl_lens_desktop.sensitivity.walk import Walk
from kl_lens_desktop.text.windows import windows


def measure_graph(
    loaded: LoadedModel, graph: ov.Model, texts: Sequence[Path], tokens: int, window: int, cancel: Cancel
) -> dict[str, Any]:
    """The ``measured`` of a plan file, as `engine.measure_plan` gives it, of a stateful graph."""
    ids, text = windows(loaded, texts, tokens, window)
    return {"text": text.as_dict(), **figures_of(compared(loaded, graph, ids, cancel))}


def compared(loaded: LoadedModel, graph: ov.Model, ids: Tensor, cancel: Cancel) -> Tally:
    """A stateful graph on token ids (windows, window), each from a fresh state, with nothing rounded."""
    use_cores()
    with torch.no_grad(), fast_kernels(loaded.model):
        return Walk(Lane(loaded.model, cancel), ids).judge(_reader(graph, cancel))


def _reader(graph: ov.Model, cancel: Cancel) -> Callable[[Tensor], Tensor]:
    request = ov.Core().compile_model(graph, "CPU", FULL_PRECISION).create_infer_request()
    wanted = {name for port in graph.inputs for name in port.get_names()}

    def logits(ids: Tensor) -> Tensor:
        found = []
        for row in ids.tolist():
            cancel.check()
            request.reset_state()
            fed = {name: value for name, value in call_inputs(row, 0).items() if name in wanted}
            found.append(torch.from_numpy(request.infer(fed)["logits"][0].copy()))
        return torch.stack(found)

    return logits
