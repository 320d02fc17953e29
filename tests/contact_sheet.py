"""Every page of the window in every state, as pictures that a person looks at:

    python -m tests.contact_sheet FOLDER [--pages Plan,Export] [--language pseudo]

Writes a picture of each page in each state, in light and dark at 100 and 200 %, and a sheet of all for each
of these four. The states are real: an analysis that runs and is cancelled, a job that fails, and what a whole
job with a quick look's text leaves. It takes ten minutes, and four in a folder that has that job's results.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

SCALES = (1, 2)
THEMES = ("light", "dark")
STATES = ("empty", "running", "partial", "failed", "done")
WORK = "work"  # in the folder: what the whole job left
SIZE = (1280, 800)
CELL = 420  # pixels that a picture is wide on a sheet
HEAD = 28
_MOMENT_S, _LONG_S = 0.3, 300.0


def main() -> int:
    """Prepare what is shown once, and draw each scale in a process of its own, as Qt wants it."""
    parser = argparse.ArgumentParser(prog="python -m tests.contact_sheet", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", help="comma-separated (default: all)")
    parser.add_argument("--scale", type=int, choices=SCALES, help="only this one")
    parser.add_argument("--language", default="", help="such as `pseudo`")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if "CONTACT_SHEET" in os.environ:
        draw(chosen.folder, chosen.pages.split(",") if chosen.pages else None, chosen.scale)
        return 0
    prepare(chosen.folder)
    for scale in (chosen.scale,) if chosen.scale else SCALES:
        command = [sys.executable, "-m", "tests.contact_sheet", str(chosen.folder), "--scale", str(scale)]
        command += ["--pages", chosen.pages] if chosen.pages else []
        with tempfile.TemporaryDirectory(prefix="kl-lens-sheet-", ignore_cleanup_errors=True) as home:
            variables = {
                "CONTACT_SHEET": "1",
                "QT_QPA_PLATFORM": "offscreen",
                "QT_SCALE_FACTOR": str(scale),
                "KL_LENS_HOME": home,
                "KL_LENS_LANGUAGE": chosen.language,
                "HF_HUB_OFFLINE": "1",
            }
            subprocess.run(command, env={**os.environ, **variables}, check=True)
    return 0


def prepare(folder: Path) -> None:
    """A whole job on the sample, with a quick look's text: made once for a folder."""
    from kl_lens_desktop.process.child import Child
    from kl_lens_desktop.run import RunJob

    work = folder / WORK
    if not (work / "bench.json").exists():
        list(Child(RunJob("sample", work).quick).events())


def draw(folder: Path, pages: list[str] | None, scale: int) -> None:
    """All pictures of one scale, and their two sheets."""
    from kl_lens_desktop.gui.shell.window import PAGES

    names = pages or [page for page, _, _ in PAGES]
    with opened_window() as window:
        for state in STATES:
            with in_state(window, state, folder):
                for theme in THEMES:
                    dress(window, theme)
                    for name in names:
                        window.show_page(name)
                        wait(lambda: False, _MOMENT_S)
                        picture = window.grab()
                        assert picture.save(str(folder / f"{name}-{state}-{theme}-{100 * scale}.png"))
    for theme in THEMES:
        sheet(folder, names, theme, scale)


@contextmanager
def opened_window() -> Iterator[Any]:
    """The window at the size that the pages are drawn for; what runs in it ends with the block."""
    from kl_lens_desktop.gui.shell import application

    application.make_application()
    window = application.make_window()
    window.resize(*SIZE)
    window.show()
    window.resize(*SIZE)
    try:
        wait(lambda: not window.still_building)
        yield window
    finally:
        window.close()


@contextmanager
def in_state(window: Any, state: str, folder: Path) -> Iterator[None]:
    """Bring the window from the state before to this one of `STATES`."""
    session = window.session
    if state == "running":
        session.open_model("sample")
        wait(lambda: session.model is not None and not session.job.running)
        session.analyze()
        wait(lambda: len(session.entries) > 8 or not session.job.running)
        yield
        session.job.cancel()
        wait(lambda: not session.job.running)
        return
    if state == "failed":
        fail(session, folder)
    if state == "done":
        finish(session, folder)
        window.banner.hide()
    wait(lambda: False, _MOMENT_S)
    yield


def fail(session: Any, folder: Path) -> None:
    """A job that cannot be done: its text is gone."""
    from kl_lens_desktop.gui.state.job import Step
    from kl_lens_desktop.sensitivity.jobs import AnalyzeJob

    how = replace(session.analysis, text=(folder / "no-such-text.txt",))
    session.start(Step(AnalyzeJob("sample", session.workspace.scores, how)))
    wait(lambda: not session.job.running)


def finish(session: Any, folder: Path) -> None:
    """What a whole job leaves in the work folder."""
    session.set_analysis(replace(session.analysis, tokens=session.analysis.quick.tokens))
    shutil.copytree(folder / WORK, session.workspace.folder, dirs_exist_ok=True)
    session.failures.clear()
    session.forget_results()
    session.reload()
    wait(lambda: bool(session.bench))
    session.devices = session.bench_environment["devices"]
    session.devices_changed.emit()


def dress(window: Any, theme: str) -> None:
    """Turn the window light or dark, as Settings does."""
    window.session.settings.theme = theme
    window.follow_scheme()


def wait(done: Callable[[], bool], limit_s: float = _LONG_S) -> None:
    """Let the window live until something is `done`; a wait for nothing lasts as long as its limit."""
    import time

    from PySide6.QtCore import QEventLoop, QTimer

    loop, timer, until = QEventLoop(), QTimer(interval=20), time.monotonic() + limit_s
    timer.timeout.connect(lambda: loop.quit() if done() or time.monotonic() > until else None)
    timer.start()
    loop.exec()
    assert done() or limit_s < _LONG_S, "it takes too long"


def sheet(folder: Path, names: list[str], theme: str, scale: int) -> None:
    """One picture of all: a line a page, a column a state."""
    from PySide6.QtCore import QRect, Qt
    from PySide6.QtGui import QImage, QPainter

    height = CELL * SIZE[1] // SIZE[0]
    whole = QImage(CELL * len(STATES), (HEAD + height) * len(names), QImage.Format.Format_RGB32)
    whole.fill(Qt.GlobalColor.gray)
    painter = QPainter(whole)
    for line, name in enumerate(names):
        for column, state in enumerate(STATES):
            place = QRect(CELL * column, (HEAD + height) * line, CELL, HEAD)
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, f"{name}, {state}")
            picture = QImage(str(folder / f"{name}-{state}-{theme}-{100 * scale}.png"))
            smooth = Qt.TransformationMode.SmoothTransformation
            fitted = picture.scaledToWidth(CELL - 4, smooth)
            fitted.setDevicePixelRatio(1)
            painter.drawImage(place.left() + 2, place.bottom(), fitted)
    painter.end()
    assert whole.save(str(folder / f"sheet-{theme}-{100 * scale}.png"))


if __name__ == "__main__":
    sys.exit(main())
