"""A window of its own for each test, and proof that nothing of it is left afterwards."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import shiboken6
from filelock import FileLock
from PySide6.QtCore import QCoreApplication, QEvent, QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.shell import application
from kl_lens_desktop.gui.shell.self_test import SHORT_ANALYSIS
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Finished
from kl_lens_desktop.sensitivity.scores import Scores, save_scores
from tests.machine import slowness

OURS = ("job", "resources", "background", "chat")
SMALL = SHORT_ANALYSIS
JOB_MS = 300_000


@pytest.fixture(autouse=True)
def nothing_stays(qapp: QApplication) -> Iterator[None]:
    """No window, dialog, menu or tooltip may outlive a test, and no timer may tick on."""
    before = {id(widget) for widget in qapp.topLevelWidgets()}
    yield
    qapp.processEvents()
    for _ in range(2):  # what goes may ask that something else go: a plot and its menu
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    left = [widget for widget in qapp.topLevelWidgets() if id(widget) not in before]
    assert not left, f"left at the top level: {left}"
    kinds = {QTimer, *QTimer.__subclasses__()}
    timers = [each for each in shiboken6.getAllValidWrappers() if type(each) in kinds]
    ticking = [each for each in timers if each.isActive()]
    assert not ticking, f"still ticking: {[(each, each.parent()) for each in ticking]}"


@pytest.fixture(scope="session")
def inspected(shared: Path) -> Finished:
    """What is said of the sample when it is inspected, asked once."""
    path = shared / "inspected.json"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            events = Child(InspectJob("sample")).events()
            (result,) = [event.result for event in events if isinstance(event, Finished)]
            write_json(path, result)
        return Finished(read_json(path))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def window(qapp: QApplication, qtbot: QtBot, home: Path) -> Iterator[Window]:
    """The window as the application makes it; afterwards no thread, child or half-written file may remain."""
    app = application.make_application()
    theme.apply(app, "light")
    made = application.make_window()
    made.show()
    qtbot.waitExposed(made)
    yield made
    closing = time.monotonic()
    made.close()
    took = time.monotonic() - closing
    assert took < 2 or took < 2 * slowness()  # which takes a while to tell
    made.deleteLater()
    qapp.processEvents()
    # A thread that asks the network may take longer than closing does, and then just ends.
    qtbot.waitUntil(lambda: leftovers(home) == [], timeout=10_000)


@pytest.fixture
def opened(window: Window, inspected: Finished, qtbot: QtBot) -> Window:
    """The window with the sample open and nothing measured yet."""
    window.session.job.step_finished.emit(Step(InspectJob("sample")), inspected)
    window.session.set_analysis(SMALL)
    window.session.model_changed.emit()
    return window


@pytest.fixture
def scored(opened: Window, sample_scores: Scores, qtbot: QtBot) -> Window:
    """The window with the sample's scores in place, as an earlier session left them."""
    save_scores(opened.session.workspace.scores, sample_scores)
    with qtbot.waitSignal(opened.session.scores_changed):
        opened.session.reload()
    opened.show_page("Plan")
    return opened


@pytest.fixture
def plan_of(sample_scores: Scores) -> Callable[..., Any]:
    return lambda **wishes: propose(sample_scores, **wishes)


def leftovers(folder: Path) -> list[str]:
    """Threads and children of ours that still run, and unfinished files below `folder`."""
    threads = [t.name for t in threading.enumerate() if t.name.split()[0] in OURS and t.is_alive()]
    children = [str(child) for child in psutil.Process().children(recursive=True) if _is_worker(child)]
    return threads + children + [str(path) for path in folder.rglob("*.partial")]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False
