"""Which variant is better: one judgement for the window's table and charts, the sentences and all files.

A row is worse than the best only where noise does not explain it; otherwise, and where it took too few turns
to say, it is alike. Where no row is worse, all are alike and none is the best.
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from kl_lens_desktop.bench.figures import OF_TURN, number, value_of
from kl_lens_desktop.bench.labels import LABELS
from kl_lens_desktop.bench.noise import difference, estimate, estimates_apart, trimmed_mean

Row = dict[str, Any]
CANDIDATES = 32  # for the best: a row behind so many is not it
_LEAST_ROUNDS = 2
_PLAIN_MARGIN = 0.02  # of figures without an error, such as memory: between two runs of the same


class Rank(Enum):
    """Of a row among those of its device, by one figure."""

    BEST = "best"
    ALIKE = "alike"
    WORSE = "worse"


def standings(rows: Sequence[Row], key: str) -> list[Rank | None]:
    """How the variants of one device stand by one figure.

    Parameters
    ----------
    rows : sequence of dict
        Of one device.
    key : str
        As in `figures.value_of`.

    Returns
    -------
    list of Rank or None
        Of each row. None for those that failed, for FP16 where it is the reference of the figure, and for all
        where neither end of the figure is better, or where noise cannot be told for any of them.
    """
    better = _better(key)
    held = [
        place
        for place, row in enumerate(rows)
        if row["status"] == "ok"
        and number(row, key) is not None
        and not (key in _AGAINST_FP16 and row["variant"] == "fp16")
    ]
    found: list[Rank | None] = [None] * len(rows)
    if better is None or len(held) < 2:
        return found
    held.sort(key=lambda place: _level(rows[place], key), reverse=better is max)
    first = held[:CANDIDATES]

    def is_beaten(place: int) -> bool:
        return any(is_worse(rows[place], rows[other], key) for other in first if other != place)

    top = next((place for place in first if not is_beaten(place)), held[0])
    against = {place: is_worse(rows[place], rows[top], key) for place in held if place != top}
    if any(worse is not None for worse in against.values()):
        for place, worse in against.items():
            found[place] = Rank.WORSE if worse else Rank.ALIKE
        found[top] = Rank.BEST if any(against.values()) else Rank.ALIKE
    return found


def is_worse(row: Row, other: Row, key: str) -> bool | None:
    """Whether a row's figure is shown to be worse than another row's; None where noise cannot be told."""
    better, value, against = _better(key), value_of(row, key), value_of(other, key)
    if better is None or value is None or against is None:
        return None
    if not isinstance(value, dict) or "mean" not in value:
        mine, its = number(row, key), number(other, key)
        if mine is None or its is None:
            return None
        return abs(mine - its) > _PLAIN_MARGIN * max(abs(mine), abs(its)) and better(mine, its) == its
    if "se" in value:
        apart = estimates_apart(value, against)
        return None if apart is None else apart and better(value["mean"], against["mean"]) == against["mean"]
    found = difference(_flat(other, key), _flat(row, key), key)
    if found is None or found.apart is None:
        return None
    return found.apart and (found.ratio < 1) == (better is max)


def levelled(rows: Sequence[Row]) -> list[Row]:
    """The rows with the means of their speeds as they are shown: in the proportions that the rounds have.

    Variants settle after different numbers of rounds, and a computer that warms up, or another program, slows
    the later ones: then plain means differ by more than the variants do. So each is the mean of the row with
    the most rounds of its device and session, times the ratio to it in the rounds that both took.
    """
    found = [dict(row) for row in rows]
    for key in OF_TURN:
        groups: dict[tuple[Any, Any], list[Row]] = {}
        for row in found:
            if len((row.get(key) or {}).get("rounds") or ()) >= _LEAST_ROUNDS and row.get("session"):
                groups.setdefault((row["device"], row["session"]), []).append(row)
        for group in groups.values():
            reference = max(group, key=lambda row: len(row[key]["rounds"]))[key]
            for row in group:
                row[key] = _scaled(row[key], reference)
    return found


def _scaled(figure: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    logs = [math.log(b / a) for a, b in zip(reference["rounds"], figure["rounds"], strict=False)]
    mean = reference["mean"] * math.exp(trimmed_mean(logs))
    sd = figure.get("sd")
    return {**figure, "mean": mean, "sd": None if sd is None else sd * mean / figure["mean"]}


_AGAINST_FP16 = ("kl_to_fp16", "kl_reverse", "delta_ce", "top1_agreement")


def _better(key: str) -> Callable[..., Any] | None:
    return LABELS[key.partition("@")[0]].best


def _level(row: Row, key: str) -> float:
    value = value_of(row, key)
    if isinstance(value, dict) and value.get("rounds"):
        return estimate(value)
    return number(row, key) or 0.0


def _flat(row: Row, key: str) -> Row:
    """The row with a figure that lies in another one under its own key, as `difference` looks for it."""
    return {"session": row.get("session"), key: value_of(row, key)}
