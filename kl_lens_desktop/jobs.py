"""Every job by its name; a job's room is imported when the job is asked for, and no other."""

import json
from importlib import import_module
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.process.job import Job

_PLACES = {
    "pull": "hub.jobs:PullJob",
    "verify-files": "hub.jobs:VerifyFilesJob",
    "inspect": "model.jobs:InspectJob",
    "analyze": "sensitivity.jobs:AnalyzeJob",
    "calibrate": "sensitivity.jobs:CalibrateJob",
    "agree": "sensitivity.jobs:AgreeJob",
    "verify": "plan.jobs:VerifyJob",
    "baselines": "export.jobs:BaselinesJob",
    "export": "exporting:ExportJob",
    "export-all": "exporting:ExportAllJob",
    "bench": "bench.jobs:BenchJob",
    "bench-speed": "bench.jobs:SpeedJob",
    "bench-raw": "bench.jobs:RequestsJob",
    "bench-load": "bench.jobs:LoadJob",
    "bench-quality": "bench.jobs:QualityJob",
    "prices": "bench.jobs:PricesJob",
    "time-products": "bench.jobs:ProductsJob",
    "llama": "bench.jobs:LlamaJob",
    "memory-read": "bench.jobs:MemoryReadJob",
    "answers": "bench.jobs:AnswersJob",
    "devices": "bench.jobs:DevicesJob",
    "chat": "bench.jobs:ChatJob",
    "run": "run:RunJob",
    "push": "publishing:PushJob",
}
NAMES = tuple(_PLACES)


def job_type(name: str) -> type[Job[Any]]:
    """The class of the jobs called `name`, one of `NAMES`."""
    module, kind = _PLACES[name].split(":")
    found: type[Job[Any]] = getattr(import_module(f"kl_lens_desktop.{module}"), kind)
    return found


def from_line(line: str | bytes) -> Job[Any]:
    """The job of a line that `process.job.to_line` wrote; `InputError` where it is none of ours."""
    try:
        value = json.loads(line)
        kind, given = job_type(value["job"]), value["given"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("Cannot start a job", "the request is damaged", "Start it again") from error
    return kind.from_json(given)
