"""A worker whose speed job does what drivers do at their worst, if a file ``odd`` in the folder says so."""

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kl_lens_desktop.bench.jobs import SpeedJob
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.jobs import from_line
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.process.worker import serve

WORKER = [sys.executable, "-m", "tests.odd_worker"]


def odd_folder(folder: Path, behaviour: str, *arguments: str) -> Path:
    """An IR folder whose speed run misbehaves."""
    folder.mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (folder / name).write_bytes(b"")
    (folder / "odd").write_text("\n".join([behaviour, *arguments]), encoding="utf-8")
    return folder


@dataclass(frozen=True, slots=True)
class OddJob(SpeedJob):
    def run(self, cancel: Cancel) -> Iterator[Event]:
        path = self.folder / "odd"
        if not path.exists():
            yield from SpeedJob.run(self, cancel)
            return
        behaviour, *arguments = path.read_text(encoding="utf-8").split("\n")
        if behaviour == "narrow":
            yield from narrow(self, cancel, int(arguments[0]))
            return
        print(f"driver: this will be a {behaviour}", file=sys.stderr, flush=True)
        yield Progress("bench-speed", 0, 1, "Compiling")
        globals()[behaviour](*arguments)


def read(line: bytes) -> Job[Any]:
    job = from_line(line)
    return OddJob.from_json(job.as_json()) if isinstance(job, SpeedJob) else job


def narrow(job: SpeedJob, cancel: Cancel, most: int) -> Iterator[Event]:
    """As a device whose graphs have room for a prompt of so many tokens."""
    next_order = cancel.next_order

    def order() -> dict[str, Any]:
        given = next_order()
        if given["prompt_tokens"] > most:
            raise InputError("Cannot read the prompt", "it is too long", "Shorten it")
        return given

    cancel.next_order = order  # type: ignore[method-assign]
    yield from SpeedJob.run(job, cancel)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def hang() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # for centuries, and holding Python's lock


def glutton() -> None:
    eaten = []
    while True:
        eaten.append(np.ones(2**21))
        time.sleep(0.01)


def orphan(told: str) -> None:
    """Leave a process behind that would outlive everybody, and crash."""
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    Path(told).write_text(str(left.pid), encoding="utf-8")
    segfault()


if __name__ == "__main__":
    os.write(1, b'OpenCL driver 1.2.3 \xff\xfe loaded\n{"event": "Surprise"}\n[1, 2]\n')  # before we own it
    sys.exit(serve(read))
