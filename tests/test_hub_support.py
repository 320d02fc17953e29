"""A repository that cannot be used says why, and costs no byte of a weight."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import HubError
from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.hub import store
from kl_lens_desktop.hub.candidate import examine
from kl_lens_desktop.hub.client import SUGGESTED, repository
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.model.fit import BENCH_FP16, rounding_bytes, sizes_of, stage_needs
from kl_lens_desktop.process.job import perform
from tests import hub_server
from tests.hub_server import Hub, Repository

ID = "some/model"
WEIGHTS = "model.safetensors"
FILES = {"tokenizer.json": b"{}", WEIGHTS: b"weights"}
PICKLES = {"config.json": b'{"model_type": "mamba"}', "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))
    hub_server.go_online(monkeypatch, tmp_path)
    with hub_server.serve({}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def config(**values: Any) -> dict[str, bytes]:
    return {"config.json": json.dumps({"model_type": "mamba2"} | values).encode()}


CASES = {
    "unsupported": (
        config(model_type="llama"),
        r"the architecture 'llama' is not supported; these are: .*zamba2",
    ),
    "its own code": (
        config(
            model_type="plamo2",
            auto_map={"AutoConfig": "configuration_plamo.C", "AutoModel": "o/r--modeling_plamo.M"},
        ),
        r"its architecture is code in the repository \(configuration_plamo.py, modeling_plamo.py\), "
        r"which KL Lens never runs",
    ),
    "its own code, of another kind": (
        config(model_type="rwkv7", auto_map={"AutoModelForCausalLM": "modeling_rwkv7.RWKV7ForCausalLM"}),
        r"its architecture is code in the repository \(modeling_rwkv7.py\), which KL Lens never runs",
    ),
    "sees, with an unsupported text part": (
        config(model_type="lfm2_vl", text_config={"model_type": "llama"}),
        r"the architecture 'llama' is not supported",
    ),
    "sees, without a text part": (config(model_type="lfm2_vl"), r"its config\.json has no text_config"),
    "sees, quantized as a whole": (
        config(
            model_type="lfm2_vl",
            text_config={"model_type": "lfm2"},
            quantization_config={"quant_method": "gptq", "bits": 4},
        ),
        r"quantized already \(GPTQ, 4 bits\)",
    ),
    "no architecture": ({"config.json": b"{}"}, r"its config\.json names no architecture"),
    "damaged": ({"config.json": b"{"}, r"its config\.json is damaged: it is not valid JSON"),
    "GPTQ": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"its weights are quantized already \(GPTQ, 4 bits\)\. Choose the model in full precision instead",
    ),
    "AWQ": (
        config(quantization_config={"quant_method": "awq", "bits": 4}),
        r"quantized already \(AWQ, 4 bits\)",
    ),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"quantized already \(bitsandbytes, 4 bits\)",
    ),
    "FP8 of a part": (
        config(text_config={"quantization_config": {"quant_method": "fp8"}}),
        r"quantized already \(FP8\)",
    ),
    "compression_config": (
        config(compression_config={"quant_method": "compressed-tensors"}),
        r"quantized already \(compressed-tensors\)",
    ),
    "hf_quant_config.json": (config() | {"hf_quant_config.json": b"{}"}, r"quantized already \(ModelOpt\)"),
    "quantize_config.json": (config() | {"quantize_config.json": b"{}"}, r"quantized already \(GPTQ\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unusable_repository_says_why_and_costs_no_weight(hub: Hub, case: str) -> None:
    files, words = CASES[case]
    hub.repositories[ID] = Repository(FILES | files)
    with pytest.raises(HubError, match=words) as raised:
        list(pull(ID))
    assert raised.value.next_step
    assert hub.bodies(WEIGHTS) == hub.bodies("tokenizer.json") == []
    assert store.list_models() == []
    with pytest.raises(HubError, match=words):
        examine(repository(ID))


def test_of_a_model_that_sees_the_text_part_is_judged(hub: Hub) -> None:
    hub.repositories[ID] = Repository(
        FILES | config(model_type="lfm2_vl", text_config={"model_type": "lfm2_moe"}, eos_token_id=7)
    )
    judged = examine(repository(ID))
    assert (judged.config["model_type"], judged.config["eos_token_id"]) == ("lfm2_moe", 7)


def test_a_model_without_tokenizer_is_refused(hub: Hub) -> None:
    hub.repositories[ID] = Repository(config() | {WEIGHTS: b"weights"})
    with pytest.raises(HubError, match="it has no tokenizer"):
        list(pull(ID))
    assert hub.bodies(WEIGHTS) == []


def test_code_in_a_repository_is_no_hindrance_where_it_is_not_needed(hub: Hub) -> None:
    hub.repositories[ID] = Repository(
        FILES | config(auto_map={"AutoModel": "modeling.M"}) | {"modeling.py": b""}
    )
    assert {file.name for file in examine(repository(ID)).files} == {"config.json", *FILES}


def test_a_quantized_model_names_the_one_that_it_was_made_from(hub: Hub) -> None:
    files = FILES | config(quantization_config={"quant_method": "gptq", "bits": 4})
    hub.repositories[ID] = Repository(files, tags=("base_model:ibm/x", "base_model:quantized:ibm/x"))
    with pytest.raises(HubError, match=r"Choose ibm/x instead\.$"):
        list(pull(ID))


def test_pickles_are_refused_and_a_copy_as_safetensors_is_named(hub: Hub) -> None:
    hub.repositories[ID] = Repository(PICKLES)
    with pytest.raises(HubError, match=r"pickles, which can run code.*convert the model, or choose another"):
        list(pull(ID))
    hub.repositories[f"{ID}-hf"] = Repository(FILES | config())
    with pytest.raises(HubError, match=r"pickles, which can run code.*Choose some/model-hf: the same"):
        list(pull(ID))
    hub.proposals = [
        {
            "num": 3,
            "title": "Adding `safetensors` variant of this model",
            "author": {"name": "SFconvertbot"},
            "status": "open",
            "isPullRequest": True,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "repo": {"name": ID, "type": "model"},
        }
    ]
    with pytest.raises(HubError, match="Run `kl-lens pull some/model --revision refs/pr/3`"):
        list(pull(ID))
    assert hub.bodies("pytorch_model.bin") == []


@pytest.mark.parametrize("command", [["pull", ID], ["inspect", ID], ["run", ID, "--out"]], ids=lambda c: c[0])
def test_every_command_says_so(
    hub: Hub, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[ID] = Repository(FILES | config(model_type="llama"))
    arguments = [*command, str(tmp_path / "out")] if command[-1] == "--out" else command
    assert run(arguments, perform) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kl-lens:")]
    assert said.startswith(f"kl-lens: Cannot use {ID}: the architecture 'llama' is not supported")
    assert hub.bodies(WEIGHTS) == []


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert run(list(arguments), perform) == status
    return capsys.readouterr().out


def test_a_check_says_what_would_come_and_downloads_nothing(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[ID] = Repository(FILES | config(), card={"license": "apache-2.0"})
    text = said(capsys, "pull", ID, "--check")
    assert "some/model at 3fa9c1d: mamba2, 7.97 M weights, licence apache-2.0" in text
    assert all(name in text for name in (*FILES, "config.json", "analyze", "export", "bench"))
    assert text.count("yes") == len(stage_needs(7_970_000, 0))
    assert hub.bodies(WEIGHTS) == hub.bodies("tokenizer.json") == []
    assert store.list_models() == []
    hub.repositories[ID] = Repository(FILES | config(model_type="llama"))
    assert said(capsys, "pull", ID, "--check", status=1) == ""


def test_search_lists_models_and_narrows_them(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repositories["a/hybrid"] = Repository({}, tags=("granitemoehybrid", "license:mit"))
    hub.repositories["b/hybrid"] = Repository({}, gated=True, config={"model_type": "llama"}, tags=("llama",))
    hub.repositories["LiquidAI/LFM2-350M"] = Repository({}, config={"model_type": "lfm2"})
    rows = json.loads(said(capsys, "search", "hybrid", "--json"))
    assert [(row["id"], row["obstacle"]) for row in rows] == [("a/hybrid", ""), ("b/hybrid", "not supported")]
    assert "on request" in said(capsys, "search", "hybrid")
    for option in (
        ("--architecture", "granitemoehybrid"),
        ("--licence", "mit"),
        ("--author", "a"),
        ("--open",),
    ):
        assert [row["id"] for row in json.loads(said(capsys, "search", "hybrid", "--json", *option))] == [
            "a/hybrid"
        ]
    assert said(capsys, "search", "nothing") == "No model with safetensors matches.\n"
    assert [row["id"] for row in json.loads(said(capsys, "search", "--json"))] == ["LiquidAI/LFM2-350M"]


def test_a_search_says_which_models_predict_no_text(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("JambaForSequenceClassification", "JambaForCausalLM"):
        config = {"model_type": "jamba", "architectures": [name]}
        hub.repositories[f"a/{name}"] = Repository({}, config=config)
    rows = json.loads(said(capsys, "search", "jamba", "--json"))
    assert {row["id"].rpartition("For")[2]: row["obstacle"] for row in rows} == {
        "SequenceClassification": "no language model",
        "CausalLM": "",
    }


def test_suggestions_are_published_models_of_families_that_are_known() -> None:
    assert set(SUGGESTED) <= {name for family in FAMILIES.values() for name in family.checkpoints}


def test_seven_billion_parameters_fit_sixteen_gigabytes_but_for_fp16s_benchmark() -> None:
    needs = {need.stage: need.ram_mb * 2**20 for need in stage_needs(7_000_000_000, 14_000_000_000)}
    too_large = {stage for stage, needed in needs.items() if needed > 16e9}
    assert too_large == {BENCH_FP16}
    assert needs["bench"] > 7e9 * 5 / 8, "the plan's weights, at the least"


def test_an_analysis_is_said_to_take_what_rounding_by_data_takes() -> None:
    """Of a block with many inputs, their second moments are the most that it takes."""

    def needs(inputs: int) -> dict[str, int]:
        block = {"l.0.up.weight": (inputs, 512), "l.0.down.weight": (512, inputs)}
        sizes = sizes_of({"embed.weight": (1000, 512), **block})
        return {need.stage: need.ram_mb for need in stage_needs(sizes.parameters, 0, sizes)}

    narrow, wide = needs(1024), needs(15_680)
    assert wide["analyze"] - narrow["analyze"] > rounding_bytes(15_680) / 2**20 - 800
    assert wide["analyze"] > 5000
    assert narrow["analyze"] < 1400
