"""Integers chosen by the data: on NNCF's grids, never worse than the nearest, and what GPTQ's paper gives."""

import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from nncf.parameters import CompressWeightsMode
from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
from nncf.quantization.algorithms.weight_compression.weight_lowering import do_integer_quantization
from nncf.tensor import Tensor as NNCFTensor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import all_formats, group_size, parse_format
from kl_lens_desktop.quant.gptq import Curvature, Grid, compensated, curvature, gptq, pieces, rounded_piece
from kl_lens_desktop.quant.rounding import fake_quantize, quantize
from kl_lens_desktop.quant.symmetric import row_errors

LOW = [name for name in all_formats() if parse_format(name).bits <= 4]
CHANNELS = 192


def _weight(rows: int = 40, channels: int = CHANNELS) -> Tensor:
    """Rows of very different size, one of zeros and one with tiny values, as FP16 holds them."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((rows, channels)) * generator.lognormal(0, 2, (rows, 1)) * 0.02
    weight[3], weight[4, :50] = 0, 1e-6
    return torch.from_numpy(weight.astype(np.float16).astype(np.float32))


def _moment(channels: int = CHANNELS, tokens: int = 500) -> Tensor:
    """Of inputs that vary together, some of them strongly."""
    generator = torch.Generator().manual_seed(1)
    mixed = torch.eye(channels) + torch.randn(channels, channels, generator=generator) / channels**0.5
    strength = torch.exp(torch.randn(channels, generator=generator))
    rows = torch.randn(tokens, channels, generator=generator) * strength @ mixed
    return rows.t() @ rows / tokens


def _about(moment: Tensor, damp: float = 0.01) -> Curvature:
    about = curvature(moment, damp)
    assert about is not None
    return about


@pytest.mark.parametrize("name", LOW)
def test_no_row_is_worse_than_nearest_and_the_whole_is_far_better(name: str) -> None:
    fmt, weight, about = parse_format(name), _weight(), _about(_moment())
    stored = gptq(weight, about, fmt, Cancel())
    ours, theirs = (
        row_errors(values - weight, about.damped)
        for values in (stored.dequantize(), fake_quantize(weight, fmt))
    )
    assert bool((ours <= theirs * (1 + 1e-5)).all())
    assert float(ours.sum()) < 0.6 * float(theirs.sum())


@pytest.mark.parametrize("name", LOW)
def test_elements_scales_and_zero_points_are_those_of_the_format(name: str) -> None:
    fmt, weight = parse_format(name), _weight()
    stored, nearest = gptq(weight, _about(_moment()), fmt, Cancel()), quantize(weight, fmt)
    for ours, theirs in ((stored.elements, nearest.elements), (stored.scale, nearest.scale)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert stored.scale.dtype == torch.float16
    assert bool(stored.scale.isfinite().all())
    low = -(2 ** (fmt.bits - 1)) if fmt.scheme == "int_sym" else 0
    assert low <= int(stored.elements.min()) <= int(stored.elements.max()) < low + 2**fmt.bits
    assert (stored.zero_point is None) == (nearest.zero_point is None)
    if stored.zero_point is not None:
        assert 0 <= int(stored.zero_point.min()) <= int(stored.zero_point.max()) < 2**fmt.bits


@pytest.mark.parametrize("name", [name for name in LOW if not name.startswith("nf4")])
def test_nncf_finds_these_integers_in_the_values_at_these_scales(name: str) -> None:
    fmt, weight = parse_format(name), _weight()
    stored = gptq(weight, _about(_moment()), fmt, Cancel())
    values = stored.dequantize().half().float().unflatten(-1, stored.elements.shape[1:])
    config = WeightCompressionConfig(
        CompressWeightsMode[name.rsplit("_", 1)[0].upper()], group_size(fmt, CHANNELS)
    )
    zero = None if stored.zero_point is None else NNCFTensor(stored.zero_point.numpy())
    found = do_integer_quantization(
        NNCFTensor(values.numpy()),
        config,
        precomputed_scale=NNCFTensor(stored.scale.float().numpy()),
        precomputed_zero_point=zero,
    )
    assert np.array_equal(found.tensor.as_numpy_tensor().data, stored.elements.numpy())


def test_all_formats_at_once_give_what_each_gives_alone() -> None:
    """They go through the columns side by side, with other groups, limits and zero points."""
    formats, weight = [parse_format(name) for name in all_formats() if name != "fp16"], _weight()
    about = _about(_moment())
    together = rounded_piece(weight, about, formats, Cancel(), None)
    for fmt, stored in zip(formats, together, strict=True):
        alone = gptq(weight, about, fmt, Cancel())
        assert (stored.fmt, stored.elements.shape) == (fmt, alone.elements.shape)
        # The product of more rows may differ in its last bits, and a half then falls to the other side.
        same = (stored.elements == alone.elements).all(-1)
        assert float(same.double().mean()) > 0.97, fmt.name
        whole = same.all(-1)  # scales are fitted row by row
        assert torch.equal(stored.scale[whole], alone.scale[whole])
        ours, theirs = (row_errors(each.dequantize() - weight, about.damped) for each in (stored, alone))
        torch.testing.assert_close(ours.sum(), theirs.sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (300, 768), (1025, 256), (3, 2048), (600, 8192)])
def test_pieces_are_two_at_least_and_none_is_large(shape: tuple[int, int]) -> None:
    weight = torch.arange(shape[0] * shape[1]).view(shape)
    parts = pieces(weight)
    assert torch.equal(torch.cat(parts), weight)
    assert len(parts) >= 2 or shape[0] <= 512
    assert max(len(part) for part in parts) <= 1024
    assert max(part.numel() for part in parts) <= 2**21
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= len(parts)


def test_rows_gain_where_few_inputs_are_massive() -> None:
    """Weights that meet them have outputs millions of times their errors: float32 loses these beside them."""
    channels, share = 2048, 0.99
    random = torch.Generator().manual_seed(1)
    massive = torch.zeros(channels)
    massive[5], massive[77] = 0.8, 0.6
    rows = torch.randn(channels, channels, generator=random) * (1 - share) ** 0.5
    rows += massive * (share * channels * 200) ** 0.5 * (torch.rand(channels, 1, generator=random) < 1 / 200)
    weight = torch.randn(16, channels, generator=random) / channels**0.5 * 0.3 + massive * 0.9
    weight, about = weight.half().float(), _about(rows.t() @ rows / channels)
    stored = gptq(weight, about, parse_format("int4_sym_g64"), Cancel())
    ours, theirs = (
        row_errors((values - weight).double(), about.damped.double())
        for values in (stored.dequantize(), fake_quantize(weight, parse_format("int4_sym_g64")))
    )
    assert bool((ours < theirs).all())


def test_columns_make_up_for_each_other_as_in_the_paper() -> None:
    """Against the paper's equations (2) and (3) as they stand: the inverse is updated column by column."""
    fmt, weight, moment = parse_format("int4_sym_pc"), _weight(12, 48), _moment(48)
    about = _about(moment)
    scale = quantize(weight, fmt).scale.float()
    scale[3] = 1.0  # a row of zeros, in which nothing is divided by a tiny number
    found = compensated(weight, about, [Grid(fmt, scale, None)], Cancel())[0][:, 0].long()
    left, inverse = weight.double(), about.damped.double().inverse()
    expected = torch.zeros_like(found)
    for column in about.order.tolist():
        expected[:, column] = (left[:, column] / scale[:, 0, 0]).round().clamp(-8, 7).long()
        error = left[:, column] - expected[:, column] * scale[:, 0, 0]
        left = left - torch.outer(error / inverse[column, column], inverse[column])
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    assert float((found != expected).double().mean()) < 0.005  # halves that fall to either side


