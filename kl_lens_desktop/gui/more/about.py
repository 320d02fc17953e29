"""What this program is and runs on, for the Settings page and for a bug report."""

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from kl_lens_desktop import __version__, quantities

_PACKAGES = ("torch", "transformers", "openvino", "openvino-genai", "nncf", "PySide6-Essentials", "pyqtgraph")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{4,}")


def system() -> str:
    return f"Python {platform.python_version()}, {platform.platform()}"


def packages() -> str:
    """Names and versions of the packages that matter, as far as they are installed."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def diagnostics(log: str) -> str:
    """What a bug report needs, without secrets: no token, and not where the user's folder is."""
    memory = quantities.size(psutil.virtual_memory().total)
    text = f"KL Lens Desktop {__version__}\n{system()}, {memory} of memory\n{packages()}\n\n{log}\n"
    return _TOKEN.sub("hf_…", _without_home(text))


def _without_home(text: str) -> str:
    """The home folder as ``~``, in letters of any case and as Python's errors write it."""
    home = Path.home()
    if len(str(home)) < 2:  # the root of everything
        return text
    written = (str(home), home.as_posix(), repr(str(home))[1:-1])
    return re.sub("|".join(map(re.escape, written)), "~", text, flags=re.IGNORECASE)
