"""What can be said of Windows without one: its calls, its paths, its packages, and text in its code pages."""

import ast
import itertools
import json
import logging
import ntpath
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kl_lens_desktop import files
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui.shell import crash
from kl_lens_desktop.gui.state.workspace import workspace_of
from kl_lens_desktop.process import child

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


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What asks which system this is hears Windows, and pauses take no time."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return monkeypatch


class Held:
    """`os.replace` while another program has a file open: it refuses so many times."""

    def __init__(self, times: int) -> None:
        self.left, self._replace = times, os.replace

    def __call__(self, source: Path, target: Path) -> None:
        self.left -= 1
        if self.left >= 0:
            raise PermissionError(13, "The process cannot access the file")
        self._replace(source, target)


def test_what_a_scanner_holds_is_renamed_when_it_lets_go(windows: pytest.MonkeyPatch, tmp_path: Path) -> None:
    windows.setattr(os, "replace", Held(25))
    with files.atomic_folder(tmp_path / "ir", files.CARD) as staging:
        (staging / "openvino_model.bin").write_bytes(b"hours of work")
    assert (tmp_path / "ir" / "openvino_model.bin").read_bytes() == b"hours of work"
    clock = itertools.count(0, 5)
    windows.setattr(time, "monotonic", lambda: next(clock))
    windows.setattr(os, "replace", Held(1000))
    with pytest.raises(InputError, match="permission is denied"):
        files.write_text(tmp_path / "plan.json", "{}")
    assert next(clock) < 60, "a file is waited for ten seconds"


@pytest.mark.parametrize("action", [files.remove_folder, files.check_unused])
def test_a_folder_in_use_is_not_half_deleted(
    action: Callable[[Path], None], windows: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").touch()
    clock = itertools.count()
    windows.setattr(time, "monotonic", lambda: next(clock))
    windows.setattr(os, "replace", Held(1000))
    with pytest.raises(PermissionError):
        action(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    windows.undo()
    action(folder)
    assert folder.exists() == (action is files.check_unused)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["model"])


def test_a_folder_that_may_not_be_written_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`tempfile` takes a refusal for a name that is taken, and tries two billion others."""
    tried = []

    def refuse(path: Path, *_: object, **__: object) -> None:
        tried.append(path)
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="permission is denied"):
        files.check_writable(tmp_path)
    assert len(tried) == 1


def test_the_python_that_works_is_the_one_that_is_measured(windows: pytest.MonkeyPatch) -> None:
    """There, the Python of a virtual environment only starts another one."""
    windows.setattr(sys, "executable", r"C:\kl-lens\.venv\Scripts\python.exe")
    windows.setattr(sys, "_base_executable", r"C:\Python313\python.exe")
    command, variables = child.worker_command()
    assert command[0] == sys._base_executable
    assert variables == {"__PYVENV_LAUNCHER__": sys.executable}
    windows.setattr(sys, "_base_executable", sys.executable)
    assert child.worker_command() == ([sys.executable, "-m", "kl_lens_desktop", "worker"], {})


_READER = """
import os
from kl_lens_desktop.process import worker
lines = worker._claim_stdin()
print(lines.readline(), os.read(0, 9), lines.readline())
"""


def test_no_library_waits_for_what_the_parent_says() -> None:
    """There, who asks what standard input is waits for the thread that reads it: numpy would never load."""
    with subprocess.Popen(
        [sys.executable, "-c", _READER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write(b"a job\ncancel\n")
        reader.stdin.flush()  # and it stays open
        assert reader.stdout.readline().split(b" ") == [b"b'a", b"job\\n'", b"b''", b"b'cancel\\n'" + _END]


_END = os.linesep.encode()


def test_a_folder_is_known_by_all_its_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os.path, "normcase", ntpath.normcase)
    one, other = (workspace_of(tmp_path, name) for name in ("/home/Me/Granite", r"/home\me/granite"))
    assert one.folder.name.rpartition("-")[2] == other.folder.name.rpartition("-")[2]


def test_a_full_log_that_another_window_has_open_is_written_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path))
    crash.install(lambda _: None)
    log = tmp_path / "logs" / crash.LOG_NAME
    try:
        log.write_text("x" * 2**20, encoding="utf-8")
        monkeypatch.setattr(os, "replace", Held(1000))
        logging.getLogger("kl_lens_desktop").info("what happened")
        assert log.read_text(encoding="utf-8").rstrip().endswith("what happened")
        monkeypatch.undo()
        logging.getLogger("kl_lens_desktop").info("and then")
        assert log.stat().st_size < 100
    finally:
        crash.uninstall()
