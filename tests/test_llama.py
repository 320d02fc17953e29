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

# As llama.cpp's own page on llama-bench shows it, shortened; no llama-bench was at hand here.
_WITH = {
    "build_commit": "8cf427ff", "build_number": 5163, "cpu_info": "AMD Ryzen 7 7800X3D 8-Core Processor",
    "gpu_info": "NVIDIA GeForce RTX 4080", "backends": "CUDA", "n_threads": 8, "n_depth": 0,
    "model_filename": "models/Qwen2.5-7B-Instruct-Q4_K_M.gguf", "model_type": "qwen2 7B Q4_K - Medium",
    "model_size": 4677120000, "model_n_params": 7615616512, "cpu_strict": False, "flash_attn": -1,
}  # fmt: skip
ANSWER: list[dict[str, Any]] = [
    {**_WITH, "n_prompt": 512, "n_gen": 0, "avg_ts": 7131.76, "samples_ts": [7147.55, 7115.97]},
    {**_WITH, "n_prompt": 0, "n_gen": 128, "avg_ts": 119.604, "samples_ts": [119.03, 120.178]},
]


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_speeds_are_read_from_what_llama_bench_prints() -> None:
    found = parsed(_bytes(ANSWER), 512, 128)
    assert found["tokens_per_s"] == [119.03, 120.178]
    assert found["prefill_tokens_per_s"] == [7147.55, 7115.97]
    assert (found["model"], found["threads"]) == ("qwen2 7B Q4_K - Medium", 8)


@pytest.mark.parametrize("output", [
    b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, _bytes(ANSWER[:1]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": []}]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": [1.0, "2"]}]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": [1.0, -2.0]}]),
    _bytes([ANSWER[0], {**ANSWER[1], "samples_ts": [True]}]),
    _bytes([ANSWER[0], {**ANSWER[1], "model_type": 3}]),
    _bytes(ANSWER).replace(b"119.03", b"NaN"), _bytes(ANSWER).replace(b"119.03", b"1e999"),
    b" " * 2**21,
])  # fmt: skip
def test_anything_else_is_refused_in_one_sentence(output: bytes) -> None:
    with pytest.raises(InputError, match="Cannot read what llama-bench printed"):
        parsed(output, 512, 128)


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
    job = LlamaJob(gguf, program, 512, 128, 2)
    (done,) = time_llama(job, cancel)
    assert isinstance(done, Finished)
    row = llama_row(gguf, job.result(done))
    assert (row["status"], row["device"], row["backend"]) == ("ok", "GPU", "llama.cpp")
    assert row["tokens_per_s"]["mean"] == pytest.approx(119.604)
    assert row["size_bytes"] == 400


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_a_program_that_fails_is_quoted(tmp_path: Path, cancel: Cancel) -> None:
    program = _program(tmp_path, "import sys\nsys.exit('error: unknown model architecture')")
    with pytest.raises(InputError, match="unknown model architecture"):
        list(time_llama(LlamaJob(tmp_path / "m.gguf", program, 512, 128, 2), cancel))
