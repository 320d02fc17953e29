"""Drills: what is stopped, starved or given rubbish ends in words, leaves nothing behind and loses nothing.

``python -m tests.drill`` takes about two hours on two cores; ``--stages``, ``--only`` and ``--moments`` make
it shorter. It prints every drill and a table at the end, and fails on any traceback, orphan, leftover, half
file or changed result.
"""

import argparse
import contextlib
import fnmatch
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.hub_server import Repository, folder_files, serve
from tests.models import build_short_sample

PATIENCE_S = 60.0
BIRTH_S = 3.0  # until Python runs the program's own lines, on a busy machine
ENDINGS = ("kill", "terminate", "interrupt") if os.name == "posix" else ("kill",)
EXIT = {"kill": -9, "terminate": 143, "interrupt": 130} if os.name == "posix" else {"kill": 1}
MARK = "KL_LENS_DRILL"  # in the environment of every process that a drill starts


@dataclass(frozen=True)
class Stage:
    """A command, and how its results are read.

    Attributes
    ----------
    command : callable
        From the folder of a run to the arguments.
    result : callable
        From that folder to what must be the same however often the command was stopped.
    given : tuple of str
        What the folder holds before.
    out : str
        What the command makes: nothing else may be left.
    kept : str
        What it may leave besides, as a pattern, when it is ended and means to go on: work of hours.
    """

    name: str
    command: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    out: str
    given: tuple[str, ...] = ()
    kept: str = ""


@dataclass
class Report:
    """What came out: faults by drill, and how many there were of each kind."""

    faults: list[str] = field(default_factory=list)
    counts: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    slowest_s: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, kind: str, what: str, faults: list[str], seconds: float | None = None) -> None:
        """Count one drill, and say how it went."""
        counts = self.counts[stage, kind]
        counts[0] += 1
        counts[1] += bool(faults)
        if seconds is not None:
            self.slowest_s[kind] = max(self.slowest_s.get(kind, 0.0), seconds)
        print(f"{stage:<10} {kind:<10} {what:<34} {'; '.join(faults) or 'right'}", flush=True)
        self.faults += [f"{stage}, {kind}, {what}: {fault}" for fault in faults]

    def table(self) -> str:
        """Drills and failures of every stage."""
        lines = [f"{'stage':<10} {'drill':<10} {'times':>6} {'wrong':>6}"]
        lines += [f"{a:<10} {b:<10} {n:>6} {bad:>6}" for (a, b), (n, bad) in sorted(self.counts.items())]
        lines += [f"slowest answer to {kind}: {s:.1f} s" for kind, s in sorted(self.slowest_s.items())]
        return "\n".join(lines)


class Ground:
    """Where drills take place: a small model, its scores, a plan and an exported folder, and a Hub."""

    def __init__(self, root: Path, hub_url: str) -> None:
        self.root, self._runs, self._hub_url = root, 0, hub_url
        self.model = root / "model"
        if not self.model.exists():
            build_short_sample(self.model)
        self.made = root / "made"
        self.made.mkdir(exist_ok=True)
        self.expected: dict[str, Any] = {}
        self.names: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}

    def new_folder(self, stage: Stage) -> Path:
        """A folder for one run, with what the stage is given."""
        self._runs += 1
        folder = self.root / f"run{self._runs}"
        self.fill(stage, folder)
        return folder

    def fill(self, stage: Stage, folder: Path) -> None:
        """Put what the stage is given into a folder."""
        (folder / "tmp").mkdir(parents=True)
        for name in stage.given:
            source = self.made / name
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, folder / name)

    def start(self, stage: Stage, folder: Path, before: Callable[[], None] | None = None) -> "Run":
        """Start a stage as a shell would, with a home and a folder for temporary files of its own."""
        environment = {
            **os.environ,
            "KL_LENS_HOME": str(folder / "home"),
            "HF_HOME": str(folder / "home" / "huggingface"),
            "HF_ENDPOINT": self._hub_url,
            "HF_HUB_OFFLINE": "0",
            MARK: str(folder),
            **{name: str(folder / "tmp") for name in ("TMPDIR", "TEMP", "TMP")},
        }
        return Run(stage.command(folder), environment, folder, before)

    def prepare(self, stages: list[Stage]) -> None:
        """Run every stage undisturbed; its result is what all drills of it must come to."""
        for stage in stages:
            folder = self.new_folder(stage)
            started = time.monotonic()
            run = self.start(stage, folder)
            code, said = run.wait()
            self.seconds[stage.name] = time.monotonic() - started
            if code:
                raise SystemExit(f"{stage.name} fails undisturbed: {said}")
            self.expected[stage.name] = stage.result(folder)
            self.names[stage.name] = _names(folder)
            made = folder / stage.out
            if made.is_file() and not (self.made / stage.out).exists():
                shutil.copyfile(made, self.made / stage.out)
            elif made.is_dir() and not (self.made / stage.out).exists():
                shutil.copytree(made, self.made / stage.out)
            shutil.rmtree(folder)
            print(f"{stage.name:<10} undisturbed: {self.seconds[stage.name]:.1f} s", flush=True)


