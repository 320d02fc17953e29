"""What is remembered between starts: whole, of earlier versions, and of files with something odd in them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QByteArray, QSettings, QSize, QTimer
from PySide6.QtWidgets import QApplication, QMessageBox
from pytestqt.qtbot import QtBot

from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.gui.more.settings import SettingsPage, sizes_that_fit
from kl_lens_desktop.gui.shell import application
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.settings import Settings
from kl_lens_desktop.gui.state.workspace import workspace_of
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.events import Finished
from kl_lens_desktop.sensitivity.jobs import Analysis


def keep_all(settings: Settings) -> None:
    settings.theme, settings.endpoint, settings.size = "dark", "https://mirror.example", 125
    settings.work_folder = Path("elsewhere")
    for reference in ("a", "b", "a"):
        settings.remember(reference)
    settings.columns = ("size", "ttft_ms")
    settings.benchmark = Benchmark(tokens=700)
    settings.keep_analysis(workspace_of(Path(), "a"), Analysis(tokens=512))
    settings.keep_state("window", QByteArray(b"\x00\xff"))
    settings.flush()


def check_all(settings: Settings) -> None:
    assert settings.problem == ""
    assert (settings.theme, settings.endpoint) == ("dark", "https://mirror.example")
    assert settings.work_folder == Path("elsewhere")
    assert settings.recent == ("a", "b")
    assert settings.columns == ("size", "ttft_ms")
    assert settings.benchmark == Benchmark(tokens=700)
    assert settings.analysis(workspace_of(Path(), "a")) == Analysis(tokens=512)
    assert settings.analysis(workspace_of(Path(), "b")) == Analysis()
    assert settings.state("window") == QByteArray(b"\x00\xff")
    assert settings.state("other").isEmpty()


def test_what_is_kept_comes_back(home: Path) -> None:
    keep_all(Settings())
    check_all(Settings())
    assert Settings().size == 125


@pytest.mark.parametrize(("given", "ratio"), [("", 1.5), ("2", 2.0)])
def test_the_window_is_as_large_as_was_chosen(home: Path, given: str, ratio: float) -> None:
    """Qt reads the size when it starts, so this one starts in a process of its own."""
    Settings().size = 150
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    environment.pop("QT_SCALE_FACTOR", None)
    if given:
        environment["QT_SCALE_FACTOR"] = given
    code = (
        "from kl_lens_desktop.gui.shell.application import make_application;"
        "from kl_lens_desktop.gui.state.settings import Settings;"
        "print(make_application(Settings().size).devicePixelRatio())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == ratio


def test_no_size_is_offered_at_which_the_window_exceeds_the_screen() -> None:
    assert sizes_that_fit(100, QSize(1920, 1160)) == [100, 110, 125, 150]
    assert sizes_that_fit(150, QSize(1280, 773)) == [100, 110, 125, 150]
    assert sizes_that_fit(100, QSize(1280, 752)) == [100, 110]
    assert sizes_that_fit(200, QSize(400, 300)) == [100, 200], "what is in force can be kept"


def test_a_size_is_chosen_for_the_next_start(window: Window) -> None:
    page = window.page("Settings")
    assert isinstance(page, SettingsPage)
    page.scale.addItem("150 %", 150)  # the screen of this test is small
    page.scale.setCurrentIndex(page.scale.findData(150))
    assert Settings().size == 150
    assert page.scale_state.text() == "From the next start of KL Lens on"
    page.restore_defaults()
    assert Settings().size == 100
    assert page.scale_state.text() == ""


def test_settings_of_versions_with_an_ini_file_come_over(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    store = QSettings(str(home / "settings.ini"), QSettings.Format.IniFormat)
    for key, value in {
        "theme": "dark", "hub/endpoint": "https://mirror.example", "work_folder": "elsewhere",
        "recent": ["a", "b"], "columns": "size,ttft_ms", "benchmark": json.dumps({"tokens": 700}),
        f"analysis/{workspace_of(Path(), 'a').folder.name}": json.dumps({"tokens": 512}),
        "state/window": QByteArray(b"\x00\xff"),
    }.items():  # fmt: skip
        store.setValue(key, value)
    store.sync()
    check_all(Settings())
    store.setValue("recent", "a")  # as the format keeps a list of one
    store.sync()
    assert Settings().recent == ("a",)


@pytest.mark.parametrize(
    ("strange", "named"),
    [
        ({"theme": "sepia"}, "theme"),
        ({"size": 10_000}, "size"),
        ({"version": 2, "tabs": ["x"]}, "tabs"),
        ({"recent": "a"}, "recent"),
        ({"columns": 3}, "columns"),
        ({"benchmark": {"tokens": "many", "minutes": 3}}, "benchmark.minutes, benchmark.tokens"),
        ({"analyses": {"a": {"tokens": 512, "speed": 1}}}, "analyses.a.speed"),
        ({"states": {"window": 1}}, "states"),
    ],
)
def test_what_is_not_known_is_set_aside_and_the_rest_counts(
    strange: dict[str, Any], named: str, home: Path
) -> None:
    home.mkdir(parents=True, exist_ok=True)
    whole = {"theme": "dark", "endpoint": "https://mirror.example", "recent": ["a", "b"]} | strange
    text = json.dumps(whole)
    (home / "settings.json").write_text(text, encoding="utf-8")
    settings = Settings()
    assert f"have their usual values: {named}. " in settings.problem
    assert (home / "settings-before.json").read_text(encoding="utf-8") == text
    assert settings.endpoint == "https://mirror.example"
    assert settings.theme == ("system" if "theme" in strange else "dark")
    assert settings.recent == (() if "recent" in strange else ("a", "b"))
    if "analyses" in strange:
        assert (
            json.loads((home / "settings.json").read_text(encoding="utf-8"))["analyses"]["a"]["tokens"] == 512
        )
    assert Settings().problem == "", "said once"
    assert Settings().recent == settings.recent


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000])
def test_a_damaged_file_is_kept_and_said(damaged: bytes, home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.json").write_bytes(damaged)
    settings = Settings()
    assert str(home / "settings-before.json") in settings.problem
    assert (home / "settings-before.json").read_bytes() == damaged
    settings.remember("a")
    assert (Settings().recent, Settings().problem) == (("a",), "")


def test_where_no_folder_can_be_made_settings_last_and_a_job_says_so(
    home: Path, window: Window, inspected: Finished, qtbot: QtBot
) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.write_bytes(b"")
    settings = window.session.settings
    settings.size = 125
    window.session.job.step_finished.emit(Step(InspectJob("sample")), inspected)
    assert (settings.size, settings.recent) == (125, ("sample",))
    assert window.session.model is not None
    said: list[str] = []
    window.session.said.connect(lambda _, sentence: said.append(sentence))
    with qtbot.waitSignal(window.session.job.ended):
        window.compress.click()
    assert "work folder can be written to" in said[-1]
    assert "Errno" not in said[-1]
    home.unlink()


def test_two_windows_lose_nothing_of_each_other(home: Path) -> None:
    first, second = Settings(), Settings()
    first.remember("a")
    second.remember("b")
    first.theme = "dark"
    second.columns = ("size",)
    again = Settings()
    assert (again.recent, again.theme, again.columns) == (("b", "a"), "dark", ("size",))


def test_the_window_says_what_was_set_aside(home: Path, qapp: QApplication, qtbot: QtBot) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.json").write_text('{"theme": "sepia"}', encoding="utf-8")
    application.make_application()
    window = application.make_window()
    qtbot.addWidget(window)
    window.show()
    assert "theme" in window.banner.text.text()
    assert window.banner.isVisible()
    window.close()


def test_defaults_are_restored_and_the_models_stay(opened: Window, home: Path) -> None:
    keep_all(opened.session.settings)
    page = opened.page("Settings")
    assert isinstance(page, SettingsPage)
    page.restore_defaults()
    settings = opened.session.settings
    assert (settings.theme, settings.endpoint, settings.columns) == ("system", "", None)
    assert settings.recent == ("a", "b", "sample")
    assert page.work.text() == str(home / "work")
    assert json.loads((home / "settings-before.json").read_text(encoding="utf-8"))["theme"] == "dark"


@pytest.mark.qt_log_ignore("This plugin does not support")
def test_what_breaks_again_and_again_is_told_once(qapp: QApplication, qtbot: QtBot) -> None:
    told, seen = application._Told(), list[str]()

    def close() -> None:
        boxes = [each for each in QApplication.topLevelWidgets() if isinstance(each, QMessageBox)]
        seen.extend(box.text() for box in boxes if box.isVisible())
        for box in boxes:
            box.close()

    timer = QTimer(interval=20)
    timer.timeout.connect(close)
    timer.start()
    for _ in range(50):
        told.sentence.emit("It broke.")
    qtbot.waitUntil(lambda: bool(seen))
    for _ in range(50):
        told.sentence.emit("It broke.")
    qtbot.wait(200)
    assert seen == ["It broke."]
