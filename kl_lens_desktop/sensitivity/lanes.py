"""Several weights measured at once, each by a thread with modules of its own over the same memory.

The operations of one forward pass are too short to be shared well between cores: the threads wait for one
another at the end of each. A pass a core keeps them busy, and then no sum depends on how it was split.
"""

import collections
import copy
import functools
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.model.inventory import blocks, weight_parameters
from kl_lens_desktop.process.cancel import Cancel

HELD_ELEMENTS = 2**26  # of rounded weights at a time in all lanes, 256 MB
_INTERRUPTIBLE_S = 0.2  # on Windows an endless wait lets no interrupt from the keyboard through
T = TypeVar("T")


class Lane:
    """A model's modules once more, over the same weights: one thread changes them unseen by the others.

    Parameters
    ----------
    model : PreTrainedModel
    cancel : Cancel
        Checked before every block, so that even a large model answers within a second.

    Attributes
    ----------
    model : PreTrainedModel
    blocks : ModuleList
    parameters : dict of str to Parameter
        By every name they have, as `model.inventory.weight_name` gives it.
    closed : bool
        Whether what it still does is of no use.
    """

    def __init__(self, model: PreTrainedModel, cancel: Cancel) -> None:
        self._cancel = cancel
        self.closed = False
        shared: dict[int, object] = {
            id(each): nn.Parameter(each.data, requires_grad=False) for each in model.parameters()
        }
        shared |= {id(each): each for each in model.buffers()}
        self.model = copy.deepcopy(model, shared)
        self.blocks = blocks(self.model)
        self.parameters = weight_parameters(self.model)
        for block in self.blocks:
            block.register_forward_pre_hook(self._stop_if_cancelled)

    def wait(self) -> None:
        """Until the job is resumed, if it is paused."""
        self._cancel.check()

    def _stop_if_cancelled(self, *_: object) -> None:
        if self.closed or self._cancel.cancelled:
            raise Cancelled

    @contextmanager
    def swapped(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Exchange the values of parameters, without a copy, for the length of the block."""
        parameters = {self.parameters[name]: value for name, value in values.items()}
        kept = {parameter: parameter.data for parameter in parameters}
        try:
            for parameter, value in parameters.items():
                parameter.data = value
            yield
        finally:
            for parameter, value in kept.items():
                parameter.data = value


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """Something to do in a lane, and the elements of the rounded weight it holds meanwhile."""

    run: Callable[[Lane], T]
    held: int


class Lanes:
    """As many lanes as there are cores to use, or fewer with more threads each where weights are large.

    Parameters
    ----------
    model : PreTrainedModel
        On a CPU; for another device there is one lane.
    cancel : Cancel
        Checked before every block.
    """

    def __init__(self, model: PreTrainedModel, cancel: Cancel) -> None:
        cores = torch.get_num_threads() if model.device.type == "cpu" else 1
        # Stacks of experts are few: where they are too large for a lane they run alone.
        matrices = (each for each in blocks(model).parameters() if each.dim() == 2)
        largest = max(matrix.numel() for matrix in matrices)
        self.count = max(1, min(cores, HELD_ELEMENTS // largest))
        self.main = Lane(model, cancel)
        self._lanes = [Lane(model, cancel) for _ in range(self.count)]
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        # The number of threads is each thread's own, once it was asked for.
        begin = functools.partial(torch.set_num_threads, cores // self.count)
        self._pool = ThreadPoolExecutor(self.count, "lane", begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.closed = True
        self._pool.shutdown(cancel_futures=True)

    def in_order(self, jobs: Iterable[Work[T]]) -> Iterator[T]:
        """The results of `jobs` one by one; a job is drawn only when its turn is near.

        One that holds more than a lane's share runs alone, with all threads.
        """
        waiting: collections.deque[Future[T]] = collections.deque()
        for job in jobs:
            alone = job.held > HELD_ELEMENTS // self.count
            while waiting and (alone or len(waiting) > 2 * self.count):
                yield result(waiting.popleft())
            if alone:
                yield job.run(self.main)
            else:
                waiting.append(self._pool.submit(self._run, job))
        while waiting:
            yield result(waiting.popleft())

    def _run(self, job: Work[T]) -> T:
        lane = self._free.get()
        try:
            with torch.no_grad():
                return job.run(lane)
        finally:
            self._free.put(lane)


def result(future: Future[T]) -> T:
    """What `future` gives, once it does; until then an interrupt is heard."""
    while not future.done():
        wait([future], timeout=_INTERRUPTIBLE_S)
    return future.result()
