"""Integers chosen by data are kept, travel with a plan, and are what is measured and what ships."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from torch import Tensor

from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import Cancelled, ExportError, InputError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.compress import audit, weight_constants
from kl_lens_desktop.export.static import read_shared
from kl_lens_desktop.export.streamed import weights_of
from kl_lens_desktop.export.values import expected_sha256
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model import fit
from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import load_model, load_or_open
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.guard import worse_elsewhere
from kl_lens_desktop.plan.integers import save_integers
from kl_lens_desktop.plan.jobs import VerifyJob
from kl_lens_desktop.plan.joint import Joint
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.plan.verify import verify
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.quant import growing, integers
from kl_lens_desktop.quant.formats import all_formats, group_size, parse_format
from kl_lens_desktop.quant.integers import Packed, open_integers, packed_bytes, writing
from kl_lens_desktop.quant.rounding import NF4_VALUES, Quantized, quantize
from kl_lens_desktop.quant.roundings import KeptRounding, Roundings, kept_in, packed, unpacked
from kl_lens_desktop.sensitivity import clock, data_rounding, engine, moments, stream, walk
from kl_lens_desktop.sensitivity.engine import analyze, measure_plan
from kl_lens_desktop.sensitivity.estimate import Costs, rounding_seconds
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from kl_lens_desktop.text.bundled import calibration_text, dialogue_text, held_out_text, text_sha256
from tests.little_text import read_little
from tests.models import build_bf16_folder, build_folder

LOW = [name for name in all_formats() if parse_format(name).bits <= 4]
RECORD = {"text": "a book"}


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    read_little(monkeypatch)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return LocalModel("small", build_folder("lfm2", tmp_path_factory.mktemp("small") / "model"))


def _how(**options: Any) -> Analysis:
    usual: dict[str, Any] = {"tokens": 128, "window": 32, "formats": ("int4_sym_g64", "int8_sym")}
    return Analysis((calibration_text(),), **{**usual, **options})


def _analyze(local: LocalModel, out: Path, **options: Any) -> Scores:
    for _ in analyze(local, out, _how(**options), Cancel()):
        pass
    return load_scores(out)


@pytest.fixture(scope="session")
def analyzed(small: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that model's scores and integers."""
    folder = tmp_path_factory.mktemp("analyzed")
    with pytest.MonkeyPatch.context() as patch:
        read_little(patch)
        _analyze(small, folder / "scores.json")
    return folder


@pytest.fixture
def scores(analyzed: Path, tmp_path: Path) -> Scores:
    """The scores, whose files lie in the test's own folder."""
    for path in analyzed.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    return load_scores(tmp_path / "scores.json")


@pytest.fixture
def no_second_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def again(*_: object) -> Iterator[None]:
            raise AssertionError("computed twice")

        monkeypatch.setattr(moments, "second_moments", again)

    return forbid


@pytest.mark.parametrize("shape", [(24, 64), (24, 160), (3, 16, 64), (9, 33)])
@pytest.mark.parametrize("name", LOW)
def test_what_is_kept_comes_back(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    fmt = parse_format(name)
    stored = quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), fmt)
    values, pair = stored.dequantize(), ("a.weight", name)
    size = packed_bytes(shape, fmt)
    with writing(tmp_path / "x.safetensors", "a" * 64, RECORD, [size]) as writer:
        writer.add(pair, packed(stored))
    held = open_integers(tmp_path / "x.safetensors")
    assert held.size(pair) == size
    assert held.is_sound(pair)
    kept = kept_in(held, {"a.weight": shape})[pair]
    into = torch.empty(shape)
    kept.write(into)
    assert torch.equal(into, values)
    for at in (1, slice(1, 3), torch.tensor([5, 1, 8])) if len(shape) == 2 else (1,):
        part = torch.empty_like(values[at])
        kept.write(part, at if len(shape) == 3 or not isinstance(at, int) else slice(at, at + 1))
        assert torch.equal(part, values[at])
    pieces = torch.cat([piece.elements for piece in kept.pieces(5)])
    assert torch.equal(pieces, stored.elements.flatten(0, -3))


@pytest.mark.parametrize("name", ["int3_sym_g64", "int4_asym_g32"])
def test_of_an_embedding_only_the_rows_of_the_tokens_are_unpacked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt, shape = parse_format(name), (9000, 64)
    stored = quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), fmt)
    with writing(tmp_path / "x.safetensors", "a" * 64, RECORD, [packed_bytes(shape, fmt)]) as writer:
        writer.add(("a.weight", name), packed(stored))
    kept = kept_in(open_integers(tmp_path / "x.safetensors"), {"a.weight": shape})["a.weight", name]
    rows: list[int] = []

    def counted(part: Packed, *about: Any) -> Quantized:
        rows.append(len(part.elements))
        return unpacked(part, *about)

    monkeypatch.setattr("kl_lens_desktop.quant.roundings.unpacked", counted)
    for used in ([0, 1, 4094, 4095, 4096, 8999], [8999, 5, 5, 4100, 0]):
        into = torch.empty(len(used), 64)
        kept.write(into, torch.tensor(used))
        assert torch.equal(into, stored.dequantize()[used])
        assert sum(rows) == len(used)
        rows.clear()


