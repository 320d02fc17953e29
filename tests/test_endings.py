"""However a stage ends (a signal, a kill, a full disk, no memory), it says so and leaves nothing behind."""

import _thread
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import SafetensorError

from kl_lens_desktop import files, quantities, temporary
from kl_lens_desktop.bench import devices
from kl_lens_desktop.bench.lab import BenchCourse, _loading
from kl_lens_desktop.bench.rows import Run
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.bench.variants import find_variants
from kl_lens_desktop.cli import console
from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.disk_space import check_room, room_for
from kl_lens_desktop.errors import ChildError, InputError, ModelError, in_words
from kl_lens_desktop.exported import damage
from kl_lens_desktop.files import atomic_folder, write_json, write_text
from kl_lens_desktop.plan.document import Plan, load_plan
from kl_lens_desktop.process import child as child_module
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Note, Progress
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.process.memory import is_out_of_memory
from kl_lens_desktop.process.signals import STOPPING, Stopped
from kl_lens_desktop.run import RunJob, _room_needed, is_exported
from kl_lens_desktop.sensitivity.jobs import Analysis, AnalyzeJob
from tests.models import build_folder
from tests.stuck_worker import WORKER

ROOT = Path(__file__).parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, of this process and of its children."""
    folder = tmp_path / "temp"
    folder.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals are not ignored, as they are in what a shell runs in the background or under ``nohup``."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        is_interrupt = number is signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stuck(temp: Path, heard: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes children run `tests.stuck_worker`, whose jobs end as it is told."""

    def behave(how: str) -> None:
        monkeypatch.setattr(child_module, "worker_command", lambda: (WORKER, {}))
        monkeypatch.setenv("STUCK", how)

    return behave


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Free bytes that the next questions are answered with, and the rest with the last of them."""
    answers = [0]

    def disk_usage(_: object) -> Usage:
        free = answers.pop(0) if len(answers) > 1 else answers[0]
        return Usage(free, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    return answers


# Signals
# -----------------------------------------------------------------------------------------------------------

COMMANDS = {
    "analyze": ("analyze", "sample", "--out", "out/scores.json"),
    "agree": ("agree", "sample", "--scores", "s.json", "--out", "out/agree.json"),
    "verify": ("verify", "sample", "--plan", "out/plan.json"),
    "baselines": ("baselines", "sample", "--scores", "s.json", "--plan", "p.json", "--out", "out/baselines"),
    "export": ("export", "sample", "--format", "int8_sym", "--out", "out/ir"),
    "bench": ("bench", "out/ir", "--out", "out/bench.json"),
    "run": ("run", "sample", "--out", "out/run"),
    "inspect": ("inspect", "sample"),
}


def _interrupted(argv: tuple[str, ...], numbers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command, send it signals once its child is busy, and return the exit status that it asks for."""
    shown, busy = console._Meter.show, threading.Event()

    def show(meter: Any, progress: Progress) -> None:
        busy.set()
        shown(meter, progress)

    def send() -> None:
        busy.wait()
        for number in numbers:
            _thread.interrupt_main(number)
            time.sleep(0.1)

    monkeypatch.setattr(console._Meter, "show", show)
    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Stopped) as stopped:
        run(list(argv))
    sender.join()
    return stopped.value.status


@pytest.mark.parametrize("command", COMMANDS)
def test_every_stage_ends_at_a_signal_whatever_it_is_busy_with(
    command: str,
    stuck: Callable[[str], None],
    tmp_path: Path,
    temp: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "baselines").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if command == "bench":
        monkeypatch.setattr("kl_lens_desktop.cli.commands.check_replaceable", lambda *_: None)
    stuck("hang")
    assert _interrupted(COMMANDS[command], (signal.SIGTERM,), monkeypatch) == 128 + signal.SIGTERM
    (pid,) = re.findall(r"pid (\d+)", capsys.readouterr().err)
    assert not psutil.pid_exists(int(pid))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize("number", STOPPING)
