"""Every job is one typed value: JSON leaves it unharmed, and its defaults are the same wherever made."""

import dataclasses
import functools
import json
import subprocess
import sys
import types
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kl_lens_desktop.bench.jobs import BenchJob, SpeedJob
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.cli import jobs as cli
from kl_lens_desktop.cli.arguments import parser
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.exporting import ExportJob
from kl_lens_desktop.jobs import NAMES, from_line, job_type
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.job import Job, to_line
from kl_lens_desktop.process.record import decode, decode_known, encode
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.jobs import AgreeJob, Analysis, AnalyzeJob, CalibrateJob

PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path)
SIMPLE = {
    str: st.text(st.characters(codec="utf-8")),
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    Path: PATHS,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(st.none() if part is type(None) else values(part) for part in parts)
    if origin is tuple:
        return st.lists(values(parts[0]), max_size=3).map(tuple)
    return records(hint) if dataclasses.is_dataclass(hint) else SIMPLE[hint]


@functools.cache  # one that is made anew is slow to draw from
def records(kind: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_every_job_goes_through_a_line_of_json_unharmed(name: str, data: st.DataObject) -> None:
    job = data.draw(records(job_type(name)))
    line = to_line(job)
    assert "\n" not in line
    read = from_line(line)
    assert read == job
    assert type(read) is type(job)


@pytest.mark.parametrize("name", NAMES)
def test_every_job_is_known_by_its_own_name_and_cannot_be_changed(name: str) -> None:
    kind = job_type(name)
    assert name == kind.NAME
    assert issubclass(kind, Job)
    assert kind.__dataclass_params__.frozen
    for field in dataclasses.fields(kind):
        assert Any not in typing.get_args(field.type)
        assert field.type not in (Any, dict, list)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(data=st.data())
def test_a_name_that_no_job_has_is_refused(name: str, data: st.DataObject) -> None:
    given = data.draw(records(job_type(name))).as_json()
    with pytest.raises(InputError, match="surprise is unknown"):
        job_type(name).from_json({**given, "surprise": 1})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"out": None}, "out is None, not a path"),
        ({"out": ""}, "out is '', not a path"),
        ({"model": 1}, "model is 1, not a text"),
        ({"verify_tokens": 1.0}, r"verify_tokens is 1.0, not a whole number"),
        ({"verify_tokens": True}, "verify_tokens is True, not a whole number"),
        ({"devices": "CPU"}, "devices is 'CPU', not a list"),
        ({"devices": ["CPU", None]}, r"devices\[1\] is None, not a text"),
        ({"analysis": {"bits": float("nan")}}, "analysis.bits is nan, not a number"),
        ({"analysis": {"bits": True}}, "analysis.bits is True, not a number"),
        ({"analysis": {"exhaustive": 1}}, "analysis.exhaustive is 1, not true or false"),
        ({"analysis": {"surprise": 1}}, "analysis.surprise is unknown"),
        ({"analysis": []}, r"analysis is \[\], not an object"),
        ({"benchmark": {"contexts": [[1]]}}, r"benchmark.contexts\[0\] is \[1\], not a whole number"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_name(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        RunJob.from_json({"model": "sample", "out": "out", **changes})


def test_what_a_job_needs_must_be_there() -> None:
    with pytest.raises(InputError, match="out is missing"):
        RunJob.from_json({"model": "sample"})
    with pytest.raises(InputError, match="not an object"):
        RunJob.from_json([])
    assert RunJob.from_json({"model": "sample", "out": "out"}) == RunJob("sample", Path("out"))


@pytest.mark.parametrize("line", ["", "[]", '{"job": "bake", "given": {}}', '{"job": "run"}', '{"job": []}'])
def test_a_line_that_is_no_job_is_refused(line: str) -> None:
    with pytest.raises(InputError, match="the request is damaged"):
        from_line(line)


@dataclass(frozen=True, slots=True)
class _Surprise(SpeedJob):
    surprise: int = 1


def test_a_worker_says_why_it_cannot_read_its_job() -> None:
    with pytest.raises(ChildError, match="surprise is unknown"):
        list(Child(_Surprise(Path("folder"), "CPU", 1, 1)).events())


def test_dictionaries_and_pairs_go_through_json_too() -> None:
    @dataclass(frozen=True)
    class Mixed:
        sizes: dict[str, int] | None
        pair: tuple[int, str]

    mixed = Mixed({"a": 1}, (1, "b"))
    assert decode(Mixed, json.loads(json.dumps(encode(mixed)))) == mixed
    for wrong in ({"sizes": {"a": "1"}, "pair": [1, "b"]}, {"sizes": None, "pair": [1]}):
        with pytest.raises(InputError):
            decode(Mixed, wrong)


# Settings that are kept
# -----------------------------------------------------------------------------------------------------------


def test_settings_of_other_versions_keep_what_is_still_known() -> None:
    earlier = {
        "tokens": 512,
        "text": "",
        "contexts": [64],
        "minutes": 3,
        "devices": ["AUTO:CPU"],
        "raw": "no",
    }
    assert decode_known(Benchmark, earlier) == Benchmark(tokens=512, contexts=(64,))
    for damaged in (None, [], 3, {"tokens": None}, {"tokens": {}}):
        assert decode_known(Benchmark, damaged) == Benchmark()


@given(records(Benchmark))
def test_settings_are_kept_whole(benchmark: Benchmark) -> None:
    assert decode_known(Benchmark, encode(benchmark)) == benchmark


# Defaults
# -----------------------------------------------------------------------------------------------------------


def _asked(make: Any, *line: str) -> Any:
    return make(parser().parse_args(line))


def test_a_command_without_options_is_its_job_with_its_defaults() -> None:
    out, plan, scores = Path("out"), Path("plan.json"), Path("scores.json")
    paths = ("--scores", "scores.json", "--plan", "plan.json", "--out", "out")
    for asked, job in (
        (_asked(cli.analyze_job, "analyze", "m", "--out", "out"), AnalyzeJob("m", out)),
        (_asked(cli.agree_job, "agree", "m", "--scores", "scores.json"), AgreeJob("m", scores)),
        (
            _asked(
                cli.agree_job,
                "agree",
                "m",
                "--scores",
                "scores.json",
                "--formats",
                "nf4_g32,int8_sym",
                "--tokens",
                "512",
            ),
            AgreeJob("m", scores, tokens=512, formats=("nf4_g32", "int8_sym")),
        ),
        (_asked(cli.verify_job, "verify", "m", "--plan", "plan.json"), VerifyJob("m", plan)),
        (_asked(cli.baselines_job, "baselines", "m", *paths), BaselinesJob("m", scores, plan, out)),
        (
            _asked(cli.export_job, "export", "m", "--plan", "plan.json", "--out", "out"),
            ExportJob("m", out, plan),
        ),
        (_asked(cli.bench_job, "bench", "a", "b"), BenchJob((Path("a"), Path("b")), Path("bench.json"))),
        (_asked(cli.run_job, "run", "m", "--out", "out"), RunJob("m", out)),
    ):
        assert asked == job
    repair = _asked(cli.verify_job, "verify", "m", "--plan", "nowhere/plan.json", "--repair").repair
    assert repair == RepairSettings()


def test_options_reach_the_job() -> None:
    line = ("--tokens", "512", "--formats", "int8_sym,nf4_g64", "--seed", "0", "--text", "a.txt", "b.txt")
    job = _asked(cli.analyze_job, "analyze", "m", "--out", "out", *line, "--device", "xpu", "--bits", "4")
    expected = Analysis(
        (Path("a.txt"), Path("b.txt")), tokens=512, formats=("int8_sym", "nf4_g64"), bits=4, device="xpu"
    )
    assert job == AnalyzeJob("m", Path("out"), expected)
    line = ("--contexts", "64", "--minutes", "0.5", "--text", "t.txt", "--devices", "CPU,GPU")
    expected = Benchmark(text=Path("t.txt"), contexts=(64,), speed_minutes=0.5)
    asked = _asked(cli.bench_job, "bench", "a", *line)
    assert asked == BenchJob((Path("a"),), Path("bench.json"), ("CPU", "GPU"), expected)


def test_quick_is_less_of_everything_but_what_was_asked_for() -> None:
    run = _asked(cli.run_job, "run", "m", "--out", "out", "--quick")
    assert run == RunJob("m", Path("out")).quick
    assert run.benchmark == RunJob("m", Path("out")).benchmark.quick
    assert run.analysis.tokens < Analysis().tokens
    assert run.verify_tokens < RunJob("m", Path("out")).verify_tokens
    line = ("--tokens", "512", "--contexts", "64", "--bench-tokens", "700", "--bench-minutes", "1")
    asked = _asked(cli.run_job, "run", "m", "--out", "out", "--quick", *line)
    benchmark = replace(run.benchmark, contexts=(64,), tokens=700, speed_minutes=1)
    assert asked == replace(run, analysis=replace(run.analysis, tokens=512), benchmark=benchmark)
    assert _asked(cli.bench_job, "bench", "a", "--quick").benchmark == Benchmark().quick
    assert _asked(cli.bench_job, "bench", "a", "--quick", "--tokens", "9").benchmark.tokens == 9


HASTY = """
import sys
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.jobs import from_line
from kl_lens_desktop.process.cancel import Cancel
for line in sys.stdin.read().splitlines():
    try:
        list(from_line(line.encode()).run(Cancel()))
        print("done", line)
    except InputError as error:
        assert "there is no such folder" in str(error)
print("loaded", [name for name in ("torch", "transformers", "openvino", "nncf") if name in sys.modules])
"""


def test_a_model_that_is_not_there_is_said_before_libraries_are_loaded(tmp_path: Path) -> None:
    gone, file = str(tmp_path / "gone"), tmp_path / "file.json"
    jobs: list[Job[Any]] = [
        InspectJob(gone),
        AnalyzeJob(gone, file),
        CalibrateJob(gone),
        AgreeJob(gone, file, file),
        VerifyJob(gone, file),
        ExportJob(gone, tmp_path),
        RunJob(gone, tmp_path),
    ]
    given = "\n".join(map(to_line, jobs))
    command = [sys.executable, "-c", HASTY]
    done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout == "loaded []\n", done.stderr
