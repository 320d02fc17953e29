"""An export is held to the model that it was made from, and a bench to what the export kept of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from kl_lens_desktop.bench.answers import answer_words
from kl_lens_desktop.bench.fidelity import judged, truth_of, wrong_words
from kl_lens_desktop.bench.stateful_model import StatefulModel
from kl_lens_desktop.errors import ExportError, InputError, ModelError
from kl_lens_desktop.export import proof
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.calls import FULL_PRECISION
from kl_lens_desktop.families import FAMILIES, Family
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model import load
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note
from tests.dequantized import dequantized_sample
from tests.models import CONFIGURATIONS, build_folder

KIMI = {  # traced without complaint, but its recurrence runs over as many chunks as the example had
    "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "linear_head_dim": 16,
    "linear_num_heads": 4, "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "mlp_layer_types": ["dense"] * 3, "num_hidden_layers": 3,
}  # fmt: skip
KIMI_PARTS = {
    "KimiLinearDeltaAttention": "ssm",
    "KimiLinearAttention": "attention",
    "KimiLinearMLP": "mlp",
}


def test_a_recurrence_that_freezes_in_the_trace_ends_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = Family("kimi_linear", "One that somebody adds", ("short_convolution",), KIMI_PARTS)
    monkeypatch.setitem(FAMILIES, "kimi_linear", added)
    monkeypatch.setitem(CONFIGURATIONS, "kimi_linear", KIMI)
    local = LocalModel("kimi", build_folder("kimi_linear", tmp_path / "source"))
    refusal = (
        "a recurrence that is not known here: chunk_kimi_delta_attention, recurrent_kimi_delta_attention"
    )
    with pytest.raises(ModelError, match=refusal):
        list(export_model(local, "fp16", tmp_path / "ir", Cancel()))
    monkeypatch.setattr(load, "unreplaced", lambda *_: [])
    where = r"differ by .* the first part that differs is block 0 \(KimiLinearDeltaAttention, KimiLinearMLP\)"
    with pytest.raises(ExportError, match=rf"does not answer like the model.* {where}"):
        list(export_model(local, "fp16", tmp_path / "ir", Cancel()))
    assert not (tmp_path / "ir").exists()


def test_what_is_kept_of_the_model_is_torchs(sample_ir: dict[str, Path]) -> None:
    import torch

    for folder in sample_ir.values():
        said = proof.load_reference(folder)
        assert said is not None
        assert len(said.ids) == proof.TOKENS
        with torch.no_grad():
            logits = dequantized_sample(folder)(torch.tensor([said.ids])).logits[0].numpy()
        assert np.abs(logits[:, said.columns] - said.logits).max() < 1e-3 * logits.std()
        card = json.loads((folder / "kl_lens.json").read_text(encoding="utf-8"))
        assert card["proof"]["cpu_f32_against_torch"] < 1e-3
        assert card["proof"]["fp16_against_torch"] < 1e-3
        assert card["proof"]["tokens"] == proof.TOKENS


def test_a_folder_that_is_wrong_on_the_cpu_too_is_found(short_ir: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(short_ir["fp16"], tmp_path / "ir")
    said = proof.load_reference(short_ir["int4"])
    assert said is not None
    proof.save_reference(folder, said)  # of other weights
    core = ov.Core()
    model = StatefulModel(core, folder, "CPU", FULL_PRECISION, 256)
    gate = judged(core, folder, "CPU", model, lambda _: model, truth_of(core, folder, "", Cancel()))
    assert gate["relative_difference"] < 1e-3
    assert not gate["ok"]
    assert wrong_words(gate).startswith(
        "wrong answers (on the CPU in f32, compared with torch: they are off by "
    )


def test_folders_of_before_are_judged_without(short_ir: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(short_ir["fp16"], tmp_path / "ir")
    (folder / proof.REFERENCE).unlink()
    core = ov.Core()
    model = StatefulModel(core, folder, "CPU", FULL_PRECISION, 256)
    truth = truth_of(core, folder, "It was a dark night. " * 200, Cancel())
    gate = judged(core, folder, "CPU", model, lambda _: model, truth)
    assert gate["ok"]
    assert "torch_difference" not in gate


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("ids"),
        lambda value: value["logits"].pop(),
        lambda value: value["columns"].__setitem__(0, -1),
        lambda value: value["columns"].__setitem__(0, 10**9),
        lambda value: value["ids"].__setitem__(0, "first"),
        lambda value: value.update(logits=[]),
    ],
)
def test_a_damaged_reference_is_refused(damage, short_ir: dict[str, Path], tmp_path: Path) -> None:
    value = json.loads((short_ir["fp16"] / proof.REFERENCE).read_text(encoding="utf-8"))
    damage(value)
    (tmp_path / proof.REFERENCE).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match="it is damaged"):
        proof.load_reference(tmp_path)


def test_the_worst_call_counts_and_single_tokens_are_one() -> None:
    assert proof.worst([(9, 0.0, 1.0), (1, 4.0, 100.0), (1, 0.0, 300.0), (9, 0.0, 1.0)]) == pytest.approx(0.1)
    assert proof.worst([(9, 1.0, 4.0), (1, 0.0, 1.0)]) == 0.5
    assert proof.worst([(9, float("nan"), 4.0)]) == float("inf")
    assert proof.call_sizes(150) == [140, *[1] * 8, 2]
    assert sum(proof.call_sizes(proof.TOKENS)) == proof.TOKENS


def test_a_token_that_chose_another_expert_is_no_fault_and_half_a_prompt_is() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((proof.TOKENS, 64)).astype(np.float32)
    said = proof.TorchAnswers(list(range(proof.TOKENS)), np.arange(64), logits)

    def difference(wrong: slice | list[int]) -> float:
        answered = logits.copy()
        answered[wrong] += random.standard_normal(answered[wrong].shape).astype(np.float32)
        return proof.difference_from(said, proof.answers(lambda ids: answered[ids], said.ids))

    assert difference([]) == 0
    assert difference([21, 22, 143, 200]) < 0.01
    assert difference(slice(65, 140)) > 0.5
    assert difference(slice(140, 148)) > 0.5
    none = np.full_like(logits, np.nan)
    assert proof.difference_from(said, [none]) == float("inf")


def test_weights_that_a_gpu_computes_wrongly_are_said(sample: LocalModel, tmp_path: Path) -> None:
    events = list(export_model(sample, "int2_sym_g64", tmp_path / "ir", Cancel()))
    said = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert said == ["Not for a GPU: OpenVINO computes INT2 g64 wrongly there"]


def test_what_a_device_answered_is_a_sentence() -> None:
    about = {"device": "GPU", "full_name": "Arc", "fidelity": {"relative_difference": 0.0042}}
    assert answer_words({**about, "status": "ok"}) == (
        "GPU (Arc) answers like the CPU, within 0.4% of the logits' spread."
    )
    assert answer_words({**about, "status": "failed: it hung"}) == (
        "GPU (Arc): failed: it hung. Use another device for this model."
    )
