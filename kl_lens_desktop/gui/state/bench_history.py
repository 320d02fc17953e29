"""Earlier benchmarks of a model, kept beside the latest: each with its settings, to be compared."""

import contextlib
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
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
    from kl_lens_desktop.bench.report import load_bench

    latest, found = _created(workspace.bench), list[EarlierBench]()
    for path in _files(workspace):
        with contextlib.suppress(KLLensError):
            bench = load_bench(path)
            if bench["environment"]["created"] != latest:
                found.append(EarlierBench(path, _words(bench)))
    return found


def _files(workspace: Workspace) -> list[Path]:
    return sorted(workspace.benchmarks.glob("[0-9]*.json"), reverse=True)


def _created(path: Path) -> str:
    from kl_lens_desktop.bench.report import load_bench

    try:
        return str(load_bench(path)["environment"]["created"])
    except KLLensError:
        return ""


def _words(bench: dict[str, Any]) -> str:
    environment, rows = bench["environment"], [r for r in bench["rows"] if r["status"] != "unavailable"]
    when = environment["created"]
    with contextlib.suppress(ValueError):
        when = datetime.fromisoformat(when).astimezone().strftime("%d %b %Y, %H:%M")
    devices = ", ".join(dict.fromkeys(row["device"] for row in rows))
    variants = quantities.plural(len({row["variant"] for row in rows}), "model")
    prompt = environment["settings"].get("prompt_tokens")
    settings = tr(" · prompts of {prompt:,} tokens").format(prompt=prompt) if isinstance(prompt, int) else ""
    return tr("{when} · {variants} on {devices}{settings}").format(
        when=when, variants=variants, devices=devices or tr("no device"), settings=settings
    )
