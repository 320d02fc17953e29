"""A model folder's safetensors files: whole, in agreement with their index, and identified by their hash.

Needs no torch.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.files import reason, sha256
from kl_lens_desktop.repository.model_files import INDEX, ModelFiles, listed, model_files
from kl_lens_desktop.repository.text_part import text_name

_SHORT = (
    "F4",
    "F6",
    "F8",
    "I4",
    "I8",
    "U8",
)  # beginnings of types of less than 16 bits


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder in order of name, each checked to be whole.

    Raises
    ------
    ModelError
        If `model_files` or `tensor_shapes` refuses them.
    """
    files = model_files(folder)
    tensor_shapes(files)
    return list(files.weights)


def tensor_shapes(files: ModelFiles) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model by its name in transformers, from the headers of its files.

    Raises
    ------
    ModelError
        If a file is cut short or damaged, two of them hold the same tensor, a tensor is not in the file that
        the index names for it, or a weight is stored in less than 16 bits.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    homes: dict[str, str] = {}
    for file in files.weights:
        for name, shape in _shapes(file).items():
            if name in homes:
                raise ModelError(
                    f"Cannot open {files.folder}",
                    f"{homes[name]} and {file.name} both hold {name[:120]}",
                    "Keep only the files of one model",
                )
            shapes[name], homes[name] = shape, file.name
    index = {text_name(name): home for name, home in files.index.items()}
    if astray := [name for name, home in index.items() if homes.get(name) != home]:
        raise ModelError(
            f"Cannot open {files.folder}",
            f"{index[astray[0]]} lacks what {INDEX} says is in it: {listed(astray)}",
            "Download the model again",
        )
    return shapes


def weights_sha256(files: list[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """A checkpoint's identity: its file's SHA-256 or, of several, that of their lines "name sha256"."""
    digests = [f"{file.name} {sha256(file, on_bytes)}" for file in files]
    if len(digests) == 1:
        return digests[0].split()[-1]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="numpy", backend="pread") as opened:
            found = {text_name(name): opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(each.get_shape()) for name, each in found.items()}
            kinds = {name: each.get_dtype() for name, each in found.items()}
    except SafetensorError as error:
        raise ModelError(
            f"Cannot open {file}", f"the file is incomplete or damaged ({error})", "Download the model again"
        ) from error
    except OSError as error:
        raise ModelError(f"Cannot open {file}", reason(error), "Check the file") from error
    for name, kind in kinds.items():
        if kind.startswith(_SHORT) and len(shapes[name]) > 1 and name.endswith(("weight", "_proj")):
            raise ModelError(
                f"Cannot open {file}",
                f"{name[:120]} is quantized already: it is stored as {kind}",
                "Choose the model in full precision",
            )
    return shapes