def test_channels_that_count_most_come_first() -> None:
    moment = torch.diag(torch.tensor([1.0, 5.0, 3.0]))
    assert _about(moment).order.tolist() == [1, 2, 0]


def test_a_moment_without_inputs_or_numbers_is_of_no_use() -> None:
    assert curvature(torch.zeros(4, 4), 0.01) is None
    assert curvature(torch.full((4, 4), torch.nan), 0.01) is None


class _Allocated(TorchDispatchMode):
    """The bytes of the tensors that operations make, as long as these live; the most of them at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple) else (result,):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self._sizes:
                    weakref.finalize(each, self._sizes.pop, storage._cdata, None)
                    self._sizes[storage._cdata] = storage.nbytes()
        self.most = max(self.most, sum(self._sizes.values()))
        return result


def test_a_moment_is_factored_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15,000 inputs it has 900 MB, and a laptop has no room for ten of it."""
    monkeypatch.setattr("kl_lens_desktop.quant.gptq._INVERTED", 32)
    moment = _moment(512)
    with _Allocated() as allocated:
        assert curvature(moment, 0.01) is not None
    assert 3 * moment.nbytes <= allocated.most <= 3.75 * moment.nbytes


def test_columns_at_a_time_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _about(_moment())
    inverse = torch.linalg.inv(whole.damped.double())[whole.order][:, whole.order]
    assert torch.allclose(whole.factor.double().mT @ whole.factor.double(), inverse, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr("kl_lens_desktop.quant.gptq._INVERTED", 40)
    parts = _about(_moment())
    assert torch.equal(parts.damped, whole.damped)
    assert torch.allclose(parts.factor, whole.factor, rtol=1e-6, atol=0)
    assert parts.factor.stride() == whole.factor.stride()


def test_a_cancel_ends_a_factorisation() -> None:
    cancel = Cancel()
    cancel.cancel()
    with pytest.raises(Cancelled):
        curvature(_moment(), 0.01, cancel)


def test_fewer_tokens_than_channels_are_enough() -> None:
    weight, fmt = _weight(), parse_format("int4_sym_g64")
    about = _about(_moment(tokens=20))
    ours = row_errors(gptq(weight, about, fmt, Cancel()).dequantize() - weight, about.damped)
    assert bool(ours.isfinite().all())


@pytest.mark.parametrize("name", ["int4_sym_g64", "int4_asym_g32", "nf4_pc"])
def test_threads_and_a_second_time_give_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kl_lens_desktop.quant.gptq._PART", 8 * CHANNELS)
    fmt, weight, about = parse_format(name), _weight(), _about(_moment())
    assert len(pieces(weight)) > 3
    with ThreadPoolExecutor(3) as pool:

        def spread(run: Callable[[Tensor], object], items: Iterable[Tensor]) -> Iterable[object]:
            return pool.map(run, items)

        first, second = (gptq(weight, about, fmt, Cancel(), each) for each in (spread, map))  # type: ignore[arg-type]
    assert torch.equal(first.elements, second.elements)
    assert torch.equal(first.scale, second.scale)
    if first.zero_point is not None and second.zero_point is not None:
        assert torch.equal(first.zero_point, second.zero_point)
