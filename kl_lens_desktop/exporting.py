"""The jobs that export models and then ask the devices here whether they answer rightly."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from kl_lens_desktop.bench.jobs import Asked
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Exported, Finished, Note, Progress
from kl_lens_desktop.process.job import Job

if TYPE_CHECKING:
    from kl_lens_desktop.bench.devices import Device
    from kl_lens_desktop.export.bundle import Traced


class ExportResult(TypedDict):
    """An exported folder, as its card says: see `export.bundle`; and what the devices here answer."""

    folder: str
    size_bytes: int
    audit: dict[str, Any]
    proof: dict[str, Any]
    seconds: float
    devices: list[Asked]


@dataclass(frozen=True, slots=True)
class ExportJob(Job[ExportResult]):
    """Write an OpenVINO folder.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    out : Path
        The folder to make.
    plan : Path, optional
        The plan file to follow.
    format : str
        Of every weight, where there is no plan.
    npu : bool
        A graph for an NPU too, with the same weights.
    paged : bool
        For servers: a graph that OpenVINO's paged runtime takes, with continuous batching and a prefix cache.
    activation_group : int
        In groups of so many, devices quantize activations by default: a size or `quant.activations.LARGEST`;
        0 leaves it to them.
    consent : bool
        Apply a plan of another revision whose names and shapes match.
    """

    NAME: ClassVar[str] = "export"
    LONG: ClassVar[bool] = True

    model: str
    out: Path
    plan: Path | None = None
    format: str = ""
    npu: bool = False
    paged: bool = False
    consent: bool = False
    activation_group: int = 0

    def writes(self) -> set[Path]:
        return {self.out}

    def memory_mb(self) -> int | None:
        from kl_lens_desktop.model.fit import memory_mb

        return memory_mb(self.model, "export")

    def check(self) -> None:
        from kl_lens_desktop.files import CARD, check_folder
        from kl_lens_desktop.plan.document import load_plan
        from kl_lens_desktop.quant.formats import parse_format

        if self.plan:
            load_plan(self.plan)
        else:
            parse_format(self.format)
        check_folder(self.out, CARD)

    def run(self, cancel: Cancel) -> Iterator[Event]:
        yield from _exported_and_asked(self, cancel, None, None)


class ExportedAll(TypedDict):
    """What became of each variant, by name."""

    variants: dict[str, ExportResult]


@dataclass(frozen=True, slots=True)
class ExportAllJob(Job[ExportedAll]):
    """Write several folders, each called as its variant is, in one process: a model is traced once."""

    NAME: ClassVar[str] = "export-all"
    LONG: ClassVar[bool] = True

    variants: tuple[ExportJob, ...]

    def writes(self) -> set[Path]:
        return {variant.out for variant in self.variants}

    def memory_mb(self) -> int | None:
        return self.variants[0].memory_mb() if self.variants else None

    def check(self) -> None:
        for variant in self.variants:
            variant.check()

    def run(self, cancel: Cancel) -> Iterator[Event]:
        yield Progress("export", 0, 1, "Looking for devices")
        from kl_lens_desktop.bench.devices import list_devices
        from kl_lens_desktop.export.bundle import Traced

        listed, results = list_devices(cancel), dict[str, ExportResult]()
        shared: dict[tuple[str, bool], Traced] = {}
        for place, variant in enumerate(self.variants):
            name, part = variant.out.name, 0.0
            traced = shared.setdefault((variant.model, variant.paged), Traced())
            try:
                for event in _exported_and_asked(variant, cancel, listed, traced):
                    if isinstance(event, Finished):
                        results[name] = variant.result(event)
                    elif isinstance(event, Progress):
                        part = max(part, _part(event))
                        words = f"{name}: {event.message}"
                        yield Progress("export", place + part, len(self.variants), words, "models")
                    else:
                        yield event
            except KLLensError:
                yield Note(f"{name} was not exported", "warning")
                raise
        yield self.finished({"variants": results})


def _part(progress: Progress) -> float:
    """How much of one model is done, from 0 to 1: first what is rounded anew, last what devices answer."""
    start, end = {"roundings": (0.0, 0.4), "devices": (0.9, 1.0)}.get(progress.unit, (0.4, 0.9))
    done = min(progress.done / progress.total, 1.0) if progress.total else 0.0
    return start + (end - start) * done


def _exported_and_asked(
    job: ExportJob, cancel: Cancel, listed: "list[Device] | None", shared: "Traced | None"
) -> Iterator[Event]:
    from kl_lens_desktop.bench.answers import check_answers

    result: dict[str, Any] = {}
    for stage in (_exported(job, cancel, shared), check_answers(job.out, cancel, listed)):
        for event in stage:
            if isinstance(event, Finished):
                result |= event.result
            else:
                yield event
    yield Exported(str(job.out))
    yield Finished(result)


def _exported(job: ExportJob, cancel: Cancel, shared: "Traced | None") -> Iterator[Event]:
    from kl_lens_desktop.hub.obtain import obtain
    from kl_lens_desktop.plan.document import load_plan

    local = yield from obtain(job.model, cancel)
    plan = load_plan(job.plan) if job.plan else job.format
    if job.plan and job.consent:
        from kl_lens_desktop.plan.consent import adapted_to

        plan = adapted_to(local, load_plan(job.plan), job.plan)
    yield Progress("export", 0, 6, "Starting")
    from kl_lens_desktop.export.bundle import export_model

    yield from export_model(
        local, plan, job.out, cancel, job.plan, job.npu, job.paged, shared, job.activation_group
    )
