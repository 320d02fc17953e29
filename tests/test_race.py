"""Racing stops what is clear, keeps measuring what is not, and is wrong no oftener than it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kl_lens_desktop.sensitivity import decision, race
from kl_lens_desktop.sensitivity.ledger import order_of, stages

WINDOWS = 64


def _series(means: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Window means of entries with known means: windows differ in common, and each entry in its own way."""
    common = generator.lognormal(0, 0.3, WINDOWS)
    own = generator.lognormal(0, 0.15, (len(means), WINDOWS))
    return means[:, None] * common * own


def _raced(series: np.ndarray) -> list[int]:
    """How many windows each entry was measured on."""
    counts = [WINDOWS] * len(series)
    racing = list(range(len(series)))
    for look, windows in enumerate(race.looks(WINDOWS)[:-1]):
        seen = [row[: min(windows, count)] for row, count in zip(series, counts, strict=True)]
        for index in race.settled(seen, racing, look):
            counts[index] = windows
            racing.remove(index)
    return counts


def test_looks_double_and_their_error_probabilities_add_up() -> None:
    assert race.looks(16) == [4, 8, 16]
    assert race.looks(20) == [4, 8, 16, 20]
    assert race.looks(3) == [3]
    assert sum(race.level(look) for look in range(50)) == pytest.approx(1 - race.CONFIDENCE)


def test_a_pair_is_called_wrongly_no_oftener_than_stated() -> None:
    """Two entries of the same mean, looked at again and again: 5 % a look would add up to far more."""
    generator = np.random.default_rng(1)
    pairs, called, naive = 1500, 0, 0
    for _ in range(pairs):
        series = _series(np.ones(2), generator)
        clear = plain = False
        for look, windows in enumerate(race.looks(WINDOWS)[:-1]):
            low, high = race.interval(series[:1, :windows], series[1:, :windows], look)
            clear |= bool(low[0, 0] > 0 or high[0, 0] < 0)
            low, high = race.interval(series[:1, :windows], series[1:, :windows], 0, confidence=0.9)
            plain |= bool(low[0, 0] > 0 or high[0, 0] < 0)
        called += clear
        naive += plain
    assert called / pairs < 1 - race.CONFIDENCE + 0.012
    assert naive > 1.5 * called, "correcting for the looks must cost something, or it does nothing"


def test_it_saves_half_the_work_and_keeps_the_ranking() -> None:
    from scipy.stats import kendalltau  # takes two seconds to load

    generator = np.random.default_rng(2)
    means = np.exp(generator.uniform(-9, -3, 120))
    series = _series(means, generator)
    counts = _raced(series)
    early = np.array([row[:count].mean() for row, count in zip(series, counts, strict=True)])
    full = series.mean(1)
    assert np.mean(counts) < 0.5 * WINDOWS
    assert kendalltau(early, full).statistic > 0.95
    assert set(np.argsort(-full)[:10]) <= set(np.argsort(-early)[:12])


def test_a_settled_decision_is_that_of_the_true_means_at_every_budget_nearby() -> None:
    generator = np.random.default_rng(5)
    means = np.exp(generator.uniform(-12, 0, 60))
    sizes = np.tile([16.0, 8.0, 4.0], (60, 1))
    true = np.stack([np.zeros(60), means / 200, means], 1)
    budgets = [share * 60 * 5.0 for share in (0.95, 1, 1.05)]
    best = np.array([(true + decision.price_of_a_byte(true, sizes, b) * sizes).argmin(1) for b in budgets])
    for _ in range(20):
        fine, coarse = (_series(values, generator)[:, :8].tolist() for values in (means / 200, means))
        found = decision.decided(sizes, list(zip(fine, coarse, strict=True)), budgets[1], look=1)
        assert 30 < len(found) < 60
        assert (best[:, found] == best[0, found]).all()
    assert decision.decided(sizes, list(zip(fine, coarse, strict=True)), 200, look=1) == []


def test_prices_are_the_lowest_that_fit() -> None:
    means, sizes = np.array([[0.0, 1.0, 6.0], [0.0, 0.1, 0.3]]), np.array([[16.0, 8.0, 4.0]] * 2)
    assert decision.price_of_a_byte(means, sizes, 32) == 0
    assert decision.price_of_a_byte(means, sizes, 24) == pytest.approx(0.1 / 8)
    assert decision.price_of_a_byte(means, sizes, 20) == pytest.approx(0.2 / 4)
    assert decision.price_of_a_byte(means, sizes, 7) is None


def test_a_settled_decision_stops_an_entry_sooner() -> None:
    series = _series(np.exp(np.linspace(-3, 0, 24)), np.random.default_rng(6))[:, :8].tolist()
    every = range(24)
    plain, sooner = race.settled(series, every, 1), race.settled(series, every, 1, decided=every)
    assert set(plain) < set(sooner)


def test_equals_at_the_top_are_measured_to_the_end() -> None:
    series = _series(np.array([*[1.0] * 8, *[1e-4] * 4]), np.random.default_rng(3))
    assert sum(count == WINDOWS for count in _raced(series)[:8]) >= 6


def test_no_change_at_all_is_the_clearest_last_place() -> None:
    series = np.vstack(
        [_series(np.exp(np.arange(0.0, 12.0, 2)), np.random.default_rng(4)), np.zeros(WINDOWS)]
    )
    assert _raced(series)[-1] == race.FIRST_LOOK


@settings(max_examples=50)
@given(st.lists(st.integers(2, 200), min_size=1, max_size=4), st.integers(0, 5))
def test_windows_come_once_each_and_longer_texts_begin_with_shorter_ones(
    counts: list[int], seed: int
) -> None:
    held: dict[str, object] = {}
    order: tuple[int, ...] = ()
    for count in sorted(set(counts)):
        held["stages"] = stages(held, count)
        longer = order_of(held["stages"], seed)  # type: ignore[arg-type]
        assert sorted(longer) == list(range(count))
        assert longer[: len(order)] == order
        order = longer
