"""The rooms keep to their places: imports go one way, and only the window knows Qt."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kl_lens_desktop"
ORDER = [
    (
        "errors",
        "files",
        "temporary",
        "disk_space",
        "exported",
        "exclusive",
        "home",
        "printable",
        "qt_libraries",
        "resources",
        "schema",
        "spreadsheet",
        "quantities",
        "process",
    ),
    ("families", "kernels"),
    ("repository",),  # reads which families there are
    ("hub",),
    ("quant",),
    ("model",),
    ("text",),
    ("sensitivity",),
    ("plan",),
    ("export",),
    ("bench",),
    ("exporting", "publishing", "sharing"),
    ("run",),
    ("course",),
    ("jobs",),
    ("gui",),
    ("cli",),
    ("__main__",),
]
GUI_ORDER = [
    ("state",),
    ("kit",),
    ("model", "sensitivity", "export", "bench", "more"),
    ("plan",),  # shows sensitivities beside the formats
    ("shell",),
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
GUI_LEVEL = {room: level for level, rooms in enumerate(GUI_ORDER) for room in rooms}
# What the processes of the window and of the command line read needs neither torch nor openvino: they leave
# that to their children, and answer at once.
TORCH_FREE = [
    "quant/formats.py",
    "sensitivity/scores.py",
    "sensitivity/pace.py",
    "sensitivity/estimate.py",
    "bench/outcome.py",
    "repository/native.py",
    "plan/options.py",
    "plan/allocate.py",
    "plan/propose.py",
    "plan/document.py",
    "plan/verdict.py",
    "families/__init__.py",
    "kernels/table.py",
    "model/config.py",
    "model/checkpoint.py",
    "model/fit.py",
    "model/weight_values.py",
    "repository/support.py",
    "hub/resolve.py",
    "hub/jobs.py",
    "model/jobs.py",
    "sensitivity/jobs.py",
    "plan/jobs.py",
    "export/jobs.py",
    "bench/jobs.py",
    "exporting.py",
    "publishing.py",
    "sharing.py",
    "run.py",
    "course.py",
    "jobs.py",
    "text/bundled.py",
    "cli/arguments.py",
    "cli/commands.py",
    "cli/console.py",
    "cli/jobs.py",
    "cli/sharing.py",
    "process/worker.py",
    "__main__.py",
]
HEAVY = {"torch", "transformers", "openvino", "openvino_genai", "openvino_tokenizers", "nncf"}
QT = {"PySide6", "pyqtgraph", "superqt", "qtpy"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "resources" not in path.parts)


def test_imports_go_one_way() -> None:
    for path in MODULES:
        room = _room(path)
        if room == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "kl_lens_desktop" and len(parts) > 1 and parts[1] in LEVEL:
                lower = LEVEL[parts[1]] < LEVEL[room] or LEVEL[room] == 0
                assert lower or parts[1] == room, f"{path} imports {name}"


def test_imports_go_one_way_inside_the_window() -> None:
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] != "gui" or len(parts) < 3:
            continue
        for name in _imports(path):
            if name.startswith("kl_lens_desktop.gui."):
                room = name.split(".")[2]
                assert room == parts[1] or GUI_LEVEL[room] < GUI_LEVEL[parts[1]], f"{path} imports {name}"


def test_only_the_window_knows_qt() -> None:
    for path in MODULES:
        if _room(path) != "gui":
            assert not _libraries(_imports(path)) & QT, f"{path} imports Qt"


def test_the_windows_process_loads_no_heavy_library() -> None:
    for path in MODULES:
        if _room(path) == "gui":
            assert not _loaded(path) & HEAVY, f"{path} imports {_loaded(path) & HEAVY}"
            assert not _libraries(_imports(path)) & HEAVY, f"{path} imports a heavy library somewhere"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_what_the_window_reads_needs_no_torch(name: str) -> None:
    assert not _loaded(PACKAGE / name) & HEAVY
    assert not _libraries(_imports(PACKAGE / name)) & HEAVY


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_a_class_has_its_name_for_itself() -> None:
    homes: dict[str, Path] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                other = homes.setdefault(node.name, path)
                assert other == path, f"{node.name} is a class of {other} and of {path}"


@cache
def _imports(path: Path, *, top_level: bool = False) -> frozenset[str]:
    """What a file imports, by dotted name; at its top level only, what importing it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _libraries(names: frozenset[str] | set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _loaded(path: Path) -> set[str]:
    """The libraries that importing a file loads, through whatever of ours it imports."""
    seen, left, libraries = set(), [path], set()
    while left:
        file = left.pop()
        if file in seen:
            continue
        seen.add(file)
        names = _imports(file, top_level=True)
        libraries |= _libraries(names)
        left += [found for name in names for found in _files(name)]
    return libraries


def _files(name: str) -> list[Path]:
    """The files of ours that importing `name` runs: of the module, of its packages, or of the attribute's."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return []
    found = []
    for length in range(1, len(parts)):
        stem = PACKAGE.joinpath(*parts[1 : length + 1])
        found += [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    return found
