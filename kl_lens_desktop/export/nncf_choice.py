"""What NNCF's own mixed precision would choose, as plans: its public call, and its outcome read back.

With its algorithms that look at data it chooses integers as well, which only its graph holds.

`nncf.compress_weights` sorts weights by a sensitivity metric and gives the least sensitive ones, up to a
share of the parameters, a low format and the rest a backup. So its outcomes for all shares are prefixes of
one order, which is taken from NNCF's own scores; each plan itself comes from the graph that the public call
compressed.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.algorithms.weight_compression.mixed_precision import (
    MIXED_PRECISION_CRITERIA,
    MixedPrecisionCriterion,
)
from torch import Tensor

from kl_lens_desktop.disk_space import FREE_TEMPORARY, room_for
from kl_lens_desktop.errors import ExportError
from kl_lens_desktop.export.compress import base_name, stored_group, to_fp16, weight_constants
from kl_lens_desktop.export.stateful import make_stateful
from kl_lens_desktop.export.trace import trace
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import GROUP_SIZES, parse_format, stored_bytes
from kl_lens_desktop.temporary import temporary_folder

NNCF_METRICS = {
    "data-free": nncf.SensitivityMetric.WEIGHT_QUANTIZATION_ERROR,
    "hessian": nncf.SensitivityMetric.HESSIAN_INPUT_ACTIVATION,
    "mean-variance": nncf.SensitivityMetric.MEAN_ACTIVATION_VARIANCE,
    "max-variance": nncf.SensitivityMetric.MAX_ACTIVATION_VARIANCE,
    "mean-magnitude": nncf.SensitivityMetric.MEAN_ACTIVATION_MAGNITUDE,
}
NNCF_ALGORITHMS = {
    "awq": ("awq",),
    "scale-estimation": ("scale_estimation",),
    "awq-scale-estimation": ("awq", "scale_estimation"),
    "gptq": ("gptq",),
    "gptq-scale-estimation": ("gptq", "scale_estimation"),
}
BACKUP = "int8_sym"
_BASES = {"i8": "int8_sym", "u8": "int8_asym", "i4": "int4_sym", "u4": "int4_asym", "u3": "int3_sym",
          "u2": "int2_sym", "nf4": "nf4", "f16": "fp16", "f32": "fp16"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """NNCF's order of a metric: weights from the least sensitive on, with their shapes."""

    metric: str
    weights: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def ratio(self, count: int) -> float:
        """The `ratio` of the public call that gives the first `count` weights the low format."""
        sizes = np.array([np.prod(shape) for shape in self.shapes], dtype=float)
        reached = np.concatenate([[0.0], np.cumsum(sizes) / sizes.sum()])
        # NNCF takes a weight while the share with it stays below the ratio, and reads 0 as 1.
        return float(reached[count] + 1e-9) if count < len(sizes) else 1.0

    def assignments(self, count: int, low: str) -> dict[str, str]:
        """What the public call with `ratio` gives: the first `count` weights in `low`, the rest in backup."""
        return {weight: low if place < count else BACKUP for place, weight in enumerate(self.weights)}

    def bytes(self, count: int, low: str) -> int:
        """Of the weights, with the first `count` in `low` and the others in the backup."""
        formats = [low] * count + [BACKUP] * (len(self.weights) - count)
        pairs = zip(self.shapes, formats, strict=True)
        return sum(stored_bytes(shape, parse_format(name)) for shape, name in pairs)

    def count(self, least: int, low: str) -> int | None:
        """The most weights in `low` that leave `least` bytes or more; None if even none of them does."""
        fitting = [n for n in range(len(self.weights) + 1) if self.bytes(n, low) >= least]
        return max(fitting, default=None)


