"""Constants in FP16, weights compressed by NNCF as a plan says, and the audit of what came out."""

import contextlib
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nncf
import openvino as ov
from nncf.common.factory import build_graph
from nncf.openvino.graph.model_utils import remove_friendly_name_duplicates
from nncf.openvino.optimized_functions import models
from nncf.quantization.algorithms.weight_compression import openvino_backend
from nncf.quantization.algorithms.weight_compression.algorithm import WeightCompression
from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
from nncf.quantization.algorithms.weight_compression.openvino_backend import OVWeightCompressionAlgoBackend
from openvino import opset13 as ops
from openvino._offline_transformations import compress_model_transformation

from kl_lens_desktop.errors import ExportError
from kl_lens_desktop.export.scaled import divide_inputs
from kl_lens_desktop.export.streamed import HollowWeights, piece_by_piece
from kl_lens_desktop.export.trace import COMPUTED, CONSTANT_PREFIX, all_ops
from kl_lens_desktop.export.values import found_sha256, given
from kl_lens_desktop.model.inventory import weight_name
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import Format, group_size, parse_format
from kl_lens_desktop.quant.roundings import NEAREST, KeptRounding, Roundings

_FAULT = "Report this as a bug"

_ELEMENT_TYPES = {
    "fp16": ("f16",),
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
    """What the graph holds: `checked` weights, each of the planned type and group, by format in `formats`.

    Where the audit was told what to expect, each has the very integers and scales that were measured, too.
    """

    checked: int
    formats: dict[str, int]


def to_fp16(graph: ov.Model) -> None:
    """Store the constants of a traced graph in FP16, in place, and those marked as `COMPUTED` in FP32.

    Checkpoints hold 16 bits; what was made from them, or from none, needs more. The position multiplies the
    error of a frequency of rotary embeddings: in FP16 the key of a token 5,000 positions back would be turned
    by up to a radian.
    """
    kept = [
        (op.output(0).get_target_inputs(), ops.constant(op.data.copy()))
        for op in all_ops(graph)
        if COMPUTED in op.get_rt_info()
    ]
    with _hidden(graph):
        compress_model_transformation(graph)
    for ports, constant in kept:
        for port in ports:
            port.replace_source_output(constant.output(0))


@contextlib.contextmanager
def _hidden(graph: ov.Model) -> Iterator[None]:
    """Inputs of the graph in place of the weights of a hollow one, which have their form already.

    OpenVINO leaves a graph alone in which some constant has it.
    """
    weights = [
        op
        for op in graph.get_ops()
        if op.get_type_name() == "Convert" and op.get_friendly_name().startswith(CONSTANT_PREFIX)
    ]
    inputs = [ops.parameter(op.output(0).get_shape(), op.output(0).get_element_type()) for op in weights]
    for weight, stand_in in zip(weights, inputs, strict=True):
        weight.output(0).replace(stand_in.output(0))
    graph.add_parameters(inputs)
    yield
    for weight, stand_in in zip(weights, inputs, strict=True):
        stand_in.output(0).replace(weight.output(0))
        graph.remove_parameter(stand_in)


def compress(
    graph: ov.Model,
    assignments: Mapping[str, str],
    cancel: Cancel,
    weights: HollowWeights | None = None,
    roundings: Roundings = NEAREST,
) -> None:
    """Compress the weights of a graph in place, each by its own format, in one pass of NNCF.

    Parameters
    ----------
    assignments : mapping of str to str
        Weight to format; those that are not in it stay in FP16.
    weights : HollowWeights, optional
        Those of a hollow graph, which then has all of them.
    roundings : Roundings
        Where it keeps a weight's integers, these are stored; NNCF rounds the others.

    Notes
    -----
    NNCF has no public per-weight precision map, and one public call per format stumbles over types of an
    earlier call (3.4 cannot read ``u3`` back). So its own algorithm lists the weights, their configurations
    are set from the plan, and its own code rounds, packs and rewires them. `audit` checks the outcome.
    """
    remove_friendly_name_duplicates(graph)
    nncf_graph = build_graph(graph)
    algorithm = WeightCompression(
        mode=nncf.CompressWeightsMode.INT8_SYM,
        ratio=1.0,
        group_size=-1,
        ignored_scope=nncf.IgnoredScope(),
        all_layers=True,
        sensitivity_metric=nncf.SensitivityMetric.WEIGHT_QUANTIZATION_ERROR,
        awq=False,
        subset_size=1,
        scale_estimation=False,
        gptq=False,
        lora_correction=False,
        backup_mode=nncf.BackupMode.INT8_SYM,
    )
    algorithm.set_backend_entity(graph)
    listed, _, _ = algorithm.get_weight_compression_parameters(graph, nncf_graph)
    names = {constant.get_friendly_name(): weight for weight, constant in weight_constants(graph).items()}
    planned = []
    for parameters in listed:
        fmt = parse_format(assignments.get(names.get(parameters.weight_name, ""), "fp16"))
        if fmt.scheme != "fp16":
            channels = parameters.weight_shape[-1]
            size = group_size(fmt, channels)
            mode = nncf.CompressWeightsMode[base_name(fmt).upper()]
            parameters.compression_config = WeightCompressionConfig(mode, -1 if size == channels else size)
            planned.append(parameters)
    # Larger weights first, as NNCF does: the peak of memory is then at the start, while little else is held.
    planned.sort(key=lambda parameters: int(parameters.num_weights), reverse=True)
    backend = OVWeightCompressionAlgoBackend(graph)
    pairs = [(names[parameters.weight_name], parameters) for parameters in planned]
    kept = {
        name: change
        for name, change in roundings.changes(assignments).items()
        if isinstance(change, KeptRounding)
    }
    with _rounding_compiled_once(), contextlib.closing(_taken(pairs, weights, kept, cancel)) as taken:
        backend.transform_model(graph, nncf_graph, taken)
    if weights:
        fill(graph, weights, weights.tensors.keys() - dict(pairs).keys(), cancel)
    powers = {name: found.numpy() for name, each in kept.items() if (found := each.exponents) is not None}
    if powers:
        divide_inputs(graph, weight_constants(graph), powers)


def _taken(
    pairs: Iterable[tuple[str, Any]],
    weights: HollowWeights | None,
    kept: Mapping[str, KeptRounding],
    cancel: Cancel,
) -> Generator[Any]:
    """NNCF's parameters of one weight after the other, its values at hand while NNCF works on it."""
    for name, parameters in pairs:
        cancel.check()
        with contextlib.ExitStack() as stack:
            if weights:
                stack.enter_context(piece_by_piece(weights, name, cancel))
            if name in kept:
                stack.enter_context(_as_kept(kept[name], cancel))
            yield parameters


@contextlib.contextmanager
def _as_kept(kept: KeptRounding, cancel: Cancel) -> Iterator[None]:
    """Let NNCF store integers that are kept, where it would round."""
    stock = openvino_backend.compress_weight
    openvino_backend.compress_weight = lambda *_, **__: given(kept, cancel)
    try:
        yield
    finally:
        openvino_backend.compress_weight = stock


def fill(graph: ov.Model, weights: HollowWeights, names: Collection[str], cancel: Cancel) -> None:
    """Give a hollow graph some of its weights, in FP16."""
    for name, hollow in weight_constants(graph).items():
        if name in names:
            constant = weights.constant(name, cancel)
            constant.set_friendly_name(hollow.get_friendly_name())
            hollow.output(0).replace(constant.output(0))


def audit(
    graph: ov.Model, assignments: Mapping[str, str], expected: Mapping[str, str] | None = None
) -> Audit:
    """Compare every weight constant with the plan.

    Parameters
    ----------
    expected : mapping of str to str, optional
        What `values.expected_sha256` says of the integers and scales of each weight.

    Raises
    ------
    ExportError
        Naming the first weight whose element type, group, integers or scales differ, or that is absent.
    """
    nodes = {op.get_friendly_name(): op for op in graph.get_ops() if op.get_type_name() == "Constant"}
    constants = weight_constants(graph)
    counts: Counter[str] = Counter()
    for weight, name in assignments.items():
        fmt = parse_format(name)
        constant = _constant(constants, weight)
        found = constant.get_output_element_type(0).get_type_name()
        if found not in _ELEMENT_TYPES[base_name(fmt)]:
            raise ExportError(f"{weight} was exported as {found}", f"the plan says {fmt.label}", _FAULT)
        shape, stored = list(constant.get_output_shape(0)), stored_group(constant)
        channels = shape[-2] * stored if stored else shape[-1]
        size = stored or channels
        if fmt.scheme != "fp16" and size != group_size(fmt, channels):
            raise ExportError(
                f"{weight} was exported in groups of {size}", f"the plan says {fmt.label}", _FAULT
            )
        if fmt.scheme != "fp16" and expected is not None:
            own = constant.get_friendly_name()
            parts = ("", "/scale", "/zero_point") if fmt.has_zero_point else ("", "/scale")
            if found_sha256([nodes[own + part] for part in parts]) != expected[weight]:
                why = "what was measured has others"
                raise ExportError(f"{weight} was exported with other integers or scales", why, _FAULT)
        counts[name] += 1
    return Audit(sum(counts.values()), dict(sorted(counts.items())))


def weight_constants(graph: ov.Model) -> dict[str, ov.Node]:
    """The constants of a graph by what inventories call the weight (`model.inventory.weight_name`)."""
    named = {}
    for op in graph.get_ops():
        if op.get_type_name() == "Constant" and (parameter := _parameter(op)):
            name = weight_name(parameter)
            if name.endswith(".weight"):
                named[name] = op
    return named


def stored_group(constant: ov.Node) -> int | None:
    """Elements that share a scale, where the last axis of a weight is stored in groups."""
    parameter, shape = _parameter(constant), list(constant.get_output_shape(0))
    is_stack = weight_name(parameter) != parameter
    return shape[-1] if len(shape) == (4 if is_stack else 3) else None


def base_name(fmt: Format) -> str:
    """The format without its group: NNCF's mode in lower case."""
    return fmt.name if fmt.scheme == "fp16" or fmt.bits == 8 else fmt.name.rsplit("_", 1)[0]


def _parameter(constant: ov.Node) -> str:
    """The state-dict name it had in torch; empty if it is no parameter."""
    name = str(constant.get_friendly_name())
    if not name.startswith(CONSTANT_PREFIX):
        return ""
    return name.removeprefix(CONSTANT_PREFIX).removesuffix("_compressed")


def _constant(constants: Mapping[str, ov.Node], weight: str) -> ov.Node:
    try:
        return constants[weight]
    except KeyError as error:
        raise ExportError(
            f"{weight} is not in the exported graph",
            "the plan names a weight that the model does not use",
            "Make a new plan for this model",
        ) from error


@contextlib.contextmanager
def _rounding_compiled_once() -> Iterator[None]:
    """NNCF compiles a small OpenVINO graph for every weight anew: half the time of a compression.

    Its own cache of them would not do, for results stay in the memory of the one request that made them.
    """
    stock, compiled = models._compile_ov_model, dict[tuple[Any, ...], ov.CompiledModel]()

    def compile_once(model: ov.Model, device_name: str, config: dict[str, str]) -> ov.CompiledModel:
        key = _structure(model), device_name, repr(config)
        if key not in compiled:
            compiled[key] = stock(model, device_name, config)
        return ov.CompiledModel(compiled[key])  # with a request, so results, of its own

    models._compile_ov_model = compile_once
    try:
        yield
    finally:
        models._compile_ov_model = stock


def _structure(model: ov.Model) -> tuple[Any, ...]:
    """All that a graph computes, without the names of its nodes."""
    ops = model.get_ordered_ops()
    place = {op.get_friendly_name(): index for index, op in enumerate(ops)}
    return tuple(
        (
            op.get_type_name(),
            repr(op.get_attributes()),
            repr([output.get_partial_shape() for output in op.outputs()]),
            tuple(
                (place[value.get_node().get_friendly_name()], value.get_index())
                for value in op.input_values()
            ),
            op.data.tobytes() if op.get_type_name() == "Constant" else b"",
        )
        for op in ops
    )
