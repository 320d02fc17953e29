"""Speed beside what a user would pick instead, llama.cpp and optimum-intel: processor time a token.

A folder keeps what is fetched (llama.cpp as npm's node-llama-cpp brings it, optimum-intel in an environment
of its own) and what is made of random weights; a second call only measures. Every variant is a process with
one thread and its client's defaults, and they take turns; what is printed is the median of the turns and of
the ratios within a turn. All are held to Lunar Lake's instructions: oneDNN by its own variable, llama.cpp by
taking away its libraries for AVX-512; a processor without AVX-VNNI has fewer. Products are in f32, as there,
where no processor computes in bf16. With `free` each takes all the instructions that there are.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_export import build_shape
from tests.models import saved

NODE_LLAMA, OPTIMUM = "3.22.1", "2.2.0"
WITHOUT_AVX_512 = ("alderlake", "haswell", "ivybridge", "piledriver", "sandybridge", "sse42", "x64")
HERE = Path(__file__).parent
PROMPT, DECODED = 512, 32
GROUPS = "--activation-group", "128"
OURS = {
    "ours, INT4 g128": ("int4_sym_g128", ()),
    "ours, INT4 g128, activations by 128": ("int4_sym_g128", GROUPS),
    "ours, INT4 per channel": ("int4_sym_pc", ()),
    "ours, INT4 per channel, activations by 128": ("int4_sym_pc", GROUPS),
    "ours, INT4 g128, paged": ("int4_sym_g128", ("--paged",)),
    "ours, INT4 g128, paged, activations by 128": ("int4_sym_g128", ("--paged", *GROUPS)),
    "ours, INT4 per channel, paged, activations by 128": ("int4_sym_pc", ("--paged", *GROUPS)),
    "ours, INT8": ("int8_sym", ()),
    "ours, INT8, activations by 128": ("int8_sym", GROUPS),
}


def compare(folder: Path, shape: str, turns: int, *, free: bool = False) -> None:
    """Print what each variant of granite or mamba2, which llama.cpp knows, takes."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / shape
    if not model.exists():
        _build(shape, folder / "part")
        (folder / "part").rename(model)
    commands = {**_llama(folder, model, free), **_optimum(folder, model), **_ours(folder, model)}
    times: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(_started(command, free)) for name, command in commands.items()}
        for turn in range(turns + 1):  # the first turn warms up
            for what, count in (("decode", DECODED), ("prefill", PROMPT)):
                for name, server in servers.items():
                    server.stdin.write(f"{what} {count}\n")
                    server.stdin.flush()
                    answer = json.loads(server.stdout.readline())
                    if turn:
                        times.setdefault((name, what), []).append(answer)
    _print(shape, list(commands), times)


def _build(shape: str, folder: Path) -> None:
    saved(build_shape(shape).bfloat16(), folder)
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8")
    for ours, published in (("linear_attention", "mamba"), ("full_attention", "attention")):
        text = text.replace(f'"{ours}"', f'"{published}"')  # which every transformers reads
    config.write_text(text, encoding="utf-8")


def llama_library(folder: Path) -> Path:
    """llama.cpp's libllama, fetched into a folder that keeps it."""
    npm = folder / "npm"
    if not (npm / "node_modules" / "node-llama-cpp").exists():
        npm.mkdir(exist_ok=True)
        fetch = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([*fetch, f"node-llama-cpp@{NODE_LLAMA}"], cwd=npm, check=True)
    return next(npm.glob("node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libllama.v*.so"))


def _held(npm: Path) -> Path:
    """A copy of what npm fetched, without llama.cpp's libraries for instructions that Lunar Lake lacks."""
    held = npm.with_name("npm-without-avx-512")
    if not held.exists():
        part = npm.with_name("part-npm")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(npm, part, symlinks=True)
        for library in part.glob("node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-cpu-*.so"):
            if library.stem.removeprefix("libggml-cpu-") not in WITHOUT_AVX_512:
                library.unlink()
        part.rename(held)
    return held


