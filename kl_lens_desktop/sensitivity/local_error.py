"""How much each format changes the outputs of a weight, without running the model: tr(δW·H·δWᵀ)."""

import math
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.model.inventory import Weight, weight_parameters
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.quant.formats import Format
from kl_lens_desktop.quant.gptq import Curvature
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.data_rounding import errors_by_data, threads
from kl_lens_desktop.sensitivity.estimate import row_count
from kl_lens_desktop.sensitivity.lanes import result
from kl_lens_desktop.sensitivity.moments import Moment, Remembered, Seen, weighted_error
from kl_lens_desktop.sensitivity.scores import Pair

LOCAL_ERRORS = "of all rows"  # what they are, in the settings of a score file
_EXPERTS = 4  # of a stack, on which its formats are compared
_DIGITS = 6  # in the file
_TOGETHER = 4  # formats, at least, that a thread compares: fewer take little less time than all of them
_FEWER = 4  # times, where there is little time
_STRANGERS = 8  # weights of other parts, that a weight without its like is compared with
_NUMBER = re.compile(r"\d+")


class Known(Protocol):
    """Where local errors are kept."""

    def lacks_error(self, pair: Pair) -> bool: ...

    def local_error(self, pair: Pair) -> float: ...

    def is_fitted(self, pair: Pair) -> bool:
        """Whether the weight ships rounded by data in this format."""

    def add_local_error(self, pair: Pair, error: float, *, nearest: bool) -> None:
        """`nearest` says that the weight ships rounded to nearest."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """A local error over the plain squared error, and whether the weight ships rounded to nearest."""

    ratio: float
    nearest: bool


class LocalErrors:
    """The local errors of all weights in all formats, with the rounding that ships.

    The formats of a weight are compared on the same rows: on 64 of them, the ratio of two errors is that of
    all rows within five percent (standard deviation, on the sample).

    Parameters
    ----------
    weights, formats : sequence
    known : Known
    by_data : bool
        Whether weights are rounded by what they have seen (see `data_rounding`), or to nearest.
    brief : bool
        Compare on fewer rows, for there is little time.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Sequence[Weight],
        formats: Sequence[Format],
        known: Known,
        *,
        by_data: bool,
        brief: bool = False,
    ) -> None:
        self._model, self._formats, self._known, self._by_data = model, list(formats), known, by_data
        self._fewer = _FEWER if brief else 1
        self._weights = {weight.name for weight in weights}
        self._stored = weight_parameters(model)  # before stand-ins take their places

    @property
    def lacking(self) -> set[str]:
        """The weights that lack some."""
        return {
            name
            for name in self._weights
            if any(self._known.lacks_error((name, fmt.name)) for fmt in self._formats)
        }

    def collect(self, inputs: Remembered, cancel: Cancel) -> Generator[float]:
        """Note what lacks, by what the weights see of a text; yields the share done."""
        for seen in inputs.seen(self._model, cancel, self.lacking):
            if isinstance(seen, float):
                yield seen
            elif isinstance(seen, Seen):
                self.note(seen, cancel)

    def note(self, seen: Seen, cancel: Cancel) -> None:
        """The local errors of weights that have seen a text."""
        lacking = self.lacking.intersection(weight.name for weight in seen.weights)
        places = torch.linspace(0, len(seen.fit) - 1, min(_EXPERTS, len(seen.fit))).long().tolist()
        abouts: dict[int, tuple[Curvature | None, Moment]] = {}
        if lacking:  # once for all weights with these inputs, and for all formats
            abouts = {
                place: seen.about(place, cancel) if self._by_data else (None, seen.judge[place])
                for place in places
            }
        # Operations on so few rows take ten times as long where threads share each of them.
        with threads() as pool:
            # Formats of one scheme are rounded together, so a thread gets some that follow each other.
            formats = sorted(self._formats, key=lambda fmt: (fmt.scheme == "nf4", fmt.bits == 8))
            share = 1 if len(places) > 1 else usable_cores()
            together = max(math.ceil(len(formats) / share), _TOGETHER)
            starts = range(0, len(formats), together)
            started = {
                weight.name: [
                    pool.submit(self._of_part, seen, abouts, weight, cancel, place, formats[k : k + together])
                    for place in places
                    for k in starts
                ]
                for weight in seen.weights
                if weight.name in lacking
            }
            for name, futures in started.items():
                parts = [part for future in futures for part in result(future)]
                for fmt in self._formats:
                    error = math.fsum(value for each, value, _ in parts if each == fmt)
                    nearest = all(nearest for each, _, nearest in parts if each == fmt)
                    if math.isfinite(error):
                        pair = name, fmt.name
                        self._known.add_local_error(pair, float(f"{error:.{_DIGITS}g}"), nearest=nearest)

    @torch.no_grad()
    def guess(self) -> None:
        """What still lacks, as if all inputs were alike: in the scale of the same part of another block.

        Each format has a scale of its own, for rounding by data helps some more than others. Where no block
        has that part, it is the median of a few weights of other parts.
        """
        if not (lacking := self.lacking):
            return
        known = sorted(self._weights - lacking)
        alike = {_part(name): name for name in known}
        places = np.linspace(0, len(known) - 1, min(_STRANGERS, len(known))).astype(int)
        scales: dict[tuple[str, ...], dict[Format, _Scale]] = {}
        for name in sorted(lacking):
            others = (alike[_part(name)],) if _part(name) in alike else tuple(known[p] for p in places)
            if others not in scales:
                scales[others] = {fmt: self._scale(others, fmt) for fmt in self._formats}
            for fmt, scale in scales[others].items():
                error = scale.ratio * self._plain(name, fmt)
                if math.isfinite(error):
                    pair = name, fmt.name
                    self._known.add_local_error(pair, float(f"{error:.{_DIGITS}g}"), nearest=scale.nearest)

    def _scale(self, others: Sequence[str], fmt: Format) -> _Scale:
        """What the errors of other weights in a format are of their plain ones, and how those ship."""
        plain = {name: self._plain(name, fmt) for name in others}
        ratios = [
            self._known.local_error((name, fmt.name)) / each for name, each in plain.items() if each > 0
        ]
        fitted = sum(self._known.is_fitted((name, fmt.name)) for name in others)
        return _Scale(float(np.median(ratios)) if ratios else 1.0, nearest=2 * fitted <= len(others))

    def _plain(self, name: str, fmt: Format) -> float:
        stored = self._stored[name].detach()
        rows, share = self._some(stored[0] if stored.dim() == 3 else stored)
        return share * float((fake_quantize(rows, fmt) - rows).square().sum())

    @torch.no_grad()
    def _of_part(
        self,
        seen: Seen,
        abouts: Mapping[int, tuple[Curvature | None, Moment]],
        weight: Weight,
        cancel: Cancel,
        place: int,
        formats: Sequence[Format],
    ) -> list[tuple[Format, float, bool]]:
        """A matrix's errors, as often as the model uses it, and whether they are of nearest rounding.

        They stand for all of its rows, however many are compared.
        """
        stored, (about, judge) = self._stored[weight.name].detach(), abouts[place]
        if stored.dim() == 3:
            stored = stored[place]
        rows, share = self._some(stored)
        # An expert that no judging token chose is judged by its layer's mean, and counts as one token.
        share *= float(judge.tokens or 1) if len(seen.fit) > 1 else 1.0
        if self._by_data:
            found = errors_by_data(about, judge, rows, formats, cancel, seen.exponents)
            return [(fmt, share * error, nearest) for fmt, (error, nearest) in found.items()]
        cancel.check()
        return [
            (fmt, share * weighted_error(fake_quantize(rows, fmt) - rows, judge), True) for fmt in formats
        ]

    def _some(self, matrix: Tensor) -> tuple[Tensor, float]:
        """Rows in float32, spread evenly over the matrix where it has more than are needed.

        With them, for how many rows each of them stands.
        """
        most = row_count(matrix.shape[-1]) // self._fewer
        if len(matrix) <= most:
            return matrix.float().cpu(), 1.0
        places = torch.linspace(0, len(matrix) - 1, most, device=matrix.device).long()
        return matrix[places].float().cpu(), len(matrix) / most


def _part(name: str) -> str:
    """What weights of one kind in different blocks have in common."""
    return _NUMBER.sub("", name)
