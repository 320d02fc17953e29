"""How long tests take, and what follows from it: which of them are quick, and which ones start first.

`durations.json` holds the processor time of all tests that take longer than a moment, that of their children
included: other programs hardly change it. After a change that makes tests slower or adds slow ones, write it
anew with ``python installer/launch.py test --record-durations``.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

DURATIONS = Path(__file__).with_name("durations.json")
PROPERTY = "processor_s"
MOMENT_S = 0.2  # shorter ones are not recorded
QUICK_SHARE = 0.002  # of the time of all tests: ``launch.py test --fast`` runs the shortest that take no more

# Made once for a file and dear: all tests of the file that use one run on the same worker, one after another.
# What else has the scope of a module is made again whenever tests of other files come between.
TOGETHER = {
    "loaded",
    "bench",
    "poor",
    "events",
    "benched",
    "chooser",
    "stressed",
    "motley",
    "experts",
    "told",
    "alone",
    "walked",
}

# Whoever uses one of these first waits for an analysis, an export or the emulated GPU.
DEAR = {
    "sample_ir",
    "short_ir",
    "export_sample",
    "emulated_gpu",
    "poor",
    "stressed",
    "motley",
    "experts",
    "chooser",
    "events",
    "benched",
    "told",
}


def arrange(items: list[pytest.Item]) -> None:
    """Say which tests stay on one worker and which are not quick, and let the longest begin."""
    seconds = recorded()
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        assert isinstance(item, pytest.Function)
        group = _group(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
        groups[group or item.nodeid].append(item)
    # What a group makes once counts for each of it: whichever runs first makes it.
    time = {name: sum(seconds.get(item.nodeid, 0) for item in group) for name, group in groups.items()}
    longest_quick = _longest_quick(time)
    for name, group in groups.items():
        for item in group:
            assert isinstance(item, pytest.Function)
            if time[name] > longest_quick or DEAR.intersection(item.fixturenames):
                item.add_marker(pytest.mark.whole)
    items[:] = [item for name in sorted(groups, key=lambda name: -time[name]) for item in groups[name]]


def _longest_quick(time: dict[str, float]) -> float:
    """The time of the longest group that is quick: by a share of the whole, whatever the machine's speed."""
    left, longest = QUICK_SHARE * sum(recorded().values()), 0.0
    for each in sorted(time.values()):
        left -= each
        if left < 0:
            break
        longest = each
    return longest


def _group(item: pytest.Function) -> str | None:
    if TOGETHER.intersection(item.fixturenames):
        return item.path.name
    family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
    # What a file traces of a family, all its tests of that family use.
    return f"{item.path.name} {family}" if family else None


def recorded() -> dict[str, float]:
    """Seconds by the name of a test."""
    return json.loads(DURATIONS.read_text(encoding="utf-8"))["seconds"]


class Stopwatch:
    """A plugin for every process that runs tests: reports say how much processor time each part took."""

    def __init__(self) -> None:
        self._before = _processor_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Of setting up, running or taking down, which has just ended."""
        report = yield
        now = _processor_s()
        report.user_properties.append((PROPERTY, now - self._before))
        self._before = now
        return report


class Recorder:
    """A plugin that writes how long tests took, those that were not run keeping what was known of them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a part of a test."""
        name = re.sub(r"@[^\]]*$", "", report.nodeid)  # without the worker's group
        self._seconds[name] += dict(report.user_properties)[PROPERTY]

    def pytest_sessionfinish(self) -> None:
        """Write what takes longer than a moment, sorted so that changes are seen."""
        every = {**recorded(), **self._seconds}
        long = {name: round(each, 1) for name, each in sorted(every.items()) if each > MOMENT_S}
        found = {"about": "seconds of processor time; see tiers.py", "seconds": long}
        DURATIONS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _processor_s() -> float:
    """Of this process and of the children that it has waited for."""
    return sum(os.times()[:4])