class Chooser:
    """NNCF on one model; the graph is traced once.

    Parameters
    ----------
    loaded : LoadedModel
    ids : Tensor
        Token ids (windows, window): the text for the data-aware metrics.
    """

    def __init__(self, loaded: LoadedModel, ids: Tensor, cancel: Cancel) -> None:
        self._ids, self._cancel = ids.numpy(), cancel
        graph, states = trace(loaded.model)
        make_stateful(graph, states)
        to_fp16(graph)
        needed = 2 * sum(parameter.numel() for parameter in loaded.model.parameters())
        self._open = contextlib.ExitStack()
        folder = self._open.enter_context(temporary_folder())
        with room_for("the graph in FP16", needed, folder, FREE_TEMPORARY):
            self._path = folder / "model.xml"
            ov.save_model(graph, self._path, compress_to_fp16=False)

    def close(self) -> None:
        self._open.close()

    def order(self, metric: str) -> Order:
        """NNCF's own scores under a metric of `NNCF_METRICS`, as it sorts by them."""
        with _stopped_at_scores(metric):
            try:
                self._compressed(metric, "int4_sym_g64", 0.5)
                raise ExportError(
                    f"NNCF gave no scores of {metric}", "this version works differently", "Leave it out"
                )
            except _Scored as scored:
                parameters, scores = scored.parameters, scored.scores
        names = {node.get_friendly_name(): name for name, node in weight_constants(self._graph()).items()}
        ordered = [parameters[place] for place, _ in sorted(enumerate(scores), key=lambda pair: pair[1])]
        return Order(
            metric,
            tuple(names[p.weight_name] for p in ordered),
            tuple(tuple(p.weight_shape) for p in ordered),
        )

    def choose(self, metric: str, low: str, ratio: float) -> dict[str, str]:
        """The formats in the graph that ``compress_weights`` made with this metric and ratio."""
        return formats_in(self._compressed(metric, low, ratio))

    def same(
        self, assignments: Mapping[str, str], metric: str, low: str, ratio: float, algorithm: str
    ) -> ov.Model:
        """The graph that ``compress_weights`` makes so with one of `NNCF_ALGORITHMS`, in the same formats.

        Raises
        ------
        ExportError
            If NNCF fails, or gives other formats than without that algorithm.
        """
        title = f"NNCF's {' with '.join(NNCF_ALGORITHMS[algorithm])}"
        try:
            graph = self._compressed(metric, low, ratio, NNCF_ALGORITHMS[algorithm])
        except (RuntimeError, KeyError, IndexError, AssertionError) as error:
            why = f"{type(error).__name__}: {str(error)[:200]}"
            raise ExportError(f"{title} failed on this model", why, "It is left out") from error
        if formats_in(graph) != assignments:
            raise ExportError(f"{title} gave other formats", "it compressed other weights", "It is left out")
        return graph

    def _graph(self) -> ov.Model:
        return ov.Core().read_model(self._path)

    def _compressed(self, metric: str, low: str, ratio: float, algorithms: Sequence[str] = ()) -> ov.Model:
        self._cancel.check()
        fmt = parse_format(low)
        given: dict[str, Any] = dict.fromkeys(algorithms, True)
        by_data = NNCF_METRICS[metric] != nncf.SensitivityMetric.WEIGHT_QUANTIZATION_ERROR and ratio < 1
        if by_data or algorithms:
            given |= {"dataset": nncf.Dataset(list(self._inputs())), "subset_size": len(self._ids)}
        graph = self._graph()
        with _quiet():
            compressed: ov.Model = nncf.compress_weights(
                graph,
                mode=nncf.CompressWeightsMode[base_name(fmt).upper()],
                ratio=ratio,
                group_size=fmt.group or -1,
                all_layers=True,
                sensitivity_metric=NNCF_METRICS[metric],
                backup_mode=nncf.BackupMode[BACKUP.upper()],
                ignored_scope=nncf.IgnoredScope(names=_convolutions(graph), validate=False),
                advanced_parameters=nncf.AdvancedCompressionParameters(
                    group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
                ),
                **given,
            )
        return compressed

    def _inputs(self) -> Iterator[dict[str, Any]]:
        wanted = {port.get_any_name() for port in self._graph().inputs}
        for row in self._ids:
            places = np.arange(len(row), dtype=np.int64)[None]
            whole = {
                "input_ids": row[None],
                "attention_mask": np.ones_like(places),
                "position_ids": places,
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
            yield {name: value for name, value in whole.items() if name in wanted}


def formats_in(graph: ov.Model) -> dict[str, str]:
    """Weight to format, read from the constants of a compressed graph; convolutions are left out.

    Raises
    ------
    ExportError
        If a constant has a type or group that no format of ours has.
    """
    found = {}
    for weight, node in weight_constants(graph).items():
        if "conv" in weight.rsplit(".", 2)[-2]:
            continue
        kind = node.get_output_element_type(0).get_type_name()
        base, group = _BASES.get(kind, kind), stored_group(node)
        if base in ("fp16", "int8_sym", "int8_asym"):
            found[weight] = base
        elif base in _BASES.values() and group in (None, *GROUP_SIZES):
            found[weight] = f"{base}_{'pc' if group is None else f'g{group}'}"
        else:
            raise ExportError(
                f"{weight} came out as {kind} in groups of {group}", "no format is so", "Report"
            )
    return found


def _convolutions(graph: ov.Model) -> list[str]:
    """Operations that read a convolution's weight, which no plan of ours quantizes either."""
    return [
        target.get_node().get_friendly_name()
        for weight, node in weight_constants(graph).items()
        if "conv" in weight.rsplit(".", 2)[-2]
        for target in _readers(node)
    ]


def _readers(node: ov.Node) -> Iterator[Any]:
    """What reads a constant, past the conversions and reshapes right behind it."""
    for target in node.output(0).get_target_inputs():
        if target.get_node().get_type_name() in ("Convert", "Reshape", "Unsqueeze", "Squeeze", "Transpose"):
            yield from _readers(target.get_node())
        else:
            yield target


class _Scored(Exception):
    def __init__(self, parameters: list[Any], scores: list[float]) -> None:
        self.parameters, self.scores = parameters, scores


@contextlib.contextmanager
def _stopped_at_scores(metric: str) -> Iterator[None]:
    """NNCF goes no further than its scores: the compression itself takes most of the time."""
    criterion: type[MixedPrecisionCriterion] = MIXED_PRECISION_CRITERIA.get(NNCF_METRICS[metric])
    stock = criterion._calc_sensitivity

    def stopping(self: Any, model: Any, graph: Any, weight_params: Any, *rest: Any) -> list[float]:
        scores = stock(self, model, graph, weight_params, *rest)
        raise _Scored(list(weight_params), list(map(float, scores)))

    criterion._calc_sensitivity = stopping
    try:
        yield
    finally:
        criterion._calc_sensitivity = stock


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where its progress bars go
            yield
    finally:
        logger.setLevel(level)
