"""Set the program up, then run it: ``python3 installer/launch.py run``, ``app`` or ``test``.

Standard library only, since it runs before anything is installed. It also parses on Python versions too old
to run it (from 3.6), so that they can say so: hence no newer syntax here, annotations included.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GIGABYTES_NEEDED = 4
CUDA_GIGABYTES = 6  # more, where only torch's CUDA build is to be had
# Two at a time: each test process takes up to 5 GB, and its models compute on several cores themselves.
IN_PARALLEL = ["-n", "logical", "--maxprocesses", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
FAST = ["-m", "not slow and not whole"]
LONGEST_SAFE_ROOT = 55  # of the 260 characters of a Windows path, torch in .venv takes 200


class SetupError(Exception):
    """Something the person must put right, in words."""


def main(arguments: list) -> int:
    """Set up what `arguments` ask for and run it; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="launch.py",
        usage="launch.py {run,app,test} ...",
        description="Set up KL Lens Desktop once, and run it.",
        epilog=(
            "run: compress and measure the bundled sample model, and write to ./kl-lens-out; app: "
            "open the window; test: run ruff, mypy and the test suite, with --fast only the quick "
            "tests. Further arguments are passed on (for test, to pytest)."
        ),
    )
    parser.add_argument("command", choices=("run", "app", "test"))
    parser.add_argument("further", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    try:
        check_python(sys.version_info[:2])
        if chosen.command != "run" and sys.platform == "linux":
            check_qt_libraries(chosen.command, dict(os.environ))
        set_up(chosen.command == "test")
        return {"run": run, "app": app, "test": test}[chosen.command](chosen.further)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Cancelled. Run the command again to complete the set-up.")
        return 130


def run(further: list) -> int:
    """The whole main job on the bundled sample model."""
    return in_venv("-m", "kl_lens_desktop", "run", "sample", "--out", "./kl-lens-out", *further)


def app(further: list) -> int:
    """The window."""
    return in_venv("-m", "kl_lens_desktop", "app", *further)


def test(further: list) -> int:
    """The checks, then the tests; the first that fails ends it. ``--fast`` runs the quick tests only."""
    os.chdir(str(ROOT))
    if sys.platform == "linux" and not qt_libraries().has_display(os.environ):
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    tests = ["pytest", *IN_PARALLEL]
    for argument in further:
        tests += FAST if argument == "--fast" else [argument]
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], tests):
        status = in_venv("-m", *tool)
        if status:
            return status
    return 0


def in_venv(*arguments: str) -> int:
    """Run the environment's Python in the foreground; Ctrl-C reaches it too, and it decides how to end.

    What else asks the launcher to end is passed on; a console on Windows tells both that it closes.
    """
    process = subprocess.Popen([str(venv_python()), *arguments], env=dict(os.environ, PYTHONUTF8="1"))
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda number, _: process.send_signal(number))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def check_python(version: tuple) -> None:
    """Refuse a Python that some pinned package has no build for."""
    if not OLDEST <= version <= NEWEST:
        call = "py -3.13 installer\\launch.py" if os.name == "nt" else "python3.13 installer/launch.py"
        versions = "Python {}.{} to {}.{}, and this is {}.{}".format(*OLDEST, *NEWEST, *version)
        raise SetupError(
            f"KL Lens Desktop needs {versions}. Install it from python.org, and start the launcher "
            f"with it, for example `{call} run`."
        )


def check_qt_libraries(command: str, variables: dict) -> None:
    """Name the system's packages that Qt lacks, before 1.7 GB are fetched in vain."""
    qt = qt_libraries()
    chosen = bool(variables.get("QT_QPA_PLATFORM"))
    if command == "app" and not chosen and not qt.has_display(variables):
        raise SetupError(
            "Cannot open a window: there is no display (DISPLAY and WAYLAND_DISPLAY are not set). "
            "Start it on a desktop, or use `run`, which needs no display."
        )
    missing = qt.missing_libraries(variables, window=command == "app")
    if missing:
        names, command = ", ".join(sorted(missing)), qt.install_command(missing, qt.os_release())
        raise SetupError(
            f"Qt needs system libraries that are missing: {names}. Install them with:\n  {command}"
        )


