"""Compare exported models' logits on the GPU with the CPU's.

``python -m tests.gpu_on_cpu.compare REQUEST.json`` reads an object with ``folders`` (of stateful IR),
``precisions`` (``f32``, ``f16``) and ``feedings`` (see `FEEDINGS`). For each combination it prints a line of
JSON as soon as it is done; the keys are the fields of a `Comparison`. Run it with the emulated GPU
(``python -m tests.gpu_on_cpu``), or where there is a real one.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from scipy.special import log_softmax

from tests.gpu_on_cpu.emulator import environment, last_line

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 200
# The numbers of tokens of a feeding's calls. Those of TWO_ROWS have two rows, the others one.
FEEDINGS: dict[str, list[int]] = {
    "whole": [TOKENS],
    "chunks": [7, 13, 1, 1, 70, 108],
    "again": [40, 1, 1, 40, 1, 40, 1, 38, 38],  # lengths that come again, other branches between them
    "two": [2] * (TOKENS // 2),
    "batch": [100, 1, 99],
    "beams": [20, 80, 1, 1, 38],
    "padded": [90, 40, 1, 1],
    "single": [1] * TOKENS,
    "mixed": [140, 1, 1, 2, 20, 1, 2, 20, 1, 12],  # something of all but padding, in little time
}
TWO_ROWS = ("batch", "beams", "padded", "mixed")
BEAMS = {
    "beams": [[0, 1], [1, 0], [0, 0], [1, 0], [1, 1]],
    "mixed": [[0, 1], [0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [1, 1], [0, 1], [0, 1], [1, 0]],
}
PADDING = 60  # of the second row of "padded"
TOLERANCE = {"f32": 1e-3, "f16": 5e-2}  # of a position's error
CPU = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
GPU = {"KV_CACHE_PRECISION": "f16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}  # as an Arc 140V has them
# What pybind11 makes of the exceptions of C++.
REFUSALS = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Comparison:
    """How the GPU's logits differ from the CPU's for one folder, precision and feeding.

    Attributes
    ----------
    error
        The largest absolute difference of logits, over the standard deviation of the CPU's; infinite if any
        of the GPU's is not finite.
    kl
        The largest KL(cpu‖gpu) of a position, in nats; infinite likewise.
    first_wrong
        The first position, in any row, with an error over the precision's tolerance.
    synchronisations, launches
        How often the host waited and how many kernels were launched in all calls of the feeding; None on a
        real GPU.
    failure
        Why there is nothing to compare, in words; all figures are None then.
    """

    folder: str
    precision: str
    feeding: str
    error: float | None = None
    kl: float | None = None
    first_wrong: int | None = None
    synchronisations: int | None = None
    launches: int | None = None
    failure: str | None = None


def compared(
    folders: Sequence[Path],
    precisions: Sequence[str],
    feedings: Sequence[str],
    *,
    older: bool = False,
    out_of_order: bool = False,
    limit_s: float = 900,
) -> list[Comparison]:
    """Compare folders of stateful IR on the emulated GPU with the CPU, in a process for each folder.

    Where the plugin crashes, its process is lost, and what it had not compared has a `failure` that says so.

    Parameters
    ----------
    folders
        Each with ``openvino_model.xml`` and ``config.json``.
    precisions, feedings
        Of `TOLERANCE` and of `FEEDINGS`.
    older, out_of_order
        As for `environment`.
    limit_s
        Seconds after which a folder's process is ended.

    Returns
    -------
    list of Comparison
        By folder, precision and feeding, in the order given.

    Raises
    ------
    Unavailable
        The emulated GPU cannot be had here.
    """
    variables = environment(older=older, out_of_order=out_of_order)
    return [
        comparison
        for folder in folders
        for comparison in _compared_apart(folder.resolve(), precisions, feedings, variables, limit_s)
    ]


def comparisons(folder: Path, precisions: Sequence[str], feedings: Sequence[str]) -> Iterator[Comparison]:
    """Compare one folder in this process, which the GPU plugin may crash; yield each comparison when done."""
    core = ov.Core()
    model = folder / "openvino_model.xml"
    cpu = core.compile_model(model, "CPU", CPU).create_infer_request()
    ids = _token_ids(folder)
    expected: dict[str, NDArray[np.float64]] = {}
    for precision in precisions:
        properties = {**GPU, "INFERENCE_PRECISION_HINT": precision}
        try:
            gpu = core.compile_model(model, "GPU", properties).create_infer_request()
        except REFUSALS as error:
            for feeding in feedings:
                yield Comparison(str(folder), precision, feeding, failure=_words(error))
            continue
        for feeding in feedings:
            if feeding not in expected:
                expected[feeding] = _logits(cpu, feeding, ids)
            before = _counts()
            try:
                logits = _logits(gpu, feeding, ids)
            except REFUSALS as error:
                yield Comparison(str(folder), precision, feeding, failure=_words(error))
                # The shapes of a call that failed stay in the compiled model, and later calls fail for them.
                gpu = core.compile_model(model, "GPU", properties).create_infer_request()
                continue
            yield Comparison(
                str(folder),
                precision,
                feeding,
                **_differences(expected[feeding], logits, _unpadded(feeding), TOLERANCE[precision]),
                **{name: count - before[name] for name, count in _counts().items()},
            )


def _token_ids(folder: Path) -> NDArray[np.int64]:
    """Two rows of random tokens; the same for every folder with as large a vocabulary."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = config.get("vocab_size") or config["text_config"]["vocab_size"]
    return np.random.default_rng(0).integers(1, vocabulary, (2, TOKENS))


