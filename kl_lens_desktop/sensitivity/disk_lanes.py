"""Several threads that run a model whose weights stay on disk, over the same widened block.

As with `lanes`, each thread computes a pass of its own with modules of its own, and waits for no other until
the block is done. An operation that all threads share waits for the slowest of them, which other programs
hold up.
"""

import contextlib
import functools
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Self, TypeVar

import torch
from transformers import PreTrainedModel

from kl_lens_desktop.model.by_block import ByBlock
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity.lanes import result

BATCH_TOKENS = 256  # that pass a block at a time in one lane
COMPUTED = 8  # elements that a block holds for each of them and each row of its matrices, about
COMPUTED_ELEMENTS = 2**28  # in all lanes, 1 GB
Item = TypeVar("Item")
T = TypeVar("T")


class DiskLanes:
    """As many lanes as there are cores to use, or fewer with more threads each where blocks are large.

    Entered while anything is computed; to enter it once more inside changes nothing.

    Parameters
    ----------
    model : PreTrainedModel
        As `load.open_model` gives it.
    cancel : Cancel

    Attributes
    ----------
    main : ByBlock
        The model itself.
    count : int
    """

    def __init__(self, model: PreTrainedModel, cancel: Cancel) -> None:
        self._cores = torch.get_num_threads()
        self.main = ByBlock(model, cancel)
        rows = max(sum(len(p) for p in block.parameters() if p.dim() == 2) for block in self.main.blocks)
        most = COMPUTED_ELEMENTS // (COMPUTED * BATCH_TOKENS * rows)
        # Where experts take turns in memory, a lane would change one that another computes with.
        self.count = max(1, min(self._cores, most)) if self.main.holds_all_experts else 1
        self._lanes = [self.main.beside() for _ in range(self.count)] if self.count > 1 else []
        self._free: queue.SimpleQueue[ByBlock] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._open = contextlib.ExitStack()
        self._entered = 0

    def __enter__(self) -> Self:
        self._entered += 1
        if self._entered == 1:
            with contextlib.ExitStack() as stack:
                for lane in (self.main, *self._lanes):
                    stack.enter_context(lane)
                begin = functools.partial(torch.set_num_threads, self._cores // self.count)
                self._pool = stack.enter_context(ThreadPoolExecutor(self.count, "disk-lane", begin))
                self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if not self._entered:
            self._open.close()

    def each(self, run: Callable[[ByBlock, Item], T], items: Sequence[Item]) -> list[T]:
        """What `run` gives for each item in some lane; for a single item, in the main one with all threads.

        What runs at the same time must see the same changes in a block, as `ByBlock.beside` says.
        """
        if len(items) == 1 or not self._lanes:
            return [run(self.main, item) for item in items]
        futures = [self._pool.submit(self._in_a_lane, run, item) for item in items]
        try:
            return [result(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)

    def _in_a_lane(self, run: Callable[[ByBlock, Item], T], item: Item) -> T:
        lane = self._free.get()
        try:
            with torch.no_grad():
                return run(lane, item)
        finally:
            self._free.put(lane)
