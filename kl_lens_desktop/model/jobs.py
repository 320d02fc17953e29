"""The job that says what a model is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event
from kl_lens_desktop.process.job import Job


class About(TypedDict):
    """What a model is; `experts_chosen` is how many of a layer a token passes, 0 without experts."""

    id: str
    folder: str
    revision: str | None
    architecture: str
    model_type: str
    parameters: int
    blocks: int
    block_kinds: dict[str, int]
    size_bytes: int
    vocabulary: int
    experts_chosen: int


class Need(TypedDict):
    """RAM and disk that a stage needs, in MB."""

    stage: str
    ram_mb: int
    disk_mb: int


class Inspected(TypedDict):
    """A model, its weights (the rows of ``kl-lens inspect``) and what each stage needs for it."""

    model: About
    weights: list[dict[str, Any]]
    kept_bytes: int
    fit: list[Need]


@dataclass(frozen=True, slots=True)
class InspectJob(Job[Inspected]):
    """Say what `model` (a Hub id, a folder or ``sample``) is."""

    NAME: ClassVar[str] = "inspect"

    model: str

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)

        from kl_lens_desktop.model.describe import describe

        yield from describe(local, self)
