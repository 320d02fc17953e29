"""Whether the devices here answer rightly for an exported model: asked at once, before anything is timed."""

import functools
from collections.abc import Iterator
from pathlib import Path

from kl_lens_desktop.bench.devices import Device, list_devices
from kl_lens_desktop.bench.fidelity import judged, truth_of, wrong_words
from kl_lens_desktop.bench.jobs import AnswersJob, Asked
from kl_lens_desktop.bench.memory import limit_mb
from kl_lens_desktop.bench.static_model import has_graph_for_npu, needs_fixed_shapes, open_model
from kl_lens_desktop.errors import ChildError
from kl_lens_desktop.export import proof
from kl_lens_desktop.files import CARD, read_json, write_json
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.text.bundled import calibration_text, read_text

STAGE = "export"  # of which it is the end
TIME_LIMIT_S = 1200.0  # compiling for a device may take minutes


def check_answers(folder: Path, cancel: Cancel, listed: list[Device] | None = None) -> Iterator[Event]:
    """Ask each GPU and NPU the prompt that the export was compared with torch on, each in its own process.

    The CPU has answered it during the export. What is found goes into the folder's card.

    Parameters
    ----------
    folder : Path
        An exported folder.
    listed : list of Device, optional
        What `list_devices` gave, if it was asked already.

    Yields
    ------
    Event
        A `Note` for each device, and last ``Finished({"devices": …})`` with `jobs.Asked` for each.
    """
    listed = list_devices(cancel) if listed is None else listed
    found = list[Asked]()
    asked = [device for device in listed if device.available and device.name != "CPU"]
    asked = [each for each in asked if not needs_fixed_shapes(each.name) or has_graph_for_npu(folder)]
    for number, device in enumerate(asked):
        words = f"Checking the answers of {folder.name} on {device.name}"
        yield Progress(STAGE, number, len(asked), words, "devices")
        status, gate = "failed: it did not answer", None
        job = AnswersJob(folder.absolute(), device.name)
        try:
            child = Child(job, time_limit_s=TIME_LIMIT_S, memory_limit_mb=limit_mb())
            for event in child.events(cancel):
                if isinstance(event, Finished):
                    gate = job.result(event)["fidelity"]
                    status = "ok" if gate["ok"] else wrong_words(gate)
        except ChildError as error:
            status, gate = f"failed: {error.why or error.what}", None
        about: Asked = {
            "device": device.name,
            "full_name": device.full_name,
            "status": status,
            "fidelity": gate,
        }
        found.append(about)
        level = "info" if about["status"] == "ok" else "warning"
        yield Note(f"{folder.name}: {answer_words(about)}", level)
    if found:
        card = read_json(folder / CARD)
        write_json(folder / CARD, {**card, "proof": {**card.get("proof", {}), "devices": found}})
    yield Finished({"devices": found})


def answer_words(found: Asked) -> str:
    """What `check_answers` found on a device, as a sentence."""
    name = f"{found['device']} ({found['full_name']})"
    if found["status"] == "ok" and found["fidelity"]:
        share = found["fidelity"]["relative_difference"]
        return f"{name} answers like the CPU, within {share:.1%} of the logits' spread."
    return f"{name}: {found['status']}. Use another device for this model."


def ask(job: AnswersJob, cancel: Cancel) -> Iterator[Event]:
    """Open the folder on the device, and yield last Finished with `jobs.Fidelity`."""
    import openvino

    folder, device = job.folder, job.device
    core = openvino.Core()
    opened = functools.partial(open_model, core, folder, device, chunk=proof.TOKENS, capacity=proof.TOKENS)
    yield Progress(STAGE, 0, 1, f"Loading {folder.name} on {device}")
    truth = truth_of(core, folder, read_text(calibration_text()), cancel)
    model = opened({})
    cancel.check()
    yield job.finished({"fidelity": judged(core, folder, device, model, opened, truth)})
