"""What the work folder of a model holds, as the window shows it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kl_lens_desktop.errors import InputError, KLLensError
from kl_lens_desktop.exported import damage
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import Workspace
from kl_lens_desktop.sensitivity.jobs import Agreed

if TYPE_CHECKING:
    from kl_lens_desktop.plan.document import Plan
    from kl_lens_desktop.sensitivity.scores import Scores


@dataclass(frozen=True, slots=True)
class ModelResults:
    """All that was found for the model called `reference`, and in `problems` what was not usable."""

    reference: str
    scores: "Scores | None"
    plan: "Plan | None"
    baselines: "list[Plan]"
    exports: dict[str, Path]
    audits: dict[str, dict[str, Any]]
    bench: dict[str, Any] | None
    agreement: Agreed | None
    problems: list[str]


class ResultsReader:
    """Reads results in the background, but not the scores again that it has read: they are large.

    While a large file is checked against its schema, the window shares its time with that.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Path, int, int, int], Scores] | None = None  # which file, and what it holds

    def read(
        self, reference: str, weights: Collection[str], workspace: Workspace, known_exports: dict[str, Path]
    ) -> ModelResults:
        """What is there for a model with these weights; exports elsewhere stay as long as they are there."""
        from kl_lens_desktop.bench.report import load_bench
        from kl_lens_desktop.files import read_json
        from kl_lens_desktop.plan.document import load_plan

        problems: list[str] = []

        def read(path: Path, reader: Any) -> Any:
            try:
                return reader(path) if path.is_file() else None
            except KLLensError as error:
                problems.append(str(error))
                return None

        scores, known = read(workspace.scores, self._scores), frozenset(weights)
        if scores is not None and not known.issuperset(scores.shapes):
            problems.append(
                tr("{scores} was measured on another model and is ignored.").format(scores=workspace.scores)
            )
            scores = None
        plan = read(workspace.plan, load_plan)
        if plan is not None and not known.issuperset(plan.assignments):
            problems.append(tr("{plan} is for another model and is ignored.").format(plan=workspace.plan))
            plan = None
        beside = [read(path, load_plan) for path in sorted(workspace.baselines.glob("[!.]*.json"))]
        elsewhere = {name: folder for name, folder in known_exports.items() if (folder / MODEL_XML).is_file()}
        exports = workspace.exported() | elsewhere
        damaged = {name: why for name, folder in exports.items() if (why := damage(folder))}
        problems += [
            tr("Cannot use {exports}: {why}. Export it again.").format(exports=exports[name], why=why)
            for name, why in damaged.items()
        ]
        exports = {name: folder for name, folder in exports.items() if name not in damaged}
        return ModelResults(
            reference,
            scores,
            plan,
            [p for p in beside if p is not None and scores and p.model.sha256 == scores.model.sha256],
            exports,
            {name: audit for name, folder in exports.items() if (audit := _read_audit(folder)) is not None},
            read(workspace.bench, load_bench),
            read(workspace.agree, read_json),
            problems,
        )

    def _scores(self, path: Path) -> "Scores":
        from kl_lens_desktop.sensitivity.scores import load_scores

        try:
            found = path.stat()
        except OSError:  # gone meanwhile, which is said in words
            return load_scores(path)
        file = path, found.st_ino, found.st_mtime_ns, found.st_size
        last = self._last
        if last is None or last[0] != file:
            last = self._last = file, load_scores(path)
        return last[1]


def _read_audit(folder: Path) -> dict[str, Any] | None:
    """What was found when the exported weights were read back, and the plan they were held against."""
    from kl_lens_desktop.files import read_json
    from kl_lens_desktop.plan.document import assignments_sha256

    try:
        card = read_json(folder / "kl_lens.json")
        audit: dict[str, Any] = {**card["audit"], "proof": card.get("proof", {})}
        assignments = read_json(folder / "plan.json")["assignments"]
    except (InputError, KeyError, TypeError):  # somebody else's, or an older one: it has no such record
        return None
    return {**audit, "assignments": assignments, "plan_sha256": assignments_sha256(assignments)}
