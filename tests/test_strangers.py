"""What is not ours is text, has a bound and must mean something: names, texts, scores, plans, benches."""

import ast
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from kl_lens_desktop import qt_libraries, quantities, resources
from kl_lens_desktop.bench import noise
from kl_lens_desktop.bench.compare import compare
from kl_lens_desktop.bench.page import export_comparison_html, export_html
from kl_lens_desktop.bench.report import comparison_table, export_csv, load_bench, pairs, table
from kl_lens_desktop.bench.rows import MOST_ROWS, check_rows
from kl_lens_desktop.cli import display
from kl_lens_desktop.cli.arguments import parser
from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.cli.console import print_bench
from kl_lens_desktop.cli.jobs import analyze_job, bench_job
from kl_lens_desktop.errors import InputError, KLLensError
from kl_lens_desktop.files import check_replaceable, read_json, write_json
from kl_lens_desktop.plan.constraints import Constraints, overruled, parse_limits
from kl_lens_desktop.plan.document import FILE_LIMIT, load_plan, save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.printable import is_steering, printable
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.sensitivity.scores import check_size, load_scores
from kl_lens_desktop.text import bundled
from kl_lens_desktop.text.bundled import check_text, held_out_text, read, read_text, remarks
from kl_lens_desktop.text.windows import first_ids, windows
from tests.strangers import NAMES, bench_document, bench_row, estimate, scores_document

PACKAGE = Path(__file__).parents[1] / "kl_lens_desktop"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no such files on Windows")


