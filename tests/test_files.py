"""Files are whole or not there, whatever happens while they are written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import atomic_folder, read_json, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with monkeypatch.context() as full, pytest.raises(InputError, match="the disk is full"):
        full.setattr(os, "fsync", _disk_is_full)
        write_text(path, "b")
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def _disk_is_full(_: int) -> None:
    raise OSError(errno.ENOSPC, "")


def test_a_folder_appears_when_it_is_complete_and_vanishes_if_it_is_not(tmp_path: Path) -> None:
    target = tmp_path / "ir"
    with pytest.raises(ZeroDivisionError), atomic_folder(target, "card.json") as staging:
        (staging / "openvino_model.xml").write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with atomic_folder(target, "card.json") as staging:
            (staging / "plan.json").write_text(text, encoding="utf-8")
            write_json(staging / "card.json", {"files": ["card.json", "plan.json"]})
    assert (target / "plan.json").read_text(encoding="utf-8") == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_is_a_file_or_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for target in (tmp_path / "file", tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="Cannot write"), atomic_folder(target, "card.json"):
            pass
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_folder_with_one_file_more_than_ours_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "ir"
    with atomic_folder(target, "card.json") as staging:
        write_json(staging / "card.json", {"files": ["card.json"]})
    (target / "thesis.txt").write_text("years of work", encoding="utf-8")
    (target / "photos").mkdir()
    with pytest.raises(InputError, match="contains other files"), atomic_folder(target, "card.json"):
        pass
    assert (target / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "ir"
    code = "import os, sys; from pathlib import Path; from kl_lens_desktop.files import atomic_folder\n"
    code += "with atomic_folder(Path(sys.argv[1]), 'card.json') as s: (s / 'half').touch(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False, cwd=Path(__file__).parents[1])
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    mine = tmp_path / f".ir.{os.getpid()}-{int(psutil.Process().create_time())}-0123abcd.partial"
    mine.mkdir()
    with atomic_folder(target, "card.json") as staging:
        (staging / "plan.json").touch()
    assert sorted(tmp_path.iterdir()) == sorted([target, mine]), "a running process's staging folder is kept"


def test_half_a_file_of_a_killed_process_is_swept_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    code = "import os, sys; from pathlib import Path; from kl_lens_desktop import files\n"
    code += "files.rename = lambda *_: os._exit(9); files.write_text(Path(sys.argv[1]), 'half')"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False, cwd=Path(__file__).parents[1])
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    write_json(target, {})
    assert list(tmp_path.iterdir()) == [target]
