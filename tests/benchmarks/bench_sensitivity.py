"""What an analysis costs, against the paper's protocol and against that protocol as well as it can be done.

    python -m tests.benchmarks.bench_sensitivity                   # speed, agreement; 24 trained blocks
    python -m tests.benchmarks.bench_sensitivity --memory          # its peak; 340 M, vocabulary 100,352

The paper's protocol loads teacher and student from disk for every entry and runs both in full. Done well,
the teacher's logits are kept and the weight is exchanged in place. Both are timed on entries spread over the
depth, with the modelling library's own forward. Beside the time on the clock stands the processor's, which
other work on the machine disturbs less.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `python -m kl_lens_desktop` sets it

import psutil
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.inventory import Weight, inventory, quantizable
from kl_lens_desktop.model.load import load_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note, Progress, Scored
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity.engine import analyze, in_forward_order, use_cores
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import load_scores
from kl_lens_desktop.text.bundled import calibration_text
from kl_lens_desktop.text.windows import windows
from tests.benchmarks.bench_export import _SPECIAL, SHAPES
from tests.models import build_deep_sample, saved

BATCH_TOKENS = 1024
TWO = ("int4_sym_g64", "int8_sym")
Seconds = tuple[float, float]  # on the clock, of the processor


def analyzed(folder: Path, out: Path, **options: Any) -> dict[str, float]:
    """Seconds of an analysis from opening the model on, and how its estimate of the time left did."""
    how = Analysis((calibration_text(),), **options)
    started, busy, clock = time.perf_counter(), time.process_time(), []
    for event in analyze(LocalModel("deep", folder), out, how, Cancel()):
        if isinstance(event, Progress) and event.eta_s is not None:
            clock.append((time.perf_counter() - started, event.eta_s))
        elif isinstance(event, Note):
            print("   ", event.text, flush=True)
    seconds = time.perf_counter() - started
    opened = clock[0][0]
    at, eta = next((at, eta) for at, eta in clock if at - opened >= 0.1 * (seconds - opened))
    return {"seconds": seconds, "cpu": time.process_time() - busy, "eta": eta / (seconds - at)}


def logits_of(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    return [model(batch, use_cache=False).logits for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1]))]


def metrics(teacher: list[Tensor], student: list[Tensor], ids: Tensor) -> list[float]:
    """KL both ways, MSE, SQNR and ΔCE of whole logits, written down as the formulas are."""
    sums = torch.zeros(6, dtype=torch.float64)
    for z, y, batch in zip(teacher, student, ids.split(len(teacher[0])), strict=True):
        log_p, log_q = F.log_softmax(z, -1), F.log_softmax(y, -1)
        target = batch[:, 1:, None]
        sums += torch.stack(
            [
                F.kl_div(log_q, log_p, log_target=True, reduction="sum"),
                F.kl_div(log_p, log_q, log_target=True, reduction="sum"),
                (z - y).square().sum(),
                z.square().sum(),
                -log_q[:, :-1].gather(-1, target).sum(),
                -log_p[:, :-1].gather(-1, target).sum(),
            ]
        ).double()
    return sums.tolist()


@torch.no_grad()
def in_place(folder: Path, ids: Tensor, chosen: list[Weight], name: str) -> list[Seconds]:
    """Seconds per entry with the teacher's logits kept and the weight exchanged in place."""
    model = load_model(folder).model
    teacher, seconds = logits_of(model, ids), []
    for weight in chosen:
        started, busy = time.perf_counter(), time.process_time()
        parameter = model.get_parameter(weight.name)
        kept = parameter.data
        parameter.data = fake_quantize(kept, parse_format(name))
        metrics(teacher, logits_of(model, ids), ids)
        parameter.data = kept
        seconds.append((time.perf_counter() - started, time.process_time() - busy))
    return seconds


@torch.no_grad()
def as_in_the_paper(folder: Path, ids: Tensor, chosen: list[Weight], name: str) -> list[Seconds]:
    """Seconds per entry with teacher and student loaded and run for each."""
    seconds = []
    for weight in chosen:
        started, busy = time.perf_counter(), time.process_time()
        teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        parameter = student.get_parameter(weight.name)
        parameter.copy_(fake_quantize(parameter, parse_format(name)))
        metrics(logits_of(teacher, ids), logits_of(student, ids), ids)
        seconds.append((time.perf_counter() - started, time.process_time() - busy))
    return seconds


