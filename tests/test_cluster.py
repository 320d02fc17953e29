"""An analysis on a Ray cluster of two computers, both of them this one."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note, Scored
from kl_lens_desktop.sensitivity import cluster as cluster_module
from kl_lens_desktop.sensitivity import cluster_worker
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import Analysis

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
    measured = []
    revive = cluster_module.Cluster._revive
    lost: list[Any] = []

    def revived(self: cluster_module.Cluster, place: Any) -> None:
        lost.append(place.host)
        revive(self, place)

    monkeypatch.setattr(cluster_module.Cluster, "_revive", revived)
    path = tmp_path / "scores.json"
    for event in analyze(short_sample, path, replace(HOW, cluster=address), Cancel()):
        if isinstance(event, Scored):
            measured.append(event)
            if len(measured) == 3:
                os.kill(_workers()[0], signal.SIGKILL)
    assert len(lost) == 1
    assert path.read_bytes() == alone.read_bytes()


def _workers() -> list[int]:
    """The processes of the cluster's workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "ray::Worker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


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


def test_an_address_where_nothing_answers_is_told(short_sample: LocalModel, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    how = replace(HOW, cluster="127.0.0.1:9")
    with pytest.raises(InputError, match=r"Cannot reach a Ray cluster at 127\.0\.0\.1:9"):
        list(analyze(short_sample, tmp_path / "scores.json", how, Cancel()))