def said_by(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Standard output and error of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            returned = run(list(map(str, arguments)), perform)
        except SystemExit as ended:
            returned = int(ended.code or 0)
    assert returned == status, err.getvalue()
    return out.getvalue(), err.getvalue()


def harmless(text: str) -> bool:
    """Whether a terminal shows all of it and obeys none."""
    return not any(is_steering(character) for character in text.replace("\n", ""))


# Names.


def test_what_steers_a_screen_is_spelt_out_and_nothing_else() -> None:
    assert printable("a\x1b[2J\x07\n\u202eb\u2028\x9b\ud800") == r"a\x1b[2J\x07\n\u202eb\u2028\x9b\ud800"
    kept = "Größe – KL(p‖q) ± 0.1 漢字 می\u200cخواهم 👩\u200d🔬 a\u00a0b [int4] <b> &"
    assert printable(kept) == kept
    said = str(InputError("Cannot read \x1b]0;x\x07", "it\nis", "Do\u202e"))
    assert said == r"Cannot read \x1b]0;x\x07: it is. Do\u202e."


@POSIX
@pytest.mark.parametrize("name", [*NAMES[:7], "\udcff"])
def test_a_model_folder_of_any_name_is_listed(name: str, tmp_path: Path) -> None:
    source = resources.path("sample-hybrid")
    folder = tmp_path / name.replace("/", "")
    shutil.copytree(source, folder)
    out, err = said_by("inspect", folder)
    assert printable(folder.name) in out
    assert harmless(out + err)
    assert json.loads(said_by("inspect", folder, "--json")[0])["model"]["id"] == folder.name
    (folder / "config.json").unlink()
    _, err = said_by("inspect", folder, status=1)
    assert printable(" ".join(str(folder).split())) in err
    assert harmless(err)


@pytest.fixture
def hostile() -> dict[str, Any]:
    """A bench file with every string a hostile name."""
    rows = []
    for number, name in enumerate(NAMES):
        row = bench_row(name, name, 100 + number)
        strange = dict.fromkeys(("precision", "backend", "method", "kv_cache_precision", "core_type"), name)
        rows.append({**row, **strange, "session": name})
        rows.append({**bench_row(f"{name} failed"), "status": f"failed: {name}"})
        rows.append({**bench_row(name, f"{name} gone"), "status": "unavailable", "reason": name})
    return bench_document(rows, NAMES[4])


def test_a_bench_file_of_hostile_names_is_shown_as_text(hostile: dict[str, Any], tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "[b].json"
    write_json(first, hostile)
    write_json(second, {**hostile, "environment": bench_document([], NAMES[3])["environment"]})
    arguments = ("bench", "--compare", first, second)
    out, err = said_by(*arguments, "--csv", tmp_path / "c.csv", "--html", tmp_path / "c.html")
    assert harmless(out + err)
    for name in ("[/1]", "[int4]", "[bold red]x"):
        assert name in out
    assert r"\x1b]0;x\x07" in out.replace("\n", "").replace(" ", "")
    assert "all is well" not in [line.strip() for line in out.splitlines()]
    as_json = said_by(*arguments, "--json")[0]
    assert harmless(as_json)
    assert (
        json.loads(as_json)["matches"] == compare(load_bench(first), load_bench(second)).as_dict()["matches"]
    )
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_bench(hostile["rows"], hostile["environment"]["devices"])
    assert harmless(shown.getvalue())
    assert "[/1]" in shown.getvalue()


def test_pages_and_sheets_of_hostile_names_hold_no_tag_formula_or_control(
    hostile: dict[str, Any], tmp_path: Path
) -> None:
    export_html(hostile, tmp_path / "a.html")
    export_comparison_html((NAMES[3], NAMES[4]), compare(hostile, hostile), tmp_path / "b.html")
    for name in ("a.html", "b.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert harmless(page)
        assert "<img" not in page
        assert "<b>" not in page
        assert NAMES[3] in unescape(page)
    export_csv(hostile, tmp_path / "a.csv")
    sheet = (tmp_path / "a.csv").read_text(encoding="utf-8-sig").replace("\r", "")
    assert harmless(sheet)
    assert "'=cmd" in sheet
    assert not re.search(r'(^|,)"?[=@＝]', sheet, re.MULTILINE)


def test_the_command_line_prints_in_one_place() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints or path.name == "console.py", path


def _is_ours(given: ast.expr) -> bool:
    """Whether a text stands in the code, to be translated or not."""
    if isinstance(given, ast.Call) and ast.unparse(given.func) == "tr":
        (given,) = given.args
    return isinstance(given, ast.Constant)


def test_the_window_shows_texts_of_strangers_by_few_means() -> None:
    """Tooltips are constants or escaped; labels and dialogs are made where they become plain text."""
    for path in (PACKAGE / "gui").rglob("*.py"):
        for call in (node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name.endswith(".setToolTip"):
                (given,) = call.args
                assert _is_ours(given) or ast.unparse(given).startswith(("plain_tip(", "wrapped_tip(")), (
                    f"{path}:{call.lineno}"
                )
            assert name != "QLabel", f"{path}:{call.lineno}"
            assert not name.startswith("QMessageBox.") or name == "QMessageBox.Icon", f"{path}:{call.lineno}"
            assert name != "QMessageBox" or path.name == "words.py", f"{path}:{call.lineno}"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Texts.


@POSIX
def test_a_text_or_document_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (Path("/dev/zero"), "it is a device or a pipe"),
        (tmp_path / "pipe", "it is a device or a pipe"),
        (tmp_path, "it is a folder"),
        (tmp_path / "none", "there is no such file"),
    ):
        for use in (check_text, read_json, load_bench, load_plan, load_scores):
            with pytest.raises(InputError, match=why):
                use(path)
    with pytest.raises(InputError, match="it is not a file"):
        check_replaceable(tmp_path / "pipe", "plan")
    out, err = said_by("analyze", "sample", "--out", tmp_path / "s.json", "--text", "/dev/zero", status=1)
    assert out == ""
    assert "it is a device or a pipe" in err


def test_a_text_is_read_up_to_a_bound_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.txt"
    path.write_text("ä" * 600_000, encoding="utf-8")
    assert read(path).remarks == ()
    monkeypatch.setattr(bundled, "FILE_LIMIT", 2**20 + 1)  # in the middle of a character
    assert read(path).text == "ä" * 2**19
    assert [note.text for note in remarks(path, path)] == ["Read only the first 1 MB of long.txt."]


def test_line_ends_of_windows_change_no_token_and_are_said_once(tmp_path: Path) -> None:
    loaded = _Tokens()
    words = read_text(held_out_text())[:20_000].replace(". ", ".\n")
    ids = {}
    for name, ends in (("unix.txt", "\n"), ("windows.txt", "\r\n"), ("mac.txt", "\r")):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" * (ends != "\n") + words.replace("\n", ends).encode("utf-8"))
        ids[name], about = windows(loaded, [path], 512, 128)
        assert about.sha256 == windows(loaded, [tmp_path / "unix.txt"], 512, 128)[1].sha256
        said = [note.text for note in remarks(path)]
        assert said == ([] if ends == "\n" else [rf"Read the line ends \r\n of {name} as \n."])
    assert (ids["unix.txt"] == ids["windows.txt"]).all()
    assert (ids["unix.txt"] == ids["mac.txt"]).all()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x00" * 10_000, "it is not a text file"),
        ("Größe".encode("latin-1"), "it is not UTF-8 text"),
        ("Größe".encode("utf-16"), "it is not UTF-8 text"),
        (b"cut \xc3", "it is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_refused_in_one_sentence(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(InputError, match=why):
        check_text(tmp_path / "t.txt")


def test_of_a_long_text_no_more_is_tokenized_than_is_used() -> None:
    loaded, seen = _Tokens(), list[int]()

    def counted(text: str, _: str) -> list[int]:
        seen.append(len(text))
        return loaded.ids(text, "")

    text = read_text(held_out_text())
    assert first_ids(_Tokens(counted), text, 512, "it")[:512] == loaded.ids(text, "")[:512]
    assert sum(seen) < len(text) / 20
    long = "x" * 400
    words = Tokenizer(WordLevel({long: 7, "?": 0}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    of_words = _Tokens(lambda text, _: words.encode(text).ids)
    assert first_ids(of_words, f"{long} " * 2000, 512, "it")[:512] == [7] * 512


class _Tokens:
    """Of a model, what reading a text needs: the sample's tokenizer, or another one."""

    def __init__(self, ids: Callable[[str, str], list[int]] | None = None) -> None:
        fast = Tokenizer.from_file(str(resources.path("sample-hybrid", "tokenizer.json")))
        self.ids = ids or (lambda text, _: fast.encode(text, add_special_tokens=False).ids)


# Documents.


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"a": 1e999}', "1e999 is too large a number"),
        ('{"a": -1e400}', "-1e400 is too large a number"),
        ('{"a": Infinity}', "Infinity is not a JSON number"),
        ('{"a": 1}\n{"a": 2}\n', "it holds more than one JSON value"),
        ("[" * 40 + "]" * 40, "it is nested too deeply"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a": ' * 40 + "1" + "}" * 40, "it is nested too deeply"),
    ],
)
def test_json_that_is_none_of_ours_is_refused(content: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(why)):
        read_json(path)


def test_documents_have_a_bound_in_bytes_whatever_their_file_says(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(f'{{"schema": "kl-lens/plan/1", "k": "{"x" * FILE_LIMIT}"}}', encoding="utf-8")
    with pytest.raises(InputError, match="it is larger than 2 MB"):
        load_plan(path)


def test_a_byte_order_mark_and_lone_surrogates_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("\ufeff" + json.dumps(scores_document()), encoding="utf-8")
    assert len(load_scores(path).entries) == 6
    write_json(path, {"name": "\udcff"})
    assert read_json(path) == {"name": "\udcff"}


def changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["entries"][0].update(changes)


CONV = {"kind": "conv"}
UNTRUE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "negative KL": (changed(kl_pq=estimate(-0.1)), "entries/0/kl_pq/mean"),
    "negative reverse KL": (changed(kl_qp=estimate(-0.1)), "entries/0/kl_qp/mean"),
    "agreement above 1": (changed(top1_agreement=estimate(1.5)), "entries/0/top1_agreement"),
    "negative MSE": (changed(mse=estimate(-1)), "entries/0/mse/mean"),
    "unknown format": (changed(format="int5"), "entries/0/format"),
    "an entry twice": (lambda v: v["entries"].append(v["entries"][0]), "appears twice"),
    "a weight twice": (lambda v: v["weights"].append(v["weights"][0]), "appears twice"),
    "an entry of no weight": (lambda v: v["weights"].pop(0), "is not among the weights"),
    "an entry of a convolution": (
        lambda v: (v["weights"][0].update(CONV), v["entries"][0].update(CONV)),
        "is a convolution",
    ),
    "all convolutions": (
        lambda v: (v["entries"].clear(), [weight.update(CONV) for weight in v["weights"]]),
        "no weight that a format applies to",
    ),
    "no weights": (lambda v: (v["entries"].clear(), v["weights"].clear()), "no weight that a format applies"),
    "wrong bytes": (changed(bytes=17), "bytes in int4_sym_g64, not 17"),
    "two kinds": (changed(kind="mlp"), "is described in two ways"),
    "wrong parameters": (lambda v: v["weights"][0].update(parameters=5), "parameters by its shape"),
    "unmeasurable twice": (
        lambda v: v["unmeasurable"].append({**v["entries"][0], "why": "not finite"}),
        "appears twice",
    ),
    "a short text": (lambda v: v["text"].update(tokens=100), "shorter than one window"),
    "windows of another text": (
        lambda v: v.update(windows={"ids_sha256": "", "order": [0], "signal": [], "samples": []}),
        "its figures by window are damaged",
    ),
}


@pytest.mark.parametrize("name", UNTRUE)
def test_scores_that_cannot_be_true_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    value = scores_document()
    write_json(tmp_path / "good.json", value)
    assert len(load_scores(tmp_path / "good.json").entries) == 6
    change, why = UNTRUE[name]
    change(value)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(why)) as found:
        load_scores(path)
    assert "\n" not in str(found.value)


def test_an_infinite_divergence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(
        json.dumps(scores_document()).replace('"mean": 0.0025', '"mean": 1e999', 1), encoding="utf-8"
    )
    with pytest.raises(InputError, match="1e999 is too large a number"):
        load_scores(path)


def test_scores_too_large_to_be_read_back_are_not_begun() -> None:
    check_size(1222, 6, 64)
    with pytest.raises(InputError, match=r"the score file would take .* GB"):
        check_size(1222, 6, 4000)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pins": ["model.layers.9.w.weight"]}, "it pins model.layers.9.w.weight to no format"),
        ({"method": "uniform-int5"}, "at method: 'int5' is not a format"),
        ({"budget": {}}, "at budget"),
        ({"budget": {"bits": 4, "max_kl": 1}}, "at budget"),
        ({"budget": {"max_kl": 1001}}, "at budget/max_kl"),
        ({"provenance": {"limits": "x" * 5000}}, "at provenance/limits"),
    ],
)
def test_a_plan_is_held_to_its_meaning_when_it_is_read_and_written(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "s.json", scores_document())
    plan = propose(load_scores(tmp_path / "s.json"), bits=8)
    path = tmp_path / "plan.json"
    save_plan(path, plan)
    assert load_plan(path) == plan
    path.write_text(json.dumps(read_json(path) | changes), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(why)):
        load_plan(path)
    with pytest.raises(InputError, match=re.escape(why)):
        save_plan(tmp_path / "other.json", replace(plan, **changes))
    assert not (tmp_path / "other.json").exists()


