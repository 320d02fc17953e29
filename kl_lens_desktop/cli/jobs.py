"""The jobs that a command line asks for; what is not given is as the job's own defaults say."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kl_lens_desktop.bench.devices import device_names
from kl_lens_desktop.bench.jobs import BenchJob
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.cli.arguments import ACTIVATION_GROUPS
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.exporting import ExportJob
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.jobs import AgreeJob, Analysis, AnalyzeJob

Arguments = argparse.Namespace
Value = TypeVar("Value")
BENCH_FILE = Path("bench.json")


def analyze_job(arguments: Arguments) -> AnalyzeJob:
    usual = Analysis()
    analysis = replace(_analysis(arguments, usual), device=_given(arguments.device, usual.device))
    return AnalyzeJob(arguments.model, arguments.out, analysis)


def agree_job(arguments: Arguments) -> AgreeJob:
    usual = AgreeJob(arguments.model, arguments.scores, arguments.out)
    return replace(
        usual,
        text=arguments.text,
        tokens=_given(arguments.tokens, usual.tokens),
        formats=_names(arguments.formats) or (),
    )


def verify_job(arguments: Arguments) -> VerifyJob:
    usual = VerifyJob(arguments.model, arguments.plan)
    return replace(
        usual,
        text=arguments.text,
        tokens=_given(arguments.tokens, usual.tokens),
        repair=_repair(arguments) if arguments.repair else None,
        refine=arguments.refine,
        refine_text=arguments.refine_text,
        consent=arguments.other_revision,
        cluster=arguments.cluster,
    )


def baselines_job(arguments: Arguments) -> BaselinesJob:
    usual = BaselinesJob(arguments.model, arguments.scores, arguments.plan, arguments.out)
    return replace(
        usual,
        text=arguments.text,
        tokens=_given(arguments.tokens, usual.tokens),
        gamma=_given(arguments.gamma, usual.gamma),
        only=_given(_names(arguments.only), usual.only),
        cluster=arguments.cluster,
    )


def export_job(arguments: Arguments) -> ExportJob:
    return ExportJob(
        arguments.model,
        arguments.out,
        plan=arguments.plan,
        format=arguments.format or "",
        npu=arguments.npu,
        paged=arguments.paged,
        consent=arguments.other_revision,
        activation_group=ACTIVATION_GROUPS.get(arguments.activation_group, 0),
    )


def bench_job(arguments: Arguments) -> BenchJob:
    usual = Benchmark().quick if arguments.quick else Benchmark()
    benchmark = replace(
        usual,
        text=arguments.text,
        tokens=_given(arguments.tokens, usual.tokens),
        window=arguments.window,
        stride=arguments.stride,
        precision=_given(arguments.precision, usual.precision),
        contexts=_given(arguments.contexts, usual.contexts),
        speed_minutes=_given(arguments.minutes, usual.speed_minutes),
        cool_down_s=_given(arguments.cool_down, usual.cool_down_s),
    )
    out = arguments.out or BENCH_FILE
    gguf = tuple(arguments.gguf or ())
    folders = tuple(dict.fromkeys(each for folder in arguments.folders for each in _exported(folder)))
    devices = _devices(arguments.devices)
    return BenchJob(folders, out, devices, benchmark, gguf, arguments.llama_bench)


def run_job(arguments: Arguments) -> RunJob:
    usual = RunJob(arguments.model, arguments.out)
    usual = usual.quick if arguments.quick else usual
    benchmark = replace(
        usual.benchmark,
        text=arguments.bench_text,
        tokens=_given(arguments.bench_tokens, usual.benchmark.tokens),
        precision=_given(arguments.bench_precision, usual.benchmark.precision),
        contexts=_given(arguments.contexts, usual.benchmark.contexts),
        speed_minutes=_given(arguments.bench_minutes, usual.benchmark.speed_minutes),
    )
    analysis = _analysis(arguments, usual.analysis)
    return replace(usual, analysis=analysis, devices=_devices(arguments.devices), benchmark=benchmark)


def _repair(arguments: Arguments) -> RepairSettings:
    beside, usual = arguments.plan.with_name("scores.json"), RepairSettings()
    return RepairSettings(
        scores=arguments.scores or (beside if beside.is_file() else None),
        text=arguments.repair_text,
        tokens=arguments.repair_tokens,
        minutes=_given(arguments.minutes, usual.minutes),
    )


def _analysis(arguments: Arguments, usual: Analysis) -> Analysis:
    return replace(
        usual,
        text=tuple(arguments.text),
        source=_given(arguments.calibration, usual.source),
        tokens=_given(arguments.tokens, usual.tokens),
        window=_given(arguments.window, usual.window),
        formats=_given(_names(arguments.formats), usual.formats),
        exhaustive=arguments.exhaustive,
        bits=_given(arguments.bits, usual.bits),
        seed=_given(arguments.seed, usual.seed),
        precision=_given(arguments.precision, usual.precision),
        minutes=arguments.minutes,
        rounding=_given(arguments.rounding, usual.rounding),
        cluster=arguments.cluster,
    )


def _exported(folder: Path) -> list[Path]:
    """The folder or, where it is no exported model, those in it: no shell of Windows knows ``out/*``."""
    if not folder.is_dir() or (folder / MODEL_XML).is_file():
        return [folder]
    return sorted(each for each in folder.iterdir() if (each / MODEL_XML).is_file()) or [folder]


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))


def _devices(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else device_names(text)


def _given(value: Value | None, usual: Value) -> Value:
    return usual if value is None else value
