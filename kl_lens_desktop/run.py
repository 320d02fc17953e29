"""The whole main job: from a model folder to measured OpenVINO folders, in one folder that can be resumed."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from kl_lens_desktop.bench.jobs import BenchJob, PricesJob
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.disk_space import check_room
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.exported import damage
from kl_lens_desktop.exporting import ExportAllJob, ExportJob
from kl_lens_desktop.files import CARD, check_folder, check_replaceable, check_writable, set_aside
from kl_lens_desktop.hub.resolve import SAMPLE, LocalModel
from kl_lens_desktop.model.fit import folder_sizes, integers_bytes
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.jobs import VerifyJob
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.repository.model_files import TOKENIZER
from kl_lens_desktop.sensitivity.jobs import MENU, Analysis, AnalyzeJob
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from kl_lens_desktop.text.bundled import HELD_OUT_TOKENS, check_text, held_out_text, read_text

BASELINES = ("fp16", "int8_sym", "int4_sym_g64")
_WITH_SCALES = 1.05  # and everything else in a file of weights


class Compressed(TypedDict):
    """Paths of the score file, the plan and the bench file, and of the exported folders by variant."""

    scores: str
    plan: str
    bench: str
    folders: dict[str, str]


@dataclass(frozen=True, slots=True)
class RunJob(Job[Compressed]):
    """Analyze, plan, verify, export the plan and its baselines, and benchmark them side by side.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    out : Path
        The folder for everything.
    analysis : Analysis
        Its `bits` are also the plan's budget.
    verify_tokens : int
        Of held-out text that the plan is measured on.
    devices : tuple of str, optional
        To benchmark on; without them all there are, and the benchmark's combinations. With an NPU among them,
        its graphs are exported too.
    benchmark : Benchmark
    """

    NAME: ClassVar[str] = "run"
    LONG: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "The steps that are done are kept, and starting again continues"

    model: str
    out: Path
    analysis: Analysis = field(default_factory=Analysis)
    verify_tokens: int = HELD_OUT_TOKENS
    devices: tuple[str, ...] | None = None
    benchmark: Benchmark = field(default_factory=lambda: Benchmark(speed_minutes=3))

    def writes(self) -> set[Path]:
        return {self.out}

    @property
    def quick(self) -> "RunJob":
        """The same with less text and fewer repetitions everywhere, and so with wider errors."""
        return replace(self, analysis=self.analysis.quick, verify_tokens=2048, benchmark=self.benchmark.quick)

    def check(self) -> None:
        from kl_lens_desktop.bench.devices import check_device_name

        out = self.out.absolute()
        check_writable(out)
        least = min(parse_format(name).bits for name in self.analysis.offered)
        if self.analysis.bits < least:
            why = f"the smallest format takes {least} bits and its scales"
            raise InputError(f"No plan fits in {self.analysis.bits:g} bits", why, "Allow more bits")
        for name in (*(self.devices or ()), *self.benchmark.combinations):
            check_device_name(name)
        self.benchmark.check()
        if self.benchmark.text:
            check_text(self.benchmark.text)
        AnalyzeJob(self.model, out / "scores.json", self.analysis).check()
        for kind in ("plan", "bench"):
            check_replaceable(out / f"{kind}.json", kind)
        for name in (*BASELINES, "plan"):
            if damage(out / name):  # and so will be written
                check_folder(out / name, CARD)

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)
        yield from compress_model(local, self, cancel)


def compress_model(local: LocalModel, job: RunJob, cancel: Cancel) -> Iterator[Event]:
    """Do all of it, going on with what the job's folder holds already.

    Stages that need torch run one after another in child processes, so that the memory of one is free for
    the next.

    Yields
    ------
    All events of the stages, and last Finished with `Compressed`.

    Raises
    ------
    KLLensError
        As the stages do; what can be refused before any of them is (`RunJob.check`).
    """
    from kl_lens_desktop.bench.devices import behind, list_devices
    from kl_lens_desktop.bench.lab import bench
    from kl_lens_desktop.bench.static_model import has_graph_for_npu
    from kl_lens_desktop.plan.device_limits import menu, strictest_device
    from kl_lens_desktop.plan.propose import uniform_plan

    out = job.out.absolute()
    model = SAMPLE if local.id == SAMPLE else str(local.folder)
    scores_path, plan_path, bench_path = (out / f"{kind}.json" for kind in ("scores", "plan", "bench"))
    listed = list_devices(cancel)
    available = [device.name for device in listed if device.available]
    names = behind(job.devices or available, available)
    limits, analysis = Constraints(device=strictest_device(names)), job.analysis
    if not analysis.formats:
        saves_disk_only = yield from _saving_disk_only(model, names, cancel)
        analysis = replace(analysis, menu=menu(names, analysis.bits, saves_disk_only))
        avoided = tuple(("*", name) for name in MENU if name not in analysis.menu)
        limits = replace(limits, forbidden=avoided)
    npu = any(name.startswith("NPU") for name in names)
    room = _room_needed(folder_sizes(local.folder).parameters, out, analysis, npu=npu)
    check_room(f"compressing {local.id}", room, out)
    _check_benchmark_text(local.folder, job.benchmark, cancel)
    yield from _stage(AnalyzeJob(model, scores_path, analysis), cancel)
    scores = load_scores(scores_path)
    plan = yield from _planned(scores, scores_path, plan_path, job, limits, names)
    if plan.measured is None:
        measuring_plan = VerifyJob(model, plan_path, tokens=job.verify_tokens, cluster=job.analysis.cluster)
        yield from _stage(measuring_plan, cancel)

    variants = {name: ExportJob(model, out / name, format=name, npu=npu) for name in BASELINES}
    variants["plan"] = ExportJob(model, out / "plan", plan=plan_path, npu=npu)
    known = scores.model, scores.weights, scores.kept_bytes
    planned = {name: uniform_plan(*known, name) for name in BASELINES} | {"plan": plan}
    yield Progress("export", 0, 1, "Checking what is exported already")
    left = tuple(
        variant
        for name, variant in variants.items()
        if not is_exported(variant.out, planned[name]) or (npu and not has_graph_for_npu(variant.out))
    )
    if left:
        yield from _stage(ExportAllJob(left), cancel)

    # Never resumed: timings compare only within one run.
    if bench_path.exists():
        yield Note(
            "Repeating the benchmark, because timings compare only within one run. This replaces "
            "the earlier bench.json."
        )
    folders = {name: variant.out for name, variant in variants.items()}
    measuring = BenchJob(tuple(folders.values()), bench_path, job.devices, job.benchmark)
    for event in bench(measuring, cancel, listed):
        if not isinstance(event, Finished):
            yield event
    yield job.finished(
        {
            "scores": str(scores_path),
            "plan": str(plan_path),
            "bench": str(bench_path),
            "folders": {name: str(folder) for name, folder in folders.items()},
        }
    )


def _check_benchmark_text(folder: Path, settings: Benchmark, cancel: Cancel) -> None:
    """Raise `InputError` now if the benchmark, hours later, could not cut its text into windows."""
    from kl_lens_desktop.text.passage import passage

    if (folder / TOKENIZER).is_file():  # else an export makes one
        text = read_text(settings.text or held_out_text())
        passage(folder, text, settings.tokens, settings.window, settings.stride, cancel)


def _room_needed(parameters: int, out: Path, analysis: Analysis, *, npu: bool) -> int:
    """Bytes on the disk of `out` at most at a time, beside what lies there: of integers and exported models.

    While it is written, a model lies there twice, and once more as another graph for an NPU.
    """
    there = peak = 0
    if analysis.rounding == "data" and not (out / "scores.json").exists():
        there = 2 * integers_bytes(parameters)  # those of the scores, written anew or beside the plan
    bits = {name: float(parse_format(name).bits) for name in BASELINES} | {"plan": analysis.bits}
    for name, each in bits.items():
        if not (out / name).exists():
            written = int(_WITH_SCALES * each / 8 * parameters)
            peak = max(peak, there + (2 + npu) * written)
            there += written
    return max(peak, there)


def _planned(
    scores: Scores, scores_path: Path, path: Path, job: RunJob, limits: Constraints, names: Sequence[str]
) -> Generator[Event, None, Plan]:
    """The plan, with its integers beside it, and with what was measured of it before."""
    from kl_lens_desktop.plan.integers import save_integers
    from kl_lens_desktop.plan.prices import known_prices
    from kl_lens_desktop.plan.propose import propose
    from kl_lens_desktop.quant.integers import SUFFIX

    yield Progress("plan", 0, 1, "Making the plan")
    prices = known_prices(names[0], scores.model.sha256, scores.weights) if names else None
    proposed = propose(scores, bits=job.analysis.bits, constraints=limits, prices=prices)
    plan = _with_what_is_known(path, proposed)
    if kept := _set_aside(path, plan):
        yield Note(f"The plan that was here is another one. It is kept as {kept.name}")
    save_plan(path, plan)
    save_integers(path, plan, scores_path.with_suffix(SUFFIX))
    yield Progress("plan", 1, 1, "Made the plan")
    return plan


def _stage(job: Job[Any], cancel: Cancel) -> Iterator[Event]:
    for event in Child(job).events(cancel):
        if not isinstance(event, Finished):
            yield event


def _saving_disk_only(
    model: str, names: Sequence[str], cancel: Cancel
) -> Generator[Event, None, dict[str, Sequence[str]]]:
    """Formats that save disk on a device and cost memory there, of devices that can be measured."""
    found: dict[str, Sequence[str]] = {}
    for name in names:
        if name.partition(".")[0] not in ("CPU", "GPU"):
            continue
        job = PricesJob(model, name, brief=True)
        try:
            for event in Child(job).events(cancel):
                if isinstance(event, Finished):
                    kinds = {each.rsplit("_", 1)[0] for each in job.result(event)["wasteful"]}
                    found[name] = [each for each in MENU if each.rsplit("_", 1)[0] in kinds]
                else:
                    yield event
        except ChildError as error:  # a plan needs no prices
            yield Note(f"Cannot measure what formats cost on {name}. {error}", "warning")
    return found


def is_exported(folder: Path, plan: Plan) -> bool:
    """Whether `folder` holds this plan already, every file as it was written."""
    held = _held(folder / "plan.json", plan) is not None and (folder / CARD).is_file()
    return held and not damage(folder, hashes=True)


def improved_before(path: Path, plan: Plan) -> Plan | None:
    """The plan at `path`, if it is this one improved by measuring, which takes minutes to do again.

    It is not where the scores have more formats or more text since then.
    """
    try:
        earlier = load_plan(path)
    except InputError:
        return None
    same = _made_from(earlier) == _made_from(plan)
    return earlier if same and earlier.is_improved else None


def _made_from(plan: Plan) -> tuple[Any, ...]:
    scored = {name: value for name, value in plan.provenance.items() if name.startswith("scored_")}
    return plan.model.sha256, plan.budget, plan.method, plan.pins, scored


def _with_what_is_known(path: Path, plan: Plan) -> Plan:
    """The plan, with what an earlier run measured of it, or as that run repaired it."""
    if earlier := _held(path, plan):
        return replace(plan, measured=earlier.measured)
    return improved_before(path, plan) or plan


def _set_aside(path: Path, plan: Plan) -> Path | None:
    """Keep a plan made for this place by hand or under another budget, when another replaces it."""
    from kl_lens_desktop.quant.integers import SUFFIX

    try:
        earlier = load_plan(path)
    except InputError:
        return None
    own = earlier.method == plan.method and earlier.budget == plan.budget and not earlier.pins
    if own or earlier.assignments == plan.assignments:
        return None
    if (
        integers := path.with_suffix(SUFFIX)
    ).is_file():  # of a plan rounded in sequence they are nowhere else
        set_aside(integers)
    return set_aside(path)


def _held(path: Path, plan: Plan) -> Plan | None:
    """The plan of an earlier run at `path`, if it is the same one."""
    try:
        earlier = load_plan(path)
    except InputError:
        return None
    return earlier if earlier.is_same_as(plan) else None
