"""The window in another language: every word of ours is translated, and has room."""

import ast
import json
import os
import re
import string
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.files import write_json
from kl_lens_desktop.gui.plan.verdict_line import VERDICTS
from kl_lens_desktop.gui.state.translation import PSEUDO, Pseudo, tr
from kl_lens_desktop.plan.verdict import STEPS, WORST
from kl_lens_desktop.process.events import Finished

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "resources" / "translations" / "kl-lens.ts"
SOURCES = sorted((ROOT / "kl_lens_desktop" / "gui").rglob("*.py"))

# Names, in every language the same: of weights, models, formats, measures, programs, files and processors.
NAMES = re.compile(
    r"""
    .*(_proj|_linear|_tokens|\.weight|:\ \d\S*\ ±\ \S+)… | .*\b\w+(_\w+)+\b.* | model\.em.*
    | (Uniform\ )?(FP16|INT\d\S*)(\ a?sym)?(\ g\d+)? | Granite\ 4\ hybrid.* | sample.*
    | A\ processor | HETERO:CPU | [\d.e±\ -]+nats
    | KL\ (full‖quantized|quantized‖full) | Logit\ error\ \(MSE\) | Top-1\ agreement
    | https?://\S+ | \S*/\S+ | (Python|torch)\ \d.* | work:\ .* | Wrong\ answers.* | .*\ as\ fast
    """,
    re.VERBOSE | re.DOTALL,
)


@pytest.fixture(scope="module")
def walked(
    inspected: Finished, sample_scores_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """What was found on all pages of a window in the pseudo-language: see `tests.gui.walk`."""
    folder = tmp_path_factory.mktemp("pseudo")
    write_json(folder / "inspected.json", inspected.result)
    command = [
        sys.executable,
        "-m",
        "tests.gui.walk",
        str(folder / "inspected.json"),
        str(sample_scores_path),
    ]
    variables = {"KL_LENS_LANGUAGE": PSEUDO, "KL_LENS_HOME": str(folder), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.whole
def test_every_word_on_every_page_is_translated(walked: dict[str, list[str]]) -> None:
    assert len(walked["translated"]) > 300
    titles = {family.title for family in FAMILIES.values()}
    plain = [text.split(": ", 1)[1] for text in walked["plain"]]
    assert [text for text in plain if text not in titles and not NAMES.fullmatch(text)] == []


@pytest.mark.whole
def test_longer_words_have_room_in_a_window_of_1280_by_800(walked: dict[str, list[str]]) -> None:
    assert walked["cut"] == []


def test_what_is_filled_in_keeps_its_place() -> None:
    source = "{count:,} of {total:>{width}} weights, {{literally}} {name!r}"
    made = Pseudo().translate("", source)
    for place in ("{count:,}", "{total:>{width}}", "{name!r}", "{{", "}}"):
        assert place in made
    assert made.format(count=1000, total=5, width=3, name="a").startswith("⟦1,000 ôf   5 wéîghtš")
    assert len(Pseudo().translate("", "Measuring sensitivity")) >= 1.3 * len("Measuring sensitivity")
    assert tr("Resume") == "Resume", "the tests run in English"


def test_what_a_text_has_places_for_is_filled_in() -> None:
    """`tr("{a} of {b}").format(a=…, b=…)`: a translator sees the names, and a forgotten one would raise."""
    checked = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(ast.Call(ast.Name("tr"), [ast.Constant(text)]), "format")):
                    given = {keyword.arg for keyword in node.keywords}
                    assert places(text) == given, f"{path}:{node.lineno}"
                    checked += 1
    assert checked > 150


def places(text: str) -> set[str]:
    """The names in a text that `str.format` fills, those in format specifications too."""
    parts = [(name, spec or "") for _, name, spec, _ in string.Formatter().parse(text) if name]
    return {name for name, _ in parts} | {inner for _, spec in parts for inner in places(spec)}


def test_translators_find_every_word(tmp_path: Path) -> None:
    """The template is what ``pyside6-lupdate`` finds now."""
    from importlib.util import find_spec

    spec = find_spec("PySide6")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / ("lupdate.exe" if sys.platform == "win32" else "lupdate")
    if not program.exists():
        pytest.skip("this build of Qt has no lupdate")
    found = tmp_path / "found.ts"
    marked = ["-tr-function-alias", "QT_TR_NOOP+=mark", "-locations", "none"]
    subprocess.run(
        [program, *map(str, SOURCES), *marked, "-ts", str(found)], check=True, capture_output=True, cwd=ROOT
    )
    how = "run pyside6-lupdate: see resources/docs/architecture.md"
    assert words(found) == words(TEMPLATE), how
    assert len(words(found)) > 900


def words(path: Path) -> list[str]:
    """The texts of a file of Qt Linguist, each of which is in the one context that `tr` looks in."""
    tree = ElementTree.parse(path)
    assert [name.text for name in tree.iterfind("context/name")] == [None]
    return sorted(source.text or "" for source in tree.iterfind("context/message/source"))


def test_verdicts_are_marked_for_translation() -> None:
    assert Counter(VERDICTS) == Counter([*(step.words for step in STEPS), WORST])
