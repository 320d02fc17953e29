"""A plan is repaired by measuring: never larger, better on text that neither chose it nor scored it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kl_lens_desktop.errors import Cancelled, InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.baselines import random_assignment
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.plan.joint import Bench, Joint, spread_windows
from kl_lens_desktop.plan.options import weight_options
from kl_lens_desktop.plan.propose import predicted, propose
from kl_lens_desktop.plan.repair import Repair, repair
from kl_lens_desktop.plan.verify import more_tokens, verify
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Note, Progress, Repaired
from kl_lens_desktop.run import improved_before
from kl_lens_desktop.sensitivity.scores import Scores
from kl_lens_desktop.text.bundled import calibration_text, held_out_text
from tests.machine import slowness

WINDOW = 128


@pytest.fixture(scope="module")
def loaded(sample: LocalModel) -> LoadedModel:
    return load_model(sample.folder)


@pytest.fixture(scope="module")
def bench(loaded: LoadedModel) -> Bench:
    ids = spread_windows(loaded, calibration_text(), 8 * WINDOW, WINDOW, 512)
    return Bench(loaded, ids, Cancel())


@pytest.fixture(scope="module")
def poor(sample_scores: Scores) -> Plan:
    """Formats drawn by chance at six bits: much to repair."""
    options = weight_options(sample_scores)
    size = 6 * sum(option.parameters for option in options) // 8
    chosen = random_assignment(options, int(0.99 * size), size, 0)
    return replace(
        propose(sample_scores, bits=6), assignments=chosen, predicted=predicted(sample_scores, chosen)
    )


def test_an_exchange_measured_from_the_plans_state_is_that_of_the_whole_model(
    bench: Bench, poor: Plan, loaded: LoadedModel
) -> None:
    names = list(poor.assignments)
    ends = ("3.self_attn.k_proj.weight", "6.mamba.in_proj.weight")
    picked = [names[0], *(name for name in names if name.endswith(ends))]
    moves = [(name, "int8_sym" if poor.assignments[name] != "int8_sym" else "fp16") for name in picked]
    fresh = Bench(loaded, bench._ids, Cancel())
    for (name, fmt), joint in bench.neighbours(poor.assignments, moves):
        whole = fresh.measure({**poor.assignments, name: fmt})
        assert np.allclose(joint.kl, whole.kl, rtol=1e-3)
        assert np.allclose(joint.ce, whole.ce, rtol=1e-5)
        assert np.allclose(joint.ce_full, whole.ce_full)


def test_a_repair_lowers_the_joint_kl_in_no_more_bytes(
    bench: Bench, poor: Plan, sample_scores: Scores
) -> None:
    options = weight_options(sample_scores)
    pinned = {
        "model.layers.3.self_attn.o_proj.weight": poor.assignments["model.layers.3.self_attn.o_proj.weight"]
    }
    events: list[Any] = []
    for event in repair(bench, poor.assignments, options, Constraints(pinned), seconds=300, nearest=1):
        events.append(event)
        found = [event for event in events if isinstance(event, Repair)]
        if len(found) == 4:
            break
    last = found[-1]
    gain, error = last.joint.less_than(last.start)
    assert gain > 4 * error
    assert last.saved_bytes >= 0
    assert pinned.items() <= last.assignments.items()
    means = [repair_.joint.mean for repair_ in found]
    assert means == sorted(means, reverse=True)
    said = [event for event in events if isinstance(event, Repaired)]
    assert len(said) == len(found) - 1
    for event in said:
        assert event.gain > event.gain_se
        assert event.changes


def test_a_repair_says_how_far_its_first_measurement_is(
    loaded: LoadedModel, bench: Bench, poor: Plan, sample_scores: Scores
) -> None:
    fresh = Bench(loaded, bench._ids, Cancel())
    events = repair(fresh, poor.assignments, weight_options(sample_scores), Constraints(), seconds=0)
    first = [e for e in events if isinstance(e, Progress) and e.message == "Measuring the plan"]
    done = [event.done for event in first]
    assert len(first) > 2
    assert done[0] == 0
    assert done == sorted(done)
    assert first[-1].done <= first[-1].total == 2 * fresh.tokens
    assert all(event.eta_s is not None for event in first if event.done)


def _how(scores: Path) -> RepairSettings:
    return RepairSettings(scores, tokens=8 * WINDOW, minutes=0.05 * slowness())


def _run(sample: LocalModel, path: Path, how: RepairSettings, cancel: Cancel | None = None) -> list[Event]:
    job = VerifyJob("sample", path, tokens=4 * WINDOW, window=WINDOW, repair=how)
    return list(verify(sample, job, cancel or Cancel()))


def test_verify_repairs_first_and_says_which_text_was_for_what(
    sample: LocalModel, poor: Plan, sample_scores_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, poor)
    events = _run(sample, path, _how(sample_scores_path))
    (result,) = [event.result for event in events if isinstance(event, Finished)]
    plan = load_plan(path)
    assert result["repair"]["kl_after"] < result["repair"]["kl_before"]
    assert plan.assignments != poor.assignments
    assert (plan.predicted["bytes"] or 0) <= (poor.predicted["bytes"] or 0)
    assert plan.measured == result["measured"]
    assert plan.provenance["repaired_on"] == calibration_text().name
    assert plan.measured["text"]["name"] == held_out_text().name  # type: ignore[index]
    before = json.loads((tmp_path / "plan.joint.json").read_text(encoding="utf-8"))["measurements"]

    save_plan(path, poor)
    _run(sample, path, _how(sample_scores_path))
    after = json.loads((tmp_path / "plan.joint.json").read_text(encoding="utf-8"))["measurements"]
    assert before.items() <= after.items(), "what was measured once is not measured again"
    assert load_plan(path).provenance["repair_gain"] == pytest.approx(plan.provenance["repair_gain"], abs=0.5)


def test_a_cancelled_repair_keeps_what_it_found(
    sample: LocalModel, poor: Plan, sample_scores_path: Path, tmp_path: Path
) -> None:
    path, cancel = tmp_path / "plan.json", Cancel()
    save_plan(path, poor)
    with pytest.raises(Cancelled):
        how = _how(sample_scores_path)
        for event in verify(sample, VerifyJob("sample", path, window=WINDOW, repair=how), cancel):
            if isinstance(event, Repaired):
                saved = event
                cancel.cancel()
    plan = load_plan(path)
    assert all(plan.assignments[weight] == now for weight, _, now in saved.changes)
    assert plan.measured is None
    assert (tmp_path / "plan.joint.json").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_repaired_plan_is_not_made_anew_by_the_next_run(sample_scores: Scores, tmp_path: Path) -> None:
    path, plan = tmp_path / "plan.json", propose(sample_scores, bits=5)
    other = propose(sample_scores, bits=5, method="sqnr").assignments
    save_plan(path, replace(plan, assignments=other))
    assert improved_before(path, plan) is None
    repaired = replace(plan, assignments=other, provenance={**plan.provenance, "repaired_on": "a.txt"})
    save_plan(path, repaired)
    assert improved_before(path, plan) == repaired
    assert improved_before(path, propose(sample_scores, bits=6)) is None
    fewer = [entry for entry in sample_scores.entries if entry.format != "int8_sym"]
    assert improved_before(path, propose(replace(sample_scores, entries=fewer), bits=5)) is None
    longer = {**sample_scores.text, "tokens": 2 * sample_scores.text["tokens"]}
    assert improved_before(path, propose(replace(sample_scores, text=longer), bits=5)) is None


def test_without_scores_the_plans_own_formats_are_tried(
    sample: LocalModel, poor: Plan, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, poor)
    _run(sample, path, RepairSettings(tokens=8 * WINDOW, minutes=0.05 * slowness()))
    plan = load_plan(path)
    assert (plan.predicted["bytes"] or 0) <= (poor.predicted["bytes"] or 0)
    assert plan.predicted["kl"] is None or plan.assignments == poor.assignments


def test_a_repair_that_finds_nothing_goes_on_with_more_text(
    sample: LocalModel,
    loaded: LoadedModel,
    poor: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, text = tmp_path / "plan.json", tmp_path / "some.txt"
    read = calibration_text().read_text(encoding="utf-8")
    text.write_text(read[100_000:103_000], encoding="utf-8")
    # What is pinned cannot be exchanged, so each round is short and finds nothing.
    few = [name for name in poor.assignments if name.endswith("3.self_attn.k_proj.weight")]
    save_plan(path, replace(poor, pins=[name for name in poor.assignments if name not in few]))
    monkeypatch.setattr("kl_lens_desktop.plan.verify.REPAIR_TOKENS", 4 * WINDOW)
    events = _run(sample, path, RepairSettings(text=text))
    said = [event.text for event in events if isinstance(event, Note) and "tokens" in event.text]
    room = len(loaded.tokenizer(text.read_text(encoding="utf-8"))["input_ids"]) // WINDOW * WINDOW
    assert room > 4 * WINDOW
    assert said == [f"Nothing more was found on 512 tokens; trying {room:,}"]
    assert _figures(path)["tokens"] == room
    again = _run(sample, path, RepairSettings(text=text))
    assert not [event for event in again if isinstance(event, Note) and "trying" in event.text]
    assert load_plan(path).assignments == poor.assignments


def _figures(plan: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan.with_suffix(".joint.json").read_text(encoding="utf-8"))
    return found


def test_what_more_text_does_not_confirm_is_taken_back(
    sample: LocalModel, poor: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, saved = tmp_path / "plan.json", []
    name = min(poor.assignments)
    other = {**poor.assignments, name: "fp16" if poor.assignments[name] != "fp16" else "int8_sym"}
    joint = Joint((0.1, 0.1), (2.0, 2.0), (1.9, 1.9))

    def scripted(
        bench: Bench, now: dict[str, str], *_: object, starts: Any, **__: object
    ) -> Iterator[Repair]:
        longer = bench.tokens > 4 * WINDOW
        assert now == poor.assignments
        assert (starts[0] == other) is longer, "what was found on less text is measured again"
        yield Repair(now if longer else other, joint, joint, 1, 0)
        saved.append(load_plan(path).assignments)

    monkeypatch.setattr("kl_lens_desktop.plan.verify.repair", scripted)
    monkeypatch.setattr("kl_lens_desktop.plan.verify.REPAIR_TOKENS", 4 * WINDOW)
    monkeypatch.setattr("kl_lens_desktop.plan.verify.MOST_REPAIR_TOKENS", 8 * WINDOW)
    save_plan(path, poor)
    _run(sample, path, RepairSettings())
    assert saved == [other, poor.assignments]
    assert load_plan(path).assignments == poor.assignments
    assert "repaired_on" not in load_plan(path).provenance


@pytest.mark.parametrize(
    ("spent_s", "left_s", "more"),
    [(10, 100, 8000), (10, 20, 1000), (10, 0, 1000), (10, -5, 1000), (0, 1200, 2**15)],
)
def test_more_text_is_read_only_where_the_time_left_allows_twice_as_much(
    spent_s: float, left_s: float, more: int
) -> None:
    assert more_tokens(1000, spent_s, left_s) == more


def test_texts_that_overlap_are_refused(
    sample: LocalModel, loaded: LoadedModel, poor: Plan, sample_scores_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, poor)
    with pytest.raises(InputError, match="the result is measured on that text"):
        _run(sample, path, replace(_how(sample_scores_path), text=held_out_text()))
    short = tmp_path / calibration_text().name
    shutil.copyfile(calibration_text(), short)
    short.write_text(short.read_text(encoding="utf-8")[:2000], encoding="utf-8")
    with pytest.raises(InputError, match="were not used for scoring, and four windows need more"):
        _run(sample, path, replace(_how(sample_scores_path), text=short))
    ids = spread_windows(loaded, calibration_text(), 8 * WINDOW, WINDOW, 512)
    text = calibration_text().read_bytes().decode("utf-8")
    whole = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    places = [_find(whole, window.tolist()) for window in ids]
    assert min(places) >= 512
    assert all(b - a >= WINDOW for a, b in pairwise(places)), "spread, without an overlap"


def _find(whole: list[int], part: list[int]) -> int:
    return next(i for i in range(len(whole)) if whole[i : i + len(part)] == part)


@pytest.mark.parametrize(
    "measurements",
    [
        [1],
        {"a": 1},
        {"a": {"kl": [], "ce": ["x"], "ce_full": []}},
        {"a": {"kl": [1], "ce": [1, 2], "ce_full": [1]}},
    ],
)
def test_a_damaged_memory_costs_only_time(loaded: LoadedModel, tmp_path: Path, measurements: object) -> None:
    memory = tmp_path / "plan.joint.json"
    memory.write_text(
        json.dumps({"schema": "kl-lens/joint/1", "measurements": measurements}), encoding="utf-8"
    )
    bench = Bench(loaded, torch.ones(2, 8, dtype=torch.long), Cancel(), memory)
    assert np.isfinite(bench.measure({}).mean)
