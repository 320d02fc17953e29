"""The kernels by name. Needs neither torch nor OpenVINO: each form is imported when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Kernel:
    """One recurrence, in up to three forms that take and give what the function they stand in for does.

    A form is the function ``traced`` of ``kernels/<name>/graph.py`` (for calls of any shape) or ``fixed.py``
    (for graphs of fixed shapes), with the `kernels.call.Call` of the traced call as its first argument; and a
    function of ``fast.py`` for torch on a CPU.

    Attributes
    ----------
    name : str
        Of its room in ``kernels``.
    function : str
        The function of transformers' modelling modules that it stands in for; empty where a family's patch
        calls it.
    covers : tuple of str
        Functions of those modules that are not called while the kernel is in place: they are for single
        tokens, or fuse it with what is around it.
    fast : str
        The function of ``fast.py``; empty where the stock one serves.
    fixed : bool
        Whether the form for graphs of fixed shapes is another one than ``graph``.
    orders_beams : bool
        Whether the graph form reads the stored state itself, whose rows are in the order before this call's
        beams change places.
    paged : bool
        Whether OpenVINO's paged runtime has a kernel for it, and the graph form is one that it knows.
    """

    name: str
    function: str = ""
    covers: tuple[str, ...] = ()
    fast: str = ""
    fixed: bool = True
    orders_beams: bool = False
    paged: bool = False

    def form(self, which: str) -> Callable[..., Any]:
        """``fast``, ``graph`` or ``fixed``."""
        if which == "fixed" and not self.fixed:
            which = "graph"
        form: Callable[..., Any] = getattr(self._module(which), self.fast if which == "fast" else "traced")
        return form

    def conversions(self, convolutions: Any) -> dict[Any, Any]:
        """The stand-ins that the graph forms are traced as, and what builds the operations of each.

        `convolutions` are those of the traced model (`short_convolution.taps.Convolutions`).
        """
        found: dict[Any, Any] = self._module("graph").conversions(convolutions)
        return found

    def _module(self, which: str) -> Any:
        return import_module(f"kl_lens_desktop.kernels.{self.name}.{which}")


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel(
            "short_convolution",
            function="causal_conv1d_fn",
            covers=("causal_conv1d_update",),
            fast="causal_convolution",
            paged=True,
        ),
        Kernel(
            "chunk_scan",
            function="mamba2_chunk_scan",
            covers=("mamba2_selective_state_update", "mamba2_split_conv1d_scan_combined"),
            fast="scan_in_chunks",
            orders_beams=True,
            paged=True,
        ),
        Kernel(
            "selective_scan",
            function="mamba_selective_scan",
            covers=("mamba_selective_state_update", "mamba_inner_fn"),
            fast="selective_scan",
        ),
        Kernel(
            "gated_delta_rule",
            function="torch_chunk_gated_delta_rule",
            covers=("torch_recurrent_gated_delta_rule",),
            paged=True,
        ),
        Kernel(
            "channel_delta_rule",
            function="chunk_kimi_delta_attention",
            covers=("recurrent_kimi_delta_attention",),
        ),
        Kernel("linear_recurrence", fixed=False),
    )
}
