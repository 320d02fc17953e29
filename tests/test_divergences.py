"""KL divergence is computed twice, by torch while scoring and by NumPy on devices: both say the same."""

import numpy as np
import pytest
import torch

from kl_lens_desktop.bench import divergence
from kl_lens_desktop.sensitivity.metrics import Tally, reference


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 1.0])
def test_scores_and_benchmarks_measure_the_same_divergence(distance: float) -> None:
    generator = np.random.default_rng(5)
    windows, window, vocabulary = 3, 32, 4096
    logits = generator.normal(0, 3, (windows * window, vocabulary)).astype(np.float32)
    other = logits + generator.normal(0, distance, logits.shape).astype(np.float32)
    labels = generator.integers(0, vocabulary, len(logits))
    labels[window - 1 :: window] = -1

    rows = torch.arange(windows).repeat_interleave(window)
    tally = Tally(windows, window)
    tally.add(reference(torch.from_numpy(logits), torch.from_numpy(labels), rows), torch.from_numpy(other))

    (log_p, p), (log_q, _) = divergence.probabilities(logits), divergence.probabilities(other)
    forward, backward = (each.mean() for each in divergence.kl_both_ways(log_p, p, log_q))
    known = labels >= 0
    nats = divergence.token_nats(log_q[known], labels[known]).mean()
    scored = tally.estimates()
    assert scored["kl_pq"].mean == pytest.approx(forward, rel=1e-3)
    assert scored["kl_qp"].mean == pytest.approx(backward, rel=2e-3)
    assert np.log(tally.perplexity().mean) == pytest.approx(nats, rel=1e-5)
