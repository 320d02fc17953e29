"""Where things lie on disk: the logs, and one work folder for each model."""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.home import home
from kl_lens_desktop.temporary import sweep_partials


def log_folder() -> Path:
    return home() / "logs"


def model_title(reference: str) -> str:
    """What a model is called in a sentence: its name without the folder or the owner."""
    return tr("the sample") if reference == "sample" else Path(reference).name


@dataclass(frozen=True, slots=True)
class Workspace:
    """The work folder of one model."""

    folder: Path

    @property
    def scores(self) -> Path:
        return self.folder / "scores.json"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def baselines(self) -> Path:
        """The folder of the baselines' plans."""
        return self.folder / "baselines"

    @property
    def bench(self) -> Path:
        return self.folder / "bench.json"

    @property
    def benchmarks(self) -> Path:
        """The folder of earlier benchmarks."""
        return self.folder / "benchmarks"

    @property
    def agree(self) -> Path:
        return self.folder / "agree.json"

    def variant(self, name: str) -> Path:
        """The folder of the exported model called `name`."""
        return self.folder / name

    def exported(self) -> dict[str, Path]:
        """The exported models in this folder by name."""
        found = sorted(self.folder.glob(f"[!.]*/{MODEL_XML}")) if self.folder.is_dir() else []
        return {path.parent.name: path.parent for path in found}

    def sweep(self) -> None:
        """Remove what a job that was ended in mid-write left behind."""
        sweep_partials(self.folder)


def workspace_of(work_folder: Path, reference: str) -> Workspace:
    """The work folder of the model called `reference`: short, since Windows paths end at 260 characters."""
    if reference == "sample":
        return Workspace(work_folder / "sample")
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(reference).name.lower())[:40].strip(".-") or "model"
    if Path(reference).is_absolute():
        reference = os.path.normcase(reference)  # Windows knows a folder by names in / and \, large and small
    return Workspace(work_folder / f"{name}-{hashlib.sha256(reference.encode()).hexdigest()[:8]}")


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`; of those that come and go while it looks, what it meets."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
