"""What a computer of a cluster does: it finds the model or receives it, opens it once, and measures.

The figures are those of `measuring` on one computer, bit for bit, as long as the processors know the same
instructions.
"""

import contextlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.home import home
from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.load import load_or_open
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import returned
from kl_lens_desktop.quant.integers import Integers
from kl_lens_desktop.quant.roundings import KeptRounding
from kl_lens_desktop.repository.model_files import model_files
from kl_lens_desktop.sensitivity.measuring import Candidate, Found, Measuring, measuring_here
from kl_lens_desktop.sensitivity.metrics import Tally

_PACKAGES = ("torch", "transformers")


def sent(candidate: Candidate) -> Candidate:
    """The candidate as it travels to another computer: with its integers in place of their file."""
    change = candidate.change
    if isinstance(change, KeptRounding) and isinstance(change.integers, Integers):
        change = replace(change, integers=change.integers.whole(change.pair))
    return replace(candidate, change=change)


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {"kl-lens-desktop": __version__, **{name: version(name) for name in _PACKAGES}}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """How a computer measures: so many candidates at a time, of a model that is mapped or in memory."""

    count: int
    mapped: bool


class ModelWorker:
    """An actor of Ray's, one on each computer, that has the model; its methods run one after the other.

    Parameters
    ----------
    threads : int
        That it may compute with.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._folder: Path | None = None

    def about(self) -> tuple[str, dict[str, str]]:
        """The computer's name, and `versions` there."""
        return platform.node(), versions()

    def find(self, model: LocalModel, sha256: str) -> bool:
        """Whether this very model is here: where the asking computer has it, pulled, or received before."""
        places = [model.folder, _received(sha256)]
        with contextlib.suppress(KLLensError):
            places.insert(1, resolve_model(model.id, model.revision).folder)
        for folder in places:
            with contextlib.suppress(KLLensError, OSError):
                if weights_sha256(list(model_files(folder).weights)) == sha256:
                    self._folder = folder
                    return True
        return False

    def receive(self, sha256: str, name: str, data: bytes, start: int) -> None:
        """Write a part of a file of the model that begins at `start`."""
        path = _received(sha256) / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.write(data)


class Worker(ModelWorker):
    """Measures the candidates of an analysis.

    Parameters
    ----------
    threads : int
        That it may compute with.
    precision : str
        As `sensitivity.jobs.Analysis` has it.
    """

    def __init__(self, threads: int, precision: str) -> None:
        super().__init__(threads)
        self._precision = precision
        self._stack = contextlib.ExitStack()
        self._key = 0
        self._text: Any = None

    def open(self) -> OpenedModel:
        """Open the model that was found."""
        assert self._folder is not None
        loaded = returned(load_or_open(self._folder, "analyze"))
        self._measuring: Measuring[Any] = self._stack.enter_context(
            measuring_here(loaded, self._precision, Cancel())
        )
        return OpenedModel(self._measuring.count, loaded.mapped)

    def text(self, key: int, ids: Tensor) -> tuple[list[float], bool]:
        """Run the full-precision model on token ids (windows, window), which replace those before."""
        self._text = None  # the memory of the one before is free first
        self._key, self._text = key, self._measuring.open(ids)
        return self._text.signal, self._text.finite

    def measure(self, key: int, todo: Sequence[Candidate]) -> list[Found]:
        """What was found of each candidate on the text of that key; nothing where another has replaced it."""
        if key != self._key:
            return []
        found = self._measuring.found(self._text, todo)
        return [each for each in found if isinstance(each, Found)]

    def noise(self, key: int) -> Tally:
        """As `Measuring.noise`."""
        assert key == self._key
        return self._measuring.noise(self._text)

    def broken(self) -> list[str]:
        """The parameters that are not finite."""
        return list(self._measuring.broken())


def _received(sha256: str) -> Path:
    return home() / "cluster" / sha256[:16]
