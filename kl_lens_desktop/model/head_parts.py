"""A head in float32, some rows at a time, for all lanes that are at it at the same time."""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False, slots=True)
class _Part:
    """Memory for one part: which one is in it, or on its way there, and how many lanes use it."""

    values: Tensor
    head: object = None
    number: int = 0
    filled: bool = False
    users: int = 0


@dataclass(eq=False, slots=True)
class _Lane:
    """A lane at a head, and the parts of it that it still lacks."""

    head: object
    lacking: set[int]


class HeadParts:
    """As many parts in memory as lanes are at a head.

    A lane takes any part that is filled and that it lacks. Otherwise it fills one for all, in memory whose
    part nobody lacks; where there is none, it waits for the others to catch up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._parts: list[_Part] = []
        self._lanes: list[_Lane] = []

    def each(
        self, head: object, count: int, elements: int, fill: Callable[[int, Tensor], None]
    ) -> Generator[tuple[int, Tensor]]:
        """Every part of a head once, in no order: its number, and its values until the next is asked for.

        Close it where it is not run to its end: others wait for what it holds.

        Parameters
        ----------
        head : object
            Lanes share the parts of equal heads.
        elements : int
            Of the largest part.
        fill : callable
            Writes the part of a number into memory of that many elements.
        """
        lane = _Lane(head, set(range(count)))
        with self._changed:
            self._lanes.append(lane)
        try:
            while lane.lacking:
                part = self._next(lane, elements)
                try:
                    if not part.filled:
                        fill(part.number, part.values)
                        with self._changed:
                            part.filled = True
                            self._changed.notify_all()
                    yield part.number, part.values
                finally:
                    with self._changed:
                        part.users -= 1
                        lane.lacking.discard(part.number)
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._lanes.remove(lane)
                self._changed.notify_all()

    def clear(self) -> None:
        """Give the memory back."""
        self._parts.clear()

    def _next(self, lane: _Lane, elements: int) -> _Part:
        with self._changed:
            while True:
                for part in self._parts:
                    if part.filled and part.head == lane.head and part.number in lane.lacking:
                        part.users += 1
                        return part
                others = [part.number for part in self._parts if part.users and part.head == lane.head]
                rest = lane.lacking.difference(others)
                if rest and (free := self._free(elements)):
                    free.head, free.filled, free.users = lane.head, False, 1
                    free.number = max(rest, key=lambda number: (self._lack(lane.head, number), -number))
                    return free
                self._changed.wait()

    def _free(self, elements: int) -> _Part | None:
        for part in self._parts:
            if not part.users and not (part.filled and self._lack(part.head, part.number)):
                return part
        if len(self._parts) >= len(self._lanes):
            return None
        self._parts.append(_Part(torch.empty(elements)))
        return self._parts[-1]

    def _lack(self, head: object, number: int) -> int:
        """How many lanes lack a part."""
        return sum(lane.head == head and number in lane.lacking for lane in self._lanes)
