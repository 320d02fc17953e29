"""Searching, downloading, the library and the token, against a small Hub on loopback."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keyring
import keyring.backends.fail
import pytest
from keyring.backend import KeyringBackend
from PySide6.QtCore import QCoreApplication, QEvent
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from kl_lens_desktop import resources
from kl_lens_desktop.files import write_json
from kl_lens_desktop.gui.export.upload import UploadDialog
from kl_lens_desktop.gui.kit.desktop import open_folder
from kl_lens_desktop.gui.model.page import ModelPage
from kl_lens_desktop.gui.more.library import LibraryPage
from kl_lens_desktop.gui.more.settings import SettingsPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state import settings
from kl_lens_desktop.gui.state.workspace import folder_size
from kl_lens_desktop.hub.facts import Facts
from kl_lens_desktop.plan.document import save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.sensitivity.scores import Scores
from tests import hub_server
from tests.gui.test_benchmark import bench_document, bench_row
from tests.gui.test_late_answers import Held
from tests.hub_server import Hub, Repository, make_old_folder

ID = "tiny/hybrid"
GPTQ = {"model_type": "mamba2", "quantization_config": {"quant_method": "gptq"}}


class MemoryKeyring(KeyringBackend):
    """A keyring that lives as long as a test."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def vault() -> Iterator[MemoryKeyring]:
    before, mine = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(mine)
    yield mine
    keyring.set_keyring(before)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, vault: MemoryKeyring, tmp_path: Path) -> Iterator[Hub]:
    hub_server.go_online(monkeypatch, tmp_path / "home")
    files = hub_server.folder_files(resources.path("sample-hybrid"))
    with hub_server.serve({ID: Repository(files)}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_model_is_found_downloaded_and_opened_and_can_be_deleted(
    hub: Hub, window: Window, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = window.session
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    page.query.setText("hybrid")
    page.search()
    qtbot.waitUntil(lambda: page.results.table.rowCount() == 1, timeout=20_000)
    page.results.table.selectRow(0)
    qtbot.waitUntil(lambda: page.download.isEnabled(), timeout=20_000)
    with qtbot.waitSignal(session.job.ended, timeout=120_000) as ended:
        page.download.click()
    assert ended.args == ["finished"], session.log[-1]
    assert session.model is not None
    assert session.model.about["id"] == ID
    assert session.model.about["revision"] == hub_server.COMMIT

    library = window.page("Library")
    assert isinstance(library, LibraryPage)
    window.show_page("Library")
    qtbot.waitUntil(lambda: library.table.rowCount() >= 1, timeout=10_000)
    folder = session.model.about["folder"]
    row = next(r for r in range(library.table.rowCount()) if library.table.item(r, 3).text() == folder)
    library.table.selectRow(row)
    library.delete_button.click()
    assert library.keep.isVisible(), "deleting asks first"
    with qtbot.waitCallback() as released:
        monkeypatch.setattr(session.chat, "release", released)  # Windows deletes no file that is open
        library.delete.click()
    qtbot.waitUntil(lambda: all(h.folder != folder for h in library.holdings), timeout=10_000)


def test_a_model_of_an_earlier_version_is_moved_and_verified(
    hub: Hub, window: Window, qtbot: QtBot, home: Path
) -> None:
    make_old_folder(home, ID, hub.repositories[ID].files)
    library = window.page("Library")
    assert isinstance(library, LibraryPage)
    window.show_page("Library")
    qtbot.waitUntil(lambda: library.table.rowCount() == 1, timeout=10_000)
    library.table.selectRow(0)
    assert library.move_button.isVisible()
    assert not library.verify_button.isVisible()
    with qtbot.waitSignal(window.session.job.ended, timeout=60_000) as ended:
        library.move_button.click()
    assert ended.args == ["finished"], window.session.log[-1]
    qtbot.waitUntil(lambda: "in the shared cache" in library.table.item(0, 1).text(), timeout=10_000)
    library.table.selectRow(0)
    assert not library.move_button.isVisible()
    with qtbot.waitSignal(window.session.job.ended, timeout=60_000):
        library.verify_button.click()
    count = len(hub.repositories[ID].files)
    assert window.banner.text.text() == f"{ID}: all {count} files are as the Hub lists them."


def test_filters_narrow_what_is_found(hub: Hub, window: Window, qtbot: QtBot) -> None:
    hub.repositories["other/gptq"] = Repository({}, config=GPTQ)
    hub.repositories["other/gated"] = Repository({}, gated=True)
    hub.repositories["LiquidAI/LFM2-350M"] = Repository({}, config={"model_type": "lfm2"})
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    results = page.results

    def shown() -> list[str]:
        return [results.table.item(row, 0).text().split()[0] for row in range(results.table.rowCount())]

    page.search()
    qtbot.waitUntil(lambda: shown() == ["LiquidAI/LFM2-350M"], timeout=10_000)
    assert results.said.text() == "Small hybrids to begin with."
    page.query.setText("other/")
    page.search()
    qtbot.waitUntil(lambda: shown() == ["other/gated"], timeout=10_000)
    assert "1 that cannot be used here is left out" in results.said.text()
    results.architecture.setCurrentIndex(results.architecture.findData("any"))
    qtbot.waitUntil(lambda: shown() == ["other/gptq", "other/gated"], timeout=10_000)
    assert results.table.item(0, 2).text() == "✗ quantized"
    results.open_only.click()
    qtbot.waitUntil(lambda: shown() == ["other/gptq"], timeout=10_000)


def test_a_model_that_cannot_be_used_says_why_and_is_not_downloaded(
    hub: Hub, window: Window, qtbot: QtBot
) -> None:
    files = {**hub.repositories[ID].files, "config.json": json.dumps(GPTQ).encode()}
    hub.repositories[ID] = Repository(files)
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    page.query.setText("hybrid")
    page.search()
    qtbot.waitUntil(lambda: page.results.table.rowCount() == 1, timeout=10_000)
    page.results.table.selectRow(0)
    qtbot.waitUntil(lambda: "quantized already (GPTQ)" in page.why.text(), timeout=10_000)
    assert not page.download.isEnabled()
    assert hub.bodies("model.safetensors") == []


def test_an_exported_model_is_shown_and_uploaded(
    hub: Hub, opened: Window, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    folder = tmp_path / "plan"
    folder.mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (folder / name).write_bytes(b"graph")
    about = {"files": ["kl_lens.json", "openvino_model.xml", "openvino_model.bin"]}
    (folder / "kl_lens.json").write_text(json.dumps(about), encoding="utf-8")
    dialog = UploadDialog(opened, opened.session, {"plan": folder})
    qtbot.addWidget(dialog)
    qtbot.waitUntil(lambda: "README.md:" in dialog.shown.toPlainText(), timeout=10_000)
    assert "openvino_model.bin, 5 B" in dialog.shown.toPlainText()
    assert not dialog.upload.isEnabled()
    assert dialog.why.text() == "Enter a repository, such as your-name/model"
    dialog.repository.setText("me/hybrid")
    assert not dialog.public.isChecked()
    with qtbot.waitSignal(opened.session.job.ended, timeout=60_000) as ended:
        dialog.upload.click()
    assert ended.args == ["finished"], opened.session.log[-1]
    assert opened.banner.text.text() == f"Uploaded to {hub.url}/me/hybrid."
    assert hub.repositories["me/hybrid"].private
    assert set(hub.repositories["me/hybrid"].files) == {*about["files"], "README.md"}
    hub.repositories["me/other"] = Repository({"README.md": b"My model."})
    dialog = UploadDialog(opened, opened.session, {"plan": folder})
    qtbot.addWidget(dialog)
    dialog.repository.setText("me/other")
    qtbot.waitUntil(lambda: "The upload replaces README.md" in dialog.there.text(), timeout=10_000)
    assert dialog.there.text().startswith("me/other exists (everybody can see it).")
    assert dialog.why.text().startswith("Everybody can see this repository")
    dialog.public.setChecked(True)
    assert dialog.why.text().startswith("The repository holds files of something else")
    assert not dialog.upload.isEnabled()
    dialog.replace.setChecked(True)
    assert dialog.upload.isEnabled()
    assert dialog.job.replace
    dialog.repository.setText("me/hybrid")
    qtbot.waitUntil(lambda: dialog.there.text().startswith("me/hybrid exists (private)"), timeout=10_000)
    assert not dialog.job.replace, "what is replaced there is our own"
    dialog.repository.setText("me/new")
    assert dialog.there.isHidden()
    assert dialog.upload.isEnabled()


def test_no_network_is_said_in_words_beside_the_search(
    window: Window, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, vault: MemoryKeyring, tmp_path: Path
) -> None:
    hub_server.go_online(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    page.query.setText("granite")
    page.search()
    window.show_page("Model")
    qtbot.waitUntil(lambda: "cannot be reached" in page.refusal.text(), timeout=30_000)
    assert "Errno" not in page.refusal.text()
    assert page.refusal.isVisible()
    sample = next(b for b in page.findChildren(QPushButton) if b.accessibleName() == "Try the sample")
    assert sample.isVisible()
    page.search()
    assert not sample.isVisible()


def test_the_token_goes_to_the_keyring_and_is_never_shown(
    window: Window, qtbot: QtBot, vault: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    page = window.page("Settings")
    assert isinstance(page, SettingsPage)
    page.token.setText("hf_secret")
    page.save_token.click()
    qtbot.waitUntil(
        lambda: (
            page.token.text() == "" and "stored" in page.token_state.text() and page.forget_token.isEnabled()
        )
    )
    assert list(vault.kept.values()) == ["hf_secret"]
    assert "hf_secret" not in page.token_state.text()
    assert all("hf_secret" not in line.text for line in window.session.log)
    page.forget_token.click()
    qtbot.waitUntil(lambda: vault.kept == {})


def test_a_token_that_cannot_be_saved_stays_and_words_are_ours(
    window: Window, qtbot: QtBot, vault: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.set_keyring(keyring.backends.fail.Keyring())
    page = window.page("Settings")
    assert isinstance(page, SettingsPage)
    page.token.setText("hf_secret")
    page.save_token.click()
    qtbot.waitUntil(lambda: bool(window.banner.text.text()))
    assert window.banner.text.text() == (
        "The token was not saved: this system has no keyring to store it in. "
        "Set HF_TOKEN, or run `hf auth login`."
    )
    assert page.token.text() == "hf_secret"


def test_an_address_that_is_none_is_refused(window: Window) -> None:
    page = window.page("Settings")
    assert isinstance(page, SettingsPage)
    page.endpoint.setText("huggingface")
    page.endpoint.editingFinished.emit()
    assert "is not an address" in window.banner.text.text()
    assert window.session.settings.endpoint == ""


@pytest.mark.parametrize(
    ("parameters", "verdict", "remark"),
    [
        (1_000_000_000, "✓ yes", ""),
        (7_000_000_000, "✓ yes", "full-precision model takes 42.3 GB of memory. This computer has 17.2 GB"),
        (90_000_000_000, "✗ too large", ""),
    ],
)
def test_a_model_is_usable_where_it_can_be_compressed(
    parameters: int, verdict: str, remark: str, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    memory = SimpleNamespace(total=16 * 2**30)
    system = SimpleNamespace(virtual_memory=lambda: memory)
    monkeypatch.setattr("kl_lens_desktop.gui.model.search.psutil", system)
    hit = Facts("a/b", "bamba", parameters, 1, 1, False, "mit", "", "", "2025-01-01", "")
    page.results._show([hit], begin=False, every=False)
    cell = page.results.table.item(0, 2)
    assert cell is not None
    assert cell.text() == verdict
    assert remark in cell.toolTip()
    assert bool(remark) == (cell.toolTip() != verdict)


@pytest.mark.qt_log_ignore("This plugin does not support")
def test_the_dialog_shows_the_folder_that_is_chosen_and_figures_of_its_export_alone(
    opened: Window, sample_scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, folders = opened.session, {name: tmp_path / name for name in ("plan", "damaged")}
    plan = propose(sample_scores, bits=9)
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "openvino_model.xml").write_bytes(b"<net/>")
        (folder / "openvino_model.bin").write_bytes(name.encode())
        write_json(folder / "kl_lens.json", {"files": ["openvino_model.xml", "openvino_model.bin"]})
        save_plan(folder / "plan.json", plan)
    (folders["damaged"] / "openvino_model.bin").unlink()
    held = Held(session, monkeypatch)
    session.bench = [bench_row("plan") | {"plan_sha256": "0" * 64}]
    write_json(session.workspace.bench, bench_document() | {"rows": session.bench})
    page = opened.page("Export")
    session.exports = dict(folders)
    page._upload()  # type: ignore[attr-defined]
    (dialog,) = page.findChildren(UploadDialog)
    dialog.repository.setText("me/hybrid")
    held.answer()
    assert "The benchmark measured an earlier export" in dialog.shown.toPlainText()
    assert dialog.job.bench is None
    session.bench = [bench_row("plan") | {"plan_sha256": plan.sha256, "model": None}]
    write_json(session.workspace.bench, bench_document() | {"rows": session.bench})
    dialog.model.setCurrentIndex(1)
    dialog.model.setCurrentIndex(0)
    held.answer(1)
    assert "## Measured" in dialog.shown.toPlainText()
    assert dialog.job.bench == session.workspace.bench
    held.answer()
    assert "## Measured" in dialog.shown.toPlainText(), "the answer for the other folder came late"
    session.job.occupy("A chat is being answered.")
    assert not dialog.upload.isEnabled()
    assert dialog.why.text() == "A chat is being answered."
    session.job.occupy("")
    assert dialog.upload.isEnabled()
    dialog.model.setCurrentIndex(1)
    dialog.reject()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert not page.findChildren(UploadDialog), "it stayed for as long as the window"
    held.answer()


def test_a_folder_is_sized_while_its_files_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    (tmp_path / "going").write_bytes(b"1")
    stat = os.stat

    def going(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        found = stat(path, *rest, **more)
        if os.fspath(path).endswith("going"):
            os.unlink(path)
        return found

    monkeypatch.setattr(os, "stat", going)
    assert 5 <= folder_size(tmp_path) <= 6
    monkeypatch.undo()
    assert folder_size(tmp_path) == 5


def test_a_work_folder_that_cannot_be_listed_is_said(
    window: Window, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(window.session.settings), "work_folder", tmp_path)

    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with qtbot.waitSignal(window.session.said, timeout=30_000):
        window.show_page("Library")
    assert window.banner.text.text() == (
        f"Cannot list {tmp_path}: permission is denied. Check the folder, or choose another in Settings."
    )


def test_a_mirror_of_the_environment_stays_unless_another_address_is_entered(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(settings, "FROM_ENVIRONMENT", "https://mirror.example")
    page = window.page("Settings")
    assert isinstance(page, SettingsPage)
    for entered, used in (
        ("", "https://mirror.example"),
        ("https://other.example/", "https://other.example"),
        ("", "https://mirror.example"),
    ):
        page.endpoint.setText(entered)
        page.endpoint.editingFinished.emit()
        assert os.environ["HF_ENDPOINT"] == used
    page.restore_defaults()
    assert os.environ["HF_ENDPOINT"] == "https://mirror.example"


def test_a_folder_that_is_gone_is_said_and_not_made_anew(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    open_folder(window.session, tmp_path / "gone")
    assert window.banner.text.text() == f"Cannot open {tmp_path / 'gone'}: there is no such folder."
    assert not (tmp_path / "gone").exists()
    (tmp_path / "file").touch()
    open_folder(window.session, tmp_path / "file" / "below", make=True)
    assert "a part of its path is a file" in window.banner.text.text()
    assert not opened
    open_folder(window.session, tmp_path / "new", make=True)
    assert opened == [(tmp_path / "new").as_posix()]


def test_a_model_is_not_opened_beside_a_job_and_that_is_one_sentence(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(window.session.job), "running", property(lambda _: True))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "/models/other")
    page = window.page("Model")
    assert isinstance(page, ModelPage)
    for ask, name in ((page.choose_folder, "other"), (lambda: page.open("sample"), "the sample")):
        ask()
        assert window.banner.text.text() == f"A job is running. {name} can be compressed after it."
    monkeypatch.undo()