def test_a_bench_file_with_a_row_twice_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "b.json", bench_document([bench_row("a"), bench_row("a")]))
    with pytest.raises(InputError, match="it has a on CPU twice"):
        load_bench(tmp_path / "b.json")


def test_what_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    schema = json.loads(resources.path("schemas", "bench-1.json").read_text(encoding="utf-8"))
    assert schema["properties"]["rows"]["maxItems"] == MOST_ROWS
    check_rows(MOST_ROWS)
    with pytest.raises(InputError, match="that makes 2,001 rows"):
        check_rows(MOST_ROWS + 1)
    write_json(tmp_path / "s.json", scores_document())
    plan = propose(load_scores(tmp_path / "s.json"), bits=8)
    many = {f"model.layers.{n}.{'long' * 40}.weight": "int4_sym_g64" for n in range(10_000)}
    save_plan(tmp_path / "p.json", replace(plan, assignments=many))
    assert len(load_plan(tmp_path / "p.json").assignments) == 10_000
    with pytest.raises(InputError, match="its file would be larger than 2 MB"):
        save_plan(
            tmp_path / "q.json",
            replace(plan, assignments=many | {f"x{n}.weight": "fp16" for n in range(9000)}),
        )


def test_the_work_for_many_rows_grows_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    measure = noise.difference

    def counted(*given: Any) -> Any:
        compared.append(1)
        return measure(*given)

    monkeypatch.setattr("kl_lens_desktop.bench.report.difference", counted)
    monkeypatch.setattr(noise, "difference", counted)
    rows = [
        {**bench_row(f"v{n}", speed=100 + n), "plan_sha256": f"{n:064x}",
         "model": {"id": "m", "revision": None, "sha256": "a" * 64}}
        for n in range(400)
    ]  # fmt: skip
    assert len(pairs(rows)) == 399
    assert len(table(rows)) == 400
    assert len(compared) < 5 * 400
    assert len(pairs(rows[:5])) == 10
    renamed = [{**row, "variant": f"other {row['variant']}"} for row in reversed(rows)]
    matches = compare(bench_document(rows), bench_document(renamed)).matches
    assert [(m.by, m.second["variant"]) for m in matches] == [("plan", f"other v{n}") for n in range(400)]


