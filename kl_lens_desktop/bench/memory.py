"""How much memory a run took, each figure for what it is; they overlap and are never summed."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from kl_lens_desktop.bench.devices import device_properties
from kl_lens_desktop.process.memory import private_bytes

_LIMIT_SHARE = 0.9  # of what is free when a process starts; beyond it the computer would swap
# Models stay loaded beside one another if they are expected to take no more of what is free: twice the
# weights, which a plugin may lay out anew, and the libraries' own.
_TOGETHER_SHARE, _WEIGHTS_FACTOR, _LIBRARIES_MB = 0.7, 2.0, 400.0
# Of the file of its weights, what a graph takes on a CPU that computes in f32: measured, 2.1 in FP16 and less
# in every other format.
_F32_FACTOR = 2.2


def peak_rss_mb() -> float | None:
    """Largest resident set size of this process so far as the system counts it, in MB (2**20 bytes).

    It includes the pages of memory-mapped weights. None where the system keeps no such count per program;
    then the parent's samples are all there is.
    """
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    if sys.platform == "linux":
        # VmHWM, not getrusage: ru_maxrss survives exec and starts at the parent's size
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None


def private_mb() -> float:
    """Memory of this process now that the system cannot drop, in MB: without pages of mapped files."""
    return private_bytes(psutil.Process().memory_info()) / 2**20


def limit_mb() -> float:
    """Private memory that a process started now may take, in MB."""
    return _LIMIT_SHARE * float(psutil.virtual_memory().available) / 2**20


def fit_together(weights: Iterable[int]) -> bool:
    """Whether models whose weights take so many bytes each may stay loaded while one of them works."""
    needed_mb = sum(_WEIGHTS_FACTOR * size / 2**20 + _LIBRARIES_MB for size in weights)
    return needed_mb <= _TOGETHER_SHARE * float(psutil.virtual_memory().available) / 2**20


def holds(weights: int) -> bool:
    """Whether a graph with so many bytes of weights may be loaded on the CPU in f32, as things are now."""
    needed_mb = _F32_FACTOR * weights / 2**20 + _LIBRARIES_MB
    return needed_mb <= _TOGETHER_SHARE * float(psutil.virtual_memory().available) / 2**20


def system_used_mb() -> float:
    """Memory in use on the whole computer, in MB: where an integrated GPU's buffers show up too."""
    return float(psutil.virtual_memory().used) / 2**20


def device_memory_mb(core: Any, device: str) -> dict[str, float] | None:
    """What is allocated on a GPU or NPU now, in MB by kind of allocation; None where OpenVINO does not tell.

    Of a GPU, what this process allocated (GPU_MEMORY_STATISTICS, the same from every Core); of an NPU, one
    kind, ``allocated`` (NPU_DEVICE_ALLOC_MEM_SIZE).
    """
    wanted = {"kinds": "GPU_MEMORY_STATISTICS", "allocated": "NPU_DEVICE_ALLOC_MEM_SIZE"}
    try:
        said = device_properties(core, device, wanted)
    except RuntimeError:  # a driver without the statistics is no reason to lose a run's figures
        return None
    kinds = said.get("kinds") or ({"allocated": said["allocated"]} if "allocated" in said else {})
    return {str(kind): size / 2**20 for kind, size in kinds.items()} or None
