"""From the search box to a finished run, on a model of the Hub on loopback, with mouse and keyboard alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from kl_lens_desktop.gui.model.page import ModelPage
from kl_lens_desktop.gui.shell.window import Window
from tests import hub_server
from tests.gui.conftest import JOB_MS, SMALL
from tests.hub_server import Hub, Repository
from tests.models import build_short_sample

ID = "tiny/hybrid"
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub_server.go_online(monkeypatch, tmp_path / "home")
    files = hub_server.folder_files(build_short_sample(tmp_path / "model"))
    with hub_server.serve({ID: Repository(files)}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.mark.slow
def test_a_model_is_searched_downloaded_and_compressed(hub: Hub, window: Window, qtbot: QtBot) -> None:
    session, page = window.session, window.page("Model")
    assert isinstance(page, ModelPage)

    def click(widget: QWidget) -> None:
        assert widget.isVisible()
        assert widget.isEnabled()
        qtbot.mouseClick(widget, LEFT)

    click(page.query)
    qtbot.keyClicks(page.query, "hybrid")
    qtbot.keyClick(page.query, Qt.Key.Key_Return)
    table = page.results.table
    qtbot.waitUntil(lambda: table.rowCount() == 1, timeout=20_000)
    place = table.visualItemRect(table.item(0, 0)).center()
    qtbot.mouseClick(table.viewport(), LEFT, pos=place)
    qtbot.waitUntil(lambda: page.download.isEnabled(), timeout=20_000)
    with qtbot.waitSignal(session.job.ended, timeout=JOB_MS) as ended:
        click(page.download)
    assert ended.args == ["finished"], session.log[-1]
    qtbot.waitUntil(lambda: session.model is not None and window.compress.isEnabled(), timeout=20_000)
    assert session.model is not None
    assert session.model.about["id"] == ID
    session.set_analysis(SMALL)  # as short as the job can be
    session.effort = "Quick look"

    with qtbot.waitSignal(session.job.ended, timeout=2 * JOB_MS) as ended:
        click(window.compress)
    assert ended.args == ["finished"], session.log[-1]
    qtbot.waitUntil(lambda: window.shown == "Benchmark" and bool(session.exports), timeout=20_000)
    folder = session.exports["plan"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"base_model: {ID}" in card
    assert "| CPU |" in card
    measured = {row["variant"] for row in session.bench if row["status"] == "ok"}
    assert "plan" in measured
    assert len(hub.bodies("model.safetensors")) == 2, "one question to the Hub, one body from its CDN"