class Run:
    """A started command, whose output is read from files so that no pipe keeps anything waiting."""

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        folder: Path,
        before: Callable[[], None] | None,
    ) -> None:
        self._folder = folder
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kl_lens_desktop", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before,
        )

    def wait(self, seconds: float = 600.0) -> tuple[int, str]:
        """The exit status and all that was said."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.seek(0)
        return self.process.returncode, self._log.read()

    def end(self, how: str) -> None:
        """Kill or terminate the process alone; Ctrl-C reaches its children too, as in a terminal."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if how == "kill":
                self.process.kill()
            elif how == "terminate":
                self.process.terminate()
            else:
                os.killpg(self.process.pid, signal.SIGINT)

    def orphans(self, seconds: float = 10.0) -> list[str]:
        """Processes of this run that are still there after so long."""
        deadline = time.monotonic() + seconds
        while (found := list(self._descendants())) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in found:
            process.kill()
        return [f"process {process.pid}" for process in found if _runs(process)]

    def _descendants(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.pid != os.getpid()
                    and _runs(process)
                    and process.environ().get(MARK) == str(self._folder)
                ):
                    yield process


def _names(folder: Path) -> set[str]:
    """All that a run left, but for its home, where settings and downloads belong, and what tmp is."""
    kept = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("home", "tmp"))
    return {path.relative_to(folder).as_posix() for path in kept}


def _temporary(folder: Path) -> list[str]:
    return [path.name for path in (folder / "tmp").iterdir()]


def _words(code: int, said: str, wanted: int) -> list[str]:
    """Faults of how a command ended."""
    faults = []
    if code != wanted:
        faults.append(f"exit status {code}, not {wanted}: {said.strip()[-200:]!r}")
    faults += [
        f"says {bad!r}" for bad in ("Traceback", "eport this", "eport it", "core dumped") if bad in said
    ]
    if sum(line.startswith("kl-lens: ") for line in said.splitlines()) > 1:
        faults.append("more than one sentence")
    return faults


