"""A second window or command on the same results is told, and destroys nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.exclusive import exclusive
from kl_lens_desktop.process.job import perform

HOLD = """
import sys
from pathlib import Path
from kl_lens_desktop.exclusive import exclusive
with exclusive([Path(sys.argv[1])]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))


def test_what_another_process_holds_is_refused_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(out)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    monkeypatch.chdir(tmp_path)
    for name in (out, Path("out"), tmp_path / "x" / ".." / "out"):
        with (
            pytest.raises(InputError, match="another window or command of KL Lens is writing it"),
            exclusive([name]),
        ):
            raise AssertionError("held twice")
    with exclusive([tmp_path / "other"]):
        pass
    other.kill()  # with the lock held
    other.wait()
    with exclusive([out]):
        pass
    assert not out.exists(), "nothing is written where the results go"


def test_what_is_held_in_part_is_given_back(tmp_path: Path) -> None:
    free, held = tmp_path / "a", tmp_path / "b"
    with exclusive([held]), pytest.raises(InputError), exclusive([free, held]):
        raise AssertionError("held twice")
    with exclusive([free, held]):
        pass


def test_a_command_is_refused_before_it_does_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ir"
    with exclusive([out]):
        status = run(["export", "sample", "--format", "int8_sym", "--out", str(out)], perform)
    assert status == 1
    assert f"Cannot write {out}: another window or command" in capsys.readouterr().err
    assert not out.exists()
