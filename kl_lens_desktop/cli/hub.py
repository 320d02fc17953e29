"""Commands about the Hub: searching, checking a model before and after it is downloaded."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kl_lens_desktop import quantities
from kl_lens_desktop.cli.console import finish, print_json, print_table, say
from kl_lens_desktop.errors import HubError, InputError
from kl_lens_desktop.export.model_card import README
from kl_lens_desktop.hub.jobs import VerifyFilesJob
from kl_lens_desktop.hub.resolve import resolve_model
from kl_lens_desktop.model.fit import StageNeed, fits, folder_sizes, stage_needs
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.publishing import PushJob, existing, publish_plan


def search(arguments: argparse.Namespace) -> None:
    """Print the models that match, or suggestions where nothing is asked for."""
    from kl_lens_desktop.hub import client

    wanted = {
        "architecture": arguments.architecture,
        "author": arguments.author,
        "licence": arguments.licence,
        "most_parameters": arguments.max_parameters or "",
        "open_only": arguments.open,
    }
    if arguments.query or any(wanted.values()):
        found = client.search(arguments.query, limit=arguments.limit, **wanted)
    else:
        found = client.suggested()
    if arguments.json:
        print_json([asdict(each) for each in found])
        return
    if not found:
        say("No model with safetensors matches.")
        return
    rows = [
        [
            each.id,
            each.architecture or "–",
            quantities.parameters(each.parameters) if each.parameters else "–",
            each.licence or "–",
            "on request" if each.gated else "open",
            each.downloads,
            each.obstacle or "yes",
        ]
        for each in found
    ]
    print_table(["model", "architecture", "weights", "licence", "access", "downloads", "usable here"], rows)


def check(arguments: argparse.Namespace) -> None:
    """Print what would be downloaded, and whether each stage fits this computer."""
    from kl_lens_desktop.hub import client
    from kl_lens_desktop.hub.candidate import examine
    from kl_lens_desktop.hub.facts import facts
    from kl_lens_desktop.hub.obtain import is_on_the_hub
    from kl_lens_desktop.hub.store import cache

    if not is_on_the_hub(arguments.model):
        local = resolve_model(arguments.model)
        sizes = folder_sizes(local.folder)
        needs = [need for need in stage_needs(sizes.parameters, 0, sizes) if need.stage != "download"]
        stages = _stages(needs, Path.cwd())
        if arguments.json:
            about = {"id": local.id, "folder": str(local.folder), "parameters": sizes.parameters}
            print_json({**about, "stages": stages})
            return
        say(f"{local.folder} is on this computer: {quantities.parameters(sizes.parameters)} weights")
        _print_stages(stages)
        return
    candidate = examine(client.repository(arguments.model, arguments.revision))
    found = facts(candidate.of.about)
    weights_bytes = sum(file.size for file in candidate.weights)
    parameters = found.parameters or weights_bytes // 2  # nearly all are published with two bytes a weight
    stages = _stages(stage_needs(parameters, candidate.bytes), cache())
    architecture, commit = candidate.config["model_type"], candidate.of.commit
    if arguments.json:
        about = {"id": found.id, "revision": commit, "architecture": architecture, "parameters": parameters}
        files = [{"name": file.name, "bytes": file.size} for file in candidate.files]
        print_json({**about, "licence": found.licence or None, "files": files, "stages": stages})
        return
    say(
        f"{found.id} at {commit[:7]}: {architecture}, "
        f"{quantities.parameters(parameters)} weights, licence {found.licence or 'not stated'}"
    )
    print_table(["file", "size"], [[file.name, quantities.size(file.size)] for file in candidate.files])
    _print_stages(stages)


def _stages(needs: Sequence[StageNeed], cache: Path) -> list[dict[str, Any]]:
    """What each stage takes at its peak, in bytes, and whether that fits; downloads go to `cache`."""
    return [
        {
            "stage": need.stage,
            "ram_bytes": need.ram_mb * 2**20,
            "disk_bytes": need.disk_mb * 2**20,
            "fits": fits(need, cache if need.stage == "download" else Path.cwd()),
        }
        for need in needs
    ]


def _print_stages(stages: Sequence[dict[str, Any]]) -> None:
    rows = [
        [each["stage"], quantities.size(each["ram_bytes"]), quantities.size(each["disk_bytes"]), each["fits"]]
        for each in stages
    ]
    print_table(["stage", "peak RAM", "disk", "fits this computer"], rows)


def verify_files(arguments: argparse.Namespace) -> None:
    """Print which files of a downloaded model are damaged.

    Raises
    ------
    HubError
        If one is, and is not repaired.
    """
    found = finish(VerifyFilesJob(arguments.model, arguments.revision, arguments.repair), perform)
    if arguments.json:
        print_json(found)
    else:
        words = "was damaged, downloaded again" if found["repaired"] else "damaged"
        rows = [[name, words if name in found["damaged"] else "as listed"] for name in found["files"]]
        print_table(["file", "content"], rows)
    if found["damaged"] and not found["repaired"]:
        step = f"Run `kl-lens verify-files {arguments.model} --repair` to download them again"
        raise HubError(f"{found['id']} is damaged", ", ".join(found["damaged"]), step)


def push(arguments: argparse.Namespace) -> None:
    """Print what would be uploaded, and upload it once the person agrees.

    Raises
    ------
    InputError
        If there is nobody to ask.
    """
    job = PushJob(
        arguments.folder, arguments.repository, arguments.bench, arguments.public, arguments.replace
    )
    job.check()
    publication = publish_plan(job.folder, job.bench)
    if not arguments.yes:
        there = existing(job.repository)
        replaced = there.replaced(publication) if there else []
        sizes = {name: path.stat().st_size for name, path in publication.files.items()}
        sizes[README] = len(publication.card.encode())
        rows = [
            [name, quantities.size(size), "replaces one" if name in replaced else "new"]
            for name, size in sorted(sizes.items())
        ]
        print_table(["file", "size", "there"], rows)
        for line in publication.card.splitlines():
            say(line)
        if there:
            job.check_existing(there, publication)
        if not sys.stdin.isatty():
            raise InputError("Nothing was uploaded", "nobody can be asked here", "Add --yes if you agree")
        is_public = there.is_public if there else job.public
        what = f"{'' if there else 'the new repository '}{job.repository}"
        who = "everybody can see it" if is_public else "private"
        say(f"Upload {quantities.size(publication.bytes)} to {what} ({who})? [y/N]")
        if input().strip().lower() not in ("y", "yes"):
            say("Nothing was uploaded.")
            return
    found = finish(job, perform)
    if arguments.json:
        print_json(found)
    else:
        say(found["url"])
