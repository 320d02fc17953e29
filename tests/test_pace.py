"""The time left follows from the work left and what its parts have taken."""

import pytest

from kl_lens_desktop.sensitivity.pace import Cost, Pace
from kl_lens_desktop.sensitivity.walk import Timing

EARLY, LATE = ("early.weight", "int8_sym"), ("late.weight", "int8_sym")


def test_blocks_heads_rounding_and_the_clean_model_each_count() -> None:
    pace = Pace(Timing(), 10, 4, {EARLY: Cost(8, 1000), LATE: Cost(0, 500)})
    assert pace.left({EARLY: 0, LATE: 0}, [16]) is None
    timing = Timing(trunk_s=8.0, trunk_work=80, head_s=2.0, head_work=20)  # 0.1 s a token and block, or head
    pace = Pace(timing, 10, 4, {EARLY: Cost(8, 1000), LATE: Cost(0, 500)})
    pace.rounded(1000, 0.4)
    pace.opened(4, 2.0)
    early, late, clean = 16 * (8 + 1 + 0.1), 12 * (1 + 0.05), 16 * 0.5
    assert pace.left({EARLY: 0, LATE: 4}, [16]) == pytest.approx(early + late + 12 * 0.5)
    assert pace.left({EARLY: 0}, [16]) == pytest.approx(early + clean)
    assert pace.left({EARLY: 16, LATE: 16}, [16]) == 0


def test_racing_expects_some_to_stop() -> None:
    timing = Timing(trunk_s=8.0, trunk_work=80, head_s=2.0, head_work=20)
    pace = Pace(timing, 10, 4, {EARLY: Cost(8, 1000)})
    whole, first = pace.left({EARLY: 0}, [16]), pace.left({EARLY: 0}, [4])
    raced = pace.left({EARLY: 0}, [4, 8, 16])
    assert whole is not None
    assert first is not None
    assert raced is not None
    assert first < raced < 0.7 * whole
