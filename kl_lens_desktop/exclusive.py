"""One process at a time writes a result: a second window or command is told, and nothing is destroyed.

The locks are the system's, which end with the process that holds them, however it ends.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import reason
from kl_lens_desktop.home import home


@contextlib.contextmanager
def exclusive(paths: Iterable[Path]) -> Iterator[None]:
    """Hold files and folders, which need not exist yet, for the length of the block.

    Raises
    ------
    InputError
        If another process holds one of them.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted({Path(os.path.realpath(path)) for path in paths}):
            # thread_local: a generator may be begun in one thread and closed in another
            lock = FileLock(_lock_file(path), timeout=0, thread_local=False)
            try:
                stack.enter_context(lock)
            except Timeout:
                raise InputError(
                    f"Cannot write {path}",
                    "another window or command of KL Lens is writing it",
                    "Wait for it, or cancel it there",
                ) from None
            except OSError as error:
                raise InputError(f"Cannot write into {home()}", reason(error), "Check the folder") from error
        yield


def _lock_file(path: Path) -> Path:
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.path.normcase(path).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return folder / f"{name}.lock"
