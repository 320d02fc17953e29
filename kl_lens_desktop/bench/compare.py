"""Two bench files, from two laptops or two days, side by side: what matches, what differs, what is noise."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kl_lens_desktop.bench.judgement import levelled
from kl_lens_desktop.bench.noise import Difference, difference, estimates_apart
from kl_lens_desktop.quantities import LEAST_SAMPLES

SPEED_FIGURES = ("tokens_per_s", "prefill_tokens_per_s", "ttft_ms", "load_ms")
QUALITY_FIGURES = ("perplexity", "word_perplexity", "kl_to_fp16", "top1_agreement")
PLAIN_FIGURES = ("peak_rss_mb", "size_bytes")
_PLACE = ("os", "cpu", "cores", "threads", "ram_mb", "memory_read_gb_s", "power", "python")


@dataclass(frozen=True, slots=True)
class FigureChange:
    """One figure of a matched row: its value in both files, and whether they are apart by more than noise.

    `apart` is None where that cannot be said: for a figure without an error, or of different text. `n` counts
    the measurements of a speed; of too few, `low` and `high` are None.
    """

    figure: str
    first: float
    second: float
    ratio: float | None
    low: float | None
    high: float | None
    apart: bool | None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """The rows of one variant on one kind of device in both files.

    `by` says what they were matched by: ``plan`` (the same weights in the same formats of the same model) or
    ``name``, for files that do not hold the plan.
    """

    first: dict[str, Any]
    second: dict[str, Any]
    by: str
    changes: list[FigureChange]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two bench files compared.

    Attributes
    ----------
    matches : list of Match
    only_first, only_second : list of dict
        Rows without a partner.
    environment : list of (what, first, second)
        What differs between the computers and the settings, as words.
    cautions : list of str
        Sentences on what may not be compared, and why.
    """

    matches: list[Match]
    only_first: list[dict[str, Any]] = field(default_factory=list)
    only_second: list[dict[str, Any]] = field(default_factory=list)
    environment: list[tuple[str, str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, rows by their variant, device and status only."""

        def name(row: dict[str, Any]) -> dict[str, str]:
            return {key: row[key] for key in ("variant", "device", "status")}

        return {
            "matches": [
                {
                    "first": name(match.first),
                    "second": name(match.second),
                    "by": match.by,
                    "changes": [asdict(change) for change in match.changes],
                }
                for match in self.matches
            ],
            "only_first": [name(row) for row in self.only_first],
            "only_second": [name(row) for row in self.only_second],
            "environment": [list(line) for line in self.environment],
            "cautions": self.cautions,
        }


def compare(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare two bench files as `load_bench` returns them.

    Rows match if they are of the same model, the same plan and the same kind of device; the first of several
    with a partner takes it. Speeds are those of each file's own table, compared by Welch's t interval over
    rounds; quality is compared by its standard errors if both read the same text, memory and size without a
    verdict.
    """
    same_text = _text(first) == _text(second)
    partners = _Partners(levelled(second["rows"]))
    matches, only_first = [], []
    for row in levelled(first["rows"]):
        partner, by = partners.take(row)
        if partner is None:
            only_first.append(row)
            continue
        matches.append(Match(row, partner, by, list(_changes(row, partner, same_text))))
    cautions = []
    if not same_text:
        cautions.append("The texts or windows differ, so perplexity and KL are not comparable.")
    if any(match.by == "name" for match in matches):
        cautions.append(
            "Some rows do not say which plan they used. They were matched by name, and their "
            "weights may differ."
        )
    if (a := _prompt(first)) != (b := _prompt(second)):
        cautions.append(
            f"Prompts and generations differ ({a} and {b} tokens), so speeds are only partly comparable."
        )
    left = list(partners.left.values())
    return Comparison(matches, only_first, left, _environments(first, second), cautions)


class _Partners:
    """The rows of a file that have no partner yet, found by what they are matched by."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.left = dict(enumerate(rows))
        self._by_plan: dict[Any, list[int]] = {}
        self._by_name: dict[Any, list[int]] = {}
        for place, row in self.left.items():
            kind = _kind(row["device"])
            self._by_plan.setdefault((kind, _identity(row)), []).append(place)
            self._by_name.setdefault((kind, row["variant"]), []).append(place)

    def take(self, row: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """The partner of a row, if there is one, and what it was matched by."""
        kind, identity = _kind(row["device"]), _identity(row)
        alike = self._by_plan.get((kind, identity), []) if identity else []
        place = self._nearest(row, alike)
        if place is not None:
            return self.left.pop(place), "plan"
        named = [
            place
            for place in self._by_name.get((kind, row["variant"]), [])
            if (other := self.left.get(place)) is not None
            and not (identity and _identity(other))
            and _same_model(row, other)
        ]
        place = self._nearest(row, named)
        return (None if place is None else self.left.pop(place)), "name"

    def _nearest(self, row: dict[str, Any], places: Sequence[int]) -> int | None:
        """Of the same device and name rather than of others, and the first of several."""

        def apart(place: int) -> tuple[bool, bool]:
            other = self.left[place]
            return other["device"] != row["device"], other["variant"] != row["variant"]

        return min((place for place in places if place in self.left), key=apart, default=None)


def _identity(row: dict[str, Any]) -> tuple[str, str] | None:
    model, plan = row.get("model"), row.get("plan_sha256")
    return (model["sha256"], plan) if model and plan else None


def _same_model(row: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = row.get("model"), other.get("model")
    return not (a and b) or a["sha256"] == b["sha256"]


def _kind(device: str) -> str:
    """``GPU`` for ``GPU.0``; a combination such as ``AUTO:GPU,CPU`` is a kind of its own."""
    return device if ":" in device else device.partition(".")[0]


def _changes(first: dict[str, Any], second: dict[str, Any], same_text: bool) -> Sequence[FigureChange]:
    changes = []
    for figure in SPEED_FIGURES:
        rows = [{"session": None, figure: _about_its_mean(row.get(figure))} for row in (first, second)]
        if found := difference(rows[0], rows[1], figure):
            changes.append(_of_speed(figure, first[figure]["mean"], second[figure]["mean"], found))
    for figure in QUALITY_FIGURES:
        a, b = first.get(figure), second.get(figure)
        if a and b:
            apart = estimates_apart(a, b) if same_text else None
            ratio = b["mean"] / a["mean"] if a["mean"] else None
            changes.append(FigureChange(figure, a["mean"], b["mean"], ratio, None, None, apart))
    for figure in PLAIN_FIGURES:
        a, b = first.get(figure), second.get(figure)
        if a and b:
            changes.append(FigureChange(figure, a, b, b / a, None, None, None))
    return changes


def _about_its_mean(speed: dict[str, Any] | None) -> dict[str, Any] | None:
    """A levelled speed with its rounds levelled too, so that their ratio is that of the means."""
    if not speed or not speed.get("rounds"):
        return speed
    factor = speed["mean"] / statistics.geometric_mean(speed["rounds"])
    return {**speed, "rounds": [value * factor for value in speed["rounds"]]}


def _of_speed(figure: str, first: float, second: float, found: Difference) -> FigureChange:
    low, high = (found.low, found.high) if found.n >= LEAST_SAMPLES else (None, None)
    return FigureChange(figure, first, second, found.ratio, low, high, found.apart, found.n)


def _text(bench: dict[str, Any]) -> tuple[Any, ...]:
    text = bench["environment"]["text"]
    return text["sha256"], text["tokens"], text["window"], text.get("stride", text["window"])


def _prompt(bench: dict[str, Any]) -> str:
    settings = bench["environment"]["settings"]
    return f"{settings.get('prompt_tokens')} + {settings.get('new_tokens')}"


def _environments(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    a, b = (_described(bench["environment"]) for bench in (first, second))
    names = dict.fromkeys([*a, *b])
    return [(name, a.get(name, "–"), b.get(name, "–")) for name in names if a.get(name) != b.get(name)]


def _described(environment: dict[str, Any]) -> dict[str, str]:
    said = {name: environment.get(name) for name in _PLACE}
    said |= {f"package {name}": version for name, version in environment["packages"].items()}
    for device in environment["devices"]:
        told = [device["full_name"] or device["reason"]]
        told += [f"driver {device['driver']}"] if device.get("driver") else []
        said[f"device {device['name']}"] = ", ".join(told)
    said |= {f"text: {name}": value for name, value in environment["text"].items()}
    said |= {f"setting {name}": value for name, value in environment["settings"].items()}
    return {
        name: f"{value:,.1f}" if isinstance(value, float) else str(value)
        for name, value in said.items()
        if value is not None
    }
