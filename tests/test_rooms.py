"""The rooms keep to their places: imports go one way, and only the window knows Qt."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kl_lens_desktop"
ORDER = [
    ("errors", "files", "resources", "schema", "texts", "jobs"),
    ("hub",),
    ("model",),
    ("quant",),
    ("sensitivity",),
    ("plan",),
    ("export",),
    ("bench",),
    ("checks",),
    ("pipeline",),
    ("tasks",),
    ("cli", "gui", "__main__"),
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# The planner and the score file are read by the window's process, and so need neither torch nor openvino.
TORCH_FREE = [
    "quant/formats.py",
    "sensitivity/scores.py",
    "plan/options.py",
    "plan/allocate.py",
    "plan/propose.py",
    "plan/document.py",
    "model/families.py",
    "model/checkpoint.py",
    "model/fit.py",
    "hub/resolve.py",
    "checks.py",
    "texts.py",
]
HEAVY = {"torch", "transformers", "openvino", "openvino_genai", "openvino_tokenizers", "nncf"}
QT = {"PySide6", "pyqtgraph", "superqt", "qtpy"}


def _imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "resources" not in path.parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    if (room := _room(path)) == "__init__":
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "kl_lens_desktop" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[room], f"{path} imports {name}"
    if room != "gui":
        assert not {name.split(".")[0] for name in _imports(path)} & QT, f"{path} imports Qt"
    else:
        assert not {name.split(".")[0] for name in _imports(path)} & HEAVY, f"{path} imports a heavy library"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_what_the_window_reads_needs_no_torch(name: str) -> None:
    assert not {module.split(".")[0] for module in _imports(PACKAGE / name)} & HEAVY
