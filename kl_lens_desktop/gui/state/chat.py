"""A chat with two models at once: each in a process of its own that stays loaded between messages."""

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from kl_lens_desktop.bench.jobs import ChatJob, ChatOrder
from kl_lens_desktop.bench.memory import fit_together
from kl_lens_desktop.errors import Cancelled, KLLensError
from kl_lens_desktop.files import WEIGHTS, reason
from kl_lens_desktop.gui.state.job import CLOSE_S, DRAIN_MS, Runner
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Answer, Event, Generated, Memory

BUSY = tr("A chat is being answered. Wait for it or stop it.")


@dataclass(frozen=True, slots=True)
class Seat:
    """Who answers on one side: an exported folder on a device, under a name."""

    folder: Path
    device: str
    variant: str


@dataclass(frozen=True, slots=True)
class _Ended:
    """The last that is heard of a side: why, in words; nothing where it was dismissed."""

    words: str


@dataclass(slots=True)
class _Partner:
    """One side's process, as seen from the window: the thread that listens, and what is asked of it."""

    seat: Seat
    side: int
    events: "deque[tuple[_Partner, Event | _Ended]]"
    orders: "queue.Queue[ChatOrder | None]" = field(default_factory=queue.Queue)
    cancel: Cancel = field(default_factory=Cancel)
    child: Child | None = None
    ready: bool = False  # it is loaded; the next `Answer` is a turn
    answering: bool = False
    thread: threading.Thread | None = None

    def begin(self) -> None:
        self.thread = threading.Thread(target=_listen, args=(self,), name=f"chat {self.side}", daemon=True)
        self.thread.start()

    def dismiss(self) -> None:
        """End its process at once, without waiting for that."""
        self.cancel.cancel_at_once()
        self.orders.put(None)