def test_other_tools_read_the_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    fmt = parse_format("int4_sym_g32")
    stored = quantize(torch.arange(64).reshape(1, 64).float() - 20, fmt)
    with writing(tmp_path / "x.safetensors", "a" * 64, RECORD, [packed_bytes((1, 64), fmt)]) as writer:
        writer.add(("a.weight", fmt.name), packed(stored))
    read = load_file(tmp_path / "x.safetensors")
    low, high = (read["a.weight|int4_sym_g32|elements"] >> shift & 15 for shift in (0, 4))
    assert (
        np.stack([low, high], -1).reshape(-1).astype(int).tolist() == (stored.elements + 8).flatten().tolist()
    )
    assert read["a.weight|int4_sym_g32|scale"].tolist() == stored.scale[..., 0].tolist()


def test_a_weight_of_another_shape_finds_nothing(tmp_path: Path) -> None:
    fmt = parse_format("int4_sym_g32")
    with writing(tmp_path / "x.safetensors", "a" * 64, RECORD, [1000]) as writer:
        writer.add(("a.weight", fmt.name), packed(quantize(torch.randn(4, 64), fmt)))
    held = open_integers(tmp_path / "x.safetensors")
    assert not kept_in(held, {"a.weight": (4, 96)})
    assert not kept_in(held, {"a.weight": (2, 2, 64)})
    assert not kept_in(held, {"b.weight": (4, 64)})


def _damages() -> dict[str, Callable[[bytes], bytes]]:
    def header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
        def changed(content: bytes) -> bytes:
            length = int.from_bytes(content[:8], "little")
            value = json.loads(content[8 : 8 + length])
            change(value)
            text = json.dumps(value).encode()
            return len(text).to_bytes(8, "little") + text + content[8 + length :]

        return changed

    name = "a.weight|int4_sym_g32|elements"
    return {
        "cut short": lambda content: content[:-1],
        "empty": lambda content: b"",
        "a header without end": lambda content: (2**62).to_bytes(8, "little") + content[8:],
        "no JSON": lambda content: content[:8] + b"\xff" + content[9:],
        "nested": lambda content: (40000).to_bytes(8, "little") + b"[" * 40000 + content,
        "no metadata": header(lambda value: value.pop("__metadata__")),
        "a model's weights": header(lambda value: value["__metadata__"].update(schema="pt")),
        "another type": header(lambda value: value[name].update(dtype="F64")),
        "a shape without end": header(lambda value: value[name].update(shape=[2**40, 2**40])),
        "a negative place": header(lambda value: value[name].update(data_offsets=[-64, 0])),
        "a place outside": header(lambda value: value[name].update(data_offsets=[2**40, 2**40 + 128])),
        "no format": header(lambda value: value.update({"a.weight|int5|scale": value.pop(name)})),
        "no hash": header(lambda value: value["__metadata__"].update(sha256="{}")),
        "no record": header(lambda value: value["__metadata__"].update(rounding="[]")),
    }


@pytest.mark.parametrize("damage", _damages())
def test_a_hostile_file_of_integers_is_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    path, fmt = tmp_path / "x.safetensors", parse_format("int4_sym_g32")
    with writing(path, "a" * 64, RECORD, [1000]) as writer:
        writer.add(("a.weight", fmt.name), packed(quantize(torch.randn(4, 64), fmt)))
    path.write_bytes(_damages()[damage](path.read_bytes()))
    with pytest.raises(InputError, match="it holds no rounded weights, or is damaged"):
        open_integers(path)


def test_elements_out_of_range_become_elements_of_the_format() -> None:
    held = Packed(np.full((1, 32), 0xFF, np.uint8), np.ones((1, 2), np.float16), None)
    assert int(unpacked(held, parse_format("int3_sym_g32"), 64).elements.max()) == 3


def test_scores_say_how_each_entry_was_rounded(small: LocalModel, tmp_path: Path) -> None:
    data = _analyze(small, tmp_path / "data.json")
    nearest = _analyze(small, tmp_path / "nearest.json", rounding="nearest")
    by = {(entry.weight, entry.format): entry for entry in data.entries}
    assert {entry.rounding for entry in data.entries if entry.format == "int8_sym"} == {"nearest"}
    assert [entry.rounding for entry in data.entries if entry.format == "int4_sym_g64"].count("gptq") > 15
    assert {entry.rounding for entry in nearest.entries} == {"nearest"}
    assert data.rounding is not None
    assert (data.rounding["text"], data.rounding["window"]) == (calibration_text().name, 32)
    assert nearest.rounding is None
    loss = sum(by[e.weight, e.format].kl_pq.mean for e in nearest.entries if e.format == "int4_sym_g64")
    assert loss < 0.95 * sum(e.kl_pq.mean for e in nearest.entries if e.format == "int4_sym_g64")


