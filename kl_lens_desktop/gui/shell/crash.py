"""When something happens that nobody foresaw: it is written down, and the person is told in words."""

import contextlib
import faulthandler
import logging
import logging.handlers
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_start
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import log_folder
from kl_lens_desktop.printable import printable, printable_lines

LOG_NAME = "kl-lens.log"
FAULT_NAME = "crash.log"
_TRACE_LIMIT = 2**16
_log = logging.getLogger("kl_lens_desktop")
_fault_file: TextIO | None = None


def install(tell: Callable[[str], None]) -> str:
    """Catch errors of every thread and of native code from now on; `tell` shows a sentence to the person.

    Returns
    -------
    str
        Where native code crashed when this program last ran; empty if it did not.
    """
    global _fault_file
    folder = log_folder()
    folder.mkdir(parents=True, exist_ok=True)
    before = _last_crash(folder / FAULT_NAME)
    handler = logging.handlers.RotatingFileHandler(
        folder / LOG_NAME, maxBytes=2**20, backupCount=1, encoding="utf-8", delay=True
    )
    handler.rotator = _renamed
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.info("KL Lens Desktop %s starts", __version__)
    _fault_file = (folder / FAULT_NAME).open("w", encoding="utf-8")
    faulthandler.enable(_fault_file, all_threads=True)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        _log.error("".join(traceback.format_exception(kind, error, trace)))
        sys.__excepthook__(kind, error, trace)
        tell(
            tr(
                "Something unexpected happened: {name}: {error}. The log has the details. If "
                "the window behaves oddly, save your plan and restart KL Lens."
            ).format(name=kind.__name__, error=error)
        )

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            hook(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = hook
    threading.excepthook = thread_hook
    return before


def _renamed(log: str, earlier: str) -> None:
    """Rename a full log; on Windows it stays, and grows, while another window has it open."""
    with contextlib.suppress(PermissionError):
        os.replace(log, earlier)


def _last_crash(path: Path) -> str:
    try:
        return read_start(path, _TRACE_LIMIT).decode("utf-8", "replace").strip() if path.exists() else ""
    except InputError:
        return ""


def uninstall() -> None:
    """Give the hooks back and close the files."""
    global _fault_file
    sys.excepthook = sys.__excepthook__
    threading.excepthook = threading.__excepthook__
    faulthandler.disable()
    if _fault_file:
        _fault_file.close()
        _fault_file = None
    for handler in list(_log.handlers):
        _log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def record(level: str, text: str, details: str = "") -> None:
    """Write a line of the window's log to the file."""
    levels = {"error": logging.ERROR, "warning": logging.WARNING}
    words = printable_lines(f"{printable(text)}\n{details}" if details else printable(text))
    _log.log(levels.get(level, logging.INFO), "%s", words)
