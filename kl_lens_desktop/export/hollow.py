"""A graph traced of a model whose weights stay in their file: it knows their shapes, and no value of them.

A model of some billion parameters would otherwise lie in memory in float32 while it is traced, though a trace
reads no weight. `compress.fill` gives the graph its weights, one after the other.
"""

import contextlib
import functools
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import OVAny
from openvino import opset13 as ops
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters

Constants = dict[str, tuple[list[ov.Output], OVAny]]  # as OpenVINO's decoder keeps them, by name


@contextlib.contextmanager
def hollowed(model: PreTrainedModel, prefix: str) -> Iterator[Constants]:
    """Let the weights of a model be empty in the block: nothing reads them, and products are zeros.

    Parameters
    ----------
    model : PreTrainedModel
        Its weights may be mapped, and of any type. What is no weight becomes float32, also after the block.
    prefix : str
        Before the name of a parameter in the names of constants.

    Yields
    ------
    dict
        For OpenVINO's decoder of torch: each weight as a constant in FP16 and its conversion to float32,
        as `compress.to_fp16` makes them. All constants lie in one region of zeros.
    """
    parameters = weight_parameters(model)
    weights = {id(parameters[weight.name]) for weight in quantizable(inventory(model))}
    held = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in weights
    ]
    empty = {id(parameter): _empty(parameter) for _, _, parameter in held}
    zeros = _zeros(max(parameter.numel() for _, _, parameter in held))
    for module, name, parameter in held:
        module._parameters[name] = empty[id(parameter)]
    model.forward = _without_reading(model.forward, empty.values())
    try:
        model.float()
        yield _constants(model, empty, zeros, prefix)
    finally:
        del model.forward
        for module, name, parameter in held:
            module._parameters[name] = parameter


@functools.cache  # constants do not hold what they share
def _zeros(count: int) -> NDArray[np.float16]:
    """Nothing but addresses as long as nobody reads them; Windows would set memory aside for an array."""
    return np.frombuffer(mmap.mmap(-1, 2 * count, access=mmap.ACCESS_READ), np.float16)


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    """Of the shape of `parameter`, in float32, and of four bytes."""
    return nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)


def _without_reading(forward: Callable[..., Any], empty: Iterable[Tensor]) -> Callable[..., Any]:
    places = {parameter.untyped_storage().data_ptr() for parameter in empty}

    @functools.wraps(forward)
    def passed(*args: Any, **named: Any) -> Any:
        with _Unread(places):
            return forward(*args, **named)

    return passed


def _constants(
    model: PreTrainedModel, empty: dict[int, nn.Parameter], zeros: NDArray[np.float16], prefix: str
) -> Constants:
    made: dict[int, tuple[list[ov.Output], OVAny]] = {}
    found: Constants = {}
    kept = {id(parameter) for parameter in empty.values()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in kept:
            continue
        if id(parameter) not in made:
            values = ov.Tensor(zeros[: parameter.numel()], list(parameter.shape), ov.Type.f16)
            constant = ov.op.Constant(values, shared_memory=True)
            constant.set_friendly_name(f"{prefix}{name}_compressed")
            widened = ops.convert(constant, "f32")
            widened.set_friendly_name(prefix + name)
            made[id(parameter)] = [widened.output(0)], OVAny(ov.Type.f32)
        found[prefix + name] = made[id(parameter)]
    return found


class _Unread(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Zeros of the right shape come of whatever would read an empty weight."""

    def __init__(self, empty: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._empty = empty

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_view(func) or not any(self._is_empty(each) for each in args):
            return func(*args, **kwargs)
        if func is torch.ops.aten._grouped_mm.default:  # its shapes are told of bfloat16 alone
            return args[0].new_zeros(*args[0].shape[:-1], args[1].shape[-1])
        shapes = func(*tree_map_only(Tensor, _shape, args), **tree_map_only(Tensor, _shape, kwargs))
        return tree_map_only(Tensor, lambda shape: torch.zeros(shape.shape, dtype=shape.dtype), shapes)

    def _is_empty(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._empty


def _is_view(func: Any) -> bool:
    returned = (each.alias_info for each in func._schema.returns)
    return any(alias is not None and not alias.is_write for alias in returned)


def _shape(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
