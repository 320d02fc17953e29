"""What is known so far, measured or foretold, kept in the score file after every step. Needs no torch."""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.sensitivity.jobs import ANCHOR
from kl_lens_desktop.sensitivity.means import SQNR_LIMIT_DB, estimates
from kl_lens_desktop.sensitivity.prediction import Foretold, Place, predict
from kl_lens_desktop.sensitivity.scores import (
    METRICS,
    PREDICTED,
    Entry,
    Estimate,
    Pair,
    Samples,
    Scores,
    load_scores,
    save_scores,
)

_SAVING_SHARE = 0.1  # of the time, at most, goes into writing the file
_FORETOLD = ("kl_pq", "kl_qp", "mse")  # quadratic in the change of logits, to first order
_EXPERT = re.compile(r"experts\.\d+")


class Ledger:
    """The state of an analysis.

    Parameters
    ----------
    path : Path
        The score file.
    scores : Scores
        What it holds or, if it is new, will hold beside the entries; with `windows`.
    """

    def __init__(self, path: Path, scores: Scores) -> None:
        assert scores.windows is not None
        self._path, self._scores = path, scores
        self._window: int = scores.text["window"]
        self._about = {weight["name"]: weight for weight in scores.weights}
        self._order = scores.windows.order
        self._signal = list(scores.windows.signal)
        self._samples = dict(scores.windows.samples)
        self._unmeasurable = dict(scores.unmeasurable)
        self.settings = dict(scores.settings)
        self.roundings: Mapping[Pair, str] = {}  # of what is added, where it is not the nearest
        self._entries = {(entry.weight, entry.format): entry for entry in scores.entries}
        self._errors, self._held = dict(scores.local_errors), dict(scores.prediction)
        self._fitted = set(scores.fitted)
        self._places = {name: _place(name, about) for name, about in self._about.items()}
        self._spreads: dict[Pair, float] = {}
        self._saved_at = self._saving_s = 0.0
        self.saved = False

    @property
    def model_sha256(self) -> str:
        """Of the model's weights."""
        return self._scores.model.sha256

    @property
    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    @property
    def order(self) -> tuple[int, ...]:
        return self._order

    def measured(self, pair: Pair) -> int:
        """On how many windows."""
        return len(self._samples.get(pair, ()))

    def is_nearest(self, pair: Pair) -> bool:
        """Whether an entry was measured as rounded to nearest, and so is not to be rounded otherwise now."""
        entry = self._entries.get(pair)
        return entry is not None and not entry.is_predicted and entry.rounding == "nearest"

    def samples(self, pair: Pair) -> Samples:
        return self._samples.get(pair, Samples())

    def lacks_error(self, pair: Pair) -> bool:
        return pair not in self._errors

    def local_error(self, pair: Pair) -> float:
        return self._errors[pair]

    def is_fitted(self, pair: Pair) -> bool:
        return pair in self._fitted

    def add_local_error(self, pair: Pair, error: float, *, nearest: bool) -> None:
        """`nearest` says that the weight ships rounded to nearest."""
        self._errors[pair] = error
        if not nearest:
            self._fitted.add(pair)
        self.saved = False

    def is_unmeasurable(self, pair: Pair) -> bool:
        return pair in self._unmeasurable

    def why_unmeasurable(self, pair: Pair) -> str:
        """Empty where it is not."""
        return self._unmeasurable.get(pair, "")

    def add(self, pair: Pair, samples: Samples, signal: Sequence[float]) -> Entry | None:
        """Add the next windows of an entry; the entry, once there are two from which to tell its error.

        `signal` belongs to the same windows.
        """
        self._signal += signal[max(len(self._signal) - self.measured(pair), 0) :]
        self._samples[pair] = self.samples(pair) + samples
        self.saved = False
        return self._enter(pair) if self.measured(pair) > 1 else None

    def reject(self, pair: Pair, why: str) -> None:
        """This one has no finite result and stays FP16."""
        self._unmeasurable[pair] = why
        self._samples.pop(pair, None)
        self._entries.pop(pair, None)
        self.saved = False

    def mark(self, pair: Pair, *, settled: bool) -> Entry | None:
        """Say whether racing stopped an entry; the entry if that is news."""
        entry = self._entries.get(pair)
        if entry is None or entry.settled == settled:
            return None
        self._entries[pair] = replace(entry, settled=settled)
        self.saved = False
        return self._entries[pair]

    def scaled(
        self, series: Mapping[Pair, Sequence[float]], wanted: Iterable[Pair]
    ) -> dict[Pair, Sequence[float]]:
        """Window means of the KL of all of `wanted`, as foretold where they are not in `series`."""
        found = dict(series)
        for weight, name in wanted:
            anchor = weight, ANCHOR
            error, base = self._errors.get((weight, name)), self._errors.get(anchor)
            if (weight, name) not in found and anchor in series and error is not None and base:
                found[weight, name] = [value * error / base for value in series[anchor]]
        return found

    def spreads(self) -> Mapping[Pair, float]:
        """Standard deviations, in nats, of the predictions last made, without the noise of the text."""
        return self._spreads

    def foretell(self, wanted: Iterable[Pair]) -> list[Entry]:
        """Predict all of `wanted` that is not measured; the entries that are news."""
        if not self._errors:
            return []
        measures = {
            name: predict(self._errors, {p: getattr(s, name) for p, s in self._samples.items()}, self._places)
            for name in _FORETOLD
        }
        self._held = dict(measures["kl_pq"].held)
        self._spreads = {pair: told.mean * told.spread for pair, told in measures["kl_pq"].found.items()}
        news = []
        for pair in wanted:
            if pair in self._unmeasurable or self.measured(pair) > 1:
                continue
            told = {name: found for name in _FORETOLD if (found := measures[name].found.get(pair))}
            if len(told) == len(_FORETOLD):
                entry = self._predicted(pair, told)
                if entry != self._entries.get(pair):
                    self._entries[pair] = entry
                    news.append(entry)
        self.saved = self.saved and not news
        return news

    def save(self, *, now: bool = False) -> None:
        """Write the file, unless it is so large that writing it at every step would take a tenth of the time.

        With `now`, write it whatever it takes.
        """
        started = time.monotonic()
        if self.saved or (not now and started - self._saved_at < self._saving_s / _SAVING_SHARE):
            return
        assert self._scores.windows is not None
        windows = replace(self._scores.windows, signal=tuple(self._signal), samples=self._samples)
        save_scores(
            self._path,
            replace(
                self._scores,
                settings=self.settings,
                entries=self.entries,
                unmeasurable=self._unmeasurable,
                windows=windows,
                local_errors=self._errors,
                fitted=self._fitted,
                prediction=self._held,
            ),
        )
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - started
        self.saved = True

    def _enter(self, pair: Pair) -> Entry:
        weight, name = pair
        about = self._about[weight]
        size = stored_bytes(about["shape"], parse_format(name))
        figures = estimates(self._samples[pair], self._signal, self._window)
        kl_pq, kl_qp, mse, sqnr_db, delta_ce, top1 = (figures[each] for each in METRICS)
        self._entries[pair] = Entry(
            *(weight, about["kind"], about["block"], name, size),
            *(kl_pq, kl_qp, mse, sqnr_db, delta_ce, top1),
            rounding=self.roundings.get(pair, "nearest"),
        )
        return self._entries[pair]

    def _predicted(self, pair: Pair, told: Mapping[str, Foretold]) -> Entry:
        weight, name = pair
        about = self._about[weight]
        kl_pq, kl_qp, mse = (_estimate(told[each], self._window) for each in _FORETOLD)
        signal = float(np.mean(self._signal)) if self._signal else 0.0
        if mse.mean > 0 and signal > 0:
            decibels = min(10 * math.log10(signal / mse.mean), SQNR_LIMIT_DB)
            sqnr = Estimate(decibels, 10 / math.log(10) * mse.se / mse.mean, mse.n)
        else:
            sqnr = Estimate(SQNR_LIMIT_DB, 0.0, mse.n)
        size = stored_bytes(about["shape"], parse_format(name))
        measures: dict[str, Any] = dict(zip(METRICS, (kl_pq, kl_qp, mse, sqnr, None, None), strict=True))
        about_it: dict[str, Any] = {"kind": about["kind"], "block": about["block"], "bytes": size}
        about_it["rounding"] = "gptq" if pair in self._fitted else "nearest"
        return Entry(weight=weight, format=name, source=PREDICTED, **about_it, **measures)


