"""What formats cost on a device: kept, predicted from, and planned by."""

import itertools
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from kl_lens_desktop.bench.jobs import PricesJob
from kl_lens_desktop.bench.price_probe import measure_prices
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.export.compress import compress, weight_constants
from kl_lens_desktop.export.stand_in import StandIns
from kl_lens_desktop.export.trace import CONSTANT_PREFIX
from kl_lens_desktop.files import read_json
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.plan.device_limits import menu, only_small
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.options import total, weight_options
from kl_lens_desktop.plan.prices import (
    DeviceKey,
    ModelPrices,
    Prices,
    Product,
    Whole,
    known_prices,
    load_prices,
    save_prices,
)
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished
from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.sensitivity.scores import Scores

KEY = DeviceKey("CPU", "a processor", "", version("openvino"), 2)
SHA = "0" * 64
# Nanoseconds and bytes of an element; INT3 is what a plugin unpacks.
COSTS = {"fp16": (0.9, 2.0), "int8_sym": (0.5, 1.0), "int4_sym_g64": (0.3, 0.55), "int3_sym_g64": (1.9, 4.0)}


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path))
    return tmp_path


def _weight(name: str, kind: str, shape: tuple[int, ...], uses: int = 1) -> dict[str, Any]:
    return {"name": f"{name}.weight", "kind": kind, "shape": list(shape), "uses": uses}


def _prices(shapes: list[tuple[int, int]], whole_ms: float = 2.0, chosen: int = 0) -> Prices:
    products = [
        Product(rows, columns, name, 1e-9 * rows * columns * ns + 5e-6, round(rows * columns * memory))
        for rows, columns in shapes
        for name, (ns, memory) in COSTS.items()
    ]
    return Prices(KEY, tuple(products), (Whole(SHA, "int4_sym_g64", whole_ms / 1e3, 50_000_000, chosen),))


def _model_prices(prices: Prices, weights: list[dict[str, Any]]) -> ModelPrices:
    return ModelPrices(prices, weights, prices.models[0].chosen, prices.models[0])


def _of_scores(scores: Scores) -> ModelPrices:
    shapes = {tuple(w["shape"]) for w in scores.weights if w["kind"] != "conv"}
    prices = _prices(sorted(shapes))
    prices = replace(prices, models=(replace(prices.models[0], sha256=scores.model.sha256),))
    return ModelPrices(prices, scores.weights, 0, prices.models[0])


def test_a_plan_takes_the_whole_and_the_difference_of_each_weight() -> None:
    weights = [_weight("a", "mlp", (100, 200)), _weight("b", "ssm", (50, 200))]
    prices = _model_prices(_prices([(100, 200), (50, 200)]), weights)
    same = prices.of_plan({"a.weight": "int4_sym_g64", "b.weight": "int4_sym_g64"})
    assert same is not None
    assert (same.seconds, same.memory) == (0.002, 50_000_000)
    mixed = prices.of_plan({"a.weight": "int8_sym", "b.weight": "int4_sym_g64"})
    assert mixed is not None
    assert mixed.seconds - same.seconds == pytest.approx(20_000 * 0.2e-9)
    assert mixed.memory - same.memory == 20_000 * 0.45
    assert prices.of_plan({"a.weight": "nf4_g64", "b.weight": "int4_sym_g64"}) is None, "was not measured"


def test_a_lookup_takes_no_time_and_a_token_passes_only_the_experts_it_chooses() -> None:
    table, tied = _weight("e", "embedding", (100, 200)), _weight("t", "embedding", (100, 200), uses=2)
    stack, shared = _weight("m.experts.up", "mlp", (8, 100, 200)), _weight("s", "mlp", (100, 200), uses=3)
    prices = _model_prices(_prices([(100, 200)], chosen=2), [table, tied, stack, shared])
    found = [prices.of(weight, "int8_sym") for weight in (table, tied, stack, shared)]
    assert all(found)
    seconds = [price.seconds for price in found if price]
    assert seconds == pytest.approx([0, seconds[1], 2 * seconds[1], 3 * seconds[1]])
    assert [price.memory for price in found if price] == [20_000, 20_000, 160_000, 20_000]


@pytest.mark.parametrize(("shape", "seconds"), [
    ((100, 100), 10e-6), ((150, 100), 15e-6), ((200, 100), 20e-6), ((400, 100), 40e-6), ((50, 100), 5e-6),
])  # fmt: skip
def test_shapes_between_those_measured_cost_what_lies_between(shape: tuple[int, int], seconds: float) -> None:
    products = (Product(100, 100, "fp16", 10e-6, 20_000), Product(200, 100, "fp16", 20e-6, 40_000))
    prices = Prices(KEY, products, (Whole(SHA, "fp16", 1e-3, 1_000_000),))
    price = _model_prices(prices, []).of(_weight("w", "mlp", shape), "fp16")
    assert price is not None
    assert price.seconds == pytest.approx(seconds)
    assert price.memory == pytest.approx(2 * shape[0] * shape[1])


