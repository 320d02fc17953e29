"""What a newcomer needs: nothing cut off or beside the point, and a reason for what cannot be pressed."""

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QLabel, QWidget
from pytestqt.qtbot import QtBot

from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.gui.model.page import ModelPage
from kl_lens_desktop.gui.plan.page import PlanPage
from kl_lens_desktop.gui.plan.table import HEADINGS
from kl_lens_desktop.gui.sensitivity.page import SensitivityPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.session import MISSING

PADDING = 16  # of a heading, left and right
SIZES = [(1024, 680), (1280, 800)]


def shown(inside: QWidget) -> dict[str, QLabel]:
    """The labels that can be seen in a part of the window, by their words."""
    QApplication.processEvents()
    return {each.text(): each for each in inside.findChildren(QLabel) if each.isVisible() and each.text()}


def is_whole(line: QLabel) -> bool:
    """Whether all of a label's words have room."""
    if line.wordWrap():
        return line.height() >= line.heightForWidth(line.width())
    return line.width() >= line.fontMetrics().horizontalAdvance(line.text())


@pytest.mark.parametrize("size", SIZES)
def test_an_architecture_is_read_whole(opened: Window, size: tuple[int, int]) -> None:
    opened.resize(*size)
    page = opened.page("Model")
    assert isinstance(page, ModelPage)
    longest = max((family.title for family in FAMILIES.values()), key=len)
    assert opened.session.model is not None
    opened.session.model.about["architecture"] = longest
    opened.session.model_changed.emit()
    assert is_whole(shown(page.details)[longest])


def test_a_model_that_is_here_is_not_downloaded(opened: Window) -> None:
    page = opened.page("Model")
    assert isinstance(page, ModelPage)
    words = shown(page.details)
    assert "Measuring sensitivity" in words
    assert "Downloading" not in words


@pytest.mark.parametrize("size", SIZES)
def test_what_cannot_be_pressed_says_why_beside_it(window: Window, size: tuple[int, int]) -> None:
    window.resize(*size)
    assert is_whole(shown(window)[MISSING])
    assert window.compress.toolTip() == MISSING
    assert "Choose a model first" in shown(window.page("Model"))
    for name in ("Export", "Benchmark"):
        window.show_page(name)
        assert is_whole(shown(window.page(name))[MISSING])


@pytest.mark.parametrize("size", SIZES)
def test_start_needs_no_choice_and_the_next_page_says_what_it_waits_for(
    opened: Window, size: tuple[int, int], qtbot: QtBot
) -> None:
    opened.resize(*size)
    page = opened.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    opened.show_page("Sensitivity")
    assert page.run_button.isEnabled()
    words = shown(page)
    assert "Measure sensitivity first" in words
    assert MISSING not in words
    for name, action in page.settings_row._actions.items():
        if action.isChecked():
            action.trigger()
            assert not action.isChecked(), name
    assert page.settings_row.formats.text() == "All", "none chosen leaves the choice to the program"
    assert page.run_button.isEnabled()


def test_all_measured_is_said_whole_in_the_smallest_window(scored: Window) -> None:
    scored.resize(*SIZES[0])
    page = scored.page("Sensitivity")
    assert isinstance(page, SensitivityPage)
    scored.show_page("Sensitivity")
    (reason,) = (text for text in shown(page) if text.startswith("Everything is measured"))
    assert is_whole(shown(page)[reason])


def test_every_heading_of_figures_is_explained(scored: Window) -> None:
    plan, sensitivity = scored.page("Plan"), scored.page("Sensitivity")
    assert isinstance(plan, PlanPage)
    assert isinstance(sensitivity, SensitivityPage)
    tip = Qt.ItemDataRole.ToolTipRole
    for table, first in ((plan.weights.table, 0), (sensitivity.detail.table.model(), 3)):
        for place in range(first, table.columnCount()):
            assert table.headerData(place, Qt.Orientation.Horizontal, tip), place
    header = plan.weights.view.horizontalHeader()
    for place in range(plan.weights.table.columnCount()):
        width = header.fontMetrics().horizontalAdvance(HEADINGS[place])
        assert width + PADDING <= plan.weights.view.columnWidth(place), HEADINGS[place]