def _estimate(told: Foretold, window: int) -> Estimate:
    return Estimate(told.mean, told.se, told.n * window)


def _place(name: str, about: Mapping[str, object]) -> Place:
    block = about["block"]
    part = name if block is None else name.partition(f".{block}.")[2]
    return Place(_EXPERT.sub("experts", part), int(str(block or 0)), str(about["kind"]))


def open_ledger(path: Path, fresh: Scores, held_ids_sha256: Sequence[str]) -> Ledger:
    """Go on with the file at `path`, or begin it.

    Parameters
    ----------
    fresh : Scores
        What a new file would hold, `windows` and the settings ``seed`` and ``precision`` included.
    held_ids_sha256 : sequence of str
        Item n is the hash of the token ids of the first n + 1 windows of the text: a file measured on fewer
        windows of the same text is gone on with.

    Raises
    ------
    InputError
        If it holds scores of another model, text or way of measuring.
    """
    if not path.exists():
        return Ledger(path, fresh)
    kept = load_scores(path)
    assert fresh.windows is not None
    differences = kept.model.differences(fresh.model) + _differences(kept, fresh, held_ids_sha256)
    if differences:
        raise InputError(
            f"Cannot continue {path}",
            f"it was measured with other settings: {'; '.join(differences)}",
            "Choose another file name, or the same model, text and rounding",
        )
    assert kept.windows is not None
    windows = replace(fresh.windows, samples=kept.windows.samples, signal=kept.windows.signal)
    settings = {**kept.settings, **fresh.settings}
    settings["stages"] = stages(kept.settings, len(fresh.windows.order))
    order = order_of(settings["stages"], settings["seed"])
    if tuple(kept.windows.order) != order[: len(kept.windows.order)]:
        raise InputError(
            f"Cannot continue {path}",
            "this version orders its windows differently",
            "Choose another file name",
        )
    windows = replace(windows, order=order)
    # Those of older versions are sums over the rows that were compared, and would be taken for larger ones.
    are_alike = kept.settings.get("local_errors") == fresh.settings.get("local_errors")
    return Ledger(
        path,
        replace(
            fresh,
            windows=windows,
            settings=settings,
            entries=kept.entries,
            unmeasurable=kept.unmeasurable,
            local_errors=kept.local_errors if are_alike else {},
            fitted=kept.fitted if are_alike else set(),
            prediction=kept.prediction,
            environment=kept.environment if kept.text == fresh.text else fresh.environment,
        ),
    )


