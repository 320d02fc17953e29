"""The time left follows from the work left and what its parts have taken."""

import pytest

from kl_lens_desktop.sensitivity.pace import Cost, Pace, Timing

EARLY, LATE = ("early.weight", "int8_sym"), ("late.weight", "int8_sym")
# 0.1 s a token and block, or head; 0.4 ms an element
TIMING = Timing(rounding_s=0.4, rounded=1000, trunk_s=8.0, trunk_work=80, head_s=2.0, head_work=20)


def test_blocks_heads_rounding_and_the_clean_model_each_count() -> None:
    pace, costs = Pace(1, 10, 4), {EARLY: Cost(8, 1000), LATE: Cost(0, 500)}
    assert pace.left({EARLY: 0, LATE: 0}, [16], costs) is None
    assert pace.of(costs[EARLY], 4) is None
    pace.measured(TIMING)
    pace.opened(4, 2.0)
    early, late, clean = 16 * (8 + 1 + 0.1), 12 * (1 + 0.05), 16 * 0.5
    assert pace.left({EARLY: 0, LATE: 4}, [16], costs) == pytest.approx(early + late + 12 * 0.5)
    assert pace.left({EARLY: 0}, [16], costs) == pytest.approx(early + clean)
    assert pace.left({EARLY: 16, LATE: 16}, [16], costs) == 0
    assert pace.of(costs[LATE], 12) == pytest.approx(late)


def test_lanes_share_the_entries_and_not_the_clean_model() -> None:
    pace, costs = Pace(2, 10, 4), {EARLY: Cost(8, 1000)}
    pace.measured(TIMING)
    pace.opened(4, 2.0)
    assert pace.left({EARLY: 0}, [16], costs) == pytest.approx(16 * (8 + 1 + 0.1) / 2 + 16 * 0.5)


def test_racing_expects_some_to_stop() -> None:
    pace, costs = Pace(1, 10, 4), {EARLY: Cost(8, 1000)}
    pace.measured(TIMING)
    whole, first = pace.left({EARLY: 0}, [16], costs), pace.left({EARLY: 0}, [4], costs)
    raced = pace.left({EARLY: 0}, [4, 8, 16], costs)
    assert whole is not None
    assert first is not None
    assert raced is not None
    assert first < raced < 0.7 * whole
