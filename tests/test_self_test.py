"""``kl-lens --self-test``: what a person, an installer and hosted CI ask of an installation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kl_lens_desktop.hub.resolve import LocalModel


def self_test(model: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it on a model, with `folder` for the person's home and for temporary files."""
    command = [sys.executable, "-m", "kl_lens_desktop", "--self-test", str(model)]
    places = {"KL_LENS_HOME": str(folder / "home"), "TMPDIR": str(folder), "TEMP": str(folder)}
    return subprocess.run(
        command, env={**os.environ, **places}, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.slow
def test_an_installation_that_works_says_so_and_leaves_nothing_behind(
    short_sample: LocalModel, tmp_path: Path
) -> None:
    done = self_test(short_sample.folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The self-test passed in ")
    told = done.stderr.splitlines()
    assert [line for line in told if line in ("Measuring sensitivity", "Exporting", "Benchmarking")] == [
        "Measuring sensitivity",
        "Exporting",
        "Benchmarking",
    ]
    assert list(tmp_path.glob("kl-lens-self-test-*")) == []
    assert not (tmp_path / "home").exists()


@pytest.mark.whole
def test_what_fails_is_said_in_one_sentence(short_sample: LocalModel, tmp_path: Path) -> None:
    model = Path(shutil.copytree(short_sample.folder, tmp_path / "model"))
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = self_test(model, tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("kl-lens: ")
    assert str(model) in last or weights.name in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("kl-lens-self-test-*")) == []


def test_it_takes_no_command() -> None:
    command = [sys.executable, "-m", "kl_lens_desktop", "--self-test", "sample", "inspect", "sample"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert "--self-test takes no command" in done.stderr
