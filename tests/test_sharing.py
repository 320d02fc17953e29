"""A result as one file: it says nothing that it should not, and one from a stranger is not believed."""

import getpass
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.sensitivity.scores import Scores, load_scores, save_scores
from kl_lens_desktop.sharing import kind_of, load_bundle, share, unpack, without_paths
from tests.gui.test_benchmark import bench_document


def bench_of(scores: Scores) -> dict[str, Any]:
    """A bench file of the sample, with a failure that names a path of its computer."""
    bench = bench_document()
    for row in bench["rows"]:
        row["model"] = {"id": scores.model.id, "revision": None, "sha256": scores.model.sha256}
    bench["rows"][0]["status"] = f"failed: cannot open {Path.home() / 'models' / 'my own'}/openvino_model.xml"
    return bench


@pytest.fixture
def results(sample_scores: Scores, tmp_path: Path) -> Path:
    """A folder as `run` leaves it, measured on a text in the user's home."""
    folder = tmp_path / "out"
    folder.mkdir()
    save_scores(folder / "scores.json", sample_scores)
    scores = read_json(folder / "scores.json")
    scores["text"]["name"] = str(Path.home() / "letters" / "to anna.txt")
    write_json(folder / "scores.json", scores)
    save_plan(folder / "plan.json", propose(sample_scores, bits=6))
    write_json(folder / "bench.json", bench_of(sample_scores))
    return folder


def test_a_bundle_holds_the_results_and_opens_as_they_were(results: Path, tmp_path: Path) -> None:
    made = share(results, tmp_path / "sample.kl-lens.json")
    assert kind_of(made.path) == "bundle"
    assert made.words == "plan, scores and benchmark of sample"
    found = load_bundle(made.path)
    places = unpack(found, tmp_path / "theirs")
    assert load_plan(places["plan"]) == load_plan(results / "plan.json")
    theirs, mine = load_scores(places["scores"]), load_scores(results / "scores.json")
    assert theirs.entries == mine.entries
    assert propose(theirs, bits=6).assignments == propose(mine, bits=6).assignments
    assert read_json(places["bench"])["rows"][1:] == read_json(results / "bench.json")["rows"][1:]
    assert "sample" in found.card
    assert "weights" not in made.path.read_text(encoding="utf-8")[:100]
    assert share(results, made.path).model == found.model, "a bundle is replaced"


def test_a_bundle_tells_no_paths(results: Path, tmp_path: Path) -> None:
    share(results, tmp_path / "b.json")
    text = (tmp_path / "b.json").read_text(encoding="utf-8")
    for private in (str(Path.home()), str(tmp_path), str(results), "letters", "/models/"):
        assert json.dumps(private)[1:-1] not in text, private
    assert "to anna.txt" in text
    assert "openvino_model.xml" in text
    assert ".safetensors" not in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot open /home/jo/models/x.bin: gone", "cannot open x.bin: gone"),
        (r"cannot open C:\Users\Jo Smith\my models\x.bin: gone", "cannot open x.bin: gone"),
        (r"\\server\share\jo\x.bin", "x.bin"),
        ("see D:/work/jo/x.bin", "see x.bin"),
        ("~/jo/x.bin", "x.bin"),
        ("12 tokens/s, kl-lens/plan/1 and 3/4", "12 tokens/s, kl-lens/plan/1 and 3/4"),
        ("https://huggingface.co/ibm-granite/granite", "https://huggingface.co/ibm-granite/granite"),
        ("ibm-granite/granite-4.0-h-350m", "ibm-granite/granite-4.0-h-350m"),
        ("AUTO:GPU,CPU / NPU", "AUTO:GPU,CPU / NPU"),
    ],
)
def test_of_a_path_the_name_is_left(text: str, left: str) -> None:
    assert without_paths({"a": [text]}) == {"a": [left]}


@given(st.text(max_size=200))
def test_texts_never_grow_longer_by_that(text: str) -> None:
    assert len(without_paths(text)) <= len(text)


def test_a_card_says_that_the_benchmark_was_of_another_plan(results: Path, tmp_path: Path) -> None:
    bench, plan = read_json(results / "bench.json"), load_plan(results / "plan.json")
    for sha256, other in ((None, False), (plan.sha256, False), ("0" * 64, True)):
        for row in bench["rows"]:
            row["plan_sha256"] = sha256
        write_json(results / "bench.json", bench)
        assert ("benchmark is of another plan" in share(results, tmp_path / "b.json").card) is other