def _llama(folder: Path, model: Path, free: bool) -> dict[str, list[str]]:
    library, commands = llama_library(folder), {}
    npm = folder / "npm" if free else _held(folder / "npm")
    for name, kind in (("llama.cpp, Q4_0", "q4"), ("llama.cpp, Q8_0", "q8")):
        gguf = model / f"{kind}.gguf"
        if not gguf.exists():
            script = [str(peer_python(folder)), str(HERE / "gguf_of.py")]
            part = gguf.with_name(f"part-{gguf.name}")
            subprocess.run([*script, str(model), str(part), str(library)], check=True, capture_output=True)
            part.rename(gguf)
        commands[name] = ["node", str(HERE / "llama_times.mjs"), str(npm), str(gguf), "1"]
    return commands


def _optimum(folder: Path, model: Path) -> dict[str, list[str]]:
    python, out = peer_python(folder), model / "optimum-int4"
    if not out.exists():
        part = model / "part"
        cli = [str(python.with_name("optimum-cli")), "export", "openvino", "--model", str(model)]
        how = [
            "--task",
            "text-generation-with-past",
            "--weight-format",
            "int4",
            "--sym",
            "--group-size",
            "128",
        ]
        made = subprocess.run(
            [*cli, *how, "--ratio", "1.0", str(part)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            print("optimum-intel does not export this model:", made.stderr.strip().splitlines()[-1])
            return {}
        part.rename(out)
    return {"optimum-intel, INT4 g128": _pipeline(python, out)}


def _ours(folder: Path, model: Path) -> dict[str, list[str]]:
    commands = {}
    for name, (form, wishes) in OURS.items():
        out = model / "-".join(["ours", form, *(each.strip("-") for each in wishes)])
        if not out.exists():
            export = [sys.executable, "-m", "kl_lens_desktop", "export", str(model), "--format", form]
            subprocess.run([*export, *wishes, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
        commands[name] = _pipeline(Path(sys.executable), out)
    return commands


def _pipeline(python: Path, folder: Path) -> list[str]:
    properties = json.dumps({"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    return [str(python), str(HERE / "pipeline_times.py"), str(folder), properties]


def peer_python(folder: Path) -> Path:
    """An environment of its own, for optimum-intel pins another transformers."""
    home = folder / "optimum"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        wanted = [f"optimum-intel[openvino,nncf]=={OPTIMUM}", "gguf", *_same("torch", "openvino-genai")]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        # Built for another torch than the one without CUDA, it stops transformers; text needs none.
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    return python


def _same(*packages: str) -> Iterator[str]:
    for package in packages:
        yield f"{package}=={version(package).split('+')[0]}"


@contextlib.contextmanager
def _started(command: list[str], free: bool) -> Iterator[Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not free:
        environment["ONEDNN_MAX_CPU_ISA"] = "AVX2_VNNI"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **pipes)
    try:
        assert json.loads(process.stdout.readline()) == "ready", command
        yield process
    finally:
        process.stdin.close()
        process.wait()


def _print(shape: str, names: list[str], times: dict[tuple[str, str], list[float]]) -> None:
    print(f"{shape}, processor ms a token with one thread; ratios are theirs / its own, above 1 it is faster")
    peers = [name for name in names if not name.startswith("ours")]
    print(f"{'':52}decode  prefill   " + "   ".join(f"{peer}: decode, prefill" for peer in peers))
    for name in names:
        mine = {what: times[name, what] for what in ("decode", "prefill")}
        cells = [f"{statistics.median(mine['decode']):6.2f}   {statistics.median(mine['prefill']):6.2f}"]
        for peer in peers:
            ratios = {
                what: [theirs / own for theirs, own in zip(times[peer, what], mine[what], strict=True)]
                for what in mine
            }
            cells.append(", ".join(f"{statistics.median(each):.2f}" for each in ratios.values()).rjust(20))
        print(f"{name:52}{'  '.join(cells)}")
