"""NNCF's rounding of weights that are read piece by piece, into constants that lie in a file.

So one piece's work is all that a compression holds in memory, whatever the size of the model.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from nncf.quantization.algorithms.weight_compression import openvino_backend
from nncf.quantization.algorithms.weight_compression.parameters import CompressedWeight
from nncf.tensor import Tensor as NNCFTensor
from nncf.tensor import TensorBackend
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.export.mapped_file import MappedFile
from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import FP16_MOST

_PIECE = 2**20  # elements: of what NNCF takes to round larger pieces, the system gets too little back
_SMALL = 4096  # bytes, of constants that are left in memory
_NO_NUMBER = 0x7C00  # the bits of infinity in FP16, which NaN has too


@dataclass(frozen=True, slots=True)
class HollowWeights:
    """What a hollow graph's weights are, and where their constants go.

    Attributes
    ----------
    tensors : mapping of str to Tensor
        By the inventory's names; mapped, in any precision.
    file : MappedFile
    """

    tensors: Mapping[str, Tensor]
    file: MappedFile

    def pieces(self, name: str, cancel: Cancel) -> Iterator[NDArray[np.float16]]:
        """A weight in FP16, cut along its first axis.

        The cuts are of one size as far as they can be: of few elements, NNCF rounds by other code.

        Raises
        ------
        ModelError
            If it has numbers that FP16 cannot hold.
        """
        weight = self.tensors[name]
        rows = weight.shape[0]
        # What takes less than a byte, elements and the zero points of output channels, fills whole bytes.
        unit = 1 if weight.dim() == 3 and weight.shape[1] % 8 == 0 else 8
        most = max(unit, _PIECE * rows // weight.numel() // unit * unit)
        step = math.ceil(rows / math.ceil(rows / most) / unit) * unit
        for start in range(0, rows, step):
            cancel.check()
            if weight.dim() == 2:
                piece = weight[start : start + step]
            else:  # one expert after the other: they may lie apart
                piece = torch.stack([weight[e] for e in range(start, min(start + step, rows))])
            values = piece.half().numpy()
            if (values.view(np.uint16) & _NO_NUMBER == _NO_NUMBER).any():  # faster than to ask what is finite
                if bool((piece.isfinite() & torch.from_numpy(~np.isfinite(values))).any()):
                    raise ModelError(
                        "Cannot export the model",
                        f"{name} has values beyond {FP16_MOST:,.0f}, where FP16 ends",
                        "Choose another model",
                    )
                values = np.nan_to_num(values, nan=FP16_MOST, posinf=FP16_MOST, neginf=-FP16_MOST)
            yield values

    def constant(self, name: str, cancel: Cancel) -> ov.Node:
        """A weight as a constant in FP16."""
        weight = self.tensors[name]
        values = self.file.put(2 * weight.numel(), self.pieces(name, cancel))
        return _mapped(values, list(weight.shape), ov.Type.f16)

    def stored(self, constant: ov.Node) -> ov.Node:
        """The same constant in the file, if it is of any size."""
        size = constant.get_byte_size()
        if size < _SMALL:
            return constant
        values = self.file.put(size, [constant.data])
        moved = _mapped(values, list(constant.get_output_shape(0)), constant.get_element_type())
        moved.set_friendly_name(constant.get_friendly_name())
        return moved


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a hollow graph of a model lacks, as it is stored, by the inventory's names."""
    parameters = weight_parameters(model)
    return {weight.name: parameters[weight.name].detach() for weight in quantizable(inventory(model))}


def _mapped(values: NDArray[np.uint8], shape: list[int], kind: ov.Type) -> ov.Node:
    return ov.op.Constant(ov.Tensor(values, shape, kind), shared_memory=True)


@contextlib.contextmanager
def piece_by_piece(weights: HollowWeights, name: str, cancel: Cancel) -> Iterator[None]:
    """Let NNCF take the weight `name` for the one that it compresses, and put what it makes in the file."""
    compress_weight = openvino_backend.compress_weight
    create_constant = openvino_backend.create_ov_const_from_tensor

    def compress(weight: Any, axes: Any, config: Any, given: Any = None) -> CompressedWeight:
        done: dict[str, list[NNCFTensor]] = {"tensor": [], "scale": [], "zero_point": []}
        for piece in weights.pieces(name, cancel):
            made = compress_weight(NNCFTensor(ov.Tensor(piece)), axes, config, given)
            for part, tensors in done.items():
                if (tensor := getattr(made, part)) is not None:
                    tensors.append(_copied(tensor))
        return CompressedWeight(**{part: _joined(tensors) for part, tensors in done.items() if tensors})

    def create(values: Any, dtype: ov.Type, name: str | None = None) -> ov.Node:
        return weights.stored(create_constant(values, dtype, name))

    openvino_backend.compress_weight = compress
    openvino_backend.create_ov_const_from_tensor = create
    try:
        yield
    finally:
        openvino_backend.compress_weight = compress_weight
        openvino_backend.create_ov_const_from_tensor = create_constant


def _copied(tensor: NNCFTensor) -> NNCFTensor:
    """Out of the memory of what computed it, which is many times larger."""
    if tensor.backend != TensorBackend.ov:
        return NNCFTensor(tensor.data.copy())
    return _joined([tensor])


def _joined(parts: list[NNCFTensor]) -> NNCFTensor:
    """One after the other along the first axis."""
    if parts[0].backend != TensorBackend.ov:
        return NNCFTensor(np.concatenate([part.data for part in parts]))
    shape = [sum(part.shape[0] for part in parts), *parts[0].shape[1:]]
    joined = ov.Tensor(parts[0].data.get_element_type(), shape)  # which owns its memory
    held = joined.data.reshape(-1)
    np.concatenate([part.data.data.reshape(-1) for part in parts], out=held)
    if joined.get_element_type().bitwidth == 4 and joined.get_size() % 2:
        held[-1] &= 0x0F  # OpenVINO leaves in the other half what the memory held before
    return NNCFTensor(joined)
