"""What the window remembers between starts: one typed record in ``settings.json`` of the user's folder.

What a file holds that this version does not know, or that is damaged, is set aside: the file is kept as
``settings-before.json``, everything else in it counts, and the window says it once.
"""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QByteArray, QSettings

from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import Workspace
from kl_lens_desktop.home import home
from kl_lens_desktop.process.record import decode_known, encode
from kl_lens_desktop.sensitivity.jobs import Analysis

VERSION = 1
FROM_ENVIRONMENT = os.environ.get("HF_ENDPOINT", "")  # the Hub's address, until the settings say another
THEMES = ("system", "light", "dark")
SIZES = (100, 110, 125, 150, 175, 200)  # percent of the system's size
RECENT_LIMIT = 8
_LEARNT = 0.7  # of a job's pace: it may have been an odd one
_SHOWN = 4  # names of settings in a sentence


@dataclass(frozen=True, slots=True)
class Waiting:
    """A model that waits to be compressed; `pull` if it is to be downloaded first."""

    reference: str
    pull: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """The file's content; paths and geometries are texts in it.

    Attributes
    ----------
    theme : str
        One of `THEMES`.
    size : int
        Of text and everything else in the window, one of `SIZES`.
    endpoint : str
        The Hub's address; empty for the environment's or the default.
    work_folder : str
        Empty for the usual place.
    stay_awake : bool
        Keep the computer from sleeping while a long job works.
    notify : bool
        Tell when a long job ends while another window is in front.
    recent : tuple of str
        References of the models opened last, newest first.
    waiting : tuple of Waiting
        Models to be compressed, the next one first: see `job_queue`.
    columns : tuple of str, optional
        Keys of the benchmark's columns that the person chose; None for the usual ones.
    benchmark : Benchmark
        What a benchmark measures, where it is not a quick look.
    analyses : dict of str to Analysis
        How each model is measured, by the name of its work folder.
    paces : dict of str to float
        How long parts of a whole job take on this computer, over what is expected: see `course.expected`.
    states : dict of str to str
        Geometries of windows and splitters, in base64.
    """

    version: int = VERSION
    theme: str = "system"
    endpoint: str = ""
    size: int = 100
    work_folder: str = ""
    stay_awake: bool = True
    notify: bool = True
    recent: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    columns: tuple[str, ...] | None = None
    benchmark: Benchmark = field(default_factory=Benchmark)
    analyses: dict[str, Analysis] = field(default_factory=dict)
    paces: dict[str, float] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


