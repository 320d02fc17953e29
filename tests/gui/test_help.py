"""Help: the bundled pages inside the window, their links, and nothing from elsewhere."""

import re
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QTextDocument
from pytestqt.qtbot import QtBot

from kl_lens_desktop import resources
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.more.help import CONTENTS, HelpPage, anchor
from kl_lens_desktop.gui.shell.window import PAGES, Window

DOCS = resources.path("docs")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)]+)\)")


@pytest.fixture
def page(window: Window) -> HelpPage:
    window.show_page("Help")
    found = window.page("Help")
    assert isinstance(found, HelpPage)
    return found


@pytest.mark.parametrize("name", [entry[0] for entry in PAGES])
def test_f1_opens_what_the_guide_says_about_the_page(window: Window, name: str, qtbot: QtBot) -> None:
    window.show_page(name)
    window.activateWindow()
    qtbot.keyClick(window, Qt.Key.Key_F1)
    assert window.shown == "Help"
    page = window.page("Help")
    assert isinstance(page, HelpPage)
    assert page.text.file == "guide.md"
    assert page.text.source().fragment() in _anchors(DOCS / "guide.md")
    assert page.text.hasFocus()


def test_links_lead_through_the_pages_and_back(page: HelpPage) -> None:
    page.text.follow(QUrl("method.md#racing"))
    assert page.text.file == "method.md"
    assert page.contents.currentItem().text() == "Method"
    assert page.text.verticalScrollBar().value() > 0
    page.back.click()
    assert (page.text.file, page.contents.currentItem().text()) == ("guide.md", "Guide")
    page.forward.click()
    assert page.text.file == "method.md"


def test_a_web_link_opens_in_the_browser(page: HelpPage, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toString()))
    page.text.follow(QUrl("https://github.com/openvinotoolkit/openvino/issues"))
    assert opened == ["https://github.com/openvinotoolkit/openvino/issues"]
    assert page.text.file == "guide.md"


def test_nothing_outside_the_bundled_pages_is_opened(page: HelpPage, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.md"
    stranger.write_text("![](https://example.org/a.png)", encoding="utf-8")
    page.text.follow(QUrl.fromLocalFile(str(stranger)))
    assert page.text.file == "guide.md"
    kind = int(QTextDocument.ResourceType.ImageResource.value)
    for url in (QUrl("https://example.org/a.png"), QUrl.fromLocalFile(str(stranger)), QUrl("../../LICENSE")):
        assert page.text.loadResource(kind, url) is None


def test_the_picture_takes_the_colours_of_the_theme(page: HelpPage) -> None:
    kind = int(QTextDocument.ResourceType.ImageResource.value)
    page.text.open("architecture.md")
    image = page.text.loadResource(kind, QUrl("architecture.svg"))
    assert image.pixelColor(2, 2).name() == theme.colours().background.lower()  # type: ignore[attr-defined]


def test_every_link_of_a_page_leads_to_a_listed_page_and_an_existing_heading() -> None:
    listed = {file for file, _ in CONTENTS} | {
        each.relative_to(DOCS).as_posix() for each in DOCS.rglob("*.md")
    }
    for path in DOCS.rglob("*.md"):
        for link in LINK.findall(path.read_text(encoding="utf-8")):
            if link.startswith("https://"):
                continue
            file, _, section = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.relative_to(DOCS.resolve()).as_posix() in listed, f"{path.name}: {link}"
            if section:
                assert section in _anchors(target), f"{path.name}: {link}"


def _anchors(path: Path) -> set[str]:
    return {
        anchor(line.lstrip("# ")) for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"
    }
