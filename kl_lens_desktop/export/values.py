"""Integers and scales as OpenVINO stores them: those that are given to NNCF, and what the audit expects."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import openvino as ov
from nncf.quantization.algorithms.weight_compression.parameters import CompressedWeight
from nncf.tensor import Tensor as NNCFTensor
from numpy.typing import NDArray
from openvino import opset13 as ops
from torch import Tensor

from kl_lens_desktop.model.mapped import pieces
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import FP16_MOST, Format, group_size
from kl_lens_desktop.quant.rounding import NF4_VALUES, Quantized, quantize
from kl_lens_desktop.quant.roundings import Change, KeptRounding

_PIECE = 2**20  # elements
_TYPES = {
    ("int_sym", 8): "i8",
    ("int_asym", 8): "u8",
    ("int_sym", 4): "i4",
    ("int_asym", 4): "u4",
    ("int_sym", 3): "u3",
    ("int_sym", 2): "u2",
    ("nf4", 4): "nf4",
}


def given(kept: KeptRounding, cancel: Cancel) -> CompressedWeight:
    """Integers that are kept, in the form in which NNCF would hand on its own."""
    fmt, channels = kept.format, kept.shape[-1]
    size = group_size(fmt, channels)
    inner = (channels,) if size == channels else (channels // size, size)
    lead = kept.shape[:-1]
    elements, scales, zeros = [], [], []
    for piece in kept.pieces(_rows(channels)):
        cancel.check()
        elements.append(_elements(piece))
        scales.append(piece.scale.numpy())
        if piece.zero_point is not None:
            zeros.append(piece.zero_point.numpy().astype(np.uint8))
    one = (1,) if size == channels else (channels // size, 1)
    return CompressedWeight(
        _stored(np.concatenate(elements).reshape(*lead, *inner), fmt),
        NNCFTensor(np.concatenate(scales).reshape(*lead, *one)),
        NNCFTensor(np.concatenate(zeros).reshape(*lead, *one)) if zeros else None,
    )


def _stored(elements: NDArray[np.generic], fmt: Format) -> NNCFTensor:
    if fmt.bits < 4:  # NNCF shifts these itself
        return NNCFTensor(elements)
    values = NF4_VALUES.numpy()[elements] if fmt.scheme == "nf4" else elements
    return NNCFTensor(values)


def _elements(piece: Quantized) -> NDArray[np.generic]:
    unsigned = piece.fmt.scheme != "int_sym"
    return piece.elements.numpy().astype(np.uint8 if unsigned else np.int8)


def expected_sha256(
    tensors: Mapping[str, Tensor], changes: Mapping[str, Change], cancel: Cancel
) -> dict[str, str]:
    """Of the elements, scales and zero points of each weight that is not FP16, as `found_sha256` gives it."""
    found = {}
    for name, change in changes.items():
        fmt = change if isinstance(change, Format) else change.format
        if fmt.scheme == "fp16":
            continue
        digests = [hashlib.sha256() for _ in range(3)]
        for piece in _quantized(tensors[name], change):
            cancel.check()
            for digest, part in zip(digests, _bytes(piece), strict=True):
                digest.update(part)
        found[name] = _joined([digest.hexdigest() for digest in digests])
    return found


def found_sha256(constants: list[ov.Node]) -> str:
    """Of the constants of a weight: its elements, its scales and, where there are, its zero points."""
    parts = [hashlib.sha256(_raw(constant)).hexdigest() for constant in constants]
    return _joined(parts + [hashlib.sha256(b"").hexdigest()] * (3 - len(parts)))


def _joined(parts: list[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _quantized(weight: Tensor, change: Change) -> Iterator[Quantized]:
    """A weight as it is stored, some rows at a time: as many as fill whole bytes."""
    channels = weight.shape[-1]
    if isinstance(change, KeptRounding):
        yield from change.pieces(_rows(channels))
        return
    for piece in pieces(weight, _rows(channels) * channels):
        yield quantize(piece.float().clamp(-FP16_MOST, FP16_MOST), change)


def _rows(channels: int) -> int:
    return max(8, _PIECE // channels // 8 * 8)


def _bytes(piece: Quantized) -> tuple[bytes, bytes, bytes]:
    fmt = piece.fmt
    kind = getattr(ov.Type, _TYPES[fmt.scheme, fmt.bits])
    elements = _elements(piece)
    if fmt.scheme == "nf4":
        stored = ops.constant(NF4_VALUES.numpy()[elements], dtype=kind)
    elif fmt.bits < 4:
        stored = ops.constant((elements + 2 ** (fmt.bits - 1)).astype(np.uint8), dtype=kind)
    else:
        stored = ops.constant(elements, dtype=kind)
    zero = b""
    if piece.zero_point is not None:
        zero = _raw(ops.constant(piece.zero_point.numpy().astype(np.uint8), dtype=kind))
    return _raw(stored), piece.scale.contiguous().numpy().tobytes(), zero


def _raw(constant: ov.Node) -> bytes:
    return bytes(constant.data.tobytes())
