"""Whether this installation works: the window, opened unseen, takes a model through every step."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

from PySide6.QtCore import QEventLoop, QTimer

from kl_lens_desktop.bench.jobs import ChatOrder, Message
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.errors import ChildError, KLLensError
from kl_lens_desktop.gui.kit import icons
from kl_lens_desktop.gui.shell import application, crash
from kl_lens_desktop.gui.shell.window import PAGES, Window
from kl_lens_desktop.gui.state.chat import Seat
from kl_lens_desktop.gui.state.session import QUICK, STAGE_NAMES
from kl_lens_desktop.process.signals import Stopped, answered
from kl_lens_desktop.run import BASELINES
from kl_lens_desktop.sensitivity.jobs import Analysis

DEVICE = "CPU"
SHORT_ANALYSIS = Analysis(tokens=512, window=128, formats=("int4_sym_g64", "int8_sym"), rounding="nearest")
SHORT_BENCHMARK = replace(
    Benchmark().quick, tokens=512, prompt_tokens=32, new_tokens=8, repeats=1, rounds=1, max_rounds=1
)
VARIANTS = {"plan", *BASELINES}
_TICK_MS = 50
_MOMENT_S = 60.0  # for what the window does by itself
_JOB_S = 1800.0
_REINSTALL = "Install KL Lens again, and report this if it stays"


def self_test(model: str, tell: Callable[[str], None]) -> None:
    """Open the window offscreen, and have it analyze, plan, export, benchmark and chat on the CPU.

    All of it is short and happens in a temporary folder: settings and results of the person stay as they are.

    Parameters
    ----------
    model : str
        ``sample``, a folder or a Hub id.
    tell : callable
        Takes one sentence a step.

    Raises
    ------
    KLLensError
        At the first thing that fails.
    Stopped
        If a signal came.
    """
    with tempfile.TemporaryDirectory(prefix="kl-lens-self-test-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"KL_LENS_HOME": folder, "QT_QPA_PLATFORM": "offscreen"}
        problems: list[str] = []
        crash.install(problems.append)
        try:
            application.make_application()
            window = application.make_window()
            try:
                _Test(window, problems, tell).run(model)
            finally:
                window.close()
                window.deleteLater()
        finally:
            crash.uninstall()


class _Test:
    """A window that is tried, and what was heard of it meanwhile."""

    def __init__(self, window: Window, problems: list[str], tell: Callable[[str], None]) -> None:
        self._window, self._session = window, window.session
        self._problems, self._tell = problems, tell
        self._signals: list[int] = []
        self._stage = ""
        self._session.said.connect(self._hear)
        self._session.job.progress.connect(lambda progress: self._tell_stage(progress.stage))

    def run(self, model: str) -> None:
        with answered(self._signals.append):
            self._show_pages()
            self._open(model)
            self._compress()
            self._chat()
            self._wait(lambda: False, "", 0.2)  # for what breaks in the last repaints

    def _show_pages(self) -> None:
        self._tell("Opening the window")
        self._window.show()
        for name, _, _ in PAGES:
            self._window.show_page(name)
            self._wait(lambda: False, "", 2 * _TICK_MS / 1000)
        if icons.app_icon().pixmap(64, 64).isNull():
            raise KLLensError("Cannot draw icons", "Qt's plugin for SVG files is missing", _REINSTALL)

    def _open(self, model: str) -> None:
        session = self._session
        session.open_model(model)
        self._wait(lambda: session.model is not None and not session.job.running, "Reading the model")
        session.set_analysis(SHORT_ANALYSIS)
        session.settings.benchmark = SHORT_BENCHMARK
        session.effort, session.chosen_devices = QUICK, (DEVICE,)

    def _compress(self) -> None:
        session, ended = self._session, list[str]()
        session.job.ended.connect(ended.append)
        self._window.compress.click()
        self._wait(lambda: bool(ended), "Compressing", _JOB_S)
        self._wait(lambda: session.exports.keys() & session.audits.keys() >= VARIANTS, "Reading the exports")
        self._wait(lambda: self._window.shown == "Benchmark", "Showing the benchmark")
        self._wait(lambda: not session.job.running, "Looking for devices")
        self._check_results()

    def _check_results(self) -> None:
        session = self._session
        if session.plan is None or session.plan.measured is None:
            raise KLLensError("The plan was not measured", "", _REINSTALL)
        rows = {row["variant"]: row for row in session.bench if row["device"] == DEVICE}
        for name in sorted(VARIANTS):
            row = rows.get(name, {"status": "missing"})
            if row["status"] != "ok":
                why = row.get("reason") or row["status"]
                raise KLLensError(f"Cannot measure {name} on {DEVICE}", str(why), _REINSTALL)

    def _chat(self) -> None:
        self._tell("Chatting")
        chat, answers, refusals = self._session.chat, list[str](), list[str]()
        chat.answered.connect(lambda _, turn: answers.append("".join(turn["tokens"])))
        chat.failed.connect(lambda _, words: refusals.append(words))
        seat = Seat(self._session.exports["plan"], DEVICE, "plan")
        chat.send([seat], [ChatOrder((Message("user", "The ship"),), 4)], in_turn=True)
        self._wait(lambda: bool(answers or refusals), "Chatting", _JOB_S)
        if refusals:
            raise ChildError(refusals[0].removesuffix("."))

    def _hear(self, level: str, sentence: str) -> None:
        if level == "error":
            self._problems.append(sentence)

    def _tell_stage(self, stage: str) -> None:
        if stage != self._stage:
            self._stage = stage
            self._tell(STAGE_NAMES.get(stage, stage))

    def _wait(self, done: Callable[[], bool], what: str, limit_s: float = _MOMENT_S) -> None:
        """Let the window live until something is `done`; a wait for nothing lasts as long as its limit."""
        loop, timer, until = QEventLoop(), QTimer(interval=_TICK_MS), time.monotonic() + limit_s
        timer.timeout.connect(
            lambda: (
                loop.quit() if done() or self._problems or self._signals or time.monotonic() > until else None
            )
        )
        timer.start()
        loop.exec()
        timer.stop()
        if self._signals:
            raise Stopped(self._signals[0])
        if self._problems:
            raise KLLensError(self._problems[0].removesuffix("."))
        if what and not done():
            raise KLLensError(f"{what} did not end within {limit_s:.0f} s", "", _REINSTALL)
