"""What can be refused at once is: with a model that would first have to be fetched, the argument is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.model.devices import check_device
from kl_lens_desktop.plan.document import save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity.scores import Scores
from kl_lens_desktop.tasks import TASKS
from kl_lens_desktop.text.bundled import held_out_text

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


def refused(task: str, **params: Any) -> str:
    """Why a task refuses its parameters before it fetches the model."""
    with pytest.raises(InputError) as found:
        list(TASKS[task]({"model": ELSEWHERE, **params}, Cancel()))
    return str(found.value)


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_texts_that_cannot_be_read_are_refused_by_every_stage(
    name: str, bad: Path, plan: Path, sample_scores_path: Path
) -> None:
    text, out, scores = str(bad / name), str(bad / "out"), str(sample_scores_path)
    for task, params in {
        "analyze": {"out": str(bad / "s.json"), "text": [str(held_out_text()), text]},
        "run": {"out": out, "text": [text]},
        "verify": {"plan": str(plan), "text": text},
        "baselines": {"plan": str(plan), "scores": scores, "out": out, "text": text},
        "agree": {"scores": scores, "text": text},
    }.items():
        said = refused(task, **params)
        assert BAD_TEXTS[name] in said
        assert text in said
    repair = {"repair": True, "repair_text": text}
    assert BAD_TEXTS[name] in refused("verify", plan=str(plan), **repair)


@pytest.mark.parametrize(
    ("task", "params", "why"),
    [
        ("analyze", {"device": "cuda:99"}, "torch finds no such device"),
        ("analyze", {"device": "tpu"}, "torch finds no such device"),
        ("analyze", {"formats": ["fp16"]}, "FP16 is full precision"),
        ("analyze", {"formats": ["int5"]}, "Unknown format 'int5'"),
        ("analyze", {"tokens": 300}, "error bars need two windows"),
        (
            "analyze",
            {"text": [str(held_out_text())] * 40, "window": 128},
            "each text needs at least one window of 128",
        ),
        ("run", {"bits": 1.0}, "the smallest format takes 4 bits"),
        ("run", {"devices": ["TPU"]}, "'TPU' is not one of CPU"),
        ("run", {"window": 2048, "quick": True}, "error bars need two windows"),
        ("run", {"formats": ["int5"]}, "Unknown format 'int5'"),
        ("export", {"format": "int5"}, "Unknown format 'int5'"),
        ("export", {"plan": "nowhere.json"}, "there is no such file"),
        ("export-all", {"variants": {"a": {"format": "int5", "out": "a"}}}, "Unknown format 'int5'"),
    ],
)
def test_arguments_are_refused_before_a_model_is_fetched(
    task: str, params: dict[str, Any], why: str, tmp_path: Path
) -> None:
    assert why in refused(task, out=str(tmp_path / "out"), **params)


def test_files_that_do_not_go_together_are_refused(
    plan: Path, sample_scores: Scores, sample_scores_path: Path, tmp_path: Path
) -> None:
    other, scores, out = tmp_path / "other.json", str(sample_scores_path), str(tmp_path / "out")
    made = propose(sample_scores, bits=5)
    save_plan(other, replace(made, model=replace(made.model, sha256="0" * 64)))
    wishes = {"plan": str(other), "scores": scores}
    assert "is for another model" in refused("baselines", out=out, **wishes)
    assert "is for another model" in refused("verify", repair=True, **wishes)
    assert "Unknown baselines 'magic'" in refused(
        "baselines", out=out, plan=str(plan), scores=scores, only=["magic"]
    )
    assert "the result is measured on that text" in refused(
        "verify", plan=str(plan), repair=True, repair_text=str(held_out_text())
    )
    assert "four windows of 256" in refused("verify", plan=str(plan), repair=True, repair_tokens=1023)
    assert "not a KL Lens scores file" in refused("analyze", out=str(plan))
    assert "contains something else" in refused("agree", scores=scores, out=str(plan))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").touch()
    assert "it contains other files" in refused("export", format="int8_sym", out=str(taken))
    (taken / "bench.json").write_text("{}", encoding="utf-8")
    assert "contains something else" in refused("run", out=str(taken))


def test_the_processor_is_there_without_a_number_or_with_the_first() -> None:
    for name in ("cpu", "cpu:0"):
        check_device(name)
    for name in ("cpu:1", "cpu:", "cpu:x", ""):
        with pytest.raises(InputError, match="torch finds no such device"):
            check_device(name)
