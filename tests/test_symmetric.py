"""Products by one half of a symmetric matrix, against whole ones in float64."""

import pytest
import torch

from kl_lens_desktop.quant.symmetric import add_second_moment, mirror, row_errors

SIZES = [1, 200, 256, 257, 700]


@pytest.mark.parametrize("channels", SIZES)
def test_errors_of_rows_are_those_of_the_whole_matrix(channels: int) -> None:
    rows = torch.randn(300, channels, generator=torch.Generator().manual_seed(channels))
    error, moment = rows[:7], rows.t() @ rows
    wanted = torch.einsum("rc,cd,rd->r", error.double(), moment.double(), error.double())
    torch.testing.assert_close(row_errors(error, moment).double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", SIZES)
def test_a_second_moment_is_added_up_by_its_upper_half(channels: int) -> None:
    rows = torch.randn(90, channels, generator=torch.Generator().manual_seed(channels))
    total = torch.zeros(channels, channels)
    for part in rows.split(40):
        add_second_moment(total, part)
    mirror(total)
    assert torch.equal(total, total.t())
    torch.testing.assert_close(total.double(), rows.double().t() @ rows.double(), rtol=1e-4, atol=1e-4)
