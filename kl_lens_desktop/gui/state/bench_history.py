"""Earlier benchmarks of a model, kept beside the latest: each with its settings, to be compared."""

import contextlib
import re
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import Workspace

KEPT = 20
_DIGITS = re.compile(r"\D+")


@dataclass(frozen=True, slots=True)
class EarlierBench:
    """A bench file that another has replaced, and in words when and what it measured."""

    path: Path
    words: str


def keep(workspace: Workspace) -> None:
    """Copy the latest benchmark to where a new one does not replace it; only the newest are kept."""
    from kl_lens_desktop.bench.report import load_bench

    with contextlib.suppress(KLLensError, OSError):
        created = load_bench(workspace.bench)["environment"]["created"]
        workspace.benchmarks.mkdir(exist_ok=True)
        shutil.copyfile(workspace.bench, workspace.benchmarks / f"{_DIGITS.sub('', created)[:14]}.json")
    for old in _files(workspace)[KEPT:]:
        with contextlib.suppress(OSError):
            old.unlink()


def earlier(workspace: Workspace) -> list[EarlierBench]:
    """Those that can be read, newest first, without a copy of the latest."""
    latest = _read(workspace.bench)
    found = ((path, _read(path)) for path in _files(workspace))
    return [
        EarlierBench(path, each.words)
        for path, each in found
        if each is not None and (latest is None or each.created != latest.created)
    ]


def _files(workspace: Workspace) -> list[Path]:
    return sorted(workspace.benchmarks.glob("[0-9]*.json"), reverse=True)


@dataclass(frozen=True, slots=True)
class _Read:
    created: str
    words: str


def _read(path: Path) -> _Read | None:
    """What a bench file is of; None if it cannot be read."""
    try:
        return _read_once(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=4 * KEPT)
def _read_once(path: Path, _changed_ns: int) -> _Read | None:
    """Each file is read and checked once: a menu that lists twenty must open at once."""
    from kl_lens_desktop.bench.report import load_bench

    try:
        bench = load_bench(path)
    except KLLensError:
        return None
    return _Read(str(bench["environment"]["created"]), _words(bench))


def _words(bench: dict[str, Any]) -> str:
    environment, rows = bench["environment"], [r for r in bench["rows"] if r["status"] != "unavailable"]
    when = quantities.local_time(environment["created"])
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    variants = quantities.plural(len({row["variant"] for row in rows}), "model")
    prompt = environment["settings"].get("prompt_tokens")
    settings = tr(" · prompts of {prompt:,} tokens").format(prompt=prompt) if isinstance(prompt, int) else ""
    return tr("{when} · {variants} on {devices}{settings}").format(
        when=when, variants=variants, devices=devices or tr("no device"), settings=settings
    )
