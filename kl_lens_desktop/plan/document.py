"""The plan as a file: one JSON document that another laptop can apply."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.quant.integers import BY_DATA, IN_SEQUENCE
from kl_lens_desktop.quantities import plural
from kl_lens_desktop.schema import check_schema
from kl_lens_desktop.sensitivity.scores import ModelIdentity
from kl_lens_desktop.text.bundled import check_unseen

SCHEMA = "kl-lens/plan/1"
FILE_LIMIT = 2 * 2**20  # twenty thousand weights; what a stranger can make of more would take 100 MB to read
NAME_LIMIT = 300
MOST_BITS, MOST_BYTES, MOST_KL = 16.0, 10**12, 1000.0  # of a budget
ROUNDED_BY = "rounded_by"
"""Of a plan's provenance: whose integers its figures are of, where a plan cannot hold them."""
SCORED_FILES = "scored_files"
"""Of a plan's provenance: the texts that were scored, if several were: see `propose.scored_files`."""
_WEIGHT = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\.weight")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which weight gets which format.

    Attributes
    ----------
    model : ModelIdentity
    assignments : dict of str to str
        State-dict name ending in ``.weight`` to format.
    budget : dict or None
        ``bytes``, ``bits``, ``max_kl``, ``tokens_per_s`` or ``memory_bytes`` with its number; None where the
        method sets its own size.
    method : str
        ``kl``, ``sqnr``, ``mse``, ``delta-ce``, ``paper`` or ``uniform-FORMAT``; of a baseline, its name.
    predicted : dict
        ``kl`` (nats per token, or None), ``se`` and ``bytes`` of the exported weights; of a plan made with
        prices ``tokens_per_s`` and ``memory_bytes`` on the device ``provenance["priced_on"]``.
    measured : dict or None
        The joint measurement of the whole plan, when verified.
    pins : list of str
        Weights whose format a person chose.
    provenance : dict
        With what and when it was made, under which limits, and what a repair gained on which text.
    roundings : dict of str to str
        How weights are rounded that are not rounded to nearest: ``gptq``, or ``gptaq`` where the plan was
        rounded in sequence.
    rounding : dict or None
        Which text these were fitted to, and how: see `sensitivity.data_rounding`.
    """

    model: ModelIdentity
    assignments: dict[str, str]
    budget: dict[str, float] | None
    method: str
    predicted: dict[str, float | None]
    measured: dict[str, Any] | None = None
    pins: list[str] = field(default_factory=list)
    provenance: dict[str, str | float | None] = field(default_factory=dict)
    roundings: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, Any] | None = None

    def is_same_as(self, other: "Plan") -> bool:
        """Whether both give the same weights of the same model the same formats and integers."""
        same = self.assignments == other.assignments and self.model.sha256 == other.model.sha256
        return same and (self.roundings, self.rounding) == (other.roundings, other.rounding)

    @property
    def is_improved(self) -> bool:
        """Whether measurements of whole plans have changed it since it was made: a repair, or a sequence."""
        return bool(self.provenance.keys() & {"repaired_on", "refined_on"})

    def check_unseen(self, text: Path) -> None:
        """Raise `InputError` if `text` was scored on or fitted to, and can no longer judge the plan."""
        scored = str(self.provenance.get(SCORED_FILES) or "").split()
        fitted = (self.rounding or {}).get("sha256")
        check_unseen(text, [self.provenance.get("scored_sha256"), *scored], fitted)

    @property
    def rounded_by(self) -> str:
        """What chose the integers that were measured, if it was another program."""
        return str(self.provenance.get(ROUNDED_BY) or "")

    @property
    def fitted(self) -> list[tuple[str, str]]:
        """Weight and format of what is not rounded to nearest."""
        return [(weight, self.assignments[weight]) for weight in self.roundings]

    @property
    def sha256(self) -> str:
        """Of the assignments alone, as bench files name a plan: see `assignments_sha256`."""
        return assignments_sha256(self.assignments)

    @property
    def without_strange_figures(self) -> "Plan":
        """The plan as it is rounded here: without what was measured of another program's integers."""
        if not self.rounded_by:
            return self
        kept = {name: value for name, value in self.provenance.items() if name != ROUNDED_BY}
        return replace(self, measured=None, provenance=kept)

    def with_measured(self, measured: dict[str, Any]) -> "Plan":
        return replace(self, measured=measured)


