"""Where things lie on disk: the user's folder, the settings, and one work folder for each model."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import platformdirs
from PySide6.QtCore import QByteArray, QSettings

from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.process.record import decode_known, encode
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.temporary import sweep_partials

RECENT_LIMIT = 8

Record = TypeVar("Record")


def home() -> Path:
    """The user's folder: ``KL_LENS_HOME``, or the platform's place for an application's data."""
    chosen = os.environ.get("KL_LENS_HOME")
    return Path(chosen) if chosen else platformdirs.user_data_path("kl-lens", appauthor=False)


def log_folder() -> Path:
    return home() / "logs"


class Settings:
    """What is remembered between starts, in ``settings.ini`` of the user's folder."""

    def __init__(self) -> None:
        self._store = QSettings(str(home() / "settings.ini"), QSettings.Format.IniFormat)

    @property
    def theme(self) -> str:
        return self._text("theme", "system")

    @theme.setter
    def theme(self, value: str) -> None:
        self._store.setValue("theme", value)

    @property
    def endpoint(self) -> str:
        """The Hub's address; empty for the default."""
        return self._text("hub/endpoint", "")

    @endpoint.setter
    def endpoint(self, value: str) -> None:
        self._store.setValue("hub/endpoint", value)

    @property
    def work_folder(self) -> Path:
        return Path(self._text("work_folder", str(home() / "work")))

    @work_folder.setter
    def work_folder(self, value: Path) -> None:
        self._store.setValue("work_folder", str(value))

    @property
    def recent(self) -> list[str]:
        """References of the models opened last, newest first."""
        value = self._store.value("recent", [])
        if isinstance(value, str):  # the ini format keeps a list of one as a plain text
            return [value]
        return [str(item) for item in value] if isinstance(value, list) else []

    def remember(self, reference: str) -> None:
        self._store.setValue(
            "recent", [reference, *(r for r in self.recent if r != reference)][:RECENT_LIMIT]
        )

    def forget(self, reference: str) -> None:
        self._store.setValue("recent", [r for r in self.recent if r != reference])

    def analysis(self, workspace: "Workspace") -> Analysis:
        """How the model of `workspace` was or is to be measured."""
        return self._record(f"analysis/{workspace.folder.name}", Analysis)

    def keep_analysis(self, workspace: "Workspace", analysis: Analysis) -> None:
        self._store.setValue(f"analysis/{workspace.folder.name}", json.dumps(encode(analysis)))

    @property
    def benchmark(self) -> Benchmark:
        """What a benchmark measures, where it is not a quick look."""
        return self._record("benchmark", Benchmark)

    @benchmark.setter
    def benchmark(self, value: Benchmark) -> None:
        self._store.setValue("benchmark", json.dumps(encode(value)))

    @property
    def columns(self) -> list[str] | None:
        """Keys of the benchmark's columns that the person chose; None for the usual ones."""
        kept = self._store.value("columns")
        return kept.split(",") if isinstance(kept, str) else None

    @columns.setter
    def columns(self, keys: list[str] | None) -> None:
        if keys is None:
            self._store.remove("columns")
        else:
            self._store.setValue("columns", ",".join(keys))

    def state(self, name: str) -> QByteArray:
        """The saved geometry of a window or splitter; empty if there is none."""
        value = self._store.value(f"state/{name}")
        return value if isinstance(value, QByteArray) else QByteArray()

    def keep_state(self, name: str, value: QByteArray) -> None:
        self._store.setValue(f"state/{name}", value)

    def flush(self) -> None:
        self._store.sync()

    def _record(self, key: str, kind: type[Record]) -> Record:
        """Kept settings; what another version wrote or something damaged has the defaults instead."""
        kept = self._store.value(key)
        try:
            value = json.loads(kept) if isinstance(kept, str) else None
        except ValueError:
            value = None
        return decode_known(kind, value)

    def _text(self, key: str, default: str) -> str:
        value = self._store.value(key, default)
        return value if isinstance(value, str) else default


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
    return Workspace(work_folder / f"{name}-{hashlib.sha256(reference.encode()).hexdigest()[:8]}")


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
