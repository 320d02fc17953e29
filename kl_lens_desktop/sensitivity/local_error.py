"""How much each format changes the outputs of a weight, without running the model: tr(δW·H·δWᵀ)."""

import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.model.inventory import Weight, weight_parameters
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.quant.formats import Format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.estimate import row_count
from kl_lens_desktop.sensitivity.lanes import result
from kl_lens_desktop.sensitivity.moments import Moment, Seen, second_moments, weighted_error
from kl_lens_desktop.sensitivity.scores import Pair

# The formats of a weight are compared on the same rows, of which a few hundred say as much as all of them.
_EXPERTS = 4  # of a stack
_DIGITS = 6  # in the file


def local_errors(
    model: PreTrainedModel, ids: Tensor, formats: Sequence[Format], cancel: Cancel, names: set[str]
) -> Iterator[tuple[Pair, float] | float]:
    """The local error of every weight of `names` in every format, and in between shares of the work done.

    Parameters
    ----------
    model : PreTrainedModel
        In memory, or as `load.open_model` gives it.
    ids : Tensor
        Token ids (windows, window), two windows or more.
    names : set of str
        One that the model never multiplies is left out.
    """
    stored = weight_parameters(model)
    half = (len(ids) + 1) // 2
    # Operations on so few rows take ten times as long where threads share each of them.
    alone = functools.partial(torch.set_num_threads, 1)
    with ThreadPoolExecutor(usable_cores(), "local-error", alone) as pool:
        for seen in second_moments(model, ids[:half], ids[half:], cancel, names):
            if isinstance(seen, float):
                yield seen
                continue
            moments = _together(seen)
            for weight in seen.weights:
                cancel.check()
                parts = list(_parts(weight, stored[weight.name], moments))
                futures = [pool.submit(_of_parts, parts, fmt) for fmt in formats]
                for fmt, future in zip(formats, futures, strict=True):
                    yield (weight.name, fmt.name), result(future)


def local_error(rows: Tensor, moment: Moment, fmt: Format) -> float:
    """The mean over tokens of |δW·x|², for rows (rows, channels) of a weight as they ship in a format."""
    return weighted_error(fake_quantize(rows, fmt) - rows, moment)


def _of_parts(parts: Sequence[tuple[Tensor, Moment, float]], fmt: Format) -> float:
    with torch.no_grad():
        error = math.fsum(share * local_error(rows, moment, fmt) for rows, moment, share in parts)
    return float(f"{error:.{_DIGITS}g}")


def _together(seen: Seen) -> list[Moment]:
    """On all windows, whichever half they were in; of a stack, those of some experts that got tokens."""
    count = len(seen.fit)
    found = []
    for place in torch.linspace(0, count - 1, min(_EXPERTS, count)).long().tolist():
        first, second = seen.fit[place], seen.judge[place]
        tokens = first.tokens + second.tokens
        share = second.tokens / tokens if tokens else 0.0
        found.append(Moment(torch.lerp(first.matrix, second.matrix, share), tokens))
    return found


def _parts(
    weight: Weight, stored: Tensor, moments: Sequence[Moment]
) -> Iterator[tuple[Tensor, Moment, float]]:
    """Rows of a weight, the moment of their inputs, and how often the model uses them."""
    if len(weight.shape) == 2:
        yield _some(stored.detach(), weight.shape[-1]), moments[0], 1.0
        return
    places = torch.linspace(0, len(stored) - 1, len(moments)).long().tolist()
    tokens = sum(moment.tokens for moment in moments)
    for place, moment in zip(places, moments, strict=True):
        share = moment.tokens / tokens if tokens else 1 / len(moments)
        yield _some(stored.detach()[place], weight.shape[-1]), moment, share


def _some(matrix: Tensor, channels: int) -> Tensor:
    """Rows in float32, spread evenly over the matrix where it has more than are needed."""
    most = row_count(channels)
    if len(matrix) <= most:
        return matrix.float().cpu()
    places = torch.linspace(0, len(matrix) - 1, most, device=matrix.device).long()
    return matrix[places].float().cpu()
