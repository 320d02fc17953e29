"""A job: what is to be done, as one typed value that the command line, the window and the workers share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from kl_lens_desktop.files import behind_links
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished
from kl_lens_desktop.process.record import decode, encode, paths

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Job(ABC, Generic[Result]):
    """The base of all jobs; each is a frozen record whose fields, with their defaults, are its parameters.

    `NAME` is what a worker process is asked for; `kl_lens_desktop.jobs` knows every job by it. The type in
    brackets is that of the result. `SAVES_MEMORY` tells a person what helps where memory does not suffice,
    and `KEEPS` what is not lost when a process ends early; empty if nothing is kept. A `LONG` job may take
    minutes or hours: the computer stays awake for it.
    """

    NAME: ClassVar[str]
    SAVES_MEMORY: ClassVar[str] = "Close other programs, or choose a smaller model"
    KEEPS: ClassVar[str] = ""
    LONG: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse what can be refused before a model is fetched or opened.

        Raises
        ------
        InputError
            In one sentence. What only the model can tell is checked where it is used.
        """
        return

    @abstractmethod
    def run(self, cancel: Cancel) -> Iterator[Event]:
        """Do it; the last event is `Finished`. Heavy libraries are imported only here."""

    def memory_mb(self) -> int | None:
        """About how much memory it takes at its peak, in MB (2**20 bytes), as far as that can be told."""
        return None

    def places(self) -> set[Path]:
        """The folders in which it may write, among others: those of all paths that it names."""
        named = list(paths(self))
        return {behind_links(path).parent for path in named} | set(named)

    def writes(self) -> set[Path]:
        """The files and folders of its results, which one process at a time may write."""
        return set()

    def finished(self, result: Result) -> Finished:
        """The event that ends this job well."""
        return Finished(cast(dict[str, Any], result))

    def result(self, finished: Finished) -> Result:
        """What this job's `Finished` event holds."""
        return cast(Result, finished.result)

    def as_json(self) -> dict[str, Any]:
        return encode(self)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The job of what `as_json` gave; `InputError` where a name is unknown or a value of a wrong type."""
        return decode(cls, value)


def perform(job: Job[Any], cancel: Cancel) -> Iterator[Event]:
    """Check a job, then run it."""
    job.check()
    yield from job.run(cancel)


def to_line(job: Job[Any]) -> str:
    """A job as the line of JSON that a worker process reads."""
    return json.dumps({"job": job.NAME, "given": job.as_json()})
