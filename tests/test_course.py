"""How long the whole job takes is said truly, before it starts and from a tenth of it on."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop.bench.lab import BenchCourse
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.course import PARTS, STEPS, Course, Done, expected, hours_words
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished, Progress, Weights
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.process.record import decode
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.estimate import Costs, usual
from kl_lens_desktop.sensitivity.jobs import CalibrateJob
from tests.models import build_folder

# Seconds by part of the sample's job as it ran on two cores that others were using.
SAMPLE = {"round": 185.0, "scan": 97, "round-2": 44, "scan-2": 33, "round-3": 150, "verify": 65}
SAMPLE |= {"export": 90.0, "bench": 240}
MARKS = {
    "round": ("analyze", 37, "roundings"),
    "scan": ("analyze", 55, "entries"),
    "round-2": ("analyze", 28, "roundings"),
    "scan-2": ("analyze", 65, "entries"),
    "round-3": ("verify", 31, "roundings"),
    "verify": ("verify", 72, "tokens"),
    "export": ("export", 4, "models"),
    "bench": ("bench", 148, "runs"),
}


def events(seconds: Mapping[str, float], *, eta: bool = True) -> Iterator[tuple[float, Progress]]:
    """When a job that takes so long says what, as `run` and its stages do."""
    now = 4.0
    yield 0.0, Progress("analyze", 0, 0, "Opening the model")
    for part, (stage, total, unit) in MARKS.items():
        if part == "round-3":
            yield now, Progress("plan", 0, 1, "Making the plan")
            yield now, Progress("plan", 1, 1, "Made the plan")
            yield now, Progress("verify", 0, 0, "Opening the model")
        first = 37 if part == "scan-2" else 0
        for done in range(first, total + 1):
            share = (done - first) / (total - first)
            left = seconds[part] * (1 - share) if eta and share > 0 and stage != "export" else None
            wrong = 0.0 if part == "scan-2" else left  # a stage that says zero where it does not know
            yield now + share * seconds[part], Progress(stage, done, total, "", unit, wrong)
        now += seconds[part]


def whole(seconds: Mapping[str, float]) -> float:
    return 4.0 + sum(seconds.values())


@pytest.mark.parametrize("eta", [True, False])
@pytest.mark.parametrize("today", [0.5, 1.0, 1.8])
def test_after_a_tenth_the_estimate_is_within_thirty_per_cent(today: float, eta: bool) -> None:
    """Once this computer's paces are known, on a day on which it is half as fast, or twice."""
    seconds = {part: took * (1.0 if part == "bench" else today) for part, took in SAMPLE.items()}
    course, actual = Course(SAMPLE, tuple(SAMPLE)), whole(seconds)
    for now, progress in events(seconds, eta=eta):
        course.note(progress, now)
        left = course.left(now)
        assert left is not None
        if now >= 0.1 * actual:
            assert abs(now + left - actual) <= 0.3 * actual, (now / actual, progress)
    course.end(actual)
    assert course.left(actual) == pytest.approx(0, abs=1)


def test_nothing_goes_back_and_each_step_fills_once() -> None:
    course = Course({})
    seen: list[tuple[float, ...]] = []
    steps: list[str] = []
    for now, progress in events(SAMPLE):
        course.note(progress, now)
        seen.append(tuple(course.shares()[step] for step in STEPS))
        steps.append(course.step)
        assert course.left(now) is None, "nothing is known of this computer"
    for before, after in pairwise(seen):
        assert all(a <= b for a, b in zip(before, after, strict=True))
    assert seen[-1] == pytest.approx((1,) * len(STEPS))
    assert list(dict.fromkeys(filter(None, steps))) == list(STEPS)
    course.note(Progress("analyze", 1, 37, "", "roundings"), 9999.0)
    assert course.step == "bench", "what comes late changes nothing"


def test_opening_the_model_again_is_not_yet_to_measure_the_plan() -> None:
    course = Course(SAMPLE)
    for now, progress in events(SAMPLE):
        course.note(progress, now)
        if progress.stage == "verify" and progress.unit == "roundings" and progress.done == 16:
            break
    rest = SAMPLE["round-3"] * 15 / 31 + SAMPLE["verify"] + SAMPLE["export"] + SAMPLE["bench"]
    assert course.left(now) == pytest.approx(rest, rel=0.15)


def test_a_pause_costs_no_time() -> None:
    plain, paused = Course(SAMPLE), Course(SAMPLE)
    pause = 0.0
    for place, (now, progress) in enumerate(events(SAMPLE)):
        if place == 20:
            paused.pause(now)
            assert paused.left(now) == paused.left(now + 500), "the clock stands"
            paused.resume(now + 500)
            pause = 500.0
        plain.note(progress, now)
        paused.note(progress, now + pause)
        assert plain.left(now) == pytest.approx(paused.left(now + pause))


