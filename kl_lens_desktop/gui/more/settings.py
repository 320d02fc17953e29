"""Settings: look, the Hub's token and address, where work is kept, and what this program is."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QLayout,
    QLineEdit,
    QMessageBox,
    QScrollArea,
    QWidget,
)

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import check_writable
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import (
    LEAST_WINDOW,
    Frame,
    Page,
    button,
    card,
    column,
    combo,
    label,
    row,
)
from kl_lens_desktop.gui.kit.desktop import open_folder
from kl_lens_desktop.gui.kit.words import message_box, plain_tip
from kl_lens_desktop.gui.more.about import packages, system
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.settings import FROM_ENVIRONMENT, SIZES, use_endpoint
from kl_lens_desktop.gui.state.translation import tr

WIDTH = 880


class SettingsPage(Page):
    """Everything takes effect at once, but for the size, which Qt reads at the start."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("Settings"))
        self._window = window
        settings = session.settings
        self.theme = combo(tr("Look"), [(words, value) for value, words in theme.CHOICES.items()])
        self.theme.setCurrentIndex(self.theme.findData(settings.theme))
        self.theme.currentIndexChanged.connect(self._change_theme)
        room = self.screen().availableSize()
        self.scale = combo(tr("Size"), [(f"{each} %", each) for each in sizes_that_fit(settings.size, room)])
        self.scale.setCurrentIndex(self.scale.findData(settings.size))
        self.scale.currentIndexChanged.connect(self._change_size)
        self.scale_state = label("", "secondary")
        self._scale_at_start = settings.size
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText(tr("hf_…"))
        self.token.setAccessibleName(tr("New Hub token"))
        self.token.returnPressed.connect(self._save_token)
        self.token_state = label("", "secondary", wrap=True)
        self.save_token = button(
            tr("Save"), self._save_token, tip=tr("Store the token in the system's keyring")
        )
        self.forget_token = button(
            tr("Remove"), self._forget_token, tip=tr("Remove the token from the system's keyring")
        )
        self.endpoint = QLineEdit(settings.endpoint)
        self.endpoint.setPlaceholderText(FROM_ENVIRONMENT or "https://huggingface.co")
        self.endpoint.setAccessibleName(tr("Hub address"))
        self.endpoint.editingFinished.connect(self._change_endpoint)
        self.work = QLineEdit(str(settings.work_folder))
        self.work.setReadOnly(True)
        self.work.setAccessibleName(tr("Work folder"))
        self.choose_work = button(tr("Choose…"), self._choose_work)
        self.awake = _box(
            tr("Keep the computer awake while a long job works"), settings.stay_awake, self._change_awake
        )
        self.notify = _box(
            tr("Tell me when a job of more than a minute ends while I look elsewhere"),
            settings.notify,
            self._change_notify,
        )
        self.restore = button(
            tr("Restore defaults"), self._ask_restore, tip=tr("Give every setting its usual value")
        )
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scroll.setWidget(self._make_sections())
        self.body.addWidget(scroll, 1)
        session.job.started.connect(lambda _: self._lock())
        session.job.ended.connect(lambda _: self._lock())
        self._lock()

    def _make_sections(self) -> QWidget:
        open_work = button(
            tr("Open"), lambda: open_folder(self.session, self.session.settings.work_folder, make=True)
        )
        inside = QWidget()
        inside.setMaximumWidth(WIDTH)  # not each card's: its height would be reckoned for a wider one
        inside.setLayout(
            column(
                _section(
                    tr("Look"),
                    "",
                    (tr("Theme"), row(self.theme, None)),
                    (tr("Size"), row(self.scale, self.scale_state, None)),
                ),
                _section(
                    tr("Hugging Face Hub"),
                    tr(
                        "You need a token only for gated or private models. It is stored in the "
                        "system's keyring, never in a file, and is not shown again."
                    ),
                    (tr("Token"), row(self.token, self.save_token, self.forget_token)),
                    ("", self.token_state),
                    (tr("Address"), row(self.endpoint)),
                ),
                _section(
                    tr("Work"),
                    tr("Scores, plans, exported models and benchmarks, one folder for each model."),
                    (tr("Folder"), row(self.work, self.choose_work, open_work)),
                ),
                _section(
                    tr("Long jobs"),
                    tr("The screen may go dark, and the computer still sleeps when its lid is closed."),
                    ("", self.awake),
                    ("", self.notify),
                ),
                _section(
                    tr("Settings file"),
                    tr(
                        "The look, the Hub address, the work folder, what analyses and benchmarks "
                        "measure, and the table's columns. The token and your results are not in it."
                    ),
                    ("", row(self.restore, None)),
                ),
                _section(
                    tr("About"),
                    "",
                    (
                        tr("KL Lens Desktop"),
                        label(tr("{version}, Apache-2.0 licence").format(version=__version__), select=True),
                    ),
                    (
                        tr("Runs on"),
                        label(system(), select=True),
                    ),
                    (tr("With"), label(packages(), wrap=True, select=True)),
                ),
                None,
                spacing=12,
            )
        )
        return inside

    def opened(self) -> None:
        """Ask the keyring whether a token is there, outside the window's thread: it may be slow or locked."""

        def look() -> str:
            from huggingface_hub import get_token

            from kl_lens_desktop.hub import access_token

            if get_token():
                return "environment" if os.environ.get("HF_TOKEN", "").strip() else tr("hf auth login")
            return "keyring" if access_token.saved_token() else ""

        self.session.background.run(look, self._show_token, self.session.say_error)

    def _change_theme(self) -> None:
        self.session.settings.theme = self.theme.currentData()
        self._window.follow_scheme()

    def _change_size(self) -> None:
        size = self.session.settings.size = self.scale.currentData()
        waits = size != self._scale_at_start
        self.scale_state.setText(tr("From the next start of KL Lens on") if waits else "")

    def _change_awake(self, wanted: bool) -> None:
        self.session.settings.stay_awake = self.session.job.stay_awake = wanted

    def _change_notify(self, wanted: bool) -> None:
        self.session.settings.notify = wanted

    def _show_token(self, place: str) -> None:
        words = {
            "environment": tr("The token in the environment variable HF_TOKEN is used."),
            "hf auth login": tr("The token of `hf auth login` is used."),
            "keyring": tr("A token is stored."),
            "": tr("No token is stored. Public models do not need one."),
        }
        self.token_state.setText(words[place])
        self.forget_token.setEnabled(place == "keyring")

    def _save_token(self) -> None:
        from kl_lens_desktop.hub import access_token

        token = self.token.text().strip()

        def saved(_: None) -> None:
            if self.token.text().strip() == token:
                self.token.clear()
            self.opened()

        if token:
            self.session.background.run(lambda: access_token.save_token(token), saved, self.session.say_error)

    def _forget_token(self) -> None:
        from kl_lens_desktop.hub import access_token

        self.session.background.run(
            access_token.forget_token, lambda _: self.opened(), self.session.say_error
        )

    def _change_endpoint(self) -> None:
        address = self.endpoint.text().strip().rstrip("/")
        parts = urlsplit(address)
        if address and (parts.scheme not in ("http", "https") or not parts.hostname):
            self.session.say(
                "error",
                tr(
                    "{address} is not an address. Enter one like https://huggingface.co, or "
                    "leave the field empty."
                ).format(address=address),
            )
            return
        self.session.settings.endpoint = address
        use_endpoint(address)

    def _choose_work(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, tr("Keep work in"), self.work.text())
        if folder:
            self.change_work(Path(folder))

    def change_work(self, folder: Path) -> None:
        """Keep results in another folder from now on; what is in the old one stays there."""
        try:
            check_writable(folder)
        except InputError as error:
            self.session.say_error(error)
            return
        self.session.settings.work_folder = folder
        self.work.setText(str(folder))
        self.session.forget_results()
        self.session.reload()

    def _ask_restore(self) -> None:
        words = tr("Give every setting its usual value? Your settings file is kept as settings-before.json.")
        box = message_box(self, QMessageBox.Icon.Question, tr("Restore defaults"), words)
        box.setStandardButtons(QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel)
        if box.exec() == QMessageBox.StandardButton.Yes:
            self.restore_defaults()

    def restore_defaults(self) -> None:
        """Every setting as on the first start, in the window too."""
        settings = self.session.settings
        work_folder = settings.work_folder
        settings.restore()
        self.theme.setCurrentIndex(self.theme.findData(settings.theme))
        self.scale.setCurrentIndex(self.scale.findData(settings.size))
        self.awake.setChecked(settings.stay_awake)
        self.notify.setChecked(settings.notify)
        self.endpoint.clear()
        self._change_endpoint()
        self.work.setText(str(settings.work_folder))
        if settings.work_folder != work_folder:
            self.session.forget_results()
            self.session.reload()
        self.session.bench_changed.emit()
        self.session.say("info", tr("Every setting has its usual value again."))

    def _lock(self) -> None:
        reason = self.session.job.reason
        self.restore.setEnabled(not reason)
        self.restore.setToolTip(plain_tip(reason or tr("Give every setting its usual value")))
        self.choose_work.setEnabled(not reason)
        self.choose_work.setToolTip(plain_tip(reason or tr("Store results in another folder from now on")))