def test_the_exit_status_says_which_signal(
    number: int,
    stuck: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck("sleep")
    argv = ("analyze", "sample", "--out", str(tmp_path / "scores.json"))
    assert _interrupted(argv, (number,), monkeypatch) == 128 + number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "handlers are given back"


def test_a_signal_in_the_midst_of_reading_a_model_is_not_a_damaged_model() -> None:
    with pytest.raises(Stopped), in_words("Cannot open it", "it is damaged", "Choose another"):
        raise Stopped(signal.SIGTERM)
    PanicException = type("PanicException", (BaseException,), {})
    with pytest.raises(ModelError, match="damaged"), in_words("Cannot open it", "it is damaged", "Choose"):
        raise PanicException


_SWALLOWED = """
import signal, sys, time
from kl_lens_desktop.process import signals

class Finalizer:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(10):  # the exception comes with one of the next lines
            time.sleep(0)

signals.stop_when_asked()
try:
    Finalizer()
    time.sleep(0.01)
    for _ in range(6000):
        time.sleep(0.01)
except signals.Stopped as stopped:
    sys.exit(stopped.status)
"""


def test_a_signal_is_heard_where_python_ignores_exceptions() -> None:
    """As when a module's lock is let go: pressed while libraries are imported, Ctrl-C did nothing."""
    ended = subprocess.run(
        [sys.executable, "-c", _SWALLOWED], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "")


def test_a_second_signal_gives_no_time(
    stuck: Callable[[str], None], tmp_path: Path, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck("hang")
    monkeypatch.setattr(child_module, "GRACE_S", 3600.0)
    argv = ("analyze", "sample", "--out", str(tmp_path / "scores.json"))
    assert _interrupted(argv, (signal.SIGINT, signal.SIGINT), monkeypatch) == 130
    assert [path.name for path in tmp_path.iterdir()] == [temp.name]
    assert list(temp.iterdir()) == []


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kl_lens_desktop", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=ROOT)


def test_the_command_line_says_that_it_was_cancelled(tmp_path: Path) -> None:
    process = _start("analyze", "sample", "--out", tmp_path / "scores.json")
    while not psutil.Process(process.pid).children():
        time.sleep(0.02)
    if sys.platform == "win32":
        process.kill()  # which is no signal there; a console sends those
        process.wait()
        return
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].splitlines()[-1]
    assert said == "Cancelled. What was measured is kept, and the same command goes on from there."
    assert process.returncode == 143


_PARENT = """
import sys
from pathlib import Path
from kl_lens_desktop.process import child
from kl_lens_desktop.sensitivity.jobs import AnalyzeJob
from tests.stuck_worker import WORKER
child.worker_command = lambda: (WORKER, {})
for event in child.Child(AnalyzeJob("sample", Path(sys.argv[1]))).events():
    print(event.message, flush=True)
"""


def test_a_slow_child_that_makes_progress_is_not_taken_for_one_that_hangs(
    stuck: Callable[[str], None], tmp_path: Path
) -> None:
    stuck("slow")
    child = Child(AnalyzeJob("sample", tmp_path / "scores.json"), time_limit_s=3600)
    deadlines = [child._deadline for event in child.events() if isinstance(event, Progress)]
    assert len(set(deadlines)) == 4
    assert deadlines == sorted(deadlines)


def test_a_child_whose_parent_is_killed_ends_and_cleans_up(
    stuck: Callable[[str], None], tmp_path: Path, temp: Path
) -> None:
    stuck("sleep")
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "scores.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline().split()[-1]))
        assert len(list(temp.iterdir())) == 1
        parent.kill()
    while child_module._runs(worker):
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == [temp]
    assert list(temp.iterdir()) == []


def test_an_analysis_that_was_ended_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = str(build_folder("mamba", tmp_path / "mamba", num_hidden_layers=6))
    settings = ("--tokens", "1024", "--window", "64", "--exhaustive", "--formats", "int4_sym_g64,int8_sym")
    settings += ("--rounding", "nearest")  # `test_rounding` ends one by data
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    assert run(["analyze", model, "--out", str(whole), *settings], carry=perform) == 0
    process = _start("analyze", model, "--out", part, *settings)
    while not part.exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    process.wait()
    if sys.platform != "win32":
        assert process.returncode == 143
    assert part.read_bytes() != whole.read_bytes(), "it was ended in the middle"
    assert run(["analyze", model, "--out", str(part), *settings], carry=perform) == 0
    assert part.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


# What dead processes leave
# -----------------------------------------------------------------------------------------------------------


def test_what_dead_processes_left_is_swept_when_the_next_job_starts(
    stuck: Callable[[str], None], tmp_path: Path, temp: Path
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    began = int(psutil.Process().create_time())
    mine, reused, gone = (
        f"{pid}-{start}"
        for pid, start in ((os.getpid(), began), (os.getpid(), began - 1000), (dead.pid, began))
    )
    others = [tmp_path / ".notes.partial", tmp_path / "a.1-2-0123abcd.partial", temp / "kl-lens-notes"]
    for owner in (mine, reused, gone):
        (tmp_path / f".ir.{owner}-0123abcd.partial").mkdir()
        (tmp_path / f".s.json.{owner}-0123abcd.partial").touch()
        (temp / f"kl-lens-{owner}-x1").mkdir()
    for path in others:
        path.touch()
    stuck("memory")
    with pytest.raises(ChildError):
        list(Child(AnalyzeJob("sample", tmp_path / "scores.json")).events())
    kept = [tmp_path / f".ir.{mine}-0123abcd.partial", tmp_path / f".s.json.{mine}-0123abcd.partial"]
    kept += [temp / f"kl-lens-{mine}-x1", temp, *others]
    assert sorted([*tmp_path.iterdir(), *temp.iterdir()]) == sorted(kept)


def test_a_link_to_a_folder_in_place_of_a_leftover_is_not_followed(temp: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    _link(temp / "kl-lens-1-1-x", tmp_path / "mine")
    temporary.sweep()
    assert (tmp_path / "mine" / "thesis.txt").exists()


# Disks
# -----------------------------------------------------------------------------------------------------------


def test_room_is_asked_for_before_anything_is_written(usage: list[int], tmp_path: Path) -> None:
    usage[:] = [10**9]
    check_room("the model", 9 * 10**8, tmp_path / "not" / "there")
    with pytest.raises(InputError) as refused:
        check_room("the model", 95 * 10**7, tmp_path / "not" / "there", "Free some")
    said = "Not enough disk space for the model: it needs about 1.02 GB, and 1.00 GB are free in "
    assert str(refused.value) == f"{said}{tmp_path / 'not' / 'there'}. Free some."


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("basic_ios::clear: iostream error"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_becomes_full_is_said_in_words(
    error: Exception, usage: list[int], tmp_path: Path
) -> None:
    usage[:] = [10**9, 10**9, 4096]
    with (
        pytest.raises(InputError) as full,
        atomic_folder(tmp_path / "ir", "card.json") as staging,
        room_for("the exported model", 5 * 10**8, tmp_path),
    ):
        (staging / "half").touch()
        raise error
    assert str(full.value) == (
        f"Cannot write the exported model: the disk of {tmp_path} is full; about 500 MB were needed, and "
        "1.00 GB were free at the start. Free some space, or choose a folder on another disk."
    )
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_kinds_are_not_called_a_full_disk(usage: list[int], tmp_path: Path) -> None:
    usage[:] = [10**9]
    with pytest.raises(ZeroDivisionError), room_for("it", 1, tmp_path):
        raise ZeroDivisionError
    with pytest.raises(InputError, match="the system refused to write into"), room_for("it", 1, tmp_path):
        raise RuntimeError("basic_ios::clear: iostream error")


def test_an_export_without_room_is_refused_before_it_is_traced(
    usage: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kl_lens_desktop.export import bundle
    from kl_lens_desktop.hub.resolve import resolve_model

    model = resolve_model(str(build_folder("lfm2", tmp_path / "lfm2")))
    monkeypatch.setattr(bundle, "trace", None)
    usage[:] = [64 * 2**20 + 1000]
    with pytest.raises(InputError, match="Not enough disk space for the exported model"):
        list(bundle.export_model(model, "int8_sym", tmp_path / "ir", Cancel()))
    assert list(tmp_path.iterdir()) == [tmp_path / "lfm2"]


def test_a_whole_job_without_room_ends_before_its_first_hour(
    usage: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda _: [])
    usage[:] = [64 * 2**20 + 30_000_000]
    analysis = Analysis(formats=("int4_sym_g64",))
    with pytest.raises(InputError, match="Not enough disk space for compressing sample: it needs about"):
        list(RunJob("sample", tmp_path / "out", analysis, devices=("CPU",)).run(Cancel()))
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.mark.parametrize(("npu", "all_gb", "without_fp16_gb"), [(False, 4.99, 2.89), (True, 6.30, 3.54)])
def test_a_whole_job_needs_room_for_what_it_does_not_have_yet(
    npu: bool, all_gb: float, without_fp16_gb: float, tmp_path: Path
) -> None:
    """Of a billion parameters, in GB: integers, and FP16, INT8, INT4 and a plan of 5 bits."""

    def gb(rounding: str = "nearest", *there: str) -> float:
        for name in there:
            (tmp_path / name).mkdir()
        found = _room_needed(10**9, tmp_path, Analysis(bits=5.0, rounding=rounding), npu=npu)
        return found / 1e9

    assert gb() == pytest.approx(all_gb, abs=0.01)
    assert gb("data") == pytest.approx(gb() + 2 * 0.85)
    assert gb("nearest", "fp16") == pytest.approx(without_fp16_gb, abs=0.01)
    assert gb("nearest", "int8_sym", "int4_sym_g64", "plan") == 0


def test_without_room_for_a_model_cache_the_rest_is_measured(
    usage: list[int], temp: Path, tmp_path: Path
) -> None:
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).write_bytes(b"1")
    (variant,) = find_variants([tmp_path])
    measured, course = Run(variant, "CPU"), BenchCourse(Path("text"), Benchmark(), Cancel(), 10)
    (note,) = _loading(measured, course)
    assert isinstance(note, Note)
    assert "Not enough disk space for OpenVINO's model cache" in note.text
    assert (measured.cached, measured.failure, course.done) == (None, "", 2)
    assert list(temp.iterdir()) == []


def test_a_disk_that_nobody_expected_to_fill_is_said_in_words_too(
    stuck: Callable[[str], None], tmp_path: Path
) -> None:
    stuck("full")
    job = AnalyzeJob("sample", tmp_path / "scores.json")
    said = _sentence(job)
    assert said.startswith(
        "analyze failed: a disk is full ([Errno 28] No space left on device: 'somewhere')."
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=False)


def test_an_export_onto_a_disk_that_becomes_full_says_so_and_leaves_nothing(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kl_lens_desktop.export.bundle import export_model
    from kl_lens_desktop.hub.resolve import resolve_model

    true, asked = shutil.disk_usage, []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return Usage(10**9, 0, 10**9) if len(asked) < 3 else true(path)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    model = resolve_model(str(build_folder("lfm2", tmp_path / "lfm2", hidden_size=256)))
    with pytest.raises(InputError, match=f"the disk of {small_disk} is full; about .* were needed"):
        list(export_model(model, "fp16", small_disk / "ir", Cancel()))
    assert list(small_disk.iterdir()) == []
    with pytest.raises(InputError, match="the disk is full"):
        write_text(small_disk / "scores.json", "1" * 10**6)
    assert list(small_disk.iterdir()) == []


# Exported folders
# -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Plan]:
    """A folder with all that is asked of an exported one, and the plan in it."""
    from kl_lens_desktop.exported import contents
    from kl_lens_desktop.plan.document import save_plan
    from kl_lens_desktop.sensitivity.scores import ModelIdentity

    folder = tmp_path / "ir"
    plan = Plan(
        ModelIdentity("m", None, "0" * 64), {"a.weight": "fp16"}, None, "kl", {"kl": None, "bytes": 1}
    )
    with atomic_folder(folder, files.CARD) as staging:
        for name in ("openvino_model.xml", "openvino_model.bin", "tokenizer.json"):
            (staging / name).write_bytes(name.encode() * 100)
        save_plan(staging / "plan.json", plan)
        names = sorted([files.CARD, *(path.name for path in staging.iterdir())])
        write_json(staging / files.CARD, {"files": names, "contents": contents(staging)})
    return folder, plan


def test_the_card_of_an_export_holds_size_and_hash_of_every_file(sample_ir: dict[str, Path]) -> None:
    folder = sample_ir["int4"]
    card = json.loads((folder / "kl_lens.json").read_text(encoding="utf-8"))
    written_later = {"kl_lens.json", "plan.json", "README.md"}  # a benchmark adds to README.md
    assert set(card["contents"]) == set(card["files"]) - written_later
    for name, about in card["contents"].items():
        content = (folder / name).read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert damage(folder, hashes=True) == ""


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin", "tokenizer.json"])
def test_a_damaged_export_is_not_done_and_is_not_measured(bundle: tuple[Path, Plan], name: str) -> None:
    folder, plan = bundle
    assert is_exported(folder, plan)
    assert [variant.folder for variant in find_variants([folder])] == [folder]
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + b"?")
    assert not is_exported(folder, plan), "its hash is another"
    (folder / name).write_bytes(whole[:100])
    assert not is_exported(folder, plan)
    with pytest.raises(InputError, match=f"Cannot measure .*: {name} is damaged: it has 100 bytes, not"):
        find_variants([folder])
    (folder / name).unlink()
    assert not is_exported(folder, plan)
    with pytest.raises(InputError, match=r"is missing|has no openvino_model\.xml and \.bin"):
        find_variants([folder])
    (folder / name).write_bytes(whole)
    (folder / "kl_lens.json").write_text('{"files": [', encoding="utf-8")
    with pytest.raises(InputError, match=r"kl_lens\.json is damaged"):
        find_variants([folder])


def test_what_is_measured_later_and_exports_of_earlier_versions_are_no_damage(
    bundle: tuple[Path, Plan],
) -> None:
    folder, _ = bundle
    card = json.loads((folder / "kl_lens.json").read_text(encoding="utf-8"))
    write_json(folder / "kl_lens.json", {**card, "proof": {"devices": []}})
    value = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    write_json(folder / "plan.json", {**value, "provenance": {"more": 1}})
    assert damage(folder, hashes=True) == ""
    del card["contents"]
    write_json(folder / "kl_lens.json", card)
    assert is_exported(folder, load_plan(folder / "plan.json"))
    assert damage(folder) == ""


def test_a_record_that_is_none_or_points_elsewhere_is_refused(bundle: tuple[Path, Plan]) -> None:
    folder, _ = bundle
    (folder.parent / "elsewhere").write_bytes(b"1")
    for record in ([], {"openvino_model.bin": 3}, {"openvino_model.bin": {"bytes": "x", "sha256": 1}}):
        write_json(folder / "kl_lens.json", {"files": [], "contents": record})
        assert damage(folder) == "kl_lens.json is damaged"
    write_json(folder / "kl_lens.json", {"contents": {"../elsewhere": {"bytes": 1, "sha256": ""}}})
    assert damage(folder) == "../elsewhere is missing"


def test_the_window_leaves_a_damaged_export_out_and_says_so(bundle: tuple[Path, Plan]) -> None:
    from kl_lens_desktop.gui.state.results import ResultsReader
    from kl_lens_desktop.gui.state.workspace import Workspace

    folder, _ = bundle
    reader = ResultsReader()
    assert reader.read("m", [], Workspace(folder.parent), {}).exports == {"ir": folder}
    (folder / "openvino_model.bin").write_bytes(b"cut")
    found = reader.read("m", [], Workspace(folder.parent), {})
    assert found.exports == {}
    assert found.problems == [
        f"Cannot use {folder}: openvino_model.bin is damaged: it has 3 bytes, not 1,800. Export it again."
    ]


# The launcher
# -----------------------------------------------------------------------------------------------------------

_LAUNCHER = """
import sys
sys.path.insert(0, "installer")
import launch
launch.venv_python = lambda: sys.executable
print(launch.in_venv("-c", "import time; print('up', flush=True); time.sleep(3600)"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a console tells both")
def test_the_launcher_passes_on_what_asks_it_to_end() -> None:
    command = [sys.executable, "-c", _LAUNCHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as launcher:
        assert launcher.stdout
        assert launcher.stdout.readline() == "up\n"
        launcher.terminate()
        assert launcher.stdout.read() == f"{-signal.SIGTERM}\n"


# Memory
# -----------------------------------------------------------------------------------------------------------


def test_no_memory_is_known_by_what_libraries_say() -> None:
    import numpy as np
    import torch

    for ask in (lambda: torch.empty(2**50), lambda: np.empty(2**50), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as none:
            ask()
        assert is_out_of_memory(none.value)
        wrapped = InputError("Cannot open the model", "it is damaged")
        wrapped.__cause__ = none.value
        assert is_out_of_memory(wrapped), "however it was taken for something else"
    for words in (
        "std::bad_alloc",
        "x.so: failed to map segment from shared object",
        "MatMul' can't alloc",
        "Exception ignored in sys.unraisablehookMemoryErrorException ignored in sys.unraisablehook",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(SystemError("error return without exception set")), "no room for it"
    assert is_out_of_memory(OSError(errno.ENOMEM, "no"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "full"))


def _sentence(job: AnalyzeJob) -> str:
    with pytest.raises(ChildError) as failed:
        list(Child(job).events())
    return str(failed.value)


def _needed(job: AnalyzeJob) -> str:
    needed = job.memory_mb()
    assert needed is not None
    assert needed > 500
    return quantities.size(needed * 2**20)


def test_a_stage_without_memory_says_what_it_takes_and_what_helps(
    stuck: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck("memory")
    job = AnalyzeJob("sample", tmp_path / "scores.json")
    said = f"Not enough memory for analyze: it takes about {_needed(job)}, and the system gave it less. What"
    assert _sentence(job).startswith(said)
    assert "OMP_NUM_THREADS=1" in _sentence(job)
    elsewhere = AnalyzeJob("nobody/nothing", tmp_path / "scores.json")
    assert re.match(
        r"Not enough memory for analyze: .* of memory was free when it began\.", _sentence(elsewhere)
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_child_that_the_system_ends_is_said_to_have_lacked_memory(
    stuck: Callable[[str], None], tmp_path: Path, temp: Path
) -> None:
    stuck("killed")
    job = AnalyzeJob("sample", tmp_path / "scores.json")
    said = _sentence(job)
    assert said.startswith("The analyze process ended early: the system ended it, as it does when memory")
    assert f"memory runs out; it takes about {_needed(job)}" in said
    assert "What was measured is kept, and starting again continues. Close other programs" in said
    assert list(tmp_path.iterdir()) == [temp]
    assert list(temp.iterdir()) == []


def test_a_crash_of_a_library_is_told_as_what_a_lack_of_memory_can_do(
    stuck: Callable[[str], None], tmp_path: Path, temp: Path
) -> None:
    stuck("crash")
    job = AnalyzeJob("sample", tmp_path / "scores.json")
    said = _sentence(job)
    assert said.startswith("The analyze process ended early: a library crashed, as a lack of memory or a")
    assert f"faulty driver can cause; it takes about {_needed(job)}" in said
    assert "starting again continues. Try again. Close other programs" in said
    assert "signal" not in said
    assert list(temp.iterdir()) == []


# Links
# -----------------------------------------------------------------------------------------------------------


def _link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("links are not allowed here")


def test_a_file_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "plan.json", tmp_path / "link.json"
    _link(link, target)
    for text in ("first", "second"):  # the first time it points at nothing yet
        write_text(link, text)
        assert link.is_symlink()
        assert target.read_text(encoding="utf-8") == text
    assert list((tmp_path / "far").iterdir()) == [target]


def test_a_folder_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "ir", tmp_path / "ir"
    target.mkdir()
    _link(link, target)
    for text in ("first", "second"):
        with atomic_folder(link, "card.json") as staging:
            assert staging.parent == target.parent, "on the disk that it ends on"
            (staging / "model").write_text(text, encoding="utf-8")
            write_json(staging / "card.json", {"files": ["card.json", "model"]})
        assert link.is_symlink()
        assert (target / "model").read_text(encoding="utf-8") == text
    assert sorted(tmp_path.rglob("*")) == sorted(
        [link, tmp_path / "far", target, target / "model", target / "card.json"]
    )
