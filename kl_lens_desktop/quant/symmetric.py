"""Products with symmetric matrices by one half of them and their diagonal, in little over half the time.

torch has no such products of its own. A matrix of up to `_COLUMNS` columns is multiplied whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_COLUMNS = 256  # at a time


def row_errors(error: Tensor, second_moment: Tensor) -> Tensor:
    """δw·H·δwᵀ of each row of an error (rows, channels), for a second moment H (channels, channels)."""
    errors = torch.zeros(len(error), dtype=error.dtype, device=error.device)
    for cut in _cuts(error.shape[1]):
        own = error[:, cut]
        products = own @ second_moment[cut, cut]
        if cut.start:
            products.addmm_(error[:, : cut.start], second_moment[: cut.start, cut], alpha=2)
        errors += products.mul_(own).sum(-1)
    return errors


def add_second_moment(total: Tensor, rows: Tensor) -> None:
    """Add XᵀX of rows X (tokens, channels) to the upper half of a sum (channels, channels), see `mirror`."""
    for cut in _cuts(rows.shape[1]):
        total[: cut.stop, cut].addmm_(rows[:, : cut.stop].t(), rows[:, cut])


def mirror(total: Tensor) -> None:
    """Make the lower half of a matrix what its upper half is, in place."""
    for cut in _cuts(len(total)):
        total[cut.stop :, cut] = total[cut, cut.stop :].t()


def _cuts(channels: int) -> Iterator[slice]:
    for start in range(0, channels, _COLUMNS):
        yield slice(start, min(start + _COLUMNS, channels))
