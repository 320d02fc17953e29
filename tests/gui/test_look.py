"""The look: live light and dark, contrast, names for screen readers, and the keyboard."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible, QAccessibleInterface, QColor
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import SIDE
from kl_lens_desktop.gui.kit.theme import DARK, LIGHT, Colours
from kl_lens_desktop.gui.more.settings import SettingsPage
from kl_lens_desktop.gui.shell import header
from kl_lens_desktop.gui.shell.window import PAGES, STEPS, Window

NAMES = [page[0] for page in PAGES]


def test_choosing_dark_recolours_the_open_window(scored: Window, qtbot: QtBot) -> None:
    settings = scored.page("Settings")
    assert isinstance(settings, SettingsPage)
    for name in ("Sensitivity", "Plan"):
        scored.show_page(name)
        light = scored.grab().toImage()
        settings.theme.setCurrentIndex(settings.theme.findData("dark"))
        assert theme.colours() is DARK
        dark = scored.grab().toImage()
        corner = scored.width() - 8, scored.height() - 8
        assert light.pixelColor(*corner) == QColor(LIGHT.background)
        assert dark.pixelColor(*corner) == QColor(DARK.background)
        rail = 20, scored.height() - 20
        assert light.pixelColor(*rail) == QColor(LIGHT.surface)
        assert dark.pixelColor(*rail) == QColor(DARK.surface)
        settings.theme.setCurrentIndex(settings.theme.findData("light"))
        assert theme.colours() is LIGHT
    assert scored.session.settings.theme == "light"


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_that_reading_takes(scheme: Colours) -> None:
    for surface in (scheme.background, scheme.surface):
        for text in (scheme.text, scheme.secondary, scheme.danger, scheme.warning, scheme.good):
            assert contrast(text, surface) >= 4.5, (text, surface)
        for mark in (scheme.edge, scheme.accent):
            assert contrast(mark, surface) >= 3.0, (mark, surface)
    assert contrast(scheme.on_accent, scheme.accent) >= 4.5
    for tint in (scheme.danger_tint, scheme.warning_tint, scheme.good_tint, scheme.tint):
        assert contrast(scheme.text, tint) >= 4.5


def test_every_control_has_a_name_for_a_screen_reader(scored: Window) -> None:
    kinds = (
        QAbstractButton,
        QComboBox,
        QLineEdit,
        QPlainTextEdit,
        QSlider,
        QAbstractSpinBox,
        QAbstractItemView,
    )
    for name in NAMES:
        page = scored.page(name)
        for widget in [scored.jobbar, page]:
            for control in widget.findChildren(QWidget):
                if isinstance(control, kinds) and not _is_inner(control):
                    said = control.accessibleName() or (
                        control.text() if isinstance(control, QAbstractButton) else ""
                    )
                    assert said, f"{type(control).__name__} on {name} has no name"


def test_a_screen_reader_is_told_names_and_plain_words(scored: Window) -> None:
    """What Qt itself hands to a screen reader, all the way down from the window."""
    QAccessible.setActive(True)
    for name in NAMES:
        scored.show_page(name)
        told = list(_told(QAccessible.queryAccessibleInterface(scored)))
        nameless = [(kind, role) for kind, role, texts, focusable in told if focusable and not texts[0]]
        assert not nameless, f"on {name}"
        marked = [text for _, _, texts, _ in told for text in texts if re.search(r"</?[a-z]+>", text)]
        assert not marked, f"on {name}"
    rail = QAccessible.queryAccessibleInterface(scored.rail_entry(0))
    assert rail.role() == QAccessible.Role.RadioButton, "no box to tick"


def _told(of: QAccessibleInterface) -> Iterator[tuple[str, QAccessible.Role, tuple[str, ...], bool]]:
    if not of.isValid() or of.state().invisible:
        return
    texts = (QAccessible.Text.Name, QAccessible.Text.Description, QAccessible.Text.Help)
    yield type(of.object()).__name__, of.role(), tuple(map(of.text, texts)), bool(of.state().focusable)
    for place in range(min(of.childCount(), 200)):  # cells of long tables are like the first ones
        if child := of.child(place):
            yield from _told(child)


def test_every_page_is_reached_and_left_with_the_tab_key(scored: Window, qtbot: QtBot) -> None:
    for name in NAMES:
        scored.show_page(name)
        start = scored.compress
        start.setFocus()
        seen: list[QWidget] = []
        for _ in range(80):
            focus = scored.focusWidget()
            assert focus is not None
            if seen and focus is start:
                break
            seen.append(focus)
            scored.focusNextChild()
        else:
            pytest.fail(f"the tab order of {name} does not come round")
        inside = [widget for widget in seen if scored.page(name).isAncestorOf(widget)]
        assert inside, f"the tab key reaches nothing on {name}"


def test_shortcuts_turn_the_pages(window: Window, qtbot: QtBot) -> None:
    window.activateWindow()
    for index, name in enumerate(NAMES):
        qtbot.keyClick(window, getattr(Qt.Key, f"Key_{index + 1}"), Qt.KeyboardModifier.ControlModifier)
        assert window.shown == name


def test_each_stage_leads_back_to_the_one_before_in_line_with_the_content(
    scored: Window, qtbot: QtBot
) -> None:
    for before, name in pairwise(NAMES[:STEPS]):
        scored.show_page(name)
        page = scored.page(name)
        (back,) = (each for each in page.findChildren(QPushButton) if each.text() == f"← {before}")
        option = QStyleOptionButton()
        back.initStyleOption(option)
        inside = back.style().subElementRect(QStyle.SubElement.SE_PushButtonContents, option, back)
        assert back.mapTo(page, inside.topLeft()).x() == SIDE
        back.click()
        assert scored.shown == before


@pytest.mark.parametrize("size", [(1024, 680), (1280, 800)])
def test_every_page_fits_the_window(scored: Window, size: tuple[int, int], qtbot: QtBot) -> None:
    scored.resize(*size)
    for name in NAMES:
        scored.show_page(name)
        QApplication.processEvents()
        assert (scored.width(), scored.height()) == size, f"{name} pushes the window wider or taller"
        for button in scored.page(name).findChildren(QAbstractButton):
            if button.isVisible() and button.text() and not _is_inner(button):
                words = button.fontMetrics().horizontalAdvance(button.text())
                assert button.width() >= words, f"{button.text()!r} on {name} is cut"


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""
    lighter, darker = sorted((_luminance(QColor(first)), _luminance(QColor(second))), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: QColor) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (colour.redF(), colour.greenF(), colour.blueF())
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _is_inner(control: QWidget) -> bool:
    """Parts that Qt itself puts inside a control: a spin box's line, a table's corner, a clear button."""
    parent = control.parentWidget()
    inside = (QAbstractSpinBox, QComboBox, QLineEdit, QAbstractItemView)
    while parent is not None:
        if isinstance(parent, inside):
            return True
        parent = parent.parentWidget()
    return False


def test_meters_go_on_where_the_work_folder_is_gone(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "PERIOD_MS", 10)
    asked = [tmp_path / "gone" / "work"]
    sampler = header.Sampler(lambda: asked[-1])
    qtbot.waitUntil(lambda: sampler.latest is not None)
    assert sampler.latest is not None
    assert sampler.latest.disk_free

    other = tmp_path / "other"

    def refuse(folder: Path) -> int:
        if folder == other:  # another folder is looked at as soon as it is chosen
            return 1
        raise FileNotFoundError(folder)

    monkeypatch.setattr(header, "free_bytes", refuse)
    qtbot.waitUntil(lambda: sampler.latest is not None and sampler.latest.disk_free is None)
    asked.append(other)
    qtbot.waitUntil(lambda: sampler.latest is not None and sampler.latest.disk_free == 1)
    sampler.close()
