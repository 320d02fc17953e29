"""An exported folder goes to the Hub as it was shown, and private unless it is wished otherwise."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from kl_lens_desktop import publishing
from kl_lens_desktop.bench.figures import spread
from kl_lens_desktop.bench.report import table
from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.publishing import existing, has_figures, publish_plan
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores
from tests import hub_server
from tests.hub_server import Hub, Repository
from tests.strangers import bench_document, bench_row

BASE = "ibm/hybrid"
TARGET = "me/hybrid-openvino"
ORIGINAL = {
    "config.json": b'{"model_type": "mamba2"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "LICENSE": b"Do as you like.",
    "README.md": b"---\nlicense: apache-2.0\n---\nThe original.",
}
WRITTEN = {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"\0" * 1000, "config.json": b"{}"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))
    hub_server.go_online(monkeypatch, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_server.serve({BASE: Repository(dict(ORIGINAL))}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export of the model leaves."""
    folder = tmp_path / "out" / "plan"
    folder.mkdir(parents=True)
    for name, content in WRITTEN.items():
        (folder / name).write_bytes(content)
    card = {
        "made_by": "KL Lens Desktop 0.1.0",
        "model": {"id": BASE, "revision": hub_server.COMMIT, "sha256": "0" * 64},
        "audit": {"formats": {"int4_sym_g64": 12, "int8_sym": 3}},
        "files": ["kl_lens.json", *WRITTEN],
        "contents": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in WRITTEN.items()
        },
    }
    (folder / "kl_lens.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "notes of mine.txt").write_text("private", encoding="utf-8")
    return folder


def push(folder: Path, *options: str, status: int = 0) -> None:
    assert run(["push", str(folder), TARGET, *options], perform) == status


def test_a_folder_is_uploaded_private_with_card_and_licence_and_nothing_else(hub: Hub, folder: Path) -> None:
    list(pull(BASE))
    push(folder, "--yes")
    there = hub.repositories[TARGET]
    assert there.private
    assert set(there.files) == {"kl_lens.json", "LICENSE", "README.md", *WRITTEN}
    assert {name: there.files[name] for name in WRITTEN} == WRITTEN
    assert there.files["LICENSE"] == ORIGINAL["LICENSE"]
    card = ModelCard(there.files["README.md"].decode())
    assert (card.data.base_model, card.data.license) == (BASE, "apache-2.0")
    assert card.data.tags == ["openvino", "nncf"]
    assert "12 weights in int4\\_sym\\_g64, 3 weights in int8\\_sym" in card.text
    push(folder, "--yes", "--public")
    assert hub.repositories[TARGET].private, "what exists keeps its visibility"


def test_files_of_something_else_are_replaced_only_by_consent(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"README.md": b"My model.", "config.json": b"{}", "model.safetensors": b"weights"}
    hub.repositories[TARGET] = Repository(dict(theirs), private=True)
    push(folder, "--yes", status=1)
    assert f"Cannot push to {TARGET}: it holds README.md, config.json, which KL Lens did not write" in (
        capsys.readouterr().err
    )
    assert hub.repositories[TARGET].files == theirs
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "y")
    push(folder, "--replace")
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "config.json" in line]
    assert "replaces one" in line
    assert f"to {TARGET} (private)? [y/N]" in said
    there = hub.repositories[TARGET].files
    assert there["model.safetensors"] == b"weights"
    assert there["README.md"] != b"My model."
    push(folder, "--yes")  # an upload of ours is followed by the next


def test_a_repository_that_everybody_sees_is_not_taken_for_a_private_one(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[TARGET] = Repository({".gitattributes": b""})
    push(folder, "--yes", status=1)
    assert f"Cannot push to {TARGET}: everybody can see it" in capsys.readouterr().err
    assert set(hub.repositories[TARGET].files) == {".gitattributes"}
    push(folder, "--yes", "--public")
    assert set(hub.repositories[TARGET].files) > {".gitattributes", *WRITTEN}


def test_what_others_change_in_between_is_not_written_over(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, "--yes")
    seen = existing(TARGET)
    assert seen
    hub.repositories[TARGET].commit = "b" * 40
    monkeypatch.setattr(publishing, "existing", lambda _: seen)
    push(folder, "--yes", status=1)
    assert "412" in capsys.readouterr().err


def test_public_only_if_it_is_wished(hub: Hub, folder: Path) -> None:
    push(folder, "--yes", "--public")
    assert not hub.repositories[TARGET].private


def test_what_would_be_uploaded_is_shown_and_nobody_is_passed_over(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, status=1)
    said = capsys.readouterr()
    assert "Add --yes if you agree" in said.err
    assert all(name in said.out for name in (*WRITTEN, "README.md", "base_model: ibm/hybrid"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "n")
    push(folder)
    assert TARGET not in hub.repositories
    monkeypatch.setattr("builtins.input", lambda: "y")
    push(folder)
    assert TARGET in hub.repositories


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "kl_lens.json").unlink(), "it is not a folder that KL Lens exported"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "openvino_model.bin").write_bytes(b""), "openvino_model.bin is damaged"),
    ],
)
def test_a_damaged_folder_is_not_uploaded(
    hub: Hub, folder: Path, spoil: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)  # type: ignore[operator]
    push(folder, "--yes", status=1)
    assert words in capsys.readouterr().err
    assert TARGET not in hub.repositories


