"""Write the tables of measured results into the documentation: ``python -m tests.benchmarks.tables``.

A file ``resources/docs/results/NAME.json`` holds a table with its title, command, machine, date, versions and
source. ``resources/docs/results.md`` shows it where it says ``<!-- table NAME -->``, up to ``<!-- end -->``.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "resources" / "docs"
PAGE = DOCS / "results.md"
PLACE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """Return the page with the table of each marked place made from its JSON file."""
    return PLACE.sub(lambda place: place[1] + markdown(result(place[2])) + place[3], page)


def result(name: str) -> dict[str, Any]:
    """Return the result of that name."""
    value: dict[str, Any] = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return value


def markdown(found: dict[str, Any]) -> str:
    """Return a result as Markdown: its table, its notes, and where the figures come from."""
    columns = found["columns"]
    rows = [columns, ["---"] * len(columns), *found["rows"]]
    if wrong := [row for row in rows if len(row) != len(columns)]:
        raise ValueError(f"{found['title']}: {wrong[0]} has not one cell for each of {columns}")
    table = ["| " + " | ".join(row) + " |" for row in rows]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    about = [
        f"`{found['command']}`",
        f"Machine: {found['machine']}",
        f"{found['date']}, {versions}",
        f"Source: {found['source']}",
    ]
    notes = [f"{note}\n" for note in found["notes"]]
    return "\n".join(["", *table, "", *notes, *(f"- {line}" for line in about), "", ""])


if __name__ == "__main__":
    main()
