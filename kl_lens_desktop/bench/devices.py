"""Which devices OpenVINO can use here, and why the others cannot be used."""

import functools
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kl_lens_desktop.bench import drivers
from kl_lens_desktop.bench.jobs import DevicesJob
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Event, Finished
from kl_lens_desktop.process.record import decode

KINDS = ("CPU", "GPU", "NPU")
ENUMERATE_LIMIT_S = 60.0
PROBE_LIMIT_S = 120.0
_COMPOSED = ("AUTO", "HETERO", "MULTI", "BATCH")
_ADVICE = {
    ("GPU", "win32"): "install the Intel Arc and Iris Xe graphics driver",
    ("GPU", "linux"): "install the OpenCL runtime intel-opencl-icd and join the group render",
    ("NPU", "win32"): "install the Intel NPU driver",
    ("NPU", "linux"): "install intel-driver-compiler-npu and intel-level-zero-npu and join the group render",
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device by the name OpenVINO gives it.

    Attributes
    ----------
    name : str
        ``CPU``, ``GPU``, ``GPU.0``, ``NPU``, …
    full_name : str
        The maker's name; empty where there is no such device.
    available : bool
    reason : str
        Why it is not available, in words; empty where it is.
    driver : str or None
        Its version, where OpenVINO or OpenCL tells.
    architecture : str or None
        Where OpenVINO tells.
    memory_mb : float or None
        Memory the device can use, in MB (2**20 bytes), where OpenVINO tells.
    precisions : tuple of str
        What OpenVINO says the device computes in, such as ``FP16`` and ``INT8``.
    core_types : dict or None
        Of a CPU with two types of cores: threads that OpenVINO uses on ``performance`` and ``efficiency``
        cores.
    matrix_engines : bool or None
        Whether a GPU has matrix engines (XMX) that OpenVINO uses; None for other devices. Without them its
        plugin takes out-of-order queues, on which it reads the conditions of If, and so of models with Mamba
        layers, before they are computed (2026.4).
    warning : str
        What is wrong with its driver and what to do, in words; mostly empty.
    """

    name: str
    full_name: str
    available: bool
    reason: str = ""
    driver: str | None = None
    architecture: str | None = None
    memory_mb: float | None = None
    precisions: tuple[str, ...] = ()
    core_types: dict[str, int] | None = None
    matrix_engines: bool | None = None
    warning: str = ""


def list_devices(cancel: Cancel | None = None) -> list[Device]:
    """Every device OpenVINO reports, each tried with a small model, and why the other kinds are missing.

    Drivers are asked and tried in child processes, since a driver may hang or abort: what kills the child is
    the device's reason, not the end of this program.
    """
    try:
        found = _ask(DevicesJob(), ENUMERATE_LIMIT_S, cancel)
    except ChildError as error:
        why = f"listing the devices failed ({error.why or error.what})"
        missing = [Device(kind, "", False, why) for kind in KINDS if kind != "CPU"]
        return [Device("CPU", platform.processor() or platform.machine(), True), *missing]
    return [_tried(device, cancel) if device.available else device for device in found]


def check_device_name(name: str) -> None:
    """Raise `InputError` unless a name could be a device's, whether or not there is one here."""
    kind, _, parts = name.strip().upper().partition(":")
    known = (*KINDS, *_COMPOSED) if not parts else _COMPOSED
    if kind.partition(".")[0] not in known:
        why = f"{name!r} is not one of {', '.join(KINDS)} or a combination such as AUTO:GPU,CPU"
        raise InputError("Cannot measure", why, "Name devices as OpenVINO does")
    for part in filter(None, parts.split(",")):
        check_device_name(part.partition("(")[0].removeprefix("-"))


def device_names(text: str) -> tuple[str, ...]:
    """The devices of a list with commas: a combination takes the names behind it, up to the next one.

    ``CPU,AUTO:GPU,CPU`` is CPU, and AUTO of GPU and CPU.
    """
    names: list[str] = []
    for part in text.split(","):
        if names and ":" in names[-1] and ":" not in part:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return as_listed(names)


def as_listed(names: Iterable[str]) -> tuple[str, ...]:
    """Names of devices as OpenVINO writes them, each once."""
    return tuple(dict.fromkeys("".join(name.split()).upper() for name in names))


def behind(names: Iterable[str], available: Sequence[str]) -> tuple[str, ...]:
    """The devices behind names: of a combination those that it names, or may take of those available."""
    found: list[str] = []
    for name in as_listed(names):
        kind, _, given = name.partition(":")
        if kind not in _COMPOSED:
            found.append(name)
            continue
        parts = [part.partition("(")[0] for part in given.split(",") if part]
        chosen = [part for part in parts if not part.startswith("-")]
        found += chosen or [each for each in available if f"-{each}" not in parts]
    return tuple(dict.fromkeys(found))


def device_named(name: str, devices: list[Device], cancel: Cancel | None = None) -> Device:
    """The device a person asked for: one of `devices`, or a combination such as ``AUTO:GPU,CPU``."""
    name = name.strip().upper()
    for device in devices:
        if device.name == name:
            return device
    if name.partition(":")[0] in _COMPOSED:
        return _tried(Device(name, name, True), cancel)
    known = ", ".join(device.name for device in devices if device.available)
    return Device(name, "", False, f"OpenVINO finds no device {name} here; it finds {known}")


def find_devices(job: DevicesJob, cancel: Cancel) -> Iterator[Event]:
    """Ask OpenVINO for its devices, or try one; yield last Finished with `jobs.Devices`."""
    import openvino

    core = openvino.Core()
    if job.probe:
        _probe(core, job.probe)
        yield job.finished({"devices": []})
        return
    found = [describe(core, name) for name in core.available_devices]
    for kind in KINDS:
        cancel.check()
        if not any(device.name.partition(".")[0] == kind for device in found):
            found.append(Device(kind, "", False, _why_missing(core, kind)))
    yield job.finished({"devices": [asdict(device) for device in sorted(found, key=lambda each: each.name)]})


def describe(core: Any, name: str) -> Device:
    """An available device as OpenVINO describes it, and OpenCL a GPU's driver."""
    said = device_properties(core, name, {
        "full_name": "FULL_DEVICE_NAME", "architecture": "DEVICE_ARCHITECTURE",
        "precisions": "OPTIMIZATION_CAPABILITIES", "npu_driver": "NPU_DRIVER_VERSION",
        "gpu_memory": "GPU_DEVICE_TOTAL_MEM_SIZE", "npu_memory": "NPU_DEVICE_TOTAL_MEM_SIZE",
    })  # fmt: skip
    kind, full_name = name.partition(".")[0], str(said.get("full_name", name)).strip()
    driver = drivers.npu_driver(said["npu_driver"]) if "npu_driver" in said else None
    if kind == "GPU":
        driver = drivers.gpu_driver(full_name)
    can = said.get("precisions")
    memory = said.get("gpu_memory") or said.get("npu_memory")
    return Device(
        name,
        full_name,
        available=True,
        driver=driver,
        architecture=said.get("architecture"),
        memory_mb=None if memory is None else memory / 2**20,
        precisions=tuple(sorted(can or ())),
        core_types=_core_types(core) if name == "CPU" else None,
        matrix_engines="GPU_HW_MATMUL" in can if can and kind == "GPU" else None,
        warning=drivers.outdated(kind, driver),
    )


def properties(source: Callable[[str], Any], wanted: dict[str, str]) -> dict[str, Any]:
    """What a compiled model's ``get_property`` says of `wanted`, {key: OpenVINO's name of the property}.

    Properties that it does not know are left out; element types become their short names (``bf16``),
    enumerations their names (``PCORE_ONLY``).
    """
    known = source("SUPPORTED_PROPERTIES")
    return {key: _plain(source(name)) for key, name in wanted.items() if name in known}


def device_properties(core: Any, device: str, wanted: dict[str, str]) -> dict[str, Any]:
    """The same of a device; of a combination such as ``AUTO:GPU,CPU``, which cannot be asked, nothing."""
    return {} if ":" in device else properties(functools.partial(core.get_property, device), wanted)


def _plain(value: Any) -> Any:
    """An element type by its short name, an enumeration by its own, anything else as it is."""
    if hasattr(value, "get_type_name"):
        return value.get_type_name()
    return getattr(value, "name", value)


def _ask(job: DevicesJob, limit_s: float, cancel: Cancel | None) -> list[Device]:
    answer: list[Device] = []
    for event in Child(job, time_limit_s=limit_s).events(cancel):
        if isinstance(event, Finished):
            answer = [decode(Device, value) for value in job.result(event)["devices"]]
    return answer


def _tried(device: Device, cancel: Cancel | None) -> Device:
    # The CPU needs no trial of its own: the reference that every other device is held against runs there.
    if device.name == "CPU":
        return device
    try:
        _ask(DevicesJob(probe=device.name), PROBE_LIMIT_S, cancel)
    except ChildError as error:
        return replace(
            device, available=False, reason=f"a small test model failed on it ({error.why or error.what})"
        )
    return device


def _core_types(core: Any) -> dict[str, int] | None:
    """How many threads OpenVINO would use on cores of one type: it knows them on every system."""
    threads = {}
    for kind, hint in (("performance", "PCORE_ONLY"), ("efficiency", "ECORE_ONLY")):
        compiled = core.compile_model(_small_model()[0], "CPU", {"SCHEDULING_CORE_TYPE": hint})
        if _plain(compiled.get_property("SCHEDULING_CORE_TYPE")) != hint:
            return None  # there is one type only
        threads[kind] = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return threads


def _why_missing(core: Any, kind: str) -> str:
    try:
        core.get_property(kind, "AVAILABLE_DEVICES")
        cause = f"OpenVINO finds no Intel {kind} here"
    except RuntimeError as error:
        # 'Cannot load library "<path>": libOpenCL.so.1: cannot open …': the path says nothing to a person
        detail = str(error).strip().rpartition("\n")[2].rpartition('": ')[2]
        cause = f"OpenVINO cannot use an Intel {kind} here ({detail})"
    advice = _ADVICE.get((kind, sys.platform))
    return f"{cause}; if this computer has one, {advice}" if advice else cause


def _probe(core: Any, name: str) -> None:
    import numpy as np

    model, weight = _small_model()
    ones = np.ones((1, 8), dtype=np.float32)
    answer = core.compile_model(model, name)([ones])[0]
    if not np.allclose(answer, ones @ weight.T, rtol=0.02, atol=0.02):
        raise InputError(f"Cannot trust {name}", "it multiplied a small matrix wrongly", "Update its driver")


def _small_model() -> tuple[Any, Any]:
    """A matrix product, and the matrix [8, 8] in it."""
    import numpy as np
    from openvino import Model
    from openvino import opset15 as ops

    weight = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    given = ops.parameter([1, 8], np.float32)
    return Model([ops.matmul(given, ops.constant(weight), False, True)], [given]), weight
