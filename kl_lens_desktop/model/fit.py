"""Whether a model fits this computer, before any work: memory and disk by stage. Needs no torch."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kl_lens_desktop.disk_space import free_bytes
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.model.checkpoint import tensor_shapes
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Note
from kl_lens_desktop.quant.formats import DEFAULT_BITS
from kl_lens_desktop.quantities import size
from kl_lens_desktop.repository.model_files import CONFIG, model_files, read_object
from kl_lens_desktop.repository.text_part import is_for_seeing

BENCH_FP16 = "bench-fp16"  # in the list of stages; its row of a benchmark fails alone
_MB = 2**20
# Resident set of a worker with its libraries loaded and no model, measured on Linux with the pinned versions.
_TORCH_MB, _EXPORT_MB, _OPENVINO_MB = 450, 700, 250
_ANALYSIS_SLICES_MB = 800  # logits in slices and the kept full-precision ones (`sensitivity.walk`)
# Of a stage whose weights stay on disk (`model.by_block`, `sensitivity.stream`, `sensitivity.disk_lanes`), in
# elements: hidden states; a block's experts; full-precision logits that are kept; logits of compared models,
# which they scale in a copy; weights of single lanes; what a block computes, for each row of its weights and
# token that passes it, and in all lanes.
_STATES, _EXPERTS, _KEPT, _LOGITS, _OWN = 2**25, 3 * 2**27, 2**26, 2**25, 2**26
_COMPUTED, _IN_LANES = 8, 2**28
_TOKENS = 256  # that pass a block at a time
_MEASURING = ("analyze", "verify")  # the stages that can leave the weights on disk
# Of an export (`export.proof`): tokens of the prompt; elements of the largest graph compiled whole, of
# others half as many at a time; bytes for each while it is compiled, and while the model answers.
_PROMPT, _WHOLE, _COMPILED, _ANSWERING = 296, 2**28, 5, 5
_KEPT_INTEGERS = 0.85  # bytes for a parameter: a format of four bits for all, fewer bits for some
_HEAD = 2**24  # elements at a time (`by_block.HEAD_ELEMENTS`)
# Of rounding by data: bytes for each element of a matrix of as many rows and columns as a weight has inputs,
# for the second moments to fit to and to judge by, and for what `quant.gptq.curvature` makes of one; also
# bytes for each element of a weight, for its integers in parts and joined.
_MOMENTS, _CURVATURE, _INTEGERS = 8, 15, 4
# And bytes for each element of the rows that a thread rounds at a time, which are so many, and elements.
_FITTING, _FITTED_ROWS, _FITTED = 48, 2**10, 2**21
_ALIKE = 3  # different inputs of one width that a block has, at most
HELD_ELEMENTS = 2**26  # of moments and curvatures that are kept for the next time, 256 MB
FITTED_TOKENS = 10_240  # of the text (`text.windows`), for which the inputs of experts are kept
# What configurations call how many experts of a layer a token passes.
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token")
_SPARE = 0.9  # of the free memory is what a stage may plan with
_BLOCK = re.compile(r".*?\.(\d+)\.(.*)")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a model and its parts are.

    Attributes
    ----------
    parameters : int
    block, experts : int
        Parameters of the largest block without its experts, and of the most experts that a block has.
    rows : int
        Rows of all matrices of the largest block without its experts.
    vocabulary : int
        Rows of the embedding.
    largest : int
        Parameters of the largest weight; experts of a layer are two.
    widest : int
        The most inputs that a matrix has.
    inputs : int
        Sum of the squares of the widths of the inputs that a block has, at most.
    expert_inputs : int
        Elements of what the experts of a block are given for one token.
    """

    parameters: int
    block: int
    experts: int
    rows: int
    vocabulary: int
    largest: int
    widest: int
    inputs: int
    expert_inputs: int = 0

    @property
    def rounding_mb(self) -> int:
        """What rounding by data takes at its peak, beside the weights."""
        curvature = _CURVATURE * self.widest**2
        rounded = curvature // 2 + _INTEGERS * self.largest + usable_cores() * thread_bytes(self.widest)
        of_experts = 4 * (FITTED_TOKENS * self.expert_inputs + HELD_ELEMENTS) if self.expert_inputs else 0
        return (_MOMENTS * self.inputs + of_experts + max(curvature, rounded)) // _MB

    @property
    def on_disk_mb(self) -> int:
        """At the peak of a stage that has the weights of one block in memory."""
        logits, computed = _TOKENS * self.vocabulary, _COMPUTED * _TOKENS * self.rows
        lanes = max(1, min(usable_cores(), _IN_LANES // max(computed, 1)))
        shared = self.block + min(self.experts, _EXPERTS) + _STATES
        elements = min(logits, _KEPT) + 2 * min(lanes * logits, _LOGITS)
        elements += lanes * (computed + min(self.largest, _HEAD)) + min(lanes * self.block // 2, _OWN)
        rounding = 4 * computed // _MB + self.rounding_mb
        return _TORCH_MB + 4 * shared // _MB + max(4 * elements // _MB, rounding)

    @property
    def export_mb(self) -> int:
        """At the peak of an export: the model answers, or OpenVINO compiles its graph or a piece of it."""
        answers = self.block + min(self.experts, _EXPERTS)
        answers += _PROMPT * (self.vocabulary + _COMPUTED * self.rows) + min(self.largest, _HEAD)
        piece = self.parameters if self.parameters <= _WHOLE else max(_WHOLE // 2, self.largest)
        return _EXPORT_MB + max(_ANSWERING * answers, _COMPILED * piece) // _MB


@dataclass(frozen=True, slots=True)
class StageNeed:
    """What a stage needs at its peak, in MB (2**20 bytes): resident memory, and new disk space."""

    stage: str
    ram_mb: int
    disk_mb: int


def sizes_of(shapes: Mapping[str, tuple[int, ...]], chosen: int = 0) -> Sizes:
    """The sizes of a model by the shapes of its tensors; a token passes `chosen` experts of a layer."""
    blocks: dict[str, list[int]] = {}
    widths: dict[str, list[int]] = {}
    of_experts: dict[str, set[int]] = {}
    vocabulary = largest = widest = 0
    for name, shape in shapes.items():
        place = _BLOCK.fullmatch(name)
        largest = max(largest, math.prod(shape))
        is_stack = len(shape) == 3 and shape[1] > 1  # a convolution has a single channel there
        widest = max(widest, shape[-1] if len(shape) == 2 or is_stack else 0)
        if place is None:
            vocabulary = max(vocabulary, shape[0] if len(shape) == 2 else 0)
            continue
        parts = blocks.setdefault(place[1], [0, 0, 0])
        if ".experts." in name or is_stack:
            parts[1] += math.prod(shape)
            of_experts.setdefault(place[1], set()).add(shape[-1])
        else:
            parts[0] += math.prod(shape)
            parts[2] += shape[0] if len(shape) == 2 else 0
            widths.setdefault(place[1], []).extend(shape[1:] if len(shape) == 2 else ())
    block, experts, rows = (max((parts[at] for parts in blocks.values()), default=0) for at in range(3))
    # Of the two weights that the experts of a layer make, one may have twice the parameters of the other.
    largest = max(largest, 2 * experts // 3)
    inputs = max((_different(each) for each in widths.values()), default=0)
    given = chosen * max(map(sum, of_experts.values()), default=0)
    parameters = sum(map(math.prod, shapes.values()))
    return Sizes(parameters, block, experts, rows, vocabulary, largest, widest, max(inputs, widest**2), given)


def _different(widths: Sequence[int]) -> int:
    """The squares of the widths of a block's matrices, of which some have the same inputs, added up."""
    return sum(width**2 * min(widths.count(width), _ALIKE) for width in set(widths))


def folder_sizes(folder: Path) -> Sizes:
    """The sizes of the model in a folder, from its config.json and the headers of its files.

    Raises
    ------
    ModelError
        If `checkpoint.tensor_shapes` or `model_files.read_object` refuses them.
    """
    files = model_files(folder)
    shapes = tensor_shapes(files)
    return sizes_of(
        {name: shape for name, shape in shapes.items() if not is_for_seeing(name)},
        _experts_chosen(read_object(folder / CONFIG)),
    )


def _experts_chosen(config: Mapping[str, Any]) -> int:
    """How many experts of a layer a token passes, as a model's configuration or its text part says."""
    part = config.get("text_config")
    both = [config, part] if isinstance(part, dict) else [config]
    counts = [found.get(name) for found in both for name in _CHOSEN]
    return max((count for count in counts if isinstance(count, int)), default=0)


def memory_mb(model: str, stage: str) -> int | None:
    """What a stage takes at its peak for a model that is on this computer; None if it cannot be told."""
    from kl_lens_desktop.hub.resolve import resolve_model

    try:
        sizes = folder_sizes(resolve_model(model).folder)
    except (KLLensError, OSError):
        return None
    if stage in _MEASURING and not too_large(sizes, stage):
        return in_memory_mb(sizes, stage)
    return next(need.ram_mb for need in stage_needs(sizes.parameters, 0, sizes) if need.stage == stage)


def in_memory_mb(sizes: Sizes, stage: str) -> int:
    """At the peak of a stage that has all weights in memory, in float32."""
    # A whole plan is measured with its rounded weights beside the others.
    copies = 1 if stage == "analyze" else 2
    beside = max(_ANALYSIS_SLICES_MB, sizes.rounding_mb)
    return copies * 4 * sizes.parameters // _MB + _TORCH_MB + beside


def rounding_bytes(channels: int, threads: int | None = None) -> int:
    """What rounding by data takes at its peak for weights that share so many inputs, beside these weights.

    `threads` round them: as many as there are cores, unless it is said.
    """
    at_work = usable_cores() if threads is None else threads
    return (_MOMENTS + _CURVATURE) * channels**2 + at_work * thread_bytes(channels)


def thread_bytes(channels: int) -> int:
    """What a thread takes that rounds rows of so many elements (`quant.gptq.pieces`)."""
    return _FITTING * min(_FITTED, _FITTED_ROWS * channels)


def fits(need: StageNeed, folder: Path) -> str:
    """``yes``, or what this computer lacks for a stage that writes into `folder`."""
    if need.ram_mb * _MB > psutil.virtual_memory().total:
        return "not enough memory"
    return "not enough disk" if need.disk_mb * _MB > free_bytes(folder) else "yes"


def free_mb() -> int:
    return int(psutil.virtual_memory().available) // _MB


def too_large(sizes: Sizes, stage: str) -> Note | None:
    """What is said where the weights have to stay on disk; None where the free memory takes them."""
    needed, free = in_memory_mb(sizes, stage), free_mb()
    if needed <= _SPARE * free:
        return None
    return Note(
        f"With all weights in memory, this takes {size(needed * _MB)}, and {size(free * _MB)} is free. "
        "The weights stay on disk, and each block is read when it is needed"
    )


def stage_needs(parameters: int, checkpoint_bytes: int, sizes: Sizes | None = None) -> list[StageNeed]:
    """Estimates from the number of parameters and, where they are known, the sizes of the parts.

    An analysis that rounds by the data keeps its integers, and writes them anew when there are more. Where
    analysis and verification cannot have all weights in memory, they have those of one block. Both may round
    by data, which takes much for weights with many inputs. An export has one block in memory always; it
    writes its weights twice, at most in FP16. A benchmark holds a variant and, while compiling, the layout
    the device wants: of FP16 that is float32. Where FP16 does not fit, the others are measured all the same.
    """
    sizes = sizes or _usual_sizes(parameters)
    full, half = 4 * parameters // _MB, 2 * parameters // _MB
    planned = int(DEFAULT_BITS * parameters / 8) // _MB
    return [
        StageNeed("download", 100, checkpoint_bytes // _MB),
        *(
            StageNeed(stage, min(in_memory_mb(sizes, stage), sizes.on_disk_mb), disk)
            for stage, disk in zip(_MEASURING, (2 * integers_bytes(parameters) // _MB, 1), strict=True)
        ),
        StageNeed("export", sizes.export_mb, 2 * half),
        StageNeed("bench", 2 * planned + _OPENVINO_MB, 1),
        StageNeed(BENCH_FP16, full + half + _OPENVINO_MB, 1),
    ]


def integers_bytes(parameters: int) -> int:
    """Of the integers that rounding by the data keeps, for all formats of the usual menu."""
    return int(_KEPT_INTEGERS * parameters)


def _usual_sizes(parameters: int) -> Sizes:
    """Of a model without experts of which nothing else is known."""
    widest = math.isqrt(parameters // 40)
    block, rows, largest = parameters // 24, parameters // 24 // 2048, parameters // 12
    return Sizes(parameters, block, 0, rows, 2**17, largest, widest, widest**2)
