"""How true "about N left" is over a whole job, from a tenth of it on, in jobs that really run.

    python -m tests.benchmarks.bench_course sample
    python -m tests.benchmarks.bench_course FOLDER --quick

The job runs twice from nothing, as Compress does. The first run knows only the arithmetic's speed; the second
also knows how long the first one's parts took, as the window does from the second job on.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kl_lens_desktop.course import Course, expected
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Finished, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.process.record import decode
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.estimate import Costs
from kl_lens_desktop.sensitivity.jobs import CalibrateJob

WITHIN, FROM = 0.3, 0.1
_EVERY_S = 0.5


@dataclass
class Told:
    """What was said at the start, and on the way: seconds since then, and seconds left."""

    at_first: float
    on_the_way: list[tuple[float, float]] = field(default_factory=list)
    took: float = 0.0

    def errors(self) -> list[float]:
        """Of the whole job's length as it was told after `FROM` of it, over the true one."""
        later = [(now, left) for now, left in self.on_the_way if now >= FROM * self.took]
        return [(now + left) / self.took - 1 for now, left in later]

    def line(self) -> str:
        errors = self.errors()
        right = statistics.mean(abs(error) <= WITHIN for error in errors)
        worst = max(errors, key=abs)
        return (
            f"{self.took:.0f} s, {self.at_first:.0f} s said before; from a tenth on {right:.0%} of the time "
            f"within {WITHIN:.0%}, median {statistics.median(map(abs, errors)):.0%}, worst {worst:+.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    weights = _answer(InspectJob(options.model))["weights"]
    costs = decode(Costs, _answer(CalibrateJob(options.model)))
    paces: Mapping[str, float] = {}
    for name in ("first job", "second job"):
        with tempfile.TemporaryDirectory() as out:
            job = RunJob(options.model, Path(out), devices=("CPU",))
            job = job.quick if options.quick else job
            course = Course(expected(costs, weights, job, paces=paces), tuple(paces))
            print(f"{name}: {_follow(job, course).line()}", flush=True)
            paces = course.paces()
            print("  paces of its parts:", ", ".join(f"{part} {pace:.2f}" for part, pace in paces.items()))


def _follow(job: RunJob, course: Course) -> Told:
    told, started, last = Told(course.left(0.0) or 0.0), time.monotonic(), 0.0
    for event in Child(job).events():
        now = time.monotonic() - started
        if isinstance(event, Progress):
            course.note(event, now)
        if now - last >= _EVERY_S and (left := course.left(now)) is not None:
            told.on_the_way.append((now, left))
            last = now
    told.took = time.monotonic() - started
    course.end(told.took)
    return told


def _answer(job: Job[Any]) -> Any:
    return next(event.result for event in Child(job).events() if isinstance(event, Finished))


if __name__ == "__main__":
    main()