class Chat(QObject):
    """Two sides that answer the same message, at once or in turn.

    Signals
    -------
    opened(int side, Opened)
        A model is loaded.
    piece(int side, str)
        New text, joined over a tick.
    answered(int side, ChatTurn)
    failed(int side, str)
        Why there is no answer, in words.
    changed()
        `busy` is another.

    Attributes
    ----------
    in_turn : bool
        Of the last message: the sides answered one after the other, and only one was loaded at a time if
        memory is short (`alone`).
    """

    opened = Signal(int, object)
    piece = Signal(int, str)
    answered = Signal(int, object)
    failed = Signal(int, str)
    changed = Signal()

    def __init__(self, job: Runner, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._job = job
        self._partners: dict[int, _Partner] = {}
        self._gone: list[_Partner] = []
        self._waiting: deque[tuple[int, Seat, ChatOrder]] = deque()
        self._events: deque[tuple[_Partner, Event | _Ended]] = deque()
        self.in_turn = self.alone = False
        self._timer = QTimer(self, interval=DRAIN_MS)
        self._timer.timeout.connect(self._drain)
        job.started.connect(lambda _: self.release(tr("Another job started.")))

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._waiting) or any(each.answering for each in self._partners.values())

    def send(self, seats: Sequence[Seat], orders: Sequence[ChatOrder], *, in_turn: bool) -> None:
        """Ask the two sides, each its own messages; whoever is not loaded yet is loaded first.

        Where memory does not hold both, they answer in turn, and each is unloaded after its answer.
        """
        self.alone = not _fit_together(seats)
        self.in_turn = in_turn or self.alone
        self._waiting.extend((side, *each) for side, each in enumerate(zip(seats, orders, strict=True)))
        self._job.occupy(BUSY)
        self._timer.start()
        self._go_on()
        self.changed.emit()

    def stop(self) -> None:
        """End the answers where they are; the models stay loaded."""
        waiting, self._waiting = self._waiting, deque()
        for partner in self._partners.values():
            if partner.answering and partner.ready and partner.child is not None:
                partner.child.order(ChatOrder())
            elif partner.answering:
                self._drop(partner, tr("Stopped."))
        for side, *_ in waiting:
            self.failed.emit(side, tr("Stopped."))
        self._note_rest()

    def release(self, words: str = tr("Stopped.")) -> None:
        """Unload both sides; whoever was answering ends with `words`."""
        waiting, self._waiting = self._waiting, deque()
        for partner in list(self._partners.values()):
            self._drop(partner, words if partner.answering else "")
        for side, *_ in waiting:
            self.failed.emit(side, words)
        self._note_rest()

    def close(self) -> None:
        """End both processes and threads for good; nothing is emitted any more."""
        self._timer.stop()
        self._waiting.clear()
        partners = [*self._partners.values(), *self._gone]
        for partner in partners:
            partner.dismiss()
        until = time.monotonic() + CLOSE_S
        for partner in partners:
            if partner.thread is not None:
                partner.thread.join(max(until - time.monotonic(), 0))

    def _go_on(self) -> None:
        """Ask whoever may answer now."""
        while self._waiting and not (self.in_turn and any(p.answering for p in self._partners.values())):
            side, seat, order = self._waiting.popleft()
            partner = self._partners.get(side)
            if partner is not None and partner.seat != seat:
                self._drop(partner, "")
                partner = None
            if partner is None:
                partner = self._partners[side] = _Partner(seat, side, self._events)
                partner.begin()
            partner.answering = True
            partner.orders.put(order)

    def _drop(self, partner: _Partner, words: str) -> None:
        """Let a side go; with `words`, say why its answer ends."""
        partner.dismiss()
        self._partners.pop(partner.side, None)
        self._gone = [each for each in self._gone if each.thread and each.thread.is_alive()] + [partner]
        if words:
            self.failed.emit(partner.side, words)

    def _drain(self) -> None:
        texts: dict[int, str] = {}
        while self._events:
            partner, event = self._events.popleft()
            if self._partners.get(partner.side) is not partner:
                continue  # of a side that was let go
            if isinstance(event, Generated):
                texts[partner.side] = texts.get(partner.side, "") + event.text
                continue
            if partner.side in texts:
                self.piece.emit(partner.side, texts.pop(partner.side))
            self._take(partner, event)
        for side, text in texts.items():
            self.piece.emit(side, text)

    def _take(self, partner: _Partner, event: Event | _Ended) -> None:
        if isinstance(event, Memory):
            self._job.memory.emit(event)
        elif isinstance(event, Answer) and not partner.ready:
            partner.ready = True
            self.opened.emit(partner.side, event.result)
        elif isinstance(event, Answer):
            partner.answering = False
            self.answered.emit(partner.side, event.result)
            if self.alone:
                self._drop(partner, "")
            self._go_on()
            self._note_rest()
        elif isinstance(event, _Ended):
            partner.answering = False
            self._drop(partner, event.words)
            self._go_on()
            self._note_rest()

    def _note_rest(self) -> None:
        if not self.busy:
            self._job.occupy("")
            self._timer.stop()  # what an idle model says, it says at the next message
            self.changed.emit()


def _listen(partner: _Partner) -> None:
    seat = partner.seat
    job = ChatJob(seat.folder, seat.device, seat.variant)
    try:
        partner.child = Child(job, label=f"{seat.variant} on {seat.device}")
        try:
            for event in partner.child.answer(partner.cancel):
                partner.events.append((partner, event))
            while (order := partner.orders.get()) is not None:
                for event in partner.child.answer(partner.cancel, order):
                    partner.events.append((partner, event))
        finally:
            partner.child.close()
    except Cancelled:
        partner.events.append((partner, _Ended("")))
    except KLLensError as error:
        partner.events.append((partner, _Ended(str(error))))
    except OSError as error:
        partner.events.append(
            (
                partner,
                _Ended(
                    tr("The chat could not start: {error}. Close other programs.").format(error=reason(error))
                ),
            )
        )


def _fit_together(seats: Sequence[Seat]) -> bool:
    """Whether memory is expected to hold all of them loaded; a folder that is gone takes none."""
    files = (seat.folder / WEIGHTS for seat in seats)
    return fit_together(file.stat().st_size if file.is_file() else 0 for file in files)