def stages(settings: dict[str, object], windows: int) -> list[int]:
    """How many windows the text had each time it grew, this time last."""
    held = settings.get("stages")
    earlier = [int(count) for count in held] if isinstance(held, list) else []
    return [*(count for count in earlier if count < windows), windows]


def order_of(counts: Iterable[int], seed: int) -> tuple[int, ...]:
    """Windows in random order, for early ones are to speak for the whole text; new ones come last."""
    order: list[int] = []
    for count in counts:
        generator = np.random.default_rng([seed, len(order), count])
        order += (len(order) + generator.permutation(count - len(order))).tolist()
    return tuple(order)


def _differences(kept: Scores, fresh: Scores, held_ids_sha256: Sequence[str]) -> list[str]:
    found = []
    if kept.windows is None:
        return ["it has no figures by window, because an older version wrote it"]
    if kept.text["window"] != fresh.text["window"]:
        found.append(f"windows of {kept.text['window']} tokens against {fresh.text['window']}")
    elif kept.text["tokens"] > fresh.text["tokens"]:
        found.append(f"{kept.text['tokens']} tokens against {fresh.text['tokens']}")
    elif held_ids_sha256[len(kept.windows.order) - 1] != kept.windows.ids_sha256:
        found.append(f"text {kept.text['name']!r} against {fresh.text['name']!r}, which begins differently")
    if kept.rounding != fresh.rounding:
        found.append(f"rounding {_said(kept.rounding)} against {_said(fresh.rounding)}")
    for name in ("seed", "precision"):
        if kept.settings.get(name) != fresh.settings.get(name):
            found.append(f"{name} {kept.settings.get(name)} against {fresh.settings.get(name)}")
    return found


def _said(rounding: Mapping[str, object] | None) -> str:
    return f"by {rounding['text']}" if rounding else "to nearest"
