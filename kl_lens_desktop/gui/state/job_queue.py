"""Models that are compressed one after the other, each as soon as nothing else runs."""

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Signal

from kl_lens_desktop.gui.state.settings import Waiting
from kl_lens_desktop.gui.state.translation import tr

if TYPE_CHECKING:
    from kl_lens_desktop.gui.state.session import Session

PAUSE_S = 10  # in which a person who looks at the last results can hold the queue
_SECOND_MS = 1000


class JobQueue(QObject):
    """Opens the next model and compresses it, after a pause, when a job has ended.

    A job that the person cancels holds the queue; one that fails does not. The settings keep what waits; a
    new window finds it on hold.

    Signals
    -------
    changed()
        Another model waits, or one less, or the queue is held or goes on.
    counting(str, int)
        The model comes next, in so many seconds; not any more if those are -1.
    emptied(list of str, list of str)
        Nothing waits any more: which models were compressed, and which could not be.
    """

    changed = Signal()
    counting = Signal(str, int)
    emptied = Signal(object, object)

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self.held = bool(session.settings.waiting)
        self._now: Waiting | None = None  # what is neither waiting any more nor done with
        self._runs = ""  # of it: "open", "compress" or, while something else may run, nothing
        self._compressed: list[str] = []
        self._failed: list[str] = []
        self._left_s = -1
        self._clock = QTimer(self, interval=_SECOND_MS)
        self._clock.timeout.connect(self._tick)
        job = session.job
        job.started.connect(lambda _: self._stop_clock())
        job.ended.connect(self._take_end)
        job.occupied_changed.connect(self.consider)

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """The models, the next one first."""
        return self._session.settings.waiting

    def add(self, reference: str, *, pull: bool = False) -> None:
        """Put a model last, to be downloaded first if `pull`; one that waits already stays in its place."""
        if reference not in [each.reference for each in self.waiting]:
            self._keep((*self.waiting, Waiting(reference, pull)))
        self.consider()

    def remove(self, *references: str) -> None:
        self._keep(tuple(each for each in self.waiting if each.reference not in references))

    def move_first(self, reference: str) -> None:
        """Let that model be the next one."""
        self._keep(tuple(sorted(self.waiting, key=lambda each: each.reference != reference)))

    def hold(self) -> None:
        """Begin nothing until `go_on`."""
        self.held = True
        self._stop_clock()
        self.changed.emit()

    def go_on(self) -> None:
        """Begin with the next model at once, or when the job that runs has ended."""
        self.held = False
        self.changed.emit()
        if self._now is not None:
            self.consider()
        elif not self._session.job.reason:
            self._begin()

    def consider(self) -> None:
        """Compress the model that was opened, or count down to the next one, unless something else runs."""
        if self._session.job.reason or self.held:
            return
        if self._now is not None:
            self._compress(self._now.reference)
        elif self.waiting and not self._clock.isActive():
            self._left_s = PAUSE_S
            self._clock.start()
            self._announce()

    def close(self) -> None:
        self._clock.stop()

    def _keep(self, waiting: tuple[Waiting, ...]) -> None:
        self._session.settings.waiting = waiting
        if not waiting:
            self.held = False
            self._stop_clock()
        self.changed.emit()
        self._announce()

    def _announce(self) -> None:
        if self._clock.isActive() and self.waiting:
            self.counting.emit(self.waiting[0].reference, self._left_s)

    def _tick(self) -> None:
        self._left_s -= 1
        if self._left_s > 0:
            self._announce()
        elif not self._session.job.reason:
            self._begin()
        else:
            self._stop_clock()

    def _stop_clock(self) -> None:
        if self._clock.isActive():
            self._clock.stop()
            self.counting.emit("", -1)

    def _begin(self) -> None:
        self._stop_clock()
        if not self.waiting:
            return
        if self._session.chosen_devices == ():
            self._session.say(
                "warning", tr("The queue is on hold. Choose a device on the Benchmark page, then start it.")
            )
            self.hold()
            return
        self._now, *rest = self.waiting
        self._keep(tuple(rest))
        self._runs = "open"
        self._session.open_model(self._now.reference, pull=self._now.pull)

    def _compress(self, reference: str) -> None:
        """Compress the open model, unless the person has opened another one meanwhile."""
        model = self._session.model
        if model is not None and model.reference == reference:
            self._runs = "compress"
            self._session.compress()
        else:
            self._runs = "open"
            self._session.open_model(reference)

    def _take_end(self, how: str) -> None:
        ran, self._runs = self._runs, ""
        if self._now is not None and (ran == "compress" or (ran == "open" and how != "finished")):
            self._settle(self._now, how)
        elif not ran and how == "cancelled" and self.waiting:
            self.hold()
        # once all have heard, for some start a job of their own
        QTimer.singleShot(0, self, self.consider)

    def _settle(self, ended: Waiting, how: str) -> None:
        """A model of the queue is done with."""
        self._now = None
        if how == "cancelled":
            self.held = bool(self.waiting)
        else:
            (self._compressed if how == "finished" else self._failed).append(ended.reference)
        if not self.waiting:
            compressed, self._compressed = self._compressed, []
            failed, self._failed = self._failed, []
            if compressed or failed:
                self.emptied.emit(compressed, failed)
        self.changed.emit()
