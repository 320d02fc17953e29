"""Whole plans, and exchanges in them, measured by the computers of a Ray cluster."""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.plan.cluster_worker import PlanWorker, SentChange, SentRounding
from kl_lens_desktop.plan.whole import Move
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.quant.integers import Integers
from kl_lens_desktop.quant.roundings import Change, KeptRounding
from kl_lens_desktop.sensitivity.cluster import Workers, joined
from kl_lens_desktop.sensitivity.cluster_worker import ModelWorker
from kl_lens_desktop.sensitivity.metrics import Tally


class PlanCluster(Workers):
    """The workers of a verification, a repair or baselines.

    Parameters
    ----------
    ray : module
    loaded : LoadedModel
        The same model, on this computer.
    cancel : Cancel
    """

    def __init__(self, ray: Any, loaded: LoadedModel, cancel: Cancel) -> None:
        super().__init__(ray, cancel)
        self._mapped = loaded.mapped
        self._sent: dict[KeptRounding, SentRounding] = {}

    def whole(self, plans: Sequence[tuple[Tensor, Mapping[str, Change]]]) -> Iterator[Tally]:
        """The tally of each plan on token ids (windows, window); each is handed to a worker that is free."""
        self._told = None

        def ask(worker: Any, some: Sequence[int]) -> Any:
            ids, changes = plans[some[0]]
            return worker.whole.remote(ids, self._all_sent(changes))

        yield from self._in_order(len(plans), ask, ahead=1, size=1)

    def moved(self, ids: Tensor, plan: Mapping[str, Change], moves: Sequence[Move]) -> Iterator[Tally]:
        """As `Measures.moved`."""
        self._tell("around", ids, self._all_sent(plan))

        def ask(worker: Any, some: Sequence[int]) -> Any:
            return worker.moved.remote([(moves[place][0], self._one_sent(moves[place][1])) for place in some])

        yield from self._in_order(len(moves), ask)

    def _all_sent(self, plan: Mapping[str, Change]) -> dict[str, SentChange]:
        return {weight: self._one_sent(change) for weight, change in plan.items()}

    def _one_sent(self, change: Change) -> SentChange:
        """The change as it travels; integers are sent to the cluster once, not with every plan."""
        if not isinstance(change, KeptRounding):
            return change
        if change not in self._sent:
            self._cancel.check()
            held = change.integers
            packed = held.whole(change.pair) if isinstance(held, Integers) else held
            self._sent[change] = SentRounding(self._ray.put(packed), change.pair, change.shape)
        return self._sent[change]

    def _kind(self, cores: int) -> tuple[type[ModelWorker], tuple[Any, ...]]:
        return PlanWorker, (usable_cores(), self._mapped)


class OnCluster:
    """A `Measures` on one text."""

    def __init__(self, cluster: PlanCluster, ids: Tensor) -> None:
        self._cluster, self._ids = cluster, ids

    def whole(self, plan: Mapping[str, Change]) -> Generator[float, None, Tally]:
        (tally,) = self._cluster.whole([(self._ids, plan)])
        yield 2.0  # full precision and the plan
        return tally

    def moved(self, plan: Mapping[str, Change], moves: Sequence[Move]) -> Iterator[Tally]:
        return self._cluster.moved(self._ids, plan, moves)


@contextlib.contextmanager
def plan_cluster(address: str | None, loaded: LoadedModel, cancel: Cancel) -> Iterator[PlanCluster | None]:
    """The cluster at an address (see `joined`) for the length of the block; None without one."""
    if address is None:
        yield None
        return
    with joined(address) as ray:
        yield PlanCluster(ray, loaded, cancel)
