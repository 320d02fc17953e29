"""The tasks a worker process can be asked for, by name; heavy libraries are imported only by the task that
runs.

Each takes JSON-able parameters and yields typed events, the last of which is `Finished` with the result
stated in its docstring. The window runs them in child processes, the command line in its own.
"""

from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kl_lens_desktop.hub import library
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.hub.resolve import SAMPLE, LocalModel, resolve_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Progress, Weights
from kl_lens_desktop.process.worker import Task

if TYPE_CHECKING:
    from kl_lens_desktop.bench.devices import Device
    from kl_lens_desktop.plan.document import Plan

Params = dict[str, Any]


def pull_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``revision`` → ``folder``, ``id``, ``revision``."""
    if _is_on_the_hub(params["model"]):
        yield from pull(params["model"], params.get("revision"), cancel)
        return
    local = resolve_model(params["model"])
    yield Finished({"folder": str(local.folder), "id": local.id, "revision": local.revision})


def inspect_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model`` → ``model`` (what it is), ``weights``, ``kept_bytes``, ``fit`` (needs by stage)."""
    from kl_lens_desktop.families import family_of
    from kl_lens_desktop.model.checkpoint import weight_files
    from kl_lens_desktop.model.fit import stage_needs
    from kl_lens_desktop.model.inventory import blocks, inventory, kept_bytes
    from kl_lens_desktop.model.load import empty_model

    local = yield from _local(params, cancel)
    size = sum(file.stat().st_size for file in weight_files(local.folder))
    yield Progress("inspect", 0, 1, "Reading the structure")
    model = empty_model(local.folder)
    weights = [weight.as_dict() for weight in inventory(model)]
    yield Weights(weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    by_block: dict[int, set[str]] = {}
    for weight in weights:
        if weight["block"] is not None:
            by_block.setdefault(weight["block"], set()).add(weight["kind"])
    kinds = {kind: sum(kind in held for held in by_block.values()) for kind in ("ssm", "attention", "mlp")}
    about = {
        "id": local.id,
        "folder": str(local.folder),
        "revision": local.revision,
        "architecture": family_of(model.config.model_type).title,
        "model_type": model.config.model_type,
        "parameters": parameters,
        "blocks": len(blocks(model)),
        "block_kinds": {kind: count for kind, count in kinds.items() if count},
        "size_bytes": size,
        "vocabulary": model.config.get_text_config().vocab_size,
    }
    yield Finished(
        {
            "model": about,
            "weights": weights,
            "kept_bytes": kept_bytes(model, inventory(model)),
            "fit": [asdict(need) for need in stage_needs(parameters, size)],
        }
    )


def analyze_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``out``, ``text`` (paths or []) or ``source``, and how to measure → ``scores``."""
    from kl_lens_desktop.checks import check_analysis

    check_analysis(params)
    from kl_lens_desktop.sensitivity import engine

    local = yield from _local(params, cancel)
    wishes = ("formats", "tokens", "window", "exhaustive", "bits", "seed", "precision", "device", "source")
    given = {name: value for name, value in _given(params, *wishes).items() if value != []}
    texts = [Path(text) for text in params.get("text") or []]
    yield from engine.analyze(local, Path(params["out"]), texts, cancel, **given)
    yield Finished({"scores": params["out"]})


def verify_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``plan`` (path), ``text``, ``tokens``, ``window``, ``consent`` to another revision's plan;
    to repair first, ``repair`` (true), ``scores``, ``repair_text``, ``repair_tokens``, ``minutes`` →
    ``plan``, ``measured``, ``repair``."""
    from kl_lens_desktop.checks import check_verification
    from kl_lens_desktop.plan.document import load_plan, save_plan

    check_verification(params)
    from kl_lens_desktop.plan.verify import REPAIR_MINUTES, RepairWishes, verify
    from kl_lens_desktop.text.bundled import REPAIR_TOKENS

    path = Path(params["plan"])
    local = yield from _local(params, cancel)
    if params.get("consent"):
        save_plan(path, _adapted(load_plan(path), local, path))
    wishes = None
    if params.get("repair"):
        wishes = RepairWishes(
            Path(params["scores"]) if params.get("scores") else None,
            Path(params["repair_text"]) if params.get("repair_text") else None,
            params.get("repair_tokens") or REPAIR_TOKENS,
            params.get("minutes") or REPAIR_MINUTES,
        )
    yield from verify(local, path, cancel, repair_by=wishes, **_given(params, "text", "tokens", "window"))


def baselines_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``scores``, ``plan`` (paths), ``out`` (folder), ``text``, ``tokens``, ``gamma``, ``only``
    (families) → ``plans`` (name to path)."""
    from kl_lens_desktop.checks import check_baselines

    check_baselines(params)
    local = yield from _local(params, cancel)
    yield Progress("baselines", 0, 0, "Starting")
    from kl_lens_desktop.export.baselines import baselines

    scores, plan, out = (Path(params[name]) for name in ("scores", "plan", "out"))
    given = _given(params, "text", "tokens", "window", "gamma", "only")
    yield from baselines(local, scores, plan, out, cancel, **given)


def agree_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``scores`` (path), ``out`` → ``metrics`` (τ with its interval), ``points``, ``text``."""
    from kl_lens_desktop.checks import check_agreement

    check_agreement(params)
    from kl_lens_desktop.sensitivity.agreement import agree

    local = yield from _local(params, cancel)
    out = Path(params["out"]) if params.get("out") else None
    yield from agree(local, Path(params["scores"]), out, cancel, **_given(params, "text", "tokens", "window"))


def export_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``plan`` or ``format``, ``out``, ``consent`` to another revision's plan, ``npu`` for a
    graph for an NPU too → ``folder``, ``size_bytes``, ``audit``, ``proof``, ``seconds``, and ``devices``
    (see `bench.answers`)."""
    yield from _exported_and_checked(params, cancel)


def _exported_and_checked(
    params: Params, cancel: Cancel, listed: "list[Device] | None" = None
) -> Iterator[Event]:
    from kl_lens_desktop.bench.answers import check_answers

    result = Params()
    for stage in (_exported(params, cancel), check_answers(Path(params["out"]), cancel, listed)):
        for event in stage:
            if isinstance(event, Finished):
                result |= event.result
            else:
                yield event
    yield Finished(result)


def _exported(params: Params, cancel: Cancel) -> Iterator[Event]:
    from kl_lens_desktop.checks import check_export
    from kl_lens_desktop.plan.document import load_plan

    check_export(params)
    source = Path(params["plan"]) if params.get("plan") else None
    plan = load_plan(source) if source else params["format"]
    local = yield from _local(params, cancel)
    if source and params.get("consent"):
        plan = _adapted(load_plan(source), local, source)
    yield Progress("export", 0, 6, "Starting")
    from kl_lens_desktop.export.bundle import export_model

    yield from export_model(local, plan, Path(params["out"]), cancel, source, bool(params.get("npu")))


def export_all_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``variants`` (name to the params of `export_task`) → ``variants`` (name to its result)."""
    from kl_lens_desktop.checks import check_export

    for variant in params["variants"].values():
        check_export(variant)
    yield Progress("export", 0, 1, "Looking for devices")
    from kl_lens_desktop.bench.devices import list_devices

    listed, results = list_devices(cancel), {}
    for name, variant in params["variants"].items():
        for event in _exported_and_checked({"model": params["model"], **variant}, cancel, listed):
            if isinstance(event, Finished):
                results[name] = event.result
            elif isinstance(event, Progress):
                yield replace(event, message=f"{name}: {event.message}")
            else:
                yield event
    yield Finished({"variants": results})


def run_task(params: Params, cancel: Cancel) -> Iterator[Event]:
    """``model``, ``out`` (folder), ``bits`` and others → ``scores``, ``plan``, ``bench``, ``folders``."""
    from kl_lens_desktop.checks import check_run

    check_run(params)
    from kl_lens_desktop.pipeline import Wishes, compress_model

    local = yield from _local(params, cancel)
    wishes = Wishes(**_given(params, *Wishes.__dataclass_fields__))
    yield from compress_model(local, Path(params["out"]), wishes, cancel)


def _adapted(plan: "Plan", local: LocalModel, path: Path) -> "Plan":
    """A plan of another revision, made one of this model by consent."""
    from kl_lens_desktop.model.checkpoint import weight_files, weights_sha256
    from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable
    from kl_lens_desktop.model.load import empty_model
    from kl_lens_desktop.plan.document import adapted
    from kl_lens_desktop.sensitivity.scores import ModelIdentity

    model = empty_model(local.folder)
    weights = inventory(model)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(weight_files(local.folder)))
    shapes = {weight.name: weight.shape for weight in quantizable(weights)}
    return adapted(plan, identity, shapes, kept_bytes(model, weights), path)


