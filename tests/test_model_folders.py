"""Model folders from anyone: one list of files for all, and whatever is wrong with them is one sentence."""

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load, load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kl_lens_desktop.cli.commands import COMMANDS, run
from kl_lens_desktop.errors import HubError, InputError, ModelError
from kl_lens_desktop.hub import download, refusals, store
from kl_lens_desktop.hub.resolve import resolve_model
from kl_lens_desktop.model.checkpoint import weight_files, weights_sha256
from kl_lens_desktop.model.load import LoadedModel, empty_model, load_model, open_model, warnings
from kl_lens_desktop.model.mapped import Stack
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.repository.model_files import INDEX, model_files
from kl_lens_desktop.text.passage import token_ids
from kl_lens_desktop.text.windows import windows
from tests import hub_server
from tests.hub_server import Hub, Repository
from tests.models import CONFIGURATIONS, IN_FLOAT32, build_bf16_folder, build_folder

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Damage = Callable[[Path], object]


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder("lfm2", tmp_path_factory.mktemp("sound") / "tiny", hidden_size=32)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "tiny"))


def shard(folder: Path, *, index: bool = True, names: tuple[str, str] = SHARDS) -> dict[str, str]:
    """Two files in place of one, with an index; the file of every tensor."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    homes = {name: names[at % 2] for at, name in enumerate(sorted(tensors))}
    for file in names:
        own = {name: tensors[name] for name, home in homes.items() if home == file}
        save_file(own, folder / file, {"format": "pt"})
    if index:
        write_index(folder, homes)
    return homes


def write_index(folder: Path, homes: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": homes}), encoding="utf-8")


def indexed(name: object) -> Damage:
    """An index that names that file for the first tensor."""

    def damage(folder: Path) -> None:
        homes = shard(folder)
        write_index(folder, {**homes, min(homes): name})

    return damage


def beside(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(whole)


def changed(file: str, **values: Any) -> Damage:
    """A JSON file with other values; `...` removes one."""

    def damage(folder: Path) -> None:
        path = folder / file
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known |= values
        kept = {name: value for name, value in known.items() if value is not ...}
        path.write_text(json.dumps(kept), encoding="utf-8")

    return damage


def config(**values: Any) -> Damage:
    return changed("config.json", **values)


def written(file: str, content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def header(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def doubled(folder: Path) -> None:
    homes = shard(folder)
    tensors = load_file(folder / SHARDS[0]) | load_file(folder / SHARDS[1])
    save_file(tensors, folder / SHARDS[1], {"format": "pt"})
    write_index(folder, dict.fromkeys(homes, SHARDS[1]) | {min(homes): SHARDS[0]})


def swapped(folder: Path) -> None:
    homes = shard(folder)
    one, two = min(homes), max(homes, key=lambda name: (homes[name], name))
    write_index(folder, {**homes, one: homes[two], two: homes[one]})


def renamed(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        shard(folder, index=False, names=(names[0], names[1]))

    return damage


def half_of_a_set(folder: Path) -> None:
    shard(folder, index=False)
    (folder / SHARDS[0]).unlink()


def linked(name: str) -> Damage:
    def damage(folder: Path) -> None:
        elsewhere = folder.parent / "elsewhere"
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)

    return damage


def made_a_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replacing(content: str, times: int = 1) -> Damage:
    step = {"type": "Replace", "pattern": {"String": "e"}, "content": content}
    return changed("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * times})


DEEP = "[" * 5000 + "]" * 5000
# What is wrong, and what is said of it. Of the first, the names of the files show it.
BY_NAME: dict[str, tuple[Damage, str]] = {
    "a file beside an index of others": (
        beside,
        "has a model.safetensors and a model.safetensors.index.json that names other files. Remove",
    ),
    "an index that leads outside": (indexed("../x.safetensors"), "index.json names '../x.safetensors'"),
    "an index with a path": (indexed("/tmp/x.safetensors"), "index.json names '/tmp/x.safetensors'"),
    "an index with another kind of file": (indexed("config.json"), "index.json names 'config.json'"),
    "an index of a missing file": (
        indexed("model-00003-of-00003.safetensors"),
        "files that are missing: model-00003-of-00003.safetensors. Download",
    ),
    "an index in other capitals": (
        indexed(SHARDS[0].upper()[:-11] + "safetensors"),
        "differ only in capital letters",
    ),
    "an index with a number": (indexed(3), "index.json: it names no file for"),
    "an index without a map": (written(INDEX, "{}"), "index.json: it has no weight_map"),
    "an index that is a list": (written(INDEX, "[]"), "index.json: it is not a JSON object"),
    "an index too deep": (written(INDEX, DEEP), "index.json: it is nested too deeply"),
    "an index with a tensor twice": (
        written(INDEX, '{"weight_map": {"a": "b", "a": "c"}}'),
        "index.json: it is not valid JSON (a key appears twice)",
    ),
    "several files and no index": (renamed("a.safetensors", "b.safetensors"), "a.safetensors, b.saf"),
    "half of a set of files": (half_of_a_set, "it has 1 of the 2 weight files of model"),
    "pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pickles, which can run code",
    ),
    "weights that are a link": (linked("model.safetensors"), "model.safetensors is a link to a file outs"),
    "weights that are a folder": (made_a_folder("model.safetensors"), "it has no *.safetensors"),
    "a configuration that is a link": (linked("config.json"), "config.json is a link to a file outside"),
    "a configuration that is a folder": (made_a_folder("config.json"), "it has no config.json"),
    "a configuration too large": (
        written("config.json", b" " * (4 * 2**20 + 1)),
        "config.json: it is larger than 4 MB",
    ),
    "a tokenizer that is a link": (linked("tokenizer.json"), "tokenizer.json is a link to a file"),
}
INSIDE: dict[str, tuple[Damage, str]] = {
    "a tensor in two files": (doubled, f"{SHARDS[0]} and {SHARDS[1]} both hold"),
    "tensors in each other's file": (swapped, "lacks what model.safetensors.index.json says is in it"),
    "a header that is no header": (written("model.safetensors", header(b"[]")), "damaged"),
    "a header too long": (written("model.safetensors", struct.pack("<Q", 2**62) + b"{}"), "damaged"),
    "a header too deep": (written("model.safetensors", header(DEEP.encode())), "damaged"),
    "a configuration that is no JSON": (written("config.json", "{"), "config.json: it is not valid"),
    "a configuration that is a list": (written("config.json", "[1]"), "config.json: it is not a JSON"),
    "a configuration too deep": (written("config.json", DEEP), "config.json: it is nested too"),
    "a configuration in Latin-1": (written("config.json", b'{"a": "\xe9"}'), "config.json: it is not valid"),
    "ten million layers": (
        config(num_hidden_layers=10**7),
        "config.json sets num_hidden_layers to 10000000, and no published model has more than 1,000",
    ),
    "more layers than tensors": (
        config(num_hidden_layers=900, layer_types=["conv"] * 900),
        "config.json asks for 900 layers, and its weights have only",
    ),
    "a layer more": (
        config(num_hidden_layers=5, layer_types=["conv"] * 5),
        " weights are missing, such as model.layers.",
    ),
    "an endless width": (config(hidden_size=2**40), "config.json sets hidden_size to 10"),
    "an endless vocabulary": (config(vocab_size=2**30), "config.json sets vocab_size to"),
    "endless heads": (config(num_attention_heads=10**6), "sets num_attention_heads to"),
    "a size beyond all numbers": (config(hidden_size=10**400), "sets hidden_size to 1000"),
    "no heads": (config(num_attention_heads=0), "config.json does not describe a model of the kind lfm2"),
    "another width": (
        config(hidden_size=64),
        "do not fit its config.json: model.embed_tokens.weight is 4096 × 32 and not 4096 × 64",
    ),
    "a width less than none": (
        config(hidden_size=-32),
        "config.json does not describe a model of the kind lfm2",
    ),
    "a width in words": (config(hidden_size="32"), "config.json does not describe a model of the kind lfm2"),
    "layers of no known kind": (
        config(layer_types=["x"] * 4),
        "config.json does not describe a model of the kind lfm2",
    ),
    "positions of a wrong kind": (
        config(rope_parameters=3),
        "config.json does not describe a model of the kind lfm2",
    ),
    "a type of no kind": (config(dtype="float1"), "config.json does not describe a model of the kind lfm2"),
    "no architecture": (config(model_type=...), "config.json names no architecture"),
    "weights named elsewhere": (
        config(transformers_weights="other.safetensors"),
        "config.json names other weights (other.safetensors) than model.safetensors",
    ),
    "weights named as a list": (
        config(transformers_weights=[1]),
        "config.json names other weights ([1]) than",
    ),
    "quantized weights": (config(quantization_config={}), "quantized already"),
    "no tokenizer": (
        without("tokenizer.json"),
        "it has no tokenizer. Choose a copy of the model with tokenizer.json",
    ),
    "a tokenizer that is no JSON": (written("tokenizer.json", "x"), "tokenizer.json: it is not v"),
    "a tokenizer too deep": (written("tokenizer.json", DEEP), "tokenizer.json: it is nested too"),
    "a tokenizer of nothing": (written("tokenizer.json", "{}"), "tokenizer.json: it does not describe"),
    "a tokenizer with a wrong model": (
        changed("tokenizer.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
        "tokenizer.json or tokenizer_config.json is damaged",
    ),
    "a tokenizer that panics when opened": (
        changed("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": ""}),
        "tokenizer.json or tokenizer_config.json is damaged, or needs the model's own code (PanicException",
    ),
    "a tokenizer that panics when used": (
        changed("tokenizer.json", pre_tokenizer={"type": "FixedLength", "length": 0}),
        "tokenizer.json or tokenizer_config.json is damaged, or needs the model's own code (PanicException",
    ),
    "a letter made long": (replacing("x" * 100_000), "tokenizer.json: it makes a text more than 256 t"),
    "a letter doubled forty times": (replacing("ee", 40), "tokenizer.json: it makes a text more than"),
    "a tokenizer's settings that are a list": (
        written("tokenizer_config.json", "[]"),
        "tokenizer_config.json: it is not a JSON object",
    ),
    "a tokenizer's settings of a wrong kind": (
        changed("tokenizer_config.json", added_tokens_decoder=3),
        "tokenizer.json or tokenizer_config.json is damaged",
    ),
    "special tokens of a wrong kind": (
        written("special_tokens_map.json", '{"bos_token": {"content": 3}}'),
        "tokenizer.json or tokenizer_config.json is damaged",
    ),
    "how to generate as a list": (written("generation_config.json", "[]"), "generation_config.json: it"),
    "how to generate as words": (
        changed("generation_config.json", max_new_tokens="many", num_beams=[]),
        "generation_config.json does not describe how to generate",
    ),
}


@pytest.mark.parametrize("case", BY_NAME | INSIDE)
def test_a_damaged_folder_is_refused_in_one_sentence(
    folder: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = (BY_NAME | INSIDE)[case]
    if "link" in case and sys.platform == "win32":
        pytest.skip("links need a privilege on Windows")
    damage(folder)
    out = folder.parent / "scores.json"
    commands = [["inspect", str(folder)], ["analyze", str(folder), "--out", str(out)], ["pull", str(folder)]]
    for command in commands if case in BY_NAME else commands[:2]:
        capsys.readouterr()
        assert run(command, perform) == 1
        *_, said = capsys.readouterr().err.strip().splitlines()
        assert said.startswith("kl-lens: Cannot "), said
        assert "report it" not in said
        assert said.endswith(".")
        assert words in said
    assert not out.exists()


def test_a_sound_folder_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(folder)], perform) == 0
    assert run(["pull", str(folder)], perform) == 0
    assert load_model(folder).ids("hello", "it")


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_what_is_loaded_is_what_transformers_loads(family: str, tmp_path: Path) -> None:
    made = build_folder(family, tmp_path / "made")
    ours, theirs = load_model(made), AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    assert type(ours.model) is type(theirs)
    assert ours.model.config.to_dict() == theirs.config.to_dict()
    assert ours.model.generation_config.to_dict() == theirs.generation_config.to_dict()
    for kind in ("named_parameters", "named_buffers"):
        mine, stock = (dict(getattr(model, kind)()) for model in (ours.model, theirs))
        assert mine.keys() == stock.keys()
        assert all(torch.equal(mine[name], stock[name]) for name in stock)
    text = "It was a bright cold day in April."
    assert (
        ours.ids(text, "it")
        == AutoTokenizer.from_pretrained(made)(text, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_what_is_opened_is_what_is_loaded_in_the_files_precision(family: str, tmp_path: Path) -> None:
    made = build_bf16_folder(family, tmp_path / "made")
    opened, loaded = open_model(made).model, load_model(made).model
    assert opened.config.to_dict() == loaded.config.to_dict()
    assert opened.generation_config.to_dict() == loaded.generation_config.to_dict()
    ours, theirs = (dict(model.named_parameters(remove_duplicate=False)) for model in (opened, loaded))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert parameter.dtype == (torch.float32 if name.endswith(IN_FLOAT32) else torch.bfloat16)
        assert torch.equal(parameter.float(), theirs[name])
    assert len({id(each) for each in ours.values()}) == len({id(each) for each in theirs.values()})
    buffers = dict(opened.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert buffers[name].dtype == buffer.dtype
        assert torch.equal(buffers[name], buffer)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what lies where")
@pytest.mark.parametrize("family", ["lfm2", "jamba with experts"])
def test_an_opened_model_leaves_its_weights_in_the_file(family: str, tmp_path: Path) -> None:
    made = build_bf16_folder(family, tmp_path / "made")
    model = open_model(made).model
    maps = psutil.Process().memory_maps(grouped=False)
    ranges = [each.addr.split("-") for each in maps if each.path == str(made / "model.safetensors")]
    for parameter in model.parameters():
        parts = [parameter]
        if isinstance(parameter, Stack):
            parts = [part for expert in parameter.experts for part in expert]
            assert torch.equal(parameter[1], parameter.whole()[1])
        for part in parts:
            assert any(int(low, 16) <= part.data_ptr() < int(high, 16) for low, high in ranges)


def test_tensors_may_lie_anywhere_in_a_file(folder: Path) -> None:
    """Other writers than safetensors' own need not put them where their elements may lie."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    stored = load(content)
    length = int.from_bytes(content[:8], "little")
    spaced = content[8 : 8 + length] + b" "
    path.write_bytes(len(spaced).to_bytes(8, "little") + spaced + content[8 + length :])
    for name, parameter in open_model(folder).model.named_parameters():
        assert torch.equal(parameter, stored[name])