def sizes_that_fit(now: int, room: QSize) -> list[int]:
    """Those at which the smallest window is no larger than the screen, which has `room` at the size `now`."""
    return [
        size
        for size in SIZES
        if size in (now, 100)
        or (
            LEAST_WINDOW.width() * size <= room.width() * now
            and LEAST_WINDOW.height() * size <= room.height() * now
        )
    ]


def _box(words: str, on: bool, on_change: Callable[[bool], None]) -> QCheckBox:
    box = QCheckBox(words)
    box.setChecked(on)
    box.toggled.connect(on_change)
    return box


def _section(title: str, words: str, *lines: tuple[str, QWidget | QLayout]) -> QWidget:
    grid = QGridLayout()
    grid.setHorizontalSpacing(16)
    grid.setVerticalSpacing(8)
    grid.setColumnStretch(1, 1)
    grid.setColumnMinimumWidth(0, 120)
    for index, (name, value) in enumerate(lines):
        grid.addWidget(label(name, "secondary"), index, 0)
        if isinstance(value, QWidget):
            grid.addWidget(value, index, 1)
        else:
            grid.addLayout(value, index, 1)
    parts: list[QWidget | QLayout | None] = [
        label(title, "heading"),
        *([label(words, "secondary", wrap=True)] if words else []),
        grid,
    ]
    return card(column(*parts), margins=16)
