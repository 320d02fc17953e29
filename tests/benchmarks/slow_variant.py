"""A variant that really takes longer for every token: the graph with products that change nothing."""

from pathlib import Path

import numpy as np

from tests.changed_export import save_changed

_WIDTH = 1024


def slowed(folder: Path, out: Path, products: int) -> Path:
    """A copy of an IR folder that multiplies `products` further matrices of four megabytes for each token."""
    import openvino as ov
    from openvino import opset15 as ops

    graph = ov.Core().read_model(folder / "openvino_model.xml")
    (result,) = (each for each in graph.get_results() if "logits" in each.input_value(0).get_names())
    logits = result.input_value(0)
    names = logits.get_names()
    ends = [np.array([at]) for at in (0, _WIDTH, 1, 2)]
    carried = ops.convert(ops.slice(logits, *ends), "f32")
    random = np.random.default_rng(0)
    for _ in range(products):
        weight = (random.standard_normal((_WIDTH, _WIDTH)) / _WIDTH**0.5).astype(np.float32)
        carried = ops.matmul(carried, ops.constant(weight), False, True)
    nothing = ops.multiply(ops.reduce_mean(ops.tanh(carried), np.array([2]), True), np.float32(1e-30))
    slow = ops.add(logits, nothing).output(0)
    logits.get_tensor().set_names(set())
    slow.get_tensor().set_names(names)
    result.input(0).replace_source_output(slow)
    return save_changed(graph, folder, out)
