"""The private memory that a stage takes for models of published shapes, in weights that are random.

    python -m tests.benchmarks.bench_memory FOLDER                       # all shapes, analyze and verify
    python -m tests.benchmarks.bench_memory FOLDER 3b --stage baselines
    python -m tests.benchmarks.bench_memory FOLDER 1b --in-memory        # as where memory suffices
    python -m tests.benchmarks.bench_memory FOLDER 3b --limit-mb 4608    # file cache included: Linux, as root

The models, up to 14 GB, are written into FOLDER unless they are there. The stage runs in a child, as if no
memory were free, for at most --seconds; little text is enough, for it is the peak that counts. Private memory
is what the process alone holds: RssAnon on Linux, private bytes on Windows. Mapped files are not in it; with
--limit-mb the system takes back what of them goes beyond, or ends the child.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

_STAGES = ("analyze", "verify", "repair", "agree", "baselines", "export", "export-fp16")
_RECURRENT, _FULL = "linear_attention", "full_attention"
_GRANITE: dict[str, Any] = {
    "vocab_size": 100352, "num_hidden_layers": 40, "num_key_value_heads": 4, "num_attention_heads": 12,
    "layer_types": [_FULL if i in (5, 15, 25, 35) else _RECURRENT for i in range(40)], "hidden_size": 1536,
    "num_local_experts": 0, "num_experts_per_tok": 0, "mamba_n_heads": 48, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_n_groups": 1, "position_embedding_type": None, "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625, "residual_multiplier": 0.22, "logits_scaling": 6.0,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "1b": (  # Granite-4.0-H-1B
        "granitemoehybrid",
        {**_GRANITE, "intermediate_size": 4096, "shared_intermediate_size": 4096},
    ),
    "3b": (  # Granite-4.0-H-Micro
        "granitemoehybrid",
        {
            **_GRANITE, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
            "mamba_n_heads": 64, "intermediate_size": 8192, "shared_intermediate_size": 8192,
        },
    ),
    "7b": (  # Granite-4.0-H-Tiny, a mixture of experts
        "granitemoehybrid",
        {
            **_GRANITE, "intermediate_size": 512, "shared_intermediate_size": 1024,
            "num_local_experts": 64, "num_experts_per_tok": 6,
        },
    ),
    "8b": (  # LFM2-8B-A1B, whose experts lie apart in its files
        "lfm2_moe",
        {
            "vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168,
            "moe_intermediate_size": 1792, "num_hidden_layers": 24, "num_attention_heads": 32,
            "num_key_value_heads": 8, "num_experts": 32,
            "num_experts_per_tok": 4, "num_dense_layers": 2, "conv_L_cache": 3,
            "layer_types": [
                "full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)
            ],
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        },
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", nargs="*", help=", ".join(SHAPES))
    parser.add_argument("--stage", choices=_STAGES, action="append")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--limit-mb", type=int, help="of a control group, in which the stage runs")
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    how = parser.parse_args()
    if how.child:
        if how.group:  # before anything large is imported
            (how.group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")
        return _perform(how.folder, how.stage[0], how.seconds, how.in_memory)
    for shape in how.shapes or SHAPES:
        folder = how.folder / shape
        if not (folder / "model.safetensors").is_file():
            write_model(folder, *SHAPES[shape])
        for stage in how.stage or ("analyze", "verify"):
            print(json.dumps({"shape": shape, "stage": stage, **measured(folder, stage, how)}), flush=True)


def write_model(folder: Path, model_type: str, sizes: dict[str, Any]) -> None:
    """A folder as published ones are: random weights in bfloat16, written tensor by tensor."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from tests.models import copy_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG_MAPPING[model_type](**sizes, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    copy_tokenizer(folder)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    tensors = revert_weight_conversion(model, {**dict(model.named_parameters()), **buffers})
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    chance = torch.randn(2**24, generator=torch.Generator().manual_seed(0))
    with (folder / "model.partial").open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for name, tensor in tensors.items():
            for values in _values(name, tuple(tensor.shape), chance):
                file.write(values.bfloat16().view(torch.int16).numpy().tobytes())
    (folder / "model.partial").rename(folder / "model.safetensors")


def _values(name: str, shape: tuple[int, ...], chance: Any) -> Iterator[Any]:
    """Values with which a deep model's logits stay in the range of a trained one's."""
    import torch

    count = torch.Size(shape).numel()
    if "A_log" in name:
        yield torch.linspace(1, 16, count).log()
    elif name.endswith("dt_bias"):
        yield torch.full((count,), -2.0)
    elif len(shape) < 2:
        yield torch.ones(count)
    else:
        other = chance.roll(zlib.crc32(name.encode()))  # equal weights would be written once
        for start in range(0, count, len(other)):
            yield 0.02 * other[: min(len(other), count - start)]