# Options.


def test_every_numeric_option_refuses_what_is_none() -> None:
    for _, action in _numeric_options():
        for text in ("-1", "nan", "inf", "1e400", "9" * 400, "x", "９" * 30):
            with pytest.raises(ArgumentTypeError):
                action.type(text)


def _numeric_options() -> list[tuple[str, Any]]:
    whole = parser()
    commands = next(action for action in whole._actions if hasattr(action, "choices") and action.choices)
    found = []
    for name, command in commands.choices.items():
        for action in command._actions:
            if action.type not in (None, Path) and action.dest not in ("pin", "device"):
                found.append((name, action))
    assert {action.dest for _, action in found} >= {"bits", "max_kl", "seed", "tokens", "contexts", "minutes"}
    return found


NUMBERS = st.one_of(
    st.floats(0, 1e9).map(repr),
    st.floats(0, 20).map(repr),
    st.integers(0, 10**12).map(str),
    st.sampled_from(["0", "1e-300", "5e-324", "15.999", "16", "1000", "1001", "1e6", "1e12", "1e300"]),
)
BUDGETS = ("--size-mb", "--bits", "--max-kl", "--max-perplexity-increase")


@settings(max_examples=40)
@given(
    st.sampled_from(BUDGETS),
    NUMBERS,
    st.sampled_from(("kl", "sqnr", "mse", "delta-ce", "paper")),
    st.lists(st.sampled_from(("ssm>=8", "!=int8_sym", "mlp!=int4_sym_g64", "attention>=4")), max_size=3),
    st.sampled_from((None, "GPU", "NPU.3", "CPU")),
)
def test_every_plan_that_is_written_can_be_read(
    budget: str, number: str, method: str, limits: list[str], device: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scores, out = Path(folder, "scores.json"), Path(folder, "plan.json")
        write_json(scores, scores_document())
        arguments = ["plan", scores, "--out", out, budget, number, "--method", method]
        arguments += [part for limit in limits for part in ("--limit", limit)]
        arguments += ["--device", device] if device else []
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status = run(list(map(str, arguments)))
            except SystemExit as ended:
                status = int(ended.code or 0)
        assert status in (0, 1, 2)
        assert "report it" not in said.getvalue()
        if status == 0:
            assert load_plan(out).method == method
        else:
            assert not out.exists()


def test_a_limit_of_kl_is_refused_at_the_option_as_the_file_refuses_it(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", scores_document())
    arguments = ("plan", tmp_path / "s.json", "--out", tmp_path / "p.json")
    assert "'1001' is not a number from 0 to 1,000" in said_by(*arguments, "--max-kl", "1001", status=2)[1]
    said_by(*arguments, "--max-kl", "1000")
    assert load_plan(tmp_path / "p.json").budget == {"max_kl": 1000.0}
    every = [
        f"{kind}!={name}" for kind in ("ssm", "mlp", "head", "embedding") for name in ("nf4_pc", "int8_asym")
    ]
    many = list(itertools.chain.from_iterable(("--limit", limit) for limit in every * 20))
    said_by(*arguments, "--bits", "8", *many)
    assert str(load_plan(tmp_path / "p.json").provenance["limits"]).split() == every


@settings(max_examples=40)
@given(st.data())
def test_settings_that_an_option_takes_fit_into_the_files(data: st.DataObject) -> None:
    bench = json.loads(resources.path("schemas", "bench-1.json").read_text(encoding="utf-8"))
    fits = bench["properties"]["environment"]["properties"]
    for command, out, job in (
        ("bench", "folder", bench_job),
        ("analyze", "sample --out s.json", analyze_job),
    ):
        arguments = [command, *out.split()]
        for name, action in _numeric_options():
            if name == command and action.dest not in ("top",) and data.draw(st.booleans()):
                arguments += [action.option_strings[0], data.draw(NUMBERS)]
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                given_job = job(parser().parse_args(arguments))
            except SystemExit:
                continue
        if command == "bench":
            jsonschema.validate(given_job.benchmark.as_measured(), fits["settings"])
            window = given_job.benchmark.window
            assert window is None or window <= fits["text"]["properties"]["window"]["maximum"]
        else:
            with contextlib.suppress(KLLensError):
                given_job.analysis.check()
            assert given_job.analysis.window <= fits["text"]["properties"]["window"]["maximum"]
            assert 1_000_003 * given_job.analysis.seed + 10**6 < 2**64  # what torch takes


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "sample", "--out", "s.json", "--text", ""),
        ("analyze", "sample", "--out", "s.json", "--text="),
        ("analyze", "sample", "--out", ""),
        ("analyze", "sample", "--out", "s.json", "--formats", " "),
        ("verify", "sample", "--plan", ""),
        ("verify", "sample", "--plan", "p.json", "--text", ""),
        ("pull", "a/b", "--revision", ""),
        ("plan", "s.json", "--out", "p.json", "--bits", "5", "--pin", ""),
        ("plan", "s.json", "--out", "p.json", "--bits", "5", "--method="),
        ("bench", "folder", "--devices", ""),
        ("inspect", ""),
    ],
)
def test_an_empty_argument_is_refused_and_named(arguments: tuple[str, ...]) -> None:
    _, err = said_by(*arguments, status=2)
    option = next((a for a in reversed(arguments) if a.startswith("--")), "an argument").rstrip("=")
    assert f"{option} is empty" in err