def _local(params: Params, cancel: Cancel) -> Generator[Event, None, LocalModel]:
    """The model as a local folder, pulled from the Hub first where it is not here yet."""
    model, revision = params["model"], params.get("revision")
    if _is_on_the_hub(model) and library.find(model, revision) is None:
        for event in pull(model, revision, cancel):
            if not isinstance(event, Finished):
                yield event
    return resolve_model(model, revision)


def _is_on_the_hub(model: str) -> bool:
    return model != SAMPLE and not Path(model).expanduser().exists() and library.is_model_id(model)


def _given(params: Params, *names: str) -> Params:
    return {name: params[name] for name in names if params.get(name) is not None}


def _later(target: str) -> Task:
    """A task that imports its room when it runs."""
    module, function = target.split(":")

    def run(params: Params, cancel: Cancel) -> Iterator[Event]:
        yield from getattr(import_module(f"kl_lens_desktop.{module}"), function)(params, cancel)

    return run


TASKS: dict[str, Task] = {
    "pull": pull_task,
    "inspect": inspect_task,
    "analyze": analyze_task,
    "verify": verify_task,
    "baselines": baselines_task,
    "agree": agree_task,
    "export": export_task,
    "export-all": export_all_task,
    "run": run_task,
    "bench": _later("bench.lab:bench_task"),
    "bench-speed": _later("bench.speed:speed_task"),
    "bench-raw": _later("bench.speed:raw_task"),
    "bench-load": _later("bench.speed:load_task"),
    "bench-quality": _later("bench.quality:quality_task"),
    "memory-read": _later("bench.bandwidth:memory_read_task"),
    "answers": _later("bench.answers:answers_task"),
    "devices": _later("bench.devices:devices_task"),
    "generate": _later("bench.generate:generate_task"),
}
