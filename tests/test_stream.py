"""What is measured with the weights on disk is what is measured with them in memory."""

import contextlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.export.baseline_plans import baselines
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.experts.forms import holds_experts
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model import by_block, fit
from kl_lens_desktop.model.by_block import ByBlock
from kl_lens_desktop.model.head_parts import HeadParts
from kl_lens_desktop.model.inventory import blocks, experts_chosen, inventory, quantizable
from kl_lens_desktop.model.load import LoadedModel, load_model, load_or_open, open_model
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.joint import Bench
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.sensitivity.agreement import agree
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.engine import analyze, measure_plan
from kl_lens_desktop.sensitivity.jobs import AgreeJob, Analysis
from kl_lens_desktop.sensitivity.lanes import Lanes
from kl_lens_desktop.sensitivity.measuring import InMemory, OnDisk
from kl_lens_desktop.sensitivity.scores import METRICS, Scores, load_scores
from kl_lens_desktop.sensitivity.stream import Stream, changed
from kl_lens_desktop.text.bundled import calibration_text, held_out_text
from kl_lens_desktop.text.calibration import source_text
from kl_lens_desktop.text.windows import FIT_TOKENS, JUDGE_TOKENS, windows
from tests.models import CONFIGURATIONS, build_bf16_folder

# Shared blocks, experts that lie together and apart, tied and untied embeddings, Mamba-1 and no scan at all.
APART = ["granitemoehybrid with experts", "zamba2", "jamba with experts", "mamba", "lfm2"]
T = TypeVar("T")
SAME = 1e-6  # relative: sums of the same numbers in another order


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "free_mb", lambda: 0)


@pytest.fixture(scope="session")
def with_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bf16_folder("granitemoehybrid with experts", tmp_path_factory.mktemp("experts") / "model")


def _plan(
    loaded: LoadedModel, formats: Sequence[str] = ("int4_sym_g64", "int8_sym", "nf4_g32", "fp16")
) -> dict[str, str]:
    """Every format by turns."""
    names = [weight.name for weight in quantizable(inventory(loaded.model))]
    return {name: formats[place % len(formats)] for place, name in enumerate(names)}


def _returned(steps: Generator[Event, None, T]) -> tuple[list[Event], T]:
    """The events of a step that gives something back, and what it gives."""
    given: list[T] = []

    def through() -> Iterator[Event]:
        given.append((yield from steps))

    return list(through()), given[0]


def _agree(found: Scores, wanted: Scores) -> None:
    ours, theirs = ({(e.weight, e.format): e for e in scores.entries} for scores in (found, wanted))
    assert ours.keys() == theirs.keys()
    for pair, entry in theirs.items():
        for metric in METRICS:
            mean = getattr(ours[pair], metric).mean
            # The change of cross-entropy is a difference of numbers that are larger.
            least = 1e-7 if metric == "delta_ce" else 1e-12
            assert mean == pytest.approx(getattr(entry, metric).mean, rel=SAME, abs=least), (pair, metric)
    assert found.windows is not None
    assert wanted.windows is not None
    assert found.windows.signal == pytest.approx(wanted.windows.signal, rel=SAME)


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_a_whole_plan_is_measured_as_in_memory(family: str, tmp_path: Path) -> None:
    folder = build_bf16_folder(family, tmp_path / "model")
    loaded, opened = load_model(folder), open_model(folder)
    ours, theirs = (
        measure_plan(each, _plan(loaded), [held_out_text()], 128, 64, Cancel()) for each in (opened, loaded)
    )
    assert ours["text"] == theirs["text"]
    for name in ("kl_pq", "kl_qp", "top1_agreement", "perplexity", "perplexity_full"):
        assert ours[name]["mean"] == pytest.approx(theirs[name]["mean"], rel=SAME), name


TWO = ("int4_sym_g64", "int8_sym")