def test_formats_that_only_save_disk_are_told_and_left_out_by_default() -> None:
    weights = [_weight("a", "mlp", (1000, 2000))]
    prices = _model_prices(_prices([(1000, 2000)]), weights)
    assert prices.wasteful() == ("int3_sym_g64",)
    assert only_small("CPU", prices) == ("int3_sym_g64",)
    assert "int3_sym_g64" not in menu(["CPU"], 5, {"CPU": prices.wasteful()})
    assert "int3_sym_g32" in menu(["CPU"], 5, {"CPU": prices.wasteful()}), "measured, and it pays"
    assert "int3_sym_g64" in menu(["CPU"], 3, {"CPU": prices.wasteful()}), "the small file is asked for"


@pytest.mark.parametrize("disturbed", COSTS)
def test_what_a_menu_leaves_out_is_no_matter_of_time(disturbed: str) -> None:
    """Two jobs for the same model come to the same plan, whatever else the computer does."""
    prices = _prices([(1000, 2000)])
    slow = [replace(p, seconds=(9 if p.format == disturbed else 1) * p.seconds) for p in prices.products]
    found = _model_prices(prices.with_products(slow), [_weight("a", "mlp", (1000, 2000))])
    assert found.wasteful() == ("int3_sym_g64",)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("spent", ["seconds", "memory"])
def test_a_plan_for_a_speed_or_a_memory_is_the_best_of_all(
    sample_scores: Scores, spent: str, share: float
) -> None:
    """Of every assignment of four weights the one of least loss that keeps the budget."""
    weights = [w for w in sample_scores.weights if w["kind"] == "ssm"][:4]
    names = {w["name"] for w in weights}
    entries = [entry for entry in sample_scores.entries if entry.weight in names]
    scores = replace(sample_scores, weights=weights, entries=entries)
    prices = _of_scores(scores)
    options = weight_options(scores, prices=prices)
    every = [
        dict(zip([o.weight for o in options], names, strict=True))
        for names in itertools.product(*([c.format for c in o.choices] for o in options))
    ]
    costs = [getattr(prices.of_plan(assignment), spent) for assignment in every]
    limit = min(costs) + share * (max(costs) - min(costs))
    best = min(total(options, a)[1] for a, cost in zip(every, costs, strict=True) if cost <= limit + 1e-12)
    asked: Any = (
        {"min_tokens_per_s": 1 / limit} if spent == "seconds" else {"memory_bytes": int(limit)}
    )  # fmt: skip
    plan = propose(scores, prices=prices, **asked)
    found = prices.of_plan(plan.assignments)
    assert found is not None
    assert getattr(found, spent) <= limit * (1 + 1e-9)
    assert plan.predicted["kl"] == pytest.approx(best)
    assert plan.predicted["tokens_per_s"] == pytest.approx(1 / found.seconds)
    assert plan.provenance["priced_on"] == "CPU"


def test_the_fastest_plan_within_a_loss_is_as_fast_as_any(sample_scores: Scores) -> None:
    prices = _of_scores(sample_scores)
    limit = 0.004
    smallest = propose(sample_scores, max_kl=limit, prices=prices)
    fastest = propose(sample_scores, max_kl=limit, fastest=True, prices=prices)
    assert (fastest.predicted["kl"] or 0) <= limit
    assert (fastest.predicted["tokens_per_s"] or 0) >= (smallest.predicted["tokens_per_s"] or 0)
    assert fastest.provenance["fastest"] == "yes"
    with pytest.raises(InputError, match="within a KL"):
        propose(sample_scores, bits=5, fastest=True, prices=prices)


def test_a_speed_that_no_plan_has_is_refused_with_the_best_there_is(sample_scores: Scores) -> None:
    prices = _of_scores(sample_scores)
    with pytest.raises(InputError, match="predicted to decode"):
        propose(sample_scores, min_tokens_per_s=1e6, prices=prices)
    with pytest.raises(InputError, match="of memory on CPU"):
        propose(sample_scores, memory_bytes=1000, prices=prices)
    with pytest.raises(InputError, match="was not measured"):
        propose(sample_scores, min_tokens_per_s=1)


