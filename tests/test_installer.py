"""What a person relies on when setting up: done once, repaired if cut short, failures in words."""

import ast
import ctypes
import importlib.util
import io
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kl_lens_desktop import qt_libraries

ROOT = Path(__file__).resolve().parent.parent
INSTALLER = ROOT / "installer"

# A build backend of a dozen lines, so that a real set-up runs in seconds and without the network.
BACKEND = """
import pathlib, zipfile
NAME = "kl_lens_desktop-0.dist-info"
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    wheel = "kl_lens_desktop-0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / wheel, "w") as archive:
        archive.writestr("kl_lens_desktop.pth", str(pathlib.Path(__file__).parent))
        archive.writestr(NAME + "/METADATA", "Metadata-Version: 2.1\\nName: kl-lens-desktop\\nVersion: 0\\n")
        archive.writestr(NAME + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(NAME + "/RECORD", "")
    return wheel
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "kl-lens-desktop"
version = "0"
"""
PROGRAM = "import sys; print(sys.prefix, *sys.argv[1:]); sys.exit(7 if 'fail' in sys.argv else 0)"


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    return _load(INSTALLER / "launch.py")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout like ours, with a program of one line and nothing to download."""
    root = tmp_path / "a checkout"
    (root / "kl_lens_desktop").mkdir(parents=True)
    (root / "installer").mkdir()
    files = {
        "kl_lens_desktop/__main__.py": PROGRAM,
        "backend.py": BACKEND,
        "pyproject.toml": PROJECT,
        "installer/launch.py": (INSTALLER / "launch.py").read_text(encoding="utf-8"),
        "installer/requirements.txt": "# nothing\n",
        "installer/requirements-test.txt": "# nothing\n",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    return root


def call(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(checkout / "installer" / "launch.py"), *arguments],
        cwd=checkout,
        env={**inherited, **variables},
        capture_output=True,
        encoding="utf-8",
    )


def test_set_up_once_then_skipped_and_repaired_when_cut_short(checkout: Path) -> None:
    began = time.monotonic()
    first = call(checkout, "run")
    set_up_s = time.monotonic() - began
    assert first.returncode == 0, first.stderr
    assert "Setting up" in first.stderr
    assert first.stdout == f"{checkout / '.venv'} run sample --out ./kl-lens-out\n"

    began = time.monotonic()
    second = call(checkout, "run", "--bits", "4", "fail")
    assert time.monotonic() - began < set_up_s / 2
    assert second.stderr == ""
    assert second.stdout.endswith("run sample --out ./kl-lens-out --bits 4 fail\n")
    assert second.returncode == 7

    # Cut short: pip's own package is left as a kill leaves it, looking installed and not working.
    (checkout / ".venv" / "kl-lens-unfinished").touch()
    for path in (checkout / ".venv").rglob("site-packages/pip/__init__.py"):
        path.unlink()
    repaired = call(checkout, "run")
    assert repaired.returncode == 0, repaired.stderr
    assert "Set-up is complete" in repaired.stderr

    # Other pins: brought up to date where it stands.
    (checkout / "installer" / "requirements.txt").write_text("# nothing more\n", encoding="utf-8")
    keepsake = checkout / ".venv" / "keepsake"
    keepsake.touch()
    renewed = call(checkout, "run")
    assert "Set-up is complete" in renewed.stderr
    assert keepsake.exists()
    assert call(checkout, "run").stderr == ""


def test_packages_that_cannot_be_had_are_said_in_words(checkout: Path) -> None:
    (checkout / "installer" / "requirements.txt").write_text("no-such-package-of-ours==1\n", encoding="utf-8")
    failed = call(checkout, "run", PIP_NO_INDEX="1")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("Set-up failed: pip could not install the packages")
    assert "Traceback" not in failed.stderr
    assert (checkout / ".venv" / "kl-lens-unfinished").exists()


def test_somebody_elses_environment_is_left_alone(checkout: Path) -> None:
    mine = checkout / ".venv" / "precious.txt"
    mine.parent.mkdir()
    mine.touch()
    refused = call(checkout, "run")
    assert refused.returncode == 1
    assert "was not created by this script" in refused.stderr
    assert mine.exists()


def test_windows_without_the_runtime_of_torch_is_told_before_the_download(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise OSError(f"Could not find module {name!r}")

    launch.check_cpp_runtime()
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(ctypes, "WinDLL", load, raising=False)
    with pytest.raises(launch.SetupError, match=r"vc_redist\.x64\.exe"):
        launch.check_cpp_runtime()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: None, raising=False)
    launch.check_cpp_runtime()


def test_the_stamp_changes_with_everything_that_decides(checkout: Path) -> None:
    launch = _load(checkout / "installer" / "launch.py")
    seen = {launch.digest(False), launch.digest(True)}
    for name in ("pyproject.toml", "installer/requirements.txt", "installer/requirements-test.txt"):
        with (checkout / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        seen.add(launch.digest(True))
    assert len(seen) == 5


def test_an_old_python_can_read_it_and_is_refused_in_one_sentence(launch: ModuleType) -> None:
    ast.parse((INSTALLER / "launch.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    for version in ((3, 11), (3, 12), (3, 13)):
        launch.check_python(version)
    for version in ((3, 6), (3, 10), (3, 14)):
        with pytest.raises(
            launch.SetupError, match=rf"3\.11 to 3\.13, and this is 3\.{version[1]}. Install it"
        ):
            launch.check_python(version)


def test_the_python_range_is_the_projects(launch: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest, newest) = launch.OLDEST, launch.NEWEST
    assert project["requires-python"] == f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"


def test_only_the_standard_library_is_imported() -> None:
    names = []
    for path in (INSTALLER / "launch.py", ROOT / "kl_lens_desktop" / "qt_libraries.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=debian", "apt install libegl1 libxcb-cursor0"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "apt install libegl1 libxcb-cursor0"),
        ("ID=fedora", "dnf install 'libEGL.so.1()(64bit)' 'libxcb-cursor.so.0()(64bit)'"),
        (
            'ID="opensuse-leap"\nID_LIKE="suse opensuse"',
            "zypper install 'libEGL.so.1()(64bit)' 'libxcb-cursor.so.0",
        ),
        ("ID=arch\n\n# comment", "pacman -S libglvnd xcb-util-cursor"),
        ("ID=gentoo", "your package manager (on Debian the packages are called libegl1 libxcb-cursor0)"),
    ],
)
def test_missing_libraries_come_with_the_distributions_own_command(
    tmp_path: Path, release: str, command: str
) -> None:
    file = tmp_path / "os-release"
    file.write_text(release, encoding="utf-8")
    missing = {
        "libEGL.so.1": qt_libraries.QT_NEEDS["libEGL.so.1"],
        "libxcb-cursor.so.0": qt_libraries.X11_NEEDS["libxcb-cursor.so.0"],
    }
    assert command in qt_libraries.install_command(missing, qt_libraries.os_release(file))
    assert qt_libraries.os_release(tmp_path / "absent") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux leaves these libraries to the person")
def test_a_missing_library_is_named(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(qt_libraries.QT_NEEDS, "libNotHere.so.9", ("libnothere9", "nothere"))
    monkeypatch.setattr(launch, "qt_libraries", lambda: qt_libraries)
    with pytest.raises(launch.SetupError, match=r"missing: .*libNotHere\.so\.9.* Install them with:\n  \S"):
        launch.check_qt_libraries("test", {})


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_the_window_without_a_display_is_refused_in_words(launch: ModuleType) -> None:
    with pytest.raises(launch.SetupError, match="Cannot open a window: there is no display"):
        launch.check_qt_libraries("app", {})


def test_every_dependency_is_pinned_to_one_version(launch: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = _pins("requirements.txt")
    tests = _pins("requirements-test.txt")
    build = _pins("requirements-build.txt")
    assert not set(pins) & set(tests)
    assert not set(pins) & set(build)
    needed = project["project"]["dependencies"] + project["build-system"]["requires"]
    extra = project["project"]["optional-dependencies"]["test"]
    for requirements, where in ((needed, pins), (extra, {**pins, **tests})):
        for requirement in map(Requirement, requirements):
            pin = where[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin), f"{requirement} is pinned at {pin}"
    assert launch.pinned(INSTALLER / "requirements.txt", "torch") == pins["torch"]
    assert launch.pinned(INSTALLER / "requirements.txt", "tor") == ""


def _pins(name: str) -> dict[str, str]:
    lines = (INSTALLER / name).read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in parsed:
        assert re.fullmatch(r"==[0-9][\w.]*", str(requirement.specifier)), requirement
    return {canonicalize_name(requirement.name): str(requirement.specifier)[2:] for requirement in parsed}


def test_what_is_pinned_is_what_is_needed_in_turn() -> None:
    """The environment the tests run in holds what the pins say, and no pin lacks one of its own needs."""
    from importlib.metadata import PackageNotFoundError, requires, version

    pins = {**_pins("requirements.txt"), **_pins("requirements-test.txt")}
    for name, pin in pins.items():
        try:
            assert version(name).partition("+")[0] == pin, name
        except PackageNotFoundError:
            continue  # for another system or Python
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in pins, f"{name} needs {requirement}"


@pytest.fixture
def without_cpu_torch(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """On Linux, where no index has torch's CPU build."""
    monkeypatch.setattr(launch.sys, "platform", "linux")
    monkeypatch.setattr(launch, "pip", lambda *_, **__: 1)
    return launch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "stops"), [("y\n", False), ("\n", True), ("no\n", True)])
def test_gigabytes_of_cuda_are_asked_about(
    without_cpu_torch: ModuleType, monkeypatch: pytest.MonkeyPatch, answer: str, stops: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    if stops:
        with pytest.raises(without_cpu_torch.SetupError, match="PIP_FIND_LINKS"):
            without_cpu_torch.install_torch("2.13.0")
    else:
        without_cpu_torch.install_torch("2.13.0")


def test_without_anybody_to_ask_they_are_said_and_taken(
    without_cpu_torch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    without_cpu_torch.install_torch("2.13.0")
    assert "6 GB of CUDA libraries" in capsys.readouterr().err


def test_they_are_not_begun_without_room(
    without_cpu_torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 7e9})
    monkeypatch.setattr(without_cpu_torch.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(without_cpu_torch.SetupError, match=r"Only 7\.0 GB .* and 10 GB would be needed"):
        without_cpu_torch.install_torch("2.13.0")
