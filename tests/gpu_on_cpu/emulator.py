"""The environment in which OpenVINO lists a GPU: the layer of ``shim.c`` and Intel's OpenCL runtime for CPUs.

Both are set up on first use in a folder of the user's cache, or in the one that ``GPU_ON_CPU_CACHE`` names.
What stands in it is named by the digest of what it was made from, and appears whole or not at all.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

SHIM = Path(__file__).with_name("shim.c")
PINS = Path(__file__).resolve().parents[2] / "installer" / "requirements-gpu-on-cpu.txt"


class Unavailable(Exception):
    """The emulated GPU cannot be had on this machine; the message is one sentence that says why."""


def environment(*, older: bool = False, out_of_order: bool = False) -> dict[str, str]:
    """Return the variables of a child process in which OpenVINO lists the emulated GPU; set it up if need be.

    Parameters
    ----------
    older
        Answer as Meteor Lake's GPU rather than as an Arc 140V.
    out_of_order
        Give the plugin the out-of-order queues that it asks for where a GPU has no matrix engines. An Arc
        140V has them, and the plugin uses in-order queues on it.

    Returns
    -------
    dict
        This process's variables, with those that OpenCL's loader and the layer read.

    Raises
    ------
    Unavailable
        This is not Linux on x86-64, there is no gcc or no GPU plugin, or the runtime cannot be downloaded.
    """
    _check_machine()
    root = _root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "lock"):
            runtime = _made(root / f"runtime-{_digest(PINS.read_bytes())}", _install_runtime)
            layer = _made(root / f"layer-{_digest(SHIM.read_bytes())}", _build_layer) / "layer.so"
            programs = root / f"programs-{_digest(PINS.read_bytes(), SHIM.read_bytes(), _processor())}"
            programs.mkdir(exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The emulated GPU cannot be set up in {root}: {error}.") from error
    return {
        **os.environ,
        "LD_LIBRARY_PATH": _with_inherited("LD_LIBRARY_PATH", runtime),
        # OpenVINO brings an older libtbb, which Intel's runtime does not load with. Both work with this one.
        "LD_PRELOAD": _with_inherited("LD_PRELOAD", runtime / "libtbb.so.12"),
        "OCL_ICD_FILENAMES": str(runtime / "libintelocl.so"),
        "OCL_ICD_VENDORS": str(runtime / "no-other-vendors"),
        "OPENCL_LAYERS": str(layer),
        "GPU_ON_CPU_PROGRAMS": str(programs),
        "GPU_ON_CPU_DEVICE": "xelpg" if older else "140V",
        "GPU_ON_CPU_QUEUES": "out-of-order" if out_of_order else "in-order",
    }


def device_name(variables: dict[str, str]) -> str:
    """Return the name of the GPU that OpenVINO lists in a child process with these variables.

    Raises
    ------
    Unavailable
        It lists none.
    """
    program = "import openvino; print(openvino.Core().get_property('GPU', 'FULL_DEVICE_NAME'))"
    child = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    if child.returncode:
        raise Unavailable(f"OpenVINO lists no GPU: {last_line(child.stderr)}")
    return child.stdout.strip()


def last_line(text: str) -> str:
    """Return the last line of what a program complained about."""
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else "it said nothing."


def _check_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable("The emulated GPU needs Linux on x86-64.")
    if shutil.which("gcc") is None:
        raise Unavailable("The emulated GPU needs gcc, which is not installed.")
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise Unavailable("The emulated GPU needs OpenVINO, which is not installed.")
    if not Path(spec.origin).with_name("libs").joinpath("libopenvino_intel_gpu_plugin.so").exists():
        raise Unavailable("This OpenVINO has no GPU plugin.")


def _root() -> Path:
    chosen = os.environ.get("GPU_ON_CPU_CACHE")
    root = (
        Path(chosen).absolute()
        if chosen
        else platformdirs.user_cache_path("kl-lens-gpu-on-cpu", appauthor=False)
    )
    if {" ", ":"} & set(str(root)):
        raise Unavailable(
            f"LD_PRELOAD cannot list {root}: set GPU_ON_CPU_CACHE to a path without spaces or colons."
        )
    return root


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made beside its place and then renamed, so that one that exists is whole."""
    part = folder.with_name("part")
    if not folder.exists():
        shutil.rmtree(part, ignore_errors=True)  # a set-up that was cut short leaves it; the lock is ours now
        part.mkdir()
        try:
            make(part / folder.name)
            (part / folder.name).rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _install_runtime(folder: Path) -> None:
    wheels = folder.with_name("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary", ":all:", "--requirement", str(PINS), "--dest", str(wheels)]
    child = subprocess.run([*command, *options], capture_output=True, text=True)
    if child.returncode:
        raise Unavailable(f"Intel's OpenCL runtime cannot be downloaded: {last_line(child.stderr)}")
    for wheel in sorted(wheels.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder.with_name("unpacked"))
    folder.mkdir()
    for library in folder.with_name("unpacked").glob("*.data/data/lib/*"):
        if library.is_file():
            library.rename(folder / library.name)


def _build_layer(folder: Path) -> None:
    folder.mkdir()
    command = ["gcc", "-std=gnu11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-pthread", str(SHIM)]
    child = subprocess.run([*command, "-o", str(folder / "layer.so")], capture_output=True, text=True)
    if child.returncode:
        raise Unavailable(f"gcc cannot build the OpenCL layer: {last_line(child.stderr)}")


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _processor() -> bytes:
    """What the runtime's compiler picks instructions by: machines may share a home folder."""
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags"))}))


def _with_inherited(variable: str, first: Path) -> str:
    inherited = os.environ.get(variable)
    return f"{first}:{inherited}" if inherited else str(first)
