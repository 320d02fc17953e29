"""Products of a block's weights, watched where torch computes them.

So a weight that a model's code multiplies by itself, as Mamba-1's dt_proj, is seen as well as one that a
module multiplies.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_MM, _ADDMM = torch.ops.aten.mm, torch.ops.aten.addmm
_BMM, _BADDBMM = torch.ops.aten.bmm, torch.ops.aten.baddbmm

Place = tuple[nn.Module, str, int]


class Products(TorchDispatchMode):
    """Sees the products of a batch with the weights of a block, which have their values while it runs.

    Parameters
    ----------
    placed : sequence of (Module, str, int)
        Where the weights are read, and a key for each: see `model.by_block.ByBlock.placed`.
    note : callable
        Is given the key of a weight, its inputs (tokens, channels), and the key of the weight that was the
        first in this batch to get these inputs.
    """

    def __init__(self, placed: Sequence[Place], note: Callable[[int, Tensor, int], None]) -> None:
        super().__init__()
        self._placed, self._tell = placed, note
        self._inputs: list[tuple[Tensor, int, int]] = []  # held, so that no other takes their place in memory
        self._counted: set[tuple[int, int]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        packet = func.overloadpacket
        if packet in (_MM, _BMM):
            self._note(args[0], args[1])
        elif packet in (_ADDMM, _BADDBMM):
            self._note(args[1], args[2])
        return func(*args, **(kwargs or {}))

    def _note(self, left: Tensor, right: Tensor) -> None:
        places = {
            value.untyped_storage().data_ptr(): (key, value)
            for module, name, key in self._placed
            if (value := module._parameters[name]) is not None and value.dim() == 2
        }
        for weight, other in ((right.mT, left), (left, right.mT)):
            found = places.get(weight.untyped_storage().data_ptr())
            if found is None:
                continue
            key, value = found
            if weight.shape[-1] == value.shape[-1] and weight.stride(-1) == value.stride(-1):
                self._add(key, other)
                return

    def _add(self, key: int, other: Tensor) -> None:
        """`other` (…, tokens, channels) was multiplied by the transpose of that weight."""
        first = next((first for held, version, first in self._inputs if _same(held, version, other)), key)
        if first == key and any(_same(held, version, other) for held, version, _ in self._inputs):
            return  # another part of the same weight, by the same inputs
        if first == key:
            self._inputs.append((other, other._version, key))
        elif (key, first) in self._counted:
            return
        self._counted.add((key, first))
        self._tell(key, other.flatten(0, -2), first)


def _same(held: Tensor, version: int, other: Tensor) -> bool:
    """Whether both are the same values in the same place, unchanged since `version`."""
    alike = held.data_ptr() == other.data_ptr() and held.numel() == other.numel()
    return alike and version == other._version and held.stride(-1) == other.stride(-1)
