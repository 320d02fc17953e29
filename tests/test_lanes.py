"""Lanes work side by side on one model's memory and never see each other's changes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity import engine
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.lanes import HELD_ELEMENTS, Lane, Lanes, Work
from kl_lens_desktop.sensitivity.scores import load_scores
from kl_lens_desktop.text.bundled import calibration_text
from tests.models import build, build_folder

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cores")
def test_results_come_in_order_and_what_is_large_runs_alone() -> None:
    at_work, together, lock = 0, [0] * 9, threading.Lock()

    def work(place: int) -> int:
        nonlocal at_work
        with lock:
            at_work += 1
        for _ in range(10 - place):
            time.sleep(0.01)
            together[place] = max(together[place], at_work)
        with lock:
            at_work -= 1
        return place

    with Lanes(build("mamba2"), Cancel()) as lanes:
        jobs = [Work(lambda _, i=i: work(i), HELD_ELEMENTS if i == 4 else 1) for i in range(9)]
        assert list(lanes.in_order(jobs)) == list(range(9))
    assert together[4] == 1
    assert max(together) == lanes.count == 3


@pytest.mark.usefixtures("cores")
def test_lanes_are_fewer_for_large_matrices_and_not_for_large_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("jamba with experts")
    sizes = {dim: max(p.numel() for p in model.model.layers.parameters() if p.dim() == dim) for dim in (2, 3)}
    assert sizes[3] > sizes[2]
    for held, count in ((3 * sizes[2], 3), (2 * sizes[2], 2), (sizes[2] - 1, 1)):
        monkeypatch.setattr("kl_lens_desktop.sensitivity.lanes.HELD_ELEMENTS", held)
        with Lanes(model, Cancel()) as lanes:
            assert lanes.count == count
            threads = [Work(lambda _: torch.get_num_threads(), size) for size in (1, sizes[3])]
            assert list(lanes.in_order(threads)) == [3 // count, 3]


@pytest.mark.parametrize("family", ["zamba2", "granitemoehybrid", "jamba with experts"])
def test_a_change_stays_in_its_lane(family: str) -> None:
    model = build(family).requires_grad_(False)
    mine, other = Lane(model, Cancel()), Lane(model, Cancel())
    name = next(name for name in mine.parameters if name.endswith("embed_tokens.weight"))
    with torch.no_grad():
        before = model(IDS, use_cache=False).logits
        with mine.swapped({name: torch.zeros_like(mine.parameters[name])}):
            assert not torch.equal(mine.model(IDS, use_cache=False).logits, before)
            assert torch.equal(other.model(IDS, use_cache=False).logits, before)
            assert torch.equal(model(IDS, use_cache=False).logits, before)
        assert torch.equal(mine.model(IDS, use_cache=False).logits, before)


@pytest.mark.usefixtures("cores")
def test_a_failure_stops_what_the_others_still_do() -> None:
    ended = []

    def endless(lane: Lane) -> None:
        try:
            while True:
                lane.model(IDS, use_cache=False)
        except Cancelled:
            ended.append(lane)
            raise

    def failing(_: Lane) -> None:
        time.sleep(0.2)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), Lanes(build("mamba2"), Cancel()) as lanes:
        list(lanes.in_order([Work(failing, 1), Work(endless, 1), Work(endless, 1)]))
    assert len(ended) == 2


def test_the_number_of_lanes_changes_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_folder("granitemoehybrid with experts", tmp_path / "model")
    before = torch.get_num_threads()
    found = []
    for count in (1, 3):
        monkeypatch.setattr(engine, "use_cores", lambda count=count: torch.set_num_threads(count))
        out = tmp_path / f"{count}.json"
        how = Analysis((calibration_text(),), tokens=256, window=64, formats=("int4_sym_g64",))
        list(engine.analyze(LocalModel("m", folder), out, how, Cancel()))
        found.append(load_scores(out).entries)
    torch.set_num_threads(before)
    one, three = found
    assert [entry.weight for entry in one] == [entry.weight for entry in three]
    for mine, other in zip(one, three, strict=True):
        assert mine.kl_pq.mean == pytest.approx(other.kl_pq.mean, rel=1e-4, abs=1e-9)
