"""The fast scans are the stock ones, for whole sequences and from a state."""

import pytest
import torch

from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.kernels.selective_scan.fast import selective_scan
from tests.models import build


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "zamba", "jamba", "nemotron_h"])
def test_logits_with_the_fast_scan(family: str) -> None:
    model = build(family)
    ids = torch.randint(1, 4000, (2, 70), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        stock = model(ids, use_cache=False).logits
        with fast_kernels(model):
            fast = model(ids, use_cache=False).logits
        again = model(ids, use_cache=False).logits
    assert (fast - stock).abs().max() < 2e-5 * stock.std()
    assert torch.equal(stock, again), "the modelling module is as it was"


def test_the_selective_scan_continues_from_a_state() -> None:
    generator = torch.Generator().manual_seed(4)
    batch, channels, size, tokens = 2, 6, 4, 41
    x, dt = (torch.randn(batch, channels, tokens, generator=generator) for _ in range(2))
    B, C = (torch.randn(batch, size, tokens, generator=generator) for _ in range(2))
    A = -torch.rand(channels, size, generator=generator)
    whole, last = selective_scan(x, dt, A, B, C, delta_softplus=True, return_last_state=True)
    pieces, state = [], None
    for cut in (slice(0, 20), slice(20, 21), slice(21, tokens)):
        y, state = selective_scan(
            *(x[..., cut], dt[..., cut], A, B[..., cut], C[..., cut]),
            delta_softplus=True,
            return_last_state=True,
            initial_state=state,
        )
        pieces.append(y)
    assert torch.allclose(torch.cat(pieces, -1), whole, atol=1e-5)
    assert torch.allclose(state, last, atol=1e-5)
