"""The scores are what a dozen lines of plain torch say, and nothing measured is lost or measured twice."""

import functools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import Cancelled, InputError, ModelError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model import fit
from kl_lens_desktop.model.inventory import weight_parameters
from kl_lens_desktop.model.load import load_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note, Progress, Scored, Weights
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity import metrics, walk
from kl_lens_desktop.sensitivity.agreement import agree, agreement
from kl_lens_desktop.sensitivity.engine import analyze, bf16_bound
from kl_lens_desktop.sensitivity.jobs import AgreeJob, Analysis, highest_tau
from kl_lens_desktop.sensitivity.metrics import Tally, reference
from kl_lens_desktop.sensitivity.scores import Scores, load_scores, save_scores
from kl_lens_desktop.text.bundled import calibration_text, held_out_text
from kl_lens_desktop.text.windows import windows
from tests.models import CONFIGURATIONS, build_folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A random hybrid of four blocks, for what does not depend on trained weights."""
    return LocalModel("small", build_folder("granitemoehybrid", tmp_path_factory.mktemp("small") / "model"))


@pytest.fixture(params=["weights in memory", "weights on disk"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "weights on disk":
        monkeypatch.setattr(fit, "free_mb", lambda: 0)


def _how(text: Path | None = None, **options: object) -> Analysis:
    options.setdefault("rounding", "nearest")  # which plain torch does, to compare with
    return Analysis(text=(text or calibration_text(),), **options)  # type: ignore[arg-type]


def _run(local: LocalModel, out: Path, cancel: Cancel | None = None, **options: object) -> list[object]:
    return list(analyze(local, out, _how(**options), cancel or Cancel()))


@functools.lru_cache(1)  # a test measures several entries of one model
def _loaded(folder: Path, tokens: int, window: int) -> tuple[PreTrainedModel, Tensor, Tensor]:
    """The stock model, token ids by window and its logits of them in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = calibration_text().read_bytes().decode("utf-8")
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"][:tokens]
    ids = torch.tensor(ids).view(-1, window)
    with torch.no_grad():
        return model, ids, model(ids).logits.double()


def _plainly(folder: Path, weight: str, name: str, tokens: int, window: int) -> dict[str, float]:
    """Every metric from two full forwards of the stock model, in float64."""
    model, ids, z = _loaded(folder, tokens, window)
    parameter = weight_parameters(model)[weight]
    with torch.no_grad():
        whole = parameter.clone()
        parameter.copy_(fake_quantize(parameter, parse_format(name)))
        y = model(ids).logits.double()
        parameter.copy_(whole)
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
        LocalModel(family, folder), tmp_path / "scores.json", tokens=128, window=64, formats=("int4_sym_g64",)
    )
    scores = load_scores(tmp_path / "scores.json")
    assert len(scores.entries) == len([weight for weight in scores.weights if weight["kind"] != "conv"])
    shapes = {weight["name"]: weight["shape"] for weight in scores.weights}
    stacks = [entry for entry in scores.entries if len(shapes[entry.weight]) == 3]
    assert bool(stacks) == ("with experts" in family)
    for entry in [*random.Random(5).sample(scores.entries, 3), *stacks[:2]]:
        plain = _plainly(folder, entry.weight, entry.format, 128, 64)
        assert abs(entry.kl_pq.mean - plain["kl_pq"]) < 1e-5, entry.weight
        assert abs(entry.kl_qp.mean - plain["kl_qp"]) < 1e-5, entry.weight


def test_standard_errors_are_of_window_means(small: LocalModel, tmp_path: Path) -> None:
    """Four times the text must halve the error bars, roughly; naive per-token errors would be far smaller."""
    few, many = tmp_path / "few.json", tmp_path / "many.json"
    for path, tokens in ((few, 256), (many, 1024)):
        _run(small, path, tokens=tokens, window=32, formats=("int4_sym_g64",), exhaustive=True)
    ratios = [
        a.kl_pq.se / b.kl_pq.se
        for a, b in zip(load_scores(few).entries, load_scores(many).entries, strict=True)
    ]
    assert 1.4 < sorted(ratios)[len(ratios) // 2] < 2.9


def test_events_come_in_order(small: LocalModel, tmp_path: Path) -> None:
    events = _run(small, tmp_path / "scores.json", tokens=256, window=128, formats=("int8_sym",))
    kinds = [type(event) for event in events]
    assert kinds.index(Weights) < kinds.index(Scored)
    scored = [event.entry for event in events if isinstance(event, Scored)]
    assert scored == [asdict(entry) for entry in load_scores(tmp_path / "scores.json").entries]
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].done == progress[-1].total == len(scored)
    assert progress[-1].eta_s == pytest.approx(0, abs=1e-6)


