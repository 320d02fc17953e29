"""Which weight matrices a model has, where they sit and what they belong to."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.families import family_of

_STACK = re.compile(r".*\.experts\.\w+_proj")  # no single expert, which has a number in between


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight matrix.

    Attributes
    ----------
    name : str
        State-dict name ending in ``.weight`` (but see `weight_name`); of a shared or tied weight, that of its
        first use.
    kind : str
        ``ssm``, ``attention``, ``mlp``, ``embedding``, ``head``, or ``conv``, which no format applies to.
    block : int or None
        Index of its first block; None for embeddings and the head.
    shape : tuple of int
        The last axis is the input channels; a stack has its experts first.
    parameters : int
    uses : int
        Places in the model that read it.
    """

    name: str
    kind: str
    block: int | None
    shape: tuple[int, ...]
    parameters: int
    uses: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of blocks of any transformers decoder."""
    stack = model.base_model.layers
    assert isinstance(stack, nn.ModuleList)
    return stack


def input_channels(model: PreTrainedModel) -> list[int]:
    """Of what each block is given: the hidden state and, in some architectures, what later blocks read."""
    config = model.config.get_text_config()
    found: list[int] = getattr(config, "block_channels", None) or [config.hidden_size] * len(blocks(model))
    return found


def weight_name(parameter: str) -> str:
    """What inventories, scores and plans call the weight in a parameter of that state-dict name.

    transformers stacks the experts of a layer in parameters without the suffix: ``…experts.down_proj``
    (experts, output, input channels) is ``…experts.down_proj.weight`` here.
    """
    return f"{parameter}.weight" if _STACK.fullmatch(parameter) else parameter


def weight_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """All parameters of a model as `weight_name` calls them, by every name that they have."""
    named = model.named_parameters(remove_duplicate=False)
    return {weight_name(name): parameter for name, parameter in named}


def inventory(model: PreTrainedModel) -> list[Weight]:
    """Every matrix of a Linear, Embedding or Conv1d and every stack of experts once, in the model's order.

    Raises
    ------
    ModelError
        If a matrix belongs to no part that the record of the model's family names.
    """
    stack_name = next(name for name, module in model.named_modules() if module is blocks(model))
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, Weight] = {}
    for path, module in modules.items():
        for name, parameter in _matrices(path, module):
            if known := found.get(id(parameter)):
                found[id(parameter)] = replace(known, uses=known.uses + 1)
                continue
            block = re.match(rf"{re.escape(stack_name)}\.(\d+)\.", path)
            found[id(parameter)] = Weight(
                name,
                _kind(path, module, modules, model),
                int(block[1]) if block else None,
                tuple(parameter.shape),
                parameter.numel(),
                1,
            )
    return list(found.values())


def _matrices(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    layer = isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d))
    for parameter, value in module.named_parameters(path, recurse=False):
        name = weight_name(parameter)
        if name != parameter or (layer and name == f"{path}.weight"):
            yield name, value


def quantizable(weights: list[Weight]) -> list[Weight]:
    """The weights that a format applies to."""
    return [weight for weight in weights if weight.kind != "conv"]


def kept_bytes(model: PreTrainedModel, weights: list[Weight]) -> int:
    """Bytes in FP16 of all parameters that are not among the quantizable weights."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return int(2 * (total - sum(weight.parameters for weight in quantizable(weights))))


def _kind(name: str, module: nn.Module, modules: dict[str, nn.Module], model: PreTrainedModel) -> str:
    if isinstance(module, nn.Conv1d):
        return "conv"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if module is model.get_output_embeddings():
        return "head"
    mixers = family_of(model.config.model_type).mixers
    parts = name.split(".")
    enclosing = [type(modules[".".join(parts[:depth])]).__name__ for depth in range(len(parts) - 1, 0, -1)]
    for class_name in enclosing:
        if class_name in mixers:
            return mixers[class_name]
    raise ModelError(
        f"Cannot analyze {name}",
        f"this version of {model.config.model_type} has a part that is not known here: {enclosing[0]}",
        "Report it, with the name of the model",
    )


def experts_chosen(config: Any) -> int:
    """How many experts of a layer a token passes; 0 without experts."""
    return getattr(config, "num_experts_per_tok", 0) or 0
