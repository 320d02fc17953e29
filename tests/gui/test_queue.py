"""Models wait to be compressed, and take their turn when nothing else runs."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtGui import QAction
from pytestqt.qtbot import QtBot

from kl_lens_desktop.gui.model.page import ModelPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state import job_queue
from kl_lens_desktop.gui.state.job import Runner, Step
from kl_lens_desktop.gui.state.settings import Settings, Waiting
from kl_lens_desktop.hub.jobs import PullJob
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.events import Finished
from kl_lens_desktop.run import RunJob


class Played:
    """Jobs that begin and end as the test says; what a model is inspected to be is the sample's."""

    def __init__(self, runner: Runner, inspected: Finished) -> None:
        self._runner, self._inspected = runner, inspected
        self.steps: tuple[Step, ...] = ()

    def start(self, *steps: Step, place: Path | None = None) -> None:
        assert not self._runner.running, "a job is running already"
        self.steps = steps
        self._runner._thread = threading.Thread()
        self._runner.started.emit(steps[0].name)

    def end(self, how: str = "finished") -> None:
        self._runner._thread = None
        for step in self.steps if how == "finished" else ():
            if isinstance(step.job, InspectJob):
                self._runner.step_finished.emit(step, self._inspected)
        self._runner.ended.emit(how)

    @property
    def jobs(self) -> list[Any]:
        return [step.job for step in self.steps]


@pytest.fixture
def played(opened: Window, inspected: Finished, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    runner = opened.session.job
    made = Played(runner, inspected)
    monkeypatch.setattr(runner, "start", made.start)
    opened.session.queue._clock.setInterval(1)
    yield made
    runner._thread = None
    opened.session.queue.hold()


def test_models_that_wait_take_their_turn(opened: Window, played: Played, qtbot: QtBot) -> None:
    session, page = opened.session, opened.page("Model")
    assert isinstance(page, ModelPage)
    assert opened.queue_button.isHidden()
    session.compress()
    page.open("/models/first")
    assert opened.banner.text.text() == "A job is running. first can be compressed after it."
    opened.banner.action.click()
    session.queue.add("owner/second", pull=True)
    assert opened.queue_button.text() == "Next: 2 models"
    played.end()
    qtbot.waitUntil(lambda: played.jobs == [InspectJob("/models/first")])
    assert opened.queue_button.text() == "Next: 1 model"
    played.end()
    qtbot.waitUntil(lambda: isinstance(played.jobs[0], RunJob))
    assert played.jobs[0].model == "/models/first"
    played.end("failed")
    qtbot.waitUntil(lambda: isinstance(played.jobs[0], PullJob))
    assert [job.model for job in played.jobs] == ["owner/second", "owner/second"]
    played.end()
    qtbot.waitUntil(lambda: isinstance(played.jobs[0], RunJob))
    assert session.model is not None
    assert session.model.reference == "owner/second"
    played.end()
    qtbot.waitUntil(lambda: opened.banner.text.text() == "Compressed: second. Failed, see the log: first.")
    assert opened.queue_button.isHidden()


def test_wherever_a_model_is_chosen_during_a_job_it_can_wait(
    opened: Window, played: Played, tmp_path: Path
) -> None:
    session = opened.session
    session.compress()
    session.open_path(tmp_path)
    assert opened.banner.text.text() == f"A job is running. {tmp_path.name} can be compressed after it."
    opened.banner.action.click()
    assert [each.reference for each in session.queue.waiting] == [str(tmp_path)]
    opened.banner.hide()
    played.end("cancelled")
    session.open_model("other")
    session.choose_model("third")
    assert opened.banner.action.isHidden(), "who is opening a model has only to wait for that"
    assert "A job is running" in opened.banner.text.text()


def test_a_person_who_cancels_or_holds_is_not_overrun(opened: Window, played: Played, qtbot: QtBot) -> None:
    queue = opened.session.queue
    opened.session.compress()
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert [each.reference for each in queue.waiting] == ["a", "b"], "each waits once"
    played.end("cancelled")
    qtbot.wait(50)
    assert opened.queue_button.text() == "On hold: 2 models"
    assert not opened.session.job.running
    queue.move_first("b")
    queue.go_on()
    assert played.jobs == [InspectJob("b")]
    opened.session.job.occupy("A chat is being answered.")
    played.end()
    qtbot.wait(50)
    assert not opened.session.job.running, "the chat comes first"
    opened.session.job.occupy("")
    assert isinstance(played.jobs[0], RunJob)
    played.end("cancelled")
    qtbot.wait(50)
    assert queue.held
    assert not opened.session.job.running
    queue.remove("a")
    assert opened.queue_button.isHidden()
    queue.add("c")
    assert not queue.held, "nothing was left that was on hold"


def test_there_is_time_to_hold_the_next_one(opened: Window, played: Played, qtbot: QtBot) -> None:
    queue = opened.session.queue
    queue._clock.setInterval(10_000)
    queue.add("a & b")
    assert opened.queue_button.text() == f"Next in {job_queue.PAUSE_S} s"
    menu = opened.queue_button.menu()
    menu.aboutToShow.emit()
    words = {action.text(): action for action in menu.actions()}
    assert "a && b" in words
    words["Hold"].trigger()
    assert opened.queue_button.text() == "On hold: 1 model"
    menu.aboutToShow.emit()
    (start,) = [action for action in menu.actions() if action.text() == "Start now"]
    assert isinstance(start, QAction)
    start.trigger()
    assert played.jobs == [InspectJob("a & b")]


def test_without_a_device_the_queue_waits(opened: Window, played: Played) -> None:
    session = opened.session
    session.choose_devices(())
    session.queue.add("a")
    session.queue.go_on()
    assert played.jobs == []
    assert session.queue.held
    assert "Choose a device on the Benchmark page" in opened.banner.text.text()
    assert len(session.queue.waiting) == 1


def test_a_model_opened_in_between_is_not_compressed_in_its_place(
    opened: Window, played: Played, qtbot: QtBot
) -> None:
    session = opened.session
    session.queue.add("a")
    session.queue.go_on()
    session.job.occupy("A chat is being answered.")
    played.end()
    qtbot.wait(20)
    session.job.occupy("")
    assert isinstance(played.jobs[0], RunJob)
    played.end()
    session.queue.add("b")
    session.queue.go_on()
    session.job.occupy("A chat is being answered.")
    played.end()
    session.model = None
    session.job.occupy("")
    assert played.jobs == [InspectJob("b")], "it is opened again first"


def test_what_waits_is_found_on_hold_by_the_next_window(opened: Window, played: Played) -> None:
    session = opened.session
    session.compress()
    session.queue.add("owner/model", pull=True)
    assert Settings().waiting == (Waiting("owner/model", pull=True),)
    other = job_queue.JobQueue(session)
    assert other.held
    other.deleteLater()
