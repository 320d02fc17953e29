"""What runs is noted on disk, so that after a crash the next window can offer to go on with it."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.files import JSON_LIMIT, read_start, write_text
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.home import home
from kl_lens_desktop.jobs import from_line
from kl_lens_desktop.process.job import Job, to_line
from kl_lens_desktop.temporary import is_alive, owner

_NOTE = re.compile(r"(\d+)-(\d+)\.jobs")
_LIMIT = min(2**20, JSON_LIMIT)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Jobs on one model that were not ended by anybody.

    Attributes
    ----------
    reference : str
        The model, as jobs are given it.
    jobs : tuple of Job
    """

    reference: str
    jobs: tuple[Job[Any], ...]


def note(reference: str, jobs: Sequence[Job[Any]]) -> None:
    """Write down what begins now; a full disk costs the note only."""
    path = _note()
    with contextlib.suppress(OSError, KLLensError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join([reference, *map(to_line, jobs)]) + "\n")


def forget() -> None:
    """It has ended, or the person was told how it did."""
    with contextlib.suppress(OSError):
        _note().unlink(missing_ok=True)


def take() -> Unfinished | None:
    """The latest note that a dead process left; all of those are removed."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for path in _folder().iterdir():
            named = _NOTE.fullmatch(path.name)
            if named and not is_alive(int(named[1]), int(named[2])):
                found.append((path.stat().st_mtime, path))
    latest: Unfinished | None = None
    for _, path in sorted(found):
        with contextlib.suppress(OSError, KLLensError, ValueError):
            reference, *lines = read_start(path, _LIMIT).decode("utf-8").splitlines()
            latest = Unfinished(reference, tuple(map(from_line, lines)))
        with contextlib.suppress(OSError):
            path.unlink()
    return latest


def words(unfinished: Unfinished, title: str, stage: str) -> str:
    """The offer, with how much is measured already; reads the score file."""
    measured = next((_measured(path) for job in unfinished.jobs for path in _scores(job)), "")
    kept = f" {measured}" if measured else tr(" What was measured is kept.")
    return tr("KL Lens closed unexpectedly while {stage} ({title}).{kept}").format(
        stage=stage, title=title, kept=kept
    )


def _measured(path: Path) -> str:
    from kl_lens_desktop.sensitivity.scores import load_scores

    try:
        scores = load_scores(path)
    except KLLensError:
        return ""
    weights = [weight["name"] for weight in scores.weights if weight["kind"] != "conv"]
    done = len({entry.weight for entry in scores.entries} & set(weights))
    return tr("{done:,} of {count} are measured.").format(
        done=done, count=quantities.plural(len(weights), "weight")
    )


def _scores(job: Job[Any]) -> list[Path]:
    """Where a job keeps its scores, if it measures any."""
    places = [path / "scores.json" if job.NAME == "run" else path for path in job.writes()]
    return [path for path in places if path.name == "scores.json"]


def _folder() -> Path:
    return home() / "running"


def _note() -> Path:
    return _folder() / f"{owner()}.jobs"
