"""The benchmark: figures that can be believed, and failures that cost their own row only."""

import contextlib
import csv
import functools
import html
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kl_lens_desktop import resources
from kl_lens_desktop import run as whole_job
from kl_lens_desktop.bench import devices as bench_devices
from kl_lens_desktop.bench import divergence, labels, memory, noise, report, static_model
from kl_lens_desktop.bench import quality as quality_module
from kl_lens_desktop.bench.chat import pieces_of
from kl_lens_desktop.bench.compare import PLAIN_FIGURES, QUALITY_FIGURES, SPEED_FIGURES, compare
from kl_lens_desktop.bench.devices import Device, behind, device_names, list_devices
from kl_lens_desktop.bench.environment import power
from kl_lens_desktop.bench.fidelity import Truth, fidelity
from kl_lens_desktop.bench.figures import over_batches, perplexity, spread
from kl_lens_desktop.bench.jobs import (
    BenchJob,
    ChatJob,
    ChatOrder,
    Message,
    QualityJob,
    RequestsJob,
    SpeedJob,
    SpeedOrder,
)
from kl_lens_desktop.bench.lab import BenchCourse, take_turns
from kl_lens_desktop.bench.labels import LABELS
from kl_lens_desktop.bench.model_card import figures, fill
from kl_lens_desktop.bench.page import export_comparison_html, export_html
from kl_lens_desktop.bench.report import around_table, comparison_table, table
from kl_lens_desktop.bench.rows import Run
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.bench.stateful_model import StatefulModel
from kl_lens_desktop.bench.variants import find_variants
from kl_lens_desktop.cli import commands
from kl_lens_desktop.errors import Cancelled, ChildError, InputError, ModelError
from kl_lens_desktop.export import in_pieces, proof
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.calls import FULL_PRECISION
from kl_lens_desktop.files import NPU_MODEL, read_json, write_json
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.plan.device_limits import is_distrusted
from kl_lens_desktop.process import child as child_module
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import (
    Answer,
    Event,
    Finished,
    Generated,
    Measured,
    Memory,
    Note,
    Progress,
)
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.process.memory import private_bytes
from kl_lens_desktop.sensitivity.jobs import AnalyzeJob
from kl_lens_desktop.text import passage as text_module
from kl_lens_desktop.text import wikitext
from kl_lens_desktop.text.bundled import held_out_text, read_text
from kl_lens_desktop.text.passage import token_ids, windows
from tests.benchmarks.slow_variant import slowed
from tests.changed_export import save_changed
from tests.dequantized import dequantized_sample, window_nats
from tests.machine import slowness
from tests.odd_worker import WORKER, odd_folder
from tests.strangers import bench_row

QUICK = Benchmark(
    tokens=512, window=128, prompt_tokens=32, new_tokens=8, repeats=2, rounds=2, max_rounds=2, contexts=(),
    raw=False, cache=False, cool_down_s=0,
)  # fmt: skip
WHOLE = replace(QUICK, contexts=(64,), raw=True, cache=True)
ABSENT = "GPU.9"


def bench(
    folders: list[Path],
    devices: list[str],
    out: Path,
    settings: Benchmark = QUICK,
    cancel: Cancel | None = None,
) -> Iterator[Event]:
    return perform(BenchJob(tuple(folders), out, tuple(devices), settings), cancel or Cancel())


def run(folders: list[Path], devices: list[str], out: Path, settings: Benchmark = QUICK) -> list[Event]:
    return list(bench(folders, devices, out, settings))


def rows_of(events: list[Event]) -> list[dict]:
    return [event.row for event in events if isinstance(event, Measured)]


def quality(folder: Path, reference: Path | None, **changes: object) -> dict:
    job = QualityJob(folder, "CPU", tokens=1024, chunk=256, precision="f32", window=256, reference=reference)
    job = replace(job, **changes)
    (result,) = (e.result for e in perform(job, Cancel()) if isinstance(e, Finished))
    return result


