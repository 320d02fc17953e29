"""Columns of large inputs are scaled before they are rounded, and nothing else of the model changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from safetensors import safe_open
from torch import Tensor

from kl_lens_desktop.errors import ExportError, InputError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.compress import weight_constants
from kl_lens_desktop.export.scaled import divide_inputs
from kl_lens_desktop.export.static import read_shared
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.plan.integers import save_integers
from kl_lens_desktop.plan.joint import Bench
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.plan.roundings import plan_roundings
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import returned
from kl_lens_desktop.quant import growing
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.integers import open_integers, writing
from kl_lens_desktop.quant.rounding import fake_quantize, quantize
from kl_lens_desktop.quant.roundings import NEAREST, Roundings, kept_in, packed
from kl_lens_desktop.sensitivity import engine
from kl_lens_desktop.sensitivity.data_rounding import (
    Calibration,
    calibration,
    calibration_of,
    round_by_data,
)
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.moments import Seen
from kl_lens_desktop.sensitivity.outliers import exponents
from kl_lens_desktop.sensitivity.scores import load_scores
from kl_lens_desktop.sensitivity.sequential import base_of, record_of, round_in_sequence
from kl_lens_desktop.text.bundled import calibration_text, held_out_text
from kl_lens_desktop.text.windows import windows
from tests.little_text import read_little
from tests.models import build_folder
from tests.stress import stressed_folder

FORMATS = ("int4_sym_g64", "int8_sym")
QKV = ("q_proj", "k_proj", "v_proj")
CHANNELS = 128


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    read_little(monkeypatch, 1024, 256)


@pytest.fixture(scope="module")
def stressed(sample: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    folder = tmp_path_factory.mktemp("outliers") / "model"
    return LocalModel("stressed", stressed_folder(sample.folder, folder))


@pytest.fixture(scope="module")
def scored(stressed: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of that model, with their integers beside them."""
    out = tmp_path_factory.mktemp("scored") / "scores.json"
    how = Analysis((calibration_text(),), tokens=256, window=64, formats=FORMATS)
    with pytest.MonkeyPatch.context() as patch:
        read_little(patch, 1024, 256)
        for _ in analyze(stressed, out, how, Cancel()):
            pass
    return out


@pytest.fixture(scope="module")
def stressed_model(stressed: LocalModel) -> LoadedModel:
    return load_model(stressed.folder)


def _inputs(large: float) -> tuple[Tensor, Tensor]:
    """A matrix and the second moment of its inputs, one channel in 16 of which is so many times as large."""
    random = torch.Generator().manual_seed(0)
    factors = torch.ones(CHANNELS)
    factors[::16] = large
    rows = torch.randn(4096, CHANNELS, generator=random) * factors
    return torch.randn(64, CHANNELS, generator=random) / factors, rows.T @ rows / len(rows)


def test_small_columns_of_large_inputs_are_multiplied() -> None:
    weight, moment = _inputs(32.0)
    found = exponents([weight], moment)
    assert found is not None
    assert int(found[::16].min()) >= 3 + int(found[1:16].max())


def test_columns_of_like_inputs_stay_as_they_are() -> None:
    assert exponents([_inputs(1.0)[0]], _inputs(1.0)[1]) is None


def test_a_channel_that_is_silent_here_is_not_forgotten() -> None:
    """It may speak on another text."""
    weight, moment = _inputs(32.0)
    moment[5] = moment[:, 5] = 0
    found = exponents([weight], moment)
    assert found is not None
    scaled = torch.ldexp(weight, found)
    back = torch.ldexp(fake_quantize(scaled, parse_format("int8_sym")), -found)
    assert float((back - weight)[:, 5].norm() / weight[:, 5].norm()) < 0.1


