"""One meaning of a format: our integers, scales and values are NNCF's, and our bytes are the file's."""

import logging
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset13 as ops
from openvino.opset17 import grouped_matmul

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.quant.formats import all_formats, group_size, parse_format, stored_bytes
from kl_lens_desktop.quant.rounding import (
    NF4_BOUNDARIES,
    NF4_VALUES,
    fake_quantize,
    nf4_elements,
    nf4_values,
    quantize,
)

nncf.set_log_level(logging.ERROR)
LOW = [name for name in all_formats() if name != "fp16"]
# Below and above the size at which NNCF changes its own code path; matrices, and stacks of experts.
SHAPES = [(40, 64), (96, 192), (256, 384), (5, 24, 64), (4, 64, 192)]


def _weight(shape: tuple[int, ...]) -> np.ndarray:
    """Rows of very different size, one of zeros and one with tiny values, as FP16 holds them."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal(shape) * generator.lognormal(0, 2, (*shape[:-1], 1)) * 0.02
    weight[..., 3, :], weight[..., 4, :50] = 0, 1e-6
    return weight.astype(np.float16).astype(np.float32)


def test_nf4_finds_its_level_by_cells_as_by_bisection() -> None:
    up, down = (torch.nextafter(NF4_BOUNDARIES, torch.tensor(end)) for end in (9.0, -9.0))
    odd = torch.tensor([-torch.inf, -1e30, -1.0, -0.0, 0.0, 1.0, 1e30, torch.inf, torch.nan])
    values = torch.cat([NF4_BOUNDARIES, up, down, NF4_VALUES, odd, torch.linspace(-1.1, 1.1, 2_000_003)])
    found = nf4_elements(values[None, :, None])[0, :, 0]
    assert torch.equal(found.long(), torch.bucketize(values, NF4_BOUNDARIES))
    assert torch.equal(nf4_values(found[None]), NF4_VALUES[None, found.long()])


def _compressed(weight: np.ndarray, name: str) -> ov.Model:
    fmt, channels = parse_format(name), weight.shape[-1]
    x = ops.parameter([-1, channels], np.float32, name="x")
    constant = ops.constant(weight, name="self.weight")
    if weight.ndim == 3:
        ends = ops.constant(channels * np.arange(1, len(weight) + 1))
        product = grouped_matmul(x, constant, ends, name="product")
    else:
        product = ops.matmul(x, constant, False, True, name="product")
    model = ov.Model([product], [x])
    size = group_size(fmt, channels)
    options = {"group_size": -1 if size == channels else size, "all_layers": True, "ratio": 1.0}
    mode = name.upper() if fmt.bits == 8 else name.rsplit("_", 1)[0].upper()
    return nncf.compress_weights(
        model, mode=getattr(nncf.CompressWeightsMode, mode), **({} if fmt.bits == 8 else options)
    )


def _values(model: ov.Model, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that the CPU plugin's matrix product computes with, read off an identity for each matrix."""
    *experts, rows, channels = shape
    hints = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    identities = np.tile(np.eye(channels, dtype=np.float32), (*experts, 1))
    product = ov.Core().compile_model(model, "CPU", hints)(identities)[0]
    return product.reshape(*experts, channels, rows).swapaxes(-1, -2)


def _integers(constant: ov.Node, count: int) -> np.ndarray:
    """Elements of a packed constant: 4 and 2 bits low nibble first, 3 bits as OpenVINO converts them."""
    widened = ov.Model([ops.result(ops.convert(constant.output(0), "i32"))], [])
    return ov.Core().compile_model(widened, "CPU")({})[0].reshape(-1)[:count]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LOW)
def test_rounding_is_nncfs(name: str, shape: tuple[int, ...]) -> None:
    weight = _weight(shape)
    model = _compressed(weight, name)
    constants = {op.get_friendly_name(): op for op in model.get_ops() if op.get_type_name() == "Constant"}
    ours = quantize(torch.from_numpy(weight), parse_format(name))

    assert np.array_equal(
        _values(model, shape), fake_quantize(torch.from_numpy(weight), parse_format(name)).numpy()
    )
    scale = constants["self.weight/scale"].data
    assert np.array_equal(scale.reshape(-1), ours.scale.numpy().reshape(-1))
    if ours.fmt.scheme != "nf4":  # its elements are codes; the values above are what they stand for
        stored = _integers(constants["self.weight"], weight.size)
        shift = 2 ** (ours.fmt.bits - 1) if ours.fmt.bits < 4 else 0  # these are stored unsigned
        assert int((stored != ours.elements.numpy().reshape(-1) + shift).sum()) == 0


@pytest.mark.parametrize("name", LOW)
def test_bytes_are_those_of_the_written_file(name: str, tmp_path: Path) -> None:
    weight = _weight((256, 384))
    ov.save_model(_compressed(weight, name), tmp_path / "model.xml", compress_to_fp16=False)
    written = (tmp_path / "model.bin").stat().st_size
    overhead = 64  # the reshape's target and, for 2 and 3 bits, one shared zero point
    assert 0 <= written - stored_bytes(weight.shape, parse_format(name)) <= overhead


@given(
    st.sampled_from(LOW),
    st.integers(1, 5),
    st.sampled_from([32, 48, 64, 96, 128, 160]),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_rounding_moves_no_element_further_than_a_step(
    name: str, rows: int, channels: int, size: float, seed: int
) -> None:
    fmt = parse_format(name)
    weight = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed)) * size
    weight = weight.half().float()
    stored = quantize(weight, fmt)
    step = stored.scale.float().abs().expand(stored.elements.shape).flatten(-2)
    widest = (
        0.16 if fmt.scheme == "nf4" else 1.0
    )  # half of NF4's widest gap; the top level is cut off in INT sym
    rounded_scale = step * 2 ** (fmt.bits - 1) * 2**-10
    assert bool(((stored.dequantize() - weight).abs() <= step * widest + rounded_scale).all())
    assert stored.dequantize().shape == weight.shape


@given(st.sampled_from(all_formats()), st.integers(1, 4000))
def test_groups_divide_the_channels(name: str, channels: int) -> None:
    fmt = parse_format(name)
    size = group_size(fmt, channels)
    assert channels % size == 0
    assert fmt.group is None or size <= fmt.group or size == channels


@pytest.mark.parametrize(
    "name", ["", "int4", "int4_sym_g16", "int8_sym_g64", "INT8_SYM", "fp32", "int4_sym_g64 "]
)
def test_an_unknown_format_is_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match="int4_sym_g64"):
        parse_format(name)