def test_pins_that_contradict_each_other_or_a_limit_are_told_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", scores_document(("int4_asym_g64", "int8_sym")))
    weight, other = "model.layers.0.w.weight", "model.layers.1.w.weight"
    arguments = ("plan", tmp_path / "s.json", "--out", tmp_path / "p.json")
    pins = ("--pin", f"{weight}=int8_sym", "--pin", f"{weight}=fp16")
    assert (
        f"{weight} is pinned to int8_sym and to fp16"
        in said_by(*arguments, "--bits", "9", *pins, status=2)[1]
    )
    said_by(*arguments, "--bits", "9", *pins[:2], *pins[:2])
    pins = ("--pin", f"{weight}=int4_asym_g64", "--pin", f"{other}=int8_sym")
    _, err = said_by(*arguments, "--bits", "9", *pins, "--device", "GPU", "--limit", "attention>=16")
    assert f"{weight} stays int4_asym_g64 as you chose, against the device GPU." in err
    assert f"{other} stays int8_sym as you chose, against the limit attention>=16." in err
    assert load_plan(tmp_path / "p.json").assignments[weight] == "int4_asym_g64"
    _, err = said_by(*arguments, "--method", "uniform-int4_asym_g64", "--device", "GPU")
    assert f"{weight} and 2 more stay int4_asym_g64 as you chose, against the device GPU." in err
    with pytest.raises(InputError, match="ssm>=8 limits the same weights"):
        parse_limits(["ssm>=8", "ssm>=4"])
    assert overruled({weight: "fp16"}, {weight: "ssm"}, Constraints(device="NPU")) == []


