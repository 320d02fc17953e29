"""Opening model folders: what is whole opens, what is not says why; every matrix is counted once."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from kl_lens_desktop.errors import KLLensError, ModelError
from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.kernels.chunk_scan.fast import scan, scan_in_chunks
from kl_lens_desktop.kernels.replace import fast_kernels, replaced_functions
from kl_lens_desktop.model.checkpoint import weight_files, weights_sha256
from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable, weight_name, weight_parameters
from kl_lens_desktop.model.load import empty_model, load_model
from tests.models import CONFIGURATIONS, build, build_folder


@pytest.fixture
def copy(sample: LocalModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample.folder, tmp_path / "copy"))


def test_the_samples_inventory(sample: LocalModel) -> None:
    model = empty_model(sample.folder)
    weights = inventory(model)
    by_name = {weight.name: weight for weight in weights}
    assert by_name["model.embed_tokens.weight"].uses == 2, "the head is tied to it"
    assert by_name["model.embed_tokens.weight"].kind == "embedding"
    assert by_name["model.layers.0.mamba.in_proj.weight"].kind == "ssm"
    assert by_name["model.layers.3.self_attn.q_proj.weight"].kind == "attention"
    assert by_name["model.layers.7.shared_mlp.input_linear.weight"].block == 7
    assert [weight.kind for weight in weights].count("conv") == 6
    total = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * sum(w.parameters for w in quantizable(weights)) + kept_bytes(model, weights) == 2 * total


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_every_matrix_of_every_family_is_listed_once(family: str) -> None:
    model = build(family)
    weights = inventory(model)
    names = [weight.name for weight in weights]
    assert len(names) == len(set(names))
    matrices = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d))
    }
    stacks = {id(parameter) for name, parameter in model.named_parameters() if name.endswith("_proj")}
    assert bool(stacks) == ("with experts" in family)
    parameters = weight_parameters(model)
    assert {id(parameters[name]) for name in names} == matrices | stacks
    assert all(tuple(parameters[weight.name].shape) == weight.shape for weight in weights)


def test_a_stack_of_experts_is_one_weight() -> None:
    weights = {weight.name: weight for weight in inventory(build("nemotron_h with experts"))}
    stack = weights["model.layers.1.mixer.experts.up_proj.weight"]
    assert (stack.kind, stack.block, stack.shape, stack.parameters) == ("mlp", 1, (4, 48, 32), 6144)
    assert weight_name("model.layers.1.mixer.experts.up_proj") == stack.name
    for other in (
        "layers.1.experts.0.up_proj.weight",
        "layers.1.mlp.experts.up_proj_bias",
        "layers.0.mamba.D",
    ):
        assert weight_name(other) == other


def test_a_shared_block_is_one_weight_with_several_uses() -> None:
    shared = [weight for weight in inventory(build("zamba2")) if "shared_transformer" in weight.name]
    attention = [weight for weight in shared if weight.kind == "attention" and "q_proj" in weight.name]
    assert [weight.uses for weight in attention] == [2]
    assert attention[0].block == 2


def test_cut_short_safetensors(copy: Path) -> None:
    file = copy / "model.safetensors"
    data = file.read_bytes()
    for length in (0, 4, 100, 5000, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(ModelError, match="incomplete or damaged"):
            load_model(copy)


def test_a_weight_is_missing(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.3.self_attn.q_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, such as model\.layers\.3"):
        load_model(copy)


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(KLLensError, match="safetensors"):
        resolve_model(str(copy))


def test_an_unsupported_architecture_is_refused_with_the_list(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "llama"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"'llama' is not supported.*granitemoehybrid.*zamba2"):
        load_model(copy)


def test_code_in_the_folder_does_not_run(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\n", encoding="utf-8")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Config"}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load_model(copy)
    assert not marker.exists()


def test_the_identity_is_the_files_hash(sample: LocalModel) -> None:
    import hashlib

    files = weight_files(sample.folder)
    assert weights_sha256(files) == hashlib.sha256(files[0].read_bytes()).hexdigest()


@pytest.mark.parametrize("kernel", [scan, scan_in_chunks])
@pytest.mark.parametrize("family", ["granitemoehybrid", "mamba2", "bamba", "zamba2", "falcon_h1"])
def test_the_fast_scan_is_the_stock_one(family: str, kernel: object) -> None:
    model = build(family)
    ids = torch.randint(1, 4000, (2, 200), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        stock = model(ids).logits
        with replaced_functions(model, {"mamba2_chunk_scan": kernel}):
            fast = model(ids).logits
        again = model(ids).logits
    assert (fast - stock).abs().max() < 2e-5 * stock.std()
    assert torch.equal(stock, again), "the modelling module is as it was"


def test_the_modelling_module_is_restored_after_an_error() -> None:
    import sys

    model = build("mamba2")
    module = sys.modules[type(model).__module__]
    stock = module.mamba2_chunk_scan
    with pytest.raises(ZeroDivisionError), fast_kernels(model):
        assert module.mamba2_chunk_scan is not stock
        raise ZeroDivisionError
    assert module.mamba2_chunk_scan is stock


def test_a_folder_of_another_family_opens(tmp_path: Path) -> None:
    loaded = load_model(build_folder("bamba", tmp_path / "bamba"))
    assert loaded.model.config.model_type == "bamba"
    assert loaded.tokenizer("hello")["input_ids"]
