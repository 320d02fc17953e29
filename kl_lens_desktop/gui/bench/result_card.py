"""The result as a card to show around: three figures, what to do with the folder, and a picture of it."""

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor, QFontDatabase, QGuiApplication, QPixmap
from PySide6.QtWidgets import QMenu, QPlainTextEdit, QSizePolicy, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.outcome import PLAN, Outcome, outcome
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Elided, button, card, column, combo, label, row
from kl_lens_desktop.gui.kit.desktop import open_folder
from kl_lens_desktop.gui.kit.saving import ask_where, save_png
from kl_lens_desktop.gui.kit.share import ShareButton
from kl_lens_desktop.gui.kit.words import explain
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr

NOTHING = tr("Benchmark the plan to see here what compression came to.")
_PICTURE_SCALE = 2  # pixels of the picture for each of the card, which may stand on a sharper screen
_SHARPEST = 4


class ResultCard(QWidget):
    """Size, speed and likeness of the plan on its fastest device, and ways to use and to share it.

    Parameters
    ----------
    session : Session
    open_chat : callable
        Opens the chat.
    """

    def __init__(self, session: Session, open_chat: Callable[[], object]) -> None:
        super().__init__()
        self._session = session
        self._shown: Outcome | None = None
        self.figures = tuple(_Figure() for _ in range(3))
        self.model = Elided("", "heading", Qt.TextElideMode.ElideMiddle)
        self.about = Elided("", "secondary")
        explain(
            self.figures[2],
            tr(
                "The share of next words that stay the same as in FP16, measured on this device. On the "
                "Plan page, Verify measures the weights alone, in FP32 and on more text: the two may "
                "differ a little."
            ),
        )
        across = row(*self.figures, spacing=16)
        for place in range(len(self.figures)):
            across.setStretch(place, 1)
        head = row(self.model, self.about, spacing=16)
        head.setStretch(0, 1)
        head.setStretch(1, 2)
        inside = column(head, across, spacing=4)
        inside.setStretch(1, 1)
        self.face = card(inside, margins=10)
        self.face.setAccessibleName(tr("Result"))
        self.face.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.taken = button(tr("Picture"), lambda: None, tip=tr("This card as a picture, to copy or to save"))
        self.taken.setProperty("menu", "true")
        menu = QMenu(self.taken)
        menu.addAction(tr("Copy picture"), self.copy_picture)
        menu.addAction(tr("Save as PNG…"), self._choose_file)
        self.taken.setMenu(menu)
        self.folder = button(
            tr("Open folder"), self._open, tip=tr("The exported model, as other programs load it")
        )
        self.chat = button(
            tr("Chat"), open_chat, tip=tr("Ask the original and the plan the same, side by side")
        )
        self.share = ShareButton(session)
        self._buttons = (self.chat, self.folder, self.taken, self.share)
        self.program = combo(tr("Program"), [(name, name) for name in USES])
        self.program.currentIndexChanged.connect(lambda _: self._show_use())
        self.lines = QPlainTextEdit()
        self.lines.setReadOnly(True)
        self.lines.setAccessibleName(tr("Lines to use the exported model with"))
        self.lines.setTabChangesFocus(True)
        self.lines.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.lines.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.lines.setMinimumHeight(40)
        self.copy_lines = button(tr("Copy"), self._copy_lines, tip=tr("Copy these lines"))
        uses = column(
            row(label(tr("Use it with"), "secondary"), self.program, None, self.copy_lines), self.lines
        )
        uses.setStretch(1, 1)
        left = column(self.face, row(*self._buttons, None))
        left.setStretch(0, 1)
        whole = row(left, uses, spacing=16)
        whole.setStretch(0, 2)
        whole.setStretch(1, 1)
        self.setLayout(whole)

    def show_result(self) -> None:
        """As the benchmark of the open model says."""
        session = self._session
        self._shown = found = outcome(session.bench)
        self.model.set_text(session.model.about["id"] if session.model else "")
        if found is None:
            for figure in self.figures:
                figure.say("–", "")
            self.about.set_text(NOTHING)
        else:
            size, speed, alike = self.figures
            size.say(
                quantities.size(found.size_bytes),
                tr("instead of {full_bytes}").format(full_bytes=quantities.size(found.full_bytes))
                if found.full_bytes
                else tr("size of the weights"),
            )
            value, _, words = found.pace.partition(" ")
            if found.speed is not None and found.speed.apart is False:
                speed.say("≈ 1×", tr("as fast, within noise"))
            elif found.speed is not None and found.speed.apart is None:
                speed.say(value, tr("as fast, not certain"))  # all of it is seen in the picture
            else:
                speed.say(value or "–", tr(words or "speed"))
            share = found.alike.partition(" %")[0]
            alike.say(f"{share} %" if share else "–", tr("same next word"))
            self.about.set_text(
                tr("Compressed with KL Lens, on {device}").format(device=self._device(found.device))
            )
        for each in self._buttons:
            each.setEnabled(found is not None)
        self.folder.setEnabled(found is not None and self._folder() is not None)
        self._show_use()

    def picture(self) -> QPixmap:
        """The card alone, sharp on any screen."""
        scale = min(_PICTURE_SCALE * self.devicePixelRatioF(), _SHARPEST)
        size: QSize = self.face.size() * scale
        picture = QPixmap(size)
        picture.setDevicePixelRatio(scale)
        picture.fill(QColor(theme.colours().surface))
        self.face.render(picture)
        return picture

    def copy_picture(self) -> None:
        QGuiApplication.clipboard().setPixmap(self.picture())
        self._session.say("info", tr("Copied the picture."))

    def save_picture(self, path: Path) -> None:
        """Write the card as a PNG."""
        try:
            save_png(self.picture(), path)
        except InputError as error:
            self._session.say_error(error)
        else:
            self._session.say("info", tr("Saved the picture as {path}.").format(path=path))

    def _choose_file(self) -> None:
        kinds = {tr("Pictures (*.png)"): ".png"}
        if path := ask_where(self, tr("Save the picture"), "result.png", kinds):
            self.save_picture(path)

    def _folder(self) -> Path | None:
        return self._session.exports.get(PLAN)

    def _open(self) -> None:
        if folder := self._folder():
            open_folder(self._session, folder)

    def _show_use(self) -> None:
        folder, found = self._folder(), self._shown
        self.copy_lines.setEnabled(folder is not None)
        if folder is None:
            self.lines.setPlainText("")
            return
        self.lines.setPlainText(USES[self.program.currentData()](folder, found.device if found else "CPU"))

    def _copy_lines(self) -> None:
        QGuiApplication.clipboard().setText(self.lines.toPlainText())
        self._session.say("info", tr("Copied the lines."))

    def _device(self, name: str) -> str:
        known = (self._session.bench_environment or {}).get("devices", ())
        full = next((each["full_name"] for each in known if each["name"] == name), name)
        return name if full == name else f"{name} ({full})"


class _Figure(QWidget):
    """A large value, and what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.words = label("", "large"), Elided("", "secondary")
        self.setLayout(column(None, self.value, self.words, None, spacing=0))

    def say(self, value: str, words: str) -> None:
        self.value.setText(value)
        self.words.set_text(words)
        self.setAccessibleName(f"{value} {words}")


def _in_python(folder: Path, device: str) -> str:
    return (
        "# pip install openvino-genai\n"
        "import openvino_genai\n\n"
        f'model = openvino_genai.LLMPipeline(r"{folder}", "{device}")\n'
        'print(model.generate("The captain looked at the sea and", max_new_tokens=64))\n'
    )


def _in_llm_bench(folder: Path, device: str) -> str:
    return (
        "# In tools/llm_bench of github.com/openvinotoolkit/openvino.genai\n"
        f'python benchmark.py -m "{folder}" -d {device} -n 3 -ic 64\n'
    )


USES: dict[str, Callable[[Path, str], str]] = {"openvino_genai": _in_python, "llm_bench": _in_llm_bench}
