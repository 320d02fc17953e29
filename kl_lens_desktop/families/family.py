"""What a family of models is: one record, read by everything that must know its architecture."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

ATTENDS = "past_key_values"  # the cache argument of models with attention
TRANSFORMERS = ">=5.23,<5.24"
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture of transformers, by the ``model_type`` of its configuration.

    Attributes
    ----------
    model_type, title : str
        The title says what its blocks are.
    kernels : tuple of str
        Names in `kernels.table.KERNELS` of the recurrences that its modelling code calls.
    mixers : mapping of str to str
        What each module with weight matrices is, by the name of its class: ``ssm``, ``attention`` or ``mlp``.
        A matrix belongs to the nearest enclosing module that is named here.
    cache_argument : str
        Of its forward. Models without attention take ``cache_params``, and neither mask nor positions.
    latent : bool
        Whether its attention caches latents, which a projection widens to keys and values.
    fused : tuple of tuple of str
        Parts of a module that OpenVINO multiplies by one call where their formats agree: its CPU plugin q, k
        and v, or gate and up (QKVProjFusion, MLPFusion), its GPU plugin any matrices with one input
        (FullyConnectedHorizontalFusion).
    npu : str
        Why OpenVINO's NPU plugin does not take its graph; empty where it does.
    patch : str
        ``module:function`` of a context manager (model, call) that mends its modelling code for tracing.
    own : str
        The module with its architecture, where transformers has none. It registers itself when it is
        imported, and its ``names(config)`` gives what the model calls a tensor of the checkpoint.
    text : mapping of str to object
        For a model that sees too: what the configuration of its text part leaves unsaid, such as its model
        type. That part is a model of its own here, and the rest is left out.
    begins : bool
        Whether its states begin with those that learned tokens before the text leave.
    transformers : str
        The versions of transformers whose modelling code this record was checked against.
    checkpoints : tuple of str
        Published models of this family, smallest first.
    tiny : mapping of str to mapping
        Configurations of small models for the tests, by what sets each apart; the plain one is ``""``.
        The tests add the sizes that all of them share.
    variations : mapping of str to mapping
        What else its configurations allow, for the tests of the exporter alone.
    """

    model_type: str
    title: str
    kernels: tuple[str, ...]
    mixers: Mapping[str, str]
    cache_argument: str = ATTENDS
    latent: bool = False
    fused: tuple[tuple[str, ...], ...] = FUSED
    npu: str = ""
    patch: str = ""
    own: str = ""
    text: Mapping[str, Any] = field(default_factory=dict)
    begins: bool = False
    transformers: str = TRANSFORMERS
    checkpoints: tuple[str, ...] = ()
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """Whether it has attention, and so reads a mask and positions."""
        return self.cache_argument == ATTENDS

    def known(self) -> None:
        """Let transformers know the architecture, where it is our own."""
        if self.own:
            import_module(self.own)

    def names(self, config: Any) -> Callable[[str], str]:
        """From the name of a tensor of the checkpoint to that of the model's parameter."""
        if not self.own:
            return lambda name: name
        found: Callable[[str], str] = import_module(self.own).names(config)
        return found

    def patched(self, model: Any, call: Any) -> contextlib.AbstractContextManager[None]:
        """The modelling code of `model`, mended for the traced `call` inside the block."""
        if not self.patch:
            return contextlib.nullcontext()
        module, _, function = self.patch.partition(":")
        patch: contextlib.AbstractContextManager[None] = getattr(import_module(module), function)(model, call)
        return patch
