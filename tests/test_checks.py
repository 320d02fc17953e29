"""What can be refused at once is: with a model that would first have to be fetched, the argument is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.exporting import ExportAllJob, ExportJob
from kl_lens_desktop.jobs import job_type
from kl_lens_desktop.model.devices import check_device
from kl_lens_desktop.plan.document import save_plan
from kl_lens_desktop.plan.jobs import RepairSettings
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import Scores
from kl_lens_desktop.text.bundled import calibration_text, held_out_text, text_sha256

NOVELS = text_sha256(calibration_text())
ROUNDING = {
    "method": "gptq", "text": "novels.txt", "tokens": 640, "window": 64, "skip": 0, "seed": 0,
    "damp": 0.01, "damp_tied": 1.0,
}  # fmt: skip
ELSEWHERE = "nobody/has-pulled-this"
BAD_TEXTS = {
    "missing.txt": "there is no such file",
    "folder": "it is a folder",
    "latin.txt": "it is not UTF-8 text",
    "empty.txt": "it is empty",
    "blank.txt": "it is empty",
}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of texts that cannot be used."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def plan(sample_scores: Scores, tmp_path: Path) -> Path:
    save_plan(tmp_path / "plan.json", propose(sample_scores, bits=5))
    return tmp_path / "plan.json"


def refused(name: str, **given: Any) -> str:
    """Why a job of that name refuses what it is given before it fetches the model."""
    with pytest.raises(InputError) as found:
        list(perform(job_type(name)(model=ELSEWHERE, **given), Cancel()))
    return str(found.value)


def analysis(**given: Any) -> dict[str, Analysis]:
    return {"analysis": Analysis(**given)}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_texts_that_cannot_be_read_are_refused_by_every_stage(
    name: str, bad: Path, plan: Path, sample_scores_path: Path
) -> None:
    text, out, scores = bad / name, bad / "out", sample_scores_path
    for job, given in (
        ("analyze", {"out": bad / "s.json", **analysis(text=(held_out_text(), text))}),
        ("run", {"out": out, **analysis(text=(text,))}),
        ("run", {"out": out, "benchmark": Benchmark(text=text)}),
        ("verify", {"plan": plan, "text": text}),
        ("verify", {"plan": plan, "repair": RepairSettings(text=text)}),
        ("baselines", {"plan": plan, "scores": scores, "out": out, "text": text}),
        ("agree", {"scores": scores, "text": text}),
    ):
        said = refused(job, **given)
        assert BAD_TEXTS[name] in said
        assert str(text) in said


@pytest.mark.parametrize(
    ("job", "given", "why"),
    [
        ("analyze", analysis(device="cuda:99"), "torch finds no such device"),
        ("analyze", analysis(device="tpu"), "torch finds no such device"),
        ("analyze", analysis(formats=("fp16",)), "FP16 is full precision"),
        ("analyze", analysis(formats=("int5",)), "Unknown format 'int5'"),
        ("analyze", analysis(tokens=300), "error bars need two windows"),
        (
            "analyze",
            analysis(text=(held_out_text(),) * 40, window=128),
            "each text needs at least one window of 128",
        ),
        ("run", analysis(bits=1.0), "the smallest format takes 2 bits"),
        ("run", {"devices": ("TPU",)}, "'TPU' is not one of CPU"),
        ("run", {"benchmark": Benchmark(combinations=("AUTO:TPU",))}, "'TPU' is not one of CPU"),
        ("run", {"benchmark": Benchmark(new_tokens=1)}, "new_tokens is less than 2"),
        ("run", {"analysis": Analysis(window=2048).quick}, "error bars need two windows"),
        ("run", analysis(formats=("int5",)), "Unknown format 'int5'"),
        ("export", {"format": "int5"}, "Unknown format 'int5'"),
        ("export", {"plan": Path("nowhere.json")}, "there is no such file"),
    ],
)
def test_arguments_are_refused_before_a_model_is_fetched(
    job: str, given: dict[str, Any], why: str, tmp_path: Path
) -> None:
    assert why in refused(job, out=tmp_path / "out", **given)


def test_one_export_that_cannot_be_refuses_all(tmp_path: Path) -> None:
    variants = (
        ExportJob(ELSEWHERE, tmp_path / "a", format="int8_sym"),
        ExportJob(ELSEWHERE, tmp_path / "b", format="int5"),
    )
    with pytest.raises(InputError, match="Unknown format 'int5'"):
        ExportAllJob(variants).check()


def test_files_that_do_not_go_together_are_refused(
    plan: Path, sample_scores: Scores, sample_scores_path: Path, tmp_path: Path
) -> None:
    other, scores, out = tmp_path / "other.json", sample_scores_path, tmp_path / "out"
    made = propose(sample_scores, bits=5)
    save_plan(other, replace(made, model=replace(made.model, sha256="0" * 64)))
    assert "is for another model" in refused("baselines", out=out, plan=other, scores=scores)
    assert "is for another model" in refused("verify", plan=other, repair=RepairSettings(scores=scores))
    assert "Unknown baselines 'magic'" in refused(
        "baselines", out=out, plan=plan, scores=scores, only=("magic",)
    )
    assert "the result is measured on that text" in refused(
        "verify", plan=plan, repair=RepairSettings(text=held_out_text())
    )
    for job, given in (("verify", {}), ("baselines", {"scores": scores, "out": out})):
        seen = refused(job, plan=plan, text=calibration_text(), **given)
        assert "the sensitivities were measured on that text" in seen
    one_of_two = {**made.provenance, "scored_sha256": "0" * 64, "scored_files": f"{'1' * 16} {NOVELS[:16]}"}
    fitted = {**ROUNDING, "sha256": NOVELS}
    rounded = dict.fromkeys(list(made.assignments)[:1], "gptq")
    for changed, why in (
        (replace(made, provenance=one_of_two), "the sensitivities were measured on that text"),
        (
            replace(made, provenance={}, roundings=rounded, rounding=fitted),
            "the integers were fitted to that text",
        ),
    ):
        save_plan(tmp_path / "seen.json", changed)
        for job, given in (("verify", {}), ("baselines", {"scores": scores, "out": out})):
            assert why in refused(job, plan=tmp_path / "seen.json", text=calibration_text(), **given)
    assert "sensitivities were measured on that text" in refused(
        "agree", scores=scores, text=calibration_text()
    )
    assert "four windows of 256" in refused("verify", plan=plan, repair=RepairSettings(tokens=1023))
    assert "not a KL Lens scores file" in refused("analyze", out=plan)
    assert "contains something else" in refused("agree", scores=scores, out=plan)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").touch()
    assert "it contains other files" in refused("export", format="int8_sym", out=taken)
    (taken / "bench.json").write_text("{}", encoding="utf-8")
    assert "contains something else" in refused("run", out=taken)


def test_the_processor_is_there_without_a_number_or_with_the_first() -> None:
    for name in ("cpu", "cpu:0"):
        check_device(name)
    for name in ("cpu:1", "cpu:", "cpu:x", ""):
        with pytest.raises(InputError, match="torch finds no such device"):
            check_device(name)
