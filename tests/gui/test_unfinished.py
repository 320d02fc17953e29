"""After a crash the next window says what was not finished, and goes on with it."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.gui.bench.page import BenchmarkPage
from kl_lens_desktop.gui.more.about import diagnostics
from kl_lens_desktop.gui.more.log import LogPage
from kl_lens_desktop.gui.shell import application, crash
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state import unfinished
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import QUICK
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.jobs import AnalyzeJob
from kl_lens_desktop.sensitivity.scores import Scores, load_scores, save_scores
from tests.gui.conftest import JOB_MS

KILLED = """
import os, sys
from pathlib import Path
from kl_lens_desktop.gui.state import unfinished
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.sensitivity.jobs import Analysis, AnalyzeJob
formats = ("int4_sym_g64", "int8_sym")
how = Analysis(tokens=512, window=128, formats=formats, rounding="nearest")
unfinished.note("sample", [AnalyzeJob("sample", Path(sys.argv[1]), how)])
os.kill(os.getpid(), 9) if os.name == "posix" else os.abort()
"""


def test_what_a_killed_window_was_doing_is_offered_and_goes_on(
    home: Path, qapp: QApplication, qtbot: QtBot, sample_scores: Scores
) -> None:
    scores = home / "work" / "sample" / "scores.json"
    scores.parent.mkdir(parents=True)
    names = list(dict.fromkeys(entry.weight for entry in sample_scores.entries))
    windows = sample_scores.windows
    assert windows is not None
    kept = {pair: samples for pair, samples in windows.samples.items() if pair[0] in names[:-1]}
    entries = [entry for entry in sample_scores.entries if entry.weight in names[:-1]]
    save_scores(scores, replace(sample_scores, entries=entries, windows=replace(windows, samples=kept)))
    subprocess.run([sys.executable, "-c", KILLED, str(scores)], check=False, env={**os.environ})
    application.make_application()
    window = application.make_window()
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(lambda: window.banner.action.isVisible(), timeout=JOB_MS)
    assert window.banner.text.text() == (
        "KL Lens closed unexpectedly while measuring sensitivity (the sample). "
        f"{len(names) - 1} of {len(names)} weights are measured."
    )
    steps: list[Step] = []
    window.session.job.step_finished.connect(lambda step, _: steps.append(step))
    window.banner.action.click()
    qtbot.waitUntil(lambda: [step.name for step in steps] == ["inspect", "analyze"], timeout=JOB_MS)
    qtbot.waitUntil(lambda: not window.session.job.running, timeout=JOB_MS)
    assert len(load_scores(scores).entries) == len(sample_scores.entries)
    assert list((home / "running").iterdir()) == [], "nothing is unfinished now"
    window.close()


def test_a_whole_job_goes_on_with_its_course_its_effort_and_the_pages_in_turn(
    opened: Window, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, started = opened.session, []
    page = opened.page("Benchmark")
    assert isinstance(page, BenchmarkPage)
    monkeypatch.setattr(session, "start", lambda *steps: started.extend(steps))
    job = RunJob("sample", session.workspace.folder).quick
    session.go_on(unfinished.Unfinished("sample", (job,)))
    qtbot.waitUntil(lambda: bool(started), timeout=JOB_MS)
    assert [step.job for step in started] == [job]
    assert session.course is not None
    assert (session.effort, page.effort.currentText()) == (QUICK, QUICK)
    assert opened.shown == "Sensitivity"
    session.job.ended.emit("finished")
    qtbot.waitUntil(lambda: opened.shown == "Benchmark")


def test_what_was_to_follow_an_opening_that_failed_follows_no_other(
    window: Window, qtbot: QtBot, tmp_path: Path, short_sample: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, gone, export = window.session, tmp_path / "gone", tmp_path / "int4"
    export.mkdir()
    (export / MODEL_XML).touch()
    monkeypatch.setattr("kl_lens_desktop.gui.state.session._model_of_export", lambda *_: str(gone))
    ends: list[str] = []
    session.job.ended.connect(ends.append)
    session.open_path(export)
    qtbot.waitUntil(lambda: ends == ["failed"], timeout=JOB_MS)
    session.go_on(unfinished.Unfinished(str(gone), (AnalyzeJob(str(gone), tmp_path / "scores.json"),)))
    qtbot.waitUntil(lambda: ends == ["failed"] * 2, timeout=JOB_MS)

    shutil.copytree(short_sample.folder, gone)
    steps: list[Step] = []
    session.job.step_finished.connect(lambda step, _: steps.append(step))
    with qtbot.waitSignal(session.exports_changed, timeout=JOB_MS):
        session.open_model(str(gone))
    qtbot.waitUntil(lambda: len(ends) == 3 and not session.job.running, timeout=JOB_MS)
    qtbot.wait(100)
    assert [step.name for step in steps] == ["inspect"]
    assert session.exports == {}
    assert not session.job.running


def test_what_runs_in_another_window_is_not_offered(home: Path) -> None:
    unfinished.note("sample", [AnalyzeJob("sample", home / "scores.json")])
    assert unfinished.take() is None, "this process lives"
    unfinished.forget()
    assert list((home / "running").iterdir()) == []


@pytest.mark.parametrize(
    "damaged", [b"", b"sample\n{", b"sample\n\xff", b'sample\n{"job": "x", "given": {}}']
)
def test_a_damaged_note_is_removed(damaged: bytes, home: Path) -> None:
    (home / "running").mkdir(parents=True)
    (home / "running" / "1-1.jobs").write_bytes(damaged)
    assert unfinished.take() is None
    assert list((home / "running").iterdir()) == []


def test_jobs_are_noted_while_they_run(opened: Window, qtbot: QtBot, home: Path) -> None:
    session = opened.session
    with qtbot.waitSignal(session.job.ended, timeout=JOB_MS):
        session.analyze()
        (note,) = (home / "running").iterdir()
        assert note.read_text(encoding="utf-8").startswith('sample\n{"job": "analyze"')
        session.job.cancel()
    assert list((home / "running").iterdir()) == []


def test_a_crash_of_native_code_is_told_with_diagnostics_that_hold_no_secret(
    window: Window, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "logs").mkdir(parents=True, exist_ok=True)
    (home / "logs" / crash.FAULT_NAME).write_text("Fatal Python error: Aborted", encoding="utf-8")
    try:
        crashed = crash.install(lambda _: None)
    finally:
        crash.uninstall()
    assert crashed == "Fatal Python error: Aborted"
    assert crash.install(lambda _: None) == "", "told once"
    crash.uninstall()
    window.tell_crash(f"{crashed} in {Path.home()}/x with hf_{'a' * 30}")
    window.banner.action.click()
    page = window.page("Log")
    assert window.shown == "Log"
    assert isinstance(page, LogPage)
    page.copy_diagnostics()
    text = QGuiApplication.clipboard().text()
    assert "Fatal Python error: Aborted in ~/x with hf_…" in text
    assert "torch " in text
    assert "a" * 30 not in text


def test_diagnostics_name_no_home_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: PureWindowsPath(r"C:\Users\Jo Smith"))
    written = (
        r"open C:\Users\Jo Smith\x: [Errno 2] No such file: 'C:\\Users\\Jo Smith\\x'",
        "C:/Users/Jo Smith/x, c:\\users\\jo smith\\x",
    )
    assert "jo smith" not in diagnostics("\n".join(written)).lower()
    monkeypatch.setattr(Path, "home", lambda: PurePosixPath("/"))
    assert "/data/x" in diagnostics("/data/x"), "there is nobody's folder to hide"
