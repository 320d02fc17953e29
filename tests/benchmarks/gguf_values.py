"""What llama.cpp's types make of a model's weights: quantized by libllama, read back by llama.cpp's gguf.

``python gguf_values.py MODEL_FOLDER OUT_FOLDER LIBLLAMA IMPORTANCE.safetensors TYPE…`` runs in the
environment of `gguf_of`. It writes ``TYPE.safetensors`` with every matrix in float32, under its name in the
model, and in the metadata the bytes of each. A type that ends in ``+`` is given the importance: mean squares
of the inputs of each matrix of a block, by its name in the model, as llama.cpp's imatrix tool computes them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf_of import groups_of, names_of, parts, quantize, write
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

_KINDS = {
    "Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17,
    "Q6_K": 18, "IQ3_S": 26, "IQ3_M": 27, "IQ2_M": 29, "IQ4_XS": 30,
}  # fmt: skip  # of llama.h's enum llama_ftype


Targets = dict[str, list[tuple[str, tuple[int, ...]]]]  # of each matrix, its tensors in GGUF and their shapes


def main(folder: Path, out: Path, library: Path, importance: Path, types: list[str]) -> None:
    plain = out / "plain.gguf"
    write(folder, plain)
    targets = _targets(folder)
    given = {
        target: np.ascontiguousarray(squares, "float32")
        for key, squares in load_numpy(importance).items()
        for target, _ in targets[key]
    }
    for name in types:
        made = out / "quantized.gguf"
        quantize(plain, made, library, _KINDS[name.rstrip("+")], given if name.endswith("+") else None)
        values, sizes = _read(made, targets)
        save_file(values, out / f"{name}.safetensors", {"bytes": json.dumps(sizes)})
        made.unlink()
    plain.unlink()


def _targets(folder: Path) -> Targets:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names, groups = names_of(config), groups_of(config)
    return {
        key: [
            (names.get_name(name, try_suffixes=(".weight", ".bias")), values.shape)
            for name, values in parts(key, tensor.float().numpy(), groups)
        ]
        for key, tensor in load_file(folder / "model.safetensors").items()
        if tensor.dim() == 2
    }


def _read(file: Path, targets: Targets) -> tuple[dict[str, Any], dict[str, int]]:
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    values, sizes = {}, {}
    for key, found in targets.items():
        rows = [
            gguf.quants.dequantize(held[name].data, held[name].tensor_type).reshape(shape)
            for name, shape in found
        ]
        values[key] = torch.from_numpy(np.concatenate(rows).astype("float32"))
        sizes[key] = sum(int(held[name].n_bytes) for name, _ in found)
    return values, sizes


if __name__ == "__main__":
    model, made_in, libllama, measured, *wanted = sys.argv[1:]
    main(Path(model), Path(made_in), Path(libllama), Path(measured), wanted)