def qt_libraries() -> types.ModuleType:
    """The one file of the program that knows what Qt needs; it takes nothing but the standard library."""
    path = ROOT / "kl_lens_desktop" / "qt_libraries.py"
    spec = importlib.util.spec_from_file_location("qt_libraries", str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_up(testing: bool) -> None:
    """Make ``.venv`` hold what is pinned; nothing to do if its stamp says that it does.

    The file ``kl-lens-unfinished`` stands there from the first step to the last. A set-up that was cut short
    may have left packages that look installed and are not, so the next one starts from an empty folder.
    """
    if digest(testing) in stamps() and venv_python().is_file():
        return
    say(f"Setting up in {VENV} (once, about 1.7 GB) ...")
    make_venv()
    unfinished().touch()
    if stamp_file().exists():
        stamp_file().unlink()
    install_packages(testing)
    # The test extras come on top of the plain set-up, so they are good for both.
    done = [digest(False), digest(True)] if testing else [digest(False)]
    stamp_file().write_text("\n".join(done) + "\n", encoding="utf-8")
    unfinished().unlink()
    say("Set-up is complete.")


def make_venv() -> None:
    """A virtual environment of this Python: the one that is there, or a new one."""
    if VENV.exists() and any(VENV.iterdir()) and not unfinished().exists():
        if not stamp_file().exists():
            raise SetupError(
                f"{VENV} was not created by this script. Rename or delete it, and then try again."
            )
        if venv_version() == sys.version_info[:2]:
            return
    check_room()
    check_cpp_runtime()
    VENV.mkdir(exist_ok=True)
    unfinished().touch()
    for path in VENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif path != unfinished():
            path.unlink()
    if subprocess.call([sys.executable, "-m", "venv", str(VENV)], stdout=sys.stderr):
        raise SetupError(f"Python could not create a virtual environment in {VENV} (see above).")


def check_room() -> None:
    """Refuse what would fail only after minutes: a full disk, or a Python without its venv parts."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < GIGABYTES_NEEDED:
        raise SetupError(
            f"Set-up needs {GIGABYTES_NEEDED} GB of disk space for a while, and only {free:.1f} GB "
            "are free. Free some space, and then try again."
        )
    if os.name == "nt" and len(str(ROOT)) > LONGEST_SAFE_ROOT:
        say(
            "The path of this folder is long. If set-up fails, move the folder to a short path "
            "such as C:\\kl-lens."
        )
    if importlib.util.find_spec("ensurepip") is None:  # Debian ships it apart
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        raise SetupError(
            f"Python's venv module is incomplete. Install the rest with:\n  sudo apt install {package}"
        )


def check_cpp_runtime() -> None:
    """Name what torch needs on Windows and Python does not bring, before 1.7 GB are fetched in vain."""
    if os.name != "nt":
        return
    try:
        ctypes.WinDLL("msvcp140.dll")
    except OSError:
        raise SetupError(
            "PyTorch needs Microsoft's Visual C++ runtime, and it is missing here. Install it from "
            "https://aka.ms/vs/17/release/vc_redist.x64.exe, and then run the same command again."
        ) from None


def install_packages(testing: bool) -> None:
    """The pinned packages, torch first and as CPU build, then the program itself."""
    folder = ROOT / "installer"
    install_torch(pinned(folder / "requirements.txt", "torch"))
    wanted = ["-r", str(folder / "requirements.txt")]
    if testing:
        wanted += ["-r", str(folder / "requirements-test.txt")]
    if pip(*wanted) or pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT)):
        raise SetupError(
            "Set-up failed: pip could not install the packages (see above). Check the network and the disk, "
            "then run the same command again."
        )


def install_torch(version: str) -> None:
    """Take torch's CPU build; on Linux the registry's is the CUDA build, which is gigabytes larger.

    First where pip is configured to look anyway (a mirror or a folder of wheels may have it), then in
    PyTorch's own index, which not every network can reach. If neither has it, the registry's build works too.
    """
    if not version or sys.platform != "linux":
        return
    cpu = f"torch=={version}+cpu"
    for where in ([], ["--index-url", TORCH_CPU_INDEX, "--retries", "1", "--timeout", "15"]):
        if pip("--no-deps", *where, cpu, quiet=True) == 0:
            return
    say(
        "Cannot find the CPU build of torch in pip's configured index or at "
        f"{TORCH_CPU_INDEX}. The default build works too, but it downloads and keeps about "
        f"{CUDA_GIGABYTES} GB of CUDA libraries that are not used."
    )
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < GIGABYTES_NEEDED + CUDA_GIGABYTES:
        raise SetupError(
            f"Only {free:.1f} GB of disk space are free, and {GIGABYTES_NEEDED + CUDA_GIGABYTES} GB would be "
            "needed. Free some space, or set PIP_FIND_LINKS to a folder with the CPU build of torch."
        )
    if sys.stdin.isatty() and input("Take the default build? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SetupError(
            "Set-up stopped. Set PIP_FIND_LINKS to a folder with the CPU build of torch, or try again where "
            f"{TORCH_CPU_INDEX} can be reached."
        )


def pip(*arguments: str, quiet: bool = False) -> int:
    """``pip install`` in the environment, its progress on standard error; `quiet` hides its complaints."""
    command = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
    complaints = subprocess.DEVNULL if quiet else None
    variables = dict(os.environ, PIP_USER="0")
    return subprocess.call([*command, *arguments], stdout=sys.stderr, stderr=complaints, env=variables)


def pinned(requirements: Path, name: str) -> str:
    """The version at which a requirements file pins a package; empty if it does not."""
    for line in requirements.read_text(encoding="utf-8").splitlines():
        package, _, version = line.partition(";")[0].strip().partition("==")
        if package == name:
            return version
    return ""


def digest(testing: bool) -> str:
    """A hash of all that decides what ``.venv`` must hold."""
    names = ["pyproject.toml", "installer/requirements.txt"]
    if testing:
        names.append("installer/requirements-test.txt")
    value = hashlib.sha256(repr((sys.version_info[:2], sys.platform, str(ROOT))).encode("utf-8"))
    for name in names:
        value.update((ROOT / name).read_bytes())
    return value.hexdigest()


def stamps() -> set:
    """The digests of what ``.venv`` holds in full; none while a set-up is unfinished."""
    if unfinished().exists() or not stamp_file().is_file():
        return set()
    return set(stamp_file().read_text(encoding="utf-8").split())


def stamp_file() -> Path:
    """Names what was set up, once it is."""
    return VENV / "kl-lens-set-up"


def unfinished() -> Path:
    """Stands while a set-up is under way."""
    return VENV / "kl-lens-unfinished"


def venv_python() -> Path:
    """The environment's own Python."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version() -> tuple:
    """The Python version of ``.venv``; empty if it does not start."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([str(venv_python()), "-c", code], stdout=subprocess.PIPE, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(part) for part in done.stdout.split())


def say(text: str) -> None:
    """Progress goes to standard error: standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
