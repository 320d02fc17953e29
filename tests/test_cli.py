"""The command line as a person meets it: output, status, one sentence for a failure."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop import run as run_module
from kl_lens_desktop.bench.report import load_bench
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.cli.arguments import SHELLS, parser
from kl_lens_desktop.cli.commands import held_lines, run
from kl_lens_desktop.cli.jobs import bench_job
from kl_lens_desktop.export.bundle import replacing
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Measured, Note
from kl_lens_desktop.process.job import Job, perform
from kl_lens_desktop.run import RunJob, is_exported
from kl_lens_desktop.sensitivity.labels import with_unit
from kl_lens_desktop.sensitivity.scores import Held, Scores, load_scores
from tests.models import build_folder

COMMANDS = [
    "app", "pull", "inspect", "analyze", "agree", "plan", "verify", "baselines", "export", "bench", "run",
    "share", "receive",
]  # fmt: skip


def kl_lens(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has torch and OpenVINO loaded."""
    argv, said, complained = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            returned = run(argv, carry=perform)
        except SystemExit as ended:  # argparse, after --help or a usage error
            returned = int(ended.code or 0)
    result = subprocess.CompletedProcess(argv, returned, said.getvalue(), complained.getvalue())
    assert result.returncode == status, result.stderr
    return result


