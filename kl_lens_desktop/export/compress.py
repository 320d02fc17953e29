"""Weights compressed by NNCF as a plan says, one pass per kind of format, and the audit of what came out."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import nncf
import openvino as ov

from kl_lens_desktop.errors import ExportError
from kl_lens_desktop.export.trace import MODEL_ATTRIBUTE
from kl_lens_desktop.quant.formats import Format, group_size, parse_format

_ELEMENT_TYPES = {
    "fp16": ("f16", "f32"),  # saving rounds to f16
    "int8_sym": ("i8",),
    "int8_asym": ("u8",),
    "int4_sym": ("i4",),
    "int4_asym": ("u4",),
    "int3_sym": ("u3",),
    "int2_sym": ("u2",),
    "nf4": ("nf4",),
}


@dataclass(frozen=True, slots=True)
class Audit:
    """What the graph holds: `checked` weights, each of the planned type and group, by format in `formats`."""

    checked: int
    formats: dict[str, int]


def compress(graph: ov.Model, assignments: Mapping[str, str]) -> Iterator[str]:
    """Compress the weights of a graph in place, yielding the label of each format as its turn comes.

    NNCF has no per-weight precision map: each pass compresses the weights of one mode and group size and
    ignores all other operations by name; weights that an earlier pass made integers are skipped by a later
    one.
    """
    nncf.set_log_level(logging.ERROR)
    constants = weight_constants(graph)
    passes: dict[tuple[str, int], list[str]] = defaultdict(list)
    for weight, name in assignments.items():
        fmt = parse_format(name)
        if fmt.scheme != "fp16":
            channels = _constant(constants, weight).get_output_shape(0)[-1]
            size = group_size(fmt, channels)
            passes[base_name(fmt), -1 if size == channels else size].append(weight)
    for (base, size), weights in sorted(passes.items()):
        yield f"{base.upper().replace('_', ' ')}{'' if size < 0 else f' g{size}'}"
        targets = {name for weight in weights for name in _consumers(_constant(constants, weight))}
        # A constant named here would be ignored itself, so only the operations that compute are.
        computing = (op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() != "Constant")
        others = [name for name in computing if name not in targets]
        options = {} if base.startswith("int8") else {"group_size": size, "all_layers": True, "ratio": 1.0}
        nncf.compress_weights(
            graph,
            mode=getattr(nncf.CompressWeightsMode, base.upper()),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            **options,
        )
        constants = weight_constants(graph)


def audit(graph: ov.Model, assignments: Mapping[str, str]) -> Audit:
    """Compare every weight constant with the plan.

    Raises
    ------
    ExportError
        Naming the first weight whose element type or group differs from the plan, or that is absent.
    """
    constants = weight_constants(graph)
    counts: Counter[str] = Counter()
    for weight, name in assignments.items():
        fmt = parse_format(name)
        constant = _constant(constants, weight)
        found = constant.get_output_element_type(0).get_type_name()
        shape = list(constant.get_output_shape(0))
        if found not in _ELEMENT_TYPES[base_name(fmt)]:
            raise ExportError(
                f"{weight} came out as {found}", f"the plan says {fmt.label}", "Report this as a fault"
            )
        grouped = fmt.group is not None and group_size(fmt, _channels(shape, fmt)) != _channels(shape, fmt)
        if grouped and shape[-1] != group_size(fmt, _channels(shape, fmt)):
            raise ExportError(
                f"{weight} came out with groups of {shape[-1]}",
                f"the plan says {fmt.label}",
                "Report this as a fault",
            )
        counts[name] += 1
    return Audit(sum(counts.values()), dict(sorted(counts.items())))


def weight_constants(graph: ov.Model) -> dict[str, ov.Node]:
    """The constants of a graph by the state-dict name they had in torch."""
    prefix = f"self.{MODEL_ATTRIBUTE}."
    named = {}
    for op in graph.get_ops():
        name = op.get_friendly_name().removesuffix("_compressed")
        if op.get_type_name() == "Constant" and name.startswith(prefix) and name.endswith(".weight"):
            named[name.removeprefix(prefix)] = op
    return named


def base_name(fmt: Format) -> str:
    """The format without its group: NNCF's mode in lower case."""
    return fmt.name if fmt.scheme == "fp16" or fmt.bits == 8 else fmt.name.rsplit("_", 1)[0]


def _channels(shape: list[int], fmt: Format) -> int:
    """Input channels of a weight constant, whose last two axes are groups and group where it is grouped."""
    return shape[-1] * shape[-2] if len(shape) == 3 and fmt.scheme != "fp16" else shape[-1]


def _constant(constants: Mapping[str, ov.Node], weight: str) -> ov.Node:
    try:
        return constants[weight]
    except KeyError as error:
        raise ExportError(
            f"{weight} is not in the exported graph",
            "the plan names a weight that the model does not use",
            "Make the plan again for this model",
        ) from error


def _consumers(constant: ov.Node) -> set[str]:
    """Names of the operations that compute with a constant, looking through conversions."""
    names, edge = set(), [constant]
    while edge:
        node = edge.pop()
        for port in node.output(0).get_target_inputs():
            consumer = port.get_node()
            if consumer.get_type_name() in ("Convert", "Reshape", "Transpose"):
                edge.append(consumer)
            else:
                names.add(consumer.get_friendly_name())
    return names