def test_more_formats_extend_the_file(small: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    _run(small, out, tokens=256, window=128, formats=("int8_sym",))
    first = load_scores(out).entries
    _run(small, out, tokens=256, window=128, formats=("int8_sym", "int4_asym_g128"))
    both = load_scores(out).entries
    assert both[: len(first)] == first
    assert len(both) == 2 * len(first)


def test_cancel_keeps_what_was_measured_and_resuming_gives_the_same_bits(
    small: LocalModel, tmp_path: Path
) -> None:
    whole, parted = tmp_path / "whole.json", tmp_path / "parted.json"
    options = {"tokens": 256, "window": 128, "formats": ("int4_sym_g64",)}
    _run(small, whole, **options)
    cancel, seen = Cancel(), 0
    with pytest.raises(Cancelled):
        for event in analyze(small, parted, _how(**options), cancel):
            seen += isinstance(event, Scored)
            if seen == 7:
                cancel.cancel()
    assert len(load_scores(parted).entries) == 7
    said = [event.text for event in _run(small, parted, **options) if isinstance(event, Note)]
    assert f"Continuing parted.json: 7 of {len(load_scores(whole).entries)} weights are measured" in said
    assert load_scores(parted).entries == load_scores(whole).entries


def test_windows_in_an_order_not_drawn_from_the_seed_are_not_gone_on_with(
    small: LocalModel, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    options = {"tokens": 512, "window": 128, "formats": ("int4_sym_g64",)}
    _run(small, path, **options)
    value = json.loads(path.read_text(encoding="utf-8"))
    order = value["windows"]["order"]
    order[0], order[1] = order[1], order[0]
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match="this version orders its windows differently"):
        _run(small, path, **options)


def test_killed_at_random_moments_the_file_is_the_same_to_the_last_bit(
    small: LocalModel, tmp_path: Path
) -> None:
    """KL_LENS_KILLS sets how often; the suite has time for two."""
    whole, killed = tmp_path / "whole" / "scores.json", tmp_path / "killed" / "scores.json"
    options = ["--tokens", "1024", "--window", "64", "--formats", "int4_sym_g64,int8_sym", "--json"]
    arguments = ["analyze", str(small.folder), *options, "--out"]
    assert run([*arguments, str(whole)], carry=perform) == 0
    moments, held = random.Random(int(os.environ.get("KL_LENS_SEED", "6"))), 0
    total = len(load_scores(whole).entries)
    for _ in range(int(os.environ.get("KL_LENS_KILLS", "2"))):
        killed.unlink(missing_ok=True)
        command = [sys.executable, "-m", "kl_lens_desktop", *arguments, str(killed)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not killed.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.2))
        process.kill()
        process.wait()
        before = load_scores(killed)
        assert before.windows is not None
        held += len(before.entries) < total or any(entry.kl_pq.n < 1024 for entry in before.entries)
        assert run([*arguments, str(killed)], carry=perform) == 0
        after = load_scores(killed).windows
        assert after is not None
        for pair, samples in before.windows.samples.items():
            assert after.samples[pair].kl_pq[: len(samples)] == samples.kl_pq, "nothing is measured again"
        assert killed.read_bytes() == whole.read_bytes()
        integers = "scores.safetensors"
        assert sorted(p.name for p in killed.parent.iterdir()) == ["scores.json", integers], "no half file"
        assert killed.with_name(integers).read_bytes() == whole.with_name(integers).read_bytes()
    assert held, "at least one was killed in mid-run"


