"""Where and with what a benchmark was run."""

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import psutil

from kl_lens_desktop.bench.devices import Device
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.process.battery import battery

_PACKAGES = ("kl-lens-desktop", "openvino", "openvino-genai", "openvino-tokenizers", "nncf", "numpy")


def environment(
    devices: list[Device], text: dict[str, Any], settings: Benchmark, memory_read_gb_s: float | None
) -> dict[str, Any]:
    """Where and with what a bench was run, for a reader on another computer."""
    fed_by = battery()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "os": platform.platform(),
        "cpu": next((device.full_name for device in devices if device.name == "CPU"), platform.processor()),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": psutil.cpu_count(),
        "ram_mb": psutil.virtual_memory().total / 2**20,
        "memory_read_gb_s": memory_read_gb_s,
        "power": power(),
        "battery_percent": None if fed_by is None else float(fed_by.percent),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "devices": [asdict(device) for device in devices],
        "text": text,
        "settings": settings.as_measured(),
    }


def power() -> str:
    """``mains``, ``battery`` or ``unknown``."""
    fed_by = battery()
    plugged = None if fed_by is None else fed_by.power_plugged  # None too where nobody says how it is fed
    return "unknown" if plugged is None else "mains" if plugged else "battery"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
