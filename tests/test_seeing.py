"""Models that see too: their text part is a model of its own, checked against transformers' whole one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.files import read_json
from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.fit import folder_sizes
from kl_lens_desktop.model.inventory import inventory
from kl_lens_desktop.model.load import empty_model, load_model, open_model
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished, Note
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.repository.text_part import is_for_seeing
from kl_lens_desktop.sensitivity.jobs import Analysis, AnalyzeJob
from kl_lens_desktop.sensitivity.scores import load_scores
from tests.answers import check_answers
from tests.models import CONFIGURATIONS, build, copy_tokenizer

_EYES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

_PICTURES = {"image_size": 16, "patch_size": 4}


def lfm2_vl(text: str) -> PreTrainedModel:
    config = Lfm2VlConfig(
        text_config=build(text).config.to_dict(),
        vision_config={"model_type": "siglip2_vision_model", "patch_size": 4, "num_patches": 16, **_EYES},
        projector_hidden_size=32,
        image_token_id=4000,
        tie_word_embeddings=bool(build(text).config.tie_word_embeddings),
    )
    torch.manual_seed(0)
    whole = Lfm2VlForConditionalGeneration(config).float().eval()
    whole.model.language_model.load_state_dict(build(text).model.state_dict())
    whole.lm_head.weight.data = build(text).lm_head.weight.data.clone()
    whole.tie_weights()
    return whole


def granite4_vision(text: str) -> PreTrainedModel:
    described = build(text).config.to_dict() | {"model_type": "granite4_vision_text"}
    config = Granite4VisionConfig(
        text_config=described,
        vision_config={
            "model_type": "siglip_vision_model",
            **_EYES,
            "hidden_size": 64,
            "image_size": 16,
            "patch_size": 4,
        },
        qformer_config={"intermediate_size": 32, "num_hidden_layers": 1},
        downsample_rate="1/2",
        deepstack_layer_map=[[0, 1]],
        spatial_target_layers=[0, 1, 2, 3],
        image_token_index=4000,
        tie_word_embeddings=bool(build(text).config.tie_word_embeddings),
    )
    torch.manual_seed(0)
    whole = Granite4VisionForConditionalGeneration(config).float().eval()
    whole.model.language_model.load_state_dict(build(text).model.state_dict())
    whole.lm_head.weight.data = build(text).lm_head.weight.data.clone()
    whole.tie_weights()
    return whole


TEXTS = ["lfm2", next(name for name in CONFIGURATIONS if name.startswith("lfm2_moe")), "granite"]


@pytest.fixture(params=TEXTS)
def whole(request: pytest.FixtureRequest) -> PreTrainedModel:
    make = granite4_vision if request.param == "granite" else lfm2_vl
    return make(request.param)


@pytest.fixture
def folder(whole: PreTrainedModel, tmp_path: Path) -> Path:
    folder = tmp_path / "seeing"
    whole.save_pretrained(folder)
    copy_tokenizer(folder)
    return folder


def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def test_the_text_part_answers_as_the_whole_does(folder: Path, whole: PreTrainedModel) -> None:
    ids = torch.arange(1, 60)[None]
    loaded = load_model(folder)
    assert torch.equal(logits(loaded.model, ids), logits(whole, ids))
    for name, parameter in open_model(folder).model.named_parameters():
        assert torch.equal(parameter, loaded.model.get_parameter(name)), name
    assert loaded.unused
    assert all(is_for_seeing(name) for name in loaded.unused)


def test_sizes_are_those_of_the_text_part(folder: Path) -> None:
    model = empty_model(folder)
    text = sum(parameter.numel() for parameter in model.parameters())
    head = "lm_head.weight" if model.config.tie_word_embeddings else ""
    stored = sum(value.numel() for name, value in model.state_dict().items() if name != head)
    assert folder_sizes(folder).parameters == stored
    assert sum(weight.parameters for weight in inventory(model)) <= text
    assert {weight.kind for weight in inventory(model)} >= {"attention", "mlp", "embedding"}


def test_older_names_of_its_tensors_find_their_place(folder: Path, whole: PreTrainedModel) -> None:
    path = folder / "model.safetensors"
    tensors = {
        name.replace("model.language_model.", "language_model.model."): v
        for name, v in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    ids = torch.arange(1, 60)[None]
    assert torch.equal(logits(load_model(folder).model, ids), logits(whole, ids))


def test_without_a_text_part_it_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["text_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"its config\.json has no text_config"):
        empty_model(folder)
    config["text_config"] = {"model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="the architecture 'llama' is not supported"):
        empty_model(folder)


def test_analyzed_planned_and_exported_it_answers_as_the_model(folder: Path, tmp_path: Path) -> None:
    """In `openvino_genai`, alone and in a batch of unequal prompts."""
    analysis = Analysis(tokens=256, window=64, formats=("int4_sym_g64", "int8_sym"))
    list(perform(AnalyzeJob(str(folder), tmp_path / "scores.json", analysis), Cancel()))
    plan = propose(load_scores(tmp_path / "scores.json"), bits=8)
    local = resolve_model(str(folder))
    *events, last = export_model(local, plan, tmp_path / "plan", Cancel())
    assert isinstance(last, Finished)
    assert last.result["proof"]["cpu_f32_against_torch"] < 1e-3
    (note,) = [event.text for event in events if isinstance(event, Note) and "vision" in event.text]
    assert note.startswith("Only the text part of this model is used. The ")
    list(export_model(LocalModel("seeing", folder), "fp16", tmp_path / "fp16", Cancel()))
    loaded = load_model(folder)
    assert read_json(tmp_path / "fp16" / "config.json")["model_type"] == loaded.model.config.model_type
    check_answers(folder, tmp_path / "fp16")


def test_a_head_that_only_the_whole_calls_the_embedding_is_it(tmp_path: Path) -> None:
    sizes = {"num_heads": 2, "hidden_size": 32, "intermediate_size": 32, "depth": 1, "out_hidden_size": 64}
    described = build("qwen3_5_text").config.to_dict() | {"tie_word_embeddings": False}
    config = Qwen3_5Config(text_config=described, vision_config=sizes, tie_word_embeddings=True)
    torch.manual_seed(0)
    whole = Qwen3_5ForConditionalGeneration(config).float().eval()
    whole.save_pretrained(tmp_path)
    copy_tokenizer(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).model(ids).logits, whole(input_ids=ids).logits)
