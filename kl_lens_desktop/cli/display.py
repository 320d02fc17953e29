"""Whether Qt can open a window on this Linux: it ends the process where it cannot, so it is asked before."""

import ctypes
import subprocess
import sys
from collections.abc import Mapping

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.qt_libraries import has_display, install_command, missing_libraries, os_release

_LONGEST_S = 30


def check_display(variables: Mapping[str, str]) -> None:
    """Raise `InputError`, by which the package to install is named, unless a window can open.

    Parameters
    ----------
    variables : mapping of str to str
        The environment; a plugin of Qt that it chooses, such as ``offscreen``, needs no display.
    """
    chosen = bool(variables.get("QT_QPA_PLATFORM"))
    if not chosen and not has_display(variables):
        raise InputError(
            "Cannot open a window", "there is no display here", "Use the commands: see kl-lens --help"
        )
    missing = missing_libraries(variables)
    if missing and not _opens():
        command = install_command(missing, os_release())
        step = command if command.startswith("your") else f"`{command}`"
        why = f"Qt needs system libraries that are missing: {', '.join(sorted(missing))}"
        raise InputError("Cannot open a window", why, f"Install them with {step}")
    if not chosen and not _answers(variables):
        raise InputError(
            "Cannot open a window",
            f"the display {variables.get('WAYLAND_DISPLAY') or variables.get('DISPLAY')} does not answer",
            "Start it on a desktop, or use the commands: see kl-lens --help",
        )


def _opens() -> bool:
    """Whether Qt starts all the same: a distribution may keep its libraries where only Qt finds them."""
    if getattr(sys, "frozen", False):
        return True  # the application carries its libraries, and cannot run a line of Python to try them
    code = "from PySide6.QtGui import QGuiApplication; QGuiApplication([])"
    try:
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=_LONGEST_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def _answers(variables: Mapping[str, str]) -> bool:
    """Whether the server of the display takes a connection; what cannot be asked is left to Qt."""
    if variables.get("WAYLAND_DISPLAY"):
        return True  # where Wayland does not answer, Qt tries X
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return True
    x11.XOpenDisplay.restype = ctypes.c_void_p
    display = x11.XOpenDisplay(None)
    if display:
        x11.XCloseDisplay(ctypes.c_void_p(display))
    return bool(display)
