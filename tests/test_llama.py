"""llama.cpp as a row of a benchmark: a stranger's program, whose answer is read strictly."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop.bench.jobs import LlamaJob
from kl_lens_desktop.bench.llama import find_program, llama_row, parsed, time_llama
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Finished

# As llama-bench of build 5b1f13cb printed it for a granite-hybrid of 340 M, shortened.
ANSWER: list[dict[str, Any]] = [
    {
        "build_commit": "5b1f13cb", "cpu_info": "AMD EPYC", "gpu_info": "", "backends": "CPU",
        "model_type": "granitehybrid 350M Q4_0", "model_size": 212000000, "n_threads": 2,
        "n_prompt": 256, "n_gen": 0, "n_depth": 0, "avg_ts": 480.0, "stddev_ts": 2.0,
        "samples_ns": [533333333, 533333333], "samples_ts": [481.5, 478.5],
    },
    {
        "build_commit": "5b1f13cb", "cpu_info": "AMD EPYC", "gpu_info": "", "backends": "CPU",
        "model_type": "granitehybrid 350M Q4_0", "model_size": 212000000, "n_threads": 2,
        "n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 100.5, "stddev_ts": 0.5,
        "samples_ns": [640000000, 640000000], "samples_ts": [101.0, 100.0],
    },
]  # fmt: skip


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_speeds_are_read_from_what_llama_bench_prints() -> None:
    found = parsed(_bytes(ANSWER), 256, 64)
    assert found["tokens_per_s"] == [101.0, 100.0]
    assert found["prefill_tokens_per_s"] == [481.5, 478.5]
    assert (found["model"], found["threads"]) == ("granitehybrid 350M Q4_0", 2)


@pytest.mark.parametrize("output", [
    b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, _bytes(ANSWER[:1]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": []}]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": [1.0, "2"]}]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": [1.0, -2.0]}]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": [True]}]),
    _bytes([ANSWER[0], {**ANSWER[1], "model_type": 3}]),
    _bytes(ANSWER).replace(b"101.0", b"NaN"), _bytes(ANSWER).replace(b"101.0", b"1e999"),
    b" " * 2**21,
])  # fmt: skip
def test_anything_else_is_refused_in_one_sentence(output: bytes) -> None:
    with pytest.raises(InputError, match="Cannot read what llama-bench printed"):
        parsed(output, 256, 64)


def test_a_program_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no llama-bench in PATH"):
        find_program(None)
    with pytest.raises(InputError, match="no program"):
        find_program(tmp_path / "nowhere")


def _program(folder: Path, text: str) -> Path:
    path = folder / "llama-bench"
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_what_the_program_says_becomes_a_row(tmp_path: Path, cancel: Cancel) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF" * 100)
    program = _program(tmp_path, f"import json, sys\nassert '-o' in sys.argv\nprint(json.dumps({ANSWER!r}))")
    job = LlamaJob(gguf, program, 256, 64, 2)
    (done,) = time_llama(job, cancel)
    assert isinstance(done, Finished)
    row = llama_row(gguf, job.result(done))
    assert (row["status"], row["device"], row["backend"]) == ("ok", "CPU", "llama.cpp")
    assert row["tokens_per_s"]["mean"] == 100.5
    assert row["size_bytes"] == 400


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_a_program_that_fails_is_quoted(tmp_path: Path, cancel: Cancel) -> None:
    program = _program(tmp_path, "import sys\nsys.exit('error: unknown model architecture')")
    with pytest.raises(InputError, match="unknown model architecture"):
        list(time_llama(LlamaJob(tmp_path / "m.gguf", program, 256, 64, 2), cancel))
