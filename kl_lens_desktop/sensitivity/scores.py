"""The score file: what was measured, on which model and text, readable by other tools. Needs no torch."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import JSON_LIMIT, read_json, write_text
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.schema import check_schema
from kl_lens_desktop.sensitivity.meaning import objections

SCHEMA = "kl-lens/scores/1"
METRICS = ("kl_pq", "kl_qp", "mse", "sqnr_db", "delta_ce", "top1_agreement")
_ENTRY_BYTES, _NUMBER_BYTES = 1000, 22  # of the file, at most
MEASURED, PREDICTED = "measured", "predicted"  # where an entry comes from
COLUMNS = ("kl_pq", "kl_qp", "mse", "delta_ce", "top1_agreement")  # what is kept of every window


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` tokens with its standard error."""

    mean: float
    se: float
    n: int


@dataclass(frozen=True, slots=True)
class Entry:
    """How much one weight in one format changes the model's output; nats per token where a unit applies.

    `settled` says that racing stopped it on fewer tokens than the text has, for its rank was clear. `source`
    is ``measured`` or ``predicted`` (see `prediction`); there, what cannot be predicted honestly is None, and
    `n` counts the tokens on which what it was predicted from was measured. `rounding`
    is ``nearest``, or ``gptq`` where the integers are chosen by the data.
    """

    weight: str
    kind: str
    block: int | None
    format: str
    bytes: int
    kl_pq: Estimate
    kl_qp: Estimate
    mse: Estimate
    sqnr_db: Estimate
    delta_ce: Estimate | None
    top1_agreement: Estimate | None
    settled: bool = False
    source: str = MEASURED
    rounding: str = "nearest"

    @property
    def is_predicted(self) -> bool:
        return self.source == PREDICTED


@dataclass(frozen=True, slots=True)
class Samples:
    """Means over the tokens of each window, in the order of measuring: one tuple a column."""

    kl_pq: tuple[float, ...] = ()
    kl_qp: tuple[float, ...] = ()
    mse: tuple[float, ...] = ()
    delta_ce: tuple[float, ...] = ()
    top1_agreement: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.kl_pq)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(*(getattr(self, name) + getattr(other, name) for name in COLUMNS))

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for name in COLUMNS for value in getattr(self, name))


Pair = tuple[str, str]  # weight, format


@dataclass(frozen=True, slots=True)
class Held:
    """How well predictions of a format held where it was measured too.

    Attributes
    ----------
    ratio : float
        Median of measured over foretold.
    spread : float
        Standard deviation of its logarithm.
    n : int
        Weights.
    """

    ratio: float
    spread: float
    n: int


