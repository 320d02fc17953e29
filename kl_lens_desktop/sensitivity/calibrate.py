"""A few seconds of the work that an analysis does, timed: one block of each form, the head, and rounding."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from kl_lens_desktop.kernels.replace import fast_kernels
from kl_lens_desktop.model.by_block import ByBlock
from kl_lens_desktop.model.fit import folder_sizes, too_large
from kl_lens_desktop.model.inventory import input_channels
from kl_lens_desktop.model.load import open_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.gptq import curvature, rounded_piece
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.disk_lanes import DiskLanes
from kl_lens_desktop.sensitivity.estimate import Costs
from kl_lens_desktop.sensitivity.forward import Beside, head, observed, trunk
from kl_lens_desktop.sensitivity.jobs import ANCHOR
from kl_lens_desktop.sensitivity.metrics import Tally, reference
from kl_lens_desktop.sensitivity.moments import DAMP

_TOKENS, _HEAD_TOKENS = 256, 128  # of a lane
_HEAD_ROWS = 8192  # that stand for all where they lie in memory
_ELEMENTS = 2**20
_TIMES = 2
_LOAD_BYTES_S = 5e8  # a model into float32
_FITTED, _FITTED_S = 512, 0.035  # rows and columns that are rounded by data, and what a slow core takes
_USED = 4  # cores: more of them wait for each other between the small steps of such rounding


def calibrate(folder: Path, cancel: Cancel) -> Costs:
    """Time the parts of an analysis of the model in a folder, without reading more of it than they need."""
    started = time.perf_counter()
    loaded = open_model(folder)
    torch.set_num_threads(usable_cores())
    opening = time.perf_counter() - started
    on_disk = bool(too_large(folder_sizes(folder), "analyze"))
    model = loaded.model
    with torch.no_grad(), fast_kernels(model), DiskLanes(model, cancel) as lanes:
        blocks = _Blocks(lanes)
        forms: dict[object, tuple[float, float]] = {}
        for place, block in enumerate(lanes.main.blocks):
            form = tuple(sorted((name, tuple(each.shape)) for name, each in block.named_parameters()))
            if form not in forms:
                forms[form] = blocks.seconds(place)
            blocks.forms.append(form)
        each = [forms[form] for form in blocks.forms]
        head_s = _head_seconds(lanes, blocks, on_disk=on_disk)
    size = sum(parameter.numel() for parameter in model.parameters())
    return Costs(
        opening if on_disk else opening + 4 * size / _LOAD_BYTES_S,
        tuple(token for token, _ in each),
        tuple(widen if on_disk else 0.0 for _, widen in each),
        head_s,
        _rounding_seconds(lanes.count),
        _fitting(),
    )


class _Blocks:
    """Single blocks of a model, on hidden states that are noise."""

    def __init__(self, lanes: DiskLanes) -> None:
        self._lanes = lanes
        self._channels = input_channels(lanes.main.model)
        most = max(self._channels)
        self._noise = torch.randn(1, _TOKENS, most, generator=torch.Generator().manual_seed(0))
        self.hidden = self._noise[..., : self._channels[0]]
        self.ids = torch.zeros(1, _TOKENS, dtype=torch.long)
        self.forms: list[object] = []
        self._beside: list[Beside] = []
        self.output: type[object] = object
        with observed(lanes.main.blocks[0], None, self._beside):
            self._run(lanes.main, 0)
        self._beside *= len(lanes.main.blocks)

    def seconds(self, place: int) -> tuple[float, float]:
        """Of a token in all lanes, and of widening the block."""
        count = self._lanes.count

        def timed(batches: int) -> float:
            return _least(
                lambda: self._lanes.each(lambda lane, _: self._run(lane, place), range(batches * count))
            )

        first = time.perf_counter()
        self._run(self._lanes.main, place)
        first = time.perf_counter() - first
        token_s = timed(1) / (count * _TOKENS)
        return token_s, max(first - token_s * _TOKENS * count, 0.0)

    def _run(self, lane: ByBlock, place: int) -> Tensor:
        stop = place + 1 if place + 1 < len(lane.blocks) else None
        hidden = self._noise[..., : self._channels[place]] if place else None
        reached = trunk(lane.model, lane.blocks, self.ids, place, hidden, stop, self._beside)
        if isinstance(reached, Tensor):
            return reached
        self.output = type(reached)
        final: Tensor = reached.last_hidden_state
        return final

    def last(self) -> type[object]:
        """The type of what the model gives its head."""
        if self.output is object:
            self._run(self._lanes.main, len(self._lanes.main.blocks) - 1)
        return self.output


def _head_seconds(lanes: DiskLanes, blocks: _Blocks, *, on_disk: bool) -> float:
    """Of a token in all lanes: its logits, and comparing them."""
    output, rows = blocks.last(), torch.zeros(_HEAD_TOKENS, dtype=torch.long)
    hidden = blocks.hidden[0, :_HEAD_TOKENS]
    weight = lanes.main.stored_head
    some = weight[:_HEAD_ROWS].float()
    logits = torch.randn(_HEAD_TOKENS, len(weight), generator=torch.Generator().manual_seed(0))
    full = reference(logits, rows, rows)

    def multiply(lane: ByBlock, _: int) -> None:
        if on_disk:
            head(lane.model, output, blocks.ids[:, :1], hidden)
        else:
            nn.functional.linear(hidden, some)

    def compare(_: ByBlock, __: int) -> None:
        Tally(1, _HEAD_TOKENS).add(full, logits)

    share = 1.0 if on_disk else len(weight) / len(some)
    lane_count = range(lanes.count)
    product_s = _least(lambda: lanes.each(multiply, lane_count))
    compared_s = _least(lambda: lanes.each(compare, lane_count))
    return (share * product_s + compared_s) / (lanes.count * _HEAD_TOKENS)


def _rounding_seconds(lanes: int) -> float:
    """Of an element in all lanes."""
    values = torch.randn(1024, _ELEMENTS // 1024)
    with _one_thread():
        return _least(lambda: fake_quantize(values, parse_format(ANCHOR))) / (_ELEMENTS * lanes)


def _fitting() -> float:
    """What all cores take for rounding by the data, over what two slow ones do."""
    matrix = torch.randn(_FITTED, _FITTED, generator=torch.Generator().manual_seed(0))
    about = curvature(torch.eye(_FITTED), DAMP)
    assert about is not None
    with _one_thread():
        took = _least(lambda: rounded_piece(matrix, about, [parse_format(ANCHOR)], Cancel(), None))
    return took / _FITTED_S * 2 / min(usable_cores(), _USED)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _least(run: Callable[[], object]) -> float:
    """The shortest of a few times: others hold the processor up, and none makes it faster."""
    found = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)
