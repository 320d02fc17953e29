"""A part of a model's own forward: from one block to another, and the head alone.

The model stays in charge of masks, rotary embeddings and shared blocks; blocks before the first that is to
run are stood in for by stubs that return the stored state.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

Beside = tuple[None, ...] | None
"""What a block returns beside the hidden state, if that is a tuple."""


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _Taken(Exception):
    pass


def trunk(
    model: Any,
    blocks: nn.ModuleList,
    ids: Tensor,
    start: int,
    hidden: Tensor | None,
    stop: int | None,
    beside: Sequence[Beside],
) -> Any:
    """Run a model from the input `hidden` of block `start` on, or with none from its embeddings on.

    Returns
    -------
    Tensor or ModelOutput
        With `stop` the input (batch, tokens, size) of that block, else the output of the model without its
        head.
    """
    with contextlib.ExitStack() as stack:
        if hidden is not None:
            for block, others in zip(blocks[:start], beside, strict=False):
                stub = _returning(hidden if others is None else (hidden, *others))
                stack.enter_context(_forward_replaced(block, stub))
        if stop is not None:
            stack.enter_context(_forward_replaced(blocks[stop], _raise_reached))
        try:
            return model.base_model(input_ids=ids, use_cache=False)
        except _Reached as reached:
            return reached.hidden


def head(model: Any, output: type[Any], token: Tensor, hidden: Tensor) -> Tensor:
    """Float32 logits (tokens, vocabulary) of hidden states, scaled and capped as the model does it.

    `output` is the type of what `trunk` returns at the end, `token` any token id (1, 1).
    """
    states = output(last_hidden_state=hidden[None])
    with _forward_replaced(model.base_model, _returning(states)):
        logits: Tensor = model(input_ids=token, use_cache=False).logits
    return logits[0].float()


def head_input(model: Any, output: type[Any], token: Tensor, hidden: Tensor) -> Tensor:
    """What the output embedding is given (tokens, channels), scaled as the model does it; as `head`."""
    found: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])
        raise _Taken

    handle = model.get_output_embeddings().register_forward_pre_hook(take)
    try:
        head(model, output, token, hidden)
    except _Taken:
        pass
    finally:
        handle.remove()
    return found[0].flatten(0, -2)


@contextlib.contextmanager
def observed(block: nn.Module, inputs: list[Tensor] | None, beside: list[Beside]) -> Iterator[None]:
    """Note the hidden state a block is given, and how much it returns beside the next one."""

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if inputs is not None:
            inputs.append(args[0] if args else kwargs["hidden_states"])
        beside.append((None,) * (len(output) - 1) if isinstance(output, tuple) else None)

    handle = block.register_forward_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _forward_replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    kept = module.__dict__.get("forward")  # of a model that runs block by block
    module.forward = forward
    try:
        yield
    finally:
        if kept is None:
            del module.forward
        else:
            module.forward = kept


def _returning(value: Any) -> Any:
    return lambda *_, **__: value


def _raise_reached(hidden_states: Tensor, *_: Any, **__: Any) -> None:
    raise _Reached(hidden_states)
