"""What Qt asks of a Linux system, and the command by which a distribution installs what is missing.

Standard library only, and nothing of ours: the launcher loads this file alone, before anything is installed.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

Packages = tuple[str, str]

# What Qt needs, by library: its package on Debian and Ubuntu, and on Arch. Where packages are RPMs (Fedora,
# openSUSE), the library's own name can be asked for.
QT_NEEDS = {
    "libEGL.so.1": ("libegl1", "libglvnd"),
    "libGL.so.1": ("libgl1", "libglvnd"),
    "libX11.so.6": ("libx11-6", "libx11"),
    "libdbus-1.so.3": ("libdbus-1-3", "dbus"),
    "libfontconfig.so.1": ("libfontconfig1", "fontconfig"),
    "libfreetype.so.6": ("libfreetype6", "freetype2"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libxkbcommon.so.0": ("libxkbcommon0", "libxkbcommon"),
    "libzstd.so.1": ("libzstd1", "zstd"),
}
X11_NEEDS = {
    "libX11-xcb.so.1": ("libx11-xcb1", "libx11"),
    "libxcb-cursor.so.0": ("libxcb-cursor0", "xcb-util-cursor"),
    "libxcb-icccm.so.4": ("libxcb-icccm4", "xcb-util-wm"),
    "libxcb-image.so.0": ("libxcb-image0", "xcb-util-image"),
    "libxcb-keysyms.so.1": ("libxcb-keysyms1", "xcb-util-keysyms"),
    "libxcb-randr.so.0": ("libxcb-randr0", "libxcb"),
    "libxcb-render-util.so.0": ("libxcb-render-util0", "xcb-util-renderutil"),
    "libxcb-shape.so.0": ("libxcb-shape0", "libxcb"),
    "libxcb-util.so.1": ("libxcb-util1", "xcb-util"),
    "libxcb-xkb.so.1": ("libxcb-xkb1", "libxcb"),
    "libxkbcommon-x11.so.0": ("libxkbcommon-x11-0", "libxkbcommon-x11"),
}
WAYLAND_NEEDS = {
    "libwayland-client.so.0": ("libwayland-client0", "wayland"),
    "libwayland-cursor.so.0": ("libwayland-cursor0", "wayland"),
    "libwayland-egl.so.1": ("libwayland-egl1", "wayland"),
}


def missing_libraries(variables: Mapping[str, str], *, window: bool = True) -> dict[str, Packages]:
    """The libraries that Qt lacks here, with their packages.

    Parameters
    ----------
    variables : mapping of str to str
        The environment: it decides by which plugin Qt opens a window, or that it opens none.
    window : bool
        Without it, only what importing Qt takes.
    """
    needs = dict(QT_NEEDS)
    if window:
        needs |= {"wayland": WAYLAND_NEEDS, "xcb": X11_NEEDS}.get(_platform(variables), {})
    return {library: packages for library, packages in needs.items() if not can_load(library)}


def _platform(variables: Mapping[str, str]) -> str:
    """Qt's plugin for windows: the one that is asked for or, without a wish, the desktop's."""
    usual = "wayland" if variables.get("WAYLAND_DISPLAY") else "xcb"
    return (variables.get("QT_QPA_PLATFORM") or usual).partition(";")[0].partition(":")[0]


def has_display(variables: Mapping[str, str]) -> bool:
    """Whether a desktop is there."""
    return bool(variables.get("DISPLAY") or variables.get("WAYLAND_DISPLAY"))


def can_load(library: str) -> bool:
    """Whether the system has a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """What the Linux distribution says of itself."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}


def install_command(missing: Mapping[str, Packages], release: Mapping[str, str]) -> str:
    """The command by which this distribution installs these libraries."""
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    debian = " ".join(sorted({packages[0] for packages in missing.values()}))
    arch = " ".join(sorted({packages[1] for packages in missing.values()}))
    rpm = " ".join(f"'{library}()(64bit)'" for library in sorted(missing))
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    if family & {"debian", "ubuntu"}:
        return f"{sudo}apt install {debian}"
    if family & {"fedora", "rhel", "centos"}:
        return f"{sudo}dnf install {rpm}"
    if any(name.startswith(("suse", "opensuse")) for name in family):
        return f"{sudo}zypper install {rpm}"
    if "arch" in family:
        return f"{sudo}pacman -S {arch}"
    return f"your package manager (on Debian the packages are called {debian})"
