"""What the stages raise: one sentence that says what happened, why, and what to do next."""

import contextlib
from collections.abc import Iterator

from kl_lens_desktop.printable import printable


class KLLensError(Exception):
    """An expected failure, in words for the person at the keyboard.

    Parameters
    ----------
    what : str
        What could not be done, without a full stop.
    why : str
        The reason, without a full stop.
    next_step : str
        What the person can do about it, without a full stop.
    """

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what, why, next_step)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        text = self.what + (f": {self.why}" if self.why else "")
        return printable(" ".join((f"{text}. {self.next_step}." if self.next_step else f"{text}.").split()))


class InputError(KLLensError):
    """A file, folder, text or option that cannot be used as it is."""


class ModelError(KLLensError):
    """A model that cannot be opened, is damaged or is not supported."""


class HubError(KLLensError):
    """A failure between here and the Hugging Face Hub."""


class ExportError(KLLensError):
    """The exported model is not what the plan says, or could not be written."""


class ChildError(KLLensError):
    """A child process crashed, hung, ran out of memory, was ended from outside, or says what went wrong.

    Attributes
    ----------
    kind : str
        Name of the class of the error in the child, if it said one.
    """

    kind = "ChildError"


class Cancelled(Exception):
    """The person asked to stop."""


def is_fault(error: BaseException) -> bool:
    """Whether it is an error, and no wish to end; panics of Rust code are errors, but no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextlib.contextmanager
def in_words(what: str, why: str, next_step: str) -> Iterator[None]:
    """Raise whatever a library raises over somebody's file as one `ModelError`, panics of Rust code included.

    What is ours already, a wish to stop and a lack of memory pass.
    """
    try:
        yield
    except (KLLensError, Cancelled, MemoryError):
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        reason = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and "memory" in reason:  # torch has no MemoryError of its own
            raise MemoryError(reason) from error
        raise ModelError(what, f"{why} ({type(error).__name__}: {reason[:200]})", next_step) from error