def test_parts_of_two_models_are_not_shared_together(results: Path, tmp_path: Path) -> None:
    plan = read_json(results / "plan.json")
    plan["model"]["sha256"] = "b" * 64
    write_json(results / "plan.json", plan)
    with pytest.raises(InputError, match="it has scores of other weights"):
        share(results, tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


def test_nothing_but_a_bundle_is_written_over(results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a novel", encoding="utf-8")
    with pytest.raises(InputError, match="contains something else"):
        share(results, tmp_path / "mine.txt")
    bundle = share(results, tmp_path / "b.json")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "plan.json").write_text("a novel", encoding="utf-8")
    with pytest.raises(InputError, match="contains something else"):
        unpack(bundle, tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "bench.json").exists(), "all or nothing"
    with pytest.raises(InputError, match="holds no plan, scores or benchmark"):
        share(tmp_path / "theirs" / "nowhere", tmp_path / "c.json")


# Bundles from strangers
# ----------------------------------------------------------------------------------------------

PLAN: dict[str, Any] = {
    "schema": "kl-lens/plan/1",
    "model": {"id": "m", "revision": None, "sha256": "a" * 64},
    "assignments": {"a.weight": "int8_sym"},
    "budget": None,
    "method": "kl",
    "predicted": {"kl": None, "bytes": 10},
}
GOOD: dict[str, Any] = {
    "schema": "kl-lens/bundle/1",
    "created": "2026-11-25T16:33:32+00:00",
    "program": "KL Lens Desktop 1",
    "model": PLAN["model"],
    "card": "m",
    "plan": PLAN,
}


def _with(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


HOSTILE: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "binary": lambda: "\0PK\3\4",
    "a list": lambda: "[]",
    "NaN": lambda: _with(created=float("nan")),
    "twice": lambda: _with().replace('"card": "m"', '"card": "m", "card": "n"'),
    "newer": lambda: _with(schema="kl-lens/bundle/2"),
    "another schema": lambda: _with(schema="kl-lens/plan/1"),
    "a part too many": lambda: _with(weights="AAAA"),
    "nothing in it": lambda: json.dumps({k: v for k, v in GOOD.items() if k != "plan"}),
    "a path as a part": lambda: _with(**{"../../evil": {}}),
    "plan a list": lambda: _with(plan=[PLAN]),
    "plan a text": lambda: _with(plan="x" * 2**20),
    "plan of other keys": lambda: _with(plan={**PLAN, "run": "rm -rf"}),
    "plan with a path": lambda: _with(plan={**PLAN, "assignments": {"../../x.weight": "fp16"}}),
    "plan of a newer version": lambda: _with(plan={**PLAN, "schema": "kl-lens/plan/2"}),
    "plan of another model": lambda: _with(plan={**PLAN, "model": {**PLAN["model"], "sha256": "b" * 64}}),
    "plan too large": lambda: _with(
        plan={**PLAN, "assignments": {f"w{i}.weight": "int8_sym" for i in range(90_000)}}
    ),
    "scores that are a plan": lambda: _with(scores=PLAN),
    "bench that is a plan": lambda: _with(bench=PLAN),
    "bench without rows": lambda: _with(bench={"schema": "kl-lens/bench/1"}),
    "a long card": lambda: _with(card="x" * 30_000),
    "a card that is no text": lambda: _with(card={"html": "<script>"}),
    "deep": lambda: '{"schema": "kl-lens/bundle/1", "plan": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}",
    "no hash": lambda: _with(model={"id": "m", "revision": None, "sha256": "x"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "b.kl-lens.json"
    path.write_text(HOSTILE[name](), encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(InputError) as refused:
        load_bundle(path)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name], "nothing is written beside it"


def test_the_good_bundle_beside_them_opens(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(_with(), encoding="utf-8")
    assert load_bundle(tmp_path / "b.json").words == "plan of m"


def test_a_bundle_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kl_lens_desktop.sharing.FILE_LIMIT", 2**20)
    (tmp_path / "b.json").write_text(_with(card=" " * 2**20), encoding="utf-8")
    with pytest.raises(InputError, match="larger than 1 MB"):
        load_bundle(tmp_path / "b.json")


def test_it_is_shared_and_received_from_a_shell(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["share", "out"]) == 0
    assert (tmp_path / "out.kl-lens.json").is_file()
    assert "Wrote out.kl-lens.json" in capsys.readouterr().out
    mine = read_json(results / "bench.json")
    for row in mine["rows"]:
        if row["tokens_per_s"]:
            row["tokens_per_s"] = {**row["tokens_per_s"], "mean": 10.0, "rounds": [10.0] * 6, "median": 10.0}
    write_json(tmp_path / "mine.json", mine)
    assert run(["receive", "out.kl-lens.json", "--out", "theirs", "--bench", "mine.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"]["id"] == "sample"
    assert set(told["parts"]) == {"plan", "scores", "bench"}
    assert set(told["written"]) == {"plan", "scores", "bench"}
    assert load_plan(tmp_path / "theirs" / "plan.json").model.id == "sample"
    changes = [change for match in told["comparison"]["matches"] for change in match["changes"]]
    assert any(c["figure"] == "tokens_per_s" and c["first"] == 10.0 and c["apart"] for c in changes)
    assert run(["receive", "out.kl-lens.json", "--bench", "mine.json"]) == 0
    assert "second to first" in capsys.readouterr().out
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    assert run(["receive", "bad.json"]) == 1
    assert "it is not a KL Lens bundle file" in capsys.readouterr().err


def test_no_name_of_the_user_is_in_it(results: Path, tmp_path: Path) -> None:
    share(results, tmp_path / "b.json")
    text = (tmp_path / "b.json").read_text(encoding="utf-8")
    assert f"/{getpass.getuser()}/" not in text
    assert f"\\{getpass.getuser()}\\" not in text
