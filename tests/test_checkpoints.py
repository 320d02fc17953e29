"""Checkpoints as they are published: what their files say is followed, or refused in words."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kl_lens_desktop import resources
from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export.bundle import export_model, write_small_files, write_tokenizer
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.load import load_model, open_model, warnings
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note
from kl_lens_desktop.repository.model_files import strict_json
from tests.models import build, build_bf16_folder, build_folder

TEXT = "HELLO World: 1234567 ships"

PROMPTS = ("The ship", "He looked at the house for a long while and then", "It was")


def exported(folder: Path, out: Path, plan: str = "fp16") -> Path:
    for _ in export_model(LocalModel(str(folder), folder, None), plan, out, Cancel()):
        pass
    return out


def _refuse(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def test_infinity_in_a_configuration_ends_as_json_that_every_reader_takes(tmp_path: Path) -> None:
    folder = build_folder("nemotron_h", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["time_step_limit"] = [0.0, math.inf]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "Infinity" in (folder / "config.json").read_text(encoding="utf-8")
    out = exported(folder, tmp_path / "out")
    for file in out.glob("*.json"):
        json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
    assert AutoConfig.from_pretrained(out).time_step_limit == [0.0, math.inf]
    ids = openvino_genai.LLMPipeline(str(out), "CPU").generate("The ship", max_new_tokens=4)
    assert isinstance(ids, str)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[NaN]", [{"__float__": "NaN"}]),
        ("[-Infinity, 1.5]", [{"__float__": "-Infinity"}, 1.5]),
        ("[1e999]", [{"__float__": "Infinity"}]),
    ],
)
def test_numbers_that_json_lacks(text: str, value: object) -> None:
    assert json.loads(strict_json(text.encode())) == value


def test_json_without_such_numbers_stays_as_it_is() -> None:
    text = b'{"a":  1.50, "b": [1e30]}'
    assert strict_json(text) == text


def test_steps_are_bounded_as_the_configuration_says(tmp_path: Path) -> None:
    """By the formula: a step after softplus is clamped to ``time_step_limit``, and to nothing else."""
    folder = build_folder("nemotron_h", tmp_path / "model", time_step_limit=[0.0, 0.05])
    for loaded in (load_model(folder), open_model(folder)):
        limits = {m.time_step_limit for m in loaded.model.modules() if hasattr(m, "time_step_limit")}
        assert limits == {(0.0, 0.05)}
    bounded = load_model(folder).model
    free = load_model(build_folder("nemotron_h", tmp_path / "free", time_step_min=10.0)).model
    plain = build("nemotron_h", time_step_min=1e-9)  # where transformers clamps
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        assert torch.allclose(free(ids).logits, plain(ids).logits, atol=1e-4)
        assert not torch.allclose(bounded(ids).logits, plain(ids).logits, atol=1e-2)


@pytest.mark.parametrize("family", ["zamba2", "bamba"])
def test_steps_are_not_bounded_where_the_configuration_says_null(family: str, tmp_path: Path) -> None:
    """As published checkpoints of them do: kernels then bound nothing, but transformers does."""
    folder = build_folder(family, tmp_path / "model", time_step_min=10.0)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "time_step_limit": None}), encoding="utf-8")
    plain = build(family, time_step_min=1e-9)
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        assert torch.allclose(load_model(folder).model(ids).logits, plain(ids).logits, atol=1e-4)
    exported(folder, tmp_path / "out")  # which compares the graph with what `open_model` gives


def test_a_batch_of_unequal_prompts_is_right_whatever_side_the_tokenizer_pads(tmp_path: Path) -> None:
    sample = resources.path("sample-hybrid")
    folder = tmp_path / "model"
    shutil.copytree(sample, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "padding_side": "right"}), encoding="utf-8"
    )
    out = exported(folder, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).padding_side == "left"
    assert AutoTokenizer.from_pretrained(folder).padding_side == "right"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        wanted.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    pipe = openvino_genai.LLMPipeline(str(out), "CPU", INFERENCE_PRECISION_HINT="f32")
    found = pipe.generate(list(PROMPTS), max_new_tokens=12, do_sample=False, apply_chat_template=False)
    assert found.texts == wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_bf16_folder("bamba", tmp_path / "model")


def _rewritten(folder: Path, **tensors: torch.Tensor) -> Path:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})
    return folder


WEIGHT = "model.layers.0.feed_forward.down_proj.weight"


def test_weights_in_eight_bits_without_a_word_in_the_configuration_are_refused(folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")[WEIGHT]
    _rewritten(folder, **{WEIGHT: weight.to(torch.float8_e4m3fn)})
    with pytest.raises(ModelError, match=f"{WEIGHT} is quantized already: it is stored as F8_E4M3"):
        load_model(folder)


@pytest.mark.parametrize("suffix", ["_scale", "_scale_inv", "_scale_2"])
def test_weights_that_come_with_scales_are_refused(folder: Path, suffix: str) -> None:
    _rewritten(folder, **{WEIGHT + suffix: torch.ones(1)})
    with pytest.raises(ModelError, match=rf"\({WEIGHT}{suffix}\).*does not say how"):
        load_model(folder)


def test_an_adapter_alone_is_refused(folder: Path) -> None:
    stem = "base_model.model.model.layers.0.feed_forward.down_proj"
    adapter = {f"{stem}.lora_A.weight": torch.ones(4, 64), f"{stem}.lora_B.weight": torch.ones(64, 4)}
    save_file(adapter, folder / "adapter_model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="to be changed by an adapter"):
        load_model(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="it is an adapter for another model"):
        load_model(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "tiktoken.model"])
def test_a_tokenizer_that_only_other_packages_read_is_named(name: str, folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / name)
    with pytest.raises(ModelError, match=rf"only in the format of SentencePiece or tiktoken \({name}\)"):
        load_model(folder)


def _said_to_be(folder: Path, *architectures: str) -> Path:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = architectures
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def with_rules_of_its_own(folder: Path, named: str) -> list[int]:
    """Let tokenizer_config.json name a class whose rules tokenizer.json does not have; the tokens of TEXT."""
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    triples = {"type": "Split", "pattern": {"Regex": r"\d{1,3}|\D+"}, "behavior": "Isolated", "invert": False}
    rest = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [triples, rest]}
    file.write_text(json.dumps(described), encoding="utf-8")
    said = {**json.loads(config.read_text(encoding="utf-8")), "tokenizer_class": named}
    config.write_text(json.dumps(said), encoding="utf-8")
    ids: list[int] = Tokenizer.from_file(str(file)).encode(TEXT, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("family", ["mamba2", "zamba2", "falcon_h1", "lfm2", "phi4flash"])
@pytest.mark.parametrize("named", ["GPT2Tokenizer", "GPTNeoXTokenizerFast", "LlamaTokenizer"])
def test_a_text_is_cut_as_the_published_tokenizer_says(family: str, named: str, tmp_path: Path) -> None:
    folder = build_folder(family, tmp_path / family)
    wanted = with_rules_of_its_own(folder, named)
    assert open_model(folder).ids(TEXT, "it") == wanted


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_whoever_reads_an_exported_folder_cuts_a_text_alike(named: str, folder: Path, tmp_path: Path) -> None:
    wanted, out = with_rules_of_its_own(folder, named), tmp_path / "out"
    out.mkdir()
    loaded = load_model(folder)
    write_small_files(folder, loaded.model.generation_config, out)
    write_tokenizer(loaded.tokenizer, out)
    assert AutoTokenizer.from_pretrained(out)(TEXT, add_special_tokens=False)["input_ids"] == wanted
    found = openvino_genai.Tokenizer(str(out)).encode(TEXT, add_special_tokens=False)
    assert found.input_ids.data[0].tolist() == wanted
    assert json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))["padding_side"] == "left"


def test_a_model_that_judges_texts_is_refused_before_its_weights_are_read(folder: Path) -> None:
    _said_to_be(folder, "BambaForSequenceClassification")
    with pytest.raises(ModelError, match="it predicts no text: it is a BambaForSequenceClassification"):
        load_model(folder)


def test_a_model_without_a_head_is_told(tmp_path: Path) -> None:
    """As published models for search are: their tensors lack a prefix, and embeddings pass for a head."""
    folder = build_folder("lfm2", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): t for name, t in tensors.items() if not name.startswith("lm_head")}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    for loaded in (load_model(_said_to_be(folder, "Lfm2Model")), open_model(folder)):
        (note,) = warnings(loaded)
        assert note.text.startswith("The files hold Lfm2Model, which has no head")
    assert list(warnings(load_model(_said_to_be(folder, "Lfm2ForCausalLM")))) == []


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
def test_a_configuration_that_says_null_is_not_quantized(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, name: None}), encoding="utf-8")
    assert load_model(folder).model.config.model_type == "bamba"


def test_tensors_without_a_place_are_told(folder: Path) -> None:
    assert list(warnings(load_model(folder))) == []
    _rewritten(folder, **{"vision_tower.patch.weight": torch.ones(4, 4)})
    for loaded in (load_model(folder), open_model(folder)):
        (note,) = warnings(loaded)
        assert note.text.startswith("Only the text part of this model is used.")
        assert "vision_tower.patch.weight" in note.text
    _rewritten(folder, **{"extra.weight": torch.ones(4, 4)})
    *_, note = warnings(load_model(folder))
    assert note.text.endswith("belong to no part of its text model, and are not used: extra.weight.")


def test_a_weight_beyond_fp16_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    weight = load_file(folder / "model.safetensors")[WEIGHT].clone()
    weight[3, 5] = 1e5
    _rewritten(folder, **{WEIGHT: weight})
    with pytest.raises(ModelError, match=f"{WEIGHT} has values beyond 65,504"):
        exported(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _constants(folder: Path) -> dict[ov.Type, list[np.ndarray[Any, Any]]]:
    graph = ov.Core().read_model(folder / "openvino_model.xml")
    found: dict[ov.Type, list[np.ndarray[Any, Any]]] = {}
    for op in graph.get_ops():
        if op.get_type_name() == "Constant":
            found.setdefault(op.get_element_type(), []).append(op.data)
    return found


def test_what_is_no_weight_and_beyond_fp16_stays_in_f32(folder: Path, tmp_path: Path) -> None:
    name = "model.layers.0.input_layernorm.weight"
    norm = load_file(folder / "model.safetensors")[name].clone()
    norm[7] = 1e5
    _rewritten(folder, **{name: norm})
    out = exported(folder, tmp_path / "out")
    assert any((values == norm[7].item()).any() for values in _constants(out)[ov.Type.f32])


def test_an_odd_number_of_tokens_has_zero_points_that_end_in_half_a_byte(tmp_path: Path) -> None:
    """As Falcon-H1's 65,537 and Hymba's 32,001 do; the other half held what the memory did."""
    folder = build_folder("lfm2", tmp_path / "model", vocab_size=4097)
    first, second = (exported(folder, tmp_path / name, "int4_asym_pc") for name in ("first", "second"))
    assert (first / "openvino_model.bin").read_bytes() == (second / "openvino_model.bin").read_bytes()


def test_rotary_frequencies_that_change_with_the_length_are_told(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    folder = build_folder("granite", tmp_path / "model", rope_parameters=rope, max_position_embeddings=512)
    events = export_model(LocalModel("it", folder), "fp16", tmp_path / "out", Cancel())
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("more than 512 tokens, this model changes its rotary frequencies" in text for text in notes)


@pytest.mark.parametrize("family", ["mamba", "zamba", "bamba"])
def test_decay_rates_stay_in_f32(family: str, tmp_path: Path) -> None:
    """exp(A_log · step) goes into every later token, so that a rate's error adds up over a text."""
    folder = build_folder(family, tmp_path / "model")
    constants = _constants(exported(folder, tmp_path / "out"))[ov.Type.f32]
    kept = [np.sort(np.abs(values), axis=None) for values in constants]
    model = load_model(folder).model
    rates = [p.float().exp().numpy() for name, p in model.named_parameters() if name.endswith("A_log")]
    assert rates
    for rate in rates:
        wanted = np.sort(rate, axis=None)
        assert any(len(v) == len(wanted) and np.allclose(v, wanted, rtol=1e-6) for v in kept)
