"""Checkpoints as mamba-ssm writes them, against the figures that their authors published and transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openvino_genai
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kl_lens_desktop.errors import HubError, ModelError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.load import load_model, open_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.repository.model_files import UnusableError
from kl_lens_desktop.repository.native import TOKENIZER_OF, in_transformers
from tests import hub_server
from tests.hub_server import Hub, Repository, folder_files
from tests.models import build_folder

# As config.json of state-spaces/mamba2-130m and mamba-130m has them, and with the sizes of their README.
MAMBA2 = {
    "d_model": 768,
    "n_layer": 24,
    "vocab_size": 50277,
    "d_intermediate": 0,
    "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [],
    "attn_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}
MAMBA = {
    "d_model": 768,
    "n_layer": 24,
    "vocab_size": 50277,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}
PUBLISHED = {
    "mamba-130m": (MAMBA, {}, 129_135_360),
    "mamba-370m": (MAMBA, {"d_model": 1024, "n_layer": 48}, 371_516_416),
    "mamba-2.8b": (MAMBA, {"d_model": 2560, "n_layer": 64}, 2_768_345_600),
    "mamba2-130m": (MAMBA2, {}, 128_989_632),
    "mamba2-370m": (MAMBA2, {"d_model": 1024, "n_layer": 48}, 368_346_624),
    "mamba2-2.7b": (MAMBA2, {"d_model": 2560, "n_layer": 64}, 2_702_599_680),
}


def meta(config: dict[str, Any]) -> PreTrainedModel:
    own = dict(config)
    chosen = CONFIG_MAPPING[own.pop("model_type")](**own)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(chosen)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_makes_a_model_of_the_published_size(name: str) -> None:
    base, changes, parameters = PUBLISHED[name]
    model = meta(in_transformers({**base, **changes}))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.config.vocab_size % base["pad_vocab_size_multiple"] == 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"attn_layer_idx": [9, 18]}, "layers of attention"),
        ({"d_intermediate": 1536}, "layers of perceptrons"),
        ({"rms_norm": False}, "norms subtract the mean"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "of the kind Mamba3"),
        ({"ssm_cfg": {"layer": "Mamba2", "D_has_hdim": True}}, "cannot follow its ssm_cfg: D_has_hdim"),
        ({"ssm_cfg": {"layer": "Mamba2", "rmsnorm": False}}, "cannot follow its ssm_cfg: rmsnorm"),
        ({"ssm_cfg": {"layer": "Mamba2", "unheard_of": 1}}, "cannot follow its ssm_cfg: unheard_of"),
        ({"ssm_cfg": 3}, "its config.json is damaged"),
        ({"n_layer": "many"}, "its config.json is damaged"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UnusableError, match=why):
        in_transformers({**MAMBA2, **changes})


def test_other_configurations_are_left_alone() -> None:
    config = {"model_type": "mamba", "d_model": 768, "n_layer": 24}
    assert in_transformers(config) is config


NATIVE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mamba": ({"ssm_cfg": {"d_state": 8}, "tie_embeddings": True}, {}),
    "mamba2": (
        {
            "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 16, "ngroups": 2, "chunk_size": 16},
            "tie_embeddings": False,
        },
        {},
    ),
}


def native(kind: str, folder: Path, *, tokenizer: bool = True) -> tuple[Path, PreTrainedModel]:
    """A small model of transformers in the layout of mamba-ssm; and what transformers makes of it."""
    build_folder(kind, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"d_model": 64, "n_layer": 4, "vocab_size": 4090, "pad_vocab_size_multiple": 16}
    (folder / "config.json").write_text(json.dumps({**config, **NATIVE[kind][0]}), encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if not tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    return folder, model.eval()


@pytest.mark.parametrize("kind", NATIVE)
def test_a_native_checkpoint_answers_as_transformers(kind: str, tmp_path: Path) -> None:
    folder, model = native(kind, tmp_path / "model")
    ids = torch.arange(1, 60)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        assert torch.allclose(load_model(folder).model(ids).logits, wanted, atol=1e-5)
    mapped = open_model(folder).model
    assert torch.equal(mapped.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_an_exported_one_is_like_any_other(tmp_path: Path) -> None:
    folder, model = native("mamba2", tmp_path / "model")
    for _ in export_model(LocalModel("native", folder), "int8_sym", tmp_path / "out", Cancel()):
        pass
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "mamba2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The ship", return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=8, do_sample=False)
    wanted = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    pipe = openvino_genai.LLMPipeline(str(tmp_path / "out"), "CPU", INFERENCE_PRECISION_HINT="f32")
    assert pipe.generate("The ship", max_new_tokens=8, do_sample=False, apply_chat_template=False) == wanted


def test_without_a_tokenizer_it_says_so(tmp_path: Path) -> None:
    folder, _ = native("mamba", tmp_path / "model", tokenizer=False)
    with pytest.raises(ModelError, match="it has no tokenizer"):
        load_model(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))
    hub_server.go_online(monkeypatch, tmp_path)
    with hub_server.serve({}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_authors_tokenizer_comes_along_where_that_is_allowed(hub: Hub, tmp_path: Path) -> None:
    complete, _ = native("mamba2", tmp_path / "model")
    files = folder_files(complete)
    bare = {name: content for name, content in files.items() if not name.startswith("tokenizer")}
    hub.repositories["some/mamba2"] = Repository(bare)
    other = {name: files[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    hub.repositories[TOKENIZER_OF] = Repository({**other, "model.safetensors": b"not wanted"})
    with pytest.raises(HubError, match=f"its authors use that of {TOKENIZER_OF}.*--with-tokenizer"):
        list(pull("some/mamba2"))
    assert hub.bodies("model.safetensors") == []
    list(pull("some/mamba2", tokenizer=True))
    local = resolve_model("some/mamba2")
    assert load_model(local.folder).tokenizer("The ship")["input_ids"]
    before = [request.path for request in hub.bodies("model.safetensors") if request.server == "hub"]
    assert before
    assert all("some/mamba2" in path for path in before)
    list(pull("some/mamba2"))  # all is there: nothing to be asked
    after = [request.path for request in hub.bodies("model.safetensors") if request.server == "hub"]
    assert after == before
