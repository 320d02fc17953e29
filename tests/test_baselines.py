"""NNCF's own choice as a plan, exact bytes of any plan, and the comparison in small, on a harder sample."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
import pytest
import torch

from kl_lens_desktop import resources
from kl_lens_desktop.export import baseline_plans
from kl_lens_desktop.export.calls import FULL_PRECISION
from kl_lens_desktop.export.compress import compress, to_fp16, weight_constants
from kl_lens_desktop.export.graph_measured import compared
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.export.nncf_choice import Chooser, formats_in
from kl_lens_desktop.export.stateful import make_stateful
from kl_lens_desktop.export.trace import trace
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.inventory import weight_parameters
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.jobs import VerifyJob
from kl_lens_desktop.plan.joint import Bench, joint_of
from kl_lens_desktop.plan.options import weight_options
from kl_lens_desktop.plan.propose import predicted, propose
from kl_lens_desktop.plan.verify import verify
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note
from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from kl_lens_desktop.text.bundled import calibration_text, held_out_text
from kl_lens_desktop.text.windows import windows
from tests.benchmarks.bench_plans import compare
from tests.stress import stressed_folder


@pytest.fixture(scope="module")
def loaded(sample: LocalModel) -> LoadedModel:
    return load_model(sample.folder)


@pytest.fixture(scope="module")
def chooser(loaded: LoadedModel) -> Iterator[Chooser]:
    ids, _ = windows(loaded, [calibration_text()], 256, 128)
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


@pytest.mark.parametrize("algorithm", ["gptq", "scale-estimation", "awq"])
def test_nncfs_own_integers_are_measured_as_its_graph_has_them(
    algorithm: str, chooser: Chooser, loaded: LoadedModel
) -> None:
    order = chooser.order("data-free")
    formats = order.assignments(12, "int4_sym_g64")
    graph = chooser.same(formats, "data-free", "int4_sym_g64", order.ratio(12), algorithm)
    assert formats_in(graph) == formats
    ids, _ = windows(loaded, [held_out_text()], 256, 64)
    measured = joint_of(compared(loaded, graph, ids, Cancel()))
    values = _values(graph)
    nearest = {w: fake_quantize(p, parse_format(formats[w])) for w, p in _parameters(loaded, formats).items()}
    changed = [
        w for w, fmt in formats.items() if fmt != "int8_sym" and not torch.equal(values[w], nearest[w])
    ]
    assert len(changed) > 3
    if algorithm == "awq":  # its graph multiplies activations as well
        assert any("awq_mul" in op.get_friendly_name() for op in graph.get_ops())
        return
    copy = load_model(resources.path("sample-hybrid"))
    for name, parameter in _parameters(copy, formats).items():
        parameter.data = values[name]
    with torch.no_grad():
        p, q = (
            model(ids, use_cache=False).logits.double().log_softmax(-1)
            for model in (loaded.model, copy.model)
        )
    kl = (p.exp() * (p - q)).sum(-1).mean(-1)
    assert measured.kl == pytest.approx(kl.tolist(), rel=2e-3)


def _parameters(loaded: LoadedModel, names: Mapping[str, str]) -> dict[str, torch.nn.Parameter]:
    every = weight_parameters(loaded.model)
    return {name: every[name] for name in names}


def _values(graph: ov.Model) -> dict[str, torch.Tensor]:
    """What the runtime makes of each weight: the end of what decompresses it, computed by OpenVINO."""
    ends = {}
    for name, constant in weight_constants(graph).items():
        node = constant
        while (target := next(iter(node.output(0).get_target_inputs())).get_node()).get_type_name() in (
            "Convert", "Subtract", "Multiply", "Reshape"
        ):  # fmt: skip
            node = target
        ends[name] = node.output(0)
    made = ov.Model(list(ends.values()), [])
    outputs = ov.Core().compile_model(made, "CPU", FULL_PRECISION)({})
    return {name: torch.from_numpy(outputs[place].copy()) for place, name in enumerate(ends)}


def test_baselines_of_nncfs_own_integers_say_so(
    sample: LocalModel, sample_scores_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_plans, "NNCF_METRICS", {"data-free": None})
    monkeypatch.setattr(baseline_plans, "NNCF_ALGORITHMS", {"scale-estimation": None})
    monkeypatch.setattr(baseline_plans, "SCORED_TOKENS", 256)
    plan = propose(load_scores(sample_scores_path), bits=5)
    save_plan(tmp_path / "plan.json", plan)
    job = BaselinesJob(
        "sample",
        sample_scores_path,
        tmp_path / "plan.json",
        tmp_path / "out",
        tokens=256,
        window=64,
        only=("nncf",),
    )
    events = list(baseline_plans.baselines(sample, job, Cancel()))
    assert any("LoRA correction is left out" in event.text for event in events if isinstance(event, Note))
    plain, own = (
        load_plan(tmp_path / "out" / f"nncf-{name}.json") for name in ("data-free", "scale-estimation")
    )
    assert plain.assignments == own.assignments
    assert (plain.rounded_by, own.rounded_by) == ("", "nncf-scale-estimation")
    assert plain.measured is not None
    assert own.measured is not None
    assert own.measured["kl_pq"] != plain.measured["kl_pq"]
    list(
        verify(
            sample,
            VerifyJob("sample", tmp_path / "out" / "nncf-scale-estimation.json", tokens=256, window=64),
            Cancel(),
        )
    )
    again = load_plan(tmp_path / "out" / "nncf-scale-estimation.json")
    assert again.rounded_by == ""
    assert again.measured == plain.measured


def test_the_bytes_of_ten_random_plans_are_those_of_their_files(
    loaded: LoadedModel, sample_scores: Scores, tmp_path: Path
) -> None:
    graph, states = trace(loaded.model)
    make_stateful(graph, states)
    to_fp16(graph)
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


@dataclass(frozen=True)
class Stressed:
    """The sample with large channels, and its scores in two formats."""

    loaded: LoadedModel
    scores: Scores


@pytest.fixture(scope="module")
def stressed(sample: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Stressed:
    root = tmp_path_factory.mktemp("stressed")
    local = LocalModel("stressed", stressed_folder(sample.folder, root / "model"))
    formats = ("int8_sym", "int4_sym_g32")
    how = Analysis((calibration_text(),), tokens=512, formats=formats, rounding="nearest")
    for _ in analyze(local, root / "scores.json", how, Cancel()):
        pass
    return Stressed(load_model(local.folder), load_scores(root / "scores.json"))


def test_large_channels_change_the_function_by_rounding_only(loaded: LoadedModel, stressed: Stressed) -> None:
    ids, _ = windows(loaded, [held_out_text()], 128, 64)
    with torch.no_grad():
        before, after = (m.model(ids).logits.log_softmax(-1) for m in (loaded, stressed.loaded))
    assert (before.exp() * (before - after)).sum(-1).mean() < 1e-4


def test_on_large_channels_a_plan_keeps_what_uniform_int4_loses(stressed: Stressed) -> None:
    ids, _ = windows(stressed.loaded, [held_out_text()], 2048, 256)
    bench = Bench(stressed.loaded, ids, Cancel())
    options = weight_options(stressed.scores)
    fp16 = bench.measure({option.weight: "fp16" for option in options})
    lost, error = bench.measure({o.weight: "int4_sym_g64" for o in options}).perplexity_over(fp16)
    assert lost >= 5 * error
    true_size = sum(option.choices[0].bytes for option in options) + stressed.scores.kept_bytes
    plan = Front(options).within_bytes(int(0.449 * true_size) - stressed.scores.kept_bytes)
    lost, error = bench.measure(plan).perplexity_over(fp16)
    assert lost <= error


def test_on_large_channels_the_repaired_plan_is_ahead_of_every_baseline(stressed: Stressed) -> None:
    (comparison,) = compare(
        stressed.loaded,
        stressed.scores,
        [5.0],
        repair_tokens=2048,
        final_tokens=2048,
        seconds=1,
        uniform=("int4_sym_g32", "int4_sym_g64", "int4_asym_g32", "nf4_g32"),
        nncf_lows=("int4_sym_g64",),
        nncf_metrics=("data-free",),
    )
    assert comparison.is_no_worse()
    for family in ("uniform", "NNCF", "random"):
        assert comparison.rows_of(family)
        assert comparison.beats(family), family
    for row in comparison.rows_of("NNCF", "random", "knapsack", "paper's list"):
        assert row.bytes >= comparison.plan.bytes
