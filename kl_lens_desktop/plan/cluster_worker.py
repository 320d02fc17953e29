"""What a computer of a cluster does for plans: it measures whole ones, and exchanges in one of them.

The figures are those of the computer that asks, bit for bit, as long as the processors know the same
instructions: the model is opened and computed with as it is there, and integers are received.
"""

import contextlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.fit import folder_sizes, too_large
from kl_lens_desktop.model.inventory import Weight
from kl_lens_desktop.model.load import LoadedModel, load_model, open_model
from kl_lens_desktop.plan.whole import Around, PlansInMemory, PlansOnDisk, measures_here
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import returned
from kl_lens_desktop.quant.formats import Format
from kl_lens_desktop.quant.roundings import Change, KeptRounding
from kl_lens_desktop.sensitivity.cluster_worker import ModelWorker, OpenedModel
from kl_lens_desktop.sensitivity.metrics import Tally


@dataclass(frozen=True, slots=True)
class SentRounding:
    """A `KeptRounding` as it travels: its integers lie in the memory that the cluster's computers share."""

    integers: Any
    pair: tuple[str, str]
    shape: tuple[int, ...]


SentChange = Format | SentRounding


class PlanWorker(ModelWorker):
    """Measures plans.

    Parameters
    ----------
    threads : int
        As many as the computer that asks computes with, for sums depend on how they are split.
    mapped : bool
        Whether the weights stay on disk, as they do there.
    """

    def __init__(self, threads: int, mapped: bool) -> None:
        super().__init__(threads)
        self._mapped = mapped
        self._ids = torch.empty(0)
        self._measures: PlansInMemory | PlansOnDisk | None = None
        self._around: Around | None = None

    def open(self) -> OpenedModel:
        """Open the model that was found.

        Raises
        ------
        InputError
            If the weights should be in memory, and too little is free.
        """
        assert self._folder is not None
        if not self._mapped and too_large(folder_sizes(self._folder), "verify"):
            raise InputError(
                f"Cannot measure on {platform.node()}",
                "too little of its memory is free for all weights of the model",
                "Close other programs there, or leave it out of the cluster",
            )
        self._loaded: LoadedModel = (open_model if self._mapped else load_model)(self._folder)
        return OpenedModel(1, self._mapped)

    def whole(self, ids: Tensor, plan: Mapping[str, SentChange]) -> list[Tally]:
        """A plan on token ids (windows, window)."""
        self._around = None
        with self._ready():
            return [returned(self._on(ids).whole(_all_received(plan)))]

    def around(self, ids: Tensor, plan: Mapping[str, SentChange]) -> None:
        """Hold the state of a plan on token ids, for `moved`."""
        self._around = None
        with self._ready():
            self._around = self._on(ids).around(_all_received(plan))

    def moved(self, moves: Sequence[tuple[Weight, SentChange]]) -> list[Tally]:
        """Each move alone made in the plan that is held."""
        assert self._around is not None
        with self._ready():
            return list(self._around([(weight, _received(change)) for weight, change in moves]))

    def _on(self, ids: Tensor) -> PlansInMemory | PlansOnDisk:
        if self._measures is None or not torch.equal(ids, self._ids):
            self._measures = None  # its memory is free first
            self._ids, self._measures = ids, measures_here(self._loaded, ids, Cancel())
        return self._measures

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        with torch.no_grad(), fast_kernels(self._loaded.model):
            yield


def _all_received(plan: Mapping[str, SentChange]) -> dict[str, Change]:
    return {weight: _received(change) for weight, change in plan.items()}


def _received(change: SentChange) -> Change:
    """The change, with integers that are read where they lie."""
    if not isinstance(change, SentRounding):
        return change
    import ray

    return KeptRounding(ray.get(change.integers), change.pair, change.shape)