def test_the_paces_of_a_job_make_the_next_estimate_right() -> None:
    guessed = dict.fromkeys(PARTS, 10.0)
    course = Course(guessed)
    for now, progress in events(SAMPLE):
        course.note(progress, now)
    course.end(whole(SAMPLE))
    learnt = {part: guessed[part] * pace for part, pace in course.paces().items()}
    assert learnt["scan"] == pytest.approx(SAMPLE["scan"], rel=0.1)
    assert max(course.paces().values()) <= 10, "an odd day is not believed whole"


@pytest.fixture(scope="module")
def weights() -> list[dict[str, object]]:
    (done,) = (event for event in perform(InspectJob("sample"), Cancel()) if isinstance(event, Finished))
    found: list[dict[str, object]] = done.result["weights"]
    return found


def test_what_is_done_already_takes_no_time(weights: list[dict[str, object]]) -> None:
    job, costs = RunJob("sample", Path("out")), usual(weights)
    fresh = expected(costs, weights, job)
    again = expected(costs, weights, job, 1, Done(1.0, True, 4))
    assert set(fresh) == set(PARTS)
    assert all(seconds > 0 for seconds in fresh.values())
    assert {part for part, seconds in again.items() if seconds == 0} == {
        "round", "round-2", "scan-2", "round-3", "verify", "export",
    }  # fmt: skip
    assert expected(costs, weights, job.quick)["bench"] < fresh["bench"]
    assert expected(costs, weights, job, 2)["bench"] > 1.5 * fresh["bench"]
    nearest = replace(job, analysis=replace(job.analysis, rounding="nearest"))
    assert expected(costs, weights, nearest)["round"] == 0
    assert expected(costs, weights, job, paces={"bench": 3.0})["bench"] == pytest.approx(3 * fresh["bench"])


def test_a_calibration_tells_how_fast_this_computer_rounds_by_data() -> None:
    (done,) = (event for event in perform(CalibrateJob("sample"), Cancel()) if isinstance(event, Finished))
    assert done.result["fitting"] > 0
    assert decode(Costs, done.result).fitting == done.result["fitting"]


def test_a_slower_computer_is_expected_to_take_longer(weights: list[dict[str, object]]) -> None:
    fast = usual(weights)
    blocks = tuple(4 * s for s in fast.block_s)
    slow = Costs(fast.open_s, blocks, fast.widen_s, 4 * fast.head_s, fast.element_s, 4 * fast.fitting)
    job = RunJob("sample", Path("out"))
    one, other = (expected(costs, weights, job) for costs in (fast, slow))
    assert other["scan"] > one["scan"]
    assert other["round"] == pytest.approx(4 * one["round"])
    assert other["verify"] > one["verify"]


def test_a_benchmark_does_not_count_on_rounds_for_which_there_is_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("kl_lens_desktop.bench.lab.time.monotonic", lambda: clock[0])
    settings = Benchmark(speed_minutes=1, max_rounds=32)
    course = BenchCourse(Path("text"), settings, Cancel(), 32 * 4 + 16, 1, 16)
    assert course.progress(0, "").eta_s is None
    course.until = 60.0
    for _ in range(4):
        with course.step(turn=True):
            clock[0] += 3
    left = course.progress(0, "").eta_s
    assert left == pytest.approx(48 + 16 * 3), "not 124 turns"
    course.until, course.done = None, 32 * 4
    with course.step():
        clock[0] += 10
    assert course.progress(0, "").eta_s == pytest.approx(15 * 10)
    assert math.isfinite(course.progress(0.5, "").eta_s or math.nan)


def test_a_job_of_hours_says_so_and_a_short_one_does_not(weights: list[dict[str, Any]]) -> None:
    job = RunJob("sample", Path("out"))
    assert hours_words(Weights(weights), job) == ""
    sides = {0: 14, 1: 14}  # of the sample's matrices, those of a model of 1.5 billion parameters
    large = [
        {**each, "shape": [side * sides[axis] for axis, side in enumerate(each["shape"][:2])],
         "parameters": each["parameters"] * 14**2}
        for each in weights if each["kind"] != "conv"
    ]  # fmt: skip
    words = hours_words(Weights(large), job)
    hours = int(re.search(r"about (\d+) h", words)[1])
    assert hours == round(sum(expected(usual(large), large, job).values()) / 3600) > 1


@pytest.mark.parametrize("family", ["granitemoehybrid with experts", "jamba with experts"])
def test_of_a_mixture_of_experts_only_those_that_a_token_passes_take_time(
    family: str, tmp_path: Path
) -> None:
    job = InspectJob(str(build_folder(family, tmp_path / "model")))
    (done,) = (event for event in perform(job, Cancel()) if isinstance(event, Finished))
    weights, chosen = done.result["weights"], done.result["model"]["experts_chosen"]
    stacks = {weight["name"]: weight["shape"][0] for weight in weights if ".experts." in weight["name"]}
    assert 0 < chosen < min(stacks.values())
    dense = [
        {**weight, "parameters": weight["parameters"] * chosen // stacks.get(weight["name"], chosen)}
        for weight in weights
    ]
    assert usual(weights, chosen).block_s == pytest.approx(usual(dense).block_s)
    assert usual(weights, chosen).open_s == usual(weights).open_s, "all of them are read"