def test_a_plan_for_a_speed_survives_its_file(sample_scores: Scores, tmp_path: Path) -> None:
    prices = _of_scores(sample_scores)
    plan = propose(sample_scores, min_tokens_per_s=450, prices=prices)
    save_plan(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan


def test_prices_are_kept_for_the_device_they_were_measured_on(own_home: Path) -> None:
    prices = _prices([(100, 200)])
    assert load_prices(KEY) == Prices(KEY)
    save_prices(prices)
    assert load_prices(KEY) == prices
    assert load_prices(replace(KEY, driver="another")) == Prices(replace(KEY, driver="another"))
    found = known_prices("CPU", SHA, [])
    assert found is not None
    assert found.prices == prices
    assert known_prices("GPU", SHA, []) is None
    assert known_prices("CPU", "1" * 64, []) is None
    save_prices(replace(prices, key=replace(KEY, openvino="2020.1"), models=()))
    assert known_prices("CPU", SHA, []) == found


@pytest.mark.parametrize("damage", ["[]", '{"schema": "kl-lens/prices/1"}', "NaN", '{"schema": '])
def test_a_damaged_file_of_prices_is_as_none(own_home: Path, damage: str) -> None:
    save_prices(_prices([(100, 200)]))
    KEY.path.write_text(damage, encoding="utf-8")
    assert load_prices(KEY) == Prices(KEY)
    assert known_prices("CPU", SHA, []) is None


def test_a_price_that_is_no_number_is_not_taken(own_home: Path) -> None:
    save_prices(_prices([(100, 200)]))
    value = json.loads(KEY.path.read_text(encoding="utf-8"))
    value["products"][0]["seconds"] = -1
    KEY.path.write_text(json.dumps(value), encoding="utf-8")
    assert load_prices(KEY) == Prices(KEY)


@pytest.mark.parametrize("name", all_formats())
@pytest.mark.parametrize("shape", [(48, 128), (3, 16, 128)])
def test_a_stand_in_has_the_form_of_an_exported_weight(name: str, shape: tuple[int, ...]) -> None:
    fmt = parse_format(name)
    exported = _product(shape, name)
    held = StandIns()
    given = ops.parameter([*shape[:-2], 1, shape[-1]], np.float32)
    made = ov.Model([ops.matmul(given, held.weight(shape, fmt), False, True)], [given])
    made.validate_nodes_and_infer_types()
    assert _form(made) == _form(exported)
    compiled = ov.Core().compile_model(made, "CPU")
    answer = compiled([np.ones([int(n) for n in given.get_partial_shape().to_shape()], np.float32)])[0]
    assert answer.shape == (*shape[:-2], 1, shape[-2])
    assert np.isfinite(answer).all()


def _product(shape: tuple[int, ...], name: str) -> ov.Model:
    constant = ops.constant(np.random.default_rng(0).normal(0, 1, shape).astype(np.float16))
    constant.set_friendly_name(f"{CONSTANT_PREFIX}w.weight_compressed")
    widened = ops.convert(constant, "f32")
    widened.set_friendly_name(f"{CONSTANT_PREFIX}w.weight")
    given = ops.parameter([*shape[:-2], 1, shape[-1]], np.float32)
    graph = ov.Model([ops.matmul(given, widened, False, True)], [given])
    compress(graph, {"w.weight": name}, Cancel())
    assert set(weight_constants(graph)) == {"w.weight"}
    return graph


def _form(graph: ov.Model) -> list[tuple[Any, ...]]:
    return [
        (op.get_type_name(), str(op.get_output_element_type(0)), str(op.get_output_partial_shape(0)))
        for op in graph.get_ordered_ops()
    ]


def test_the_probe_prices_a_model_once_and_for_all_its_plans(
    own_home: Path, short_sample: LocalModel, cancel: Cancel
) -> None:
    job = PricesJob(str(short_sample.folder), "cpu", formats=("int8_sym", "fp16"))
    *_, last = measure_prices(short_sample, job, cancel)
    assert isinstance(last, Finished)
    found = job.result(last)
    assert {row["format"] for row in found["formats"]} == {"fp16", "int8_sym", "int4_sym_g64"}
    sizes = {row["format"]: row["memory"] for row in found["formats"]}
    assert sizes["int4_sym_g64"] < sizes["fp16"]
    assert all(0 < row["seconds"] < 10 for row in found["formats"])
    again = [*measure_prices(short_sample, job, cancel)]
    assert job.result(again[-1]) == found  # type: ignore[arg-type]
    assert not any("Timing" in getattr(event, "message", "") for event in again), "it is known"


def test_a_brief_probe_tells_that_the_cpu_unpacks_int3(
    own_home: Path, short_sample: LocalModel, cancel: Cancel
) -> None:
    job = PricesJob(str(short_sample.folder), "CPU", brief=True)
    *_, last = measure_prices(short_sample, job, cancel)
    assert isinstance(last, Finished)
    found = job.result(last)
    assert found["wasteful"] == ["int3_sym_g64"]
    assert (found["formats"], found["rest"]) == ([], None)
    (path,) = (own_home / "prices").glob("*.json")
    products = read_json(path)["products"]
    an_element = {each["format"]: each["memory"] / each["rows"] / each["columns"] for each in products}
    assert an_element["int3_sym_g64"] > an_element["int4_sym_g64"] + 1, "it is unpacked to 32 bits"


def test_a_device_that_is_not_here_has_no_prices(short_sample: LocalModel, cancel: Cancel) -> None:
    with pytest.raises(InputError, match="does not find it"):
        list(measure_prices(short_sample, PricesJob("sample", "NPU"), cancel))
