"""A transformers model traced to an OpenVINO graph in which the cache's tensors go in and come out.

One path for every family: the model's own forward with its own cache object, filled from flat tensors. What
differs between families is in `families`, and how a cache layer is updated in `_functional_cache`.
"""

import contextlib
import hashlib
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino._offline_transformations import apply_moc_transformations
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension, ModuleExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from kl_lens_desktop.export.hollow import Constants, hollowed
from kl_lens_desktop.families import Family, family_of
from kl_lens_desktop.kernels.call import Call, FixedCall
from kl_lens_desktop.kernels.chunk_scan.graph import remove_views
from kl_lens_desktop.kernels.experts.forms import dense_experts, grouped_experts
from kl_lens_desktop.kernels.parts.layout import (
    remove_single_groups,
    remove_splits_of_joins,
    remove_turns_back,
)
from kl_lens_desktop.kernels.parts.paged import settle
from kl_lens_desktop.kernels.replace import replaced_functions
from kl_lens_desktop.kernels.short_convolution.taps import remove_cuts
from kl_lens_desktop.kernels.table import KERNELS
from kl_lens_desktop.model.inventory import blocks
from kl_lens_desktop.quant.formats import FP16_MOST

INPUT_NAMES = ("input_ids", "attention_mask", "position_ids", "beam_idx")
OWN = "own."  # begins the names of inputs for the keys and values of a model's own tokens
Value = TypeVar("Value")
COMPUTED = "computed"  # marks constants that are to stay in FP32
MODEL_ATTRIBUTE = "model"
CONSTANT_PREFIX = f"self.{MODEL_ATTRIBUTE}."  # before the state-dict name in a constant's
_SLIDING = ("sliding_attention", "hybrid_sliding")  # layers that see a window of the last tokens
_MASKED = torch.finfo(torch.float16).min  # of float32's a device that computes in float16 makes infinity
_PREFIX, _STEP = 5, 7  # tokens before and in the traced call: unequal, so that no size is taken for another


@dataclass(frozen=True, slots=True)
class State:
    """A variable of the graph.

    Attributes
    ----------
    kind : str
        ``conv``, ``ssm``, ``key`` or ``value``.
    number : int
        Of its layer for keys and values, else counted within the kind.
    shape : tuple of int
        Of the example; the first axis is the batch and, for keys and values, the third the tokens so far. The
        windows of short convolutions are small and many: those of one shape are one variable (batch, layers,
        taps, channels), read, reordered and written at once. The states of Mamba-2 are (batch, heads · head
        size, state), as its scan writes them.
    members : tuple of (int, int)
        Layer and index within the layer of each tensor it holds.
    """

    kind: str
    number: int
    shape: tuple[int, ...]
    members: tuple[tuple[int, int], ...]

    @property
    def stacked(self) -> bool:
        """Whether it holds the windows of several layers."""
        return self.kind == "conv" and len(self.shape) == 4

    @property
    def names(self) -> tuple[str, str]:
        """Before and after a call, by the convention from which OpenVINO's NPU plugin tells the kinds."""
        if self.kind in ("key", "value"):
            return f"past_key_values.{self.number}.{self.kind}", f"present.{self.number}.{self.kind}"
        return (
            f"cache_params.past.{self.kind}.{self.number}",
            f"cache_params.present.{self.kind}.{self.number}",
        )


