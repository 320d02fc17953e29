"""The bundled texts, and reading a person's own. Needs no torch."""

from pathlib import Path

from kl_lens_desktop import resources
from kl_lens_desktop.errors import InputError

FILE_LIMIT = 64 * 2**20


def calibration_text() -> Path:
    """The bundled text for scoring: slices of twelve public-domain novels."""
    return resources.path("texts", "calibration-novels.txt")


def held_out_text() -> Path:
    """The bundled text that no sensitivity is measured on: a part of Conrad's *Nostromo*."""
    return resources.path("texts", "heldout-nostromo.txt")


def read_text(path: Path) -> str:
    """The whole file, line ends as they are in the file.

    Raises
    ------
    InputError
        If it cannot be read, is larger than `FILE_LIMIT` bytes or is not UTF-8.
    """
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise InputError(f"Cannot use {path}", "it is larger than 64 MB", "Cut a part out of it")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(
            f"Cannot read {path}", error.strerror or str(error), "Choose another text"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read {path}", "it is not UTF-8 text", "Save it as UTF-8") from error