def test_the_weights_that_are_hashed_are_those_that_are_loaded(folder: Path) -> None:
    """A file that no index names lies beside, with other weights; so does a template for a newer program."""
    other = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    homes = shard(folder)
    save_file(other, folder / "consolidated.safetensors", {"format": "pt"})
    (folder / "config.4.0.0.json").write_text("{}", encoding="utf-8")
    changed("config.json", configuration_files=["config.4.0.0.json"])(folder)
    assert [file.name for file in weight_files(folder)] == list(SHARDS)
    loaded = load_model(folder)
    assert loaded.files == [folder / name for name in SHARDS]
    stored = load_file(folder / homes["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    assert torch.equal(loaded.model.get_input_embeddings().weight, stored)


@pytest.mark.parametrize("names", [SHARDS, ("a-1-of-2.safetensors", "a-2-of-2.safetensors")])
def test_a_whole_set_of_files_needs_no_index(folder: Path, sound: Path, names: tuple[str, str]) -> None:
    shard(folder, index=False, names=names)
    assert [file.name for file in load_model(folder).files] == list(names)
    assert torch.equal(logits(folder), logits(sound))


def test_a_file_of_another_name_is_inspected_hashed_and_loaded(folder: Path, sound: Path) -> None:
    before = weights_sha256(weight_files(folder))
    (folder / "model.safetensors").rename(folder / "lfm2-tiny.safetensors")
    assert run(["inspect", str(folder)], perform) == 0
    assert weights_sha256(load_model(folder).files) == before
    assert torch.equal(logits(folder), logits(sound))


def test_an_index_that_names_the_one_file_is_no_contradiction(folder: Path) -> None:
    write_index(folder, dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors"))
    assert [file.name for file in load_model(folder).files] == ["model.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_the_hubs_own_cache_opens(sound: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--tiny--hybrid"
    snapshot = cache / "snapshots" / hub_server.COMMIT
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sound.iterdir()):
        shutil.copyfile(file, cache / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(os.path.join("..", "..", "blobs", f"{number:040x}"))
    assert resolve_model(str(snapshot)).folder == snapshot
    assert torch.equal(logits(snapshot), logits(sound))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX])
def test_a_byte_order_mark_is_not_damage(folder: Path, sound: Path, name: str) -> None:
    if name == INDEX:
        shard(folder)
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert torch.equal(logits(folder), logits(sound))


def test_numbers_that_json_lacks_are_read_as_published(tmp_path: Path) -> None:
    made = build_folder("mamba2", tmp_path / "made")
    text = (made / "config.json").read_text(encoding="utf-8")
    assert '"__float__": "Infinity"' in text
    bare = text.replace('{\n      "__float__": "Infinity"\n    }', "Infinity")
    assert bare != text
    (made / "config.json").write_text(bare, encoding="utf-8")
    assert empty_model(made).config.time_step_limit[1] == float("inf")


def with_added_tokens(folder: Path, *tokens: str) -> None:
    path = folder / "tokenizer.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    known["added_tokens"] += [
        {"id": 4096 + at, "content": token, "special": True, **kinds} for at, token in enumerate(tokens)
    ]
    path.write_text(json.dumps(known), encoding="utf-8")


def test_tokens_without_an_embedding_matter_only_where_a_text_has_them(folder: Path) -> None:
    with_added_tokens(folder, "<|im_start|>", "<|im_end|>", "<|tool|>", "<|eot|>")
    loaded = load_model(folder)
    (note,) = warnings(loaded)
    assert note.level == "warning"
    assert "<|im_start|> (id 4096), <|im_end|> (id 4097), <|tool|> (id 4098) and 1 more." in note.text
    text = folder.parent / "chat.txt"
    text.write_text("It was a bright cold day in April. " * 40, encoding="utf-8")
    assert windows(loaded, [text], 128, 64)[0].max() < 4096
    assert max(token_ids(folder, "It was a bright cold day.")) < 4096
    text.write_text("It was a bright cold day in April. " * 40 + "<|im_end|>", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"Cannot use .*chat\.txt with this model.*: <\|im_end\|> \(id 4097\)\. R"
    ):
        windows(loaded, [text], 128, 64)
    with pytest.raises(InputError, match=r"no embedding for: <\|im_end\|> \(id 4097\)\. Remove them"):
        token_ids(folder, "bright<|im_end|>")


def test_a_tokenizer_that_fits_is_not_warned_of(folder: Path) -> None:
    assert list(warnings(load_model(folder))) == []


def test_a_panic_in_the_middle_of_a_text_is_a_sentence(folder: Path) -> None:
    loaded = load_model(folder)

    class PanicException(BaseException):
        """Called as pyo3's, and no Exception either."""

    def tokenizer(*_: object, **__: object) -> None:
        raise PanicException("index out of bounds")

    broken = LoadedModel(loaded.model, tokenizer, loaded.files)
    with pytest.raises(ModelError, match=r"Cannot read a\.txt: .*PanicException: index out of bounds"):
        broken.ids("text", "a.txt")


def test_a_panic_nobody_expected_is_a_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class PanicException(BaseException):
        """Called as pyo3's, and no Exception either."""

    def panics(_: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setitem(COMMANDS, "pull", panics)
    assert run(["pull", "sample"], perform) == 1
    assert "PanicException: index out of bounds. Run again with --debug" in capsys.readouterr().err


def test_a_lack_of_memory_is_not_called_damage(folder: Path) -> None:
    loaded = load_model(folder)

    def tokenizer(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(MemoryError, match="can't allocate memory"):
        LoadedModel(loaded.model, tokenizer, loaded.files).ids("text", "a.txt")


def test_only_known_files_of_the_folder_itself_are_taken_along(folder: Path) -> None:
    (folder / "secret.json").write_text("{}", encoding="utf-8")
    (folder / "x.json").mkdir()
    (folder / "merges.txt").mkdir()
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert [file.name for file in model_files(folder).small] == [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ]
    assert load_model(folder).tokenizer.chat_template == "{{ messages }}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))
    hub_server.go_online(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(refusals, "_FIRST_DELAY_S", 0.01)
    with hub_server.serve({}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def pulled(hub: Hub, files: dict[str, bytes]) -> Path:
    hub.repositories["tiny/hybrid"] = Repository(files)
    *_, last = download.pull("tiny/hybrid")
    found = store.find("tiny/hybrid")
    assert found is not None
    assert str(found.folder) == last.result["folder"]  # type: ignore[attr-defined]
    return found.folder


def test_of_a_single_file_and_shards_the_single_file_is_pulled_and_opens(hub: Hub, folder: Path) -> None:
    beside(folder)
    got = pulled(hub, hub_server.folder_files(folder))
    assert sorted(path.name for path in got.glob("model*")) == ["model.safetensors"]
    assert [file.name for file in load_model(resolve_model("tiny/hybrid").folder).files] == [
        "model.safetensors"
    ]


def test_shards_that_another_tool_pulled_too_are_no_hindrance(hub: Hub, folder: Path) -> None:
    beside(folder)
    files = hub_server.folder_files(folder)
    (pulled(hub, files) / INDEX).write_bytes(files[INDEX])
    assert load_model(resolve_model("tiny/hybrid").folder)


def test_what_the_repositorys_index_names_is_pulled_whatever_it_is_called(hub: Hub, folder: Path) -> None:
    shard(folder, names=("first.safetensors", "second.safetensors"))
    (folder / "third.safetensors").write_bytes(b"no part of it")
    got = pulled(hub, hub_server.folder_files(folder))
    assert sorted(path.name for path in got.glob("*.safetensors")) == [
        "first.safetensors",
        "second.safetensors",
    ]
    assert load_model(got)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (indexed("../x.safetensors"), r"index\.json names '\.\./x\.safetensors'"),
        (indexed("model-00003-of-00003.safetensors"), "files that are missing: model-00003"),
        (lambda f: (shard(f), written(INDEX, DEEP)(f)), r"index\.json is damaged: it is nested too deeply"),
        (renamed("a.safetensors", "b.safetensors"), "several weight files and no model"),
        (half_of_a_set, "1 of the 2 weight files of model"),
        (written("config.json", b" " * (4 * 2**20 + 1)), r"its config\.json is larger than 4 MB"),
    ],
)
def test_a_repository_that_could_never_be_opened_is_not_pulled(
    hub: Hub, folder: Path, damage: Damage, words: str
) -> None:
    damage(folder)
    with pytest.raises(HubError, match=words):
        pulled(hub, hub_server.folder_files(folder))
    assert hub.bodies("tokenizer.json") == []


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_model(folder).model(torch.arange(1, 9)[None]).logits
    return found