def started(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell starts it."""
    command = [sys.executable, "-m", "kl_lens_desktop", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert result.returncode == status, result.stderr
    return result


def fails(*arguments: object) -> str:
    """The one sentence of a command that must fail."""
    result = kl_lens(*arguments, status=1)
    lines = [line for line in result.stderr.splitlines() if line.startswith("kl-lens: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return lines[0]


def test_a_process_gives_what_a_shell_reads(tmp_path: Path) -> None:
    assert json.loads(started("inspect", "sample", "--json").stdout)["model"]["id"] == "sample"
    assert "usage: kl-lens" in started("--help").stdout
    assert "--help" in started("nonsense", status=2).stderr
    failed = started("inspect", tmp_path, status=1)
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[-1].startswith("kl-lens: ")
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str) -> None:
    assert f"kl-lens {command}" in kl_lens(command, "--help").stdout.split("examples:")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["analyze"],
        ["plan", "s.json", "--out", "p", "--bits", "nan"],
        ["plan", "s.json", "--bits", "4"],
        ["plan", "--diff", "a.json"],
        ["plan", "--diff", "a.json", "b.json", "--bits", "4"],
        ["plan", "s.json", "--diff", "a.json", "b.json"],
        ["plan", "--diff", "a.json", "b.json", "--fused"],
        ["bench", "folder", "--compare", "a.json", "b.json"],
        *(
            ["bench", "--compare", "a.json", "b.json", option, value]
            for option, value in (
                ("--devices", "CPU"),
                ("--text", "t.txt"),
                ("--tokens", "512"),
                ("--out", "c"),
            )
        ),
        ["verify", "sample", "--plan", "p", "--minutes", "10"],
        ["verify", "sample", "--plan", "p", "--refine", "--scores", "s.json"],
        ["verify", "sample", "--plan", "p", "--repair", "--refine-text", "t.txt"],
        ["plan", "s.json", "--out", "p", "--bits", "4", "--pin", "a.weight"],
        ["plan", "s.json", "--out", "p", "--bits", "4", "--device", "TPU"],
        ["plan", "s.json", "--out", "p"],
        ["plan", "s.json", "--out", "p", "--bits", "4", "--fastest"],
    ],
)
def test_usage_errors_are_status_2(arguments: list[str]) -> None:
    assert "--help" in kl_lens(*arguments, status=2).stderr


def test_all_budgets_are_named_where_there_is_none() -> None:
    said = kl_lens("plan", "s.json", "--out", "p", status=2).stderr
    assert "--size-mb, --bits, --max-kl, --max-perplexity-increase, --min-tokens-per-s or --memory-mb" in said


def test_a_reader_of_the_completion_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("kl_lens_desktop.cli.arguments.print_script", gone)
    assert kl_lens("--print-completion", "bash", status=1).stderr == ""


def test_a_job_that_measured_nothing_is_a_failure_and_json_stays_json(tmp_path: Path) -> None:
    failed = {"variant": "plan", "device": "GPU", "status": "unavailable"}

    def carry(job: Job[Any], _: Cancel) -> Iterator[Event]:
        yield Measured(failed)
        yield Finished({"scores": "s", "plan": "p", "bench": "b", "folders": {}, "path": "b", "rows": 1})

    for command in (("run", "sample", "--out", tmp_path), ("bench", tmp_path, "--out", tmp_path / "b.json")):
        said, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            assert run([*map(str, command), "--json"], carry) == 1
        assert json.loads(said.getvalue())["rows"] == [failed]
        assert "Cannot measure anything: every row failed" in complained.getvalue()


def test_a_folder_of_exported_models_stands_for_them(tmp_path: Path) -> None:
    for name in ("plan", "fp16"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / MODEL_XML).touch()
    (tmp_path / "out" / "scores.json").touch()
    fp16, plan = tmp_path / "out" / "fp16", tmp_path / "out" / "plan"

    def folders(*given: Path) -> tuple[Path, ...]:
        return bench_job(parser().parse_args(["bench", *map(str, given)])).folders

    assert folders(tmp_path / "out") == (fp16, plan)
    assert folders(plan, tmp_path / "out") == (plan, fp16)
    assert folders(tmp_path, tmp_path / "none") == (tmp_path, tmp_path / "none")


def test_a_model_that_is_here_is_checked_without_the_hub() -> None:
    said = kl_lens("pull", "sample", "--check").stdout
    assert "is on this computer" in said
    found = json.loads(kl_lens("pull", "sample", "--check", "--json").stdout)
    assert found["id"] == "sample"
    assert [each["stage"] for each in found["stages"]] == [
        "analyze", "verify", "export", "bench", "bench-fp16",
    ]  # fmt: skip
    assert all(each["stage"] in said and each["ram_bytes"] > 0 for each in found["stages"])
    assert json.loads(kl_lens("pull", "sample", "--json").stdout)["folder"] == found["folder"]


def test_inspect_as_json() -> None:
    value = json.loads(kl_lens("inspect", "sample", "--json").stdout)
    assert set(value) == {"model", "weights"}
    assert set(value["weights"][0]) == {"name", "kind", "block", "shape", "parameters", "uses"}
    assert "embed_tokens" in kl_lens("inspect", "sample").stdout


@pytest.fixture
def copy(sample: LocalModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample.folder, tmp_path / "copy"))


def test_failures_are_one_sentence(copy: Path, sample_scores: Scores, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "incomplete or damaged" in fails("run", copy, "--out", out)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it is empty" in fails("run", empty, "--out", out)

    short = tmp_path / "short.txt"
    short.write_text("Too short.", encoding="utf-8")
    assert "one window needs 256" in fails("analyze", "sample", "--out", tmp_path / "s.json", "--text", short)

    assert "a part of its path is a file" in fails("run", "sample", "--out", short / "out")
    assert "'TYPO' is not one of CPU" in fails("run", "sample", "--out", out, "--devices", "CPU,TYPO")
    assert not (out / "scores.json").exists()

    plan = propose(sample_scores, bits=5)
    save_plan(tmp_path / "plan.json", plan)
    other = build_folder("bamba", tmp_path / "bamba")
    assert "is for another model" in fails(
        "export", other, "--plan", tmp_path / "plan.json", "--out", tmp_path / "ir"
    )
    assert "there is no such folder" in fails("inspect", "./nowhere")
    assert "it is a file, not a folder" in fails("inspect", short)
    assert "is not a KL Lens plan file" in fails(
        "export", "sample", "--plan", copy / "config.json", "--out", tmp_path / "ir"
    )
    assert not (tmp_path / "ir").exists()
    assert not (tmp_path / "s.json").exists()


def test_what_can_be_refused_at_once_is(
    copy: Path, sample_scores_path: Path, short_ir: dict[str, Path], tmp_path: Path
) -> None:
    scores, before = tmp_path / "s.json", sample_scores_path.read_bytes()
    scores.write_bytes(before)
    for command in (
        ("plan", sample_scores_path, "--bits", "5"),
        ("bench", short_ir["int4"]),
        ("agree", "sample", "--scores", sample_scores_path),
    ):
        assert "it contains something else" in fails(*command, "--out", scores)
    assert scores.read_bytes() == before
    out = tmp_path / "out"
    assert "FP16 is full precision" in fails(
        "analyze", "sample", "--out", tmp_path / "fp16.json", "--formats", "fp16"
    )
    assert "the smallest format takes 2 bits" in fails("run", "sample", "--out", out, "--bits", "0.5")
    assert "'CPUX' is not one of" in fails("run", "sample", "--out", out, "--devices", "CPUX")
    assert list(out.iterdir()) == []
    few = ("--bench-tokens", "100", "--formats", "int4_sym_g64")
    assert "100 tokens in windows of 256 leave nothing" in fails("run", "sample", "--out", out, *few)
    (out / "fp16").mkdir()
    (out / "fp16" / "notes.txt").touch()
    assert "fp16: it contains other files" in fails("run", "sample", "--out", out)
    assert not (out / "scores.json").exists()
    shutil.rmtree(out / "fp16")
    assert "it is an exported OpenVINO model" in fails("inspect", short_ir["int4"])
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    for changes, words in (
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
        ({"model_type": None}, "names no architecture"),
        ({"mamba_n_heads": 3}, "Download the model again"),
    ):
        (copy / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
        assert words in fails("inspect", copy)


def test_a_folder_one_may_not_write(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):  # the superuser may write anywhere but here
        locked = Path("/proc/self/task")
    try:
        assert "Cannot write" in fails("run", "sample", "--out", locked / "out")
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_step_by_step(sample_scores_path: Path, tmp_path: Path) -> None:
    """Plan, verify, export and bench, each from the file of the one before."""
    plan = tmp_path / "plan.json"
    said = kl_lens("plan", sample_scores_path, "--out", plan, "--bits", "5").stdout
    assert "bits per weight, predicted KL" in said
    measured = json.loads(kl_lens("verify", "sample", "--plan", plan, "--tokens", "1024", "--json").stdout)
    assert load_plan(plan).measured == measured
    said = kl_lens("verify", "sample", "--plan", plan, "--tokens", "512").stdout
    assert all(with_unit(name) in said for name in measured if name != "text")
    assert "KL full‖quantized, nats per token" in said
    assert 0 < measured["kl_pq"]["mean"] < 0.05
    assert measured["perplexity"]["mean"] > measured["perplexity_full"]["mean"] - measured["perplexity"]["se"]
    finer = tmp_path / "finer.json"
    limits = ("--limit", "ssm>=8", "--pin", "model.embed_tokens.weight=int8_sym", "--fused")
    kl_lens("plan", sample_scores_path, "--out", finer, "--max-perplexity-increase", "0.4", *limits)
    formats = load_plan(finer).assignments
    assert {name for weight, name in formats.items() if "mamba" in weight} <= {"int8_sym", "fp16"}
    pinned = ("--pin", "model.embed_tokens.weight=int4_sym_g64", "--max-kl", "1e-6", "--method", "mse")
    told = kl_lens("plan", sample_scores_path, "--out", tmp_path / "pinned.json", *pinned).stderr
    assert "No plan keeps a KL of 1e-06" in told
    said = kl_lens("plan", "--diff", plan, finer).stdout
    assert "of 37 weights differ" in said
    assert json.loads(kl_lens("plan", "--diff", plan, finer, "--json").stdout)["changes"]
    folder = tmp_path / "ir"
    assert "audited: " in kl_lens("export", "sample", "--plan", plan, "--out", folder).stdout
    assert load_plan(folder / "plan.json") == load_plan(plan)


def test_baselines_are_plans_like_any_other(sample_scores_path: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "baselines"
    kl_lens("plan", sample_scores_path, "--out", plan, "--bits", "5")
    same = ("--scores", sample_scores_path, "--plan", plan, "--out", out, "--tokens", "512", "--json")
    rows = json.loads(kl_lens("baselines", "sample", *same, "--only", "metrics,uniform").stdout)
    assert [row["mean"] for row in rows] == sorted(row["mean"] for row in rows)
    assert {"sqnr", "mse", "delta-ce", "uniform-int4_sym_g128"} <= {row["plan"] for row in rows}
    for row in rows:
        made = load_plan(out / f"{row['plan']}.json")
        assert made.predicted["bytes"] == row["bytes"]
        assert made.measured is not None


def test_a_plan_of_another_revision_is_exported_only_by_consent(
    sample_scores: Scores, tmp_path: Path
) -> None:
    plan = propose(sample_scores, bits=5)
    earlier = replace(plan, model=replace(plan.model, revision="abc", sha256="0" * 64))
    save_plan(tmp_path / "plan.json", earlier)
    arguments = ("export", "sample", "--plan", tmp_path / "plan.json", "--out", tmp_path / "ir")
    assert "apply it with --other-revision" in fails(*arguments)
    kl_lens(*arguments, "--other-revision")
    exported = load_plan(tmp_path / "ir" / "plan.json")
    assert (exported.model, exported.assignments) == (plan.model, plan.assignments)


def _check_run(model: str | Path, out: Path, *flags: str) -> dict[str, Any]:
    arguments = ("run", model, "--out", out, "--tokens", "512", "--quick", "--json", *flags)
    result = json.loads(started(*arguments).stdout)
    assert set(result["folders"]) == {"fp16", "int8_sym", "int4_sym_g64", "plan"}
    rows = {row["variant"]: row for row in result["rows"] if row["device"] == "CPU"}
    assert {row["status"] for row in rows.values()} == {"ok"}
    sizes = [rows[name]["size_bytes"] for name in ("int4_sym_g64", "plan", "int8_sym", "fp16")]
    assert sizes == sorted(sizes)
    assert all(row["tokens_per_s"]["mean"] > 0 and row["perplexity"]["mean"] > 1 for row in rows.values())
    for row in result["rows"]:
        if row["device"] in ("GPU", "NPU"):
            assert row["status"] in ("ok", "unavailable")
    return rows


def test_run_on_another_architecture(tmp_path: Path) -> None:
    flags = (
        "--exhaustive",
        "--seed",
        "3",
        "--window",
        "64",
        "--formats",
        "int3_sym_g64,int4_sym_g64,int8_sym",
    )
    flags += ("--contexts", "16", "--bench-tokens", "600", "--bench-minutes", "0.05")
    model, out = build_folder("lfm2", tmp_path / "lfm2"), tmp_path / "out"
    _check_run(model, out, *flags)
    scores = load_scores(out / "scores.json")
    assert (scores.settings["seed"], scores.settings["racing"], scores.text["window"]) == (3, None, 64)
    measured = load_bench(out / "bench.json")["environment"]["settings"]
    assert (measured["contexts"], measured["tokens"], measured["speed_minutes"]) == ([16], 600, 0.05)
    assert measured["max_rounds"] == Benchmark().quick.max_rounds
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/openvino_model.bin")}
    sessions = _sessions(out)
    again = started("run", model, "--out", out, "--tokens", "512", "--quick", *flags)
    assert load_scores(out / "scores.json") == scores
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "Repeating the benchmark" in again.stderr
    assert not sessions & _sessions(out)


def _sessions(out: Path) -> set[str]:
    return {row["session"] for row in load_bench(out / "bench.json")["rows"] if row["status"] == "ok"}


def test_what_was_exported_whole_is_not_exported_again(short_ir: dict[str, Path], tmp_path: Path) -> None:
    plans = {name: load_plan(folder / "plan.json") for name, folder in short_ir.items()}
    assert is_exported(short_ir["int4"], plans["int4"])
    assert not is_exported(short_ir["int4"], plans["fp16"])
    assert not is_exported(tmp_path, plans["int4"])


def test_an_export_in_the_place_of_another_plans_is_said(short_ir: dict[str, Path]) -> None:
    plans = {name: load_plan(folder / "plan.json") for name, folder in short_ir.items()}
    (said,) = replacing(short_ir["fp16"], plans["int4"])
    assert said.text == "fp16 holds the export of another plan, which this one replaces"
    assert not [
        *replacing(short_ir["fp16"], plans["fp16"]),
        *replacing(short_ir["fp16"] / "new", plans["fp16"]),
    ]


def test_a_plan_made_by_hand_is_kept_when_a_whole_job_makes_its_own(
    sample_scores_path: Path, sample_scores: Scores, tmp_path: Path
) -> None:
    path, job = tmp_path / "plan.json", RunJob("sample", tmp_path)
    pins = {"model.embed_tokens.weight": "int4_sym_g64"}
    by_hand = propose(sample_scores, bits=5, constraints=Constraints(pins=pins))
    save_plan(path, by_hand)
    path.with_suffix(".safetensors").write_bytes(b"its integers")

    def notes() -> list[str]:
        events = run_module._planned(sample_scores, sample_scores_path, path, job, Constraints(), [])
        return [event.text for event in events if isinstance(event, Note)]

    (said,) = notes()
    assert "kept as plan-before.json" in said
    assert load_plan(path.with_stem("plan-before")) == by_hand
    assert path.with_name("plan-before.safetensors").read_bytes() == b"its integers"
    assert load_plan(path).assignments == propose(sample_scores, bits=5).assignments
    assert notes() == [], "its own plan is no other one"
    assert load_plan(path.with_stem("plan-before")) == by_hand


def test_the_command_line_starts_without_what_takes_long_to_load() -> None:
    """Scipy's arithmetic besides never returns where a process may take 150 MB, so no word would be said."""
    heavy = ("torch", "transformers", "openvino", "nncf", "scipy.special")
    code = f"import sys, kl_lens_desktop.cli.arguments; print([n for n in {heavy!r} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_completions(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--print-completion", shell])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "analyze" in said
    assert "verify-files" in said


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_takes_its_completions_and_completes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--print-completion", "bash"])
    script = capsys.readouterr().out + (
        '\nCOMP_WORDS=(kl-lens ana); COMP_CWORD=1; _shtab_kl_lens; echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["analyze"], done.stderr


def test_one_pair_has_no_spread() -> None:
    lines = held_lines({"int8_sym": Held(1.1, 0.0, 1), "int2_sym_g64": Held(0.9, 0.35, 3)})
    assert [line[2] for line in lines] == ["–", "35%"]
