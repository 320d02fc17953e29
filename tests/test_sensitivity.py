"""The scores are what a dozen lines of plain torch say, and nothing measured is lost or measured twice."""

import math
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from kl_lens_desktop.errors import Cancelled, InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.events import Note, Progress, Scored, Weights
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.agreement import agree, agreement
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.scores import Scores, load_scores, save_scores
from kl_lens_desktop.texts import calibration_text
from tests.models import CONFIGURATIONS, build_folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A random hybrid of four blocks, for what does not depend on trained weights."""
    return LocalModel("small", build_folder("granitemoehybrid", tmp_path_factory.mktemp("small") / "model"))


def _run(local: LocalModel, out: Path, cancel: Cancel | None = None, **options: object) -> list[object]:
    return list(analyze(local, out, [calibration_text()], cancel or Cancel(), **options))  # type: ignore[arg-type]


def _plainly(folder: Path, weight: str, name: str, tokens: int, window: int) -> dict[str, float]:
    """Every metric from two full forwards of the stock model, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = calibration_text().read_bytes().decode("utf-8")
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"][:tokens]
    ids = torch.tensor(ids).view(-1, window)
    with torch.no_grad():
        z = model(ids).logits.double()
        parameter = model.get_parameter(weight)
        parameter.copy_(fake_quantize(parameter, parse_format(name)))
        y = model(ids).logits.double()
    log_p, log_q = z.log_softmax(-1), y.log_softmax(-1)
    target = ids[:, 1:, None]
    ce_p, ce_q = (-log[:, :-1].gather(-1, target).mean() for log in (log_p, log_q))
    return {
        "kl_pq": F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean().item(),
        "kl_qp": F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1).mean().item(),
        "mse": (z - y).square().mean().item(),
        "sqnr_db": 10 * math.log10(z.square().mean() / (z - y).square().mean()),
        "delta_ce": (ce_q - ce_p).item(),
        "top1_agreement": (z.argmax(-1) == y.argmax(-1)).double().mean().item(),
    }


def test_five_random_entries_against_plain_torch(sample: LocalModel, sample_scores: Scores) -> None:
    for entry in random.Random(4).sample(sample_scores.entries, 5):
        plain = _plainly(sample.folder, entry.weight, entry.format, 512, 128)
        assert entry.kl_pq.mean == pytest.approx(plain["kl_pq"], rel=0.01, abs=1e-8)
        assert abs(entry.kl_pq.mean - plain["kl_pq"]) < 1e-5
        assert entry.kl_qp.mean == pytest.approx(plain["kl_qp"], rel=0.01, abs=1e-8)
        assert entry.mse.mean == pytest.approx(plain["mse"], rel=0.01)
        assert entry.sqnr_db.mean == pytest.approx(plain["sqnr_db"], abs=0.05)
        assert entry.delta_ce.mean == pytest.approx(plain["delta_ce"], abs=1e-5)
        assert entry.top1_agreement.mean == pytest.approx(plain["top1_agreement"], abs=2 / 512)
        assert entry.kl_pq.n == 512


@pytest.mark.parametrize("family", [name for name in CONFIGURATIONS if name != "granitemoehybrid"])
def test_every_entry_of_other_families_against_plain_torch(family: str, tmp_path: Path) -> None:
    folder = build_folder(family, tmp_path / family)
    _run(
        LocalModel(family, folder), tmp_path / "scores.json", tokens=128, window=64, formats=["int4_sym_g64"]
    )
    scores = load_scores(tmp_path / "scores.json")
    assert len(scores.entries) == len([weight for weight in scores.weights if weight["kind"] != "conv"])
    for entry in random.Random(5).sample(scores.entries, 3):
        plain = _plainly(folder, entry.weight, entry.format, 128, 64)
        assert abs(entry.kl_pq.mean - plain["kl_pq"]) < 1e-5, entry.weight
        assert abs(entry.kl_qp.mean - plain["kl_qp"]) < 1e-5, entry.weight


def test_standard_errors_are_of_window_means(small: LocalModel, tmp_path: Path) -> None:
    """Four times the text must halve the error bars, roughly; naive per-token errors would be far smaller."""
    few, many = tmp_path / "few.json", tmp_path / "many.json"
    for path, tokens in ((few, 256), (many, 1024)):
        _run(small, path, tokens=tokens, window=32, formats=["int4_sym_g64"])
    ratios = [
        a.kl_pq.se / b.kl_pq.se
        for a, b in zip(load_scores(few).entries, load_scores(many).entries, strict=True)
    ]
    assert 1.4 < sorted(ratios)[len(ratios) // 2] < 2.9


def test_events_come_in_order(small: LocalModel, tmp_path: Path) -> None:
    events = _run(small, tmp_path / "scores.json", tokens=256, window=128, formats=["int8_sym"])
    kinds = [type(event) for event in events]
    assert kinds.index(Weights) < kinds.index(Scored)
    scored = [event.entry for event in events if isinstance(event, Scored)]
    assert scored == [asdict(entry) for entry in load_scores(tmp_path / "scores.json").entries]
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].done == progress[-1].total == len(scored)
    assert progress[-1].eta_s == pytest.approx(0, abs=1e-6)


