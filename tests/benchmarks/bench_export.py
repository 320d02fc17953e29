"""What an exported graph costs: time and memory to make it, nodes and time per token, against a baseline's.

    python -m tests.benchmarks.bench_export granite --baseline other/openvino_model.xml

Random weights in the shape of a known model, INT4 in groups of 128. Graphs run alternately, each in a process
of its own, for two compiled models in one process disturb each other; medians of the rounds are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_RECURRENT, _FULL = "linear_attention", "full_attention"
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": True}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": (  # Granite-4.0-H-350M
        "granitemoehybrid",
        {
            "vocab_size": 100352, "hidden_size": 768, "num_hidden_layers": 32,
            "layer_types": [_FULL if i in (10, 13, 17, 27) else _RECURRENT for i in range(32)],
            "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 2048,
            "shared_intermediate_size": 2048, "num_local_experts": 0, "num_experts_per_tok": 0,
            "mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128, "mamba_n_groups": 1,
            "position_embedding_type": None,
        },
    ),
    "mamba": (  # mamba-130m
        "mamba", {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16},
    ),
    "mamba2": (  # mamba2-130m
        "mamba2",
        {
            "vocab_size": 50288, "hidden_size": 768, "num_hidden_layers": 24, "num_heads": 24,
            "head_dim": 64, "state_size": 128, "n_groups": 1, "expand": 2,
        },
    ),
}  # fmt: skip
PROMPT, CHUNK, DECODED, WARM = 512, 256, 40, 5


def export(shape: str, path: Path) -> dict[str, float]:
    """Write the INT4 graph; seconds by stage and the peak of resident memory, the model included, in MB."""
    import openvino as ov
    import torch
    from openvino._offline_transformations import compress_model_transformation
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from kl_lens_desktop.export.compress import compress
    from kl_lens_desktop.export.stateful import make_stateful
    from kl_lens_desktop.export.trace import trace
    from kl_lens_desktop.jobs.cancel import Cancel
    from kl_lens_desktop.model.inventory import inventory, quantizable

    family, changes = SHAPES[shape]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**_SPECIAL, **changes)).float().eval()
    assignments = {weight.name: "int4_sym_g128" for weight in quantizable(inventory(model))}
    marks = [time.perf_counter()]
    graph, states = trace(model)
    make_stateful(graph, states)
    marks.append(time.perf_counter())
    compress_model_transformation(graph)
    del model  # as `export_model` does
    compress(graph, assignments, Cancel())
    marks.append(time.perf_counter())
    ov.save_model(graph, path, compress_to_fp16=False)
    marks.append(time.perf_counter())
    stages = {
        name: after - before
        for name, before, after in zip(("trace", "compress", "write"), marks, marks[1:], strict=False)
    }
    return {**stages, "total": marks[-1] - marks[0], "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return float(memory.peak_wset / 2**20)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(path: Path, hints: dict[str, str]) -> dict[str, Any]:
    """Prefill and decode with no profiling, then nodes and shares of time with it."""
    import openvino as ov

    def client(options: dict[str, str]) -> tuple[Any, Any]:
        request = ov.Core().compile_model(path, "CPU", {**hints, **options}).create_infer_request()
        names = {port.get_any_name() for port in request.model_inputs}

        def step(past: int, new: int) -> float:
            feed = {
                "input_ids": np.arange(past, past + new)[None] % 1000,
                "attention_mask": np.ones((1, past + new), np.int64),
                "position_ids": np.arange(past, past + new)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            started = time.perf_counter()
            request.infer({name: value for name, value in feed.items() if name in names})
            return time.perf_counter() - started

        return request, step

    request, step = client({})
    prefill = []
    for _ in range(3):
        request.reset_state()
        prefill.append(sum(step(past, CHUNK) for past in range(0, PROMPT, CHUNK)))
    decode = [step(PROMPT + i, 1) for i in range(DECODED)][WARM:]
    del request, step
    request, step = client({"PERF_COUNT": "YES"})
    step(0, 16)
    spent: dict[str, list[float]] = {}
    for i in range(DECODED):
        step(16 + i, 1)
        for node in request.profiling_info:
            if node.status == node.Status.EXECUTED and i >= WARM:
                key = f"{node.node_type}\t{node.node_name}"
                spent.setdefault(key, []).append(node.real_time.total_seconds())
    rounds = DECODED - WARM
    nodes = sum(len(times) for times in spent.values()) / rounds
    by_type: Counter[str] = Counter()
    for key, times in spent.items():
        by_type[key.split("\t")[0]] += statistics.median(times) * len(times) / rounds
    weights = sum(seconds for kind, seconds in by_type.items() if kind.startswith("FullyConnected"))
    return {
        "decode_ms": 1e3 * statistics.median(decode), "decode_best_ms": 1e3 * min(decode),
        "prefill_s": min(prefill), "nodes": nodes,
        "outside_percent": 100 * (1 - weights / sum(by_type.values())),
        "largest": {kind: round(1e3 * seconds, 2) for kind, seconds in by_type.most_common(6)},
    }  # fmt: skip


def read_bandwidth(size: int) -> float:
    """GB/s of a plain read of as many bytes, the best of five."""
    data, best = np.ones(size // 8), 1e9
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return size / best / 1e9


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_export", *arguments]
    out = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--baseline", type=Path, help="openvino_model.xml, or its folder, to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--f32", action="store_true", help="with the hint f32 instead of the device's default"
    )
    parser.add_argument("--export-to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hints = {"INFERENCE_PRECISION_HINT": "f32"} if options.f32 else {}
    if options.export_to:
        print(json.dumps(export(options.shape, options.export_to)))
        return
    if options.measure:
        print(json.dumps(measure(options.measure, hints)))
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "openvino_model.xml"
        made = _child(options.shape, "--export-to", str(ours))
        size = ours.with_suffix(".bin").stat().st_size
        print(
            f"export: {', '.join(f'{name} {value:.1f}' for name, value in made.items())}; {size / 1e6:.0f} MB"
        )
        graphs = {"ours": ours}
        if options.baseline:
            baseline = options.baseline
            graphs["baseline"] = baseline / "openvino_model.xml" if baseline.is_dir() else baseline
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in graphs}
        for _ in range(options.rounds):
            for name, path in graphs.items():
                extra = ("--f32",) if options.f32 else ()
                rows[name].append(_child(options.shape, "--measure", str(path), *extra))
        middle = {
            name: {key: statistics.median(row[key] for row in of) for key in of[0] if key != "largest"}
            for name, of in rows.items()
        }
        for name, row in middle.items():
            print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))
            print(f"  largest, ms per token: {rows[name][-1]['largest']}")
        plain = read_bandwidth(size)
        reached = size / middle["ours"]["decode_best_ms"] / 1e6
        print(f"bandwidth: {reached:.1f} GB/s of {plain:.1f} GB/s plain read, {100 * reached / plain:.0f} %")
        if options.baseline:
            for key in ("decode_ms", "decode_best_ms", "prefill_s", "nodes", "outside_percent"):
                print(f"baseline / ours, {key}: {middle['baseline'][key] / middle['ours'][key]:.2f}")


if __name__ == "__main__":
    main()
