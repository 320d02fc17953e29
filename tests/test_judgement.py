"""One judgement of better: by what noise does not explain, and the same wherever it is shown."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kl_lens_desktop.bench.compare import compare
from kl_lens_desktop.bench.figures import OF_TURN, over_batches, spread
from kl_lens_desktop.bench.judgement import Rank, levelled
from kl_lens_desktop.bench.judgement import standings as judged
from kl_lens_desktop.bench.noise import difference, estimates_apart
from kl_lens_desktop.bench.outcome import outcome
from kl_lens_desktop.bench.report import export_csv, pairs, table
from tests.strangers import bench_document

BEST, ALIKE, WORSE = Rank.BEST, Rank.ALIKE, Rank.WORSE


def row(variant: str, rounds: list[float], **changes: Any) -> dict[str, Any]:
    figures = {name: {**spread(rounds), "rounds": rounds} for name in OF_TURN}
    return {"variant": variant, "device": "CPU", "status": "ok", "session": "s", **figures} | changes


def standings(rows: list[dict[str, Any]], key: str) -> dict[str, Rank]:
    """By variant, of those that stand anywhere."""
    found = zip(rows, judged(rows, key), strict=True)
    return {each["variant"]: standing for each, standing in found if standing is not None}


def quality(mean: float, se: float | None, n: int = 4096) -> dict[str, Any]:
    return {"mean": mean, "se": se, "n": n}


def test_only_what_noise_does_not_explain_is_worse() -> None:
    slow, fast, also = (
        [100, 101, 99, 100, 100, 101],
        [150, 151, 149, 150, 150, 151],
        [150, 150, 150, 151, 149, 150],
    )
    rows = [row("slow", slow), row("fast", fast), row("also", also)]
    found = standings(rows, "tokens_per_s")
    assert found["slow"] is WORSE
    assert sorted(found[name].value for name in ("fast", "also")) == ["alike", "best"]
    assert standings(rows, "ttft_ms")["slow"] is BEST, "there less is better"
    assert set(standings([row("a", slow), row("b", slow)], "tokens_per_s").values()) == {ALIKE}
    assert standings([row("a", [100]), row("b", [200])], "tokens_per_s") == {}, (
        "of single rounds nothing is known"
    )
    assert standings([row("a", slow)], "tokens_per_s") == {}, "nothing to compare with"
    assert standings([row("a", slow), row("b", fast, status="failed: x")], "tokens_per_s") == {}


def test_quality_is_judged_by_its_errors() -> None:
    rows = [
        row("fp16", [1, 1], perplexity=quality(71.2, 2.7), kl_to_fp16=quality(2e-4, 1e-5)),
        row("plan", [1, 1], perplexity=quality(71.2, 2.7), kl_to_fp16=quality(2.8e-3, 1e-4)),
        row("int4", [1, 1], perplexity=quality(90.0, 2.7), kl_to_fp16=quality(1.3e-2, 2e-4)),
    ]
    assert standings(rows[:2], "perplexity") == {"fp16": ALIKE, "plan": ALIKE}
    assert standings(rows, "perplexity")["int4"] is WORSE
    assert standings(rows, "kl_to_fp16") == {"plan": BEST, "int4": WORSE}, "FP16 is its reference"
    without = [row("a", [1, 1], perplexity=quality(1, None)), row("b", [1, 1], perplexity=quality(2, None))]
    assert standings(without, "perplexity") == {}


@pytest.mark.parametrize("batches", [4, 8])
def test_errors_of_a_few_batches_find_no_difference_that_is_not_there(batches: int) -> None:
    random, repetitions = np.random.default_rng(5), 2000
    values = random.standard_normal((repetitions, 2, batches))
    found = [[over_batches(list(each), [1] * batches) for each in pair] for pair in values]
    wrong = sum(estimates_apart(*pair) is True for pair in found) / repetitions
    assert 0.01 < wrong <= 0.055
    assert estimates_apart(*(over_batches(list(each[:3]), [1] * 3) for each in values[0])) is None
    assert estimates_apart(quality(1e250, 1e250), quality(0.0, 1e240)) is False
    assert estimates_apart(quality(1.0, 0.0), quality(1.1, 0.0)) is True


def test_memory_is_worse_beyond_two_per_cent() -> None:
    rows = [row("a", [1, 1], peak_rss_mb=440.0), row("b", [1, 1], peak_rss_mb=442.0)]
    assert standings(rows, "peak_rss_mb") == {"a": ALIKE, "b": ALIKE}
    by_kind = [
        row(name, [1, 1], gpu_memory_mb={"usm_host": size, "cl_mem": 10.0})
        for name, size in (("a", 90.0), ("b", 190.0))
    ]
    assert standings(by_kind, "gpu_memory_mb") == {"a": BEST, "b": WORSE}, "all kinds together"
    assert standings([*rows, row("c", [1, 1], peak_rss_mb=500.0)], "peak_rss_mb")["c"] is WORSE


def test_what_is_shown_has_the_ratio_that_is_said() -> None:
    """The computer slows down after six rounds; the slow variant has settled by then."""
    random = np.random.default_rng(0)
    pace = np.r_[np.ones(6), np.full(10, 0.7)]
    slow = list(100 * pace[:6] * np.exp(0.01 * random.standard_normal(6)))
    fast, reference = (list(f * pace * np.exp(0.01 * random.standard_normal(16))) for f in (128, 130))
    rows = [row("fp16", slow), row("plan", fast), row("int8", reference)]
    plain = rows[1]["tokens_per_s"]["mean"] / rows[0]["tokens_per_s"]["mean"]
    assert plain < 1.1, "what the means say"
    full, plan, _ = levelled(rows)
    said = difference(rows[0], rows[1])
    assert said is not None
    shown = plan["tokens_per_s"]["mean"] / full["tokens_per_s"]["mean"]
    assert shown == pytest.approx(said.ratio, rel=0.02)
    assert said.ratio == pytest.approx(1.28, rel=0.03)
    assert rows[0]["tokens_per_s"]["mean"] == pytest.approx(np.mean(slow)), "the file's own are as they were"
    assert {each["variant"]: each["tokens_per_s"]["rounds"] for each in levelled(rows)}["fp16"] == slow


def test_two_files_are_compared_by_the_speeds_that_their_tables_show() -> None:
    """The computer slowed down after FP16 had settled: plainly, FP16 would look as fast as the plan."""
    mine = [row("fp16", [100.0] * 6), row("plan", [130.0] * 6 + [91.0] * 10)]
    yours = [row("fp16", [200.0, 202.0] * 3, session="t"), row("plan", [260.0, 262.0] * 3, session="t")]
    shown = {each["variant"]: each["tokens_per_s"]["mean"] for each in levelled(mine)}
    for match in compare(_file(mine), _file(yours)).matches:
        name = match.first["variant"]
        (change,) = [each for each in match.changes if each.figure == "tokens_per_s"]
        assert change.first == shown[name]
        assert change.ratio == pytest.approx(change.second / change.first, rel=1e-3)
        assert change.low is not None
        assert change.high is not None
        assert change.low < change.ratio < change.high
    assert shown["fp16"] < 85


def test_where_they_beat_each_other_in_a_circle_nobody_is_slower_who_is_faster() -> None:
    rows = [row("a", [100.0] * 4), row("b", [110.0] * 4 + [70.0] * 28), row("c", [90.0] * 4 + [85.0] * 28)]
    assert standings(rows, "tokens_per_s") == {"a": BEST, "b": ALIKE, "c": WORSE}


def test_beside_a_best_what_two_rounds_leave_open_is_alike() -> None:
    """No mark at all would say that it is worse: see what the window's table says of its marks."""
    rows = [row("fp16", [10.0, 18.0]), row("plan", [20.0, 21.0]), row("int4", [16.0, 16.8])]
    assert difference(rows[2], rows[1]).apart, "these two differ by the same factor twice"  # type: ignore[union-attr]
    assert difference(rows[0], rows[1]).apart is None  # type: ignore[union-attr]
    assert standings(rows, "tokens_per_s") == {"plan": BEST, "fp16": ALIKE, "int4": WORSE}