def trace(
    model: PreTrainedModel,
    *,
    fixed: bool = False,
    watched: bool = False,
    hollow: bool = False,
    paged: bool = False,
) -> tuple[ov.Model, list[State]]:
    """Trace a model on the CPU; what it keeps in 16 bits becomes float32.

    Parameters
    ----------
    fixed : bool
        In the form of which `export.static` makes graphs of fixed shapes: see `kernels.call.FixedCall`.
    watched : bool
        Let what each block adds, (batch, tokens, channels), be outputs too, after the states.
    hollow : bool
        Leave the model's weights where they are, and out of the graph: see `export.hollow`.
    paged : bool
        Let OpenVINO's paged runtime take the graph, where it can: see `kernels.parts.paged`. Layers with a
        window it would let see all tokens, without a word.

    Returns
    -------
    ov.Model
        Inputs: those of `INPUT_NAMES` that the model uses, by name, then one per state. Outputs: ``logits``
        for all positions, then one per state.
    list of State
        In the order of those inputs and outputs.
    """
    ids = torch.arange(1, _PREFIX + _STEP + 1)[None]
    family = family_of(model.config.model_type)
    kernels = [KERNELS[name] for name in family.kernels]
    paged = paged and family.attends and not _slides(model.config)
    call = (FixedCall if fixed else Call)(kernels, paged)
    with (
        torch.no_grad(),
        hollowed(model, CONSTANT_PREFIX) if hollow else _in_float32(model) as constants,
        replaced_functions(model, call.functions),
        dense_experts(model) if fixed else grouped_experts(model),
        family.patched(model, call),
        _functional_cache(call),
        watched_blocks(blocks(model) if watched else ()) as seen,
        _quiet(),
    ):
        cache = _empty_cache(model)
        call.begin(ids[:, :_PREFIX], torch.ones_like(ids), torch.zeros(1, dtype=torch.long))
        model(ids[:, :_PREFIX], use_cache=True, **{family.cache_argument: cache})
        states = _states(cache, stacked=not call.pages)
        held = _flatten(cache, states)
        own = [t[:, :, : t.shape[2] - _PREFIX] for t in _keys(states, held)] if family.begins else []
        example = (
            ids[:, _PREFIX:],
            torch.ones(1, _PREFIX + _STEP, dtype=torch.long),
            torch.arange(_PREFIX, _PREFIX + _STEP)[None],
            torch.zeros(1, dtype=torch.int32),
            tuple(_without(own, states, held)),
            *([tuple(own)] if own else []),
        )
        graph = _converted(_Step(model, family, states, call, seen).eval(), example, call, constants)
    remove_cuts(graph)
    _mark_computed(graph, model)
    for place, port in enumerate(graph.inputs[len(graph.inputs) - len(own) :]):
        port.get_tensor().set_names({f"{OWN}{place}"})
    used = len(graph.inputs) - len(states) - len(own)
    names = [name for name in INPUT_NAMES if name != "position_ids" or used == len(INPUT_NAMES)]
    for port, name in zip(graph.inputs[:used], names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(ov.PartialShape([-1] if name == "beam_idx" else [-1, -1]))
    if call.pages:
        settle(graph)
    return graph, states


@contextlib.contextmanager
def watched_blocks(stack: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """What each block adds to what it is given, appended to a list when it is called inside the block."""
    seen: list[Tensor] = []

    def keep(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = inputs[0] if inputs else named["hidden_states"]
        left = output[0] if isinstance(output, tuple) else output
        channels = min(left.shape[-1], given.shape[-1])  # some blocks begin or end what others read
        seen.append(torch.cat([left[..., :channels] - given[..., :channels], left[..., channels:]], -1))

    hooks = [block.register_forward_hook(keep, with_kwargs=True) for block in stack]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def first_states(
    model: PreTrainedModel, states: Sequence[State]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """What a traced graph is given before the first call of one row.

    For a model that has tokens of its own, computed with the weights that it has at the moment.

    Returns
    -------
    list of array
        The states.
    list of array
        The keys and values of its own tokens, which inputs called `OWN` and a number are for.
    """
    family = family_of(model.config.model_type)
    empty = initial_states(states)
    if not family.begins:
        return empty, []
    cache = _empty_cache(model)
    nothing = torch.zeros(1, 0, dtype=torch.long)
    model.base_model(input_ids=nothing, use_cache=True, **{family.cache_argument: cache})
    for layer in cache.layers:
        windows = layer.conv_states  # transformers has channels first, a graph tokens
        layer.conv_states = {index: window.transpose(1, 2) for index, window in windows.items()}
    held = [tensor.float().numpy() for tensor in _flatten(cache, list(states))]
    begun = [
        none if state.kind in ("key", "value") else tensor
        for state, none, tensor in zip(states, empty, held, strict=True)
    ]
    return begun, _keys(states, held)


def _keys(states: Sequence[State], tensors: Sequence[Value]) -> list[Value]:
    """Those that are keys or values."""
    return [t for state, t in zip(states, tensors, strict=True) if state.kind in ("key", "value")]


def initial_states(states: Sequence[State]) -> list[NDArray[np.float32]]:
    """States of one row that hold nothing."""
    shapes = [list(state.shape) for state in states]
    for shape, state in zip(shapes, states, strict=True):
        shape[0] = 1
        if state.kind in ("key", "value"):
            shape[2] = 0
    return [np.zeros(shape, np.float32) for shape in shapes]


@contextlib.contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[Constants]:
    """A bfloat16 constant would lie in the model's memory, and be lost with it."""
    model.float()
    yield {}


def _converted(step: nn.Module, example: tuple[Any, ...], call: Call, constants: Constants) -> ov.Model:
    """What `ov.convert_model` does, in a third of its time: traced once instead of three times to compare.

    The traced graph is compared with the model by the tests; a model of this program's own families needs no
    checks of its inputs either.
    """
    modules = {cls: ModuleExtension(cls, _operation(cls)) for cls in call.conversions}
    decoder = TorchScriptPythonDecoder(
        step,
        example_input=example,
        module_extensions=modules,
        trace_kwargs={"check_trace": False},
        constant_cache=constants,
    )
    frontend = FrontEndManager().load_by_framework("pytorch")
    for cls, build in call.conversions.items():
        frontend.add_extension(ConversionExtension(_operation(cls), build))
    graph = frontend.convert(frontend.load(decoder))
    remove_turns_back(graph)
    remove_views(graph)
    remove_single_groups(graph)
    remove_splits_of_joins(graph)
    apply_moc_transformations(graph, cf=False, smart_reshape=False)
    _end_with_the_head(graph)
    return graph


def _operation(stand_in: type[nn.Module]) -> str:
    return f"kl_lens.{stand_in.__name__}"


def _mark_computed(graph: ov.Model, model: PreTrainedModel) -> None:
    """Mark as `COMPUTED` what the converter made of parameters, such as 1 + a norm's weight or a decay rate.

    Buffers are marked too. Parameters keep the precision that the model's file has for them.
    """
    # Weights of a hollow graph are in their file's precision, and no constants of this type.
    plain = (
        each for each in model.parameters() if type(each) is nn.Parameter
    )  # no stack of a file's experts
    stored = (each for each in plain if each.dtype == torch.float32)
    held = {_digest(form.numpy(force=True)) for each in stored for form in _forms(each)}
    for op in all_ops(graph):
        if op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.f32:
            value = op.data
            if value.size > 1 and (_digest(value) not in held or not _fits_fp16(value)):
                op.get_rt_info()[COMPUTED] = True


def all_ops(graph: ov.Model) -> Iterator[ov.Node]:
    """The operations of a graph and those inside its branches and loops, where constants may end up too."""
    for op in graph.get_ops():
        yield op
        kind = op.get_type_name()
        bodies = [op.get_function(n) for n in (0, 1)] if kind == "If" else []
        for body in [op.get_function()] if kind == "TensorIterator" else bodies:
            yield from all_ops(body)


def _digest(values: NDArray[np.float32]) -> bytes:
    return hashlib.sha1(np.ascontiguousarray(values).data, usedforsecurity=False).digest()


def _fits_fp16(value: NDArray[np.float32]) -> bool:
    return bool(np.abs(value).max() <= FP16_MOST)


def _forms(parameter: Tensor) -> Iterator[Tensor]:
    """A parameter as graphs hold it: the taps of a short convolution, (channels, 1, taps), by tap too."""
    yield parameter
    if parameter.dim() == 3 and parameter.shape[1] == 1:
        yield parameter[:, 0].T.contiguous()
        yield from parameter[:, 0].unbind(1)


def _end_with_the_head(graph: ov.Model) -> None:
    """Let a factor of the logits scale what the head reads instead, in place.

    `openvino_genai` computes the logits of a prompt's last token only where the head's product is the last
    operation, or all that follows is a soft cap (`find_llm_matmul` in its utils.cpp).
    """
    result = graph.outputs[0].get_node()
    scaling = result.input_value(0).get_node()
    if scaling.get_type_name() not in ("Multiply", "Divide"):
        return
    head, factor = (value.get_node() for value in scaling.input_values())
    if head.get_type_name() == "MatMul" and factor.get_type_name() == "Constant" and factor.data.size == 1:
        operation = ops.divide if scaling.get_type_name() == "Divide" else ops.multiply
        head.input(0).replace_source_output(operation(head.input_value(0), factor).output(0))
        result.input(0).replace_source_output(head.output(0))


class _Step(nn.Module):
    """The model as a function of tokens and flat states."""

    def __init__(
        self, model: PreTrainedModel, family: Family, states: list[State], call: Call, seen: list[Tensor]
    ) -> None:
        super().__init__()
        setattr(self, MODEL_ATTRIBUTE, model)
        self._states, self._call, self._family, self._seen = states, call, family, seen

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        beam_idx: Tensor,
        states: tuple[Tensor, ...],
        own: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, ...]:
        model: PreTrainedModel = getattr(self, MODEL_ATTRIBUTE)
        self._call.begin(input_ids, attention_mask, beam_idx)
        self._seen.clear()
        if self._family.latent and not isinstance(self._call, FixedCall):
            past = attention_mask.shape[1] - input_ids.shape[1]
            states = tuple(_last_tokens(s, t, past) for s, t in zip(self._states, states, strict=True))
        states = self._behind(own, states, attention_mask.shape[1] - input_ids.shape[1])
        cache = _filled(_empty_cache(model), self._states, states, beam_idx, self._call)
        if not self._family.attends:
            logits = model(input_ids=input_ids, use_cache=True, cache_params=cache).logits
        else:
            mask = _causal_mask(input_ids.shape[1], attention_mask)
            # Ready masks by layer type, so that the model builds none; recurrent layers get none, for their
            # kernels pass padding by.
            masks: defaultdict[str, Tensor | None] = defaultdict(lambda: None)
            masks |= dict.fromkeys(("full_attention", "attention", "hybrid"), mask)
            for kind in _SLIDING:
                masks[kind] = _sliding(mask, attention_mask, model.config)
            logits = model(
                input_ids=input_ids,
                attention_mask=masks if self._family.kernels else mask,  # attention alone has one kind
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).logits
        return (logits, *_without(own, self._states, _flatten(cache, self._states)), *self._seen)

    def _behind(self, own: Sequence[Tensor], states: tuple[Tensor, ...], past: Any) -> tuple[Tensor, ...]:
        """The states with the keys and values of a model's own tokens before those of the text.

        They are no part of the variables: the CPU plugin (2026.4) lets keys begin with none after a reset.
        """
        if not own:
            return states
        first, behind = iter(own), []
        for state, held in zip(self._states, states, strict=True):
            if state.kind in ("key", "value"):
                before = next(first).expand(held.shape[0], -1, -1, -1)
                behind.append(torch.cat([before, _last_tokens(state, held, past)], 2))
            else:
                behind.append(held)
        return tuple(behind)


def _without(own: Sequence[Tensor], states: Sequence[State], tensors: list[Tensor]) -> list[Tensor]:
    """States of the text alone."""
    if not own:
        return tensors
    count = own[0].shape[2]
    return [
        tensor[:, :, count:] if state.kind in ("key", "value") else tensor
        for state, tensor in zip(states, tensors, strict=True)
    ]


def _last_tokens(state: State, held: Tensor, count: Any) -> Tensor:
    """Of keys and values the last `count` tokens, which are all.

    But for the CPU plugin (2026.4): after a reset it reads the tokens of the sequence before, unless the
    keys go right into its attention.
    """
    return held[:, :, held.shape[2] - count :] if state.kind in ("key", "value") else held


def _causal_mask(new: Any, attention_mask: Tensor) -> Tensor:
    total = attention_mask.shape[1]
    position = torch.arange(new) + (total - new)
    seen = (torch.arange(total)[None] <= position[:, None])[None, None] & (attention_mask[:, None, None] > 0)
    return torch.where(seen, 0.0, _MASKED)


def _sliding(mask: Tensor, attention_mask: Tensor, config: Any) -> Tensor | None:
    """`mask` without what lies as many tokens before as the window of a model is wide, if it has one."""
    window = getattr(config, "window_keys", getattr(config, "sliding_window", None))
    if window is None:
        return None
    position = attention_mask.cumsum(1)
    age = position[:, None, -mask.shape[2] :, None] - position[:, None, None]
    return torch.where(age < window, mask, _MASKED)


def _slides(config: Any) -> bool:
    """Whether a model has layers that see a window of the last tokens."""
    return not set(_SLIDING).isdisjoint(getattr(config, "layer_types", None) or ())


def _empty_cache(model: PreTrainedModel) -> DynamicCache:
    """Of layers that keep all tokens: those of a sliding window forget some in between two calls."""
    cache = DynamicCache(config=model.config)
    cache.layers = [DynamicLayer() if hasattr(layer, "sliding_window") else layer for layer in cache.layers]
    return cache


_HELD = {"conv": "conv_states", "ssm": "recurrent_states", "key": "keys", "value": "values"}


def _states(cache: DynamicCache, stacked: bool) -> list[State]:
    """The variables for what a cache holds after a call."""
    states, windows = list[State](), dict[tuple[int, ...], list[tuple[int, int]]]()
    for i, layer in enumerate(cache.layers):
        for kind, attribute in _HELD.items():
            held = getattr(layer, attribute, None)
            items = held.items() if isinstance(held, dict) else enumerate([held])
            for index, tensor in items:
                if tensor is None or (kind in ("key", "value") and not layer.is_initialized):
                    continue
                if kind == "conv" and stacked:
                    windows.setdefault(tuple(tensor.shape), []).append((i, index))
                else:
                    number = sum(state.kind == kind for state in states) if kind in ("conv", "ssm") else i
                    states.append(State(kind, number, tuple(tensor.shape), ((i, index),)))
    for k, ((batch, *window), members) in enumerate(windows.items()):
        shape = (batch, len(members), *window)
        states.append(State("conv", k, shape, tuple(members)))
    return states


def _flatten(cache: DynamicCache, states: list[State]) -> list[Tensor]:
    """What a cache holds, by variables."""
    tensors: list[Tensor] = []
    for state in states:
        held = [getattr(cache.layers[layer], _HELD[state.kind]) for layer, _ in state.members]
        if state.stacked:
            tensors.append(torch.stack([h[i] for h, (_, i) in zip(held, state.members, strict=True)], 1))
        else:
            tensors.append(held[0][state.members[0][1]] if state.kind in ("conv", "ssm") else held[0])
    return tensors


def _filled(
    cache: DynamicCache, states: list[State], tensors: tuple[Tensor, ...], beam_idx: Tensor, call: Call
) -> DynamicCache:
    for state, held in zip(states, tensors, strict=True):
        rows = beam_idx if state.kind in ("key", "value") else call.beams
        tensor = held if state.kind == "ssm" and call.orders_beams else held.index_select(0, rows)
        windows = tensor.unbind(1) if state.stacked else [tensor]
        for part, (place, index) in zip(windows, state.members, strict=True):
            layer: Any = cache.layers[place]
            layer.dtype, layer.device = part.dtype, part.device
            if state.kind == "conv":
                layer.conv_states[index] = part
                layer.is_conv_states_initialized[index] = True
                layer.has_previous_state[index] = True
                layer.conv_kernel_size[index] = part.shape[1 if state.stacked else 2]
            elif state.kind == "ssm":
                layer.recurrent_states[index] = part
                layer.is_recurrent_states_initialized[index] = True
            elif state.kind == "key":
                layer.keys, layer.is_initialized = part, True
            else:
                layer.values = part
    return cache


@contextlib.contextmanager
def _functional_cache(call: Call) -> Iterator[None]:
    """Let cache updates return new tensors: tracing does not see what is copied in place.

    The state that a layer reads is noted for its scan.
    """

    def get_recurrent_state(self: Any, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        state: Tensor | None = stock_get(self, layer_idx, state_idx)
        if state is None:
            call.past = []
        else:
            # Not unbind: the GPU plugin leaves the parts of a split in place, and branches misread them.
            heads = range(state.shape[1]) if state.dim() == 4 else ()
            call.past = [state.select(1, head) for head in heads] or [state]
        return state

    def update_conv_state(
        self: Any, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        new = conv_states.transpose(1, 2)
        if self.is_conv_states_initialized[state_idx]:
            kept = call.kept_window(self.conv_states[state_idx])
        else:
            taps = conv_kernel_size or self.conv_kernel_size[state_idx]
            kept = new.new_zeros(new.shape[0], int(taps), new.shape[2])
        full, window = call.windowed(kept, new)
        self.conv_states[state_idx] = call.stored_window(window)
        self.is_conv_states_initialized[state_idx] = True
        return full.transpose(1, 2)

    def update_recurrent_state(self: Any, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states

    stock = LinearAttentionLayer.update_conv_state, LinearAttentionLayer.update_recurrent_state
    stock_get = Cache.get_recurrent_state
    Cache.get_recurrent_state = get_recurrent_state
    LinearAttentionLayer.update_conv_state = update_conv_state
    LinearAttentionLayer.update_recurrent_state = update_recurrent_state
    try:
        yield
    finally:
        Cache.get_recurrent_state = stock_get
        LinearAttentionLayer.update_conv_state, LinearAttentionLayer.update_recurrent_state = stock


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of every Python branch it takes; each is checked by the tests against torch's logits."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
