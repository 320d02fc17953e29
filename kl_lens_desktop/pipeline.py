"""The whole main job: from a model folder to measured OpenVINO folders, in one folder that can be resumed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kl_lens_desktop.bench.devices import list_devices
from kl_lens_desktop.bench.lab import bench
from kl_lens_desktop.bench.settings import QUICK
from kl_lens_desktop.bench.settings import Settings as BenchSettings
from kl_lens_desktop.bench.static import has_graph_for_npu
from kl_lens_desktop.checks import QUICK_TOKENS
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import CARD
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.plan.constraints import Constraints, strictest_device
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.quant.formats import DEFAULT_BITS
from kl_lens_desktop.sensitivity.scores import load_scores

BASELINES = ("fp16", "int8_sym", "int4_sym_g64")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person may ask of the main job; the defaults suit a first run.

    Attributes
    ----------
    bits : float
        Average bits per quantizable parameter of the plan.
    tokens, window, formats, text, source, exhaustive, seed, precision
        Of the analysis; None for its own defaults.
    devices : list of str, optional
        Of the benchmark; None for all there are. With an NPU among them, its graphs are exported too.
    quick : bool
        Less text and fewer repetitions everywhere: a first answer whose error bars are wider.
    """

    bits: float = DEFAULT_BITS
    tokens: int | None = None
    window: int | None = None
    formats: Sequence[str] | None = None
    text: Sequence[str] | None = None
    source: str | None = None
    exhaustive: bool | None = None
    seed: int | None = None
    precision: str | None = None
    devices: Sequence[str] | None = None
    quick: bool = False


def compress_model(local: LocalModel, out: Path, wishes: Wishes, cancel: Cancel) -> Iterator[Event]:
    """Analyze, plan, verify, export the plan and its baselines, and benchmark them side by side.

    Stages that need torch run one after another in child processes, so that the memory of one is free for
    the next.

    Yields
    ------
    All events of the stages, and last Finished with ``scores``, ``plan``, ``bench`` (paths) and ``folders``
    (variant to path).

    Raises
    ------
    KLLensError
        As the stages do; what can be refused before any of them is (`checks.check_run`).
    """
    out = out.absolute()
    model = str(local.folder) if local.id != "sample" else "sample"
    scores_path, plan_path = out / "scores.json", out / "plan.json"
    given = {
        "tokens": wishes.tokens or (QUICK_TOKENS if wishes.quick else None),
        "window": wishes.window,
        "formats": wishes.formats,
        "text": wishes.text,
        "source": wishes.source,
        "exhaustive": wishes.exhaustive,
        "bits": wishes.bits,
        "seed": wishes.seed,
        "precision": wishes.precision,
    }
    given = {name: value for name, value in given.items() if value is not None}
    yield from _stage("analyze", {"model": model, "out": str(scores_path), **given}, cancel)

    yield Progress("plan", 0, 1, "Making the plan")
    scores = load_scores(scores_path)
    listed = list_devices(cancel)
    names = wishes.devices or [device.name for device in listed if device.available]
    plan = propose(scores, bits=wishes.bits, constraints=Constraints(device=strictest_device(names)))
    if earlier := _held(plan_path, plan):
        plan = replace(plan, measured=earlier.measured)
    elif better := repaired_before(plan_path, plan):
        plan = better
    save_plan(plan_path, plan)
    yield Progress("plan", 1, 1, "Made the plan")
    if plan.measured is None:
        tokens = {"tokens": 2048} if wishes.quick else {}
        yield from _stage("verify", {"model": model, "plan": str(plan_path), **tokens}, cancel)

    folders = {name: out / name for name in (*BASELINES, "plan")}
    variants: dict[str, Any] = {name: {"format": name, "out": str(out / name)} for name in BASELINES}
    variants["plan"] = {"plan": str(plan_path), "out": str(folders["plan"])}
    planned = {name: propose(scores, method=f"uniform-{name}") for name in BASELINES} | {"plan": plan}
    npu = any("NPU" in name.upper() for name in names)
    left = {
        name: {**params, "npu": npu}
        for name, params in variants.items()
        if not is_exported(folders[name], planned[name]) or (npu and not has_graph_for_npu(folders[name]))
    }
    if left:
        yield from _stage("export-all", {"model": model, "variants": left}, cancel)

    # Never gone on with: speeds are of the moment, and variants are only compared that took turns in one run.
    bench_path = out / "bench.json"
    if bench_path.exists():
        yield Note(
            "Repeating the benchmark, because timings compare only within one run. This replaces "
            "the earlier bench.json."
        )
    settings = BenchSettings(**QUICK) if wishes.quick else BenchSettings(speed_minutes=3)
    for event in bench(list(folders.values()), wishes.devices, None, bench_path, cancel, settings, listed):
        if not isinstance(event, Finished):
            yield event
    yield Finished(
        {
            "scores": str(scores_path),
            "plan": str(plan_path),
            "bench": str(bench_path),
            "folders": {name: str(folder) for name, folder in folders.items()},
        }
    )


def _stage(task: str, params: dict[str, Any], cancel: Cancel) -> Iterator[Event]:
    for event in Child(task, params).events(cancel):
        if not isinstance(event, Finished):
            yield event


def is_exported(folder: Path, plan: Plan) -> bool:
    """Whether `folder` holds this plan already; folders of ours are whole or not there."""
    return _held(folder / "plan.json", plan) is not None and (folder / CARD).is_file()


def repaired_before(path: Path, plan: Plan) -> Plan | None:
    """The plan at `path`, if it is this one repaired by measuring, which takes minutes to do again.

    It is not where the scores have more formats or more text since then.
    """
    try:
        earlier = load_plan(path)
    except InputError:
        return None
    same = _made_from(earlier) == _made_from(plan)
    return earlier if same and "repaired_on" in earlier.provenance else None


def _made_from(plan: Plan) -> tuple[Any, ...]:
    scored = {name: value for name, value in plan.provenance.items() if name.startswith("scored_")}
    return plan.model.sha256, plan.budget, plan.method, plan.pins, scored


def _held(path: Path, plan: Plan) -> Plan | None:
    """The plan of an earlier run at `path`, if it is the same one."""
    try:
        earlier = load_plan(path)
    except InputError:
        return None
    return earlier if earlier.is_same_as(plan) else None