def test_of_two_rounds_that_show_no_difference_nothing_is_said(tmp_path: Path) -> None:
    """At twice the speed, two rounds are "apart" only where they hardly differ from one another."""
    rows = [row("fp16", [10.0, 10.6]), row("plan", [20.0, 19.4])]
    for each in rows:
        each.update(size_bytes=1e6, reason=None, by_context=None, raw=None, model=None, plan_sha256=None)
    assert standings(rows, "tokens_per_s") == {}
    assert [line["speed"] for line in table(rows)] == ["", ""]
    assert [pair["verdict"] for pair in pairs(rows)] == ["not certain"]
    found = outcome(rows)
    assert found is not None
    assert found.pace == "1.9× as fast (2 rounds: not certain)"
    (match,) = compare(_file(rows[:1]), _file([row("fp16", [20.0, 12.0], session="t")])).matches
    assert {change.apart for change in match.changes if change.n} == {None}
    four = [row("fp16", [10.0, 10.6, 10.1, 10.4]), row("plan", [10.2, 10.4, 10.3, 10.0])]
    assert [pair["verdict"] for pair in pairs(four)] == ["within noise"]


def test_a_plan_has_an_outcome_where_fp16_did_not_run() -> None:
    plan = row("plan", [20.0, 19.4], size_bytes=2e9)
    failed = {"variant": "fp16", "device": "CPU", "status": "failed: memory", "size_bytes": 6e9}
    found, alone = outcome([failed, plan]), outcome([plan])
    assert found is not None
    assert found.sentence == "2.00 GB instead of 6.00 GB · 19.7 tokens/s"
    assert alone is not None
    assert alone.sentence == "2.00 GB · 19.7 tokens/s"
    both = [
        row("fp16", [5.0] * 4, device="GPU", size_bytes=6e9),
        row("plan", [9.0] * 4, device="GPU", size_bytes=2e9),
    ]
    beside = outcome([failed, plan, *both])
    assert beside is not None
    assert beside.pace == "1.8× as fast", "a device that ran both goes first"
    assert outcome([failed]) is None