@pytest.mark.parametrize("family", APART)
def test_every_entry_is_measured_as_in_memory(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalModel("m", build_bf16_folder(family, tmp_path / "model"))
    how = Analysis(
        (calibration_text(),), tokens=128, window=32, formats=TWO, exhaustive=True, rounding="nearest"
    )
    for _ in analyze(local, tmp_path / "memory.json", how, Cancel()):
        pass
    monkeypatch.setattr(fit, "free_mb", lambda: 0)
    events = list(analyze(local, tmp_path / "disk.json", how, Cancel()))
    said = [event.text for event in events if isinstance(event, Note)]
    assert "The weights stay on disk" in said[0]
    _agree(load_scores(tmp_path / "disk.json"), load_scores(tmp_path / "memory.json"))


@pytest.mark.usefixtures("no_memory")
def test_the_sample_is_scored_as_in_memory(sample: LocalModel, sample_scores: Scores, tmp_path: Path) -> None:
    how = Analysis((calibration_text(),), tokens=512, window=128, formats=TWO, rounding="nearest")
    for _ in analyze(sample, tmp_path / "scores.json", how, Cancel()):
        pass
    _agree(load_scores(tmp_path / "scores.json"), sample_scores)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_little_at_a_time_and_much_are_the_same(with_experts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes, models that pass a block together, logits, rows of the head, and experts of a block."""
    loaded = open_model(with_experts)
    ids, _ = windows(loaded, [calibration_text()], 128, 32)
    weights = quantizable(inventory(loaded.model))
    models = [changed(weight, parse_format("int4_sym_g64")) for weight in reversed(weights)]

    def compared() -> tuple[int, list[float]]:
        with torch.no_grad(), fast_kernels(loaded.model), DiskLanes(loaded.model, Cancel()) as lanes:
            found = Stream(lanes, ids).compare(models)
            means = [tally.estimates()["kl_pq"].mean for tally in found if not isinstance(tally, float)]
            return lanes.count, means

    lanes, much = compared()
    assert lanes == 3
    for changes in (
        {"stream.HELD_WEIGHTS": 0},  # no weight of a lane's own
        {"disk_lanes.COMPUTED_ELEMENTS": 0},
        {"stream.TOGETHER_TOKENS": 3 * 128, "stream.LOGIT_ELEMENTS": 3 * 7 * 4096},
        {"stream.KEPT_ELEMENTS": 0, "stream.BATCH_TOKENS": 64},
    ):
        for name, value in changes.items():
            monkeypatch.setattr(f"kl_lens_desktop.sensitivity.{name}", value)
        found, little = compared()
        assert found == (3 if "stream.HELD_WEIGHTS" in changes else 1)
        assert little == pytest.approx(much, rel=SAME)
    monkeypatch.undo()
    monkeypatch.setattr(by_block, "HEAD_ELEMENTS", 1000 * 64)
    monkeypatch.setattr(by_block, "EXPERT_ELEMENTS", 3 * 3 * 96 * 64)
    found, little = compared()
    assert found == 1  # lane, for experts take turns
    assert little == pytest.approx(much, rel=SAME)


def test_lanes_at_the_head_at_the_same_time_share_what_is_widened(
    with_experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_block, "HEAD_ELEMENTS", 500 * 64)
    loaded = open_model(with_experts)
    main = ByBlock(loaded.model, Cancel())
    lanes, together = [main.beside() for _ in range(3)], threading.Barrier(3)
    head = next(name for name, each in main.stored.items() if each is main.stored_head)
    rows, begun, states = list[int](), set[int](), torch.randn(3, 2, 64)

    def doubled(part: torch.Tensor) -> torch.Tensor:
        if threading.get_ident() not in begun:
            begun.add(threading.get_ident())
            together.wait(60)
        rows.append(len(part))
        return 2 * part

    def logits(place: int) -> torch.Tensor:
        with torch.no_grad(), lanes[place].changed({head: doubled}):
            found: torch.Tensor = lanes[place].model.get_output_embeddings()(states[place])
            return found

    with contextlib.ExitStack() as stack:
        for lane in lanes:
            stack.enter_context(lane)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(logits, range(3)))
    assert sum(rows) == len(main.stored_head), "each part once for all three"
    for mine, given in zip(found, states, strict=True):
        assert torch.allclose(mine, given @ (2 * main.stored_head.float()).t(), rtol=1e-5, atol=1e-6)


def test_a_lane_that_fails_at_the_head_holds_no_other_up() -> None:
    parts, waiting, seen = HeadParts(), threading.Event(), list[int]()

    def run(number: int) -> None:
        def fill(place: int, into: torch.Tensor) -> None:
            if number:
                waiting.wait(60)
                raise InterruptedError
            into.fill_(place)

        with contextlib.closing(parts.each("head", 1 + number, 4, fill)) as each:
            for place, values in each:
                assert values.tolist() == [place] * 4
                seen.append(place)

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(run, 1)
        while not parts._parts:
            time.sleep(0.001)
        going = pool.submit(run, 0)
        time.sleep(0.05)  # the other waits for the part that this one never finishes
        waiting.set()
        going.result(60)
        with pytest.raises(InterruptedError):
            failing.result(60)
    assert seen == [0]


def test_an_exchange_in_a_plan_is_measured_as_in_memory(with_experts: Path) -> None:
    loaded, opened = load_model(with_experts), open_model(with_experts)
    ids, _ = windows(loaded, [calibration_text()], 128, 32)
    ours, theirs = Bench(opened, ids, Cancel()), Bench(loaded, ids, Cancel())
    plan = _plan(loaded, ("int4_sym_g64", "int8_sym"))
    moves = [(name, "fp16") for name in plan]
    found, wanted = (dict(bench.neighbours(plan, moves)) for bench in (ours, theirs))
    assert list(found) == list(wanted)
    for move, joint in wanted.items():
        for column in fields(joint):
            values = getattr(found[move], column.name)
            assert np.allclose(values, getattr(joint, column.name), rtol=SAME), move
    assert np.allclose(ours.measure(plan).kl, theirs.measure(plan).kl, rtol=SAME)
    for name in plan:
        assert ours.weight_error(name, "int4_sym_g64") == pytest.approx(
            theirs.weight_error(name, "int4_sym_g64"), rel=1e-5
        )


def test_agreement_and_baselines_are_those_in_memory(
    with_experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, scores, plan = LocalModel("m", with_experts), tmp_path / "scores.json", tmp_path / "plan.json"
    how = Analysis((calibration_text(),), tokens=128, window=32, formats=("int4_sym_g64",))
    for _ in analyze(local, scores, how, Cancel()):
        pass
    save_plan(plan, propose(load_scores(scores), bits=6))

    def results(out: Path) -> list[Any]:
        out.mkdir()
        job = AgreeJob("m", scores, text=held_out_text(), tokens=64, window=32)
        points = list(agree(local, job, Cancel()))[-1].result["points"]
        made = BaselinesJob("m", scores, plan, out, tokens=64, window=32, only=("uniform",))
        for _ in baselines(local, made, Cancel()):
            pass
        measured = [load_plan(path).measured for path in sorted(out.iterdir())]
        return [
            [point["perplexity"] for point in points],
            [figures["kl_pq"]["mean"] for figures in measured if figures],
        ]

    wanted = results(tmp_path / "memory")
    monkeypatch.setattr(fit, "free_mb", lambda: 0)
    found = results(tmp_path / "disk")
    assert len(found[0]) == len(load_scores(scores).entries)
    assert len(found[1]) == 6
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=SAME)


def test_a_model_on_disk_generates_the_same_text(with_experts: Path, tmp_path: Path) -> None:
    texts = []
    for name, loaded in (("disk", open_model(with_experts)), ("memory", load_model(with_experts))):
        _, source = _returned(source_text("generated", loaded, tmp_path / f"{name}.json", 64, 8, 0, Cancel()))
        texts.append(source.file.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert len(texts[0]) > 64


def test_a_change_too_small_to_matter_is_as_small_as_in_memory(with_experts: Path) -> None:
    loaded, opened = load_model(with_experts), open_model(with_experts)
    ids, _ = windows(loaded, [calibration_text()], 128, 32)
    with torch.no_grad():
        with fast_kernels(loaded.model), Lanes(loaded.model, Cancel()) as lanes:
            memory = InMemory(lanes)
            wanted = memory.noise(memory.open(ids)).estimates()["kl_pq"].mean
        with fast_kernels(opened.model), DiskLanes(opened.model, Cancel()) as disk_lanes:
            disk = OnDisk(disk_lanes)
            found = disk.noise(disk.open(ids)).estimates()["kl_pq"].mean
    assert found == pytest.approx(wanted, rel=1)
    assert found > 0


def test_cancel_is_heard_in_the_middle_and_the_model_is_as_before(with_experts: Path) -> None:
    loaded, cancel = open_model(with_experts), Cancel()
    before = dict(loaded.model.named_parameters(remove_duplicate=False))
    weights = ByBlock(loaded.model, cancel)
    weights.blocks[2].register_forward_pre_hook(lambda *_: cancel.cancel())
    with pytest.raises(Cancelled), torch.no_grad(), weights:
        assert all(torch.isnan(each).all() for each in weights.blocks[1].parameters())
        loaded.model(torch.tensor([[1, 2, 3]]), use_cache=False)
    after = dict(loaded.model.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())
    assert all("forward" not in vars(module) for module in loaded.model.modules())


@pytest.mark.parametrize("family", [*APART, "kimi_linear with experts", "nemotron_h with experts"])
def test_headers_tell_the_sizes_of_the_parts(family: str, tmp_path: Path) -> None:
    folder = build_bf16_folder(family, tmp_path / "model")
    model, sizes = open_model(folder).model, fit.folder_sizes(folder)
    parts, given = [], set()
    for block in blocks(model):
        of_experts = {id(p) for m in block.modules() if holds_experts(m) for p in m.parameters(recurse=False)}
        stacks = [p for p in block.parameters() if id(p) in of_experts and p.dim() == 3]
        given.add(sum({stack.shape[-1] for stack in stacks}))
        others = {id(p): p for p in block.parameters() if id(p) not in of_experts}.values()
        rows = sum(len(each) for each in others if each.dim() == 2)
        counts = [sum(p.numel() for p in block.parameters() if id(p) in of_experts)]
        parts.append([sum(each.numel() for each in others), *counts, rows])
    found = [sizes.block, sizes.experts, sizes.rows, sizes.vocabulary]
    # Files also hold what is no parameter, such as the bias of a router.
    assert found == pytest.approx([*(max(column) for column in zip(*parts, strict=True)), 4096], rel=0.01)
    assert sizes.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)
    assert sizes.expert_inputs == experts_chosen(model.config) * max(given)


def test_the_text_of_which_inputs_of_experts_are_kept_is_the_one_that_is_read() -> None:
    assert fit.FITTED_TOKENS == FIT_TOKENS + JUDGE_TOKENS


def test_weights_stay_on_disk_only_where_the_free_memory_is_too_small(
    with_experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = fit.in_memory_mb(fit.folder_sizes(with_experts), "verify")
    assert needed > fit.in_memory_mb(fit.folder_sizes(with_experts), "analyze")
    for free, mapped in ((needed, True), (2 * needed, False)):
        monkeypatch.setattr(fit, "free_mb", lambda free=free: free)
        notes, loaded = _returned(load_or_open(with_experts, "verify"))
        assert loaded.mapped is mapped
        assert len(notes) == mapped