def _unpadded(feeding: str) -> NDArray[np.bool_]:
    """Where the tokens of a feeding are not padding; (rows, tokens)."""
    unpadded = np.ones((2 if feeding in TWO_ROWS else 1, sum(FEEDINGS[feeding])), bool)
    if feeding == "padded":
        unpadded[1, :PADDING] = False
    return unpadded


def _logits(request: Any, feeding: str, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logits of all calls of a feeding; (rows, tokens, vocabulary)."""
    mask = _unpadded(feeding).astype(np.int64)
    positions = (mask.cumsum(1) - 1).clip(0)
    names = {name for port in request.model_inputs for name in port.names}
    request.reset_state()
    calls = []
    start = 0
    for number, size in enumerate(FEEDINGS[feeding]):
        end = start + size
        inputs = {
            "input_ids": ids[: len(mask), start:end],
            "attention_mask": mask[:, :end],
            "position_ids": positions[:, start:end],
            "beam_idx": np.array(BEAMS[feeding][number] if feeding in BEAMS else range(len(mask)), np.int32),
        }
        # OpenVINO takes contiguous arrays only, and its next call overwrites the logits of this one.
        fed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in names}
        calls.append(request.infer(fed)["logits"].astype(np.float64))
        if calls[-1].shape[:2] != (len(mask), size):
            raise ValueError(f"The logits of {len(mask)} × {size} tokens are of shape {calls[-1].shape}.")
        start = end
    return np.concatenate(calls, 1)


def _differences(
    cpu: NDArray[np.float64], gpu: NDArray[np.float64], unpadded: NDArray[np.bool_], tolerance: float
) -> dict[str, Any]:
    with np.errstate(invalid="ignore"):
        errors = np.abs(gpu - cpu).max(-1) / cpu[unpadded].std()
        log_p, log_q = log_softmax(cpu, -1), log_softmax(gpu, -1)
        kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    errors, kl = (np.nan_to_num(values, nan=np.inf, posinf=np.inf) for values in (errors, kl))
    wrong = ((errors > tolerance) & unpadded).any(0)
    return {
        "error": float(errors[unpadded].max()),
        "kl": float(kl[unpadded].max()),
        "first_wrong": int(wrong.argmax()) if wrong.any() else None,
    }


def _counts() -> dict[str, Any]:
    """What the layer of ``shim.c`` has counted in this process; nothing on a real GPU."""
    layer = os.environ.get("OPENCL_LAYERS")
    if layer is None:
        return {}
    counts = (ctypes.c_ulong * 2)()
    ctypes.CDLL(layer).gpu_on_cpu_counts(counts)
    return {"synchronisations": counts[0], "launches": counts[1]}


def _words(error: Exception) -> str:
    """The end of OpenVINO's message, which is where it says what happened."""
    return " ".join(str(error).split())[-400:] or type(error).__name__


def _compared_apart(
    folder: Path,
    precisions: Sequence[str],
    feedings: Sequence[str],
    variables: dict[str, str],
    limit_s: float,
) -> list[Comparison]:
    request = {"folders": [str(folder)], "precisions": list(precisions), "feedings": list(feedings)}
    with tempfile.TemporaryDirectory() as place:
        asked, answers, complaints = (
            Path(place) / name for name in ("request.json", "answers", "complaints")
        )
        asked.write_text(json.dumps(request), encoding="utf-8")
        with answers.open("wb") as out, complaints.open("wb") as err:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.gpu_on_cpu.compare", str(asked)],
                cwd=ROOT,
                env=variables,
                stdout=out,
                stderr=err,
            )
            ending = _ending(child, limit_s)
        lines = answers.read_text(encoding="utf-8", errors="replace").splitlines()
        if child.returncode > 0:
            ending += f": {last_line(complaints.read_text(encoding='utf-8', errors='replace'))}"
    done = [Comparison(**json.loads(line)) for line in lines if line.startswith('{"folder"')]
    pairs = [(precision, feeding) for precision in precisions for feeding in feedings]
    return done + [Comparison(str(folder), *pair, failure=ending) for pair in pairs[len(done) :]]


def _ending(child: subprocess.Popen[bytes], limit_s: float) -> str:
    try:
        status = child.wait(limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return f"the process was ended after {limit_s:g} s"
    return (
        f"the process ended with signal {-status}"
        if status < 0
        else f"the process ended with status {status}"
    )


def main() -> int:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for folder in request["folders"]:
        for comparison in comparisons(Path(folder), request["precisions"], request["feedings"]):
            print(json.dumps(asdict(comparison)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
