"""Numbers as the window writes them."""

import time

import pytest

from kl_lens_desktop import quantities
from kl_lens_desktop.plan.verdict import STEPS, Threshold, verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0041, "0.00410"),
        (1.8e-4, "1.80e-4"),
        (12.34, "12.3"),
        (1096, "1,096"),
        (-0.5, "-0.500"),
        (float("nan"), "–"),
        (12345678, "12,345,678"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert quantities.significant(value) == text


@pytest.mark.parametrize(
    ("mean", "se", "text"),
    [
        (0.0041, 0.0002, "0.00410 ± 0.00020"),
        (7.38e-4, 2.3e-5, "7.38e-4 ± 0.23e-4"),
        (71.6, 2.8, "71.6 ± 2.8"),
        (50.697, 0.0049, "50.7 ± 0.005"),
        (332.2, 43.1, "332 ± 43"),
        (12.3, 0, "12.3"),
        (0, 0.12, "0.00 ± 0.12"),
        (-0.0012, 0.0030, "-0.00120 ± 0.00300"),
    ],
)
def test_an_error_stands_beside_its_mean_in_the_same_digits(mean: float, se: float, text: str) -> None:
    assert quantities.plus_minus(mean, se) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (45, "45 s"), (130, "2 min 10 s"), (3900, "1 h 05 min")]
)
def test_times_are_read_aloud(seconds: float, text: str) -> None:
    assert quantities.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 B"), (557_000, "557 kB"), (15_900_000, "15.9 MB"), (8_450_000_000, "8.45 GB")]
)
def test_sizes_have_decimal_units(size: float, text: str) -> None:
    assert quantities.size(size) == text


def test_counts_of_parameters() -> None:
    assert quantities.parameters(7_970_000) == "7.97 M"
    assert quantities.parameters(1_200_000_000) == "1.20 B"


@pytest.mark.parametrize("step", STEPS)
def test_a_share_is_not_rounded_up_to_a_verdict_that_it_misses(step: Threshold) -> None:
    just, below = step.unchanged, step.unchanged - 0.004
    assert quantities.unchanged(just) == f"{100 * just:.0f} %"
    assert quantities.unchanged(below) == f"{100 * just - 1:.0f} %"
    assert verdict(0.0, below) != step.words


@pytest.mark.parametrize(
    ("share", "text"), [(0.9, "90 %"), (0.997, "99.7 %"), (0.99996, "99.99 %"), (1, "100.00 %")]
)
def test_a_share_has_as_many_digits_as_show_what_is_missing(share: float, text: str) -> None:
    assert quantities.unchanged(share) == text


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system's time zone cannot be changed here")
def test_times_are_told_by_this_computers_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert quantities.local_time("2026-11-25T16:33:32+00:00") == "26 Nov 2026, 01:33"
        assert quantities.local_time("<b>soon</b>") == "<b>soon</b>"
        assert quantities.local_time("0001-01-01T00:00:00+23:59") == "0001-01-01T00:00:00+23:59"
    finally:
        monkeypatch.undo()
        time.tzset()