def test_of_too_few_rounds_no_interval_is_printed_but_why(tmp_path: Path) -> None:
    assert quantities.interval(8.5e-12, 1.8e12, 2) == "2 samples: too few for an interval"
    assert quantities.interval(None, None, 1) == "1 sample: too few for an interval"
    assert quantities.interval(0.84, 0.9, 4) == "0.84 … 0.9"
    for rounds, words in ((2, "(2 samples: too few for an interval)"), (4, " … ")):
        rows = [bench_row("slow", speed=100.0, rounds=rounds), bench_row("fast", speed=200.0, rounds=rounds)]
        (pair,) = pairs(rows)
        assert words in pair["ratio"]
        assert pair["ratio"].startswith("×2 (")
        found = compare(bench_document(rows), bench_document(rows))
        speeds = [line["ratio"] for line in comparison_table(found) if "Decode" in line["figure"]]
        assert all(words in text for text in speeds)
        assert [change.low is None for match in found.matches for change in match.changes[:1]] == [
            rounds < 4
        ] * 2


# Qt.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux leaves these libraries to the person")
def test_a_library_that_qt_lacks_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(qt_libraries.X11_NEEDS, "libNotHere.so.9", ("libnothere9", "nothere"))
    monkeypatch.setattr(display, "os_release", lambda: {"ID": "debian"})
    monkeypatch.setattr(display.subprocess, "run", lambda *_, **__: _Ended(-6))
    with pytest.raises(
        InputError, match=r"missing: .*libNotHere\.so\.9.* Install them with `.*apt install .*libnothere9"
    ):
        display.check_display({"DISPLAY": ":77"})
    missing = qt_libraries.missing_libraries({"QT_QPA_PLATFORM": "xcb:nothing;wayland"})
    assert "libNotHere.so.9" in missing
    assert "libNotHere.so.9" not in qt_libraries.missing_libraries({"QT_QPA_PLATFORM": "offscreen"})
    display.check_display({"QT_QPA_PLATFORM": "offscreen"})
    with pytest.raises(InputError, match="there is no display here"):
        display.check_display({})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux leaves these libraries to the person")
def test_a_qt_that_starts_all_the_same_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(qt_libraries.QT_NEEDS, "libNotHere.so.9", ("libnothere9", "nothere"))
    display.check_display({"QT_QPA_PLATFORM": "offscreen"})


class _Ended:
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode
