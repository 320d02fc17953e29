"""Measuring on a Ray cluster of two computers, both of them this one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from kl_lens_desktop.cli.arguments import parser
from kl_lens_desktop.errors import Cancelled, InputError
from kl_lens_desktop.export.baseline_plans import baselines
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.load import load_model, open_model
from kl_lens_desktop.plan.baselines import random_assignment
from kl_lens_desktop.plan.cluster_worker import PlanWorker
from kl_lens_desktop.plan.document import load_plan, save_plan
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.plan.joint import Bench, joint_of
from kl_lens_desktop.plan.options import weight_options
from kl_lens_desktop.plan.propose import predicted, propose, rounded
from kl_lens_desktop.plan.verify import verify
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Event, Note, Progress, Scored
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.sensitivity import cluster as cluster_module
from kl_lens_desktop.sensitivity import cluster_worker
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import load_scores
from kl_lens_desktop.text.bundled import calibration_text
from kl_lens_desktop.text.windows import windows

ROOT = Path(__file__).resolve().parents[1]
STORE = {"object_store_memory": 100 * 2**20}
HOW = Analysis(tokens=1024, window=64, exhaustive=True, formats=("int4_sym_g64", "int8_sym"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two workers with a core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        try:
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
        except (OSError, RuntimeError) as error:
            pytest.skip(f"Ray does not start here: {error}")
        for _ in range(2):
            cluster.add_node(num_cpus=1, **STORE)
        yield cluster.address
        cluster.shutdown()


@pytest.fixture(scope="module")
def alone(short_sample: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores that this process makes by itself."""
    path = tmp_path_factory.mktemp("alone") / "scores.json"
    list(analyze(short_sample, path, HOW, Cancel()))
    return path


