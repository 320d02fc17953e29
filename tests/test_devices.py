"""What is said of devices: their drivers, their matrix engines and the memory they hold."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from kl_lens_desktop.bench import drivers, report
from kl_lens_desktop.bench.devices import Device, describe
from kl_lens_desktop.bench.environment import environment
from kl_lens_desktop.bench.labels import device_notes
from kl_lens_desktop.bench.memory import device_memory_mb
from kl_lens_desktop.bench.page import export_html
from kl_lens_desktop.bench.rows import SCHEMA, Run, row
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.bench.variants import Variant
from kl_lens_desktop.cli.console import print_bench
from kl_lens_desktop.files import write_json
from kl_lens_desktop.process.record import decode_known

OLD_NPU, NEW_NPU = 1002540, 1004778  # NPU_DRIVER_VERSION of Windows drivers
TEXT = {"name": "t.txt", "sha256": "0" * 64, "tokens": 512, "predicted": 508, "window": 128, "stride": 128}
OLD_GPU = Device("GPU", "A GPU", True, driver="1.2.3", matrix_engines=False, warning="Its driver is 1.2.3.")


class Core:
    """An OpenVINO core with one device that this computer may lack."""

    def __init__(self, **properties: Any) -> None:
        self._properties = properties

    def get_property(self, device: str, name: str) -> Any:
        return list(self._properties) if name == "SUPPORTED_PROPERTIES" else self._properties[name]


@pytest.mark.parametrize(
    ("driver", "platform", "old"),
    [
        ("32.0.100.2540", "win32", True),
        ("32.0.100.500", "win32", True),  # a number, not text: 500 is less than 3104
        ("31.0.101.9999", "win32", True),
        ("32.0.100.3104", "win32", False),
        ("32.0.100.10000", "win32", False),
        ("33.0", "win32", False),
        ("20260505", "win32", False),
        ("unknown", "win32", False),
        (None, "win32", False),
        ("1.2.3.4", "linux", False),
    ],
)
def test_an_npu_driver_older_than_openvino_asks_for_is_said(
    driver: str | None, platform: str, old: bool
) -> None:
    words = drivers.outdated("NPU", driver, platform)
    assert bool(words) == old
    if old:
        assert f"Its driver is {driver};" in words
        assert "32.0.100.3104 or newer" in words


def test_the_version_of_an_npu_driver_is_written_as_windows_shows_it() -> None:
    assert drivers.npu_driver(NEW_NPU, "win32") == "32.0.100.4778"
    assert drivers.npu_driver(2020298, "win32") == "32.0.202.298"
    assert drivers.npu_driver(1729157364, "linux") == "1729157364"
    assert drivers.outdated("NPU", drivers.npu_driver(OLD_NPU, "win32"), "win32")


@pytest.mark.parametrize(
    ("full_name", "found", "version"),
    [
        ("Intel(R) Arc(TM) 140V GPU (16GB) (iGPU)", {"Intel(R) Arc(TM) 140V GPU (16GB)": "32.0.101.6795"}, 0),
        ("Intel(R) Arc(TM) B580 (dGPU)", {"Intel(R) UHD": "1.0", "Intel(R) Arc(TM) B580": "2.0"}, 1),
        ("Intel(R) Graphics (iGPU)", {"Intel(R) Graphics [0x64a0]": "25.18.33578"}, 0),
        ("Intel(R) Graphics (iGPU)", {"Intel(R) UHD": "1.0", "Intel(R) Arc(TM) B580": "2.0"}, None),
        ("NVIDIA GeForce RTX 4090 (dGPU)", {"Intel(R) UHD": "1.0"}, None),
        ("Intel(R) UHD (iGPU)", {"Intel(R) UHD": ""}, None),
        ("Intel(R) UHD (iGPU)", {}, None),
    ],
)
def test_opencl_gives_the_driver_of_the_gpu_with_openvinos_name(
    full_name: str, found: dict[str, str], version: int | None
) -> None:
    expected = None if version is None else list(found.values())[version]
    assert drivers.version_of(full_name, list(found.items())) == expected


def test_no_opencl_means_an_unknown_driver() -> None:
    assert drivers.gpu_driver("Acme GPU") is None


@pytest.mark.parametrize("engines", [True, False])
def test_an_older_gpu_is_told_from_one_with_matrix_engines(engines: bool) -> None:
    can = ["FP32", "FP16", "INT8", *(["GPU_HW_MATMUL"] if engines else [])]
    device = describe(Core(FULL_DEVICE_NAME="A GPU", OPTIMIZATION_CAPABILITIES=can), "GPU.1")
    assert device.matrix_engines is engines
    assert any("matrix engines" in note for note in device_notes(asdict(device))) is not engines


def test_an_npu_has_a_driver_and_no_word_on_matrix_engines() -> None:
    core = Core(
        FULL_DEVICE_NAME="Intel(R) AI Boost",
        OPTIMIZATION_CAPABILITIES=["FP16"],
        NPU_DRIVER_VERSION=NEW_NPU,
        NPU_DEVICE_TOTAL_MEM_SIZE=8 * 2**30,
    )
    device = describe(core, "NPU")
    assert device.driver in ("32.0.100.4778", str(NEW_NPU))
    assert device.memory_mb == 8192
    assert device.matrix_engines is None
    assert device_notes(asdict(device)) == []


def test_devices_of_earlier_files_say_nothing_of_matrix_engines() -> None:
    earlier = asdict(replace(OLD_GPU, warning=""))
    del earlier["matrix_engines"], earlier["warning"]
    assert decode_known(Device, earlier).matrix_engines is None
    assert device_notes(earlier) == []


def test_device_memory_is_what_openvino_tells_of_a_gpu_or_an_npu() -> None:
    gpu = Core(GPU_MEMORY_STATISTICS={"usm_host": 2**20, "usm_device": 3 * 2**20})
    assert device_memory_mb(gpu, "GPU") == {"usm_host": 1.0, "usm_device": 3.0}
    assert device_memory_mb(Core(NPU_DEVICE_ALLOC_MEM_SIZE=5 * 2**20), "NPU") == {"allocated": 5.0}
    assert device_memory_mb(Core(), "CPU") is None
    assert device_memory_mb(gpu, "AUTO:GPU,CPU") is None


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, Any]:
    """A bench document of a run whose second turn took more of one kind of memory and less of another."""
    (tmp_path / "openvino_model.bin").write_bytes(b"1")
    run = Run(Variant("plan", tmp_path, None), "GPU")
    for length, kinds in (
        (128, {"usm_host": 1.0, "usm_device": 5.0}),
        (256, {"usm_host": 2.0, "usm_device": 4.0}),
    ):
        samples = {name: [1.0, 2.0] for name in ("tokens_per_s", "ttft_ms", "prefill_tokens_per_s")}
        rounds = dict.fromkeys(samples, 1.0)
        told = {"peak_rss_mb": 100.0, "system_used_change_mb": 3.0, "gpu_memory_mb": kinds}
        run.turns[length] = [{"samples": samples, "round": rounds, **told}]
    around = environment([OLD_GPU], TEXT, Benchmark(), None)
    return {"schema": SCHEMA, "environment": around, "rows": [row(run, "s")]}


def test_a_row_says_the_most_that_the_device_held_after_any_turn(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    assert measured["rows"][0]["gpu_memory_mb"] == {"usm_host": 2.0, "usm_device": 5.0}
    write_json(tmp_path / "bench.json", measured)
    bench = report.load_bench(tmp_path / "bench.json")
    report.export_csv(bench, tmp_path / "bench.csv")
    with (tmp_path / "bench.csv").open(encoding="utf-8-sig", newline="") as file:
        (line,) = csv.DictReader(file)
    assert float(line["gpu_memory_mb"]) == 7.0
    assert float(line["peak_rss_mb"]) == 100.0, "they overlap, so they are never added"


def test_what_to_know_of_a_device_is_in_the_file_on_the_page_and_on_the_command_line(
    measured: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "bench.json", measured)
    bench = report.load_bench(tmp_path / "bench.json")
    (device,) = bench["environment"]["devices"]
    assert device["matrix_engines"] is False
    export_html(bench, tmp_path / "bench.html")
    print_bench(bench["rows"], bench["environment"]["devices"])
    for said in ((tmp_path / "bench.html").read_text(encoding="utf-8"), capsys.readouterr().out):
        assert "no matrix engines" in said
        assert OLD_GPU.warning in said
    elsewhere = [each | {"device": "CPU"} for each in bench["rows"]]
    print_bench(elsewhere, bench["environment"]["devices"])
    assert "matrix engines" not in capsys.readouterr().out


def test_a_file_of_an_earlier_version_is_read(measured: dict[str, Any], tmp_path: Path) -> None:
    for device in measured["environment"]["devices"]:
        del device["matrix_engines"], device["warning"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(measured), encoding="utf-8")
    export_html(report.load_bench(path), tmp_path / "bench.html")
    assert "matrix engines" not in (tmp_path / "bench.html").read_text(encoding="utf-8")