def test_nothing_is_rounded_twice_and_roundings_never_mix(
    small: LocalModel, tmp_path: Path, no_second_pass: Callable[[], None]
) -> None:
    out = tmp_path / "scores.json"
    first = _analyze(small, out)
    held = open_integers(tmp_path / "scores.safetensors")
    before = {pair: held.sha256[pair] for pair in held.pairs}
    more = _analyze(small, out, formats=("int4_sym_g64", "int3_sym_g32"))
    held = open_integers(tmp_path / "scores.safetensors")
    assert before.items() <= dict(held.sha256).items()
    assert {name for _, name in held.pairs | held.nearest} == {"int4_sym_g64", "int3_sym_g32", "int8_sym"}
    assert not any(name == "int8_sym" for _, name in held.pairs), "no column of this model is scaled"
    no_second_pass()
    again = _analyze(small, out, formats=("int4_sym_g64", "int3_sym_g32"), tokens=256)
    assert first.rounding == more.rounding == again.rounding
    assert {(e.weight, e.format, e.rounding) for e in more.entries} == {
        (e.weight, e.format, e.rounding) for e in again.entries
    }
    with pytest.raises(InputError, match=r"rounding by calibration-novels\.txt against to nearest"):
        _analyze(small, out, rounding="nearest")


@pytest.mark.parametrize("minutes", [None, 5.0])
def test_a_small_model_reads_the_text_once_and_factors_each_moment_once(
    minutes: float | None, small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    factored: list[Tensor] = []
    pass_, factor = moments.second_moments, moments.curvature
    monkeypatch.setattr(moments, "second_moments", lambda *args, **how: runs.append(1) or pass_(*args, **how))
    monkeypatch.setattr(moments, "curvature", lambda *args: factored.append(args[0]) or factor(*args))
    menu = ("int4_sym_g64", "int3_sym_g64", "int8_sym")
    scores = _analyze(small, tmp_path / "scores.json", formats=(), menu=menu, bits=4.0, minutes=minutes)
    further = [entry for entry in scores.entries if not entry.is_predicted and entry.format != "int4_sym_g64"]
    assert any(entry.rounding == "gptq" for entry in further)
    assert len(runs) == 1
    inputs = {tuple(moment.shape): [] for moment in factored}
    for moment in factored:
        assert not any(torch.equal(moment, other) for other in inputs[tuple(moment.shape)])
        inputs[tuple(moment.shape)].append(moment)


def test_scores_of_an_older_version_go_on_as_they_began(small: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    _analyze(small, out, rounding="nearest")
    events = list(analyze(small, out, _how(formats=("int4_sym_g64", "int3_sym_g32")), Cancel()))
    assert any("goes on so" in event.text for event in events if isinstance(event, Note))
    assert {entry.rounding for entry in load_scores(out).entries} == {"nearest"}
    assert not (tmp_path / "scores.safetensors").exists()


def test_a_cancelled_rounding_goes_on_where_it_was(small: LocalModel, tmp_path: Path) -> None:
    cancel, out = Cancel(), tmp_path / "scores.json"
    with pytest.raises(Cancelled):
        for event in analyze(small, out, _how(), cancel):
            if isinstance(event, Progress) and event.unit == "roundings" and event.done > 3:
                cancel.cancel()
    some = open_integers(tmp_path / "scores.safetensors")
    assert 3 < len(some.pairs | some.nearest) < 20
    _analyze(small, out)
    whole = open_integers(tmp_path / "scores.safetensors")
    assert all(whole.sha256[pair] == some.sha256[pair] for pair in some.pairs)
    _analyze(small, tmp_path / "at-once.json")
    assert dict(open_integers(tmp_path / "at-once.safetensors").sha256) == dict(whole.sha256)
    at_once, later = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("at-once", "scores"))
    assert at_once == later, "the bytes tell nothing of interruptions"


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_killed_rounding_goes_on_where_it_was_to_the_same_bytes(
    seconds: float, small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "_PART_S", seconds)
    rounded: list[object] = []
    stock = data_rounding._round_matrix
    monkeypatch.setattr(data_rounding, "_round_matrix", lambda *args: rounded.append(1) or stock(*args))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    one = {"formats": ("int4_sym_g64",)}
    for event in analyze(small, whole / "scores.json", _how(**one), Cancel()):
        is_rounding = isinstance(event, Progress) and event.unit == "roundings"
        if is_rounding and event.done > 8 and not killed.exists():  # what a kill leaves
            before = len(rounded)
            shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("*.partial"))
    every = len(rounded)
    kept = len(list(killed.glob("*.safetensors")))
    assert kept == (before if seconds == 0 else 0)
    _analyze(small, killed / "scores.json", **one)
    assert len(rounded) - every == (every - before if seconds == 0 else every)
    for name in ("scores.json", "scores.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(file.name for file in killed.iterdir()) == ["scores.json", "scores.safetensors"]


def test_a_cancel_while_the_parts_are_joined_loses_none(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "_PART_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(growing.Growing, "_join", lambda _: None)
        _analyze(small, tmp_path / "scores.json")
    parts = growing.parts_of(tmp_path / "scores.safetensors")
    assert len(parts) > 15
    added: list[object] = []
    stock = integers.Writer.add

    def stop(writer: integers.Writer, pair: tuple[str, str], packed: Packed) -> None:
        added.append(pair)
        if len(added) == 7:
            raise Cancelled
        stock(writer, pair, packed)

    before = [file.read_bytes() for file in (tmp_path / "scores.safetensors", *parts)]
    with monkeypatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(integers.Writer, "add", stop)
        _analyze(small, tmp_path / "scores.json")
    assert before == [file.read_bytes() for file in (tmp_path / "scores.safetensors", *parts)]
    monkeypatch.setattr(data_rounding, "_fitted", lambda *_: pytest.fail("rounded again"))
    _analyze(small, tmp_path / "scores.json")
    held = open_integers(tmp_path / "scores.safetensors")
    assert len(held.pairs | held.nearest) > len(parts) - 5
    assert not growing.parts_of(tmp_path / "scores.safetensors")


def test_nearest_stays_where_the_other_windows_say_so(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_rounding, "_errors", lambda *_: (1.0, 0.5))
    scores = _analyze(small, tmp_path / "scores.json")
    assert {entry.rounding for entry in scores.entries} == {"nearest"}
    plan = propose(scores, bits=6)
    assert (plan.roundings, plan.rounding) == ({}, None)


MENU: dict[str, Any] = {"formats": (), "menu": ("int4_sym_g64", "int3_sym_g64"), "bits": 4.0}


def test_minutes_that_rounding_itself_would_take_are_not_enough(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast the model reads the text that the weights are rounded by."""
    monkeypatch.setattr(clock.Clock, "left", property(lambda _: 100.0))
    costs = Costs(0.0, (0.0, 0.0), (0.0, 0.0), 0.0, 0.0, fitting=3.0)
    monkeypatch.setattr(engine, "calibrate", lambda *_: costs)
    weights = [weight.as_dict() for weight in quantizable(inventory(load_model(small.folder).model))]
    enough = rounding_seconds(costs, weights) / engine._ROUNDING_SHARE / 60
    for name, minutes in (("short", 0.9 * enough), ("long", 1.1 * enough)):
        out = tmp_path / f"{name}.json"
        said = _said(list(analyze(small, out, _how(**MENU, minutes=minutes), Cancel())))
        assert ("Rounding to nearest: rounding by data takes" in said) == (name == "short")
        assert (load_scores(out).rounding is None) == (name == "short")


def test_rounding_ends_with_its_part_of_the_time_and_more_time_goes_on(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rounded = tmp_path / "scores.json", list[object]()
    stock = data_rounding._round_matrix
    how = _how(**MENU, minutes=5.0)
    with monkeypatch.context() as patch:
        patch.setattr(data_rounding, "_round_matrix", lambda *args: rounded.append(1) or stock(*args))
        patch.setattr(clock.Clock, "left", property(lambda _: 100.0 if len(rounded) < 5 else 50.0))
        said = _said(list(analyze(small, out, how, Cancel())))
    assert "by calibration-novels.txt has had its part of the time" in said
    first, held = load_scores(out), open_integers(tmp_path / "scores.safetensors")
    assert 0 < len(held.pairs | held.nearest) < 10
    measured = {(e.weight, e.format): e for e in first.entries if not e.is_predicted}
    assert {pair for pair, entry in measured.items() if entry.rounding == "gptq"} <= held.pairs
    assert [entry.rounding for entry in measured.values()].count("nearest") > 5
    list(analyze(small, out, replace(how, minutes=None, formats=("int4_sym_g64", "int3_sym_g32")), Cancel()))
    more = {(e.weight, e.format): e for e in load_scores(out).entries}
    assert all(more[pair].rounding == entry.rounding for pair, entry in measured.items())
    others = [entry.rounding for pair, entry in more.items() if pair not in measured]
    assert others.count("gptq") > 15, "what was not measured yet is rounded now"


def test_without_any_time_left_the_first_candidates_are_measured_for_a_plan(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock.Clock, "left", property(lambda _: 0.0))
    out = tmp_path / "scores.json"
    list(analyze(small, out, _how(**MENU, minutes=5.0), Cancel()))
    scores = load_scores(out)
    assert 3 <= sum(not entry.is_predicted for entry in scores.entries) <= 5
    plan = propose(scores, bits=4)
    assert set(plan.assignments) == {weight["name"] for weight in scores.weights if weight["kind"] != "conv"}
    assert plan.predicted["kl"] is not None


@pytest.mark.parametrize("formats", [("int4_sym_g64",), ()])
def test_weights_that_memory_does_not_take_stay_nearest_and_that_is_said(
    formats: tuple[str, ...], small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = itertools.cycle([None, (4_000_000_000, 3_000_000_000)])
    out, how = tmp_path / "scores.json", _how(formats=formats, menu=("int4_sym_g64", "int3_sym_g64"))
    with monkeypatch.context() as patch:
        patch.setattr(moments, "lacking_memory", lambda *_: next(turns))
        said = _said(list(analyze(small, out, how, Cancel())))
    assert "rounded to nearest: rounding by data would take 4.00 GB of memory, and 3.00 GB is free" in said
    scores = load_scores(out)
    measured = [entry for entry in scores.entries if not entry.is_predicted]
    held = open_integers(tmp_path / "scores.safetensors")
    assert {(e.weight, e.format) for e in measured if e.rounding == "gptq"} <= held.pairs
    assert all([entry.rounding for entry in measured].count(name) > 5 for name in ("gptq", "nearest"))
    assert not held.nearest & {(e.weight, e.format) for e in measured if e.rounding == "gptq"}
    again = list(analyze(small, out, how, Cancel()))
    assert not any(isinstance(event, Progress) and event.unit == "roundings" for event in again)
    now = {(entry.weight, entry.format): entry.rounding for entry in load_scores(out).entries}
    assert all(now[entry.weight, entry.format] == entry.rounding for entry in measured), "and stay so"


def test_a_plans_integers_are_not_replaced_by_others_where_memory_is_short(
    small: LocalModel, scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_plan(tmp_path / "p.json", propose(scores, bits=5))
    (tmp_path / "scores.safetensors").unlink()
    monkeypatch.setattr(moments, "lacking_memory", lambda *_: (4_000_000_000, 3_000_000_000))
    with pytest.raises(InputError, match=r"takes 4\.00 GB of memory, and 3\.00 GB is free"):
        _exported(small, tmp_path / "p.json", tmp_path / "a")


def test_a_text_too_short_to_round_by_gives_way_to_the_bundled_one(small: LocalModel, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text(held_out_text().read_text(encoding="utf-8")[:700], encoding="utf-8")
    events = list(analyze(small, tmp_path / "scores.json", replace(_how(), text=(text,)), Cancel()))
    assert any("too short to round by" in event.text for event in events if isinstance(event, Note))
    record = load_scores(tmp_path / "scores.json").rounding
    assert record is not None
    assert record["text"] == calibration_text().name


def test_each_of_several_texts_is_remembered_as_seen(small: LocalModel, tmp_path: Path) -> None:
    texts = (calibration_text(), tmp_path / "own.txt")
    texts[1].write_text(held_out_text().read_text(encoding="utf-8")[:4000], encoding="utf-8")
    how = replace(_how(rounding="nearest"), text=texts)
    for _ in analyze(small, tmp_path / "scores.json", how, Cancel()):
        pass
    scores = load_scores(tmp_path / "scores.json")
    assert scores.text["files"] == [text_sha256(text) for text in texts]
    plan = propose(scores, bits=6)
    for text in texts:
        with pytest.raises(InputError, match="were measured on that text"):
            plan.check_unseen(text)
    plan.check_unseen(held_out_text())


def test_more_text_than_was_left_for_scoring_is_said(small: LocalModel, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text(held_out_text().read_text(encoding="utf-8")[:4000], encoding="utf-8")

    def said(tokens: int) -> list[str]:
        how = replace(_how(), text=(text,), tokens=tokens)
        events = list(analyze(small, tmp_path / "scores.json", how, Cancel()))
        return [event.text for event in events if isinstance(event, Note) and event.level == "warning"]

    assert not any("fitted to windows that are scored now" in each for each in said(64))
    record = load_scores(tmp_path / "scores.json").rounding
    assert record is not None
    more = 32 * (int(record["skip"]) // 32 + 2)
    assert any("fitted to windows that are scored now" in each for each in said(more))


def _motley(local: LocalModel, folder: Path, formats: list[str] | None = None) -> tuple[Plan, Roundings]:
    """A plan of every low format by turns, its integers beside it."""
    scores = _analyze(local, folder / "scores.json", tokens=64)
    loaded = load_model(local.folder)
    names = [weight.name for weight in quantizable(inventory(loaded.model))]
    chosen = {name: (formats or LOW)[place % len(formats or LOW)] for place, name in enumerate(names)}
    by = data_rounding.calibration(loaded, [(calibration_text(), "novels")], 32)
    assert by is not None
    path = folder / "plan.json"
    weights = quantizable(inventory(loaded.model))
    steps = data_rounding.round_by_data(
        loaded,
        scores.model.sha256,
        path.with_suffix(".safetensors"),
        weights,
        list(chosen.items()),
        by,
        Cancel(),
        "",
        judged=False,
    )
    roundings = _returned(steps)
    plan = propose(scores, bits=16)
    plan = replace(plan, assignments=chosen, roundings=roundings.of(chosen), rounding=dict(by.record))
    save_plan(path, plan)
    return plan, roundings


def _returned(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("family", ["lfm2", "granitemoehybrid with experts"])
def test_exported_constants_are_the_integers_that_were_measured(family: str, tmp_path: Path) -> None:
    local = LocalModel("m", build_folder(family, tmp_path / "model"))
    plan, roundings = _motley(local, tmp_path)
    assert len(plan.roundings) == len(plan.assignments)
    list(export_model(local, plan, tmp_path / "ir", Cancel(), tmp_path / "plan.json", npu=True))
    main = ov.Core().read_model(tmp_path / "ir" / "openvino_model.xml")
    constants = {op.get_friendly_name(): op for op in main.get_ops() if op.get_type_name() == "Constant"}
    for name, constant in weight_constants(main).items():
        if name in plan.assignments:
            change = roundings.change(name, plan.assignments[name])
            assert isinstance(change, KeptRounding)
            _is_stored(change, constant, constants)
    expected = expected_sha256(
        weights_of(load_model(local.folder).model), roundings.changes(plan.assignments), Cancel()
    )
    for graph in (main, read_shared(ov.Core(), tmp_path / "ir")):
        assert audit(graph, plan.assignments, expected).checked == len(plan.assignments)


def _is_stored(kept: KeptRounding, constant: ov.Node, constants: dict[str, ov.Node]) -> None:
    """As OpenVINO itself converts them."""
    (whole,) = kept.pieces(10**6)
    scheme, bits = kept.format.scheme, kept.format.bits
    unsigned = 2 ** (bits - 1) if bits < 4 else 0
    elements = NF4_VALUES[whole.elements.long()] if scheme == "nf4" else whole.elements + unsigned
    name = constant.get_friendly_name()
    assert np.array_equal(_converted(constant), elements.flatten().float().numpy()), kept.pair
    assert np.array_equal(constants[f"{name}/scale"].data.reshape(-1), whole.scale.flatten().numpy())
    if whole.zero_point is not None:
        found = _converted(constants[f"{name}/zero_point"])
        assert np.array_equal(found, whole.zero_point.flatten().float().numpy())


def _converted(constant: ov.Node) -> np.ndarray:
    widened = ov.Model([ops.result(ops.convert(constant.output(0), "f32"))], [])
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    found: np.ndarray = ov.Core().compile_model(widened, "CPU", hints)({})[0].reshape(-1)
    return found


def test_the_audit_finds_another_integer_and_another_scale(small: LocalModel, tmp_path: Path) -> None:
    plan, roundings = _motley(small, tmp_path, ["int4_sym_g64"])
    list(export_model(small, plan, tmp_path / "ir", Cancel(), tmp_path / "plan.json"))
    graph = ov.Core().read_model(tmp_path / "ir" / "openvino_model.xml")
    tensors, changes = weights_of(load_model(small.folder).model), roundings.changes(plan.assignments)
    name = min(changes)
    audit(graph, plan.assignments, expected_sha256(tensors, changes, Cancel()))
    held = open_integers(tmp_path / "plan.safetensors")
    for part in ("elements", "scale"):
        other = held.whole((name, "int4_sym_g64"))
        getattr(other, part).reshape(-1).view(np.uint8)[7] ^= 1
        with writing(tmp_path / "other.safetensors", "a" * 64, RECORD, [10**6]) as writer:
            writer.add((name, "int4_sym_g64"), other)
        spoilt = kept_in(open_integers(tmp_path / "other.safetensors"), {name: tensors[name].shape})
        changed = {**changes, name: spoilt[name, "int4_sym_g64"]}
        with pytest.raises(ExportError, match=f"{name} was exported with other integers"):
            audit(graph, plan.assignments, expected_sha256(tensors, changed, Cancel()))


def _exported(local: LocalModel, plan: Path, out: Path) -> list[Event]:
    return list(export_model(local, load_plan(plan), out, Cancel(), plan))


def _said(events: list[Event]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Note))


def test_a_plan_brings_its_integers_or_they_are_computed_again(
    small: LocalModel, scores: Scores, tmp_path: Path
) -> None:
    plan = propose(scores, bits=5)
    (tmp_path / "sent").mkdir()
    sent = tmp_path / "sent" / "p.json"
    save_plan(sent, plan)
    assert save_integers(sent, plan, tmp_path / "scores.safetensors")
    assert load_plan(sent) == load_plan(sent)
    assert load_plan(sent).is_same_as(plan)
    kept = sent.with_suffix(".safetensors")
    assert open_integers(kept).pairs == set(plan.fitted)
    said = _said(_exported(small, sent, tmp_path / "a"))
    assert "Using the integers kept in p.safetensors" in said
    weights = (tmp_path / "a" / "openvino_model.bin").read_bytes()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    every = f"{len(plan.fitted)} weights"
    for spoilt, lost in ((None, every), (bytes(content), "1 weight"), (b"nothing", every)):
        kept.unlink()
        if spoilt is not None:
            kept.write_bytes(spoilt)
        said = _said(_exported(small, sent, tmp_path / "a"))
        assert f"Computing the integers of {lost}, which p.safetensors does not hold" in said
        again = (tmp_path / "a" / "openvino_model.bin").read_bytes()
        # Sums in another order may round the odd element otherwise.
        assert np.mean(np.frombuffer(again, np.uint8) != np.frombuffer(weights, np.uint8)) < 1e-3


def test_a_plan_whose_text_is_not_here_says_what_to_copy(
    small: LocalModel, scores: Scores, tmp_path: Path
) -> None:
    plan = propose(scores, bits=5)
    assert plan.rounding is not None
    strange = replace(plan, rounding={**plan.rounding, "sha256": "0" * 64})
    save_plan(tmp_path / "p.json", strange)
    with pytest.raises(InputError, match=r"Copy the \.safetensors file"):
        _exported(small, tmp_path / "p.json", tmp_path / "a")


def test_a_plan_is_verified_with_its_integers(small: LocalModel, scores: Scores, tmp_path: Path) -> None:
    plan = propose(scores, bits=5)
    save_plan(tmp_path / "plan.json", plan)
    list(verify(small, VerifyJob("m", tmp_path / "plan.json", tokens=128, window=32), Cancel()))
    measured = load_plan(tmp_path / "plan.json").measured
    assert measured is not None
    loaded = load_model(small.folder)
    shapes = {weight.name: weight.shape for weight in inventory(loaded.model)}
    roundings = Roundings(kept_in(open_integers(tmp_path / "scores.safetensors"), shapes))
    with torch.no_grad():
        for name, fmt in plan.assignments.items():
            change = roundings.change(name, fmt)
            parameter = weight_parameters(loaded.model)[name]
            if isinstance(change, KeptRounding):
                change.write(parameter.data)
            else:
                parameter.copy_(_nearest(parameter, fmt))
    ours = measure_plan(loaded, {}, [held_out_text()], 128, 32, Cancel())
    assert measured["perplexity"]["mean"] == pytest.approx(ours["perplexity_full"]["mean"], rel=1e-6)


def _nearest(weight: Tensor, fmt: str) -> Tensor:
    return weight.half().float() if fmt == "fp16" else quantize(weight, parse_format(fmt)).dequantize()


@pytest.mark.parametrize("family", ["jamba with experts", "zamba2", "falcon_h1"])
def test_a_model_on_disk_is_measured_with_the_same_integers(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalModel("m", build_bf16_folder(family, tmp_path / "model"))
    formats = ("int4_asym_g32", "int3_sym_g64")
    theirs = _analyze(local, tmp_path / "scores.json", formats=formats, exhaustive=True)
    (tmp_path / "disk").mkdir()
    # With the same integers, for sums in another order may round the odd element otherwise.
    (tmp_path / "disk" / "scores.safetensors").write_bytes((tmp_path / "scores.safetensors").read_bytes())
    monkeypatch.setattr(fit, "free_mb", lambda: 0)
    ours = _analyze(local, tmp_path / "disk" / "scores.json", formats=formats, exhaustive=True)
    wanted = {(entry.weight, entry.format): entry for entry in theirs.entries}
    assert len(ours.entries) == len(wanted)
    for entry in ours.entries:
        other = wanted[entry.weight, entry.format]
        assert entry.rounding == other.rounding
        assert entry.kl_pq.mean == pytest.approx(other.kl_pq.mean, rel=1e-5, abs=1e-12)


def test_an_older_plan_means_nearest(small: LocalModel, tmp_path: Path) -> None:
    plan = propose(_analyze(small, tmp_path / "scores.json", rounding="nearest"), bits=5)
    save_plan(tmp_path / "plan.json", plan)
    assert not {"rounding", "roundings"} & json.loads((tmp_path / "plan.json").read_text("utf-8")).keys()
    assert load_plan(tmp_path / "plan.json").fitted == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"roundings": {"x.weight": "gptq"}}, "rounds x.weight to no format"),
        ({"rounding": None}, "does not say by which text"),
        ({"roundings": {"x.weight": "magic"}}, "'magic' is not a rounding"),
        ({"roundings": {"../x": "gptq"}}, "is not the name of a weight"),
        ({"rounding": {"text": "x"}}, "rounding"),
    ],
)
def test_a_strangers_rounding_is_refused_in_one_sentence(
    change: dict[str, Any], why: str, scores: Scores, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, propose(scores, bits=5))
    value = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**value, **change}), "utf-8")
    with pytest.raises(InputError, match=why):
        load_plan(path)


def test_groups_share_what_their_size_says() -> None:
    stored = Quantized(
        torch.zeros(2, 3, 32, dtype=torch.int16),
        torch.ones(2, 3, 1).half(),
        None,
        parse_format("int2_sym_g32"),
    )
    assert packed(stored).elements.shape == (2, 24)
    assert group_size(stored.fmt, 96) == 32


def test_a_verified_plan_stands_beside_its_nearest_rounding_on_two_texts(
    small: LocalModel, scores: Scores, tmp_path: Path
) -> None:
    plan = propose(scores, bits=5)
    save_plan(tmp_path / "plan.json", plan)
    list(verify(small, VerifyJob("m", tmp_path / "plan.json", tokens=128, window=32), Cancel()))
    measured = load_plan(tmp_path / "plan.json").measured
    assert measured is not None
    loaded = load_model(small.folder)
    plain = measure_plan(loaded, plan.assignments, [held_out_text()], 128, 32, Cancel())
    assert measured["nearest"]["kl_pq"]["mean"] == pytest.approx(plain["kl_pq"]["mean"], rel=1e-6)
    there = measure_plan(loaded, plan.assignments, [dialogue_text()], 64, 32, Cancel())
    elsewhere = measured["elsewhere"]
    assert elsewhere["text"] == there["text"]
    assert elsewhere["nearest"]["kl_pq"]["mean"] == pytest.approx(there["kl_pq"]["mean"], rel=1e-6)
    assert elsewhere["kl_pq"]["mean"] < elsewhere["nearest"]["kl_pq"]["mean"]
    assert measured["nearest"]["kl_pq"]["n"] == 128
    assert measured["nearest"]["delta_ce"]["n"] == 128 - 4, "a window's last token has no next one"


@pytest.mark.parametrize("place", [walk, stream], ids=["memory", "disk"])
def test_a_verification_has_each_text_pass_each_model_once_and_says_how_far_it_is(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalModel("m", build_bf16_folder("lfm2", tmp_path / "model"))
    plan = propose(_analyze(local, tmp_path / "scores.json"), bits=5)
    save_plan(tmp_path / "plan.json", plan)
    if place is stream:
        monkeypatch.setattr(fit, "free_mb", lambda: 0)
    monkeypatch.setattr(place, "BATCH_TOKENS", 32)
    passed: list[int] = []
    depth, through = 0, place.trunk

    def counted(
        model: Any, of: Any, ids: Tensor, start: int, hidden: Any, stop: int | None, beside: Any
    ) -> Any:
        nonlocal depth
        depth = len(of)
        passed.append(ids.numel() * ((depth if stop is None else stop) - start))
        return through(model, of, ids, start, hidden, stop, beside)

    monkeypatch.setattr(place, "trunk", counted)
    job = VerifyJob("m", tmp_path / "plan.json", tokens=128, window=32)
    events = list(verify(local, job, Cancel()))
    assert sum(passed) == depth * 3 * (128 + 64), "full precision, the plan and its nearest rounding"
    said = [event for event in events if isinstance(event, Progress) and event.unit == "tokens"]
    assert {event.total for event in said} == {3 * (128 + 64)}
    steps = [after.done - before.done for before, after in pairwise(said)]
    assert min(steps) >= 0
    assert max(steps) <= 32 * (1 if place is walk else 4) * 1.01, "a batch, or a block for the whole text"
    assert said[-1].done == said[-1].total
    loaded = _returned(load_or_open(local.folder, "verify"))
    shapes = {weight.name: weight.shape for weight in inventory(loaded.model)}
    roundings = Roundings(kept_in(open_integers(tmp_path / "scores.safetensors"), shapes))
    alone = measure_plan(loaded, plan.assignments, [held_out_text()], 128, 32, Cancel(), roundings)
    measured = load_plan(tmp_path / "plan.json").measured
    assert measured is not None
    assert {name: measured[name] for name in alone} == alone


def test_a_loss_elsewhere_counts_beyond_its_error() -> None:
    def joint(*kl: float, ce: float = 0.0) -> Joint:
        return Joint(kl, tuple(ce + each for each in kl), (0.0,) * len(kl))

    better, worse, alike = joint(0.1, 0.11, 0.09), joint(0.2, 0.21, 0.19), joint(0.25, 0.05, 0.3)
    assert worse_elsewhere(better, worse, better, worse) == ""
    assert "KL is 0.1 ± " in worse_elsewhere(better, worse, worse, better)
    assert worse_elsewhere(worse, better, worse, better) == ""
    assert worse_elsewhere(better, worse, alike, worse) == ""
    dearer = Joint(better.kl, worse.ce, better.ce_full)
    assert "cross-entropy is 0.1 ± " in worse_elsewhere(better, worse, dearer, better)


def test_the_command_line_shows_both_roundings(
    small: LocalModel, scores: Scores, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_plan(tmp_path / "plan.json", propose(scores, bits=5))
    argv = ["verify", str(small.folder), "--plan", str(tmp_path / "plan.json"), "--tokens", "512"]
    assert run(argv, carry=perform) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "KL full" in line]
    said = [line.strip().split("  ")[0] for line in lines]
    kl, there = "KL full‖quantized, nats per token", "on dialogue-earnest.txt"
    assert said == [kl, f"{kl}, rounded to nearest", f"{kl}, {there}", f"{kl}, {there}, rounded to nearest"]
