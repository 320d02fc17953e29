"""What an exported graph costs to make and to run, in time, memory and nodes, against a plain export's.

    python -m tests.benchmarks.bench_export              # all shapes, in the device's own precision and f32
    python -m tests.benchmarks.bench_export granite --baseline other/openvino_model.xml --f32
    python -m tests.benchmarks.bench_export granite --peers FOLDER   # llama.cpp and optimum-intel

Random weights in the shape of a known model, INT4 in groups of 128. Graphs take turns, each in a process of
its own, for two compiled models in one process disturb each other; the ratio is the median over the turns.
The baseline is what `plain_export` makes of the same model, or a graph made elsewhere.
"""

import argparse
import contextlib
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
_SCALED = {  # Granite's checkpoints have none of them at 1, where the graph would not hold them
    "embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.246,
    "logits_scaling": 3.0,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": (  # Granite-4.0-H-350M
        "granitemoehybrid",
        {
            "vocab_size": 100352, "hidden_size": 768, "num_hidden_layers": 32,
            "layer_types": [_FULL if i in (10, 13, 17, 27) else _RECURRENT for i in range(32)],
            "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 2048,
            "shared_intermediate_size": 2048, "num_local_experts": 0, "num_experts_per_tok": 0,
            "mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128, "mamba_n_groups": 1,
            "position_embedding_type": None, **_SCALED,
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
    "experts": (  # a small hybrid of 32 experts, of which a token chooses 4
        "granitemoehybrid",
        {
            "vocab_size": 32000, "hidden_size": 512, "num_hidden_layers": 8,
            "layer_types": [_FULL if i in (3, 7) else _RECURRENT for i in range(8)],
            "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 512,
            "shared_intermediate_size": 512, "num_local_experts": 32, "num_experts_per_tok": 4,
            "mamba_n_heads": 32, "mamba_d_head": 32, "mamba_d_state": 64, "mamba_n_groups": 1,
            "position_embedding_type": None,
        },
    ),
}  # fmt: skip
PROMPT, CHUNK, DECODED = 512, 256, 8
GROWTH = 256, 1024  # tokens of two prompts whose peaks of memory are compared
_PRODUCTS = ("FullyConnected", "GatherMatmul")  # with weights


def export(shape: str, path: Path) -> dict[str, float]:
    """Write the INT4 graph; seconds by stage and the peak of resident memory, the model included, in MB."""
    import openvino as ov

    from kl_lens_desktop.export.compress import compress, to_fp16
    from kl_lens_desktop.export.mapped_file import MappedFile
    from kl_lens_desktop.export.stateful import make_stateful
    from kl_lens_desktop.export.streamed import HollowWeights, weights_of
    from kl_lens_desktop.export.trace import trace
    from kl_lens_desktop.model.inventory import inventory, quantizable
    from kl_lens_desktop.process.cancel import Cancel

    model = build_shape(shape)
    assignments = {weight.name: "int4_sym_g128" for weight in quantizable(inventory(model))}
    marks = [time.perf_counter()]
    graph, states = trace(model, hollow=True)
    make_stateful(graph, states)
    marks.append(time.perf_counter())
    to_fp16(graph)
    file = MappedFile(path.with_suffix(".partial"))
    compress(graph, assignments, Cancel(), HollowWeights(weights_of(model), file))
    marks.append(time.perf_counter())
    ov.save_model(graph, path, compress_to_fp16=False)
    marks.append(time.perf_counter())
    del graph
    file.close()
    path.with_suffix(".partial").unlink()
    stages = {
        name: after - before
        for name, before, after in zip(("trace", "compress", "write"), marks, marks[1:], strict=False)
    }
    return {**stages, "total": marks[-1] - marks[0], "peak_mb": _peak_mb()}


def export_plainly(shape: str, path: Path) -> None:
    import openvino as ov

    from tests.benchmarks.plain_export import plain_export

    ov.save_model(plain_export(build_shape(shape)), path, compress_to_fp16=True)


def build_shape(shape: str) -> Any:
    """A model of random weights in float32; `shape` is a key of `SHAPES`."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family, changes = SHAPES[shape]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**_SPECIAL, **changes)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms of ones and biases of zeros would not be in the graph
                parameter += 0.1 * torch.rand_like(parameter)
    return model


def _peak_mb() -> float:
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return float(memory.peak_wset / 2**20)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def serve(path: Path, hints: dict[str, str]) -> None:
    """Answer each line of the input: ``decode`` in ms per token, ``prefill`` in s, ``profile`` as JSON."""
    request, step = _client(path, hints)
    past = 0
    for line in sys.stdin:
        if line.strip() == "prefill":
            request.reset_state()
            answer: Any = sum(step(past, CHUNK) for past in range(0, PROMPT, CHUNK))
            past = PROMPT
        elif line.strip() == "decode":
            times = [step(past + i, 1) for i in range(DECODED)]
            past += DECODED
            answer = 1e3 * statistics.median(times)
        else:
            del request, step
            answer = _profile(path, hints)
        print(json.dumps(answer), flush=True)


def serve_pipeline(path: Path, hints: dict[str, str]) -> None:
    """Answer ``first token`` in s, of a prompt in `LLMPipeline`, and ``peak`` of resident memory in MB."""
    import openvino as ov
    import openvino_genai
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    from kl_lens_desktop import resources

    words = AutoTokenizer.from_pretrained(resources.path("sample-hybrid"))
    with tempfile.TemporaryDirectory() as folder:  # ids are given as they are, but it asks for a tokenizer
        models = convert_tokenizer(words, with_detokenizer=True)
        for part, graph in zip(("tokenizer", "detokenizer"), models, strict=True):
            ov.save_model(graph, Path(folder) / f"openvino_{part}.xml")
        tokenizer = openvino_genai.Tokenizer(folder)
    weights = np.fromfile(path.with_suffix(".bin"), np.uint8)
    pipeline = openvino_genai.LLMPipeline(
        path.read_text(encoding="utf-8"), ov.Tensor(weights), tokenizer, "CPU", **hints
    )
    settings = openvino_genai.GenerationConfig(max_new_tokens=1, ignore_eos=True)
    prompts = np.random.default_rng(0)
    for line in sys.stdin:
        if line.strip() == "first token":
            ids = ov.Tensor(prompts.integers(1, 1000, (1, PROMPT)))
            answer = pipeline.generate(ids, settings).perf_metrics.get_ttft().mean / 1e3
        else:
            answer = _peak_mb()
        print(json.dumps(answer), flush=True)


def peak_of_prompt(path: Path, tokens: int, hints: dict[str, str]) -> float:
    """The peak of resident memory in MB, in a process of its own, once a prompt's logits are made."""
    _, step = _client(path, hints)
    step(0, tokens)
    return _peak_mb()


def _client(path: Path, hints: dict[str, str]) -> tuple[Any, Any]:
    import openvino as ov

    request = ov.Core().compile_model(path, "CPU", hints).create_infer_request()
    names = {name for port in request.model_inputs for name in port.get_names()}

    def step(past: int, new: int) -> float:
        feed = {
            "input_ids": np.arange(past, past + new)[None] % 1000,
            "attention_mask": np.ones((1, past + new), np.int64),
            "position_ids": np.arange(past, past + new)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        wanted = {name: value for name, value in feed.items() if name in names}
        started = time.perf_counter()
        request.infer(wanted, share_outputs=True)  # a copy of 512 rows of logits takes as long as a layer
        return time.perf_counter() - started

    return request, step


def _profile(path: Path, hints: dict[str, str]) -> dict[str, Any]:
    """Nodes executed per token, and the share of their time that is not spent in products with weights."""
    request, step = _client(path, {**hints, "PERF_COUNT": "YES"})
    # The plugin's counters are averages over all calls, so none has more tokens, and the first, in which what
    # only hands on a state copies zeros into it, counts for nothing after as many others.
    rounds = 4 * DECODED
    past = 8 * rounds
    for i in range(past):
        step(i, 1)
    spent: dict[tuple[str, str], list[float]] = {}
    for i in range(rounds):
        step(past + i, 1)
        for node in request.profiling_info:
            if node.status == node.Status.EXECUTED:
                times = spent.setdefault((node.node_type, node.node_name), [])
                times.append(1e3 * node.real_time.total_seconds())
    by_type: Counter[str] = Counter()
    for (kind, _), times in spent.items():
        # The lower quartile: other work on the machine only adds.
        by_type[kind] += sorted(times)[len(times) // 4] * len(times) / rounds
    weights = sum(ms for kind, ms in by_type.items() if kind.startswith(_PRODUCTS))
    return {
        "nodes": sum(len(times) for times in spent.values()) / rounds,
        "weights_ms": weights,
        "outside_percent": 100 * (1 - weights / sum(by_type.values())),
        "largest": {kind: round(ms, 2) for kind, ms in by_type.most_common(6)},
    }


def _bytes_read(path: Path) -> int:
    import openvino as ov

    from kl_lens_desktop.bench.stateful_model import bytes_per_token

    return bytes_per_token(ov.Core().read_model(path))


def read_bandwidth(size: int) -> float:
    """GB/s of a plain read of as many bytes, the best of five."""
    data, best = np.ones(size // 8), 1e9
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return size / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, nargs="?", help="one of them, in one precision")
    parser.add_argument("--baseline", type=Path, help="openvino_model.xml, or its folder, to compare with")
    parser.add_argument("--ours", type=Path, help="a graph exported before, instead of exporting one")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument(
        "--peers", type=Path, metavar="FOLDER", help="compare with them instead; what they need is kept there"
    )
    parser.add_argument(
        "--f32", action="store_true", help="with the hint f32 instead of the device's default"
    )
    parser.add_argument("--free", action="store_true", help="peers: not held to Lunar Lake's instructions")
    parser.add_argument("--export-to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--export-plainly-to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve-pipeline", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=PROMPT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hints = {"INFERENCE_PRECISION_HINT": "f32"} if options.f32 else {}
    if options.peers:
        from tests.benchmarks.bench_peers import compare

        compare(options.peers.resolve(), options.shape or "granite", options.turns, free=options.free)
    elif options.export_to:
        print(json.dumps(export(options.shape, options.export_to)))
    elif options.export_plainly_to:
        export_plainly(options.shape, options.export_plainly_to)
    elif options.serve:
        serve(options.serve, hints)
    elif options.serve_pipeline:
        serve_pipeline(options.serve_pipeline, hints)
    elif options.peak:
        print(peak_of_prompt(options.peak, options.tokens, hints))
    else:
        precisions = [options.f32] if options.shape else [False, True]
        for shape in [options.shape] if options.shape else SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                options.shape = shape
                graphs = _graphs(options, Path(folder))
                for options.f32 in precisions:
                    print(f"\n{shape}, {'f32' if options.f32 else 'the precision the device chooses'}")
                    _compare(options, graphs)


def _graphs(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    ours, baseline = options.ours, options.baseline
    if ours is None:
        ours = folder / "openvino_model.xml"
        made = json.loads(_output(options, "--export-to", ours).splitlines()[-1])
        print(f"{options.shape}, export:", ", ".join(f"{name} {value:.1f}" for name, value in made.items()))
    if baseline is None:
        baseline = folder / "plain.xml"
        _output(options, "--export-plainly-to", baseline)
    paths = {"ours": ours, "baseline": baseline}
    return {name: path / "openvino_model.xml" if path.is_dir() else path for name, path in paths.items()}


def _output(options: argparse.Namespace, *arguments: Any) -> str:
    return subprocess.check_output(_command(options, *arguments), text=True)


def _compare(options: argparse.Namespace, graphs: dict[str, Path]) -> None:
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, graph in graphs.items():
            for way in ("--serve", "--serve-pipeline"):
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                server = subprocess.Popen(_command(options, way, graph), **pipes)
                stack.callback(server.wait)
                stack.enter_context(server.stdin)
                servers[name, way] = server

        def ask(name: str, question: str) -> Any:
            server = servers[name, "--serve-pipeline" if question in ("first token", "peak") else "--serve"]
            server.stdin.write(question + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        prefills = options.turns // 3 + 1
        asked = {
            "prefill": prefills, "first token": prefills, "peak": 1, "decode": options.turns, "profile": 1,
        }  # fmt: skip
        answers: dict[tuple[str, str], list[Any]] = {}
        for question, turns in asked.items():
            for _ in range(turns):
                for name in graphs:
                    answers.setdefault((name, question), []).append(ask(name, question))
        size = _bytes_read(graphs["ours"])
        for name in graphs:
            profile = answers[name, "profile"][0]
            # The first turn warms up.
            ms, prefill, first = (answers[name, q][1:] for q in ("decode", "prefill", "first token"))
            print(f"{name}: decode {statistics.median(ms):.1f} ms per token (best turn {min(ms):.1f})")
            ways = {"for the logits of all": prefill, "in LLMPipeline": first}
            for way, seconds in ways.items():
                median, best = statistics.median(seconds), min(seconds)
                print(f"  {PROMPT} tokens {way} {median:.2f} s (best {best:.2f})")
            few, many = (float(_output(options, "--peak", graphs[name], "--tokens", n)) for n in GROWTH)
            more = GROWTH[1] - GROWTH[0]
            print(f"  peak of memory in LLMPipeline {answers[name, 'peak'][0]:.0f} MB")
            print(f"  a token more in one call takes {(many - few) / more:.2f} MB, its logits included")
            print(
                f"  {profile['nodes']:.0f} nodes, {profile['outside_percent']:.0f} % of time outside weights"
            )
            print(f"  ms per token: {profile['largest']}")
        plain, best = read_bandwidth(size), min(answers["ours", "decode"])
        reached = size / best / 1e6
        print(f"bandwidth: {reached:.1f} GB/s of {plain:.1f} in a plain read, {100 * reached / plain:.0f} %")
        for question in ("decode", "prefill", "first token"):
            pairs = zip(answers["baseline", question][1:], answers["ours", question][1:], strict=True)
            ratios = sorted(theirs / mine for theirs, mine in pairs)
            middle = statistics.median(ratios)
            print(f"baseline / ours, {question}: {middle:.2f} (turns {ratios[0]:.2f} to {ratios[-1]:.2f})")
        theirs, mine = (answers[name, "profile"][0]["nodes"] for name in ("baseline", "ours"))
        print(f"baseline / ours, nodes: {theirs / mine:.2f}")


def _command(options: argparse.Namespace, *arguments: Any) -> list[str]:
    extra = ["--f32"] if options.f32 else []
    module = [sys.executable, "-m", "tests.benchmarks.bench_export", options.shape]
    return [*module, *map(str, arguments), *extra]


if __name__ == "__main__":
    main()
