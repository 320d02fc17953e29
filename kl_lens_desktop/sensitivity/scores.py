"""The score file: what was measured, on which model and text, readable by other tools. Needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.schema import check_schema

SCHEMA = "kl-lens/scores/1"
METRICS = ("kl_pq", "kl_qp", "mse", "sqnr_db", "delta_ce", "top1_agreement")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` tokens with its standard error."""

    mean: float
    se: float
    n: int


@dataclass(frozen=True, slots=True)
class Entry:
    """How much one weight in one format changes the model's output; nats per token where a unit applies."""

    weight: str
    kind: str
    block: int | None
    format: str
    bytes: int
    kl_pq: Estimate
    kl_qp: Estimate
    mse: Estimate
    sqnr_db: Estimate
    delta_ce: Estimate
    top1_agreement: Estimate


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights: `sha256` is over the safetensors files in order of name."""

    id: str
    revision: str | None
    sha256: str

    def differences(self, other: "ModelIdentity") -> list[str]:
        """In words, what sets `other` apart from this model; empty if the weights are the same."""
        if self.sha256 == other.sha256:
            return []
        words = [
            f"{name} {mine!r} against {theirs!r}"
            for name, mine, theirs in (("id", self.id, other.id), ("revision", self.revision, other.revision))
            if mine != theirs
        ]
        return [*words, f"weights {self.sha256[:12]} against {other.sha256[:12]}"]


@dataclass(frozen=True, slots=True)
class Scores:
    """A score file.

    Attributes
    ----------
    model : ModelIdentity
    text : dict
        ``name``, ``sha256``, ``tokens``, ``window``: consecutive windows from the start of the text's token
        ids.
    weights : list of dict
        The inventory: name, kind, block, shape, parameters, uses; the kept ones too.
    kept_bytes : int
        Bytes, in FP16, of all parameters that no format applies to (convolutions, norms, biases).
    settings, environment : dict
        How and with what it was measured.
    entries : list of Entry
    """

    model: ModelIdentity
    text: dict[str, Any]
    weights: list[dict[str, Any]]
    kept_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def with_entry(self, entry: Entry) -> "Scores":
        return replace(self, entries=[*self.entries, entry])

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {weight["name"]: tuple(weight["shape"]) for weight in self.weights}


def save_scores(path: Path, scores: Scores) -> None:
    write_json(path, {"schema": SCHEMA, **asdict(scores)})


def load_scores(path: Path) -> Scores:
    """Read and check a score file.

    Raises
    ------
    InputError
        If it is not one, or of a newer version.
    """
    value = read_json(path)
    check_schema(value, SCHEMA, path)
    entries = [entry_from_json(item) for item in value["entries"]]
    for entry in entries:
        parse_format(entry.format)
    return Scores(
        ModelIdentity(**{key: value["model"][key] for key in ("id", "revision", "sha256")}),
        value["text"],
        value["weights"],
        value["kept_bytes"],
        value.get("settings", {}),
        value.get("environment", {}),
        entries,
    )


def entry_from_json(item: dict[str, Any]) -> Entry:
    """The entry of a `Scored` event or of an item of ``entries``."""
    estimates = {
        metric: Estimate(**{key: item[metric][key] for key in ("mean", "se", "n")}) for metric in METRICS
    }
    return Entry(item["weight"], item["kind"], item["block"], item["format"], item["bytes"], **estimates)
