"""What OpenVINO's rounding of activations on a CPU costs, by the groups in which they are rounded.

    ONEDNN_MAX_CPU_ISA=AVX2_VNNI python -m tests.benchmarks.bench_activations

On the bundled sample and on the one with large channels (`tests.stress`), for uniform formats and for plans
whose rounding looks at the data: the KL in nats per token to the same graph with nothing rounded, and to
FP16, ± standard errors of windows' means, in held-out text that no rounding has seen. The processor must have
VNNI, without which the plugin rounds no activations.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor

from kl_lens_desktop.bench.stateful_model import StatefulModel
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.runtime_options import DYNAMIC_QUANTIZATION
from kl_lens_desktop.hub.resolve import SAMPLE, LocalModel, resolve_model
from kl_lens_desktop.plan.document import load_plan
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.activations import GROUPS
from kl_lens_desktop.text.bundled import held_out_text, read_text
from kl_lens_desktop.text.passage import token_ids, windows
from tests.stress import stressed_folder

FORMATS = "int4_sym_g128", "int4_sym_pc", "int8_sym"
PLANNED, BITS = "int4_sym_g64,int4_sym_g128,int8_sym", (5, 6)  # which the plugin multiplies in integers
WINDOW = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plain = resolve_model(SAMPLE)
        harder = LocalModel("large channels", stressed_folder(plain.folder, folder / "stressed"))
        for name, model in (("sample", plain), ("large channels", harder)):
            _compare(name, model, folder / name, options.tokens)


def _compare(name: str, model: LocalModel, out: Path, tokens: int) -> None:
    pieces = windows(token_ids(model.folder, read_text(held_out_text())), WINDOW, tokens)
    list(export_model(model, "fp16", out / "fp16", Cancel()))
    full = _answers(out / "fp16", pieces, 0)
    scores = out / "scores.json"
    _perform("analyze", str(model.folder), "--tokens", "2048", "--formats", PLANNED, "--out", str(scores))
    for variant in (*FORMATS, *BITS):
        folder = out / str(variant)
        if isinstance(variant, int):
            plan = out / f"plan-{variant}.json"
            _perform("plan", str(scores), "--bits", str(variant), "--out", str(plan))
            list(export_model(model, load_plan(plan), folder, Cancel(), plan))
        else:
            list(export_model(model, variant, folder, Cancel()))
        exact = _answers(folder, pieces, 0)
        for group in (0, *GROUPS):
            said = _answers(folder, pieces, group) if group else exact
            lost, whole = (_mean(_kl(truth, said)) for truth in (exact, full))
            title = f"plan of {variant} bits" if isinstance(variant, int) else variant
            print(
                f"{name}, {title}, groups of {group or 'none'}: {lost} to exact, {whole} to FP16", flush=True
            )


def _perform(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "kl_lens_desktop", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def _answers(folder: Path, pieces: Sequence[list[int]], group: int) -> list[Tensor]:
    hints = {"INFERENCE_PRECISION_HINT": "f32", DYNAMIC_QUANTIZATION: str(group)}
    model = StatefulModel(ov.Core(), folder, "CPU", hints, WINDOW)
    found = []
    for piece in pieces:
        model.reset()
        found.append(torch.from_numpy(model.step(piece).copy()).log_softmax(-1))
    return found


def _kl(truth: Sequence[Tensor], said: Sequence[Tensor]) -> NDArray[np.float64]:
    return np.array([float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(truth, said, strict=True)])


def _mean(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.5f} ± {values.std(ddof=1) / len(values) ** 0.5:.5f}"


if __name__ == "__main__":
    main()
