"""llama.cpp beside our variants: the user's own llama-bench on the user's own GGUF file, as a row to compare.

Nothing of llama.cpp is shipped or downloaded. Its answer is a stranger's, and is read strictly.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kl_lens_desktop.bench.environment import power
from kl_lens_desktop.bench.figures import spread
from kl_lens_desktop.bench.jobs import LlamaJob, LlamaTimes
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.printable import printable
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event

PROGRAM = "llama-bench"
_MOST_OUTPUT = 2**20
_MOST_SAMPLES = 10_000


def find_program(given: Path | None) -> Path:
    """llama-bench, as named or as in PATH.

    Raises
    ------
    InputError
        If there is none.
    """
    found = shutil.which(str(given or PROGRAM))
    if found is None:
        why = f"there is no program {given}" if given else f"there is no {PROGRAM} in PATH"
        raise InputError("Cannot time llama.cpp", why, "Name it with --llama-bench")
    return Path(found)


def time_llama(job: LlamaJob, cancel: Cancel) -> Iterator[Event]:
    """Run llama-bench once; yield last Finished with `jobs.LlamaTimes`."""
    program = find_program(job.program)
    command = [
        str(program), "-m", str(job.gguf), "-p", str(job.prompt_tokens), "-n", str(job.new_tokens),
        "-r", str(job.repeats), "-o", "json",
    ]  # fmt: skip
    cancel.check()
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    ran = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, creationflags=flags, check=False
    )
    if ran.returncode:
        said = ran.stderr.decode("utf-8", "replace").strip().splitlines()
        words = printable(said[-1])[:200] if said else f"exit status {ran.returncode}"
        raise InputError("Cannot time llama.cpp", words, "Check the GGUF file with llama-bench itself")
    yield job.finished(parsed(ran.stdout, job.prompt_tokens, job.new_tokens))


def parsed(output: bytes, prompt_tokens: int, new_tokens: int) -> LlamaTimes:
    """What llama-bench printed with ``-o json``.

    Raises
    ------
    InputError
        If it is not what llama-bench prints.
    """
    try:
        if len(output) > _MOST_OUTPUT:
            raise ValueError("it is too long")
        runs = json.loads(output.decode("utf-8"), parse_constant=_refused)
        prompt = next(run for run in runs if (run["n_prompt"], run["n_gen"]) == (prompt_tokens, 0))
        decode = next(run for run in runs if (run["n_prompt"], run["n_gen"]) == (0, new_tokens))
        return {
            "tokens_per_s": _samples(decode["samples_ts"]),
            "prefill_tokens_per_s": _samples(prompt["samples_ts"]),
            "model": _words(decode["model_type"]),
            "backend": _words(decode["backends"]),
            "threads": int(decode["n_threads"]),
            "build": _words(decode["build_commit"]),
        }
    except (ValueError, KeyError, TypeError, StopIteration, RecursionError) as error:
        raise InputError(
            "Cannot read what llama-bench printed",
            f"it is not its JSON ({type(error).__name__})",
            "Use a llama-bench that knows -o json",
        ) from error


def llama_row(gguf: Path, times: LlamaTimes | None, failure: str = "") -> dict[str, Any]:
    """A row of the bench file; without `times` a failed one."""
    nothing = dict.fromkeys(("perplexity", "kl_to_fp16", "peak_rss_mb", "precision"))
    device = "CPU"
    if times is not None:  # such as CPU, BLAS or Vulkan,BLAS
        kinds = {kind.strip().upper() for kind in times["backend"].split(",")}
        device = "CPU" if kinds <= {"CPU", "BLAS"} else "GPU"
    return {
        "variant": f"{gguf.name}, llama.cpp",
        "device": device,
        "status": f"failed: {failure}" if failure else "ok",
        "reason": None,
        **nothing,
        "tokens_per_s": spread(times["tokens_per_s"]) if times else None,
        "prefill_tokens_per_s": spread(times["prefill_tokens_per_s"]) if times else None,
        "ttft_ms": None,
        "size_bytes": gguf.stat().st_size if gguf.is_file() else 0,
        "backend": "llama.cpp",
        "threads": times["threads"] if times else None,
        "power": power(),
    }


def _samples(values: Any) -> list[float]:
    if not isinstance(values, list) or not 0 < len(values) <= _MOST_SAMPLES:
        raise ValueError("no samples")
    numbers = [float(value) for value in values if not isinstance(value, (bool, str))]
    if len(numbers) != len(values) or not all(0 < number < 1e12 for number in numbers):
        raise ValueError("a speed is no number")
    return numbers


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return printable(value)[:100]


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number")