def assignments_sha256(assignments: Mapping[str, str]) -> str:
    """SHA-256 of an assignment as compact JSON with sorted keys."""
    text = json.dumps(assignments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan atomically, weights in canonical order, so that two plans can be compared line by line.

    Raises
    ------
    InputError
        If `load_plan` would not read it, or the folder cannot be written.
    """
    value = {"schema": SCHEMA, **asdict(plan)}
    value["assignments"] = dict(sorted(plan.assignments.items(), key=lambda item: natural_order(item[0])))
    value["pins"] = sorted(plan.pins, key=natural_order)
    if plan.roundings:
        ordered = sorted(plan.roundings.items(), key=lambda item: natural_order(item[0]))
        value["roundings"] = dict(ordered)
    else:  # as files of older versions, which these read
        del value["roundings"], value["rounding"]
    _check(value, path)
    if len(json.dumps(value, indent=1)) > FILE_LIMIT:
        why = f"its file would be larger than {FILE_LIMIT // 2**20} MB, which is not read"
        raise InputError(f"Cannot write {path}", why, "Plan a model of fewer weights")
    write_json(path, value)


def load_plan(path: Path) -> Plan:
    """Read a plan from anyone.

    Raises
    ------
    InputError
        In one sentence, if it is no plan, damaged, too large, of a newer version or says what cannot be true.
    """
    value = read_json(path, FILE_LIMIT)
    _check(value, path)
    return Plan(
        ModelIdentity(**value["model"]),
        value["assignments"],
        value["budget"],
        value["method"],
        value["predicted"],
        value.get("measured"),
        value.get("pins", []),
        value.get("provenance", {}),
        value.get("roundings", {}),
        value.get("rounding"),
    )


def _check(value: Any, path: Path) -> None:
    check_schema(_without_checked(value, path), SCHEMA, path)
    if strange := sorted(set(value.get("pins", [])) - set(value["assignments"])):
        raise InputError(f"Cannot use {path}", f"it pins {strange[0]} to no format", "Make a new plan")
    roundings = value.get("roundings", {})
    if strange := sorted(set(roundings) - set(value["assignments"])):
        raise InputError(f"Cannot use {path}", f"it rounds {strange[0]} to no format", "Make a new plan")
    if roundings and not value.get("rounding"):
        raise InputError(
            f"Cannot use {path}", "it does not say by which text it is rounded", "Make a new plan"
        )
    record = value.get("rounding") or {}
    if record.get("method") == IN_SEQUENCE and record.get("formats") != assignments_sha256(
        value["assignments"]
    ):
        raise InputError(
            f"Cannot use {path}",
            "its weights were rounded in sequence, for other formats",
            "Make a new plan",
        )
    kind, _, name = value["method"].partition("-")
    if kind == "uniform":
        _check_format(name, "method", path)


def _check_format(name: Any, where: str, path: Path) -> None:
    try:
        parse_format(str(name))
    except InputError as error:
        why = f"at {where}: {str(name)[:40]!r} is not a format"
        raise InputError(f"Cannot use {path}", why, "Make a new plan") from error


def _without_checked(value: Any, path: Path) -> Any:
    """The file with its two long parts cut down to one item each, all of which are checked here: the general
    validator takes seconds for what these lines do in milliseconds."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        return value  # which the validator says at once
    short = dict(value)
    names, pins = value.get("assignments"), value.get("pins")
    if isinstance(names, dict):
        for name, fmt in names.items():
            _check_weight(name, path)
            _check_format(fmt, "assignments", path)
        short["assignments"] = dict(list(names.items())[:1])
    if isinstance(roundings := value.get("roundings"), dict):
        for name, rounding in roundings.items():
            _check_weight(name, path)
            if rounding not in (BY_DATA, IN_SEQUENCE):
                why = f"at roundings: {str(rounding)[:40]!r} is not a rounding"
                raise InputError(f"Cannot use {path}", why, "Make a new plan")
        short["roundings"] = dict(list(roundings.items())[:1])
    if isinstance(pins, list):
        for name in pins:
            _check_weight(name, path)
        short["pins"] = pins[:1]
    return short


def _check_weight(name: Any, path: Path) -> None:
    if not isinstance(name, str) or len(name) > NAME_LIMIT or not _WEIGHT.fullmatch(name):
        raise InputError(
            f"Cannot use {path}", f"{str(name)[:80]!r} is not the name of a weight", "Make a new plan"
        )


def check_applies(plan: Plan, model: ModelIdentity, weights: Sequence[str], path: Path) -> None:
    """Raise `InputError` saying what differs unless `plan` was made for exactly these weights."""
    known = set(weights)
    unknown = [name for name in plan.assignments if name not in known]
    differences = plan.model.differences(model)
    if unknown:
        differences.append(f"{plural(len(unknown), 'weight')} the model does not have, such as {unknown[0]}")
    if differences:
        agree = "" if unknown else "; or, because all weights match by name, apply it with --other-revision"
        raise InputError(
            f"The plan {path} is for another model",
            "; ".join(differences),
            f"Open the model it was made for, or make a plan for this one{agree}",
        )


def adapted(
    plan: Plan, model: ModelIdentity, shapes: Mapping[str, Sequence[int]], kept_bytes: int, path: Path
) -> Plan:
    """The plan of another revision or model made one of `model`, for a person who agreed to that.

    Its figures are dropped, for they were measured on other weights; where it comes from is noted.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        Of the quantizable weights of `model`.
    kept_bytes : int
        Of its other parameters, in FP16.

    Raises
    ------
    InputError
        If names or shapes do not match: the sizes of all weights under the plan must add up to what it says.
    """
    if not plan.model.differences(model):
        return plan
    missing = [name for name in plan.assignments if name not in shapes]
    formats = {name: parse_format(plan.assignments.get(name, "fp16")) for name in shapes}
    size = kept_bytes + sum(stored_bytes(shape, formats[name]) for name, shape in shapes.items())
    if missing or size != plan.predicted["bytes"]:
        raise InputError(
            f"The plan {path} cannot be applied to {model.id}",
            f"{len(missing)} of its weights are not in the model, such as {missing[0]}"
            if missing
            else f"its weights take {plan.predicted['bytes']:,} bytes and those of the model {size:,}",
            "Make a plan for this model",
        )
    made_for = f"{plan.model.id} {plan.model.revision or ''} {plan.model.sha256}"
    return replace(
        plan,
        model=model,
        predicted={"kl": None, "se": None, "bytes": size},
        measured=None,
        provenance={**plan.provenance, "made_for": " ".join(made_for.split())},
    )


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``layers.2`` comes before ``layers.10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split(".")]