class Settings:
    """The settings; a change is written at once, over what other windows have written meanwhile.

    Attributes
    ----------
    problem : str
        What of the file could not be used, as a sentence; empty if all of it could.
    """

    def __init__(self) -> None:
        self._path = home() / "settings.json"
        self.problem = ""
        self._kept, strange = self._read()
        if strange:
            names = ", ".join(strange[:_SHOWN]) + (", …" if len(strange) > _SHOWN else "")
            self.problem = tr(
                "Some settings cannot be used and have their usual values: {names}. Your "
                "file is kept as {path}."
            ).format(names=names, path=self._set_aside())
            self.flush()

    @property
    def theme(self) -> str:
        return self._kept.theme

    @theme.setter
    def theme(self, value: str) -> None:
        self._change(lambda kept: replace(kept, theme=value))

    @property
    def size(self) -> int:
        return self._kept.size

    @size.setter
    def size(self, value: int) -> None:
        self._change(lambda kept: replace(kept, size=value))

    @property
    def endpoint(self) -> str:
        return self._kept.endpoint

    @endpoint.setter
    def endpoint(self, value: str) -> None:
        self._change(lambda kept: replace(kept, endpoint=value))

    @property
    def work_folder(self) -> Path:
        return Path(self._kept.work_folder or home() / "work")

    @work_folder.setter
    def work_folder(self, value: Path) -> None:
        self._change(lambda kept: replace(kept, work_folder=str(value)))

    @property
    def chose_work_folder(self) -> bool:
        """Whether it is another one than the usual."""
        return bool(self._kept.work_folder)

    @property
    def stay_awake(self) -> bool:
        return self._kept.stay_awake

    @stay_awake.setter
    def stay_awake(self, value: bool) -> None:
        self._change(lambda kept: replace(kept, stay_awake=value))

    @property
    def notify(self) -> bool:
        return self._kept.notify

    @notify.setter
    def notify(self, value: bool) -> None:
        self._change(lambda kept: replace(kept, notify=value))

    @property
    def recent(self) -> tuple[str, ...]:
        return self._kept.recent

    def remember(self, reference: str) -> None:
        self._change(
            lambda kept: replace(kept, recent=(reference, *_without(kept, reference))[:RECENT_LIMIT])
        )

    def forget(self, reference: str) -> None:
        self._change(lambda kept: replace(kept, recent=_without(kept, reference)))

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        return self._kept.waiting

    @waiting.setter
    def waiting(self, value: tuple[Waiting, ...]) -> None:
        self._change(lambda kept: replace(kept, waiting=value))

    def analysis(self, workspace: Workspace) -> Analysis:
        """How the model of `workspace` was or is to be measured."""
        return self._kept.analyses.get(workspace.folder.name, Analysis())

    def keep_analysis(self, workspace: Workspace, analysis: Analysis) -> None:
        name = workspace.folder.name
        self._change(lambda kept: replace(kept, analyses={**kept.analyses, name: analysis}))

    @property
    def benchmark(self) -> Benchmark:
        return self._kept.benchmark

    @benchmark.setter
    def benchmark(self, value: Benchmark) -> None:
        self._change(lambda kept: replace(kept, benchmark=value))

    @property
    def columns(self) -> tuple[str, ...] | None:
        return self._kept.columns

    @columns.setter
    def columns(self, keys: tuple[str, ...] | None) -> None:
        self._change(lambda kept: replace(kept, columns=keys))

    @property
    def paces(self) -> dict[str, float]:
        return dict(self._kept.paces)

    def keep_paces(self, found: dict[str, float]) -> None:
        """Learn how long the parts of a job took, over what was expected with the paces of before."""
        known = self._kept.paces
        learnt = {part: known.get(part, 1.0) * ratio**_LEARNT for part, ratio in found.items()}
        self._change(lambda kept: replace(kept, paces={**kept.paces, **learnt}))

    def state(self, name: str) -> QByteArray:
        """The saved geometry of a window or splitter; empty if there is none."""
        return QByteArray.fromBase64(self._kept.states.get(name, "").encode("ascii", "replace"))

    def keep_state(self, name: str, value: QByteArray) -> None:
        """Until `flush` in memory only: a splitter is moved many times a second."""
        text = bytes(value.toBase64().data()).decode("ascii")
        self._kept = replace(self._kept, states={**self._kept.states, name: text})

    def flush(self) -> None:
        self._change(lambda kept: kept)

    def restore(self) -> None:
        """Everything as on the first start, but for the models opened last and those that wait.

        The file is kept.
        """
        self._set_aside()
        self._kept = Kept(recent=self._kept.recent, waiting=self._kept.waiting)
        self.flush()

    def _change(self, change: Callable[[Kept], Kept]) -> None:
        """Change what the file holds now, which another window may have written."""
        latest = self._read()[0] if self._path.is_file() else self._kept
        self._kept = change(replace(latest, states={**latest.states, **self._kept.states}))
        # On a full disk, or where no folder can be made, a setting lasts until the window closes.
        with contextlib.suppress(KLLensError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, encode(self._kept))

    def _read(self) -> tuple[Kept, list[str]]:
        """The file's settings, and the names of those in it that cannot be used."""
        strange: list[str] = []
        try:
            value = read_json(self._path) if self._path.exists() else earlier()
        except KLLensError:
            return Kept(), [tr("all of them")]
        kept = decode_known(Kept, value, strange)
        if kept.theme not in THEMES:
            strange.append("theme")
            kept = replace(kept, theme="system")
        if kept.size not in SIZES:
            strange.append("size")
            kept = replace(kept, size=100)
        return replace(kept, version=VERSION), strange

    def _set_aside(self) -> Path:
        """Rename the file; the new name."""
        before = self._path.with_name("settings-before.json")
        with contextlib.suppress(OSError):
            os.replace(self._path, before)
        return before


def _without(kept: Kept, reference: str) -> tuple[str, ...]:
    return tuple(each for each in kept.recent if each != reference)


def earlier() -> dict[str, Any]:
    """The settings of versions that kept them in ``settings.ini``; empty where there are none."""
    path = home() / "settings.ini"
    if not path.is_file():
        return {}
    store = QSettings(str(path), QSettings.Format.IniFormat)
    found: dict[str, Any] = {"analyses": {}, "states": {}}
    for key in store.allKeys():
        value = store.value(key)
        room, _, name = key.partition("/")
        if key in ("theme", "work_folder", "hub/endpoint"):
            found[name or key] = value
        elif key == "recent":  # the ini format keeps a list of one as a plain text
            found[key] = [value] if isinstance(value, str) else value
        elif key == "columns" and isinstance(value, str):
            found[key] = value.split(",")
        elif key == "benchmark":
            found[key] = _parsed(value)
        elif room == "analysis":
            found["analyses"][name] = _parsed(value)
        elif room == "state" and isinstance(value, QByteArray):
            found["states"][name] = bytes(value.toBase64().data()).decode("ascii")
    return {key: value for key, value in found.items() if key in {each.name for each in fields(Kept)}}


def _parsed(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def use_endpoint(address: str) -> None:
    """Ask the Hub at `address`; where that is empty, at the one that the environment named at the start."""
    if address or FROM_ENVIRONMENT:
        os.environ["HF_ENDPOINT"] = address or FROM_ENVIRONMENT
    else:
        os.environ.pop("HF_ENDPOINT", None)