def test_a_device_of_fixed_shapes_is_measured_by_its_own_graphs(
    short_sample: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "npu"
    list(export_model(short_sample, "int4_sym_g64", folder, Cancel(), npu=True))
    job = RequestsJob(folder, "CPU", prompt_tokens=300, new_tokens=6, repeats=1)

    def raw() -> dict:
        (result,) = (e.result for e in perform(job, Cancel()) if isinstance(e, Finished))
        return result

    stateful, of_stateful = quality(folder, None, tokens=512), raw()
    monkeypatch.setattr(static_model, "needs_fixed_shapes", lambda device: device == "CPU")
    fixed, of_fixed = quality(folder, folder, tokens=512), raw()
    assert fixed["perplexity"]["mean"] == pytest.approx(stateful["perplexity"]["mean"], rel=1e-3)
    assert fixed["kl_to_fp16"]["mean"] < 1e-4
    assert fixed["fidelity"]["ok"]
    assert of_fixed["samples"]["tokens_per_s"][0] > 0
    assert of_fixed["bytes_per_token"] == pytest.approx(of_stateful["bytes_per_token"], rel=0.02)
    (folder / NPU_MODEL).unlink()
    with pytest.raises(ModelError, match="without a graph for an NPU"):
        raw()


def memory_peak(pid: int) -> float:
    """The largest resident set in MB, as the system tells anybody who asks."""
    if sys.platform == "win32":
        return psutil.Process(pid).memory_info().peak_wset / 2**20
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def first_windows(folder: Path, count: int, window: int = 256) -> list[list[int]]:
    return windows(token_ids(folder, read_text(held_out_text())), window, count * window)


def seconds_to_cancel(events: Iterator[Event], cancel: Cancel) -> float:
    started = time.monotonic()
    cancel.cancel()
    with pytest.raises(Cancelled):
        list(events)
    return time.monotonic() - started


def children_s() -> float:
    """The processor time of all children that have ended; zero on Windows, which keeps no account of it."""
    times = os.times()
    return times.children_user + times.children_system


def with_weight_changed(
    folder: Path,
    copy: Path,
    change: Callable[[np.ndarray], np.ndarray],
    name: str = "layers.0.mamba.out_proj",
) -> Path:
    """A copy of an FP16 variant in which one matrix holds other numbers."""
    import openvino

    model = openvino.Core().read_model(folder / "openvino_model.xml")
    (weight,) = (op for op in model.get_ops() if f"{name}.weight" in op.get_friendly_name()
                 and op.get_type_name() == "Constant")  # fmt: skip
    changed = openvino.op.Constant(np.ascontiguousarray(change(weight.data)))
    for target in weight.output(0).get_target_inputs():
        target.replace_source_output(changed.output(0))
    return save_changed(model, folder, copy)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert [process.cmdline() for process in left if "worker" in process.cmdline()] == []


@pytest.fixture(scope="module")
def events(short_ir: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """Two variants, on a device that is here and on one that is not."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    return run([short_ir["fp16"], short_ir["int4"]], ["cpu", ABSENT], out, WHOLE)


@pytest.fixture(scope="module")
def benched(events: list[Event]) -> Path:
    finished = events[-1]
    assert isinstance(finished, Finished)
    return Path(finished.result["path"])


# Figures
# -----------------------------------------------------------------------------------------------------------


def test_a_bench_file_holds_every_variant_on_every_device(benched: Path) -> None:
    document = report.load_bench(benched)
    assert [row["device"] for row in document["rows"]] == ["CPU", "CPU", ABSENT, ABSENT]
    full, small = document["rows"][:2]
    for row in (full, small):
        assert row["status"] == "ok"
        assert row["tokens_per_s"]["n"] == QUICK.rounds * QUICK.repeats
        assert len(row["tokens_per_s"]["rounds"]) == QUICK.rounds
        assert row["tokens_per_s"]["mean"] > 0
        assert row["perplexity"]["n"] == 4 * 127
        assert row["perplexity"]["se"] > 0
        assert row["backend"] in ("PA", "SDPA")
        assert row["fidelity"]["ok"]
        assert row["peak_rss_mb"] > 50
        assert row["peak_rss_sampled_mb"] == pytest.approx(row["peak_rss_mb"], rel=0.03)
        assert [each["prompt_tokens"] for each in row["by_context"]] == [32, 64]
        assert row["by_context"][0]["tokens_per_s"] == row["tokens_per_s"]
        assert row["raw"]["tokens_per_s"]["n"] == QUICK.repeats
        assert row["raw"]["compile_ms"] > 0
        assert row["bandwidth_gb_s"] == pytest.approx(
            row["bytes_per_token"] * row["tokens_per_s"]["mean"] / 1e9
        )
        assert row["load_cached_ms"]["mean"] > 0
        assert (row["core_type"], row["execution_devices"]) == ("ANY_CORE", ["CPU"])
    assert full["session"] == small["session"]
    assert full["plan_sha256"] != small["plan_sha256"]
    assert small["bytes_per_token"] < full["bytes_per_token"]
    # Its embedding is tied. On some processors the plugin unpacks FP16 to 32 bits.
    unpacked = round(full["bytes_per_token"] / full["size_bytes"])
    assert unpacked in (1, 2)
    assert full["bytes_per_token"] == pytest.approx(unpacked * full["size_bytes"], rel=0.02)
    assert document["environment"]["memory_read_gb_s"] > 0
    assert small["kl_to_fp16"]["mean"] > full["kl_to_fp16"]["mean"] >= 0
    assert small["size_bytes"] < full["size_bytes"] < full["folder_bytes"]
    text = document["environment"]["text"]
    assert (text["name"], text["tokens"], text["window"]) == ("heldout-nostromo.txt", 512, 128)
    assert document["environment"]["packages"]["openvino"]


def test_the_figures_of_a_folder_are_in_its_model_card(benched: Path, short_ir: dict[str, Path]) -> None:
    rows = read_json(benched)["rows"]
    for name, folder in ((folder.name, folder) for folder in short_ir.values()):
        (row,) = [row for row in rows if row["variant"] == name and row["status"] == "ok"]
        card = (folder / "README.md").read_text(encoding="utf-8")
        _, _, measured = card.partition("## Measured")
        lines = [line for line in measured.splitlines() if line.startswith("| CPU")]
        assert len(lines) == 1
        (said,) = (line for line in table(rows) if line["variant"] == row["variant"])
        assert said["perplexity"] in lines[0]
        assert said["tokens_per_s"] in lines[0]
        fill(folder, rows, name)
        assert (folder / "README.md").read_text(encoding="utf-8") == card
        fill(folder, rows, "another")
        assert (folder / "README.md").read_text(encoding="utf-8") == card


def test_a_model_card_has_the_speeds_of_the_table() -> None:
    """The second took more rounds, of which the later ones were slower for both."""
    rows = [
        {**bench_row(name), "tokens_per_s": {**spread(rounds), "rounds": rounds}}
        for name, rounds in (("fp16", [100.0] * 4), ("plan", [150.0] * 4 + [75.0] * 4))
    ]
    for line in table(rows):
        assert f"| {line['tokens_per_s']} |" in figures(rows, line["variant"])


def test_variants_take_turns_and_progress_never_goes_back(events: list[Event]) -> None:
    progress = [event for event in events if isinstance(event, Progress)][2:]
    turns = list(dict.fromkeys(event.message.replace("_sym_g64", "") for event in progress))
    assert turns == [
        f"{variant} on CPU: speed, round {number} of at most 2"
        for variant, number in (("fp16", 1), ("int4", 1), ("int4", 2), ("fp16", 2))
    ] + [
        f"{variant} on CPU: {what}" for variant in ("fp16", "int4")
        for what in ("plain requests", "filling the model cache", "loading from the model cache", "quality")
    ]  # fmt: skip
    done = [event.done for event in progress]
    assert done == sorted(done)
    assert done[-1] == progress[-1].total == 2 * (2 + 1 + 2 + 1)


def test_an_absent_device_is_unavailable_with_a_reason(benched: Path) -> None:
    absent = [row for row in report.load_bench(benched)["rows"] if row["device"] == ABSENT]
    assert [row["status"] for row in absent] == ["unavailable"] * 2
    assert all("OpenVINO finds no device GPU.9 here" in row["reason"] for row in absent)
    assert all(row["tokens_per_s"] is None and row["perplexity"] is None for row in absent)


def test_combinations_of_devices_stand_side_by_side(short_ir: dict[str, Path], tmp_path: Path) -> None:
    out, devices = tmp_path / "b.json", ["auto:cpu", "HETERO:CPU", "NPU"]
    rows = rows_of(run([short_ir["fp16"]], devices, out, replace(QUICK, tokens=128, precision="f32")))
    assert [row["device"] for row in rows] == [name.upper() for name in devices]
    for row in rows[:2]:
        assert row["status"] == "ok"
        assert row["execution_devices"] == ["CPU"]
        assert row["kl_to_fp16"]["mean"] == pytest.approx(0, abs=1e-9)
    document = report.load_bench(out)
    assert all(line["speed"] == "" for line in report.table(rows)), "one variant is not faster than others"
    export_html(document, tmp_path / "b.html")
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert all(f"fp16 · {row['device']}" in page for row in rows[:2])
    assert len({group.partition('"')[0] for group in page.split('<g stroke="')[1:]}) == 2, "a colour each"


@pytest.mark.parametrize(("plugged", "said"), [(True, "mains"), (False, "battery"), (None, "unknown")])
def test_how_a_computer_is_fed_is_said_only_where_the_system_says(
    plugged: bool | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery = SimpleNamespace(percent=80, power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert power() == said


def test_a_device_that_is_named_twice_is_measured_once(short_ir: dict[str, Path], tmp_path: Path) -> None:
    rows = rows_of(run([short_ir["fp16"]], [ABSENT, f" {ABSENT.lower()}"], tmp_path / "b.json"))
    assert [row["device"] for row in rows] == [ABSENT]
    assert report.load_bench(tmp_path / "b.json")["rows"] == rows


def test_a_list_of_devices_may_end_in_combinations() -> None:
    assert device_names("CPU, gpu,CPU") == ("CPU", "GPU")
    assert device_names("cpu,auto:gpu, cpu,HETERO:GPU,CPU") == ("CPU", "AUTO:GPU,CPU", "HETERO:GPU,CPU")
    here = ("CPU", "GPU", "NPU")
    assert behind(["cpu", "MULTI:GPU(2),CPU(1)"], here) == ("CPU", "GPU")
    assert behind(["AUTO"], here) == here
    assert behind(["AUTO:-NPU", "GPU.1"], here) == ("CPU", "GPU", "GPU.1")


@pytest.mark.parametrize("name", ["gpu", " GPU", "AUTO:GPU,CPU", "AUTO"])
def test_a_plan_for_a_gpu_avoids_what_it_computes_wrongly_however_it_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[AnalyzeJob] = []

    def no_prices(*_: object) -> Iterator[Event]:
        yield from ()
        return {}

    def stage(job: AnalyzeJob, _: Cancel) -> Iterator[Event]:
        asked.append(job)
        raise Cancelled
        yield

    here = [Device("CPU", "a CPU", True), Device("GPU", "a GPU", True)]
    monkeypatch.setattr(bench_devices, "list_devices", lambda _: here)
    monkeypatch.setattr(whole_job, "_saving_disk_only", no_prices)
    monkeypatch.setattr(whole_job, "_stage", stage)
    with pytest.raises(Cancelled):
        list(whole_job.RunJob("sample", tmp_path, devices=(name,)).run(Cancel()))
    (job,) = asked
    assert not [each for each in job.analysis.menu if is_distrusted("GPU", each)]


def test_every_kind_of_device_is_listed_with_its_name_or_the_reason() -> None:
    devices = {device.name.partition(".")[0]: device for device in list_devices()}
    assert set(devices) >= {"CPU", "GPU", "NPU"}
    assert devices["CPU"].available
    for device in devices.values():
        assert device.full_name if device.available else device.reason


@pytest.mark.parametrize("name", ["fp16", "int4"])
def test_perplexity_is_that_of_torch_on_dequantized_weights(name: str, sample_ir: dict[str, Path]) -> None:
    model = dequantized_sample(sample_ir[name])
    losses = [window_nats(model, ids) for ids in first_windows(sample_ir[name], 4)]
    measured = quality(sample_ir[name], None)
    assert measured["perplexity"]["mean"] == pytest.approx(np.exp(np.mean(losses)), rel=5e-4)
    assert measured["nats_per_token"]["se"] == pytest.approx(np.std(losses, ddof=1) / 2, rel=1e-2)
    assert measured.get("kl_to_fp16") is None


def test_overlapping_windows_count_each_token_once_with_context_before_it(sample_ir: dict[str, Path]) -> None:
    model = dequantized_sample(sample_ir["fp16"])
    (ids,) = first_windows(sample_ir["fp16"], 1, 512)
    pieces = [(ids[start : start + 256], 255 if start == 0 else 64) for start in range(0, 257, 64)]
    total = sum(counted * window_nats(model, piece, counted) for piece, counted in pieces)
    measured = quality(sample_ir["fp16"], sample_ir["fp16"], tokens=512, stride=64, chunk=100)
    assert measured["nats_per_token"]["n"] == 511 == sum(counted for _, counted in pieces)
    assert measured["nats_per_token"]["mean"] == pytest.approx(total / 511, rel=5e-4)
    assert measured["kl_to_fp16"]["n"] == 511


WIKITEXT = (
    " \n = A ship = \n \n The Nostromo 's crew , all @-@ weather sailors , left at 5 @.@ 30 . \n \n"
    ' = = History = = \n \n She was " built " in 1 @,@ 904 ( in Genoa ) . \n \n'
    " = Another = \n \n It is short . \n"
)


def test_wikitext_is_read_as_lm_eval_reads_it() -> None:
    assert wikitext.is_wikitext(WIKITEXT)
    assert not wikitext.is_wikitext(read_text(held_out_text()))
    first, second = wikitext.documents(WIKITEXT)
    assert second == " = Another = \n \n It is short . \n"
    # an empty piece before the first blank and after the last is a word, as in lm-eval
    assert wikitext.word_count(second) == 9
    assert wikitext.detokenized(second) == " = Another =\n\nIt is short.\n"
    assert wikitext.detokenized(first) == (
        " = A ship =\n\nThe Nostromo's crew, all-weather sailors, left at 5.30.\n\n"
        ' == History ==\n\nShe was "built" in 1,904 (in Genoa).\n'
    ).replace("\n ==", "\n==")


@given(st.integers(0, 60), st.integers(1, 20))
def test_rolling_windows_predict_each_token_once_from_as_much_as_fits(count: int, window: int) -> None:
    ids = list(range(1, count + 1))
    found = list(wikitext.rolling_windows(ids, 0, window))
    assert [token for _, predicted in found for token in predicted] == ids
    for context, predicted in found:
        read = context + predicted
        assert read == list(range(read[0], read[-1] + 1))
        assert len(read) - 1 <= window
    if len(found) > 1:
        assert len(found[-1][0]) + len(found[-1][1]) - 1 == window, "the last takes what context fits"


def test_word_perplexity_is_over_the_words_of_the_original(
    sample_ir: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "wiki.test.raw"
    text.write_text(WIKITEXT, encoding="utf-8")
    folder, model = sample_ir["fp16"], dequantized_sample(sample_ir["fp16"])
    nats, words, tokens = 0.0, 0, 0
    for document in wikitext.documents(WIKITEXT):
        ids = token_ids(folder, wikitext.detokenized(document))
        nats += len(ids) * window_nats(model, [model.config.bos_token_id, *ids])
        words, tokens = words + wikitext.word_count(document), tokens + len(ids)
    measured = quality(folder, None, text=text, window=None)
    assert measured["word_perplexity"]["n"] == words
    assert measured["word_perplexity"]["mean"] == pytest.approx(math.exp(nats / words), rel=5e-4)
    assert measured["perplexity"]["n"] == tokens


def test_a_tokenizer_is_read_once_for_all_documents_and_hears_a_cancel(
    short_ir: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, cancel = [], Cancel()
    opened = text_module._tokenizer
    monkeypatch.setattr(text_module, "_tokenizer", lambda folder: read.append(folder) or opened(folder))
    assert text_module.passage(short_ir["fp16"], WIKITEXT, 1000, None, None, cancel).documents == 2
    assert read == [short_ir["fp16"]]
    cancel.cancel()
    with pytest.raises(Cancelled):
        text_module.passage(short_ir["fp16"], WIKITEXT, 1000, None, None, cancel)


def test_divergence_from_fp16_is_that_of_two_full_forwards(short_ir: dict[str, Path]) -> None:
    import openvino

    def log_softmax(folder: Path, ids: list[int]) -> np.ndarray:
        compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", FULL_PRECISION)
        request, size = compiled.create_infer_request(), len(ids)
        request.infer({
            "input_ids": np.array([ids]), "attention_mask": np.ones((1, size), dtype=np.int64),
            "position_ids": np.arange(size)[None], "beam_idx": np.zeros(1, dtype=np.int32),
        })  # fmt: skip
        logits = request.get_tensor("logits").data[0].astype(np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    expected = []
    for ids in first_windows(short_ir["fp16"], 2):
        p, q = log_softmax(short_ir["fp16"], ids)[:-1], log_softmax(short_ir["int4"], ids)[:-1]
        agreement = (p.argmax(-1) == q.argmax(-1)).mean()
        kl, reverse = (np.exp(p) * (p - q)).sum(-1), (np.exp(q) * (q - p)).sum(-1)
        expected.append((kl.mean(), reverse.mean(), agreement))
    measured = quality(short_ir["int4"], short_ir["fp16"], tokens=512)
    got = [measured[name]["mean"] for name in ("kl_to_fp16", "kl_reverse", "top1_agreement")]
    assert got == pytest.approx([float(value) for value in np.mean(expected, axis=0)], rel=1e-6)
    assert measured["kl_to_fp16"]["n"] == 510


def test_fp16_in_full_precision_equals_itself_however_it_is_fed(short_ir: dict[str, Path]) -> None:
    whole = quality(short_ir["fp16"], short_ir["fp16"], tokens=512)
    pieces = quality(short_ir["fp16"], short_ir["fp16"], tokens=512, chunk=50)
    for measured in (whole, pieces):
        assert measured["kl_to_fp16"]["mean"] == 0
        assert measured["top1_agreement"]["mean"] == 1
        assert measured["fidelity"]["relative_difference"] < 1e-4
    assert pieces["nats_per_token"]["mean"] == pytest.approx(whole["nats_per_token"]["mean"], rel=1e-5)


def test_a_device_of_fixed_shapes_takes_a_long_window_in_step_with_its_reference(
    short_sample: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (static_model, quality_module):  # the CPU stands in for an NPU
        monkeypatch.setattr(module, "needs_fixed_shapes", lambda _: True)
    list(export_model(short_sample, "fp16", tmp_path / "npu", Cancel(), npu=True))
    measured = quality(tmp_path / "npu", tmp_path / "npu", tokens=300, window=300, chunk=512)
    assert measured["kl_to_fp16"]["n"] == 299
    assert measured["kl_to_fp16"]["mean"] == pytest.approx(0, abs=1e-6)


def test_speed_counts_tokens_exactly_and_reads_another_text_each_time(short_ir: dict[str, Path]) -> None:
    child, cancel = Child(SpeedJob(short_ir["int4"], "CPU", 48, 8)), Cancel()
    order = SpeedOrder(48, 8, repeats=3, seconds=60)
    with contextlib.closing(child):
        *_, loaded = child.answer(cancel)
        *_, answer = child.answer(cancel, order)
        *_, short = child.answer(cancel, replace(order, seconds=0))
        assert memory_peak(child.pid) == pytest.approx(short.result["peak_rss_mb"], rel=0.03)
    assert len(short.result["samples"]["ttft_ms"]) == 1
    result = answer.result
    samples = result["samples"]
    assert [len(values) for values in samples.values()] == [3, 3, 3]
    for ttft, prefill in zip(samples["ttft_ms"], samples["prefill_tokens_per_s"], strict=True):
        assert prefill == pytest.approx(48_000 / ttft)
    assert result["round"]["ttft_ms"] == min(samples["ttft_ms"])
    assert result["round"]["tokens_per_s"] > statistics.median(samples["tokens_per_s"])
    assert loaded.result["load_ms"] > 0
    assert loaded.result["settings"]["precision"] in ("f32", "f16", "bf16")


@given(st.integers(0, 2**31), st.floats(1e-6, 3))
def test_divergences_keep_their_digits(seed: int, distance: float) -> None:
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((3, 40))).astype(np.float32)
    other = (logits + distance * random.standard_normal((3, 40))).astype(np.float32)
    (log_p, p), (log_q, _) = divergence.probabilities(logits), divergence.probabilities(other)
    forward, backward = divergence.kl_both_ways(log_p, p, log_q)
    wide_p, wide_q = log_p.astype(np.longdouble), log_q.astype(np.longdouble)
    # the plain sum in 80 bits still loses what its own rounding is worth, hence the absolute part
    assert forward == pytest.approx(
        (np.exp(wide_p) * (wide_p - wide_q)).sum(-1).astype(float), rel=1e-4, abs=1e-15
    )
    assert backward == pytest.approx(
        (np.exp(wide_q) * (wide_q - wide_p)).sum(-1).astype(float), rel=1e-4, abs=1e-15
    )
    assert (forward >= 0).all()
    assert (backward >= -1e-18).all()
    assert p.sum(-1) == pytest.approx(1)


def test_standard_errors_come_from_the_spread_between_windows() -> None:
    nats = over_batches([200.0, 220.0, 180.0, 200.0], [100] * 4)
    se = pytest.approx(statistics.stdev([2.0, 2.2, 1.8, 2.0]) / 2)
    assert nats == {"mean": 2.0, "se": se, "n": 400, "batches": 4}
    ppl = perplexity(nats)
    assert ppl == {
        "mean": np.exp(2.0), "se": pytest.approx(np.exp(2.0) * nats["se"]), "n": 400, "batches": 4
    }  # fmt: skip
    assert over_batches([200.0], [100]) == {"mean": 2.0, "se": None, "n": 100, "batches": 1}
    assert over_batches([200.0, float("nan")], [100, 100]) is None
    uneven = over_batches([100.0, 600.0], [100, 300])
    assert (uneven["mean"], uneven["n"]) == (1.75, 400)
    assert uneven["se"] == pytest.approx(math.sqrt(2 * 2 * 75.0**2) / 400)
    assert perplexity({"mean": 800.0, "se": 1.0, "n": 1}) is None


def test_peak_rss_remembers_what_was_freed() -> None:
    before = memory.peak_rss_mb()
    if before is None:
        pytest.skip("this system keeps no peak for a program")
    rss = psutil.Process().memory_info().rss / 2**20
    block = np.ones(int(max(before - rss, 0) + 200) * 2**17)
    peak = psutil.Process().memory_info().rss / 2**20
    del block
    assert memory.peak_rss_mb() == pytest.approx(peak, rel=0.03)


# Noise
# -----------------------------------------------------------------------------------------------------------


def row(rounds: Sequence[float], session: str | None = "s") -> dict:
    """A row that holds these rounds of one session."""
    values = list(rounds)
    sd = statistics.stdev(values) if len(values) > 1 else None
    spread = {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}
    return {"session": session, "tokens_per_s": {**spread, "rounds": values}}


def within_noise(first: dict, second: dict) -> bool:
    found = noise.difference(first, second)
    return found is not None and not found.apart


def verdicts(slower: float, sd: float, *, disturbed: bool, repetitions: int = 200) -> float:
    """How often a variant that takes `slower` times as long is told apart, rounds being added until settled.

    Noise as measured here: of a round (with some rounds far slower if `disturbed`), of a process for as long
    as it lives, and a drift that is common to both.
    """
    random = np.random.default_rng(7)
    apart = 0
    for _ in range(repetitions):
        each = sd * random.standard_normal((2, 32))
        if disturbed:
            each -= (random.random((2, 32)) < 0.1) * np.abs(0.4 * random.standard_normal((2, 32)))
        drift, process = np.cumsum(0.05 * random.standard_normal(32)), 0.012 * random.standard_normal((2, 1))
        first, second = np.exp(each + drift + process)
        for count in noise.LOOKS:
            found = noise.paired(first[:count], second[:count] / slower)
            if found.settled:
                break
        apart += found.apart
    return apart / repetitions


@pytest.mark.parametrize(("sd", "disturbed"), [(0.01, False), (0.03, False), (0.03, True)])
def test_equal_variants_are_within_noise_and_slower_ones_are_not(sd: float, disturbed: bool) -> None:
    assert verdicts(1.0, sd, disturbed=disturbed) <= 0.05
    assert verdicts(1.15, sd, disturbed=disturbed) >= 0.90


def test_looking_often_finds_no_difference_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first kind of error is that of all looks together, without the help of the margin."""
    monkeypatch.setattr(noise, "MARGIN", 0.0)
    random = np.random.default_rng(3)
    rounds = np.exp(0.1 * random.standard_normal((1000, 2, 32)))
    wrong = statistics.fmean(noise.paired(first, second).apart for first, second in rounds)
    assert 0 < wrong <= 1 - noise.CONFIDENCE


@given(st.lists(st.tuples(st.floats(1, 1000), st.floats(1, 1000)), min_size=4, max_size=32))
def test_the_interval_is_yuens_and_turns_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    import scipy.stats  # takes two seconds to load

    first, second = zip(*pairs, strict=True)
    found, turned = noise.paired(first, second), noise.paired(second, first)
    assert found.ratio == pytest.approx(1 / turned.ratio)
    assert (found.apart, found.settled) == (turned.apart, turned.settled)
    assert found.low <= found.ratio <= found.high
    if found.n == len(pairs):
        logs = np.log(second) - np.log(first)
        assert math.log(found.ratio) == pytest.approx(scipy.stats.trim_mean(logs, 0.2), abs=1e-9)
        cut = int(0.2 * found.n)
        error = scipy.stats.mstats.trimmed_stde(logs, limits=[(cut + 1e-9) / found.n] * 2)
        looks = len(noise.looks(found.n))
        level = (1 - noise.CONFIDENCE) / (looks * (looks + 1))
        half = scipy.stats.t.ppf(1 - level / 2, found.n - 2 * cut - 1) * error
        if half < 500:
            assert math.log(found.high / found.ratio) == pytest.approx(half, rel=1e-6, abs=1e-9)


def test_rows_of_two_sessions_are_compared_by_welchs_interval() -> None:
    import scipy.stats  # takes two seconds to load

    a, b = row([100.0, 103.0, 99.0], "one"), row([92.0, 97.0, 90.0, 95.0], "other")
    found = noise.difference(a, b)
    logs = [np.log(each["tokens_per_s"]["rounds"]) for each in (b, a)]
    interval = scipy.stats.ttest_ind(*logs, equal_var=False).confidence_interval(noise.CONFIDENCE)
    assert (found.low, found.high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert (found.paired, found.n) == (False, 3)


@pytest.mark.parametrize(
    ("mean", "se", "text"),
    [
        (0.0011122, 3.52e-5, "0.00111 ± 0.00004"),
        (7.498e-5, 1.27e-6, "7.50e-5 ± 0.13e-5"),
        (0.012969, 2.19e-4, "0.0130 ± 0.0002"),
        (0.0, 0.0, "0"),
        (None, None, "–"),
    ],
)
def test_a_divergence_keeps_a_digit_of_its_error(mean: float | None, se: float | None, text: str) -> None:
    assert report.small(mean, se) == text


def test_turns_find_what_a_drift_hides() -> None:
    drift = np.exp(np.linspace(0, 1, 8))
    fast, slow = 100 * drift, 88 * drift * np.exp(0.005 * np.cos(np.arange(8)))
    assert not within_noise(row(fast), row(slow))
    assert within_noise(row(fast, None), row(slow, None))


def test_the_fastest_is_who_wins_the_rounds_whatever_the_means(benched: Path) -> None:
    good = report.load_bench(benched)["rows"][0]

    def standing(*rounds: Sequence[float], **mean: float) -> list[str]:
        rows = [good | row(each) for each in rounds]
        rows[0] |= {"tokens_per_s": rows[0]["tokens_per_s"] | mean}
        rows.append(rows[0] | {"status": "failed: wrong answers"})
        return [line["speed"] for line in report.table(rows)]

    slow, fast = [100.0, 101.0, 99.0, 100.0], [110.0, 111.0, 109.0, 110.0]
    assert standing(slow, fast, mean=120.0) == ["", "fastest", ""]
    assert standing(slow, [101.0, 100.0, 100.0, 101.0], mean=90.0) == ["≈ fastest", "≈ fastest", ""]
    # one that was settled early, and a computer that became slower afterwards
    assert standing(slow, [*fast, *[80.0, 81.0] * 6]) == ["", "fastest", ""]
    # where they beat each other in a circle, nobody stands as slower who is told apart as faster
    circle = [[100.0] * 4, [110.0] * 4 + [70.0] * 28, [90.0] * 4 + [85.0] * 28]
    assert standing(*circle) == ["fastest", "≈ fastest", "", ""]


def test_what_cannot_be_compared_is_said_plainly() -> None:
    fast, slow = row([100.0, 101.0, 99.0, 100.0]), row([50.0, 51.0, 49.0, 50.0])
    assert not within_noise(fast, slow)
    assert within_noise(fast, row([10.0])), "one round tells nothing"
    assert not within_noise(fast, {"tokens_per_s": None})
    assert within_noise(row([5.0, 5.0]), row([5.0, 5.0]))
    assert not within_noise(row([5.0, 5.0]), row([6.0, 6.0]))
    assert within_noise(row([100.0] * 4), row([97.0] * 4)), "less than the margin is never claimed"
    old = {"tokens_per_s": {"mean": 100.0, "sd": 1.0, "n": 9}}
    assert noise.difference(old, {"tokens_per_s": {"mean": 80.0, "sd": 1.0, "n": 9}}).apart
    new = {"tokens_per_s": old["tokens_per_s"] | {"rounds": [120.0, 121.0, 119.0, 120.0]}}
    for first, second in ((old, new), (new, old)):
        assert noise.difference(first, second).ratio == 1, "a round's speed is not that of a mean"


def test_a_rounds_speed_is_that_of_its_undisturbed_tokens() -> None:
    latencies = [0.010] * 20 + [0.011] * 60 + [0.050] * 20
    assert noise.round_speed(latencies) == pytest.approx(100)
    assert noise.round_speed(latencies[::-1]) == pytest.approx(1 / np.quantile(latencies, 0.1))


def test_what_really_takes_longer_is_told_apart(short_ir: dict[str, Path], tmp_path: Path) -> None:
    twin = shutil.copytree(short_ir["int4"], tmp_path / "twin")
    slow = slowed(short_ir["int4"], tmp_path / "slow", 16)
    settings = Benchmark(prompt_tokens=32, new_tokens=32, repeats=2, contexts=(), cool_down_s=0)
    runs = [Run(variant, "CPU") for variant in find_variants([short_ir["int4"], twin, slow])]
    for _ in take_turns(runs, BenchCourse(held_out_text(), settings, Cancel(), 3 * settings.most_rounds)):
        pass
    for each in runs:
        assert each.child is not None
        each.child.close()
    plain, same, slower = ([turn["round"]["tokens_per_s"] for turn in each.turns[32]] for each in runs)
    found = noise.paired(plain, slower)
    assert found.apart
    assert found.ratio < noise.paired(plain, same).ratio
    assert settings.rounds <= len(plain) <= settings.most_rounds


# Two files
# -----------------------------------------------------------------------------------------------------------


def bench_of(*rows: dict, **environment: object) -> dict:
    text = {"name": "t", "sha256": "1" * 64, "tokens": 512, "window": 128}
    about = {
        "os": "Linux", "cpu": "A", "packages": {"openvino": "1"}, "devices": [], "text": text,
        "settings": {"prompt_tokens": 32, "new_tokens": 8},
    }  # fmt: skip
    return {"environment": about | environment, "rows": list(rows)}


def full_row(
    name: str, plan: str | None, rounds: list[float], device: str = "CPU", nats: float = 70.0
) -> dict:
    model = {"id": "m", "revision": None, "sha256": "a" * 64} if plan else None
    about = {"variant": name, "device": device, "status": "ok", "model": model, "plan_sha256": plan}
    return row(rounds) | about | {"perplexity": {"mean": nats, "se": 0.5, "n": 100}, "peak_rss_mb": 100.0}


def test_rows_of_two_files_match_by_plan_whatever_their_names() -> None:
    mine = bench_of(
        full_row("plan", "1" * 64, [100, 101, 99, 100]), full_row("int4", "2" * 64, [120, 121, 119, 120]),
        full_row("old", None, [10, 10, 10, 10]),
    )  # fmt: skip
    yours = bench_of(
        full_row("int4", "1" * 64, [80, 81, 79, 80]), full_row("INT4", "2" * 64, [120, 119, 121, 122]),
        full_row("old", None, [10, 11, 10, 9]), full_row("plan", "3" * 64, [1, 1, 1, 1], "GPU.0"),
        cpu="B",
    )  # fmt: skip
    found = compare(mine, yours)
    assert [(m.first["variant"], m.second["variant"], m.by) for m in found.matches] == [
        ("plan", "int4", "plan"), ("int4", "INT4", "plan"), ("old", "old", "name"),
    ]  # fmt: skip
    assert [r["device"] for r in found.only_second] == ["GPU.0"]
    speeds = [next(c for c in m.changes if c.figure == "tokens_per_s") for m in found.matches]
    assert [c.apart for c in speeds] == [True, False, False]
    assert speeds[0].ratio == pytest.approx(0.8, rel=0.01)
    assert found.environment == [("cpu", "A", "B")]
    assert any("matched by name" in caution for caution in found.cautions)
    json.dumps(found.as_dict())


def test_a_comparison_names_figures_with_their_units_and_says_which_file_is_better(tmp_path: Path) -> None:
    share = {"mean": 0.9, "se": 0.001, "n": 100}
    mine = full_row("p", "1" * 64, [100.0, 100.0], nats=70) | {"top1_agreement": share}
    yours = full_row("p", "1" * 64, [50.0, 50.0], nats=60) | {"top1_agreement": {**share, "mean": 0.8}}
    first, second = bench_of(mine, ram_mb=4096.0), bench_of(yours, ram_mb=8192.0)
    second["environment"]["settings"]["turn_s"] = 3.0
    found = compare(first, second)
    lines = {line["figure"]: line for line in comparison_table(found)}
    said = {name: (line["first"], line["second"], line["verdict"]) for name, line in lines.items()}
    assert said["Decode, tokens/s"] == ("100", "50.0", "worse")
    assert said["Perplexity by tokens"] == ("70.0", "60.0", "better")
    assert said["Same best next token as FP16, %"] == ("90.0", "80.0", "worse")
    assert said["Peak RSS, from the operating system, MiB"] == ("100", "100", "–")
    around = {line["what"] for line in around_table(found)}
    assert {"memory, MiB", "latest start of a turn, s"} <= around
    export_comparison_html(("mine", "yours"), found, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    for words in (*lines, *around, "may differ from the ratio of the means", "Higher is better for tokens/s"):
        assert html.escape(words) in page


def test_every_figure_and_setting_has_a_name_that_is_no_key() -> None:
    compared = (*SPEED_FIGURES, *QUALITY_FIGURES, *PLAIN_FIGURES)
    more = [name for name in compared if LABELS[name].best is max]
    assert more == ["tokens_per_s", "prefill_tokens_per_s", "top1_agreement"], "as `ratio_words` says"
    for name in Benchmark().as_measured():
        assert "_" not in labels.setting(name)
        assert labels.setting(name) != name


def test_quality_is_compared_on_one_text_only() -> None:
    mine, near, far = (full_row("p", "1" * 64, [1, 1], nats=nats) for nats in (70.0, 70.5, 74.0))

    def said(first: dict, second: dict) -> bool | None:
        (match,) = compare(first, second).matches
        return next(change for change in match.changes if change.figure == "perplexity").apart

    assert said(bench_of(mine), bench_of(near)) is False
    assert said(bench_of(mine), bench_of(far)) is True
    text = bench_of()["environment"]["text"]
    assert said(bench_of(mine), bench_of(far, text=text | {"stride": 128})) is True, "windows side by side"
    assert said(bench_of(mine), bench_of(far, text=text | {"stride": 64})) is None
    other = text | {"sha256": "2" * 64}
    assert said(bench_of(mine), bench_of(far, text=other)) is None
    assert any(
        "not comparable" in caution for caution in compare(bench_of(mine), bench_of(far, text=other)).cautions
    )


# Failures
# -----------------------------------------------------------------------------------------------------------


def test_a_damaged_variant_costs_its_own_row_and_the_comparison_with_it(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    damaged = shutil.copytree(short_ir["fp16"], tmp_path / "fp16")
    xml = (damaged / "openvino_model.xml").read_bytes()
    (damaged / "openvino_model.xml").write_bytes(xml[: len(xml) // 2].ljust(len(xml)))  # of the size recorded
    out = tmp_path / "bench.json"
    events = run([damaged, short_ir["int4"]], ["CPU"], out, replace(QUICK, rounds=1, tokens=256))
    broken, whole = rows_of(events)
    assert broken["status"].startswith("failed: OpenVINO cannot open fp16 on CPU: ")
    assert "at offset" in broken["status"]
    assert whole["status"] == "ok"
    assert whole["perplexity"] is not None
    assert whole["kl_to_fp16"] is None
    assert any("with FP16" in event.text for event in events if isinstance(event, Note))
    assert report.load_bench(out)["rows"] == [broken, whole]


def test_a_child_killed_from_outside_costs_only_its_own_row(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    twin = shutil.copytree(short_ir["int4"], tmp_path / "twin")
    events, killed = [], 0
    settings = replace(QUICK, rounds=1, tokens=128)
    for event in bench([twin, short_ir["int4"]], ["CPU"], tmp_path / "b.json", settings):
        events.append(event)
        if isinstance(event, Memory) and event.label == "twin on CPU" and not killed:
            for process in psutil.Process().children():
                process.kill()
                killed += 1
    assert killed == 1
    lost, whole = rows_of(events)
    assert lost["status"].startswith("failed: The bench-speed process ended early")
    assert whole["status"] == "ok"


@pytest.fixture
def odd_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children run `tests.odd_worker`."""
    monkeypatch.setattr(child_module, "worker_command", lambda: (WORKER, {}))


@pytest.mark.usefixtures("odd_workers")
def test_children_that_crash_abort_or_eat_memory_cost_their_own_row_only(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    told = tmp_path / "pid"
    odd = [odd_folder(tmp_path / name, name) for name in ("segfault", "abort", "glutton")]
    folders = [short_ir["int4"], *odd, odd_folder(tmp_path / "orphan", "orphan", str(told))]
    out = tmp_path / "bench.json"
    events = run(folders, ["CPU"], out, replace(QUICK, tokens=128, memory_limit_mb=1500))
    rows = {row["variant"]: row for row in rows_of(events)}
    assert [row["status"] == "ok" for row in rows.values()] == [True, False, False, False, False]
    for name in ("segfault", "abort", "orphan"):
        assert f"its last output was: driver: this will be a {name}" in rows[name]["status"]
    assert "used more than 1500 MB" in rows["glutton"]["status"]
    assert rows["glutton"]["peak_rss_mb"] is not None
    until = time.monotonic() + 10 * slowness()  # for the system to take note of a process that was ended
    while runs(int(told.read_text(encoding="utf-8"))):
        assert time.monotonic() < until, "a child's child remains"
        time.sleep(0.05)
    garbage = [event.text for event in events if isinstance(event, Note) and "no event" in event.text]
    assert any("OpenCL driver" in text for text in garbage)
    assert any("Surprise" in text for text in garbage)
    assert len(report.load_bench(out)["rows"]) == 5


@pytest.mark.usefixtures("odd_workers")
def test_the_last_words_of_a_child_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pump = Child._pump_stderr

    def slow_pump(child: Child) -> None:
        child._process.wait()
        time.sleep(0.3)  # as on a machine that has other work
        pump(child)

    monkeypatch.setattr(Child, "_pump_stderr", slow_pump)
    job = SpeedJob(odd_folder(tmp_path / "abort", "abort"), "CPU", prompt_tokens=8, new_tokens=1)
    with pytest.raises(ChildError, match="its last output was: driver: this will be a abort"):
        list(Child(job).events())


@pytest.mark.usefixtures("odd_workers")
def test_a_prompt_too_long_for_a_device_costs_its_own_figure_only(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(short_ir["int4"], tmp_path / "narrow")
    (folder / "odd").write_text("narrow\n48", encoding="utf-8")
    events = run([folder], ["CPU"], tmp_path / "b.json", replace(QUICK, tokens=128, contexts=(16, 64)))
    (row,) = rows_of(events)
    assert row["status"] == "ok"
    assert [each["prompt_tokens"] for each in row["by_context"]] == [16, 32]
    (note,) = [event.text for event in events if isinstance(event, Note) and "64 tokens" in event.text]
    assert "it is too long" in note


@pytest.mark.usefixtures("odd_workers")
def test_a_child_that_hangs_and_hears_nothing_is_ended(short_ir: dict[str, Path], tmp_path: Path) -> None:
    stuck = odd_folder(tmp_path / "stuck", "hang")
    shutil.copy(short_ir["int4"] / "tokenizer.json", stuck)
    settings = replace(QUICK, time_limit_s=4)
    (row,) = rows_of(run([stuck], ["CPU"], tmp_path / "b.json", settings))
    assert row["status"] == "failed: The bench-speed process was stopped: it made no progress for 4 s"


def test_one_killed_while_it_waits_for_its_turn_is_missed_by_nobody(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    twin = shutil.copytree(short_ir["int4"], tmp_path / "twin")
    rows, killed = [], 0
    for event in bench([twin, short_ir["int4"]], ["CPU"], tmp_path / "b.json"):
        rows += [event.row] if isinstance(event, Measured) else []
        if isinstance(event, Progress) and event.message.startswith(short_ir["int4"].name) and not killed:
            for process in psutil.Process().children():
                process.kill()
                killed += 1
    assert killed == 1
    assert rows[0]["status"].startswith("failed: The bench-speed process ended early")
    assert rows[1]["status"] == "ok"


def test_where_memory_is_short_variants_are_loaded_for_each_turn(
    short_ir: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_TOGETHER_SHARE", 0.0)
    twin = shutil.copytree(short_ir["int4"], tmp_path / "twin")
    most = 0
    for event in bench([twin, short_ir["int4"]], ["CPU"], tmp_path / "b.json"):
        most = max(most, len(psutil.Process().children()))
        if isinstance(event, Measured):
            assert event.row["status"] == "ok"
            assert event.row["load_ms"]["n"] == len(event.row["tokens_per_s"]["rounds"]) == 2
    assert most == 1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"time_limit_s": 0.3}, "it made no progress for"),
        ({"memory_limit_mb": 40.0}, "it used more than 40 MB"),
    ],
)
def test_a_child_past_a_limit_is_ended_and_says_so(
    limits: dict, words: str, short_ir: dict[str, Path], tmp_path: Path
) -> None:
    (row,) = rows_of(run([short_ir["int4"]], ["CPU"], tmp_path / "b.json", replace(QUICK, **limits)))
    assert row["status"].startswith("failed: The bench-speed process was stopped")
    assert words in row["status"]


def test_a_model_too_large_for_the_memory_is_compared_all_the_same(
    short_ir: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its full precision, and its own in f32, run piece by piece then."""
    full, folder = (short_ir[name].absolute() for name in ("fp16", "int4"))
    job = QualityJob(folder, "CPU", 700, 100, "f32", reference=full)
    (whole,) = [job.result(each) for each in job.run(Cancel()) if isinstance(each, Finished)]
    pieces = Counter[int]()

    def cut(graph: Any, most: int) -> Any:
        found = original(graph, most)
        pieces[len(found[1])] += 1
        return found

    original = in_pieces._cut
    monkeypatch.setattr(in_pieces, "_cut", cut)
    monkeypatch.setattr(proof, "PIECE", 2**18)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**28, total=2**33))
    events = list(job.run(Cancel()))
    apart = job.result(events[-1])
    assert sorted(pieces.values()) == [2], "the reference and the truth"
    assert min(pieces) > 4
    shares = [each.done / each.total for each in events if isinstance(each, Progress)]
    assert shares == sorted(shares)
    assert len({share for share in shares if share < 0.5}) > 1, "reading with the reference counts too"
    for name in ("nats_per_token", "kl_to_fp16", "kl_reverse", "delta_ce", "top1_agreement"):
        assert apart[name]["mean"] == pytest.approx(whole[name]["mean"], rel=1e-3, abs=1e-7), name
    assert apart["fidelity"]["ok"]
    assert apart["fidelity"]["torch_difference"] == pytest.approx(
        whole["fidelity"]["torch_difference"], rel=0.5
    )


def test_what_is_mapped_is_no_memory_that_a_limit_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    assert private_bytes(SimpleNamespace(rss=9 * 2**30, shared=8 * 2**30)) == 2**30
    assert private_bytes(SimpleNamespace(rss=9 * 2**30)) == 9 * 2**30
    monkeypatch.setattr(sys, "platform", "win32")
    assert private_bytes(SimpleNamespace(rss=9 * 2**30, private=3 * 2**30)) == 3 * 2**30


def test_answers_that_are_no_numbers_are_wrong_answers(short_ir: dict[str, Path], tmp_path: Path) -> None:
    spoilt = with_weight_changed(short_ir["fp16"], tmp_path / "spoilt", lambda weight: weight * np.nan)
    out = tmp_path / "bench.json"
    (row,) = rows_of(run([spoilt], ["CPU"], out, replace(QUICK, rounds=1)))
    assert row["status"] == (
        "failed: wrong answers (on the CPU in f32, compared with torch: they are not numbers)"
    )
    assert row["tokens_per_s"]["mean"] > 0
    assert row["perplexity"] is None
    assert row["fidelity"]["relative_difference"] is None
    assert not row["fidelity"]["ok"]
    assert report.load_bench(out)["rows"] == [row]


def test_the_gate_tells_rounding_from_one_wrong_matrix(sample_ir: dict[str, Path], tmp_path: Path) -> None:
    import openvino

    core, full = openvino.Core(), sample_ir["fp16"]
    (ids,) = first_windows(full, 1)

    def opened(folder: Path, hints: dict[str, str]) -> StatefulModel:
        return StatefulModel(core, folder, "CPU", hints, 100)

    def judged(folder: Path) -> dict:
        return fidelity(opened(folder, {}), truth, functools.partial(opened, folder, FULL_PRECISION))

    exact = opened(full, FULL_PRECISION)
    truth = Truth(ids, [logits.copy() for logits in proof.answers(exact.step, ids)])
    rounded = judged(full)
    assert rounded["ok"]
    assert rounded["relative_difference"] < 0.03
    for name, again in (("layers.0.mamba.out_proj", False), ("layers.7.self_attn.v_proj", True)):
        gate = judged(with_weight_changed(full, tmp_path / name, lambda weight: weight[::-1], name))
        assert not gate["ok"], name
        assert ("strict_difference" in gate) == again
    # a device that rounds harshly and is right in f32: here its rounding is that of all weights to INT4
    strictly = functools.partial(opened, full, FULL_PRECISION)
    harsh = fidelity(opened(sample_ir["int4"], {}), truth, strictly)
    assert harsh["relative_difference"] > 0.03
    assert harsh["ok"]


def test_cancel_answers_within_a_second_and_keeps_finished_rows(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    out, cancel = tmp_path / "bench.json", Cancel()
    events = bench([short_ir["int4"]], [ABSENT, "CPU"], out, cancel=cancel)
    next(event for event in events if isinstance(event, Progress) and event.done > 0)
    assert seconds_to_cancel(events, cancel) < slowness()
    assert [row["device"] for row in report.load_bench(out)["rows"]] == [ABSENT]


def test_a_bench_left_in_the_middle_ends_its_child(short_ir: dict[str, Path], tmp_path: Path) -> None:
    events = bench([short_ir["int4"]], ["CPU"], tmp_path / "b.json")
    next(event for event in events if isinstance(event, Progress) and event.done > 0)
    assert psutil.Process().children()
    events.close()
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"folders": ()}, "you named no folder"),
        ({"folders": (Path(),)}, "it has no openvino_model.xml"),
        ({"text": Path("short.txt")}, "The text is too short"),
        ({"text": Path("absent.txt")}, "Cannot read absent.txt"),
        ({"text": Path("binary.txt")}, "it is not UTF-8 text"),
        ({"new_tokens": 1}, "new_tokens is less than 2"),
        ({"precision": "f64"}, "'f64' is not a precision"),
        ({"window": 1}, "Choose a window of at least 2"),
        ({"window": 128, "stride": 129}, "cannot be 129 apart"),
        ({"contexts": (0,)}, "a prompt length is not between 1 and"),
        ({"devices": ("CPUX",)}, "'CPUX' is not one of CPU"),
        ({"devices": ("AUTO:CPU,GPX",)}, "'GPX' is not one of CPU"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_child_starts(
    params: dict, words: str, short_ir: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("Hello there.", encoding="utf-8")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    good = BenchJob((short_ir["int4"],), Path("bench.json"))
    own = {name: value for name, value in params.items() if name in ("folders", "devices")}
    benchmark = Benchmark(**{name: value for name, value in params.items() if name not in own})
    before = psutil.Process().children(), children_s()
    with pytest.raises(InputError, match=words):
        list(perform(replace(good, **own, benchmark=benchmark), Cancel()))
    assert (psutil.Process().children(), children_s()) == before
    assert not Path("bench.json").exists()


# Variants
# -----------------------------------------------------------------------------------------------------------


def test_a_folder_for_servers_is_measured_on_both_backends(short_ir: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "served"
    shutil.copytree(short_ir["int4"], folder)
    assert [each.backend for each in find_variants([folder])] == [""]
    card = json.loads((folder / "kl_lens.json").read_text(encoding="utf-8"))
    card["proof"]["runs_paged"] = True
    (folder / "kl_lens.json").write_text(json.dumps(card), encoding="utf-8")
    assert [(each.name, each.backend) for each in find_variants([folder])] == [
        ("served", ""),
        ("served, SDPA", "SDPA"),
    ]


def test_variants_find_the_fp16_of_their_own_model(short_ir: dict[str, Path], tmp_path: Path) -> None:
    full, small = short_ir["fp16"], short_ir["int4"]
    other = shutil.copytree(full, tmp_path / "other")
    plan = read_json(other / "plan.json")
    write_json(other / "plan.json", plan | {"model": plan["model"] | {"sha256": "0" * 64}})
    stranger = shutil.copytree(small, tmp_path / "deep" / small.name)
    (stranger / "plan.json").unlink()
    variants = find_variants([small, full, other, stranger])
    assert [variant.reference for variant in variants] == [full, full, other, full]
    assert [variant.name for variant in variants] == [
        f"{small.parent.name}/{small.name}", full.name, "other", f"deep/{small.name}",
    ]  # fmt: skip
    assert [variant.name for variant in find_variants([full, full])] == [
        f"{full.parent.name}/{full.name} (1)", f"{full.parent.name}/{full.name} (2)",
    ]  # fmt: skip


# Reports
# -----------------------------------------------------------------------------------------------------------


def test_a_newer_or_damaged_bench_file_is_refused_in_words(benched: Path, tmp_path: Path) -> None:
    good, path = read_json(benched), tmp_path / "bench.json"
    stopped = good["rows"][0]["tokens_per_s"] | {"rounds": [0]}
    for change, words in [
        ({"schema": "kl-lens/bench/2"}, "this program reads version 1"),
        ({"schema": "kl-lens/plan/1"}, "it is not a KL Lens bench file"),
        ({"rows": [good["rows"][0] | {"status": "fine"}]}, "at rows/0/status"),
        ({"rows": [good["rows"][0] | {"surprise": 1}]}, "surprise"),
        ({"rows": [good["rows"][0] | {"tokens_per_s": stopped}]}, "at rows/0/tokens_per_s/rounds/0"),
        ({"rows": None}, "at rows"),
    ]:
        write_json(path, good | change)
        with pytest.raises(InputError, match=words):
            report.load_bench(path)


def test_figures_are_not_overwritten_by_failures(
    short_ir: dict[str, Path], benched: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    out.write_bytes(benched.read_bytes())
    run([short_ir["int4"]], [ABSENT], out)
    assert out.read_bytes() == benched.read_bytes()


def test_the_table_says_what_happened_in_words(benched: Path) -> None:
    rows = report.load_bench(benched)["rows"]
    rows.append(rows[0] | {"variant": "odd", "status": "failed: it broke: badly", "tokens_per_s": None})
    for each, factor in zip(rows[:2], (1.0, 1.5), strict=True):
        rounds = [factor * speed for speed in (100.0, 101.0, 99.0, 100.5, 99.5, 100.0)]
        each["tokens_per_s"] = {"mean": 100 * factor, "sd": factor, "n": 18, "rounds": rounds}
    lines = report.table(rows)
    assert [line["device"] for line in lines] == ["CPU", "CPU", ABSENT, "CPU"]
    assert [line["speed"] for line in lines[:2]] == ["", "fastest"]
    assert lines[2]["status"] == "unavailable"
    assert "no device GPU.9" in lines[2]["note"]
    assert (lines[3]["status"], lines[3]["note"], lines[3]["speed"]) == ("failed", "it broke: badly", "")
    assert all(" ± " in line["tokens_per_s"] for line in lines[:2])


@pytest.mark.parametrize(
    ("value", "spread", "words"),
    [
        (60.63, 0.041, "60.6 ± 0.04"), (365.4, 37.2, "365 ± 37"), (8.0491, None, "8.05"),
        (1234.5, 100.2, "1,234 ± 100"), (0.0, 0.0, "0 ± 0"), (None, None, "–"),
    ],
)  # fmt: skip
def test_figures_are_shown_to_three_digits(value: float | None, spread: float | None, words: str) -> None:
    assert report.figure(value, spread) == words


def test_two_files_are_compared_on_the_command_line_and_as_csv(
    benched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = report.load_bench(benched)
    other = report.load_bench(benched)
    for measured in other["rows"]:
        measured["variant"] = f"={measured['variant']}"
        measured["size_bytes"] *= 2
    yours, table = tmp_path / "yours.json", tmp_path / "both.csv"
    yours.write_text(json.dumps(other), encoding="utf-8")
    assert commands.run(["bench", "--compare", str(benched), str(yours), "--csv", str(table)]) == 0
    assert "second to first" in capsys.readouterr().out
    with table.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    found = compare(document, report.load_bench(yours))
    assert len(lines) == sum(len(match.changes) for match in found.matches) > 10
    assert {line["ratio"] for line in lines if line["figure"] == "size_bytes"} == {"2.0"}
    assert all(line["variant_second"] == f"'={line['variant']}" for line in lines)
    document["rows"] = [measured for measured in document["rows"] if measured["device"] == "CPU"]
    other["rows"] = [{**measured, "device": "NPU"} for measured in document["rows"]]
    benched = tmp_path / "mine.json"
    benched.write_text(json.dumps(document), encoding="utf-8")
    yours.write_text(json.dumps(other), encoding="utf-8")
    assert commands.run(["bench", "--compare", str(benched), str(yours)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("No variant was measured on the same device in both")
    assert "second to first" not in said


def test_csv_and_html_hold_every_row_and_trust_no_name(benched: Path, tmp_path: Path) -> None:
    document = report.load_bench(benched)
    document["rows"][0]["variant"] = "<script>alert(1)</script>"
    document["rows"][1]["variant"] = "=HYPERLINK(1)"
    report.export_csv(document, tmp_path / "bench.csv")
    export_html(document, tmp_path / "bench.html")

    with (tmp_path / "bench.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4
    assert lines[1]["variant"] == "'=HYPERLINK(1)"
    assert float(lines[0]["perplexity_mean"]) == document["rows"][0]["perplexity"]["mean"]

    page = (tmp_path / "bench.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert tags.outside == []
    assert tags.seen.count("circle") == 6
    for chart in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + chart.partition("</svg>")[0] + "</svg>")


class Tags(HTMLParser):
    """The names of all elements, and every reference that would leave the page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_page_can_be_made_of_nothing_and_of_extremes(benched: Path, tmp_path: Path) -> None:
    document = report.load_bench(benched)
    row = document["rows"][0]
    huge = row | {"perplexity": {"mean": 1e300, "se": 1e299, "n": 1}, "peak_rss_mb": None}
    for rows in ([], [huge], [huge, row], [row | {"status": "failed: x"}]):
        export_html(document | {"rows": rows}, tmp_path / "bench.html")
        assert "nan" not in (tmp_path / "bench.html").read_text(encoding="utf-8").lower().split("settings")[0]


# Chat
# -----------------------------------------------------------------------------------------------------------


def test_an_answer_streams_and_is_what_the_pipeline_says(short_ir: dict[str, Path]) -> None:
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(short_ir["int4"]), "CPU")
    child, cancel = Child(ChatJob(short_ir["int4"], "CPU", "small")), Cancel()
    try:
        (opened,) = (event for event in child.answer(cancel) if isinstance(event, Answer))
        assert opened.result["template"] is False
        said = [Message("user", "The captain")]
        for expected_prompt in ("The captain", None):
            events = list(child.answer(cancel, ChatOrder(tuple(said), 16)))
            pieces = [event for event in events if isinstance(event, Generated)]
            text, turn = "".join(piece.text for piece in pieces), events[-1].result
            prompt = expected_prompt or "".join(message.text for message in said[:-1]) + " " + said[-1].text
            assert text == pipeline.generate(prompt, max_new_tokens=16, do_sample=False)
            assert len(pieces) > 1
            assert {piece.variant for piece in pieces} == {"small"}
            assert "".join(turn["tokens"]) == text
            assert len(turn["tokens"]) == 16
            assert turn["tokens_per_s"] > 0
            assert turn["ttft_ms"] > 0
            assert not turn["stopped"]
            said += [Message("assistant", text), Message("user", "Then")]
    finally:
        child.close()


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("template", [TEMPLATE, "{{ raise_exception('no') }}"], ids=["good", "broken"])
def test_a_chat_template_is_used_where_it_works(
    short_ir: dict[str, Path], tmp_path: Path, template: str
) -> None:
    import openvino_genai

    folder = tmp_path / "chatty"
    shutil.copytree(short_ir["int4"], folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    child, cancel = Child(ChatJob(folder, "CPU")), Cancel()
    said = (Message("user", "Who is it?"), Message("assistant", "The captain."), Message("user", "Why?"))
    try:
        opened = list(child.answer(cancel))[-1]
        assert isinstance(opened, Answer)
        assert opened.result["template"] is (template == TEMPLATE)
        pieces = [
            each.text for each in child.answer(cancel, ChatOrder(said, 12)) if isinstance(each, Generated)
        ]
    finally:
        child.close()
    pipeline = openvino_genai.LLMPipeline(str(short_ir["int4"]), "CPU")
    if template == TEMPLATE:
        prompt = "<user>Who is it?<assistant>The captain.<user>Why?<assistant>"
    else:
        prompt = "Who is it?The captain. Why?"
    assert "".join(pieces) == pipeline.generate(prompt, max_new_tokens=12, do_sample=False)


def test_an_answer_ends_with_any_of_the_tokens_that_end_one(
    short_ir: dict[str, Path], tmp_path: Path
) -> None:
    """Published models give several: one ends a text, another a turn of a chat."""
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(short_ir["int4"]), "CPU")
    ids = pipeline.get_tokenizer().encode("The captain").input_ids
    said = pipeline.generate(ids, max_new_tokens=12, do_sample=False, ignore_eos=True).tokens[0]
    folder = tmp_path / "chatty"
    shutil.copytree(short_ir["int4"], folder)
    settings = {"bos_token_id": 0, "eos_token_id": [0, said[4]]}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    child, cancel = Child(ChatJob(folder, "CPU")), Cancel()
    try:
        list(child.answer(cancel))
        turn = list(child.answer(cancel, ChatOrder((Message("user", "The captain"),), 12)))[-1]
    finally:
        child.close()
    assert isinstance(turn, Answer)
    assert len(turn.result["tokens"]) == said.index(said[4]) + 1


def test_an_answer_is_stopped_and_the_model_stays(short_ir: dict[str, Path]) -> None:
    child, cancel = Child(ChatJob(short_ir["int4"], "CPU")), Cancel()
    order = ChatOrder((Message("user", "The captain"),), 100_000)
    try:
        list(child.answer(cancel))
        pid = child.pid
        events = child.answer(cancel, order)
        next(event for event in events if isinstance(event, Generated))
        child.order(ChatOrder())
        turn = list(events)[-1]
        assert isinstance(turn, Answer)
        assert turn.result["stopped"]
        assert 1 <= len(turn.result["tokens"]) < 100_000
        after = list(child.answer(cancel, replace(order, new_tokens=4)))[-1]
        assert isinstance(after, Answer)
        assert len(after.result["tokens"]) == 4, "the stop ended one answer, not the next"
        assert child.pid == pid
    finally:
        child.close()


def test_a_chat_can_be_cancelled(short_ir: dict[str, Path]) -> None:
    cancel = Cancel()
    child = Child(ChatJob(short_ir["int4"], "CPU"))
    list(child.answer(cancel))
    events = child.answer(cancel, ChatOrder((Message("user", "The captain"),), 100_000))
    next(event for event in events if isinstance(event, Generated))
    assert seconds_to_cancel(events, cancel) < slowness()


def test_letters_of_several_tokens_are_whole_or_nothing() -> None:
    class Bytes:
        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode("utf-8", errors="replace")

    text = "naïve 😀: 漢字!"
    ids = list(text.encode("utf-8"))
    pieces = pieces_of(Bytes(), ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


def test_the_schema_is_itself_valid() -> None:
    import jsonschema

    schema = json.loads(resources.path("schemas", "bench-1.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
