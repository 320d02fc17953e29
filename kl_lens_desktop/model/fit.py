"""Whether a model fits this computer, before any work: memory and disk by stage. Needs no torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from kl_lens_desktop.disk_space import free_bytes
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.model.checkpoint import tensor_shapes
from kl_lens_desktop.process.events import Note
from kl_lens_desktop.quantities import size
from kl_lens_desktop.repository.model_files import model_files

_MB = 2**20
# Resident set of a worker with its libraries loaded and no model, measured on Linux with the pinned versions.
_TORCH_MB, _EXPORT_MB, _OPENVINO_MB = 450, 700, 250
_ANALYSIS_SLICES_MB = 800  # logits in slices and the kept full-precision ones (`sensitivity.walk`)
_STREAM_MB = 700  # hidden states, a part of the head, and what a block computes (`sensitivity.stream`)
_EXPERTS = 2**28  # of a block that are in memory at a time (`by_block.EXPERT_ELEMENTS`)
_LOGITS = 2**26  # full-precision ones that are kept, and twice as many of a compared model
_SPARE = 0.9  # of the free memory is what a stage may plan with
_BLOCK = re.compile(r".*?\.(\d+)\.(.*)")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a model and its parts are, in elements.

    Attributes
    ----------
    parameters : int
    block, experts : int
        The largest block without its experts, and the most experts of a block.
    vocabulary : int
        Rows of the embedding.
    """

    parameters: int
    block: int
    experts: int
    vocabulary: int

    @property
    def streamed_mb(self) -> int:
        """At the peak of a stage that has the weights of one block in memory."""
        widened = self.block + min(self.experts, _EXPERTS)
        logits = min(256 * self.vocabulary, _LOGITS) + _LOGITS
        return _TORCH_MB + _STREAM_MB + 4 * (widened + logits) // _MB


@dataclass(frozen=True, slots=True)
class StageNeed:
    """What a stage needs at its peak, in MB (2**20 bytes): resident memory, and new disk space."""

    stage: str
    ram_mb: int
    disk_mb: int


def sizes_of(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """The sizes of a model by the shapes of its tensors."""
    blocks: dict[tuple[str, bool], int] = {}
    for name, shape in shapes.items():
        if block := _BLOCK.fullmatch(name):
            key = block[1], ".experts." in name or "block_sparse_moe.input" in name
            blocks[key] = blocks.get(key, 0) + math.prod(shape)
    largest = {
        of_experts: max((count for (_, kind), count in blocks.items() if kind == of_experts), default=0)
        for of_experts in (False, True)
    }
    outside = [shape for name, shape in shapes.items() if not _BLOCK.fullmatch(name)]
    vocabulary = max((shape[0] for shape in outside if len(shape) == 2), default=0)
    return Sizes(sum(map(math.prod, shapes.values())), largest[False], largest[True], vocabulary)


def folder_sizes(folder: Path) -> Sizes:
    """The sizes of the model in a folder, from the headers of its files.

    Raises
    ------
    ModelError
        If `checkpoint.tensor_shapes` refuses them.
    """
    return sizes_of(tensor_shapes(model_files(folder)))


def memory_mb(model: str, stage: str) -> int | None:
    """What a stage needs at its peak for a model that is on this computer; None if it cannot be told."""
    from kl_lens_desktop.hub.resolve import resolve_model

    try:
        sizes = folder_sizes(resolve_model(model).folder)
    except (KLLensError, OSError):
        return None
    return next(need.ram_mb for need in stage_needs(sizes.parameters, 0, sizes) if need.stage == stage)


def in_memory_mb(sizes: Sizes, stage: str) -> int:
    """At the peak of a stage that has all weights in memory, in float32."""
    # A whole plan is measured with its rounded weights beside the others.
    copies = 1 if stage == "analyze" else 2
    return copies * 4 * sizes.parameters // _MB + _TORCH_MB + _ANALYSIS_SLICES_MB


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
        f"In memory, the weights would take {size(needed * _MB)}, and {size(free * _MB)} is free. "
        "They stay on disk, and each block is read when it is computed"
    )


def stage_needs(parameters: int, checkpoint_bytes: int, sizes: Sizes | None = None) -> list[StageNeed]:
    """Estimates from the number of parameters and, where they are known, the sizes of the parts.

    Where analysis and verification cannot have all weights in memory, they have those of one block. Export
    holds one float32 copy, and the graph another while NNCF and the file writer work on it. A benchmark holds
    the FP16 variant and, while compiling, the layout the device wants.
    """
    sizes = sizes or _usual_sizes(parameters)
    full, half = 4 * parameters // _MB, 2 * parameters // _MB
    return [
        StageNeed("download", 100, checkpoint_bytes // _MB),
        *(
            StageNeed(stage, min(in_memory_mb(sizes, stage), sizes.streamed_mb), 1)
            for stage in ("analyze", "verify")
        ),
        StageNeed("export", 2 * full + _EXPORT_MB, half),
        StageNeed("bench", full + half + _OPENVINO_MB, 1),
    ]


def _usual_sizes(parameters: int) -> Sizes:
    """Of a model without experts of which nothing else is known."""
    return Sizes(parameters, parameters // 24, 0, 2**17)