def speed(tokens: int, window: int, name: str, entries: int, precision: str) -> None:
    use_cores()
    with tempfile.TemporaryDirectory() as place:
        folder = build_deep_sample(Path(place) / "deep")
        options = {"tokens": tokens, "window": window, "formats": (name,), "precision": precision}
        whole, raced = Path(place) / "whole.json", Path(place) / "raced.json"
        exhaustive = analyzed(folder, whole, exhaustive=True, **options)
        racing = analyzed(folder, raced, **options)
        loaded = load_model(folder)
        ids, _ = windows(loaded, [calibration_text()], tokens, window)
        weights = in_forward_order(quantizable(inventory(loaded.model)))
        del loaded
        chosen = weights[len(weights) // (2 * entries) :: max(1, len(weights) // entries)][:entries]
        kept = in_place(folder, ids, chosen, name)
        paper = as_in_the_paper(folder, ids, chosen[::2], name)
        full = {entry.weight: entry.kl_pq.mean for entry in load_scores(whole).entries}
        early = {entry.weight: entry.kl_pq for entry in load_scores(raced).entries}
    count = len(full)
    used = sum(estimate.n for estimate in early.values()) / (count * ids.numel())
    top = sorted(full, key=lambda weight: -full[weight])[:10]
    found = sorted(early, key=lambda weight: -early[weight].mean)[:12]
    tau = kendalltau([full[weight] for weight in full], [early[weight].mean for weight in full]).statistic
    print(f"{count} entries, {ids.numel()} tokens in windows of {window}, {name}, {precision}")
    for title, result in (("exhaustive", exhaustive), ("racing", racing)):
        each = result["seconds"] / count, result["cpu"] / count
        print(
            f"{title:10}  {result['seconds']:6.1f} s; an entry {_both(each)}; "
            f"against the paper's protocol {_ratio(paper, each)}, in place {_ratio(kept, each)}; "
            f"time left, told after a tenth: {result['eta']:.2f} of what it took"
        )
    print(f"an entry in place {_both(_mean(kept))}; as in the paper {_both(_mean(paper))}")
    print(f"racing used {used:.0%} of the text; τ with exhaustive {tau:.3f}; of the worst 10 it has ", end="")
    print(f"{len(set(top) & set(found))} among its worst 12")


def memory(tokens: list[int], precision: str) -> None:
    """Peak of resident memory above the loaded model, each figure from a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "granite"
        family, changes = SHAPES["granite"]
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        torch.manual_seed(0)
        saved(AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**_SPECIAL, **changes)), folder)
        for count in tokens:
            command = [sys.executable, "-m", "tests.benchmarks.bench_sensitivity", "--peak-of", str(folder)]
            command += ["--tokens", str(count), "--precision", precision]
            result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            print(f"{count:7} tokens: {json.dumps(result)}", flush=True)


def peak(folder: Path, tokens: int, precision: str, steps: int = 4) -> dict[str, float]:
    """MB before and at the peak of the first steps: the embedding, which is the head too, and block 0."""
    process, highest, running = psutil.Process(), [0], [True]

    def watch() -> None:
        while running[0]:
            highest[0] = max(highest[0], process.memory_info().rss)
            time.sleep(0.005)

    with tempfile.TemporaryDirectory() as place:
        events = analyze(
            LocalModel("granite", folder), Path(place) / "s.json",
            Analysis((calibration_text(),), tokens=tokens, precision=precision, formats=TWO), Cancel(),
        )  # fmt: skip
        loaded = _resident_with_model(folder, process)
        watcher = threading.Thread(target=watch, daemon=True)
        for _ in _until_scored(events, 2 * steps):
            if not watcher.is_alive():
                watcher.start()
        running[0] = False
        watcher.join()
        events.close()
    return {"loaded": loaded / 2**20, "above": (highest[0] - loaded) / 2**20}


def _resident_with_model(folder: Path, process: psutil.Process) -> int:
    """Bytes with every weight touched: a file that is mapped counts only once it was read."""
    model = load_model(folder).model
    for parameter in model.parameters():
        parameter.aminmax()
    return int(process.memory_info().rss)


def _until_scored(events: Iterator[Any], steps: int) -> Iterator[Any]:
    """The progress of the analysis itself, from the first walk to the given number of steps."""
    for event in events:
        if isinstance(event, Progress) and event.unit:
            yield event
            steps -= event.eta_s is not None
        if isinstance(event, Scored):
            steps -= 1
        if steps <= 0:
            return


def _mean(seconds: list[Seconds]) -> Seconds:
    clock, busy = zip(*seconds, strict=True)
    return math.fsum(clock) / len(clock), math.fsum(busy) / len(busy)


def _both(seconds: Seconds) -> str:
    return f"{seconds[0]:.3f} s ({seconds[1]:.3f} of processor time)"


def _ratio(others: list[Seconds], ours: Seconds) -> str:
    clock, busy = _mean(others)
    return f"{clock / ours[0]:.1f}× ({busy / ours[1]:.1f}×)"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--format", default="int4_sym_g64")
    parser.add_argument("--entries", type=int, default=4, help="of the protocols compared with")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_of:
        print(json.dumps(peak(given.peak_of, given.tokens, given.precision)))
    elif given.memory:
        memory([1024, 16384], given.precision)
    else:
        speed(given.tokens, given.window, given.format, given.entries, given.precision)
