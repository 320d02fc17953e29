"""How fast the machine that the tests run on is at the moment, for bars given in seconds of the clock."""

import time

NOMINAL_S = 0.008  # what the work below takes on an idle core of the machine that the bars were set on


def slowness() -> float:
    """How many times as long as on an idle core of that machine a fixed piece of work takes; from 1 to 20.

    The mean, so that time spent waiting for a core counts, as it does in what is timed.
    """
    return min(max(1.0, sum(_work_s() for _ in range(12)) / 12 / NOMINAL_S), 20.0)


def _work_s() -> float:
    started = time.perf_counter()
    counts: dict[int, int] = {}
    for number in range(60_000):
        counts[number % 1009] = counts.get(number % 1009, 0) + number
    return time.perf_counter() - started