def test_two_workers_give_the_same_bytes(
    short_sample: LocalModel, alone: Path, address: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    events = list(analyze(short_sample, path, replace(HOW, cluster=address), Cancel()))
    assert any(isinstance(each, Note) and "on 2 computers" in each.text for each in events)
    for suffix in (".json", ".safetensors"):
        assert path.with_suffix(suffix).read_bytes() == alone.with_suffix(suffix).read_bytes()


def test_a_killed_worker_costs_what_it_was_measuring(
    short_sample: LocalModel, alone: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, lost = [], _lost(monkeypatch)
    path = tmp_path / "scores.json"
    for event in analyze(short_sample, path, replace(HOW, cluster=address), Cancel()):
        if isinstance(event, Scored):
            measured.append(event)
            if len(measured) == 3:
                os.kill(_workers()[0], signal.SIGKILL)
    assert len(lost) == 1
    assert path.read_bytes() == alone.read_bytes()


def _lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which the computers of lost workers are added."""
    revive = cluster_module.Workers._revive
    lost: list[str] = []

    def revived(self: cluster_module.Workers, place: Any) -> None:
        lost.append(place.host)
        revive(self, place)

    monkeypatch.setattr(cluster_module.Workers, "_revive", revived)
    return lost


def _workers(kind: str = "Worker") -> list[int]:
    """The processes of the cluster's workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"ray::{kind}" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def poor(alone: Path) -> Path:
    """A plan of formats drawn by chance, rounded by data, beside its scores and integers."""
    scores = load_scores(alone)
    options = weight_options(scores)
    size = 6 * sum(option.parameters for option in options) // 8
    chosen = random_assignment(options, int(0.99 * size), size, 0)
    plan = replace(propose(scores, bits=6), assignments=chosen, predicted=predicted(scores, chosen))
    fitted, record = rounded(scores, chosen)
    assert fitted
    path = alone.with_name("poor.json")
    save_plan(path, replace(plan, roundings=fitted, rounding=record))
    return path


def _verify(model: LocalModel, poor: Path, name: str, cluster: str | None) -> Iterator[Event]:
    """Repair and verify the plan as NAME.json beside it."""
    path = poor.with_name(f"{name}.json")
    save_plan(path, load_plan(poor))
    by = RepairSettings(poor.with_name("scores.json"), tokens=1024, minutes=60)
    return verify(model, VerifyJob("short", path, None, 512, 64, by, cluster=cluster), Cancel())


def test_a_plan_is_repaired_and_verified_alike_though_a_worker_is_killed(
    short_sample: LocalModel, poor: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4)  # unlike the workers' computers
    list(_verify(short_sample, poor, "one", None))
    lost, handed = _lost(monkeypatch), list[int]()
    hand_out = cluster_module.Workers._hand_out

    def handing(self: cluster_module.Workers, waiting: Any, ask: Any, *how: Any) -> None:
        def asked(worker: Any, some: list[int]) -> Any:
            handed.extend(some)
            return ask(worker, some)

        hand_out(self, waiting, asked, *how)

    monkeypatch.setattr(cluster_module.Workers, "_hand_out", handing)
    exchanges, total = 0, 0
    for event in _verify(short_sample, poor, "two", address):
        if isinstance(event, Progress) and "exchanges" in event.message:
            exchanges += 1
            if exchanges == 1:
                handed.clear()
            if exchanges == 3:
                os.kill(_workers("PlanWorker")[0], signal.SIGKILL)
            if event.done == 1:
                total = len(handed)
    one, two = (_figures(poor.with_name(f"{name}.json")) for name in ("one", "two"))
    assert one == two
    assert one["assignments"] != _figures(poor)["assignments"]
    assert one["measured"]["nearest"]
    one, two = (_figures(poor.with_name(f"{name}.joint.json"))["measurements"] for name in ("one", "two"))
    assert one.items() <= two.items()
    assert len(lost) == 1
    assert total <= exchanges + 2, "no more than what the worker had in hand is handed out again"


def test_what_a_cluster_measured_of_the_baselines_is_not_measured_again(
    short_sample: LocalModel, poor: Path, address: str
) -> None:
    folders = [poor.with_name(name) for name in ("by-one", "by-both")]
    one, both = (
        BaselinesJob(
            "short", poor.with_name("scores.json"), poor, folder, None, 512, 64, only=("uniform", "random")
        )
        for folder in folders
    )
    cancel = Cancel()
    with pytest.raises(Cancelled):
        for event in baselines(short_sample, replace(both, cluster=address), cancel):
            if isinstance(event, Progress) and event.done == 4:
                cancel.cancel()
    begun = {path: path.stat().st_mtime_ns for path in folders[1].iterdir()}
    assert len(begun) == 4
    for job in (one, both):
        list(baselines(short_sample, job, Cancel()))
    assert all(path.stat().st_mtime_ns == written for path, written in begun.items())
    found, wanted = ({path.name: _figures(path) for path in folder.iterdir()} for folder in folders)
    assert len(found) > 6
    assert found == wanted


def _figures(path: Path) -> dict[str, Any]:
    """What a file says, but for when it was made."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    value.get("provenance", {}).pop("made", None)
    return value


@pytest.mark.parametrize("mapped", [False, True])
def test_a_worker_measures_plans_as_the_computer_that_asks(short_sample: LocalModel, mapped: bool) -> None:
    loaded = (open_model if mapped else load_model)(short_sample.folder)
    ids, _ = windows(loaded, [calibration_text()], 512, 64)
    bench = Bench(loaded, ids, Cancel())
    plan = dict.fromkeys(bench.weights, "int8_sym")
    moves = [(name, fmt) for name in list(bench.weights)[::3] for fmt in ("int4_sym_g64", "fp16")]
    wanted = [bench.measure(plan), *(joint for _, joint in bench.neighbours(plan, moves))]
    worker = PlanWorker(usable_cores(), mapped)
    assert worker.find(short_sample, weights_sha256(loaded.files))
    assert worker.open().mapped == mapped
    changes = {name: parse_format(fmt) for name, fmt in plan.items()}
    found = worker.whole(ids, changes)
    worker.around(ids, changes)
    given = [(bench.weights[name], parse_format(fmt)) for name, fmt in moves]
    for place in range(0, len(given), 3):
        found += worker.moved(given[place : place + 3])
    assert [joint_of(tally) for tally in found] == wanted


@pytest.mark.parametrize("command", ["analyze", "run", "verify", "baselines"])
@pytest.mark.parametrize("address", ["", "host", "host:0", "host:99999", "http://host:80", "a b:1", "ray://"])
def test_an_address_that_is_none_is_refused(
    command: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--scores", "a.json"] if command == "baselines" else []
    files += ["--plan", "b.json"] if command in ("verify", "baselines") else []
    out = [] if command == "verify" else ["--out", "c"]
    with pytest.raises(SystemExit):
        parser().parse_args([command, "sample", *files, *out, "--cluster", address])
    assert "is not HOST:PORT" in capsys.readouterr().err
    good = ["ray://host-1.lan:10001", "192.168.0.2:6379", "[::1]:6379", "auto", "local"]
    for each in good:
        assert parser().parse_args([command, "sample", *files, *out, "--cluster", each]).cluster == each


def test_a_model_that_a_computer_lacks_is_sent_to_it(
    short_sample: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_worker, "home", lambda: tmp_path / "theirs")
    worker = cluster_worker.Worker(1, "f32")
    elsewhere = LocalModel("short", tmp_path / "not there")
    weights = short_sample.folder / "model.safetensors"
    sha256 = cluster_worker.weights_sha256([weights])
    assert not worker.find(elsewhere, sha256)
    for name in ("config.json", "tokenizer.json", weights.name):
        data = (short_sample.folder / name).read_bytes()
        worker.receive(sha256, f"../../{name}", data[:1000], 0)
        worker.receive(sha256, name, data[1000:], 1000)
    assert worker.find(elsewhere, sha256)
    assert worker.open().count >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("place", ["home", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_ray_is_told_to_show_the_token_that_is_here(
    place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []
    ray: Any = ModuleType("ray")
    ray.init = lambda **_: told.append(os.environ.get("RAY_AUTH_MODE"))
    ray.shutdown = lambda: None
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    if place == "home":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret", encoding="utf-8")
    elif place:
        monkeypatch.setenv(place, "secret")
    with cluster_module.joined("auto"):
        pass
    assert told == ["token" if place else None]


JOIN = """
import sys
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.sensitivity.cluster import joined
try:
    with joined(sys.argv[1]) as ray:
        print(len(ray.nodes()), "joined")
except InputError as error:
    print(error)
"""


def test_a_cluster_that_asks_for_a_token_is_joined_by_either_address(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    if tuple(map(int, ray.__version__.split(".")[:2])) < (2, 59):
        pytest.skip("this Ray asks for no token by itself")
    port, client = _free_port(), _free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = {**own, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def run(*command: str, home: str = "") -> str:
        elsewhere = {"HOME": home, "USERPROFILE": home} if home else {}
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            encoding="utf-8",
            env={**env, **elsewhere},
            check=True,
        )
        return done.stdout

    scripts = "-m", "ray.scripts.scripts"
    run(*scripts, "get-auth-token", "--generate")
    asked = "--head", "--block", "--num-cpus=1", "--include-dashboard=false", "--node-ip-address=127.0.0.1"
    asked += f"--port={port}", f"--ray-client-server-port={client}", "--object-store-memory=100000000"
    head = subprocess.Popen([sys.executable, *scripts, "start", *asked], env=env, stdout=subprocess.PIPE)
    try:
        assert head.stdout is not None
        assert any(b"Ray runtime started" in line for line in head.stdout)
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"):
            assert "1 joined" in run("-c", JOIN, address)
        (tmp_path / "stranger").mkdir()
        refused = run("-c", JOIN, f"127.0.0.1:{port}", home=str(tmp_path / "stranger"))
        assert "copy ~/.ray/auth_token" in refused
    finally:
        head.terminate()
        head.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_an_address_where_nothing_answers_is_told(short_sample: LocalModel, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    how = replace(HOW, cluster="127.0.0.1:9")
    with pytest.raises(InputError, match=r"Cannot reach a Ray cluster at 127\.0\.0\.1:9"):
        list(analyze(short_sample, tmp_path / "scores.json", how, Cancel()))
