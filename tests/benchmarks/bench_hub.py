"""How long a pull takes against `hf download`, on the loopback Hub.

    python -m tests.benchmarks.bench_hub --rounds 5

Four shards of 8 MB, each connection at 4 MB/s. Both programs start anew with an empty cache, in turn. The
ratio is the median over the rounds, with and without the start of each program.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hub_server import Repository, serve

ID = "tiny/four"
MB_PER_S, SHARD = 4, 8_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    shards = {f"model-0000{i}-of-00004.safetensors": bytes([i]) * SHARD for i in range(1, 5)}
    files = {
        "config.json": b'{"model_type": "mamba2"}',
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps({"weight_map": {name: name for name in shards}}).encode(),
        **shards,
    }
    programs = {
        "ours": [sys.executable, "-m", "kl_lens_desktop", "pull", ID],
        "theirs": [str(Path(sys.executable).with_name("hf")), "download", ID],
    }
    seconds: dict[str, list[float]] = {f"{name}{how}": [] for name in programs for how in ("", ", again")}
    with serve({ID: Repository(files)}) as hub, tempfile.TemporaryDirectory() as home:
        hub.slow_s = 2**20 / (MB_PER_S * 1e6)
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": home, "KL_LENS_HOME": home, "NO_PROXY": "*"}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        for _ in range(rounds):
            for name, command in programs.items():
                shutil.rmtree(Path(home, "hub"), ignore_errors=True)
                for how in ("", ", again"):  # the second time nothing is left to fetch
                    began = time.monotonic()
                    subprocess.run(
                        command, check=True, capture_output=True, env={**os.environ, **variables, **quiet}
                    )
                    seconds[name + how].append(time.monotonic() - began)
    for name, times in seconds.items():
        print(f"{name:<14} {statistics.median(times):.2f} s  ({min(times):.2f} … {max(times):.2f})")
    pairs = zip(seconds["ours"], seconds["theirs"], strict=True)
    print(f"ours / theirs: {statistics.median(a / b for a, b in pairs):.2f}")
    net = [statistics.median(seconds[f"{n}"]) - statistics.median(seconds[f"{n}, again"]) for n in programs]
    print(f"without the start of each program: {net[0] / net[1]:.2f}")


if __name__ == "__main__":
    main()
