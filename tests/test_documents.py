"""What the project says of itself is made from one source each."""

import json
import re
import tomllib
from pathlib import Path

import pytest

import kl_lens_desktop
from kl_lens_desktop.plan import verdict
from tests import tiers
from tests.benchmarks import tables

ROOT = Path(__file__).parents[1]
RESULTS = sorted(path.stem for path in (tables.DOCS / "results").glob("*.json"))


def test_the_page_of_results_is_what_the_files_say() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page) == page, "run python -m tests.benchmarks.tables"
    shown = [place[2] for place in tables.PLACE.finditer(page)]
    assert sorted(shown) == RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_where_it_comes_from(name: str) -> None:
    found = json.loads((tables.DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    keys = {"title", "command", "machine", "date", "versions", "source", "columns", "rows", "notes"}
    assert set(found) == keys
    assert found["rows"]
    assert found["versions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])


def test_a_changed_figure_changes_the_page() -> None:
    found = tables.result(RESULTS[0])
    found["rows"][0][0] = "another"
    assert "| another |" in tables.markdown(found)
    with pytest.raises(ValueError, match="has not one cell for each of"):
        tables.markdown({**found, "rows": [["one cell"]]})


@pytest.mark.parametrize("name", ["method", "questions"])
def test_documents_have_the_verdicts_of_the_program(name: str) -> None:
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in (tables.DOCS / f"{name}.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    for step in verdict.STEPS:
        (row,) = (row for row in rows if step.words in row)
        figures = [float(found) for found in re.findall(r"\d+(?:\.\d+)?", " ".join(row))]
        assert figures == [step.kl, 100 * step.unchanged][: 2 if name == "method" else 1]
    assert any(verdict.WORST in row for row in rows)


def test_documents_have_no_gaps_left_to_fill() -> None:
    for path in [ROOT / "README.md", *tables.DOCS.rglob("*.md")]:
        text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.findall(r"\b[A-Z]{2,}_[A-Z_]+\b|\bTODO\b|\bTBD\b", text), path.name


def test_the_version_stands_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    source = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert f'__version__ = "{kl_lens_desktop.__version__}"' in source
    for name in ("kl-lens.iss", "kl-lens.spec", "launch.py"):
        assert kl_lens_desktop.__version__ not in (ROOT / "installer" / name).read_text(encoding="utf-8")


def test_the_tiers_name_what_exists() -> None:
    source = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    defined = set(re.findall(r"^def (\w+)\(", "".join(source.values()), re.MULTILINE))
    assert defined >= tiers.DEAR | tiers.TOGETHER
    for name in tiers.recorded():
        file, test = name.split("[")[0].split("::")
        assert f"def {test}(" in source.get(ROOT / file, ""), f"{name} is gone; remove it from durations.json"
