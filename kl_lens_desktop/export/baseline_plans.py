"""Every baseline as a plan file beside a plan of the same bytes, each measured on the same held-out text."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openvino as ov
from torch import Tensor

from kl_lens_desktop.errors import ExportError, InputError
from kl_lens_desktop.export.graph_measured import measure_graph
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.export.nncf_choice import NNCF_ALGORITHMS, NNCF_METRICS, Chooser
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.load import LoadedModel, load_or_open
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.baselines import (
    PAPER_FORMATS,
    PREFIXES,
    paper_gamma,
    paper_prefixes,
    paper_walk,
    random_assignment,
)
from kl_lens_desktop.plan.cluster import PlanCluster, plan_cluster
from kl_lens_desktop.plan.document import ROUNDED_BY, Plan, load_plan, save_plan
from kl_lens_desktop.plan.joint import Bench
from kl_lens_desktop.plan.options import WeightOptions, total, weight_options
from kl_lens_desktop.plan.propose import predicted, provenance, rounded
from kl_lens_desktop.plan.verify import tried
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.quant.integers import SUFFIX
from kl_lens_desktop.quant.roundings import NEAREST, Roundings
from kl_lens_desktop.sensitivity.data_rounding import calibration_of, roundings_of
from kl_lens_desktop.sensitivity.engine import figures_of, measure_plan
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores, load_scores
from kl_lens_desktop.text.bundled import SCORED_TOKENS, calibration_text, held_out_text, remarks
from kl_lens_desktop.text.windows import windows

STAGE = "baselines"
RANDOM_ROOM = 1.005  # a random plan may take up to so many times the plan's bytes
NNCF_LOWS = ("int4_sym_g64", "int3_sym_g64", "int2_sym_g64")
UNIFORMS = ("fp16", "int8_sym", "int4_sym_g32", "int4_sym_g64", "int4_sym_g128", "int4_sym_pc")

_METRICS = {"sqnr": "sqnr", "mse": "mse", "delta-ce": "delta_ce", "kl-qp": "kl_qp"}
_NAMES = {
    "uniform": [f"uniform-{name}" for name in UNIFORMS],
    "metrics": list(_METRICS),
    "paper": ["paper", *(f"p{number:02}" for number in range(1, PREFIXES + 1)), "paper-gamma"],
    "random": [f"random-{seed}" for seed in range(3)],
    "nncf": [f"nncf-{name}" for name in (*NNCF_METRICS, *NNCF_ALGORITHMS)],
}


@dataclass(frozen=True, slots=True)
class _Made:
    """A baseline: its formats and, where NNCF chose its integers, what makes its graph."""

    name: str
    assignments: dict[str, str]
    graph: Callable[[], ov.Model] | None = None


def baselines(local: LocalModel, job: BaselinesJob, cancel: Cancel) -> Iterator[Event]:
    """Write ``NAME.json`` into the job's `out` for each baseline, verified on held-out text.

    Knapsacks on SQNR, MSE, ΔCE and reverse KL, the paper's list, chance and NNCF's mixed precision take the
    bytes of the plan, or the next more that they can; uniform formats, the paper's ten prefixes and its
    greedy at `gamma` have sizes of their own. NNCF's algorithms that look at data begin with the formats of
    its best metric, and are measured as the graph that NNCF makes. What `out` holds already, verified on the
    same text, is not measured again.

    Yields
    ------
    Progress, Note, and last Finished with `jobs.Baselines`.

    Raises
    ------
    InputError
        If scores, plan and model are not of the same weights, or `out` cannot be written.
    """
    scores, plan = load_scores(job.scores), load_plan(job.plan)
    yield Progress(STAGE, 0, 0, "Opening the model")
    loaded = yield from load_or_open(local.folder, STAGE)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(loaded.files))
    for path, model in ((job.scores, scores.model), (job.plan, plan.model)):
        model.check_same(identity, path, "Open the model that was scored")
    scores = tried(scores, plan)
    fitted = [(entry.weight, entry.format) for entry in scores.entries if entry.rounding != "nearest"]
    files = [job.scores.with_suffix(SUFFIX)]
    roundings = yield from roundings_of(
        loaded, identity.sha256, scores.rounding, fitted, files, cancel, STAGE
    )
    held_out = job.text or held_out_text()
    yield from remarks(held_out)
    families = [family for family in job.only if family != "nncf" or not loaded.mapped]
    if len(families) < len(job.only):
        yield Note("NNCF needs all weights in memory to choose. Its plans are left out", "warning")
    names = [name for family in families for name in _NAMES[family]]
    with plan_cluster(job.cluster, loaded, cancel) as cluster:
        making = _Making(loaded, scores, plan, job, cancel, roundings, held_out, cluster)
        if "nncf" in families and making.is_tied:
            yield Note("NNCF's LoRA correction is left out: it fails where the embedding is also the head")
        if cluster:
            yield from cluster.begin(STAGE, local, identity.sha256)
            if "nncf" in families:
                yield Note("NNCF works on this computer, and the graphs of its algorithms are measured here")
        for family in families:
            for batch in making.of(family):
                yield from making.measure(batch, family, len(names))
    yield from (Note(why, "warning") for why in making.failed)
    if missing := sorted(set(names) - set(making.written)):
        yield Note(f"No plan {', '.join(missing)}: impossible at this size or with the scored formats")
    yield Progress(STAGE, len(names), len(names), "Measured", "plans")
    yield job.finished({"plans": making.written})


@dataclass
class _Making:
    """The baselines of one plan, as far as they are `written`: paths by name."""

    loaded: LoadedModel
    scores: Scores
    plan: Plan
    job: BaselinesJob
    cancel: Cancel
    roundings: Roundings
    held_out: Path
    cluster: PlanCluster | None = None
    written: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _losses: dict[str, float] = field(default_factory=dict)

    @functools.cached_property
    def _windows(self) -> tuple[Tensor, dict[str, Any]]:
        """The text that all are measured on, and what plan files say of it."""
        ids, text = windows(self.loaded, [self.held_out], self.job.tokens, self.job.window)
        return ids, text.as_dict()

    @property
    def is_tied(self) -> bool:
        model = self.loaded.model
        return model.get_input_embeddings().weight is model.get_output_embeddings().weight

    def of(self, family: str) -> Iterator[Iterator[_Made]]:
        """The baselines of a family; what is drawn of one iterator may be measured at the same time."""
        options = weight_options(self.scores)
        assigned = {o.weight: self.plan.assignments.get(o.weight, "fp16") for o in options}
        size, _, _ = total(options, assigned)
        if family == "uniform":
            every = [weight["name"] for weight in self.scores.weights if weight["kind"] != "conv"]
            yield (_Made(f"uniform-{name}", dict.fromkeys(every, name)) for name in UNIFORMS)
        elif family == "metrics":
            fronts = ((name, Front(weight_options(self.scores, each))) for name, each in _METRICS.items())
            yield (_Made(method, front.no_smaller(size)) for method, front in fronts)
        elif family == "paper":
            ranked = weight_options(self.scores, "kl_qp")
            yield self._paper(ranked, options, size)
            if _has_papers_formats(ranked):
                yield self._gamma(ranked)
        elif family == "random":
            yield self._random(options, size)
        else:
            yield from self._nncf(options, size)

    def measure(self, batch: Iterator[_Made], family: str, count: int) -> Iterator[Event]:
        """Measure baselines and write each, unless it is there already; or note that NNCF failed."""
        waiting: list[tuple[_Made, Plan, Roundings]] = []
        for made in batch:
            self.cancel.check()
            yield Progress(STAGE, len(self.written), count, made.name, "plans")
            plan, rounding = self._planned(made, family)
            measured = _measured(self._path(made), plan, self._windows[1])
            if measured is not None:
                self._note(made, measured)
            elif self.cluster and not made.graph:
                waiting.append((made, plan, rounding))
            else:
                self._measure_here(made, plan, rounding)
        if not self.cluster:
            return
        ids, text = self._windows
        found = self.cluster.whole(
            [(ids, rounding.changes(made.assignments)) for made, _, rounding in waiting]
        )
        for (made, plan, _), tally in zip(waiting, found, strict=True):
            self.cancel.check()
            self._write(made, plan, {"text": text, **figures_of(tally)})
            yield Progress(STAGE, len(self.written), count, made.name, "plans")

    def _planned(self, made: _Made, family: str) -> tuple[Plan, Roundings]:
        """The plan that is written of a baseline, and what rounds it."""
        plan, rounding = _plan(self.scores, made.name, made.assignments), self.roundings
        if family in ("nncf", "uniform"):  # as others round
            rounding = NEAREST
            if plan.roundings:
                sums = {"kl": None, "se": None, "bytes": plan.predicted["bytes"]}
                plan = replace(plan, predicted=sums, roundings={}, rounding=None)
        if made.graph:
            plan = replace(plan, provenance={**plan.provenance, ROUNDED_BY: made.name})
        return plan, rounding

    def _measure_here(self, made: _Made, plan: Plan, rounding: Roundings) -> None:
        texts, tokens, window = [self.held_out], self.job.tokens, self.job.window
        try:
            measured = (
                measure_graph(self.loaded, made.graph(), texts, tokens, window, self.cancel)
                if made.graph
                else measure_plan(self.loaded, made.assignments, texts, tokens, window, self.cancel, rounding)
            )
        except ExportError as error:
            self.failed.append(str(error))
            return
        self._write(made, plan, measured)

    def _write(self, made: _Made, plan: Plan, measured: dict[str, Any]) -> None:
        save_plan(self._path(made), replace(plan, measured=measured))
        self._note(made, measured)

    def _note(self, made: _Made, measured: Mapping[str, Any]) -> None:
        self.written[made.name] = str(self._path(made))
        self._losses[made.name] = measured["kl_pq"]["mean"]

    def _path(self, made: _Made) -> Path:
        return self.job.out / f"{made.name}.json"

    def _random(self, options: list[WeightOptions], size: int) -> Iterator[_Made]:
        for name in _NAMES["random"]:
            with contextlib.suppress(InputError):  # too few formats to come near those bytes by chance
                drawn = random_assignment(options, size, int(RANDOM_ROOM * size), int(name[-1]))
                yield _Made(name, drawn)

    def _paper(self, ranked: list[WeightOptions], sizes: list[WeightOptions], least: int) -> Iterator[_Made]:
        walk = [chosen for chosen in paper_walk(ranked) if total(sizes, chosen)[0] >= least]
        yield _Made("paper", walk[-1])
        if _has_papers_formats(ranked):
            yield from (_Made(name, assignments) for name, assignments in paper_prefixes(ranked).items())

    def _gamma(self, ranked: list[WeightOptions]) -> Iterator[_Made]:
        ids = self._calibration()
        bench = Bench(self.loaded, ids, self.cancel, roundings=self.roundings, cluster=self.cluster)
        found = paper_gamma(ranked, lambda plan: bench.measure(plan).perplexity_ratio, self.job.gamma)
        yield _Made("paper-gamma", found)

    def _nncf(self, options: list[WeightOptions], least: int) -> Iterator[Iterator[_Made]]:
        """The low format is the finest that leaves NNCF something to choose."""
        shapes = {option.weight: option.shape for option in options}
        sizes = {low: sum(stored_bytes(s, parse_format(low)) for s in shapes.values()) for low in NNCF_LOWS}
        low = next((low for low in NNCF_LOWS if sizes[low] < least), NNCF_LOWS[-1])
        with contextlib.closing(Chooser(self.loaded, self._fitted_to(), self.cancel)) as chooser:
            found: dict[str, tuple[float, dict[str, str]]] = {}
            yield self._chosen(chooser, low, least, found)
            if not found:
                return
            best = min(found, key=lambda metric: self._losses[f"nncf-{metric}"])
            ratio, assignments = found[best]
            graphs = (
                (name, functools.partial(chooser.same, assignments, best, low, ratio, name))
                for name in NNCF_ALGORITHMS
            )
            yield (_Made(f"nncf-{name}", assignments, graph) for name, graph in graphs)

    def _chosen(
        self, chooser: Chooser, low: str, least: int, found: dict[str, tuple[float, dict[str, str]]]
    ) -> Iterator[_Made]:
        """NNCF's own choices, which are entered in `found` by metric, with the share of low formats."""
        for metric in NNCF_METRICS:
            order = chooser.order(metric)
            count = order.count(least, low)
            if count is not None:
                ratio = order.ratio(count)
                found[metric] = ratio, chooser.choose(metric, low, ratio)
                yield _Made(f"nncf-{metric}", found[metric][1])

    def _calibration(self) -> Tensor:
        tokens = min(int(self.scores.text.get("tokens") or SCORED_TOKENS), SCORED_TOKENS)
        return windows(self.loaded, [calibration_text()], tokens, self.job.window)[0]

    def _fitted_to(self) -> Tensor:
        """The windows that the plan's own integers were fitted to, where they are at hand."""
        if self.scores.rounding:
            with contextlib.suppress(InputError):
                return calibration_of(self.loaded, self.scores.rounding, ()).fit
        return self._calibration()


def _has_papers_formats(options: list[WeightOptions]) -> bool:
    return all({*PAPER_FORMATS} <= {choice.format for choice in option.choices} for option in options)


def _plan(scores: Scores, name: str, assignments: dict[str, str]) -> Plan:
    return Plan(
        scores.model,
        assignments,
        None,
        name,
        predicted(scores, assignments),
        None,
        [],
        provenance(scores),
        *rounded(scores, assignments),
    )


def _measured(path: Path, plan: Plan, text: Mapping[str, object]) -> dict[str, Any] | None:
    """What an earlier run measured of this plan on this text."""
    try:
        earlier = load_plan(path)
    except InputError:
        return None
    same = earlier.is_same_as(plan) and earlier.rounded_by == plan.rounded_by
    if not same or not earlier.measured or earlier.measured["text"] != text:
        return None
    return earlier.measured