def _file(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {**bench_document([]), "rows": rows}


def test_rows_of_other_sessions_and_devices_are_left_alone() -> None:
    rows = [row("a", [100, 100, 100]), row("a", [50, 50], device="GPU"), row("b", [70, 70], session=None)]
    assert levelled(rows) == rows


def test_the_table_and_the_csv_say_the_same(tmp_path: Path) -> None:
    document = bench_document([])
    slow, fast = [100.0, 101, 99, 100, 100, 101], [150.0, 151, 149, 150, 150, 151]
    made = [row("fp16", slow), row("plan", fast), row("int8", fast)]
    names = ("size_bytes", "reason", "by_context", "raw", "model", "plan_sha256")
    document["rows"] = [{**dict.fromkeys(names), **each} for each in made]
    printed = {line["variant"]: line["speed"] for line in table(document["rows"])}
    assert printed["fp16"] == ""
    assert sorted((printed["plan"], printed["int8"])) == ["fastest", "≈ fastest"]
    export_csv(document, tmp_path / "b.csv")
    with (tmp_path / "b.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = {line["variant"]: line for line in csv.DictReader(file)}
    assert {name: line["speed"] for name, line in lines.items()} == printed
    shown = {each["variant"]: each["tokens_per_s"]["mean"] for each in levelled(document["rows"])}
    assert all(math.isclose(float(lines[name]["tokens_per_s_mean"]), mean) for name, mean in shown.items())
