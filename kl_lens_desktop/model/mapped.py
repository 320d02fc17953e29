"""The tensors of safetensors files where they lie: the system reads their pages as they are needed.

Mapped pages are no memory of this process's own: under pressure the system drops them and reads them again.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)

from kl_lens_desktop.repository.text_part import text_name

PIECE_ELEMENTS = 2**20  # of a stored weight at a time, 4 MB in float32
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}  # as the safetensors format names them


def mapped_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Every tensor of sound safetensors files, mapped, by its name in transformers.

    They may only be read: to write ends the process.

    The layout is that of https://huggingface.co/docs/safetensors: eight bytes with the length of a header in
    JSON, which says where after it each tensor lies.

    Raises
    ------
    OSError, ValueError
        If a file cannot be read, or has a type of elements that is not known here.
    """
    return {text_name(name): tensor for file in files for name, tensor in _tensors(file).items()}


def _tensors(file: Path) -> dict[str, Tensor]:
    # NumPy's mode "r" maps read-only, on Windows too. A mapping for copy on write, as torch.from_file and
    # safetensors make it, has Windows reserve memory for the whole file.
    data = np.memmap(file, np.uint8, mode="r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _tensor(data, start, about) for name, about in header.items()}


def _tensor(data: Any, start: int, about: Mapping[str, Any]) -> Tensor:
    if (dtype := _DTYPES.get(about["dtype"])) is None:
        raise ValueError(f"it has elements of the type {about['dtype']}")
    shape = about["shape"]
    first, last = (start + offset for offset in about["data_offsets"])
    if first == last:
        return torch.empty(shape, dtype=dtype)
    cut = data[first:last]
    if first % dtype.itemsize:
        cut = cut.copy()  # a file may place tensors anywhere, and torch reads only where its elements may lie
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(cut, dtype=dtype).view(shape)


class Stack(Tensor):
    """Matrices of experts that lie apart in their files, as one tensor (experts, …) put together when read.

    ``stack[e]`` takes the memory of one expert; every other operation first puts the whole stack together.

    Parameters
    ----------
    experts : sequence of sequence of Tensor
        For each expert its matrices, which follow each other along their first axis.
    """

    experts: Sequence[Sequence[Tensor]]

    @staticmethod
    def __new__(cls, experts: Sequence[Sequence[Tensor]]) -> "Stack":
        first = experts[0]
        shape = (len(experts), sum(len(part) for part in first), *first[0].shape[1:])
        made: Stack = Tensor._make_wrapper_subclass(cls, shape, dtype=first[0].dtype)
        made.experts = experts
        return made

    def __init__(self, experts: Sequence[Sequence[Tensor]]) -> None:
        del experts

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it as a function
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[Any, Any] | None = None,
    ) -> Any:
        del types
        if func is torch.ops.aten.detach.default:
            return cls(args[0].experts)
        if func is torch.ops.aten.select.int and args[1] == 0:
            return args[0].expert(args[2])
        whole = torch.utils._pytree.tree_map_only(cls, cls.whole, (args, kwargs or {}))
        return func(*whole[0], **whole[1])

    def expert(self, place: int) -> Tensor:
        """The matrix of one expert, mapped if it lies in one piece."""
        parts = self.experts[place]
        return parts[0].detach() if len(parts) == 1 else torch.cat(list(parts))

    def whole(self) -> Tensor:
        """All of it in memory."""
        return torch.stack([self.expert(place) for place in range(len(self.experts))])


def pieces(stored: Tensor, elements: int = PIECE_ELEMENTS) -> Iterator[Tensor]:
    """A parameter (…, channels) or a `Stack`, some rows (rows, channels) at a time."""
    matrices = (stored[place] for place in range(len(stored))) if isinstance(stored, Stack) else (stored,)
    for matrix in matrices:
        channels = matrix.shape[-1]
        yield from matrix.reshape(-1, channels).split(max(1, elements // channels))


class Stacked:
    """What makes a `Stack` in place of those steps of transformers' loading that would copy all experts.

    One of its `ConversionOps` in all but name.
    """

    def convert(
        self,
        input_dict: dict[str, list[Tensor]],
        source_patterns: list[str],
        target_patterns: list[str],
        **_: Any,
    ) -> dict[str, Tensor]:
        columns = [input_dict[pattern] for pattern in source_patterns]
        return {target_patterns[0]: Stack(list(zip(*columns, strict=True)))}


def without_copies(mapping: Iterable[WeightConverter | WeightRenaming]) -> list[Any]:
    """How transformers makes a model of a file's tensors, with stacks of experts left where they lie.

    Other steps, such as joining the taps of short convolutions, keep small copies.
    """
    steps = list(mapping)
    for step in steps:
        if isinstance(step, WeightConverter) and _stacks(step.operations):
            step.operations = [Stacked()]
    return steps


def _stacks(operations: Sequence[Any]) -> bool:
    """Whether they stack matrices along a new first axis, and perhaps then join stacks along their rows."""
    match operations:
        case [MergeModulelist(dim=0)] | [MergeModulelist(dim=0), Concatenate(dim=1)]:
            return True
        case _:
            return False