@dataclass(frozen=True, slots=True)
class Windows:
    """What was measured window by window, from which the entries follow and more text goes on.

    Attributes
    ----------
    ids_sha256 : str
        Of the token ids of all windows, as little-endian int64 in the order of the text.
    order : tuple of int
        Places in the text of the windows, in the order of measuring.
    signal : tuple of float
        Mean square of the full-precision logits in each window, in that order, as far as measured.
    samples : mapping of (weight, format) to Samples
    """

    ids_sha256: str
    order: tuple[int, ...] = ()
    signal: tuple[float, ...] = ()
    samples: Mapping[Pair, Samples] = field(default_factory=dict)


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
            f"{name} {repr(mine) if mine else 'none'} against {repr(theirs) if theirs else 'none'}"
            for name, mine, theirs in (("id", self.id, other.id), ("revision", self.revision, other.revision))
            if mine != theirs
        ]
        return [*words, f"weights {self.sha256[:12]} against {other.sha256[:12]}"]

    def check_same(self, other: "ModelIdentity", path: Path | str, way_out: str) -> None:
        """Raise `InputError`, by which `path` is of this model, unless `other` has the same weights."""
        if differences := self.differences(other):
            raise InputError(f"{path} is for another model", "; ".join(differences), way_out)


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
    unmeasurable : mapping of (weight, format) to str
        Why these have no entry: they stay FP16.
    windows : Windows or None
        None in a file that was not written by the analysis.
    local_errors : mapping of (weight, format) to float
        From which entries are predicted: see `local_error`.
    fitted : collection of (weight, format)
        Those of them that are of integers chosen by the data.
    prediction : mapping of str to Held
        How well the predictions of each format held where it was measured too.
    """

    model: ModelIdentity
    text: dict[str, Any]
    weights: list[dict[str, Any]]
    kept_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    unmeasurable: Mapping[Pair, str] = field(default_factory=dict)
    windows: Windows | None = None
    local_errors: Mapping[Pair, float] = field(default_factory=dict)
    fitted: Collection[Pair] = ()
    prediction: Mapping[str, Held] = field(default_factory=dict)

    @property
    def rounding(self) -> dict[str, Any] | None:
        """Which text the integers of entries whose rounding is ``gptq`` were fitted to."""
        record = self.settings.get("rounding")
        return record if isinstance(record, dict) else None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {weight["name"]: tuple(weight["shape"]) for weight in self.weights}


def save_scores(path: Path, scores: Scores) -> None:
    """Write a score file atomically: one line for each weight, entry and row of windows.

    Local errors and what cannot be measured stand in the order of the weights, whatever was found first:
    threads and interruptions change that.
    """
    places = {weight["name"]: number for number, weight in enumerate(scores.weights)}

    def place(found: tuple[Pair, object]) -> tuple[int, str]:
        (weight, name), _ = found
        return places.get(weight, len(places)), name

    parts = {
        "schema": json.dumps(SCHEMA),
        "model": _text(asdict(scores.model)),
        "text": _text(scores.text),
        "weights": _lines(map(_text, scores.weights)),
        "kept_bytes": str(scores.kept_bytes),
        "settings": _text(scores.settings),
        "environment": _text(scores.environment),
        "entries": _lines(map(_entry_text, scores.entries)),
        "unmeasurable": _lines(
            _text({"weight": weight, "format": name, "why": why})
            for (weight, name), why in sorted(scores.unmeasurable.items(), key=place)
        ),
    }
    if scores.local_errors:
        parts["prediction"] = _text({name: asdict(held) for name, held in sorted(scores.prediction.items())})
        of: dict[str, dict[str, float]] = {}
        for (weight, name), error in sorted(scores.local_errors.items(), key=place):
            of.setdefault(weight, {})[name] = error
        fitted = {weight: [name for name in e if (weight, name) in scores.fitted] for weight, e in of.items()}
        parts["local_errors"] = _lines(
            _text({"weight": weight, "errors": e, "fitted": fitted[weight]}) for weight, e in of.items()
        )
    if scores.windows:
        windows = scores.windows
        rows = _lines(_samples_text(*pair, samples) for pair, samples in windows.samples.items())
        head = {"ids_sha256": windows.ids_sha256, "order": windows.order, "signal": windows.signal}
        parts["windows"] = f'{_text(head)[:-1]}, "samples": {rows}}}'
    write_text(path, "{\n" + ",\n".join(f' "{name}": {text}' for name, text in parts.items()) + "\n}\n")


def check_size(weights: int, formats: int, windows: int) -> None:
    """Raise `InputError` if the scores of so many would make a file that `load_scores` does not read."""
    size = weights * formats * (_ENTRY_BYTES + windows * len(COLUMNS) * _NUMBER_BYTES)
    if size > JSON_LIMIT:
        raise InputError(
            f"Cannot measure {weights} weights in {formats} formats on {windows} windows",
            f"the score file would take {size / 1e9:.1f} GB, and {JSON_LIMIT / 1e9:.1f} GB can be read",
            "Choose less text, longer windows or fewer formats",
        )


def load_scores(path: Path) -> Scores:
    """Read and check a score file.

    Raises
    ------
    InputError
        If it is not one, of a newer version, or says what cannot be true.
    """
    value = read_json(path)
    check_schema(value, SCHEMA, path)
    if why := next(objections(value), ""):
        raise InputError(f"Cannot use {path}", why, "Analyze the model again")
    unmeasurable = {(item["weight"], item["format"]): item["why"] for item in value.get("unmeasurable", [])}
    try:
        windows = _windows_from_json(value["windows"], value["text"]) if value.get("windows") else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"Cannot read {path}", "its figures by window are damaged", "Analyze the model again"
        ) from error
    return Scores(
        ModelIdentity(**{key: value["model"][key] for key in ("id", "revision", "sha256")}),
        value["text"],
        value["weights"],
        value["kept_bytes"],
        value.get("settings", {}),
        value.get("environment", {}),
        [entry_from_json(item) for item in value["entries"]],
        unmeasurable,
        windows,
        {
            (item["weight"], name): float(error)
            for item in value.get("local_errors", [])
            for name, error in item["errors"].items()
        },
        {(item["weight"], name) for item in value.get("local_errors", []) for name in item.get("fitted", [])},
        {name: Held(**held) for name, held in value.get("prediction", {}).items()},
    )


def load_rankable(path: Path, formats: Sequence[str] = ()) -> Scores:
    """As `load_scores`, with what is measured in some formats, or in all; there must be enough to rank."""
    scores = load_scores(path)
    wanted = {parse_format(name).name for name in formats}
    entries = [
        entry for entry in scores.entries if not entry.is_predicted and (not wanted or entry.format in wanted)
    ]
    if len(entries) < 3:
        of = f" in {', '.join(sorted(wanted))}" if wanted else ""
        raise InputError(
            f"Cannot rank {path}", f"it has fewer than three measured entries{of}", "Let the analysis finish"
        )
    return replace(scores, entries=entries)


def entry_from_json(item: dict[str, Any]) -> Entry:
    """The entry of a `Scored` event or of an item of ``entries``."""
    estimates: dict[str, Any] = {
        metric: item[metric] and Estimate(**{key: item[metric][key] for key in ("mean", "se", "n")})
        for metric in METRICS
    }
    settled = item.get("settled") is True
    return Entry(
        item["weight"],
        item["kind"],
        item["block"],
        item["format"],
        item["bytes"],
        **estimates,
        settled=settled,
        source=item.get("source", MEASURED),
        rounding=item.get("rounding", "nearest"),
    )


def _windows_from_json(value: dict[str, Any], text: dict[str, Any]) -> Windows:
    samples = {
        (str(item["weight"]), str(item["format"])): Samples(
            *(tuple(float(number) for number in item[name]) for name in COLUMNS)
        )
        for item in value["samples"]
    }
    order, signal = tuple(int(place) for place in value["order"]), tuple(map(float, value["signal"]))
    lengths = {len(getattr(each, name)) for each in samples.values() for name in COLUMNS}
    if not all(each.finite for each in samples.values()):
        raise ValueError("figures that are no numbers")
    if len(samples) != len(value["samples"]):
        raise ValueError("a row that appears twice")
    if len(order) != text["tokens"] // text["window"]:
        raise ValueError("windows of another text")
    if sorted(order) != list(range(len(order))) or max(*lengths, len(signal), 0) > len(order):
        raise ValueError("windows that are not there")
    if any(len(getattr(each, name)) != len(each) for each in samples.values() for name in COLUMNS):
        raise ValueError("rows of unequal length")
    return Windows(str(value["ids_sha256"]), order, signal, samples)


def _lines(texts: Iterable[str]) -> str:
    joined = ",\n  ".join(texts)
    return f"[\n  {joined}\n ]" if joined else "[]"


# The file is written anew after every step, and of a thousand entries one has changed.
@lru_cache(2**16)
def _entry_text(entry: Entry) -> str:
    return _text(asdict(entry))


@lru_cache(2**16)
def _samples_text(weight: str, name: str, samples: Samples) -> str:
    return _text({"weight": weight, "format": name, **asdict(samples)})


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
