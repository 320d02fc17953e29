"""A result as one file to send: plan, scores, benchmark and a card in words; no weights, no paths.

A bundle is one JSON document, so that any tool can read it. One from a stranger is checked as strictly as the
files that it consists of: by size, as JSON, by schema, by what they may mean, and that all are of one model.
"""

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kl_lens_desktop import __version__, quantities
from kl_lens_desktop.bench.outcome import PLAN, outcome
from kl_lens_desktop.bench.report import load_bench
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import check_replaceable, read_json, read_start, write_json, write_text
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.verdict import verdict
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.schema import check_schema
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores, load_scores
from kl_lens_desktop.temporary import temporary_folder

SCHEMA = "kl-lens/bundle/1"
SUFFIX = ".kl-lens.json"
FILE_LIMIT = 64 * 2**20
PARTS: dict[str, Callable[[Path], Any]] = {"plan": load_plan, "scores": load_scores, "bench": load_bench}
_START = 200  # bytes in which a file of ours has said what it is
_CARD_LIMIT = 20_000
# What a path looks like on either system: on Windows with spaces in the names of folders, and to a server.
_WINDOWS = re.compile(r"(?:\b[A-Za-z]:|\\\\[\w.$-]+)[\\/](?:[^\\/:*?\"<>|\r\n]+[\\/])*([^\\/:*?\"<>|\s]*)")
_POSIX = re.compile(r"(?<![\w/.:])(?:~|/[^\s/:'\"<>]+)/(?:[^\s/:'\"<>]+/)*([^\s/:'\"<>]*)")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What somebody shared.

    Attributes
    ----------
    path : Path
        The file.
    model : ModelIdentity
    created : str
        When, as ISO 8601.
    card : str
        The result in words.
    plan : Plan or None
    scores : Scores or None
    bench : dict or None
        As `load_bench` returns it.
    parts : dict of str to JSON
        The parts as they are in the file, by name.
    """

    path: Path
    model: ModelIdentity
    created: str
    card: str
    plan: Plan | None
    scores: Scores | None
    bench: dict[str, Any] | None
    parts: dict[str, Any]

    @property
    def words(self) -> str:
        """``plan, scores and benchmark of granite-4.0-h-350m``."""
        names = ["benchmark" if name == "bench" else name for name in self.parts]
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        return f"{listed} of {self.model.id}"


def share(folder: Path, out: Path, plan: Plan | None = None) -> Bundle:
    """Write the results in a work folder as a bundle.

    Parameters
    ----------
    folder : Path
        Holds ``plan.json``, ``scores.json`` and ``bench.json``, or some of them.
    out : Path
        The file to write; of what is there, only a bundle is replaced.
    plan : Plan, optional
        To share instead of the one in the folder.

    Raises
    ------
    InputError
        If there is nothing to share, a file is damaged, they are of different models, or `out` cannot be
        written.
    """
    check_replaceable(out, "bundle")
    with temporary_folder() as place:
        found = {name: folder / f"{name}.json" for name in PARTS if (folder / f"{name}.json").is_file()}
        if plan is not None:
            found["plan"] = place / "plan.json"
            save_plan(found["plan"], plan)
        _write(out, found, folder)
    return load_bundle(out)


def _write(out: Path, found: dict[str, Path], folder: Path) -> None:
    """Write the files that were found as a bundle."""
    if not found:
        raise InputError(
            f"Cannot share {folder}", "it holds no plan, scores or benchmark", "Measure a model first"
        )
    read = {name: PARTS[name](path) for name, path in found.items()}
    model = _model(read)
    if model is None:
        why = "its benchmark does not say of which model it is"
        raise InputError(f"Cannot share {folder}", why, "Share it with the plan")
    check_one_model(model, read, folder)
    parts = {name: without_paths(read_json(path)) for name, path in found.items()}
    if "scores" in parts:  # they are for going on, which needs the model's own files
        parts["scores"].pop("windows", None)
    value = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"KL Lens Desktop {__version__}",
        "model": {"id": model.id, "revision": model.revision, "sha256": model.sha256},
        "card": without_paths(card(model, read.get("plan"), read.get("bench"))),
        **parts,
    }
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(text.encode("utf-8")) > FILE_LIMIT:
        why = f"it would be larger than {quantities.size(FILE_LIMIT)}, which is not read"
        raise InputError(f"Cannot write {out}", why, "Share the plan alone")
    write_text(out, text + "\n")


def load_bundle(path: Path) -> Bundle:
    """Read a bundle from anyone.

    Raises
    ------
    InputError
        In one sentence, if it is none, damaged, too large, of a newer version, or says what cannot be true.
    """
    value = read_json(path, FILE_LIMIT)
    check_schema(_without_parts(value), SCHEMA, path)
    parts = {name: value[name] for name in PARTS if name in value}
    if not parts:
        raise InputError(f"Cannot use {path}", "nothing is in it", "Ask for it again")
    read = {}
    with temporary_folder() as folder:
        for name, part in parts.items():
            write_json(folder / f"{name}.json", part)
            try:
                read[name] = PARTS[name](folder / f"{name}.json")
            except InputError as error:
                raise InputError(f"Cannot use {path}", f"its {name}: {error.why}", error.next_step) from error
    model = ModelIdentity(**value["model"])
    check_one_model(model, read, path)
    return Bundle(
        path,
        model,
        value["created"],
        value["card"],
        read.get("plan"),
        read.get("scores"),
        read.get("bench"),
        parts,
    )


def _without_parts(value: Any) -> Any:
    """The document with its parts, which are checked on their own, cut down to what they are."""
    if not isinstance(value, dict):
        return value
    return value | {name: {} if isinstance(value[name], dict) else 0 for name in PARTS if name in value}


def kind_of(path: Path) -> str:
    """What a file of ours says it is: ``plan``, ``bundle``, ``scores`` or ``bench``; empty for any other."""
    found = re.search(rb'"schema":\s*"kl-lens/(\w+)/', read_start(path, _START))
    return found[1].decode() if found else ""


def unpack(bundle: Bundle, folder: Path) -> dict[str, Path]:
    """Write the parts of a bundle as files; where each is, by name.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds something else by such a name.
    """
    places = {name: folder / f"{name}.json" for name in bundle.parts}
    for name, place in places.items():
        check_replaceable(place, name)
    for name, place in places.items():
        write_json(place, bundle.parts[name])
    return places


def card(model: ModelIdentity, plan: Plan | None, bench: dict[str, Any] | None) -> str:
    """The result in words, for whoever opens the file; a line for each thing."""
    lines = [model.id + (f" at {model.revision[:7]}" if model.revision else "")]
    if plan is not None:
        counts: dict[str, int] = {}
        for name in plan.assignments.values():
            label = parse_format(name).label
            counts[label] = counts.get(label, 0) + 1
        formats = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
        lines.append(f"Plan: {formats}; {quantities.size(plan.predicted['bytes'] or 0)}")
        if plan.measured:
            kl, same = plan.measured["kl_pq"], plan.measured["top1_agreement"]["mean"]
            text = plan.measured["text"]["name"]
            lines.append(
                f"{verdict(kl['mean'], same)}: KL {quantities.plus_minus(kl['mean'], kl['se'])} nats per "
                f"token, {quantities.unchanged(same)} of next words unchanged, on {text}"
            )
    if bench is not None and (found := outcome(bench["rows"])):
        lines.append(f"On {found.device}: {found.sentence}")
        if plan is not None and not _is_of(bench, plan):
            lines.append("This benchmark is of another plan of the model, not of the one in this file")
        lines.append(f"Measured on {bench['environment']['cpu']}")
    return "\n".join(lines)[:_CARD_LIMIT]


def _is_of(bench: dict[str, Any], plan: Plan) -> bool:
    """Whether a benchmark's plan is this one, as far as its rows say which they are of."""
    measured = {row.get("plan_sha256") for row in bench["rows"] if row["variant"] == PLAN}
    return measured <= {None, plan.sha256}