def measured(folder: Path, stage: str, how: argparse.Namespace) -> dict[str, Any]:
    """The peak of the child's private memory, in MB (2**20 bytes), and what `model.fit` says of the stage."""
    from kl_lens_desktop.model.fit import folder_sizes, in_memory_mb

    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench_memory",
        str(folder),
        "--child",
        "--stage",
        stage,
    ]
    command += ["--seconds", str(how.seconds), *(["--in-memory"] if how.in_memory else [])]
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(_limited(how.limit_mb, folder)) if how.limit_mb else None
        command += ["--group", str(group)] if group else []
        child = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
        stack.callback(child.wait)
        stack.callback(child.kill)  # if this is interrupted
        peak, process = 0, psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, _private(process))
            time.sleep(0.05)
        assert child.stdout is not None
        said = child.stdout.read().strip().splitlines()
        of_group = {"limit_mb": how.limit_mb, "group_mb": _group_peak(group) // 2**20} if group else {}
    sizes = folder_sizes(folder)
    fit = in_memory_mb(sizes, stage) if how.in_memory else sizes.on_disk_mb
    if stage.startswith("export"):
        fit = sizes.export_mb
    seconds = round(time.monotonic() - started, 1)
    how_it_went = {"seconds": seconds, "said": said[-1:], "status": child.returncode}
    return {"private_mb": peak // 2**20, "fit_mb": fit, **of_group, **how_it_went}


@contextlib.contextmanager
def _limited(limit_mb: int, folder: Path) -> Iterator[Path]:
    """A control group of Linux that takes no more memory than that, mapped and cached files included.

    What the system has of the model's file is forgotten first: it would count for whoever read it before.
    """
    with (folder / "model.safetensors").open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    root = Path("/sys/fs/cgroup")
    first = (root / "memory").is_dir()  # of version 1
    group = (root / "memory" if first else root) / f"bench-memory-{os.getpid()}"
    group.mkdir()
    try:
        limit = group / ("memory.limit_in_bytes" if first else "memory.max")
        limit.write_text(str(limit_mb * 2**20), encoding="utf-8")
        yield group
    finally:
        group.rmdir()


def _group_peak(group: Path) -> int:
    """The most that a control group took, in bytes."""
    names = ("memory.max_usage_in_bytes", "memory.peak")
    return next((int(found.read_text()) for name in names if (found := group / name).is_file()), 0)


def _private(process: psutil.Process) -> int:
    try:
        if sys.platform == "win32":
            return int(process.memory_info().private)
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    except (psutil.Error, OSError, StopIteration):  # it has ended
        return 0


def _perform(folder: Path, stage: str, seconds: float, in_memory: bool) -> None:
    """What the child does."""
    from kl_lens_desktop.errors import Cancelled
    from kl_lens_desktop.model import fit
    from kl_lens_desktop.process.cancel import Cancel
    from kl_lens_desktop.process.events import Progress
    from kl_lens_desktop.process.job import perform

    fit.free_mb = lambda: 2**40 if in_memory else 0
    cancel, done = Cancel(), 0.0
    timer = threading.Timer(seconds, cancel.cancel)
    timer.daemon = True
    timer.start()
    try:
        for event in perform(_job(folder, stage), cancel):
            if isinstance(event, Progress):
                done = max(done, event.done)
                print(f"{event.message} {event.done:.2f} of {event.total}", flush=True)
    except Cancelled:
        print(f"stopped at {done:.2f}")


def _job(folder: Path, stage: str) -> Any:
    """The stage on little text, with files beside the model that need no measurement."""
    from kl_lens_desktop.export.jobs import BaselinesJob
    from kl_lens_desktop.exporting import ExportJob
    from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
    from kl_lens_desktop.sensitivity.jobs import AgreeJob, Analysis, AnalyzeJob

    model, scores, plan = str(folder), folder / "scores.json", folder / "plan.json"
    if stage.startswith("export"):
        fmt = "fp16" if stage == "export-fp16" else "int4_sym_g64"
        return ExportJob(model, folder / fmt, format=fmt)
    if stage == "analyze":
        scores.unlink(missing_ok=True)
        return AnalyzeJob(model, scores, Analysis(tokens=1024, formats=("int4_sym_g64",), exhaustive=True))
    _pretend(folder, scores, plan)
    if stage == "agree":
        return AgreeJob(model, scores, tokens=512)
    if stage == "baselines":
        return BaselinesJob(model, scores, plan, folder / "baselines", tokens=512, only=("uniform", "paper"))
    verify = VerifyJob(model, plan, tokens=1024)
    return replace(verify, repair=RepairSettings(scores, tokens=1024)) if stage == "repair" else verify


def _pretend(folder: Path, scores: Path, plan: Path) -> None:
    """Scores by chance and a plan from them: how much a stage takes does not depend on them."""
    import random

    from kl_lens_desktop.hub.resolve import resolve_model
    from kl_lens_desktop.model.checkpoint import weights_sha256
    from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable
    from kl_lens_desktop.model.load import open_model
    from kl_lens_desktop.plan.document import save_plan
    from kl_lens_desktop.plan.propose import propose
    from kl_lens_desktop.quant.formats import DEFAULT_FORMATS, parse_format, stored_bytes
    from kl_lens_desktop.sensitivity.scores import (
        METRICS,
        Entry,
        Estimate,
        ModelIdentity,
        Scores,
        save_scores,
    )

    loaded, local = open_model(folder), resolve_model(str(folder))
    weights, draw = inventory(loaded.model), random.Random(0)
    entries = [
        Entry(
            weight.name,
            weight.kind,
            weight.block,
            name,
            stored_bytes(weight.shape, parse_format(name)),
            **dict.fromkeys(METRICS, Estimate(draw.random() / (100 if "8" in name else 10), 1e-6, 1024)),
        )
        for weight in quantizable(weights)
        for name in DEFAULT_FORMATS
    ]
    made = Scores(
        ModelIdentity(local.id, local.revision, weights_sha256(loaded.files)),
        {"name": "chance", "sha256": "0" * 64, "tokens": 1024, "window": 256},
        [weight.as_dict() for weight in weights],
        kept_bytes(loaded.model, weights),
        entries=entries,
    )
    save_scores(scores, made)
    save_plan(plan, propose(made, bits=5.0))


if __name__ == "__main__":
    main()