def test_without_a_token_or_with_a_wrong_one_it_is_said(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    push(folder, "--yes", status=1)
    assert "the Hub does not accept your token" in capsys.readouterr().err
    assert run(["push", str(folder), "nonsense"], perform) == 1
    assert "it is no Hub id. Write owner/name" in capsys.readouterr().err


def test_names_of_strangers_are_no_markup_in_the_card(hub: Hub, folder: Path) -> None:
    card = json.loads((folder / "kl_lens.json").read_text(encoding="utf-8"))
    card["made_by"], card["model"]["id"] = "[x](http:evil) `|`\n# Title", "../../etc"
    (folder / "kl_lens.json").write_text(json.dumps(card), encoding="utf-8")
    publication = publish_plan(folder)
    assert "by \\[x\\](http:evil) \\`\\|\\` \\# Title." in publication.card
    assert publication.base_model == ""


def test_the_card_that_is_uploaded_is_the_one_in_the_folder(hub: Hub, folder: Path) -> None:
    mine = publish_plan(folder).card.replace("## Use", "Words of mine.\n\n## Use")
    (folder / "README.md").write_text(mine, encoding="utf-8")
    push(folder, "--yes")
    assert hub.repositories[TARGET].files["README.md"].decode() == mine
    path = folder.parent / "bench.json"
    path.write_text(json.dumps(bench_document([bench_row("plan")])), encoding="utf-8")
    text = publish_plan(folder, path).card
    assert "Words of mine." in text
    assert "| CPU | 8.00 MB" in text
    assert "| CPU" not in publish_plan(folder).card, "the folder is as it was"


def test_the_card_shows_the_figures_of_this_folder(hub: Hub, folder: Path) -> None:
    path = folder.parent / "bench.json"
    weights = {"model.layers.0.mlp.weight": "int8_sym"}
    identity = ModelIdentity(BASE, None, "0" * 64)
    plan = Plan(identity, weights, None, "kl", {"kl": None, "se": None, "bytes": 1})
    save_plan(folder / "plan.json", plan)
    mine = {"model": asdict(identity), "plan_sha256": plan.sha256}
    rows = [{**bench_row("plan"), **mine}, bench_row("int8_sym", speed=50.0)]
    path.write_text(json.dumps(bench_document(rows)), encoding="utf-8")
    text = publish_plan(folder, path).card
    (line,) = [line for line in text.splitlines() if line.startswith("| CPU")]
    assert [cell.strip() for cell in line.split("|")][1:3] == ["CPU", "8.00 MB"]
    assert "100 ± 5" in line
    slowed = {"plan": [150.0] * 4 + [75.0] * 4, "int8_sym": [100.0] * 4}  # others took fewer rounds
    took = []
    for row in rows:
        rounds = slowed[row["variant"]]
        took.append({**row, "tokens_per_s": {**spread(rounds), "rounds": rounds}})
    path.write_text(json.dumps(bench_document(took)), encoding="utf-8")
    assert f"| {table(took)[0]['tokens_per_s']} |" in publish_plan(folder, path).card, "as beside the others"
    for strange in (
        {"model": {"id": BASE, "revision": None, "sha256": "1" * 64}},
        {"plan_sha256": "1" * 64},
    ):
        rows[0] = {**bench_row("plan"), **strange}
        path.write_text(json.dumps(bench_document(rows)), encoding="utf-8")
        with pytest.raises(InputError, match="it measured another export called plan"):
            publish_plan(folder, path)
    folder.rename(folder.with_name("other"))
    with pytest.raises(InputError, match="it has no figures of other"):
        publish_plan(folder.with_name("other"), path)


def test_figures_of_an_earlier_export_are_not_published(
    hub: Hub, folder: Path, sample_scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    now, before = propose(sample_scores, bits=9), propose(sample_scores, bits=6)
    save_plan(folder / "plan.json", now)
    path = folder.parent / "bench.json"

    def measured(plan: Plan, **model: str) -> None:
        about = {"id": plan.model.id, "revision": None, "sha256": plan.model.sha256} | model
        row = bench_row("plan") | {"plan_sha256": plan.sha256, "model": about}
        path.write_text(json.dumps(bench_document([row])), encoding="utf-8")

    measured(now)
    assert has_figures(folder, path)
    assert "| CPU | 8.00 MB" in publish_plan(folder, path).card
    for plan, model in ((before, {}), (now, {"sha256": "b" * 64})):
        measured(plan, **model)
        assert not has_figures(folder, path)
        push(folder, "--bench", str(path), "--yes", status=1)
        assert "it measured another export called plan. Benchmark this one" in capsys.readouterr().err
    assert TARGET not in hub.repositories