def check_one_model(model: ModelIdentity, read: dict[str, Any], path: Path) -> None:
    """Raise `InputError` unless all parts are of `model`."""
    told = {
        "a plan": [read["plan"].model.sha256] if "plan" in read else [],
        "scores": [read["scores"].model.sha256] if "scores" in read else [],
        "a benchmark": [
            row["model"]["sha256"] for row in read.get("bench", {}).get("rows", ()) if row.get("model")
        ],
    }
    for name, hashes in told.items():
        if other := next((each for each in hashes if each != model.sha256), None):
            why = f"it has {name} of other weights ({other[:12]} against {model.sha256[:12]})"
            raise InputError(f"Cannot use {path}", why, "Measure again, or share the parts on their own")


def _model(read: dict[str, Any]) -> ModelIdentity | None:
    for name in ("plan", "scores"):
        if name in read:
            found: ModelIdentity = read[name].model
            return found
    rows = (row["model"] for row in read["bench"]["rows"] if row.get("model"))
    return next((ModelIdentity(each["id"], each["revision"], each["sha256"]) for each in rows), None)


def without_paths(value: Any) -> Any:
    """JSON in which every path in a text has become the name at its end, and the home folder ``~``."""
    if isinstance(value, str):
        for root in (Path.home(), Path(tempfile.gettempdir())):
            if len(str(root)) > 1:  # and not the root of everything
                value = value.replace(str(root), "~").replace(root.as_posix(), "~")
        return _POSIX.sub(r"\1", _WINDOWS.sub(r"\1", value))
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if isinstance(value, dict):
        return {name: without_paths(each) for name, each in value.items()}
    return value
