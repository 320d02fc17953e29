"""Versions of the drivers of GPUs and NPUs, and the oldest that are recommended for OpenVINO."""

import ctypes
import re
import sys
from collections.abc import Iterator
from typing import Any

_INTEL = 0x8086
_GPU, _VENDOR_ID, _NAME, _DRIVER_VERSION = 0x4, 0x1001, 0x102B, 0x102D  # of OpenCL's cl.h

# By kind of device and platform: the version, and who asks for it. There is none for GPUs, since nobody names
# one for all of them, nor for Linux, where the NPU plugin does not give the release of the driver (2026.4).
_OLDEST = {
    # With an older one LLMs fail, "either silent or with errors" (in the guides of 2024 to 2026.3).
    # https://docs.openvino.ai/2025/openvino-workflow-generative/inference-with-genai/inference-with-genai-on-npu.html
    "NPU": {"win32": ("32.0.100.3104", "OpenVINO's guide to LLMs on NPUs")},
}


def gpu_driver(full_name: str) -> str | None:
    """The version of a GPU's driver as OpenCL gives it; None where OpenCL or the device is not found.

    OpenVINO's GPU plugin runs on OpenCL and does not tell the version itself (2026.4). A driver may hang or
    abort here, so this belongs into a child process.
    """
    return version_of(full_name, list(_intel_gpus()))


def version_of(full_name: str, found: list[tuple[str, str]]) -> str | None:
    """The version for the device that OpenVINO calls `full_name`, of OpenCL's (name, version) of Intel GPUs.

    OpenVINO's name is OpenCL's with `` (iGPU)`` or `` (dGPU)`` behind it. With only one Intel GPU, it is that
    one if OpenVINO's says Intel too.
    """
    same = [version for name, version in found if name == re.sub(r" \([id]GPU\)$", "", full_name)]
    only = [version for _, version in found if len(found) == 1 and "Intel" in full_name]
    return next(iter([*same, *only]), None) or None


def npu_driver(version: Any, platform: str = sys.platform) -> str:
    """NPU_DRIVER_VERSION as Windows shows it, ``32.0.100.4778``; on Linux the number that it is.

    OpenVINO gives the last two of Windows's four groups as one number, 1004778.
    """
    if platform == "win32" and isinstance(version, int) and version >= 1_000_000:
        return f"32.0.{version // 10_000}.{version % 10_000}"
    return str(version)


def outdated(kind: str, driver: str | None, platform: str = sys.platform) -> str:
    """What to do about a driver older than recommended, in words; empty where there is nothing to do."""
    oldest, source = _OLDEST.get(kind, {}).get(platform, ("", ""))
    has, needs = _groups(driver or ""), _groups(oldest)
    if not has or not needs or has >= needs:
        return ""
    return (
        f"Its driver is {driver}; {source} requires {oldest} or newer. Install a newer driver from intel.com."
    )


def _groups(version: str) -> tuple[int, ...]:
    """The numbers between the dots; none of what is not a version of several groups."""
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)+", version) else ()


def _intel_gpus() -> Iterator[tuple[str, str]]:
    """Name and driver version of each Intel GPU that OpenCL knows."""
    try:
        opencl = ctypes.CDLL("OpenCL.dll" if sys.platform == "win32" else "libOpenCL.so.1")
    except OSError:
        return
    for platform in _handles(opencl.clGetPlatformIDs):
        for device in _handles(opencl.clGetDeviceIDs, ctypes.c_void_p(platform), ctypes.c_uint64(_GPU)):
            if int.from_bytes(_info(opencl, device, _VENDOR_ID), sys.byteorder) == _INTEL:
                yield _text(opencl, device, _NAME), _text(opencl, device, _DRIVER_VERSION)


def _handles(listing: Any, *of: Any) -> list[int]:
    """What an OpenCL function lists; nothing if it fails, as it does where there is nothing to list."""
    count = ctypes.c_uint32()
    if listing(*of, ctypes.c_uint32(), None, ctypes.byref(count)) != 0:
        return []
    handles = (ctypes.c_void_p * count.value)()
    return [] if listing(*of, count, handles, None) != 0 else [handle for handle in handles if handle]


def _info(opencl: ctypes.CDLL, device: int, what: int) -> bytes:
    asked, size = (ctypes.c_void_p(device), ctypes.c_uint32(what)), ctypes.c_size_t()
    if opencl.clGetDeviceInfo(*asked, ctypes.c_size_t(), None, ctypes.byref(size)) != 0:
        return b""
    told = ctypes.create_string_buffer(size.value)
    return b"" if opencl.clGetDeviceInfo(*asked, size, told, None) != 0 else told.raw


def _text(opencl: ctypes.CDLL, device: int, what: int) -> str:
    return _info(opencl, device, what).partition(b"\0")[0].decode("utf-8", "replace").strip()
