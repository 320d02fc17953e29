"""What the benchmark lab's figures are worth: its bars, measured against scripts that know nothing of it.

    python -m tests.benchmarks.bench_lab                     # all of it, on the sample in INT4
    python -m tests.benchmarks.bench_lab noise --repetitions 5
    python -m tests.benchmarks.bench_lab speed perplexity memory failures devices --folder DIR

`noise` loads a variant twice under two names, and a third that really takes 15 % longer for every token (as a
plain script, run in turn, says), anew for each repetition, and counts what is told apart. `speed` and
`perplexity` set the lab's figures beside a plain script's, `memory` beside the system's.
"""

import argparse
import contextlib
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psutil

from kl_lens_desktop.bench import lab, noise
from kl_lens_desktop.bench.devices import list_devices
from kl_lens_desktop.bench.jobs import BenchJob, QualityJob, SpeedJob, SpeedOrder
from kl_lens_desktop.bench.rows import Run
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.bench.variants import find_variants
from kl_lens_desktop.process import child as child_module
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Finished, Measured
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.text.bundled import held_out_text
from tests.benchmarks.slow_variant import slowed

SLOWER, TURNS = 1.15, 8
PLAIN = """
import json, statistics, sys
import numpy as np, openvino, openvino_genai
pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU")
random = np.random.default_rng(0)
def generate(prompt, new):
    config = openvino_genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
    return pipeline.generate(openvino.Tensor(random.integers(0, 4096, (1, prompt))), config).perf_metrics
generate(256, 4)
print("ready", flush=True)
for line in sys.stdin:
    generate(32, 4)
    metrics = [generate(256, 64) for _ in range(3)]
    steps = [step for m in metrics for step in list(m.raw_metrics.m_durations)[1:]]
    speeds = [m.get_throughput().mean for m in metrics]
    print(json.dumps([speeds, statistics.quantiles(steps, n=10)[0]]), flush=True)
"""


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PLAIN, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str]) -> tuple[list[float], float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    speeds, step = json.loads(process.stdout.readline())
    return speeds, step


def slow_copy(folder: Path, root: Path, products: int | None) -> tuple[Path, float]:
    """A copy that is `SLOWER`, and how much slower the plain script finds it."""
    fixed, products, ratio = products is not None, products or 4, 1.0
    for _ in range(1 if fixed else 4):
        slow = slowed(folder, root / f"slow-{products}", products)
        with plain(folder) as first, plain(slow) as second:
            steps = [(ask(first)[1], ask(second)[1]) for _ in range(TURNS)]
        ratio = statistics.median(b / a for a, b in steps)
        print(
            f"  {products} further products: a plain script's tokens take {ratio:.3f} times as long",
            flush=True,
        )
        if abs(ratio - SLOWER) < 0.015:
            break
        products = max(1, round(products * (SLOWER - 1) / max(ratio - 1, 0.02)))
    return slow, ratio


def measure_noise(folder: Path, root: Path, repetitions: int, products: int | None) -> None:
    slow, ratio = slow_copy(folder, root, products)
    twin = shutil.copytree(folder, root / "twin")
    alike, apart, rounds, spreads = 0, 0, [], []
    variants = find_variants([folder, twin, slow])
    settings = Benchmark(contexts=())
    for number in range(repetitions):
        runs = [Run(variant, "CPU") for variant in variants]
        course = lab.BenchCourse(held_out_text(), settings, Cancel(), 3 * settings.most_rounds)
        try:
            for _ in lab.take_turns(runs, course):
                pass
        finally:
            for run in runs:
                if run.child:
                    run.child.close()
        speeds = [
            [turn["round"]["tokens_per_s"] for turn in run.turns[settings.prompt_tokens]] for run in runs
        ]
        same, slower = noise.paired(speeds[0], speeds[1]), noise.paired(speeds[0], speeds[2])
        alike += same.apart is False
        apart += slower.slower
        rounds.append(max(map(len, speeds)))
        spreads.append(same.ratio)
        print(
            f"  {number + 1}: same {same.ratio:.3f} ({same.low:.3f} … {same.high:.3f}), "
            f"slower {slower.ratio:.3f} ({slower.low:.3f} … {slower.high:.3f}), {rounds[-1]} rounds",
            flush=True,
        )
    print(f"same under two names, within noise: {alike} of {repetitions} (bar 19 of 20)")
    print(f"really {ratio:.3f} times as slow, told apart: {apart} of {repetitions} (bar 18 of 20)")
    print(f"rounds {min(rounds)} … {max(rounds)}; ratio of the same {min(spreads):.3f} … {max(spreads):.3f}")


def measure_speed(folder: Path) -> None:
    order = SpeedOrder(256, 64, repeats=3, seconds=60)
    ours, theirs, cancel = [], [], Cancel()
    child = Child(SpeedJob(folder, "CPU", 256, 64))
    with contextlib.closing(child), plain(folder) as script:
        for _ in child.answer(cancel):
            pass
        for _ in range(TURNS):
            *_, answer = child.answer(cancel, order)
            ours += answer.result["samples"]["tokens_per_s"]
            theirs += ask(script)[0]
    for name, of in (("mean", statistics.fmean), ("median", statistics.median)):
        lab_s, plain_s = of(ours), of(theirs)
        ratio = f"ratio {lab_s / plain_s:.3f} (bar 0.9 … 1.1)"
        print(f"decode, {name}: {lab_s:.1f} tokens/s, plain script {plain_s:.1f}, {ratio}")


def measure_perplexity(folder: Path) -> None:
    from tests.dequantized import torch_nats

    job = QualityJob(folder, "CPU", tokens=4096, chunk=256, precision="f32", window=256)
    (result,) = (job.result(e) for e in Child(job).events() if isinstance(e, Finished))
    expected = math.exp(torch_nats(folder, 4096, 256))
    got = result["perplexity"]["mean"]
    off = f"off by {got / expected - 1:+.5%} (bar 0.05 %)"
    print(f"perplexity: {got:.5f}, torch on dequantized weights {expected:.5f}, {off}")


def measure_memory(folder: Path) -> None:
    cancel = Cancel()
    child = Child(SpeedJob(folder, "CPU", 2048, 8), label="child")
    with contextlib.closing(child):
        for _ in child.answer(cancel):
            pass
        *_, answer = child.answer(cancel, SpeedOrder(2048, 8, repeats=2, seconds=60))
        if sys.platform == "linux":
            said = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
            peak = int(said.partition("VmHWM:")[2].split()[0]) / 1024
        else:
            peak = psutil.Process(child.pid).memory_info().peak_wset / 2**20
    got = answer.result["peak_rss_mb"]
    sampled = f"sampled {child.peak_rss_mb:.1f}, ratio {child.peak_rss_mb / peak:.4f}"
    print(f"peak RSS: {got:.1f} MB, the system says {peak:.1f}, ratio {got / peak:.4f} (bar 3 %); {sampled}")


def measure_failures(folder: Path, root: Path) -> None:
    from tests.odd_worker import WORKER, odd_folder

    told = root / "pid"
    folders = [folder, *(odd_folder(root / name, name) for name in ("segfault", "abort", "glutton", "hang")),
               odd_folder(root / "orphan", "orphan", str(told))]  # fmt: skip
    settings = Benchmark(tokens=256, contexts=(), rounds=2, max_rounds=2, raw=False, cache=False,
                            memory_limit_mb=1500, time_limit_s=30)  # fmt: skip
    with mock.patch.object(child_module, "worker_command", return_value=(WORKER, {})):
        job = BenchJob(tuple(folders), root / "failures.json", ("CPU",), settings)
        for event in perform(job, Cancel()):
            if isinstance(event, Measured):
                print(f"  {event.row['variant']}: {event.row['status']}")
    left = [
        each for each in psutil.Process().children(recursive=True) if "worker" in " ".join(each.cmdline())
    ]
    grandchild = psutil.pid_exists(int(told.read_text(encoding="utf-8")))
    print(f"children left {len(left)}, grandchild left: {'yes' if grandchild else 'no'}")


def measure_devices(folder: Path, root: Path) -> None:
    for device in list_devices():
        print(f"  {device.name}: {device.full_name or 'unavailable: ' + device.reason}")
    settings = Benchmark(tokens=512, contexts=(), rounds=2, max_rounds=2, raw=False, cache=False)
    devices = ("CPU", "AUTO:CPU", "HETERO:CPU", "MULTI:CPU", "GPU", "NPU")
    for event in perform(BenchJob((folder,), root / "devices.json", devices, settings), Cancel()):
        if isinstance(event, Measured):
            row = event.row
            speed = f", {row['tokens_per_s']['mean']:.0f} tokens/s" if row["tokens_per_s"] else ""
            print(f"  {row['device']}: {row['status']}{speed}")


def main() -> None:
    parts = ("noise", "speed", "perplexity", "memory", "failures", "devices")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--folder", type=Path, help="an exported model (default: the sample in INT4)")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--products",
        type=int,
        help="of the slow copy, as found on the quiet computer: on a busy one do not search",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kl-lens-", ignore_cleanup_errors=True) as temporary:
        root = Path(temporary)
        folder = arguments.folder or exported(root / "int4")
        chosen = arguments.parts or parts
        if "noise" in chosen:
            measure_noise(folder, root, arguments.repetitions, arguments.products)
        if "speed" in chosen:
            measure_speed(folder)
        if "perplexity" in chosen:
            measure_perplexity(folder)
        if "memory" in chosen:
            measure_memory(folder)
        if "failures" in chosen:
            measure_failures(folder, root)
        if "devices" in chosen:
            measure_devices(folder, root)


def exported(folder: Path) -> Path:
    from kl_lens_desktop.export.bundle import export_model
    from kl_lens_desktop.hub.resolve import resolve_model

    for _ in export_model(resolve_model("sample"), "int4_sym_g64", folder, Cancel()):
        pass
    return folder


if __name__ == "__main__":
    main()
