"""A plan rounded in sequence: each weight makes of the inputs it will get the outputs it is to give."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kl_lens_desktop.errors import Cancelled, InputError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan import refine
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.plan.verify import verify
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished, Note, Progress
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.gptq import curvature, gptq
from kl_lens_desktop.quant.integers import IN_SEQUENCE, open_integers
from kl_lens_desktop.quant.rounding import quantize
from kl_lens_desktop.quant.roundings import NEAREST, KeptRounding, Roundings, changed_values
from kl_lens_desktop.sensitivity import sequential
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import load_scores
from kl_lens_desktop.sensitivity.sequential import round_in_sequence, without_place
from kl_lens_desktop.text.bundled import calibration_text, held_out_text, read_text
from tests.little_text import read_little
from tests.models import build_folder

RECORD = {"method": IN_SEQUENCE, "text": "a book"}
IDS = torch.randint(0, 256, (24, 32), generator=torch.Generator().manual_seed(3))
FORMATS = ("int4_sym_g32", "int3_sym_g32", "int8_sym")


def _loaded(family: str, folder: Path) -> LoadedModel:
    return load_model(build_folder(family, folder / "model"))


def _plan(loaded: LoadedModel) -> dict[str, str]:
    names = [weight.name for weight in quantizable(inventory(loaded.model))]
    return {name: FORMATS[place % len(FORMATS)] for place, name in enumerate(names)}


def _result(
    loaded: LoadedModel, path: Path, plan: dict[str, str], cancel: Cancel | None = None, until: int = 10**9
) -> Roundings:
    """All of it, or the first blocks and then a cancel."""
    cancel = cancel or Cancel()
    steps = round_in_sequence(loaded, "a" * 64, path, plan, NEAREST, IDS, RECORD, cancel, "verify")
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            found: Roundings = end.value
            return found
        if isinstance(event, Progress) and event.done >= until:
            cancel.cancel()


@torch.no_grad()
def _input_of(loaded: LoadedModel, name: str) -> Tensor:
    found: list[Tensor] = []
    module = loaded.model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0].flatten(0, -2)))
    loaded.model(IDS, use_cache=False)
    handle.remove()
    return found[0].double()


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("lfm2", "model.layers.0.conv.in_proj.weight"),
        ("lfm2", "model.layers.1.feed_forward.w2.weight"),
        ("falcon_h1", "lm_head.weight"),
    ],
)
def test_a_weight_is_rounded_to_what_makes_the_right_outputs_of_the_inputs_it_gets(
    family: str, name: str, tmp_path: Path
) -> None:
    loaded = _loaded(family, tmp_path)
    plan = dict.fromkeys(_plan(loaded), "int4_sym_g32")
    roundings = _result(loaded, tmp_path / "x.safetensors", plan)
    right = _input_of(loaded, name)
    parameters = weight_parameters(loaded.model)
    order = [weight.name for weight in quantizable(inventory(loaded.model))]
    weight = parameters[name].detach().clone()
    for each in order:
        if each != name:
            parameters[each].data = changed_values(
                parameters[each].detach(), roundings.change(each, plan[each])
            )
    off = _input_of(loaded, name)
    moment = off.t() @ off / len(off)
    added = 0.01 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.double)
    target = weight.double() @ (right.t() @ off / len(off) + added) @ torch.linalg.inv(moment + added)
    about = curvature(moment.float(), 0.01)
    assert about is not None
    wanted = gptq(target.float(), about, parse_format(plan[name]), Cancel()).dequantize()
    kept = roundings.change(name, plan[name])
    assert isinstance(kept, KeptRounding)
    found = changed_values(weight, kept)
    # Sums in another order may round the odd element otherwise.
    assert float((found != wanted).float().mean()) < 0.02
    nearest = quantize(weight, parse_format(plan[name])).dequantize()
    errors = [
        (right @ weight.double().t() - off @ each.double().t()).square().mean() for each in (found, nearest)
    ]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("family", ["granitemoehybrid with experts", "zamba2", "mamba", "kimi_linear"])
def test_what_has_no_place_in_the_order_keeps_its_integers(family: str, tmp_path: Path) -> None:
    loaded = _loaded(family, tmp_path)
    plan = _plan(loaded)
    apart = {name for name, _ in without_place(loaded, plan)}
    roundings = _result(loaded, tmp_path / "x.safetensors", plan)
    low = {name for name, fmt in plan.items() if parse_format(fmt).bits <= 4}
    assert {name for name, _ in roundings.kept} == low - apart
    shapes = {weight.name: weight.shape for weight in quantizable(inventory(loaded.model))}
    if family == "zamba2":
        assert any("shared_transformer" in name or "feed_forward" in name for name in apart)
    if "experts" in family:
        assert {name for name in low if len(shapes[name]) == 3} <= apart


def test_what_memory_does_not_take_keeps_its_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _loaded("lfm2", tmp_path)
    plan = dict.fromkeys(_plan(loaded), "int4_sym_g32")
    base = _result(loaded, tmp_path / "base.safetensors", plan)
    turns = itertools.cycle([None, (2, 1)])
    monkeypatch.setattr(sequential, "lacking_memory", lambda _: next(turns))
    steps = round_in_sequence(
        loaded, "a" * 64, tmp_path / "x.safetensors", plan, base, IDS[::2], RECORD, Cancel(), "verify"
    )
    notes = [event.text for event in steps if isinstance(event, Note)]
    assert len(notes) == 1
    assert "not rounded in sequence: that would take 2 B of memory, and 1 B is free" in notes[0]
    before, after = (open_integers(tmp_path / f"{name}.safetensors") for name in ("base", "x"))
    assert after.pairs == before.pairs
    same = {pair for pair in after.pairs if after.sha256[pair] == before.sha256[pair]}
    assert len(after.pairs) / 4 < len(same) < len(after.pairs)


def test_a_cancelled_sequence_goes_on_at_its_block(tmp_path: Path) -> None:
    loaded = _loaded("lfm2", tmp_path)
    plan = dict.fromkeys(_plan(loaded), "int4_sym_g32")
    with pytest.raises(Cancelled):
        _result(loaded, tmp_path / "x.safetensors", plan, until=2)
    some = open_integers(tmp_path / "x.safetensors")
    assert len(some.pairs) == 10
    whole = _result(loaded, tmp_path / "x.safetensors", plan)
    again = open_integers(tmp_path / "x.safetensors")
    assert all(again.sha256[pair] == some.sha256[pair] for pair in some.pairs)
    _result(loaded, tmp_path / "y.safetensors", plan)
    assert dict(open_integers(tmp_path / "y.safetensors").sha256) == dict(again.sha256)
    assert len(whole.kept) == len(plan) - 1  # all but the embedding


@pytest.fixture(scope="session")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalModel, Path]:
    root = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        _read_little(patch)
        local = LocalModel("small", build_folder("lfm2", root / "model"))
        how = Analysis((calibration_text(),), tokens=128, window=32, formats=("int4_sym_g64", "int8_sym"))
        list(analyze(local, root / "scores.json", how, Cancel()))
    return local, root


@pytest.fixture
def small(analyzed: tuple[LocalModel, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[LocalModel, Path]:
    """A model, and a folder with its scores, rounded by data."""
    _read_little(monkeypatch)
    return analyzed


def _read_little(patch: pytest.MonkeyPatch) -> None:
    read_little(patch)
    patch.setattr("kl_lens_desktop.plan.refine.REFINE_TOKENS", 256)


def _saved(root: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("scores.json", "scores.safetensors"):
        (folder / name).write_bytes((root / name).read_bytes())
    save_plan(folder / "plan.json", propose(load_scores(root / "scores.json"), bits=5))
    return folder / "plan.json"


def _verified(local: LocalModel, path: Path, **options: Any) -> tuple[Plan, Any, list[str]]:
    job = VerifyJob("small", path, tokens=128, window=32, **options)
    events = list(verify(local, job, Cancel()))
    finished = events[-1]
    assert isinstance(finished, Finished)
    return load_plan(path), finished.result, [event.text for event in events if isinstance(event, Note)]


def test_a_plan_in_sequence_ships_as_it_was_measured_and_can_be_computed_again(
    small: tuple[LocalModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, root = small
    monkeypatch.setattr(refine, "is_better", lambda *_: True)
    monkeypatch.setattr(refine, "ERRORS", 1e9)
    path = _saved(root, tmp_path / "a")
    plan, result, _ = _verified(local, path, refine=True)
    assert result["refine"]["kept"]
    assert set(plan.roundings.values()) == {IN_SEQUENCE}
    assert plan.provenance["refine_gain"] == result["refine"]["gain"]
    assert plan.measured is not None
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "plan.json", "plan.safetensors", "scores.json", "scores.safetensors"
    ]  # fmt: skip
    again, _, said = _verified(local, path, refine=True)
    assert again.measured == plan.measured
    assert "Using the integers kept in plan.safetensors" in said
    list(export_model(local, plan, tmp_path / "ir", Cancel(), path))  # the audit compares the integers
    (tmp_path / "b").mkdir()
    save_plan(tmp_path / "b" / "plan.json", plan)
    elsewhere, _, said = _verified(local, tmp_path / "b" / "plan.json")
    assert any("Rounding the plan in sequence again" in text for text in said)
    assert elsewhere.measured is not None
    assert elsewhere.measured["kl_pq"]["mean"] == pytest.approx(plan.measured["kl_pq"]["mean"], rel=0.02)


def test_a_held_out_text_too_short_to_judge_integers_is_not_said_to_have_judged_them(
    small: tuple[LocalModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, root = small
    monkeypatch.setattr(refine, "is_better", lambda *_: True)
    monkeypatch.setattr(refine, "ERRORS", 1e9)
    path, text = _saved(root, tmp_path / "a"), tmp_path / "short.txt"
    text.write_text(read_text(held_out_text())[:600], encoding="utf-8")
    plan, _, said = _verified(local, path, refine=True, text=text)
    assert plan.rounding is not None
    assert plan.provenance["refined_on"] == plan.rounding["text"] != text.name
    assert any("short.txt has too little text" in note for note in said)


def test_integers_that_are_no_better_are_not_kept(
    small: tuple[LocalModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, root = small
    path = _saved(root, tmp_path / "a")
    before = load_plan(path)
    monkeypatch.setattr(refine, "is_better", lambda *_: False)
    plan, result, said = _verified(local, path, refine=True)
    assert not result["refine"]["kept"]
    assert plan.is_same_as(before)
    assert any("does not lower the joint KL" in text for text in said)
    assert not (tmp_path / "a" / "plan.sequence.safetensors").exists()


def test_a_repair_takes_a_plan_out_of_sequence(
    small: tuple[LocalModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, root = small
    monkeypatch.setattr(refine, "is_better", lambda *_: True)
    monkeypatch.setattr(refine, "ERRORS", 1e9)
    path = _saved(root, tmp_path / "a")
    before = load_plan(path)
    _verified(local, path, refine=True)
    by = RepairSettings(scores=path.with_name("scores.json"), tokens=128, minutes=0.01)
    kept, _, _ = _verified(local, path, repair=by)
    assert kept.assignments == before.assignments
    assert set(kept.roundings.values()) == {IN_SEQUENCE}
    monkeypatch.setattr("kl_lens_desktop.plan.repair.is_better", lambda *_: True)
    monkeypatch.setattr("kl_lens_desktop.plan.repair.ROUNDS", 1)
    plan, _, _ = _verified(local, path, repair=replace(by, minutes=5.0))
    assert plan.assignments != before.assignments
    assert set(plan.roundings.values()) == {"gptq"}
    assert plan.rounding == before.rounding


def test_other_formats_than_those_in_sequence_are_refused(
    small: tuple[LocalModel, Path], tmp_path: Path
) -> None:
    plan = load_plan(_saved(small[1], tmp_path / "a"))
    assert plan.rounding is not None
    record = {**plan.rounding, "method": IN_SEQUENCE, "formats": "0" * 64}
    with pytest.raises(InputError, match="rounded in sequence, for other formats"):
        save_plan(tmp_path / "p.json", replace(plan, rounding=record))


def test_without_the_text_that_it_was_fitted_to_a_plan_keeps_its_integers(
    small: tuple[LocalModel, Path], tmp_path: Path
) -> None:
    path = _saved(small[1], tmp_path / "a")
    plan = load_plan(path)
    assert plan.rounding is not None
    strange = replace(plan, rounding={**plan.rounding, "text": "mine.txt", "sha256": "0" * 64})
    loaded = load_model(small[0].folder)
    steps = refine.refined(loaded, path, strange, NEAREST, calibration_text(), 128, 32, Cancel(), "verify")
    note = next(steps)
    assert isinstance(note, Note)
    assert "mine.txt, which the weights were fitted to, is not here" in note.text
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.plan is strange