def test_exponents_are_those_of_all_weights_with_the_inputs_whoever_asks(
    stressed_model: LoadedModel, tmp_path: Path
) -> None:
    """So a job that was killed between two of them goes on to the same bytes, and a norm can be divided."""
    mixer = "model.layers.3.self_attn"
    pairs = [(f"{mixer}.{name}.weight", "int4_sym_g64") for name in sorted(QKV)]
    weights = quantizable(inventory(stressed_model.model))

    def rounded(path: Path, wanted: list[tuple[str, str]]) -> None:
        by = _calibration(stressed_model, scaled=True)
        events = round_by_data(
            stressed_model, "a" * 64, path, weights, wanted, by, Cancel(), "x", judged=False
        )
        returned(events)

    whole, parted = tmp_path / "whole.safetensors", tmp_path / "parted.safetensors"
    rounded(whole, pairs)
    for place in range(3):
        rounded(parted, pairs[2 - place :])
    assert whole.read_bytes() == parted.read_bytes()
    held = open_integers(whole)
    powers = [held.exponents(pair) for pair in pairs]
    assert powers[0] is not None
    assert all(np.array_equal(powers[0], each) for each in powers)


def test_no_room_is_asked_for_eight_bits_that_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(build_folder("lfm2", tmp_path / "model"))
    weights = quantizable(inventory(loaded.model))
    asked: list[int] = []
    stock = growing.writing

    def noted(path: Path, sha256: str, record: Any, sizes: Sequence[int], **how: bool) -> Any:
        asked.append(sum(sizes))
        return stock(path, sha256, record, sizes, **how)

    monkeypatch.setattr(growing, "writing", noted)
    most = []
    for names in (FORMATS[:1], FORMATS):
        by = calibration(loaded, [(calibration_text(), "a book")], 32)
        assert by is not None
        pairs = [(weight.name, name) for name in names for weight in weights]
        path = tmp_path / f"{len(names)}.safetensors"
        asked.clear()
        returned(round_by_data(loaded, "a" * 64, path, weights, pairs, by, Cancel(), "x"))
        most.append(max(asked))
    assert most[0] == most[1] > 0
    assert {name for _, name in open_integers(path).pairs} == {"int4_sym_g64"}


def test_a_file_with_columns_scaled_beyond_measure_is_refused(tmp_path: Path) -> None:
    path, pair = tmp_path / "x.safetensors", ("a.weight", "int4_sym_g64")
    powers = torch.zeros(64, dtype=torch.int32)
    powers[7] = -128
    with writing(path, "a" * 64, {"text": "a book"}, [10_000]) as writer:
        writer.add(pair, packed(quantize(torch.randn(4, 64), parse_format(pair[1])), powers))
    kept = kept_in(open_integers(path), {"a.weight": (4, 64)})[pair]
    with pytest.raises(InputError, match=r"a\.weight has columns scaled by more than 2 to the 12"):
        kept.write(torch.empty(4, 64))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_moment_of_no_use_scales_nothing(bad: float) -> None:
    assert exponents([torch.randn(8, 32)], torch.full((32, 32), bad)) is None


def test_scaled_columns_stay_within_fp16() -> None:
    weight, moment = _inputs(32.0)
    weight[:, ::16] *= 2.0**18 / weight[:, ::16].abs().max()  # of which FP16 has no multiples
    found = exponents([weight], moment)
    assert found is None or bool(torch.ldexp(weight, found).abs().max() < 65504)


@pytest.mark.parametrize("name", ["int4_sym_g32", "int4_asym_g32", "int8_sym", "int8_asym", "int2_sym_g32"])
def test_a_kept_weight_comes_back_divided_whatever_is_asked_of_it(name: str, tmp_path: Path) -> None:
    weight, fmt, pair = torch.randn(24, 64), parse_format(name), ("a.weight", name)
    powers = torch.arange(64) % 9 - 4
    stored = quantize(torch.ldexp(weight, powers), fmt)
    wanted = torch.ldexp(stored.dequantize(), -powers)
    path = tmp_path / "x.safetensors"
    with writing(path, "a" * 64, {"text": "a book"}, [10_000]) as writer:
        writer.add(pair, packed(stored, powers))
    held = open_integers(path)
    assert held.is_sound(pair)
    kept = kept_in(held, {"a.weight": (24, 64)})[pair]
    into, part = torch.empty(24, 64), torch.empty(3, 64)
    kept.write(into)
    assert torch.equal(into, wanted)
    for at in (slice(5, 8), torch.tensor([7, 0, 7])):
        kept.write(part, at)
        assert torch.equal(part, wanted[at])
    with safe_open(path, "np") as other:  # as other tools read it
        assert other.get_tensor(f"a.weight|{name}|exponents").tolist() == [powers.tolist()]
    assert not kept_in(held, {"a.weight": (12, 128)})