def _is_done(ground: Ground, stage: Stage, folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return bool(stage.result(folder) == ground.expected[stage.name])
    return False


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _finished(ground: Ground, stage: Stage, folder: Path) -> list[str]:
    """Faults after the command was run again, to its end."""
    run = ground.start(stage, folder)
    code, said = run.wait()
    faults = [f"again: {fault}" for fault in _words(code, said, 0)]
    if not code and (found := stage.result(folder)) != (wanted := ground.expected[stage.name]):
        faults.append(f"another result than undisturbed: {_first_difference(found, wanted)}")
    if left := sorted(_names(folder) - ground.names[stage.name]):
        faults.append(f"leaves {', '.join(left[:5])}")
    if temporary := _temporary(folder):
        faults.append(f"leaves in the temporary folder {', '.join(temporary[:5])}")
    return faults


def _first_difference(found: Any, wanted: Any) -> str:
    """Where two results of the same stage part."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{sorted(found)}, not {sorted(wanted)}"
        found, wanted = list(found.items()), list(wanted.items())
    if isinstance(found, list | tuple) and isinstance(wanted, list | tuple) and len(found) == len(wanted):
        return next(_first_difference(a, b) for a, b in zip(found, wanted, strict=True) if a != b)
    return f"{found!r}, not {wanted!r}"


def drill_endings(
    ground: Ground, stages: list[Stage], moments: int, chance: random.Random, report: Report
) -> None:
    """End every stage at random moments, in every way, and then run it again."""
    for count in range(moments):
        stage, how = stages[count % len(stages)], ENDINGS[count // len(stages) % len(ENDINGS)]
        folder = ground.new_folder(stage)
        after = chance.uniform(0.3, ground.seconds[stage.name])
        run = ground.start(stage, folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(after)
        done = run.process.poll() is not None
        started = time.monotonic()
        run.end(how)
        code, said = run.wait(PATIENCE_S)
        took = time.monotonic() - started
        # Before Python has come to the program's first line, the system answers in its place.
        unborn = not said and code in (-signal.SIGTERM, -signal.SIGINT) and after < BIRTH_S
        # Nor does the program answer any more once Python takes itself down, its work done.
        done |= took < BIRTH_S and (
            code == 0 or (code < 0 and how != "kill" and _is_done(ground, stage, folder))
        )
        faults = [] if done or unborn else _words(code, said, EXIT[how])
        if orphans := run.orphans():
            faults.append(f"leaves {orphans}")
        if how != "kill":
            left = _names(folder) - ground.names[stage.name]
            if left := sorted(name for name in left if not fnmatch.fnmatch(name, stage.kept)):
                faults.append(f"half done: {', '.join(left[:5])}")
            if temporary := _temporary(folder):
                faults.append(f"leaves in the temporary folder {', '.join(temporary[:5])}")
        faults += _finished(ground, stage, folder)
        report.add(stage.name, how, f"after {after:.1f} s, in {took:.1f} s", faults, None if done else took)
        shutil.rmtree(folder, ignore_errors=True)


def drill_disk(ground: Ground, stages: list[Stage], report: Report) -> None:
    """Let every stage run out of disk, then give it room and run it again."""
    for stage in stages:
        for share in (0.05, 0.5, 0.9):
            folder = ground.root / "disk"
            folder.mkdir(exist_ok=True)
            needed = ground.new_folder(stage)
            given = _size(needed)
            shutil.rmtree(needed)
            full = given + int(share * _expected_size(ground, stage)) + 16_384
            mount = ["mount", "-t", "tmpfs", "-o", f"size={full}", "tmpfs", str(folder)]
            if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
                print("disk: left out, because only root on Linux can make a small disk")
                return
            try:
                ground.fill(stage, folder)
                run = ground.start(stage, folder)
                code, said = run.wait()
                faults = [] if code == 0 else _words(code, said, 1)
                if code and not any(word in said for word in ("free", "full", "space", "room")):
                    faults.append(f"does not say that the disk is full: {said.strip()[-200:]!r}")
                if left := sorted(_names(folder) - ground.names[stage.name]):
                    faults.append(f"half done: {', '.join(left[:5])}")
                remount = ["mount", "-o", "remount,size=4g", str(folder)]
                subprocess.run(remount, check=True, capture_output=True)
                faults += _finished(ground, stage, folder)
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
            report.add(stage.name, "disk", f"{share:.0%} of what it takes, exit {code}", faults)


def drill_memory(ground: Ground, stages: list[Stage], report: Report) -> None:
    """Let every stage run out of memory, then run it again without a limit."""
    if sys.platform != "linux":
        print("memory: left out, because only Linux limits what a process allocates")
        return
    import resource

    for stage in stages:
        for limit in (150, 300, 450, 600, 900):
            folder = ground.new_folder(stage)

            def limited(limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit * 2**20, limit * 2**20))

            run = ground.start(stage, folder, limited)
            code, said = run.wait()
            faults = [] if code == 0 else _words(code, said, 1)
            if code and "memory" not in said:
                faults.append(f"does not say that memory is short: {said.strip()[-200:]!r}")
            if orphans := run.orphans():
                faults.append(f"leaves {orphans}")
            faults += _finished(ground, stage, folder)
            report.add(stage.name, "memory", f"{limit} MB, exit {code}", faults)
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(4096 * (1 + path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


def _expected_size(ground: Ground, stage: Stage) -> int:
    made = ground.made / stage.out
    return _size(made) if made.is_dir() else made.stat().st_size


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _measured(path: Path) -> Any:
    plan = _json(path)
    return plan["assignments"], plan["measured"]


def stages_of(model: Path) -> list[Stage]:
    """All stages, in an order in which each finds what it is given."""

    def export(folder: Path) -> Any:
        return _sha256(folder / "ir" / "openvino_model.bin")

    def whole(folder: Path) -> Any:
        out = folder / "out"
        names = ("plan", "fp16", "int8_sym", "int4_sym_g64")
        return (
            _sha256(out / "scores.json"),
            _measured(out / "plan.json"),
            [_sha256(out / name / "openvino_model.bin") for name in names],
            [(row["variant"], row["status"]) for row in _json(out / "bench.json")["rows"]],
        )

    def baselines(folder: Path) -> Any:
        return {path.name: _measured(path) for path in (folder / "baselines").iterdir()}

    def pulled(folder: Path) -> Any:
        (weights,) = (folder / "home").rglob("model.safetensors")
        return _sha256(weights)

    def tables(folder: Path) -> Any:
        return [(row["variant"], row["status"]) for row in _json(folder / "bench.json")["rows"]]

    def of(*words: str) -> Callable[[Path], list[str]]:
        return lambda folder: [word.format(folder=folder, model=model) for word in words]

    plan, scores = "{folder}/plan.json", "{folder}/scores.json"
    text = ("--tokens", "512")
    measuring, minute = ("--devices", "CPU", "--quick"), ("--minutes", "1")
    brief = ("--bench-minutes", "0.2")
    return [
        Stage(
            "analyze",
            of("analyze", "{model}", "--out", scores, "--tokens", "1024", "--window", "64"),
            lambda folder: _sha256(folder / "scores.json"),
            "scores.json",
            kept="scores.part*.safetensors",
        ),
        Stage("plan", of("plan", scores, "--out", plan, "--bits", "5"),
              lambda folder: _json(folder / "plan.json")["assignments"], "plan.json", ("scores.json",)),
        Stage("verify", of("verify", "{model}", "--plan", plan, "--tokens", "2048"),
              lambda folder: _measured(folder / "plan.json"), "plan.json", ("plan.json",)),
        Stage(
            "repair",
            of("verify", "{model}", "--plan", plan, "--repair", "--repair-tokens", "1024", *text),
            lambda folder: _measured(folder / "plan.json"),
            "plan.json",
            ("plan.json", "scores.json"),
        ),
        Stage(
            "baselines",
            of("baselines", "{model}", "--scores", scores, "--plan", plan, "--out", "{folder}/baselines",
               "--only", "uniform,random", *text),
            baselines,
            "baselines",
            ("plan.json", "scores.json"),
        ),
        Stage("export", of("export", "{model}", "--format", "int4_sym_g64", "--out", "{folder}/ir"),
              export, "ir"),
        Stage("bench", of("bench", "{folder}/ir", *measuring, *minute, *text, "--out", "{folder}/bench.json"),
              tables, "bench.json", ("ir",)),
        Stage("pull", of("pull", "drill/model"), pulled, "home"),
        # No ``--minutes`` here: in `run` it bounds the measuring, and who is interrupted has more of them.
        Stage("run", of("run", "{model}", "--out", "{folder}/out", *measuring, *text, *brief),
              whole, "out", kept="out/scores.part*.safetensors"),
    ]  # fmt: skip


def _needed(stages: list[Stage], chosen: list[str]) -> list[Stage]:
    """The stages called `chosen`, and those that make what they are given."""
    needed, given = [], set[str]()
    for stage in reversed(stages):
        if stage.name in chosen or stage.out in given:
            needed.insert(0, stage)
            given |= set(stage.given)
    return needed


def main() -> int:
    """Run the drills; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=63)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default="", help="comma-separated; without it all")
    parser.add_argument("--only", default="endings,disk,memory")
    options = parser.parse_args()
    report, chance = Report(), random.Random(options.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
    with tempfile.TemporaryDirectory(prefix="kl-lens-drill-") as name:
        root = Path(name).resolve()
        model = build_short_sample(root / "model")
        with serve({"drill/model": Repository(folder_files(model))}) as hub:
            hub.slow_s = 0.02
            ground = Ground(root, hub.url)
            stages = stages_of(model)
            chosen = options.stages.split(",") if options.stages else [stage.name for stage in stages]
            ground.prepare(_needed(stages, chosen))
            stages = [stage for stage in stages if stage.name in chosen]
            if "endings" in options.only:
                drill_endings(ground, stages, options.moments, chance, report)
            if "disk" in options.only:
                drill_disk(ground, stages, report)
            if "memory" in options.only:
                drill_memory(
                    ground, [stage for stage in stages if stage.name not in ("plan", "pull")], report
                )
    print("\n" + report.table())
    for fault in report.faults:
        print(f"WRONG {fault}")
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
