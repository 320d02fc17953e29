"""Whether the window stays smooth while jobs run, and small however many it has run.

    python -m tests.benchmarks.bench_window granite               # compresses a model of 340 M once
    python -m tests.benchmarks.bench_window sample --minutes 60   # the sample, over and over

A timer is to tick every 16 ms in the thread that draws. A tick is late if it comes a whole turn late; how
long the thread was ready and had no core is no fault of the window's, so figures are also given without it.
Private memory is that of the window's process: the jobs have their own.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

TICK_MS = 16
LATE_MS = 2 * TICK_MS
BLOCKED_MS = 100
_LONG_S = 6 * 3600.0
_SETTLE_S = 5.0


@dataclass
class Ticks:
    """Milliseconds between each two ticks: by the clock, and without waiting for a core."""

    all_ms: "array[float]" = field(default_factory=lambda: array("d"))
    own_ms: "array[float]" = field(default_factory=lambda: array("d"))

    def line(self) -> str:
        """How many were in time, and the longest."""
        return "; ".join(
            f"{name}: {statistics.mean(ms < LATE_MS for ms in times):.2%} in time, "
            f"longest {max(times):.0f} ms, {sum(ms > BLOCKED_MS for ms in times)} above {BLOCKED_MS} ms"
            for name, times in (("by the clock", self.all_ms), ("of its own", self.own_ms))
        )


def main() -> None:
    from tests.benchmarks.bench_export import SHAPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=["sample", *SHAPES])
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no further job after these")
    parser.add_argument("--small", action="store_true", help="the smallest analysis and benchmark there are")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        _build(options.model, options.build)
        return
    with tempfile.TemporaryDirectory(prefix="kl-lens-window-", ignore_cleanup_errors=True) as folder:
        os.environ["KL_LENS_HOME"] = str(Path(folder) / "home")
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        model = options.model
        if model != "sample":  # built in a process of its own, so that its memory is not the window's
            place = str(Path(folder) / "model")
            build = [sys.executable, "-m", "tests.benchmarks.bench_window", model, "--build", place]
            subprocess.run(build, check=True)
            model = place
        _jobs(model, options.minutes, options.small)


def _build(shape: str, folder: Path) -> None:
    from tests.benchmarks.bench_export import build_shape
    from tests.models import saved

    saved(build_shape(shape).bfloat16(), folder)


def _jobs(model: str, minutes: float, small: bool) -> None:
    """Compress the model, again from nothing while there are minutes left, and print what the window did."""
    from PySide6.QtCore import Qt, QTimer

    from kl_lens_desktop.gui.shell.self_test import SHORT_ANALYSIS, SHORT_BENCHMARK
    from kl_lens_desktop.gui.state.session import QUICK
    from tests.contact_sheet import opened_window, wait
    from tests.gui.test_analysis import waited_for_a_core_s

    ticks: defaultdict[str, Ticks] = defaultdict(Ticks)
    with opened_window() as window:
        session = window.session
        last = [time.perf_counter(), waited_for_a_core_s()]

        def tick() -> None:
            now, waited = time.perf_counter(), waited_for_a_core_s()
            here = ticks[session.running_page or "between jobs"]
            here.all_ms.append(1000 * (now - last[0]))
            here.own_ms.append(1000 * (now - last[0] - (waited - last[1])))
            last[:] = now, waited

        session.effort = QUICK
        session.open_model(model)
        wait(lambda: session.model is not None and not session.job.running, _LONG_S)
        if small:
            session.set_analysis(SHORT_ANALYSIS)
            session.settings.benchmark = SHORT_BENCHMARK
        timer = QTimer(interval=TICK_MS, timerType=Qt.TimerType.PreciseTimer)
        timer.timeout.connect(tick)
        started, memory = time.monotonic(), []
        while not memory or time.monotonic() - started < 60 * minutes:
            # The Benchmark page may have begun to look for devices.
            wait(lambda: not session.job.running, _LONG_S)
            shutil.rmtree(session.workspace.folder, ignore_errors=True)
            session.forget_results()
            wait(lambda: False, 1.0)
            last[:] = time.perf_counter(), waited_for_a_core_s()
            timer.start()
            ended = _compressed(window, wait)
            timer.stop()
            wait(lambda: False, _SETTLE_S)
            memory.append(_private_mb())
            after = (time.monotonic() - started) / 60
            print(f"job {len(memory)} {ended} after {after:.1f} min: {memory[-1]:.1f} MB", flush=True)
            if ended != "finished":
                sys.exit("a job did not end well, so the figures say nothing")
    for page, its in ticks.items():
        print(f"{page}, {len(its.all_ms)} ticks: {its.line()}")
    together = Ticks()
    for its in ticks.values():
        together.all_ms += its.all_ms
        together.own_ms += its.own_ms
    print(f"all, {len(together.all_ms)} ticks: {together.line()}")
    if len(memory) > 1:
        print(f"memory: {memory[0]:.1f} MB after the first job, {memory[-1]:.1f} MB after {len(memory)}")


def _compressed(window: Any, wait: Any) -> str:
    """How a whole job ended; the window turns to the page of each stage, as it does for a person."""
    how: list[str] = []
    ended = window.session.job.ended
    ended.connect(how.append)
    window.compress.click()
    wait(lambda: bool(how), _LONG_S)
    ended.disconnect(how.append)
    return how[0]


def _private_mb() -> float:
    from kl_lens_desktop.process.memory import private_bytes

    return private_bytes(psutil.Process().memory_info()) / 2**20


if __name__ == "__main__":
    main()
