"""A long job keeps the computer awake, and gives that back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from wakepy import keep

from kl_lens_desktop.bench.environment import power
from kl_lens_desktop.bench.jobs import DevicesJob
from kl_lens_desktop.cli.console import finish
from kl_lens_desktop.hub.jobs import PullJob
from kl_lens_desktop.jobs import NAMES, job_type
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.awake import awake, battery_notes
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.sensitivity.jobs import AnalyzeJob


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the system, in its place."""
    said: list[str] = []

    @contextmanager
    def running(on_fail: str) -> Iterator[SimpleNamespace]:
        assert on_fail == "pass", "a desktop without such a service is no reason to stop"
        said.append("held")
        try:
            yield SimpleNamespace(active=True)
        finally:
            said.append("released")

    monkeypatch.setattr(keep, "running", running)
    return said


def test_a_long_job_holds_off_sleep_until_it_ends(held: list[str], tmp_path: Path) -> None:
    job = AnalyzeJob("sample", tmp_path / "scores.json")
    with awake([InspectJob("sample"), job]) as done:
        assert done
        assert held == ["held"]
    assert held == ["held", "released"]
    with pytest.raises(RuntimeError), awake([job]):
        raise RuntimeError
    assert held == ["held", "released"] * 2


def test_short_jobs_and_unwilling_persons_do_not(held: list[str], tmp_path: Path) -> None:
    with awake([InspectJob("sample"), DevicesJob()]) as done:
        assert not done
    with awake([AnalyzeJob("sample", tmp_path / "scores.json")], wanted=False) as done:
        assert not done
    assert held == []


def test_the_command_line_does(held: list[str]) -> None:
    finish(PullJob("sample"), perform)
    assert held == ["held", "released"]


@pytest.mark.parametrize("plugged", [True, False, None])
def test_on_battery_a_long_job_says_so(
    plugged: bool | None, held: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    battery = SimpleNamespace(percent=80, secsleft=3600, power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery)
    assert [bool(list(battery_notes([job]))) for job in (PullJob("sample"), InspectJob("sample"))] == [
        plugged is False,
        False,
    ]
    finish(PullJob("sample"), perform)
    assert ("Plug it in" in capsys.readouterr().err) == (plugged is False)


def test_a_computer_without_a_battery_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
    assert not list(battery_notes([PullJob("sample")]))
    monkeypatch.delattr(psutil, "sensors_battery")
    assert not list(battery_notes([PullJob("sample")]))


def test_a_container_without_the_folder_of_batteries_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/sys/class/power_supply")

    monkeypatch.setattr(psutil, "sensors_battery", refused, raising=False)
    assert not list(battery_notes([PullJob("sample")]))
    assert power() == "unknown"


def test_without_a_service_of_the_desktop_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    with awake([AnalyzeJob("sample", tmp_path / "scores.json")]) as done:
        assert done in (True, False)


def test_every_job_that_writes_results_is_a_long_one() -> None:
    long = {name for name in NAMES if job_type(name).LONG}
    assert {"analyze", "run", "export", "export-all", "bench", "verify", "baselines", "pull"} <= long
    assert not long & {"inspect", "devices", "chat"}
