"""What can be said of Windows without one: its calls, its paths, its packages, and text in its code pages."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path
    for folder in ("kl_lens_desktop", "installer", "resources", "tests")
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts
)
SOURCES = [path for path in FILES if path.suffix == ".py" and path.parts[len(ROOT.parts)] != "tests"]
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# A wheel in the folder of a virtual environment at its usual depth, in the home of a person with a long name.
INSTALLED = r"C:\Users\a-name-of-24-characters-\kl-lens-desktop\.venv\Lib\site-packages\kl_lens_desktop"
# What no system but POSIX ones has, where a type checker sees only text.
POSIX_WORDS = ("fork", "forkserver", "/tmp", "/dev/null")
POSIX_ARGUMENTS = {"preexec_fn", "start_new_session", "process_group", "pass_fds"}


@pytest.mark.slow
def test_every_call_exists_on_windows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--platform", "win32", "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout


def test_no_argument_or_word_is_for_posix_alone() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                named = {keyword.arg for keyword in node.keywords}
                assert not named & POSIX_ARGUMENTS, place
                if named & {"text", "universal_newlines"} and ast.unparse(node.func).startswith(
                    "subprocess."
                ):
                    assert "encoding" in named, f"{place}: output in the system's code page"
            if isinstance(node, ast.Constant):
                assert node.value not in POSIX_WORDS, place


def test_names_and_paths_are_possible_there() -> None:
    seen: dict[str, Path] = {}
    for path in FILES:
        assert not RESERVED.fullmatch(path.name), path
        assert not re.search(r'[<>:"|?*\\]|[. ]$', path.name), path
        lower = str(path).lower()
        assert seen.setdefault(lower, path) == path, f"{path} and {seen[lower]} differ in case alone"
        inside = path.relative_to(ROOT / path.relative_to(ROOT).parts[0])
        assert len(INSTALLED) + len(str(inside)) + 12 < 260, path


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_what_is_pinned_can_be_had_for_windows(python: str, tmp_path: Path) -> None:
    """Every pin has a wheel there, none is a CUDA build, and none needs what is not pinned."""
    there = {
        **default_environment(),
        "sys_platform": "win32",
        "platform_system": "Windows",
        "os_name": "nt",
        "platform_machine": "AMD64",
        "python_version": python,
        "python_full_version": f"{python}.0",
        "extra": "",
    }
    lines = (ROOT / "installer" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {
        canonicalize_name(each.name): str(each.specifier)
        for each in wanted
        if each.marker is None or each.marker.evaluate(there)
    }
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--target",
         str(tmp_path), "--platform", "win_amd64", "--python-version", python, "--only-binary", ":all:",
         "--report", str(report), *(f"{name}{pin}" for name, pin in pins.items())],
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode and re.search(r"NewConnectionError|ConnectTimeout|Temporary failure", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    for package in json.loads(report.read_text(encoding="utf-8"))["install"]:
        about = package["metadata"]
        assert "+cu" not in about["version"], about["name"]
        for need in map(Requirement, about.get("requires_dist", [])):
            if need.marker is None or need.marker.evaluate(there):
                pin = pins.get(canonicalize_name(need.name))
                assert pin, f"{about['name']} needs {need}"
                assert need.specifier.contains(pin.removeprefix("==")), f"{about['name']} needs {need}"