def test_scores_measured_otherwise_are_not_continued(small: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    options = {"tokens": 256, "window": 64, "formats": ("int8_sym",)}
    _run(small, out, **options)
    before = out.read_bytes()
    for change, words in (
        ({"tokens": 128}, "256 tokens against 128"),
        ({"window": 128}, "windows of 64 tokens against 128"),
        ({"seed": 1}, "seed 0 against 1"),
    ):
        with pytest.raises(InputError, match=f"measured with other settings: {words}"):
            _run(small, out, **options | change)
    with pytest.raises(InputError, match="begins differently"):
        list(analyze(small, out, _how(held_out_text(), **options), Cancel()))
    assert out.read_bytes() == before


def test_more_text_extends_the_file_without_repeating(small: LocalModel, tmp_path: Path) -> None:
    out, whole = tmp_path / "scores.json", tmp_path / "whole.json"
    options = {"window": 32, "formats": ("int4_sym_g64",), "exhaustive": True}
    _run(small, out, tokens=256, **options)
    first = load_scores(out)
    _run(small, out, tokens=512, **options)
    _run(small, whole, tokens=512, **options)
    grown, direct = load_scores(out), load_scores(whole)
    assert first.windows is not None
    assert grown.windows is not None
    assert grown.windows.order[:8] == first.windows.order
    for pair, samples in first.windows.samples.items():
        assert grown.windows.samples[pair].kl_pq[:8] == samples.kl_pq, "what was measured is kept as it was"
    for a, b in zip(grown.entries, direct.entries, strict=True):
        assert a.kl_pq.n == b.kl_pq.n == 512
        assert a.kl_pq.mean == pytest.approx(b.kl_pq.mean, rel=1e-4)
        assert a.kl_pq.se == pytest.approx(b.kl_pq.se, rel=1e-3)
        assert a.sqnr_db.mean == pytest.approx(b.sqnr_db.mean, abs=1e-3)


def test_racing_keeps_the_ranking_and_says_which_stopped(sample: LocalModel, tmp_path: Path) -> None:
    from scipy.stats import kendalltau  # takes two seconds to load

    raced, whole = tmp_path / "raced.json", tmp_path / "whole.json"
    options = {"tokens": 768, "window": 48, "formats": ("int4_sym_g64",)}
    events = _run(sample, raced, **options)
    early = load_scores(raced)
    shutil.copyfile(raced, whole)
    _run(sample, whole, exhaustive=True, **options)
    full = {entry.weight: entry for entry in load_scores(whole).entries}
    stopped = [entry for entry in early.entries if entry.settled]
    assert len(stopped) >= 5
    assert {entry.kl_pq.n for entry in early.entries if not entry.settled} == {768}
    assert {entry.kl_pq.n for entry in stopped} <= {192, 384}
    assert any("settled" in event.text for event in events if isinstance(event, Note))
    assert {entry.kl_pq.n for entry in full.values()} == {768}
    assert not any(entry.settled for entry in full.values())
    a = [entry.kl_pq.mean for entry in early.entries]
    b = [full[entry.weight].kl_pq.mean for entry in early.entries]
    assert kendalltau(a, b).statistic >= 0.95
    assert set(np.argsort(b)[-10:]) <= set(np.argsort(a)[-12:])
    again = raced.read_bytes()
    _run(sample, raced, **options)
    assert raced.read_bytes() == again, "what is settled stays settled"


def test_experts_race_and_agree_like_other_weights(tmp_path: Path) -> None:
    family, raced, whole = "granitemoehybrid with experts", tmp_path / "raced.json", tmp_path / "whole.json"
    local = LocalModel(family, build_folder(family, tmp_path / "model"))
    options = {"tokens": 384, "window": 24}
    _run(local, raced, formats=("int4_sym_g64", "int8_sym"), **options)
    _run(local, whole, formats=("int4_sym_g64", "int8_sym"), exhaustive=True, **options)
    early, full = load_scores(raced), load_scores(whole)
    stacks = {(e.weight, e.format): e for e in early.entries if ".experts." in e.weight}
    assert len(stacks) == 16
    assert any(entry.settled for entry in stacks.values())
    assert early.windows is not None
    assert full.windows is not None
    for pair, entry in stacks.items():
        seen, every = early.windows.samples[pair].kl_pq, full.windows.samples[pair].kl_pq
        assert entry.settled == (len(seen) < len(every) == 16)
        assert seen == pytest.approx(every[: len(seen)], rel=1e-3)
    delta_ce = {(entry.weight, entry.format): entry.delta_ce.mean for entry in full.entries}
    text = calibration_text()
    (*_, last) = agree(local, AgreeJob("", whole, text=text, **options), Cancel())
    for point in last.result["points"]:
        loss = math.log(point["perplexity"] / last.result["perplexity_full"])
        assert loss == pytest.approx(delta_ce[point["weight"], point["format"]], abs=2e-6)


def test_large_vocabularies_are_compared_in_slices(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the full-precision logits, in slices that cut windows, the figures are the same."""
    options = {"tokens": 256, "window": 128, "formats": ("int4_sym_g64",)}
    _run(small, tmp_path / "kept.json", **options)
    monkeypatch.setattr(walk, "CACHE_ELEMENTS", 0)
    monkeypatch.setattr(walk, "SLICE_ELEMENTS", 50 * 4096)
    monkeypatch.setattr(metrics, "_PIECE", 3 * 4096)
    _run(small, tmp_path / "sliced.json", **options)
    kept, sliced = (load_scores(tmp_path / name).entries for name in ("kept.json", "sliced.json"))
    for a, b in zip(kept, sliced, strict=True):
        assert a.kl_pq.mean == pytest.approx(b.kl_pq.mean, rel=1e-3, abs=1e-9)
        assert a.top1_agreement == b.top1_agreement


def test_distributions_that_share_nothing() -> None:
    """log(q/p) of hundreds: float32 has no number for p, nor for q/p."""
    full = torch.tensor([[200.0, 0.0, -30.0], [0.0, 1.0, 2.0]])
    other = torch.tensor([[0.0, 190.0, 3.0], [0.0, 1.0, 2.5]])
    tally = Tally(1, 2)
    tally.add(reference(full, torch.tensor([1, -1]), torch.tensor([0, 0])), other)
    log_p, log_q = full.double().log_softmax(-1), other.double().log_softmax(-1)
    assert tally.samples.kl_pq[0] == pytest.approx(
        ((log_p.exp() * (log_p - log_q)).sum() / 2).item(), rel=1e-6
    )
    assert tally.samples.kl_qp[0] == pytest.approx(
        ((log_q.exp() * (log_q - log_p)).sum() / 2).item(), rel=1e-6
    )


@pytest.mark.parametrize("family", ["granitemoehybrid", "mamba", "lfm2"])
def test_bfloat16_differs_by_no_more_than_it_says(family: str, tmp_path: Path) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products of bfloat16")
    local = LocalModel(family, build_folder(family, tmp_path / family))
    options = {"tokens": 128, "window": 64, "formats": ("int4_sym_g64",)}
    _run(local, tmp_path / "f32.json", **options)
    _run(local, tmp_path / "bf16.json", precision="bf16", **options)
    exact, rounded = (load_scores(tmp_path / name) for name in ("f32.json", "bf16.json"))
    floor = rounded.settings["rounding_floor"]["mean"]
    assert 0 < floor < 0.01
    for a, b in zip(exact.entries, rounded.entries, strict=True):
        assert abs(a.kl_pq.mean - b.kl_pq.mean) < bf16_bound(a.kl_pq.mean, floor), a.weight
    with pytest.raises(InputError, match="precision f32 against bf16"):
        _run(local, tmp_path / "f32.json", precision="bf16", **options)


def test_a_text_shorter_than_a_window(sample: LocalModel, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Call me.", encoding="utf-8")
    with pytest.raises(InputError, match=r"has \d+ tokens, and one window needs 256"):
        list(analyze(sample, tmp_path / "scores.json", _how(short), Cancel()))


def _changed(family: str, folder: Path, name: str, change: Callable[[Tensor], None]) -> LocalModel:
    """A small model with one weight changed."""
    build_folder(family, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return LocalModel("changed", folder)


@pytest.mark.usefixtures("where")
def test_a_model_that_predicts_nothing_is_refused(tmp_path: Path) -> None:
    name = "model.layers.2.self_attn.q_proj.weight"
    broken = _changed("granitemoehybrid", tmp_path / "m", name, lambda w: w[0, 0].fill_(math.nan))
    with pytest.raises(ModelError, match=rf"not finite; {name} contains NaN or infinity"):
        _run(broken, tmp_path / "s.json", tokens=256, window=128)


@pytest.mark.usefixtures("where")
def test_a_weight_that_is_not_finite_stays_fp16(tmp_path: Path) -> None:
    """An infinity in a row that the text does not use."""
    local = _changed(
        "mamba2", tmp_path / "m", "backbone.embeddings.weight", lambda w: w[4095].fill_(math.inf)
    )
    out = tmp_path / "s.json"
    options = {"tokens": 256, "window": 128, "formats": ("int8_sym",)}

    def rejected() -> list[str]:
        notes = [event.text for event in _run(local, out, **options) if isinstance(event, Note)]
        return [
            note
            for note in notes
            if "its own values are not finite, or beyond what FP16 holds; it stays FP16" in note
        ]

    (note,) = rejected()
    assert "embeddings" in note
    scores = load_scores(out)
    assert set(scores.unmeasurable) == {("backbone.embeddings.weight", "int8_sym")}
    assert len(scores.entries) == len([w for w in scores.weights if w["kind"] != "conv"]) - 1
    assert not rejected(), "not tried again"


@pytest.mark.usefixtures("where")
def test_a_format_that_changes_nothing(tmp_path: Path) -> None:
    name = "model.layers.1.shared_mlp.output_linear.weight"
    local = _changed("granitemoehybrid", tmp_path / "m", name, lambda w: w.zero_())
    _run(local, tmp_path / "s.json", tokens=256, window=128, formats=("int4_sym_g64",))
    (entry,) = [entry for entry in load_scores(tmp_path / "s.json").entries if entry.weight == name]
    assert (entry.kl_pq.mean, entry.kl_qp.mean, entry.mse.mean, entry.delta_ce.mean) == (0, 0, 0, 0)
    assert (entry.top1_agreement.mean, entry.sqnr_db.mean, entry.kl_pq.se) == (1, 200, 0)


def test_files_take_turns_so_that_a_longer_text_begins_with_a_shorter_one(sample: LocalModel) -> None:
    loaded = load_model(sample.folder)
    files = [calibration_text(), held_out_text()]
    few, _ = windows(loaded, files, 256, 64)
    many, about = windows(loaded, files, 1024, 64)
    assert torch.equal(many[: len(few)], few)
    assert about.tokens == 1024
    alone, _ = windows(loaded, files[1:], 512, 64)
    assert torch.equal(many[1::2], alone)


def test_agreement_is_scipys_and_perplexity_is_plain(
    sample: LocalModel, sample_scores_path: Path, tmp_path: Path
) -> None:
    scores = load_scores(sample_scores_path)
    outer = [entry for entry in scores.entries if entry.block in (0, 7)]
    chosen = [entry for entry in outer if entry.format == "int4_sym_g64"]
    assert 3 < len(chosen) < len(outer)
    part = tmp_path / "part.json"
    save_scores(part, Scores(scores.model, scores.text, scores.weights, scores.kept_bytes, entries=outer))
    result = list(
        agree(
            sample,
            AgreeJob(
                "",
                part,
                tmp_path / "agree.json",
                calibration_text(),
                tokens=512,
                window=128,
                formats=("int4_sym_g64",),
            ),
            Cancel(),
        )
    )
    low, high = result[-1].result["ceiling_interval"]
    assert -1 <= low <= result[-1].result["ceiling"] <= high <= 1

    points = result[-1].result["points"]
    assert len(points) == len(chosen)
    base = result[-1].result["perplexity_full"]
    for point, entry in zip(points, chosen, strict=True):
        # On the text of the scores, ln(perplexity ratio) is the ΔCE that the score file holds.
        assert math.log(point["perplexity"] / base) == pytest.approx(entry.delta_ce.mean, abs=2e-6)
    assert (tmp_path / "agree.json").exists()


@pytest.mark.parametrize("noise", [0.3, 1.0, 1.5])
def test_the_highest_tau_is_that_of_a_metric_without_noise(noise: float) -> None:
    from scipy.stats import kendalltau  # takes two seconds to load

    random = np.random.default_rng(1)
    true = random.standard_normal(4000)
    halves = true + noise * random.standard_normal((2, 4000))
    found = highest_tau(kendalltau(*halves).statistic)
    assert found == pytest.approx(kendalltau(true, halves.mean(axis=0)).statistic, abs=0.02)
    assert highest_tau(-0.1) == 0.0


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
