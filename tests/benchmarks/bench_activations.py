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

import openvino as ov

from kl_lens_desktop.bench.divergence import Doubles, kl_both_ways, probabilities
from kl_lens_desktop.bench.stateful_model import StatefulModel
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.runtime_options import DYNAMIC_QUANTIZATION
from kl_lens_desktop.hub.resolve import SAMPLE, LocalModel, resolve_model
from kl_lens_desktop.plan.document import load_plan
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.activations import GROUPS
from kl_lens_desktop.sensitivity.means import mean
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
    for fmt in FORMATS:
        list(export_model(model, fmt, out / fmt, Cancel()))
    for bits in BITS:
        plan, folder = out / f"plan-{bits}.json", out / f"plan of {bits} bits"
        _perform("plan", str(scores), "--bits", str(bits), "--out", str(plan))
        list(export_model(model, load_plan(plan), folder, Cancel(), plan))
    for variant in (*FORMATS, *(f"plan of {bits} bits" for bits in BITS)):
        exact = _answers(out / variant, pieces, 0)
        for group in (0, *GROUPS):
            said = _answers(out / variant, pieces, group) if group else exact
            lost, whole = (_kl(truth, said) for truth in (exact, full))
            where = f"{name}, {variant}, groups of {group or 'none'}"
            print(f"{where}: {lost} to exact, {whole} to FP16", flush=True)


def _perform(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "kl_lens_desktop", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def _answers(folder: Path, pieces: Sequence[list[int]], group: int) -> list[tuple[Doubles, Doubles]]:
    """`probabilities` of each piece."""
    hints = {"INFERENCE_PRECISION_HINT": "f32", DYNAMIC_QUANTIZATION: str(group)}
    model = StatefulModel(ov.Core(), folder, "CPU", hints, WINDOW)
    return [probabilities(logits) for piece in pieces for logits in model.logits(piece)]


def _kl(truth: Sequence[tuple[Doubles, Doubles]], said: Sequence[tuple[Doubles, Doubles]]) -> str:
    means = [
        float(kl_both_ways(log_p, p, log_q)[0].mean())
        for (log_p, p), (log_q, _) in zip(truth, said, strict=True)
    ]
    found = mean(means, WINDOW * len(means))
    return f"{found.mean:.5f} ± {found.se:.5f}"


if __name__ == "__main__":
    main()
