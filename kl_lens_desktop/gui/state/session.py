"""What the window is looking at: one model, its measurements, its plan, its exports and their benchmark.

The pages read from here and listen to its signals; none of them knows another.
"""

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal, SignalInstance

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.jobs import BenchJob, DevicesJob
from kl_lens_desktop.errors import Cancelled, HubError, InputError, KLLensError, ModelError
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.exported import damage
from kl_lens_desktop.exporting import ExportAllJob, ExportJob
from kl_lens_desktop.files import MODEL_XML, reason, set_aside
from kl_lens_desktop.gui.state import bench_history, unfinished
from kl_lens_desktop.gui.state.background import Background
from kl_lens_desktop.gui.state.chat import Chat
from kl_lens_desktop.gui.state.job import Runner, Step
from kl_lens_desktop.gui.state.job_queue import JobQueue
from kl_lens_desktop.gui.state.results import ModelResults, ResultsReader
from kl_lens_desktop.gui.state.settings import Settings
from kl_lens_desktop.gui.state.stages import PAGE_OF, Stage, measured_weights, stages
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.unfinished import Unfinished
from kl_lens_desktop.gui.state.workspace import Workspace, model_title, workspace_of
from kl_lens_desktop.hub.jobs import PullJob, Verified, VerifyFilesJob
from kl_lens_desktop.model.jobs import About, Inspected, InspectJob, Need
from kl_lens_desktop.plan.jobs import VerifyJob
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Exported, Failed, Finished, Note, Progress, Repaired
from kl_lens_desktop.process.record import decode
from kl_lens_desktop.publishing import PushJob
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.jobs import (
    Agreed,
    AgreeJob,
    Analysis,
    AnalyzeJob,
    CalibrateJob,
    MeasuredCosts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kl_lens_desktop.course import Course
    from kl_lens_desktop.plan.document import Plan
    from kl_lens_desktop.sensitivity.estimate import Costs
    from kl_lens_desktop.sensitivity.scores import Entry, ModelIdentity, Scores
    from kl_lens_desktop.sharing import Bundle

KIND_NAMES = {
    "ssm": "SSM",
    "attention": tr("attention"),
    "mlp": "MLP",
    "embedding": tr("embedding"),
    "head": tr("head"),
    "conv": tr("convolution"),
}
BLOCK_NAMES = {"ssm": "SSM", "attention": tr("attention"), "mlp": "MLP"}
THOROUGH, QUICK = tr("Thorough"), tr("Quick look")  # how much patience there is
EFFORTS = (THOROUGH, QUICK)
MISSING = tr("Choose a model on the Model page")
_ROUTINE = {each.__name__ for each in (InputError, ModelError, HubError)}  # what was asked for cannot be done


@dataclass(frozen=True, slots=True)
class Model:
    """An inspected model.

    Attributes
    ----------
    reference : str
        What the jobs are given: ``sample``, a folder or a Hub id.
    about : About
    weights : list of dict
        Rows of ``kl-lens inspect``.
    kept_bytes : int
    fit : list of dict
        RAM and disk that each stage needs: stage, ram_mb, disk_mb.
    """

    reference: str
    about: About
    weights: list[dict[str, Any]]
    kept_bytes: int
    fit: list[Need] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The header's line: name, size, blocks, revision."""
        about = self.about
        mixing = {kind: count for kind, count in about["block_kinds"].items() if kind != "mlp"}
        kinds = " + ".join(f"{count:,} {BLOCK_NAMES.get(kind, kind)}" for kind, count in mixing.items())
        blocks = tr("{kinds} blocks").format(kinds=kinds)
        revision = about["revision"]
        revision = tr("rev {revision}").format(revision=revision[:7]) if revision else tr("local")
        return " · ".join((str(about["id"]), quantities.parameters(about["parameters"]), blocks, revision))

    @property
    def matrices(self) -> list[dict[str, Any]]:
        """The weights that a format applies to."""
        return [weight for weight in self.weights if weight["kind"] != "conv"]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log.

    `details` is a traceback. `routine` says that the sentence is enough on the Log page, as where a name was
    mistyped; the file and the diagnostics have the details all the same.
    """

    when: float
    level: str
    text: str
    details: str = ""
    routine: bool = False


class Session(QObject):
    """The state of the window.

    Signals
    -------
    model_changed()
        Another model, or none.
    costs_changed()
        What an analysis takes on this computer was found out.
    entries_changed()
        New sensitivity entries, at most every 50 ms.
    scores_changed()
        A finished score file was loaded, or is gone.
    plan_changed()
        Another plan, or its measurement.
    baselines_changed()
        Other plans of this model were measured, to stand beside the plan.
    consent_wanted(Path, str)
        The plan at this path is of another revision, as the sentence says; `load_plan` with consent takes it.
    exports_changed(), bench_changed(), devices_changed(), agreement_changed()
    bundle_opened(Bundle)
        Somebody shared this; it is checked.
    bench_opened(Path), export_opened()
        A bench file to compare with; an exported folder is among `exports` now.
    wanted_changed()
        The effort or the analysis that `compress` would take.
    unfinished_found(Unfinished, str)
        An earlier window ended in the midst of that, in words; `go_on` does it.
    work_folder_gone(str)
        The folder that a person chose for work is not there.
    whole_job_resumed()
        A whole job of an earlier window is about to go on.
    stages_changed()
        Anything of `stages`; after the signal of what changed.
    logged(LogLine)
    said(str level, str sentence)
        Something the person should read now: ``error``, ``warning`` or ``info``.
    offered(str sentence, str words, callable)
        Something the person may want: the words of a button, and what it does.
    """

    model_changed = Signal()
    costs_changed = Signal()
    entries_changed = Signal()
    scores_changed = Signal()
    plan_changed = Signal()
    baselines_changed = Signal()
    consent_wanted = Signal(object, str)
    exports_changed = Signal()
    bench_changed = Signal()
    devices_changed = Signal()
    devices_chosen = Signal()
    wanted_changed = Signal()
    agreement_changed = Signal()
    bundle_opened = Signal(object)
    bench_opened = Signal(object)
    export_opened = Signal()
    unfinished_found = Signal(object, str)
    work_folder_gone = Signal(str)
    whole_job_resumed = Signal()
    stages_changed = Signal()
    logged = Signal(object)
    offered = Signal(str, str, object)
    said = Signal(str, str)

    def __init__(self, settings: Settings, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.settings = settings
        self.job = Runner(self)
        self.job.stay_awake = settings.stay_awake
        self.background = Background(self)
        self.chat = Chat(self.job, self)
        self.log: list[LogLine] = []
        self.model: Model | None = None
        self.opening: str | None = None
        self.devices: list[dict[str, Any]] = []
        self.effort = THOROUGH
        self.chosen_devices: tuple[str, ...] | None = None  # on the Benchmark page; None for all there are
        self._chosen_analysis: Analysis | None = None  # on the Sensitivity page, where it was changed
        self._asked = self._taken = 0  # of the readings of the work folder: the last one, the last one shown
        self._forget_results()
        self._plan_to_apply: Path | None = None
        self._export_to_show: Path | None = None
        self._to_go_on: Unfinished | None = None
        self._written: list[Path] = []  # by the exports of this row of jobs
        self._stage = ""
        self._new_entries = False
        self._costs: dict[str, MeasuredCosts | None] = {}  # None while they are found out
        self._timing = Cancel()
        self.course: Course | None = None  # of the whole job that runs
        self._soon = QTimer(self, interval=SOON_MS, singleShot=True)
        self._soon.timeout.connect(self.time_computer)
        self.failures: set[str] = set()  # the pages whose last job failed
        job = self.job
        job.weights.connect(self._take_weights)
        job.scored.connect(self._take_score)
        job.measured.connect(self._take_row)
        job.repaired.connect(self._take_repaired)
        job.exported.connect(self._take_export)
        job.delivered.connect(self._announce_entries)
        job.progress.connect(self._watch_stage)
        job.paused_changed.connect(self._pause_course)
        job.note.connect(self._take_note)
        job.step_started.connect(self._step_started)
        job.step_finished.connect(self._step_finished)
        job.failed.connect(self._step_failed)
        job.cancelled.connect(self._step_cancelled)
        job.ended.connect(self._job_ended)
        for signal in (*self._all_changed(), job.started, job.ended):
            signal.connect(self._stages_may_differ)
        self.queue = JobQueue(self)
        self._results = ResultsReader()

    def _stages_may_differ(self, *_: object) -> None:
        self.stages_changed.emit()

    @property
    def stages(self) -> dict[str, Stage]:
        """Where each stage stands, by the name of its page."""
        return stages(self)

    @property
    def running_page(self) -> str:
        """The page on which the running job is seen now; empty if none runs, or on no page of a stage."""
        current = self.job.current
        if current is None:
            return ""
        name = current.name
        if isinstance(current.job, RunJob):  # what it begins with, such as prices, is of its first step
            name = (self.course.step if self.course else self._stage) or "analyze"
        return PAGE_OF.get(name, "")

    def _forget_results(self) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.scores: Scores | None = None
        self.plan: Plan | None = None
        self.baselines: list[Plan] = []
        self.audits: dict[str, dict[str, Any]] = {}
        self.exports: dict[str, Path] = {}
        self.bench: list[dict[str, Any]] = []
        self.bench_environment: dict[str, Any] | None = None
        self._measures_anew = False  # the bench file is an earlier run's, or holds what is shown already
        self.agreement: Agreed | None = None
        self._taken = self._asked

    @property
    def workspace(self) -> Workspace:
        """Where the open model's results lie."""
        assert self.model is not None
        return workspace_of(self.settings.work_folder, self.model.reference)

    # What the pages ask for.

    def start(self, *steps: Step) -> None:
        """Run jobs of the open model, whose work folder is theirs meanwhile."""
        assert self.model is not None
        unfinished.note(self.model.reference, [step.job for step in steps])
        if any(isinstance(step.job, (BenchJob, RunJob)) for step in steps):
            bench_history.keep(self.workspace)
            self._forget_bench()
        self.job.start(*steps, place=self.workspace.folder)

    def open_model(self, reference: str, *, pull: bool = False) -> None:
        """Inspect a model, pulling it first if asked, and open what was measured of it before."""
        steps = [Step(InspectJob(reference), reference)]
        if pull:
            # Whose tokenizer comes along, if it has none, was told before.
            steps.insert(0, Step(PullJob(reference, tokenizer=True), reference))
        self.opening = reference
        self.job.start(*steps)

    def choose_model(self, reference: str) -> None:
        """Open a model or, while a job runs, offer to compress it afterwards."""
        if not self.job.running:
            self.open_model(reference)
        elif self.opening:
            self.say("warning", self.job.reason)
        else:
            sentence = tr("A job is running. {name} can be compressed after it.")
            sentence = sentence.format(name=model_title(reference))
            self.offered.emit(sentence, tr("Compress later"), lambda: self.queue.add(reference))

    def open_path(self, path: Path) -> None:
        """Open what a person named or dropped.

        That is a plan with its model, a bundle, a bench file, the folder of a model, or an exported folder.
        """
        if (path / MODEL_XML).is_file():
            self._open_export(path)
        elif path.is_dir():
            self.choose_model(str(path))
        else:
            self.background.run(lambda: _read_file(path, self.settings), self._open_file, self.say_error)

    def _open_file(self, found: "Bundle | Path | tuple[Path, str]") -> None:
        if isinstance(found, tuple):
            self._open_plan(*found)
        elif isinstance(found, Path):
            if self.bench_environment is None:
                self.say(
                    "warning",
                    tr("Cannot compare {name}: benchmark a model of your own first.").format(name=found.name),
                )
            else:
                self.bench_opened.emit(found)
        else:
            self.bundle_opened.emit(found)

    def _open_plan(self, path: Path, wanted: str) -> None:
        """Apply a plan to the open model, if it is that one's, or else to its own, which is opened."""
        if self.model is not None and self.model.reference == wanted:
            self.load_plan(path)
        else:
            self._open_plan_model((path, wanted))

    def _open_export(self, folder: Path) -> None:
        """Show an exported folder beside the others of its model, which is opened if it is not yet."""

        def take(wanted: str) -> None:
            if self.model is not None and self.model.reference == wanted:
                self._add_export(folder)
            elif self.job.running:
                self.say(
                    "warning",
                    tr("Cannot open {folder}: a job is running. Wait for it or cancel it.").format(
                        folder=folder
                    ),
                )
            else:
                self._export_to_show = folder
                self.open_model(wanted)

        self.background.run(lambda: _model_of_export(folder, self.settings), take, self.say_error)

    def _add_export(self, folder: Path) -> None:
        name = folder.name
        while name in self.exports and self.exports[name] != folder:
            name = f"{name}-2"
        self.exports = {**self.exports, name: folder}
        self.exports_changed.emit()
        self.export_opened.emit()
        self.reload()

    def share(self, path: Path, done: "Callable[[Path], object] | None" = None) -> None:
        """Save the open model's results as a bundle, with the plan of now; then say so, or call `done`."""
        workspace, plan = self.workspace, self.plan

        def write() -> "Bundle":
            from kl_lens_desktop.sharing import share

            return share(workspace.folder, path, plan)

        def tell(bundle: "Bundle") -> None:
            if done is not None:
                done(path)
            else:
                self.say(
                    "info",
                    tr("Saved the {words} as {path}. It holds no weights and no paths.").format(
                        words=bundle.words, path=path
                    ),
                )

        self.background.run(write, tell, self.say_error)

    def use_plan(self, bundle: "Bundle") -> None:
        """Apply the plan of a bundle to its model."""
        self.background.run(lambda: _unpacked(bundle)["plan"], self.open_path, self.say_error)

    def use_scores(self, bundle: "Bundle") -> None:
        """Plan with the scores of a bundle, if none were measured here and the weights are the same."""
        assert self.model is not None
        model, place = self.model, self.workspace.scores

        def write() -> None:
            from kl_lens_desktop.files import write_json

            bundle.model.check_same(_identity(model), bundle.path, tr("Open the model that it is for"))
            if place.exists():
                why = tr("this model has scores already")
                raise InputError(
                    tr("Cannot use the scores of {name}").format(name=bundle.path.name),
                    why,
                    tr("Delete those first"),
                )
            write_json(place, bundle.parts["scores"])

        self.background.run(write, lambda _: self.reload(), self.say_error)

    @property
    def analysis(self) -> Analysis:
        """How sensitivity is measured for the open model; one by an older version goes on as it was."""
        kept = self.settings.analysis(self.workspace)
        older = self.scores is not None and self.scores.entries and self.scores.rounding is None
        return replace(kept, rounding="nearest") if older else kept

    def set_analysis(self, analysis: Analysis) -> None:
        """Measure so from now on; scores measured otherwise are set aside as ``scores-before.json``.

        So is their agreement with perplexity.
        """
        workspace = self.workspace
        if workspace.scores.exists() and not analysis.continues(self.analysis):
            try:
                for path in (workspace.scores, workspace.agree):
                    if path.exists():
                        set_aside(path, patience_s=1.0)
            except OSError as error:
                step = tr("Close the programs that use it, and try again")
                self.say_error(InputError(tr("The scores cannot be set aside"), reason(error), step))
                return
            self.scores, self.entries, self.agreement = None, {}, None
            self._taken = self._asked
            self.scores_changed.emit()
            self.entries_changed.emit()
            self.agreement_changed.emit()
        self.settings.keep_analysis(workspace, analysis)
        self._chosen_analysis = None

    def time_computer(self) -> None:
        """Find out in the background what an analysis of the open model takes here: see `costs`."""
        if self.model is None or self.job.running or self.model.reference in self._costs:
            return
        reference, self._costs[self.model.reference] = self.model.reference, None
        self._timing = cancel = Cancel()

        def run() -> "MeasuredCosts | None":
            job = CalibrateJob(reference)
            try:
                events = list(Child(job).events(cancel))
            except Cancelled:
                return None
            return next((job.result(event) for event in events if isinstance(event, Finished)), None)

        def take(found: "MeasuredCosts | None") -> None:
            if found is None:
                self._costs.pop(reference, None)  # a job came between
                return
            self._costs[reference] = found
            self.costs_changed.emit()

        self.background.run(run, take, lambda error: self.write_log("info", str(error)))

    @property
    def costs(self) -> "Costs | None":
        """What the parts of an analysis of the open model take on this computer, once that is known."""
        from kl_lens_desktop.sensitivity.estimate import Costs

        found = self._costs.get(self.model.reference) if self.model else None
        return None if found is None else decode(Costs, found)

    def analyze(self) -> None:
        """Measure every weight, going on where an earlier analysis stopped."""
        assert self.model is not None
        self.start(Step(AnalyzeJob(self.model.reference, self.workspace.scores, self.analysis)))

    def export(self, jobs: "Sequence[ExportJob]") -> None:
        """Write models of the open one, each called as its folder is; several in one process."""
        names = ", ".join(job.out.name for job in jobs)
        self.start(Step(jobs[0] if len(jobs) == 1 else ExportAllJob(tuple(jobs)), names))

    def choose_devices(self, names: tuple[str, ...] | None) -> None:
        """Benchmark on these from now on; None for all there are."""
        self.chosen_devices = names
        self.devices_chosen.emit()

    def choose_effort(self, effort: str) -> None:
        """Benchmark so from now on: `QUICK` or `THOROUGH`."""
        self.effort = effort
        self.wanted_changed.emit()

    def choose_analysis(self, analysis: Analysis) -> None:
        """What `compress` is to measure by; until then, what was measured otherwise stays."""
        self._chosen_analysis = analysis
        self.wanted_changed.emit()

    def compress(self) -> None:
        """All stages, as the Sensitivity and Benchmark pages say; what was measured already is used."""
        self.set_analysis(self._chosen_analysis or self.analysis)
        job = self._whole_job(self.analysis)
        self._begin_course(job)
        self.start(Step(job))

    @property
    def whole_s(self) -> float | None:
        """Seconds that `compress` is expected to take; None while this computer is not timed yet."""
        if self.model is None or self.costs is None:
            return None
        return sum(self._expected(self._whole_job(self._chosen_analysis or self.analysis)).values())

    def _whole_job(self, analysis: Analysis) -> RunJob:
        assert self.model is not None
        job = RunJob(
            self.model.reference,
            self.workspace.folder,
            devices=self.chosen_devices,
            benchmark=self.settings.benchmark,
        )
        job = job.quick if self.effort == QUICK else job
        # the text to measure on is as long as chosen, quick look or not: scores are only ever added to
        return replace(job, analysis=analysis)

    def _begin_course(self, job: RunJob) -> None:
        from kl_lens_desktop.course import Course

        self.course = Course(self._expected(job), self.settings.paces)

    def _expected(self, job: RunJob) -> dict[str, float]:
        """Seconds by part of a whole job, as far as this computer is known; else by a usual one's speed."""
        from kl_lens_desktop.course import Done, expected
        from kl_lens_desktop.sensitivity.estimate import usual

        assert self.model is not None
        measured, total = measured_weights(self)
        done = Done(
            measured / total if total else 0.0,
            bool(self.plan and self.plan.measured and measured == total),
            len(self.exports) if self.plan and self.plan.measured else 0,
        )
        devices = len(self.chosen_devices or [d for d in self.devices if d["available"]]) or 1
        costs = self.costs or usual(self.model.weights, self.model.about["experts_chosen"])
        return expected(costs, self.model.weights, job, devices, done, self.settings.paces)

    def _pause_course(self, paused: bool) -> None:
        if self.course is not None:
            (self.course.pause if paused else self.course.resume)(time.monotonic())

    def benchmark(self, folders: list[Path], devices: list[str] | None) -> None:
        """Measure exported models on devices (None: all that are found) as chosen in the settings."""
        benchmark = self.settings.benchmark
        benchmark = benchmark.quick if self.effort == QUICK else benchmark
        named = None if devices is None else tuple(devices)
        self.start(Step(BenchJob(tuple(folders), self.workspace.bench, named, benchmark)))

    def _forget_bench(self) -> None:
        self.bench, self.bench_environment = [], None
        self._measures_anew = True
        self.bench_changed.emit()

    def _read_bench_again(self) -> None:
        """The benchmark is over: from the next reading on, its file counts."""
        self._measures_anew = False
        self._taken = self._asked

    def set_plan(self, plan: "Plan | None") -> None:
        self.plan = plan
        self.plan_changed.emit()

    def load_plan(self, path: Path, *, consent: bool = False) -> None:
        """Open a plan file for the model that is open; another model's is refused in words.

        One of another revision, whose names and shapes match, is first asked about (`consent_wanted`), and
        taken with `consent`.
        """
        from kl_lens_desktop.plan.document import adapted, check_applies, load_plan

        assert self.model is not None
        model, scores = self.model, self.scores

        def read() -> "tuple[Plan, str]":
            plan = load_plan(path)
            identity = scores.model if scores else _identity(model)
            try:
                check_applies(plan, identity, [weight["name"] for weight in model.matrices], path)
            except InputError as error:
                shapes = {weight["name"]: weight["shape"] for weight in model.matrices}
                try:
                    fitting = adapted(plan, identity, shapes, model.kept_bytes, path)
                except InputError:
                    raise error from None
                return fitting, "" if consent else "; ".join(plan.model.differences(identity))
            return plan, ""

        def take(found: "tuple[Plan, str]") -> None:
            plan, differs = found
            if self.model is None or self.model.reference != model.reference:
                self.say(
                    "warning",
                    tr("{path} was not applied: another model was opened meanwhile.").format(path=path),
                )
            elif differs:
                self.consent_wanted.emit(path, differs)
            else:
                self.set_plan(plan)

        self.background.run(read, take, self.say_error)

    def say(self, level: str, text: str) -> None:
        self.said.emit(level, text)
        self.write_log(level, text)

    def say_error(self, error: KLLensError) -> None:
        self.say("error", str(error))

    def write_log(self, level: str, text: str, details: str = "", *, routine: bool = False) -> None:
        line = LogLine(time.time(), level, text, details, routine)
        self.log.append(line)
        self.logged.emit(line)

    def reload(self) -> None:
        """Read again what the work folder of the open model holds, outside the window's thread."""
        if self.model is not None:
            reference, weights = self.model.reference, [weight["name"] for weight in self.model.weights]
            workspace, exports = self.workspace, dict(self.exports)
            self._asked += 1
            asked = self._asked
            self.background.run(
                lambda: self._results.read(reference, weights, workspace, exports),
                lambda results: self._take_results(results, asked),
                self.say_error,
            )

    def forget_results(self) -> None:
        """The work folder of the open model is gone or another one."""
        self._forget_results()
        self._announce_everything()

    def look_for_unfinished(self) -> None:
        """Whether an earlier window ended in the midst of something: see `unfinished_found`."""

        def look() -> "tuple[Unfinished, str] | None":
            if (found := unfinished.take()) is None or not found.jobs:
                return None
            stage = STAGE_NAMES[found.jobs[0].NAME].lower()
            return found, unfinished.words(found, model_title(found.reference), stage)

        def tell(found: "tuple[Unfinished, str] | None") -> None:
            if found is not None:
                self.unfinished_found.emit(*found)

        self.background.run(look, tell, self.say_error)

    def look_for_work_folder(self) -> None:
        """Whether the chosen one is there, for its drive may not be connected: see `work_folder_gone`."""
        folder = self.settings.work_folder

        def look() -> bool:
            with contextlib.suppress(OSError):
                return folder.is_dir()
            return False

        def tell(is_there: bool) -> None:
            if not is_there:
                self.work_folder_gone.emit(str(folder))

        if self.settings.chose_work_folder:
            self.background.run(look, tell, self.say_error)

    def go_on(self, found: Unfinished) -> None:
        """Open the model of what was not finished, and do that."""
        self._to_go_on = found
        self.open_model(found.reference)

    def close(self) -> None:
        """End everything that runs; the work folder keeps only whole files."""
        unfinished.forget()
        self._soon.stop()
        self.queue.close()
        self._timing.cancel()
        self.job.close()
        self.chat.close()
        self.background.close()
        if self.model is not None:
            self.workspace.sweep()

    # What the job says.

    def _take_weights(self, weights: list[dict[str, Any]]) -> None:
        if self.model is not None and self.job.current and not isinstance(self.job.current.job, InspectJob):
            self.model = replace(self.model, weights=weights)

    def _take_score(self, item: dict[str, Any]) -> None:
        from kl_lens_desktop.sensitivity.scores import entry_from_json

        entry = entry_from_json(item)
        self.entries[entry.weight, entry.format] = entry
        self._new_entries = True

    def _announce_entries(self) -> None:
        if self._new_entries:
            self._new_entries = False
            self.entries_changed.emit()

    def _take_row(self, row: dict[str, Any]) -> None:
        key = (row["variant"], row["device"])
        self.bench = [*(r for r in self.bench if (r["variant"], r["device"]) != key), row]
        self.bench_changed.emit()

    def _take_repaired(self, event: Repaired) -> None:
        """The better plan is in the file already; show it at once."""
        changed = quantities.plural(len(event.changes), "format")
        gain = quantities.plus_minus(event.gain, event.gain_se)
        self.write_log(
            "info",
            tr("Repair: {changed} exchanged, joint KL lower by {gain} nats per token").format(
                changed=changed, gain=gain
            ),
        )
        self.reload()

    def _take_note(self, note: Note) -> None:
        self.write_log(note.level, note.text)

    def _watch_stage(self, progress: Progress) -> None:
        """While everything runs, pick up each stage's file as soon as the next stage begins."""
        current = self.job.current
        if self.course is not None:
            self.course.note(progress, time.monotonic())
        if current and progress.stage != self._stage:
            self._stage = progress.stage
            self.stages_changed.emit()
            if isinstance(current.job, RunJob) and progress.stage in ("verify", "export", "bench"):
                self.reload()

    def _step_started(self, step: Step) -> None:
        self._stage = ""
        self._timing.cancel()  # it would slow the job down, and the job would spoil it
        self.failures.discard(self.running_page)
        self.write_log("info", tr("{step_words}: started").format(step_words=_step_words(step)))

    def _step_finished(self, step: Step, finished: Finished) -> None:
        self.write_log("info", tr("{step_words}: done").format(step_words=_step_words(step)))
        job = step.job
        if isinstance(job, RunJob) and self.course is not None:
            self.course.end(time.monotonic())
            self.settings.keep_paces(self.course.paces())
        if isinstance(job, InspectJob):
            self._take_model(job.model, job.result(finished))
        elif isinstance(job, VerifyFilesJob):
            self._say_verified(job.result(finished))
        elif isinstance(job, PushJob):
            self.say("info", tr("Uploaded to {url}.").format(url=job.result(finished)["url"]))
        elif isinstance(job, DevicesJob):
            self.devices = job.result(finished)["devices"]
            self.devices_changed.emit()
        elif isinstance(job, AgreeJob):
            self.agreement = job.result(finished)
            self.agreement_changed.emit()
        elif isinstance(job, (AnalyzeJob, VerifyJob, BaselinesJob, BenchJob, RunJob)):
            self._read_bench_again()
            self.reload()

    def _take_export(self, event: Exported) -> None:
        """Know a model that was written, wherever that is, and what else is there now."""
        folder = Path(event.folder)
        self.exports = {**self.exports, folder.name: folder}
        self._taken = self._asked  # what is being read does not know of it
        if self.job.current and not isinstance(self.job.current.job, RunJob):
            self._written.append(folder)
        self.reload()

    def _say_verified(self, found: Verified) -> None:
        damaged = ", ".join(found["damaged"])
        if damaged:
            self.say(
                "warning",
                tr("{id}: damaged files were downloaded again: {damaged}.").format(
                    id=found["id"], damaged=damaged
                ),
            )
        else:
            self.say(
                "info",
                tr("{id}: all {count} files are as the Hub lists them.").format(
                    id=found["id"], count=len(found["files"])
                ),
            )

    def _step_failed(self, step: Step, failure: Failed) -> None:
        sentence = str(KLLensError(failure.what, failure.why, failure.next_step))
        if page := self.running_page:
            self.failures.add(page)
        self.said.emit("error", sentence)
        self.write_log("error", sentence, failure.traceback, routine=failure.kind in _ROUTINE)

    def _step_cancelled(self, step: Step) -> None:
        kept = self._kept_of_bench() if isinstance(step.job, BenchJob) else tr("What was measured is kept.")
        self.say(
            "warning",
            tr("{stage}: cancelled. {kept}").format(stage=STAGE_NAMES.get(step.name, step.name), kept=kept),
        )

    def _kept_of_bench(self) -> str:
        """Which figures are left of a cancelled benchmark: its first good row replaces the earlier file."""
        if any(row["status"] == "ok" for row in self.bench):
            return tr("Its finished rows are kept. An earlier benchmark is under “Compare with”.")
        if self.workspace.bench.exists():
            return tr("The earlier benchmark is kept: timings compare only within one run.")
        return tr("No row was finished.")

    def _job_ended(self, how: str) -> None:
        if self.opening is not None and how == "finished":
            self._soon.start()
        elif self.opening is not None:  # what was to follow would follow another model's opening
            self._plan_to_apply = self._export_to_show = self._to_go_on = None
        self.opening = self.course = None
        unfinished.forget()
        written, self._written = self._written, []
        if written and how == "finished":
            place = written[0] if len(written) == 1 else written[0].parent
            self.say(
                "info",
                tr("Exported {count} to {place}.").format(
                    count=quantities.plural(len(written), "model"), place=place
                ),
            )
        if self._to_go_on and self.model and self.model.reference == self._to_go_on.reference:
            jobs, self._to_go_on = self._to_go_on.jobs, None
            # once all have heard that the job ended
            QTimer.singleShot(0, self, lambda: self._start_again(jobs))
        if self.model is not None and how != "finished":
            self._read_bench_again()
            self.workspace.sweep()
            self.reload()

    def _start_again(self, jobs: tuple[Any, ...]) -> None:
        """What an earlier window left; a whole job is followed as one that begins here."""
        if isinstance(jobs[0], RunJob):
            is_quick = jobs[0] == replace(jobs[0].quick, analysis=jobs[0].analysis)
            self.choose_effort(QUICK if is_quick else THOROUGH)
            self._begin_course(jobs[0])
            self.whole_job_resumed.emit()
        self.start(*map(Step, jobs))

    def _take_model(self, reference: str, found: Inspected) -> None:
        self.model = Model(reference, found["model"], found["weights"], found["kept_bytes"], found["fit"])
        self._chosen_analysis = None
        self.settings.remember(reference)
        self.failures.clear()
        self.forget_results()
        self.reload()

    def _all_changed(self) -> tuple[SignalInstance, ...]:
        return (
            self.model_changed,
            self.entries_changed,
            self.scores_changed,
            self.plan_changed,
            self.baselines_changed,
            self.exports_changed,
            self.bench_changed,
            self.agreement_changed,
        )

    def _announce_everything(self) -> None:
        for signal in self._all_changed():
            signal.emit()

    def _take_results(self, results: ModelResults, asked: int) -> None:
        """Show what was read, unless something else is open or a later reading is shown already."""
        if asked <= self._taken or self.model is None or results.reference != self.model.reference:
            return
        self._taken = asked
        for problem in results.problems:
            self.say("warning", problem)
        another_plan = results.plan is not None and results.plan != self.plan
        if another_plan:  # before its scores are told of, which would have a plan made where there is none
            self.plan = results.plan
        if results.scores is not None and results.scores != self.scores:
            self.scores = results.scores
            self.entries = {(e.weight, e.format): e for e in results.scores.entries} | self.entries
            self.entries_changed.emit()
            self.scores_changed.emit()
        if another_plan:
            self.plan_changed.emit()
        if results.baselines != self.baselines:
            self.baselines = results.baselines
            self.baselines_changed.emit()
        if (results.exports, results.audits) != (self.exports, self.audits):
            self.exports, self.audits = results.exports, results.audits
            self.exports_changed.emit()
        bench = None if self._measures_anew else results.bench
        if bench and (bench["rows"], bench["environment"]) != (self.bench, self.bench_environment):
            self.bench, self.bench_environment = bench["rows"], bench["environment"]
            self.bench_changed.emit()
        if results.agreement and results.agreement != self.agreement:
            self.agreement = results.agreement
            self.agreement_changed.emit()
        if self._plan_to_apply:
            path, self._plan_to_apply = self._plan_to_apply, None
            self.load_plan(path)
        if self._export_to_show:
            folder, self._export_to_show = self._export_to_show, None
            self._add_export(folder)

    def _open_plan_model(self, found: tuple[Path, str]) -> None:
        self._plan_to_apply, reference = found
        if self.job.running:
            self.say(
                "warning",
                tr("Cannot open {plan_to_apply}: a job is running. Wait for it or cancel it.").format(
                    plan_to_apply=self._plan_to_apply
                ),
            )
            self._plan_to_apply = None
        else:
            self.open_model(reference)


SOON_MS = 1500  # after a model is open, until the computer is timed: what was asked for comes first
STAGE_NAMES = {
    "pull": tr("Downloading"),
    "download": tr("Downloading"),
    "verify-files": tr("Verifying files"),
    "inspect": tr("Reading the model"),
    "load": tr("Loading the model"),
    "analyze": tr("Measuring sensitivity"),
    "plan": tr("Planning"),
    "verify": tr("Verifying on held-out text"),
    "repair": tr("Repairing the plan"),
    "baselines": tr("Measuring the baselines"),
    "export": tr("Exporting"),
    "export-all": tr("Exporting"),
    "push": tr("Uploading"),
    "bench": tr("Benchmarking"),
    "bench-fp16": tr("Benchmarking FP16 too"),
    "devices": tr("Looking for devices"),
    "prices": tr("Measuring what formats cost"),
    "agree": tr("Measuring each weight's perplexity"),
    "run": tr("Compressing"),
}


def _step_words(step: Step) -> str:
    words = STAGE_NAMES.get(step.name, step.name)
    return f"{words} ({step.about})" if step.about else words


def _identity(model: Model) -> "ModelIdentity":
    from kl_lens_desktop.model.checkpoint import weight_files, weights_sha256
    from kl_lens_desktop.sensitivity.scores import ModelIdentity

    about = model.about
    return ModelIdentity(
        about["id"], about.get("revision"), weights_sha256(weight_files(Path(about["folder"])))
    )


def _read_file(path: Path, settings: Settings) -> "Bundle | Path | tuple[Path, str]":
    """A bundle, a bench file, or a plan and the model that it is for."""
    from kl_lens_desktop.bench.report import load_bench
    from kl_lens_desktop.plan.document import load_plan
    from kl_lens_desktop.sharing import kind_of, load_bundle

    kind = kind_of(path)
    if kind == "bundle":
        return load_bundle(path)
    if kind == "bench":
        load_bench(path)
        return path
    if kind == "scores":
        raise InputError(
            tr("Cannot open {name}").format(name=path.name),
            tr("it holds scores alone"),
            tr("Open a plan or a bundle with them"),
        )
    return path, _reference_of(load_plan(path).model.id, path, settings)


def _model_of_export(folder: Path, settings: Settings) -> str:
    """What the model of an exported folder is called here."""
    from kl_lens_desktop.plan.document import load_plan

    if why := damage(folder):
        raise InputError(tr("Cannot open {folder}").format(folder=folder), why, tr("Export it again"))
    if not (folder / "plan.json").is_file():
        why = tr("it does not say which model it is of")
        raise InputError(
            tr("Cannot open {folder}").format(folder=folder), why, tr("Open the model, and export it")
        )
    return _reference_of(load_plan(folder / "plan.json").model.id, folder, settings)


def _reference_of(wanted: str, path: Path, settings: Settings) -> str:
    """What a model that a file of ours names is opened by on this computer."""
    from kl_lens_desktop.hub import store
    from kl_lens_desktop.repository.names import is_model_id

    if wanted == "sample" or (is_model_id(wanted) and store.find(wanted)):
        return wanted
    for reference in settings.recent:
        if Path(reference).name == wanted and Path(reference).is_dir():
            return reference
    raise InputError(
        tr("Cannot open {path}").format(path=path),
        tr("its model, {wanted}, is not on this computer").format(wanted=wanted),
        tr("Open or download the model first, and then this"),
    )


def _unpacked(bundle: "Bundle") -> dict[str, Path]:
    """The parts of a bundle as files of their own, in a folder of its content's name."""
    from kl_lens_desktop.files import sha256
    from kl_lens_desktop.home import home
    from kl_lens_desktop.sharing import unpack

    return unpack(bundle, home() / "received" / sha256(bundle.path)[:16])
