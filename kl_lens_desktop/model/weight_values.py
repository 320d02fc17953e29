"""The values of one weight as they lie in a checkpoint, or a fair sample of them. Needs no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.repository.model_files import model_files
from kl_lens_desktop.repository.text_part import text_name

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_ROWS = 64  # that are read together: neighbours share a page


def sample_values(folder: Path, weight: str, most: int = 2**20) -> NDArray[np.float32]:
    """Values of a weight: all of them, or rows of it spread evenly over the whole, about `most` in number.

    Parameters
    ----------
    folder : Path
        A model folder that was opened already, so that its files are known to be whole.
    weight : str
        The name in the inventory; stacks of experts go by the name of their layer's tensor.

    Raises
    ------
    ModelError
        If no file holds it under that name: it is put together from others when the model is opened.
    """
    wanted = {weight, weight.removesuffix(".weight")}
    for file in model_files(folder).weights:
        data = np.memmap(file, np.uint8, mode="r")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, about in header.items():
            if text_name(name) in wanted and about["dtype"] in _DTYPES:
                first, last = (start + offset for offset in about["data_offsets"])
                return _sampled(data[first:last], about["dtype"], int(about["shape"][-1]), most)
    why = "the checkpoint holds it in parts"
    raise ModelError(f"Cannot show the values of {weight}", why, "Choose another weight")


def _sampled(data: NDArray[np.uint8], kind: str, columns: int, most: int) -> NDArray[np.float32]:
    size = np.dtype(_DTYPES[kind]).itemsize
    count = len(data) // size
    rows = count // columns
    if count <= most:
        return _widened(data, kind)
    pieces = max(most // (columns * _ROWS), 1)
    starts = np.linspace(0, max(rows - _ROWS, 0), pieces).astype(int)
    cuts = [data[start * columns * size : (start + _ROWS) * columns * size] for start in starts]
    return np.concatenate([_widened(cut, kind) for cut in cuts])


def _widened(data: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    values = np.frombuffer(data.tobytes(), _DTYPES[kind])
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
