"""NNCF's own choice as a plan, exact bytes of any plan, and the comparison in small, on a harder sample."""

import random
from collections.abc import Iterator
from pathlib import Path

import openvino as ov
import pytest
from openvino._offline_transformations import compress_model_transformation

from kl_lens_desktop.export.compress import compress
from kl_lens_desktop.export.nncf_choice import Chooser, formats_in
from kl_lens_desktop.export.stateful import make_stateful
from kl_lens_desktop.export.trace import trace
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.propose import predicted
from kl_lens_desktop.quant.formats import all_formats
from kl_lens_desktop.sensitivity.scores import Scores
from kl_lens_desktop.sensitivity.texts import windows
from kl_lens_desktop.texts import calibration_text


@pytest.fixture(scope="module")
def loaded(sample: LocalModel) -> LoadedModel:
    return load_model(sample.folder)


@pytest.fixture(scope="module")
def chooser(loaded: LoadedModel) -> Iterator[Chooser]:
    ids, _ = windows(loaded.tokenizer, [calibration_text()], 256, 128)
    made = Chooser(loaded, ids, Cancel())
    yield made
    made.close()


@pytest.mark.parametrize("metric", ["data-free", "hessian"])
def test_nncfs_choice_is_read_back_from_the_graph_it_compressed(chooser: Chooser, metric: str) -> None:
    order = chooser.order(metric)
    assert len(order.weights) == 37
    count = order.count(order.bytes(37, "int8_sym") * 5 // 8, "int4_sym_g64")
    assert count is not None
    chosen = chooser.choose(metric, "int4_sym_g64", order.ratio(count))
    assert {weight for weight, name in chosen.items() if name == "int4_sym_g64"} == set(order.weights[:count])
    assert {name for weight, name in chosen.items() if weight in order.weights[count:]} == {"int8_sym"}
    assert order.bytes(count, "int4_sym_g64") >= order.bytes(37, "int8_sym") * 5 // 8
    assert order.bytes(count + 1, "int4_sym_g64") < order.bytes(37, "int8_sym") * 5 // 8


def test_the_bytes_of_ten_random_plans_are_those_of_their_files(
    loaded: LoadedModel, sample_scores: Scores, tmp_path: Path
) -> None:
    graph, states = trace(loaded.model)
    make_stateful(graph, states)
    compress_model_transformation(graph)
    ov.save_model(graph, tmp_path / "fp16.xml", compress_to_fp16=False)
    names = [weight["name"] for weight in sample_scores.weights if weight["kind"] != "conv"]
    for seed in range(10):
        draw = random.Random(seed)
        assignments = {name: draw.choice(all_formats()) for name in names}
        graph = ov.Core().read_model(tmp_path / "fp16.xml")
        compress(graph, assignments, Cancel())
        assert formats_in(graph) == assignments
        ov.save_model(graph, tmp_path / "plan.xml", compress_to_fp16=False)
        size = (tmp_path / "plan.bin").stat().st_size
        assert predicted(sample_scores, assignments)["bytes"] == pytest.approx(size, rel=1e-3)
        del graph
