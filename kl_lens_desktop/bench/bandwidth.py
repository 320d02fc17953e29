"""How fast this computer reads memory: decoding reads every weight for every token, and is no faster."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from kl_lens_desktop.bench.jobs import MemoryReadJob
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event

_BYTES = 2**30  # far beyond the caches of a laptop
_SHARE = 0.2  # of the free memory, where that is less
_REPEATS = 7


def read_memory(job: MemoryReadJob, cancel: Cancel) -> Iterator[Event]:
    """Sum a large array with all cores, several times; the best is what `jobs.MemoryRead` holds."""
    threads = os.cpu_count() or 1
    size = int(min(_BYTES, _SHARE * psutil.virtual_memory().available)) // (8 * threads)
    parts = [np.ones(size, dtype=np.int64) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            cancel.check()
            started = time.perf_counter()
            list(pool.map(np.sum, parts))  # releases Python's lock while it reads
            best = max(best, 8 * size * threads / (time.perf_counter() - started))
    yield job.finished({"gb_s": best / 1e9})