def test_in_every_block_the_judged_error_of_int4_is_less_than_half(stressed_model: LoadedModel) -> None:
    """And the moments are those of the inputs divided: an error counts as much as it did."""
    seen = {scaled: _all_seen(stressed_model, scaled=scaled) for scaled in (True, False)}
    fmt = parse_format("int4_sym_g64")
    stored = weight_parameters(stressed_model.model)
    ratios, after_norms = [], 0
    for name, with_scales in seen[True].items():
        if with_scales.exponents is None:
            continue
        after_norms += 1
        powers, weight = with_scales.exponents, stored[name].detach().float()
        plain = fake_quantize(weight, fmt) - weight
        moments = with_scales.judge[0].matrix, seen[False][name].judge[0].matrix
        same = _error(torch.ldexp(plain, powers), moments[0]), _error(plain, moments[1])
        assert same[0] == pytest.approx(same[1], rel=1e-3)
        scaled = torch.ldexp(weight, powers)
        ratios.append(_error(fake_quantize(scaled, fmt) - scaled, moments[0]) / same[1])
    assert after_norms >= 24  # whatever reads one of its 24 norms
    assert sorted(ratios)[len(ratios) // 2] < 0.5


def _error(error: Tensor, moment: Tensor) -> float:
    return float(((error @ moment) * error).sum())


@torch.no_grad()
def _all_seen(loaded: LoadedModel, *, scaled: bool) -> dict[str, Seen]:
    by = _calibration(loaded, scaled=scaled)
    names = {weight.name for weight in quantizable(inventory(loaded.model))}
    events = by.inputs.seen(loaded.model, Cancel(), names)
    return {weight.name: seen for seen in events if isinstance(seen, Seen) for weight in seen.weights}


def _calibration(loaded: LoadedModel, *, scaled: bool) -> Calibration:
    found = calibration(loaded, [(calibration_text(), calibration_text().name)], 64, scaled=scaled)
    assert found is not None
    return found


def test_what_they_bring_is_measured(scored: Path, stressed_model: LoadedModel) -> None:
    """All scaled weights at once, on text that none has seen, against rounding to nearest."""
    entries = {(entry.weight, entry.format): entry for entry in load_scores(scored).entries}
    held = open_integers(scored.with_suffix(".safetensors"))
    shapes = {weight.name: weight.shape for weight in quantizable(inventory(stressed_model.model))}
    kept = {pair: each for pair, each in kept_in(held, shapes).items() if held.exponents(pair) is not None}
    assert all(entries[pair].rounding == "gptq" for pair in kept)
    ids, _ = windows(stressed_model, [held_out_text()], 1024, 128)
    for name, most in (("int4_sym_g64", 0.3), ("int8_sym", 0.3)):
        weights = {weight: fmt for weight, fmt in kept if fmt == name}
        assert len(weights) >= 20
        ours, nearest = (
            Bench(stressed_model, ids, Cancel(), roundings=each).measure(weights).mean
            for each in (Roundings(kept), NEAREST)
        )
        assert ours < most * nearest, name


def test_a_rounding_of_an_older_version_is_computed_again_as_it_was(stressed_model: LoadedModel) -> None:
    old = _calibration(stressed_model, scaled=False)
    assert "scaled" not in old.record
    for by in (old, _calibration(stressed_model, scaled=True)):
        again = calibration_of(stressed_model, by.record, ())
        assert again.record == by.record
    events = calibration_of(stressed_model, old.record, ()).inputs
    first = next(
        seen
        for seen in events.seen(stressed_model.model, Cancel(), {"model.layers.0.mamba.in_proj.weight"})
        if isinstance(seen, Seen)
    )
    assert first.exponents is None


def test_scores_of_an_older_version_go_on_unscaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalModel("small", build_folder("lfm2", tmp_path / "model"))
    out = tmp_path / "scores.json"
    how = Analysis((calibration_text(),), tokens=128, window=32, formats=("int4_sym_g64",))
    with monkeypatch.context() as patch:
        patch.setattr(
            engine, "calibration", lambda *args, **named: calibration(*args, **{**named, "scaled": False})
        )
        list(analyze(local, out, how, Cancel()))
    before = load_scores(out)
    assert before.rounding is not None
    assert "scaled" not in before.rounding
    list(analyze(local, out, replace(how, formats=("int4_sym_g64", "int3_sym_g64")), Cancel()))
    after = load_scores(out)
    assert after.rounding == before.rounding
    assert {entry.format for entry in after.entries} == {"int4_sym_g64", "int3_sym_g64"}


def _plan(scored: Path, **formats: str) -> Plan:
    """INT4 everywhere, but for some weights of the first block with attention."""
    made = propose(load_scores(scored), method="uniform-int4_sym_g64")
    others = {f"model.layers.3.self_attn.{name}.weight": fmt for name, fmt in formats.items()}
    assignments = {**made.assignments, **others}
    roundings = {w: "gptq" for w, r in made.roundings.items() if assignments[w] != "fp16"}
    return replace(made, assignments=assignments, roundings=roundings, method="kl")


def test_a_norm_is_divided_where_all_that_read_it_are_scaled(
    stressed: LocalModel, scored: Path, stressed_model: LoadedModel, tmp_path: Path
) -> None:
    """Elsewhere a product is added. In both graphs; the export compares their answers with the model's."""
    plan, path = _plan(scored, k_proj="fp16"), tmp_path / "plan.json"
    save_plan(path, plan)
    assert save_integers(path, plan, scored.with_suffix(".safetensors"))
    list(export_model(stressed, plan, tmp_path / "ir", Cancel(), path, npu=True))
    held = open_integers(tmp_path / "plan.safetensors")
    scaled = {pair[0]: powers for pair in held.pairs if (powers := held.exponents(pair)) is not None}
    whole = {weight for weight in scaled if all(each in scaled for each in _beside(weight))}
    assert len(whole) >= 18
    assert "model.layers.3.self_attn.q_proj.weight" in scaled.keys() - whole
    parameters = dict(stressed_model.model.named_parameters())
    core = ov.Core()
    for graph in (core.read_model(tmp_path / "ir" / MODEL_XML), read_shared(core, tmp_path / "ir")):
        constants = weight_constants(graph)
        for name, powers in scaled.items():
            factors = np.ldexp(np.float32(1), -powers.astype(np.int32))
            norm = parameters[_norm_before(name)].detach().float().numpy()
            wanted = norm * factors if name in whole else factors
            assert np.array_equal(_factors_before(constants[name]), wanted), name


def _beside(weight: str) -> list[str]:
    """The weights that have the same inputs."""
    mixer, name = weight.removesuffix(".weight").rsplit(".", 1)
    return [f"{mixer}.{each}.weight" for each in (QKV if name in QKV else (name,))]


def _norm_before(weight: str) -> str:
    block, rest = weight.rsplit(".", 3)[0], weight.rsplit(".", 3)[1]
    if weight.endswith("mamba.out_proj.weight"):
        return f"{block}.mamba.norm.weight"
    return f"{block}.{'post_attention' if rest == 'shared_mlp' else 'input'}_layernorm.weight"


def _factors_before(constant: ov.Node) -> np.ndarray:
    """What the input of a weight's product was multiplied by last."""
    node = constant
    while node.get_type_name() != "MatMul":
        (target,) = node.output(0).get_target_inputs()
        node = target.get_node()
    product = node.input_value(0).get_node()
    assert product.get_type_name() == "Multiply"
    for value in product.input_values():
        source = value.get_node()
        source = source.input_value(0).get_node() if source.get_type_name() == "Convert" else source
        if source.get_type_name() == "Constant":
            found: np.ndarray = source.data.astype(np.float32).reshape(-1)
            return found
    raise AssertionError("multiplied by no constant")


def test_in_sequence_columns_stay_scaled(
    stressed: LocalModel, scored: Path, stressed_model: LoadedModel, tmp_path: Path
) -> None:
    plan = _plan(scored, k_proj="int8_sym")
    held = scored.with_suffix(".safetensors")
    loaded, cancel = load_model(stressed.folder), Cancel()
    assert plan.rounding is not None
    base = returned(plan_roundings(loaded, plan, [held], cancel, "verify"))
    by = calibration_of(loaded, plan.rounding, ())
    path, record = tmp_path / "x.safetensors", record_of(plan.rounding, plan.sha256)
    assert base_of(record) == plan.rounding
    made = returned(
        round_in_sequence(
            loaded, plan.model.sha256, path, plan.assignments, base, by.fit, record, cancel, "verify"
        )
    )
    assert made.kept.keys() >= base.kept.keys()
    for pair, kept in base.kept.items():
        before, after = kept.exponents, made.kept[pair].exponents
        assert before is None or (after is not None and torch.equal(before, after))
    ids, _ = windows(loaded, [held_out_text()], 512, 128)
    ours, nearest = (
        Bench(loaded, ids, cancel, roundings=each).measure(plan.assignments).mean for each in (made, NEAREST)
    )
    assert ours < 0.5 * nearest


def _graph(scaled: Tensor, *plain: Tensor) -> ov.Model:
    """A norm's product that two matrices read, or a look-up."""
    inputs = ops.parameter([-1, 4], np.float32, name="x")
    normed = ops.multiply(inputs, ops.convert(ops.constant(np.float16([1, 2, 3, 4])), "f32"))
    results = []
    for place, weight in enumerate((scaled, *plain)):
        constant = ops.constant(weight.numpy())
        constant.set_friendly_name(f"w{place}")
        results.append(ops.result(ops.matmul(normed, constant, False, True)))
    return ov.Model(results, [inputs])


@pytest.mark.parametrize("readers", [1, 2])
def test_the_function_of_a_graph_stays(readers: int) -> None:
    weights = list(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    powers = np.int8([0, -3, 5, 1])
    scaled = [torch.ldexp(weight, torch.from_numpy(powers).int()) for weight in weights[:readers]]
    graph = _graph(*scaled, *weights[readers:])
    constants = {op.get_friendly_name(): op for op in graph.get_ops() if op.get_type_name() == "Constant"}
    before = len(graph.get_ops())
    divide_inputs(graph, constants, {f"w{place}": powers for place in range(readers)})
    assert (len(graph.get_ops()) == before) == (readers == 2), "a product is added only where one is needed"
    given = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    both = (ov.Core().compile_model(each, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for each in
            (graph, _graph(*weights)))  # fmt: skip
    ours, wanted = (list(compiled({"x": given}).values()) for compiled in both)
    assert all(np.allclose(*pair, rtol=1e-6) for pair in zip(ours, wanted, strict=True))


def test_a_graph_that_looks_rows_up_in_a_scaled_weight_is_refused() -> None:
    table = ops.constant(np.ones((3, 4), np.float32))
    rows = ops.parameter([-1], np.int64)
    graph = ov.Model([ops.result(ops.gather(table, rows, ops.constant(0)))], [rows])
    with pytest.raises(ExportError, match="the graph uses it in Gather"):
        divide_inputs(graph, {"a.weight": table}, {"a.weight": np.int8([1, 0, 0, 0])})
