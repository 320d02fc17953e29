"""Whether a model fits this computer, before any work: memory and disk by stage. Needs no torch."""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil

from kl_lens_desktop.disk_space import free_bytes
from kl_lens_desktop.errors import KLLensError

_MB = 2**20
# Resident set of a worker with its libraries loaded and no model, measured on Linux with the pinned versions.
_TORCH_MB, _EXPORT_MB, _OPENVINO_MB = 450, 700, 250
_ANALYSIS_SLICES_MB = 800  # logits in slices and the kept full-precision ones (`sensitivity.walk`)


@dataclass(frozen=True, slots=True)
class StageNeed:
    """What a stage needs at its peak, in MB (2**20 bytes): resident memory, and new disk space."""

    stage: str
    ram_mb: int
    disk_mb: int


def memory_mb(model: str, stage: str) -> int | None:
    """What a stage needs at its peak for a model that is on this computer; None if it cannot be told."""
    from kl_lens_desktop.hub.resolve import resolve_model
    from kl_lens_desktop.model.checkpoint import weight_files

    try:
        files = weight_files(resolve_model(model).folder)
        needs = stage_needs(_parameters(files), sum(file.stat().st_size for file in files))
    except (KLLensError, OSError):
        return None
    return next(need.ram_mb for need in needs if need.stage == stage)


def fits(need: StageNeed, folder: Path) -> str:
    """``yes``, or what this computer lacks for a stage that writes into `folder`."""
    if need.ram_mb * _MB > psutil.virtual_memory().total:
        return "not enough memory"
    return "not enough disk" if need.disk_mb * _MB > free_bytes(folder) else "yes"


def _parameters(files: list[Path]) -> int:
    from safetensors import safe_open

    count = 0
    for file in files:
        with safe_open(file, "numpy") as opened:
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return count


def stage_needs(parameters: int, checkpoint_bytes: int) -> list[StageNeed]:
    """Estimates from the number of parameters.

    Analysis holds one float32 copy. Export holds one, and the graph another while NNCF and the file writer
    work on it. A benchmark holds the FP16 variant and, while compiling, the layout the device wants.
    """
    full, half = 4 * parameters // _MB, 2 * parameters // _MB
    return [
        StageNeed("download", 100, checkpoint_bytes // _MB),
        StageNeed("analyze", full + _TORCH_MB + _ANALYSIS_SLICES_MB, 1),
        StageNeed("export", 2 * full + _EXPORT_MB, half),
        StageNeed("bench", full + half + _OPENVINO_MB, 1),
    ]
