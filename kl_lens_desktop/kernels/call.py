"""One call of a model that is being traced: what its kernels share, and the states they pass on."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from kl_lens_desktop.kernels.parts.builder import Builder
from kl_lens_desktop.kernels.parts.padding import PaddedOrder, TokensAt, converted_order, converted_taken
from kl_lens_desktop.kernels.parts.paged import ForStates, IsPaged, for_states, is_paged
from kl_lens_desktop.kernels.parts.states import FinalState, final_state
from kl_lens_desktop.kernels.short_convolution.taps import Convolutions
from kl_lens_desktop.kernels.table import Kernel

CHUNK = 64  # tokens of a chunk; the work inside chunks grows with it, the states between them shrink
StandIn = TypeVar("StandIn", bound=nn.Module)


class Parts(NamedTuple):
    """What the scans and convolutions of all layers share.

    Attributes
    ----------
    length, chunks : Tensor
        (1,) each: the number of tokens before the last, and of chunks they take.
    rows : Tensor
        (chunks · CHUNK,): which token is at each place of the chunks; behind the end, the last one before.
    not_later : Tensor
        (chunks + 1, 1 + chunks): what reaches each chunk and the last token of the stored state and what each
        chunk leaves, which are one behind: 1 on and below the diagonal.
    beams, own : Tensor
        ``beam_idx`` as a column; which rows of the batch go on from their own stored state, (batch, 1, 1).
    batch, one : Tensor
        (1,) each: the size of the batch, and how many tokens the last one is.
    full : Tensor
        1 if there are tokens before the last or a row of the batch takes another's place.
    """

    length: Tensor
    chunks: Tensor
    rows: Tensor
    not_later: Tensor
    beams: Tensor
    own: Tensor
    batch: Tensor
    one: Tensor
    full: Tensor


def shared_parts(input_ids: Tensor, beam_idx: Tensor) -> Parts:
    """The `Parts` of one call."""
    length = torch.as_tensor(input_ids.shape[1] - 1).reshape(1)
    # At least one, though nothing reads it without tokens: as a size of a reshape, 0 would be another's.
    chunks = ((length + (CHUNK - 1)) // CHUNK).clamp(min=1)
    count: Any = chunks[0]
    rows = torch.minimum(torch.arange(count * CHUNK), length - 1)
    kept = beam_idx == torch.arange(beam_idx.shape[0])
    full = torch.maximum(length.clamp(max=1), 1 - kept.long().min())
    place = torch.arange(count + 1)
    not_later = (place[None] <= place[:, None]).float()
    own = (kept & (length == 0))[:, None, None]
    one = torch.as_tensor(input_ids.shape[1]).reshape(1) - length
    batch = torch.as_tensor(beam_idx.shape[0]).reshape(1) * one
    return Parts(length, chunks, rows, not_later, beam_idx.long()[:, None], own, batch, one, full)


class Call(nn.Module):
    """A call of any number of tokens, in any number of rows.

    Parameters
    ----------
    kernels : iterable of Kernel
        Those of the model. Each is traced as opaque operations, of which only the shapes are real.
    paged : bool
        Whether OpenVINO's paged runtime is to take the graph, which it does of models with attention.

    Attributes
    ----------
    past : list of Tensor
        The states that the layer in turn starts from: one for each head where a layer scans its heads one
        by one, else one. Some modelling code hands none to its scan.
    window : Tensor or None
        The last tokens that the short convolution of the layer in turn keeps, the new ones included.
    input_ids, attention_mask : Tensor
        (batch, tokens) and (batch, past + tokens).
    parts : Parts
    conversions : dict of module class to callable
        What builds each opaque operation's part of the graph, for OpenVINO's converter.
    """

    FORM: ClassVar = "graph"
    input_ids: Tensor
    attention_mask: Tensor
    parts: Parts
    beams: Tensor
    paged: Tensor

    def __init__(self, kernels: Iterable[Kernel], paged: bool = False) -> None:
        super().__init__()
        self._paged = paged
        self._kernels = {kernel.name: kernel for kernel in kernels}
        convolutions = Convolutions()
        self.conversions: dict[type[nn.Module], Builder] = {
            PaddedOrder: converted_order,
            TokensAt: converted_taken,
            FinalState: final_state,
            IsPaged: is_paged,
            ForStates: for_states,
        }
        for kernel in self._kernels.values():
            self.conversions |= kernel.conversions(convolutions)
        self.past: list[Tensor] = []
        self.window: Tensor | None = None
        self._stand_ins = nn.ModuleDict({cls.__name__: cls() for cls in self.conversions})

    def begin(self, input_ids: Tensor, attention_mask: Tensor, beam_idx: Tensor) -> None:
        """What all layers of one call share."""
        self.paged = torch.zeros(1, dtype=torch.bool)
        if self.pages:
            both = self.stand_in(ForStates)(input_ids, attention_mask, beam_idx.long())
            beam_idx, attention_mask = both[:, 0], both[:, 1:]
            self.paged = self.stand_in(IsPaged)(input_ids)
        self.input_ids, self.attention_mask, self.beams = input_ids, attention_mask, beam_idx
        self.parts = shared_parts(input_ids, beam_idx)
        self._orders: dict[int, Tensor] = {}

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """What stands in for which function of the modelling module."""
        return {k.function: self.form(k.name) for k in self._kernels.values() if k.function}

    @property
    def orders_beams(self) -> bool:
        """Whether a kernel reads the stored states itself, in the order before beams change places."""
        return self.FORM == "graph" and any(kernel.orders_beams for kernel in self._kernels.values())

    @property
    def pages(self) -> bool:
        """Whether the graph is for OpenVINO's paged runtime too, which must have all kernels for it."""
        return self.FORM == "graph" and self._paged and all(k.paged for k in self._kernels.values())

    @property
    def fuses_convolutions(self) -> bool:
        """Whether what follows a short convolution asks it for the last token and the others apart."""
        return "chunk_scan" in self._kernels

    def kept_window(self, stored: Tensor) -> Tensor:
        """The window (batch, taps, channels) that a short convolution reads, as `stored_window` stored it."""
        return (
            stored.reshape(stored.shape[0], int(stored.shape[2]), int(stored.shape[1]))
            if self.pages
            else stored
        )

    def stored_window(self, window: Tensor) -> Tensor:
        """A window as it is stored: in the shape that the paged runtime asks for, not in its order."""
        return (
            window.reshape(window.shape[0], int(window.shape[2]), int(window.shape[1]))
            if self.pages
            else window
        )

    def form(self, kernel: str) -> Callable[..., Any]:
        """The traced form of one of the kernels."""
        return partial(self._kernels[kernel].form(self.FORM), self)

    def stand_in(self, cls: type[StandIn]) -> StandIn:
        """The one module of that class: the converter finds those that belong to the traced model."""
        return cast(StandIn, self._stand_ins[cls.__name__])

    def windowed(self, past: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """What a short convolution reads, (batch, taps + tokens, channels), and the window it keeps."""
        full = torch.cat([past, new], 1)
        taps = int(past.shape[1])
        self.window = self.stand_in(TokensAt)(full, self.places(taps)[:, -taps:])
        return full, self.window

    def places(self, taps: int) -> Tensor:
        """Where each token of a window of `taps` and of this call is found: `padding.Order`."""
        if taps not in self._orders:
            self._orders[taps] = self._order(taps)
        return self._orders[taps]

    def _order(self, taps: int) -> Tensor:
        order: Tensor = self.stand_in(PaddedOrder)(self.input_ids, self.attention_mask, torch.tensor(taps))
        return order

    def tokens(self) -> Tensor:
        """1 for the tokens of this call and 0 for padding, (batch, tokens, 1)."""
        return self.attention_mask[:, -self.input_ids.shape[1] :, None].float()

    def past_or(self, zeros: Tensor) -> Tensor:
        """The next state of `past`, or `zeros` where there is none."""
        return self.past.pop(0) if self.past else zeros


class FixedCall(Call):
    """A call of a graph of fixed shapes: one chunk of one row, whose padding stands before its tokens.

    A graph for an NPU is made twice from the same operations, once for a single token and once for a chunk,
    each with every shape known. So nothing is decided at run time, and no beams change places.
    """

    FORM: ClassVar = "fixed"

    def begin(self, input_ids: Tensor, attention_mask: Tensor, beam_idx: Tensor) -> None:
        self.input_ids, self.attention_mask, self.beams = input_ids, attention_mask, beam_idx
        self._orders: dict[int, Tensor] = {}

    def _order(self, taps: int) -> Tensor:
        kept = self.tokens()[0, :, 0]
        missing = (1 - kept).sum().long()
        place = torch.arange(taps + kept.shape[0])
        return torch.where(place < missing + taps, (place - missing).clamp(min=0), place)

    def windowed(self, past: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        taps = int(past.shape[1])
        full = torch.cat([past, new], 1).index_select(1, self.places(taps))
        return full, full[:, -taps:]
