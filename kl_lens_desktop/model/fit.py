"""Whether a model fits this computer, before any work: memory and disk by stage. Needs no torch."""

from dataclasses import dataclass

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
