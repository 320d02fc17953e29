"""Kernels in place of the functions of transformers' modelling modules."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from transformers import PreTrainedModel

from kl_lens_desktop.kernels.table import KERNELS, Kernel

_DECORATOR = "use_kernel_func_from_hub_with_fallback"  # of transformers' functions that have kernels


@contextlib.contextmanager
def fast_kernels(model: PreTrainedModel) -> Iterator[None]:
    """Let a model use the fast forms for torch on a CPU inside the block.

    On CUDA the model's own dispatch stays in place, for there mamba-ssm's kernels are faster.
    """
    forms = (
        {}
        if model.device.type == "cuda"
        else {kernel.function: kernel.form("fast") for kernel in KERNELS.values() if kernel.fast}
    )
    with replaced_functions(model, forms):
        yield


@contextlib.contextmanager
def replaced_functions(model: PreTrainedModel, forms: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replace those functions that the modelling module has; it is as it was afterwards, errors or not."""
    module = sys.modules[type(model).__module__]
    stock = {name: getattr(module, name) for name in forms if hasattr(module, name)}
    for name in stock:
        setattr(module, name, forms[name])
    try:
        yield
    finally:
        for name, function in stock.items():
            setattr(module, name, function)


def kernel_functions(modelling: str) -> set[str]:
    """The functions with kernels on the Hub that a modelling module of transformers, imported, defines.

    They are the recurrences: what a trace of the stock function would freeze, or take apart.
    """
    found = set()
    for name, function in vars(sys.modules[modelling]).items():
        code = getattr(function, "__code__", None)
        if code is not None and code.co_qualname.startswith(f"{_DECORATOR}."):
            found.add(name)
    return found


def unreplaced(modelling: str, kernels: Iterable[Kernel]) -> list[str]:
    """Those of `kernel_functions` that none of `kernels` stands in for or covers, sorted."""
    known = {name for kernel in kernels for name in (kernel.function, *kernel.covers)}
    return sorted(kernel_functions(modelling) - known)
