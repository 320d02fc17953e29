"""The bar at the foot while a job runs: what it does, how far it is, how long it takes, pause and cancel."""

import time

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QStackedWidget, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Elided, button, label
from kl_lens_desktop.gui.shell.timeline import Timeline
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import STAGE_NAMES, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.process.events import Progress

_BYTES = ("bytes", "B")
_TICK_MS = 1000  # some stages say nothing for a while; the time left goes on


class JobBar(QStackedWidget):
    """Progress, or the question whether to stop."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.setObjectName("jobbar")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(52)
        self._job, self._session = session.job, session
        self._stage = label("", "heading")
        self._count = label("", "secondary")
        self._count.setFont(theme.text_font())
        self._message = Elided("", "secondary")
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        self._bar.setAccessibleName(tr("Progress"))
        self._bar.setMinimumWidth(120)
        self.timeline = Timeline()
        self._left = label("", "secondary")
        self._left.setFont(theme.text_font())
        self._left.setFixedWidth(self._left.fontMetrics().horizontalAdvance(tr("about 88 h 88 min left")) + 4)
        self.pause = button(tr("Pause"), self._toggle_pause, tip=tr("Pause after the current step"))
        self.cancel = button(
            tr("Cancel"), self._cancel, tip=tr("Cancel the job; what was measured is kept (Esc)")
        )
        for widget in (self.pause, self.cancel):
            widget.setFixedWidth(96)
        self.addWidget(
            _line(
                self._stage,
                self._count,
                (self._message, 1),
                (self._bar, 1),
                (self.timeline, 3),
                self._left,
                self.pause,
                self.cancel,
            )
        )
        self.keep = button(tr("Keep going"), self._keep, "primary")
        self.stop = button(tr("Stop"), self._cancel)
        question = label(tr("Cancel this job? What was measured is kept. Start it again to resume."))
        self.addWidget(_line((question, 1), self.keep, self.stop))
        self.hide()
        self._job.started.connect(self._show)
        self._job.step_started.connect(self._show_step)
        self._job.progress.connect(self._show_progress)
        self._job.paused_changed.connect(self._show_paused)
        self._job.ended.connect(lambda: self._end())
        self._tick = QTimer(self, interval=_TICK_MS)
        self._tick.timeout.connect(self._show_course)

    def ask(self) -> None:
        """Esc: ask before stopping; the answer that loses nothing has the focus."""
        if self._job.running and not self._job.cancelling:
            self.setCurrentIndex(1)
            self.keep.setFocus()

    def _show(self, name: str) -> None:
        self.setCurrentIndex(0)
        self.pause.setEnabled(True)
        self.cancel.setEnabled(True)
        self._show_paused(False)
        self._show_stage(name, "")
        whole = self._session.course is not None
        self.timeline.setVisible(whole)
        self._bar.setVisible(not whole)
        self._count.setVisible(not whole)
        self._stage.setVisible(not whole)  # the timeline says it
        if whole:
            self._show_course()
            self._tick.start()
        self.show()

    def _end(self) -> None:
        self._tick.stop()
        self.hide()

    def _show_course(self) -> None:
        """How far the whole job is, and how long it will still take."""
        course = self._session.course
        if course is None:
            return
        left = course.left(time.monotonic())
        words = "" if left is None else tr("about {left} left").format(left=about(left))
        self.timeline.show_course(
            course.shares(), course.step, tr("The whole job: {words}.").format(words=words) if words else ""
        )
        if not self._job.paused and not self._job.cancelling:
            self._left.setText(words)

    def _show_step(self, step: Step) -> None:
        self._show_stage(step.name, step.about)

    def _show_stage(self, name: str, about: str) -> None:
        self._stage.setText(STAGE_NAMES.get(name, name.capitalize()))
        self._message.set_text(about)
        self._count.setText("")
        self._left.setText("")
        self._bar.setRange(0, 0)

    def _show_progress(self, progress: Progress) -> None:
        stage = STAGE_NAMES.get(progress.stage, progress.stage.capitalize())
        self._stage.setText(stage)
        whole = self._session.course is not None
        self._message.set_text(progress.message or stage)
        self._count.setText(_count(progress))
        if progress.total > 0:
            self._bar.setRange(0, 1000)
            self._bar.setValue(round(1000 * min(progress.done / progress.total, 1)))
        else:
            self._bar.setRange(0, 0)
        if whole:
            self._show_course()
        elif not self._job.paused:
            left = progress.eta_s
            self._left.setText(
                "" if left is None else tr("{left} left").format(left=quantities.duration(left))
            )

    def _show_paused(self, paused: bool) -> None:
        self.pause.setText(tr("Resume") if paused else tr("Pause"))
        self._left.setText(tr("Paused") if paused else "")

    def _toggle_pause(self) -> None:
        if self._job.paused:
            self._job.resume()
        else:
            self._job.pause()

    def _cancel(self) -> None:
        self._job.cancel()
        self.setCurrentIndex(0)
        self.pause.setEnabled(False)
        self.cancel.setEnabled(False)
        self._left.setText(tr("Stopping…"))

    def _keep(self) -> None:
        self.setCurrentIndex(0)


def about(seconds: float) -> str:
    """An estimate in words: ``45 s``, ``7 min``, ``1 h 05 min``."""
    return quantities.duration(rounded(seconds)).replace(" 00 s", "")


def rounded(seconds: float) -> float:
    """To what an estimate of that length is worth: five seconds, a minute, or five minutes."""
    step = 5 if seconds < 60 else 60 if seconds < 1800 else 300
    return max(step * round(seconds / step), step)


def _line(*items: QWidget | tuple[QWidget, int]) -> QWidget:
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(16, 0, 16, 0)
    layout.setSpacing(12)
    for item in items:
        widget, stretch = item if isinstance(item, tuple) else (item, 0)
        layout.addWidget(widget, stretch)
    return line


def _count(progress: Progress) -> str:
    if progress.total <= 0:
        return ""
    if progress.unit in _BYTES:
        pace = tr(", {per_s}/s").format(per_s=quantities.size(progress.per_s)) if progress.per_s else ""
        return f"{quantities.size(progress.done)} / {quantities.size(progress.total)}{pace}"
    return f"{int(progress.done):,} / {progress.total:,.0f} {progress.unit}".rstrip()