def test_more_formats_extend_the_file(small: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    _run(small, out, tokens=256, window=128, formats=["int8_sym"])
    first = load_scores(out).entries
    _run(small, out, tokens=256, window=128, formats=["int8_sym", "int4_asym_g128"])
    both = load_scores(out).entries
    assert both[: len(first)] == first
    assert len(both) == 2 * len(first)


def test_cancel_keeps_what_was_measured_and_resuming_gives_the_same_bits(
    small: LocalModel, tmp_path: Path
) -> None:
    whole, parted = tmp_path / "whole.json", tmp_path / "parted.json"
    options = {"tokens": 256, "window": 128, "formats": ["int4_sym_g64"]}
    _run(small, whole, **options)
    cancel, seen = Cancel(), 0
    with pytest.raises(Cancelled):
        for event in analyze(small, parted, [calibration_text()], cancel, **options):  # type: ignore[arg-type]
            seen += isinstance(event, Scored)
            if seen == 7:
                cancel.cancel()
    assert len(load_scores(parted).entries) == 7
    _run(small, parted, **options)
    assert load_scores(parted).entries == load_scores(whole).entries


def test_killed_and_run_again_measures_at_most_one_weight_twice(tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    command = [sys.executable, "-m", "kl_lens_desktop", "analyze", "sample", "--out", str(out), "--json"]
    command += ["--tokens", "512", "--formats", "int4_sym_g64"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out.exists() and len(load_scores(out).entries) >= 5):
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = load_scores(out).entries
    assert 5 <= len(before) < 37
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    after = load_scores(out).entries
    assert after[: len(before)] == before, "what the file held was not measured again"
    assert len(after) == 37
    assert '"kl-lens/scores/1"' in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"], "no half file is left"


def test_scores_measured_otherwise_are_not_continued(small: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    _run(small, out, tokens=256, window=128, formats=["int8_sym"])
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"measured otherwise: text tokens 256 against 512"):
        _run(small, out, tokens=512, window=128)
    assert out.read_bytes() == before


def test_a_text_shorter_than_a_window(sample: LocalModel, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Call me.", encoding="utf-8")
    with pytest.raises(InputError, match=r"has \d+ tokens and one window takes 256"):
        list(analyze(sample, tmp_path / "scores.json", [short], Cancel()))


def test_a_weight_that_is_not_finite_stays_fp16(sample: LocalModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(sample.folder, tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.7.self_attn.q_proj.weight"
    tensors[name][0, 0] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    events = _run(
        LocalModel("broken", folder), tmp_path / "s.json", tokens=256, window=128, formats=["int8_sym"]
    )
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(name in note and "stays FP16" in note for note in notes)


def test_agreement_is_scipys_and_perplexity_is_plain(
    sample: LocalModel, sample_scores_path: Path, tmp_path: Path
) -> None:
    scores = load_scores(sample_scores_path)
    chosen = [entry for entry in scores.entries if entry.block in (0, 7) and entry.format == "int4_sym_g64"]
    part = tmp_path / "part.json"
    save_scores(part, Scores(scores.model, scores.text, scores.weights, scores.kept_bytes, entries=chosen))
    result = list(
        agree(
            sample, part, tmp_path / "agree.json", Cancel(), text=calibration_text(), tokens=512, window=128
        )
    )
    points = result[-1].result["points"]
    assert len(points) == len(chosen)
    base = result[-1].result["perplexity_full"]
    for point, entry in zip(points, chosen, strict=True):
        # On the text of the scores, ln(perplexity ratio) is the ΔCE that the score file holds.
        assert math.log(point["perplexity"] / base) == pytest.approx(entry.delta_ce.mean, abs=2e-6)
    assert (tmp_path / "agree.json").exists()


def test_agreement_knows_its_limits() -> None:
    names = ("kl_pq", "kl_qp", "mse", "sqnr_db", "delta_ce")
    points = [
        {**dict.fromkeys(names, float(i)), "sqnr_db": -float(i), "perplexity": float(i * i)}
        for i in range(20)
    ]
    result = agreement(points)
    assert all(result[name].tau == pytest.approx(1) for name in names)
    for point, value in zip(points, random.Random(0).sample(range(20), 20), strict=True):
        point["kl_pq"] = float(value)
    mixed = agreement(points)["kl_pq"]
    assert mixed.low < mixed.tau < mixed.high < 0.9
