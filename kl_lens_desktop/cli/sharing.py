"""The commands around a bundle: make one of a work folder's results, and look into one from somebody else."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kl_lens_desktop import quantities
from kl_lens_desktop.cli.console import print_comparison, print_json, print_table, say
from kl_lens_desktop.errors import InputError

if TYPE_CHECKING:
    from kl_lens_desktop.sharing import Bundle


def share(arguments: argparse.Namespace) -> None:
    """Write a bundle, and say what is in it."""
    from kl_lens_desktop.sharing import SUFFIX, share

    bundle = share(arguments.folder, arguments.out or Path(f"{arguments.folder.resolve().name}{SUFFIX}"))
    if arguments.json:
        print_json(_about(bundle))
        return
    for line in bundle.card.splitlines():
        say(line)
    say(f"Wrote {bundle.path}, {quantities.size(bundle.path.stat().st_size)}: {bundle.words}")


def receive(arguments: argparse.Namespace) -> None:
    """Check a bundle and say what is in it; unpack it, or compare its benchmark, where that is asked for.

    Raises
    ------
    InputError
        If it is not to be trusted, or has no benchmark to compare.
    """
    from kl_lens_desktop.bench.compare import compare
    from kl_lens_desktop.bench.report import load_bench
    from kl_lens_desktop.sharing import load_bundle, unpack

    bundle = load_bundle(arguments.bundle)
    places = unpack(bundle, arguments.out) if arguments.out else {}
    found = None
    if arguments.bench:
        if bundle.bench is None:
            raise InputError(f"Cannot compare {bundle.path}", "it holds no benchmark", "Leave out --bench")
        found = compare(load_bench(arguments.bench), bundle.bench)
    if arguments.json:
        written = {"written": {name: str(place) for name, place in places.items()}} if places else {}
        print_json({**_about(bundle), **written, **({"comparison": found.as_dict()} if found else {})})
        return
    for line in bundle.card.splitlines():
        say(line)
    print_table(["part", "holds"], [[name, words] for name, words in _parts(bundle).items()])
    for place in places.values():
        say(f"Wrote {place}")
    if found:
        print_comparison(found, str(arguments.bench), str(bundle.path))


def _about(bundle: "Bundle") -> dict[str, object]:
    model = {"id": bundle.model.id, "revision": bundle.model.revision, "sha256": bundle.model.sha256}
    return {
        "path": str(bundle.path),
        "model": model,
        "created": bundle.created,
        "parts": _parts(bundle),
        "card": bundle.card,
    }


def _parts(bundle: "Bundle") -> dict[str, str]:
    """What each part holds, in words."""
    words = {}
    if bundle.plan is not None:
        size = quantities.size(bundle.plan.predicted["bytes"] or 0)
        measured = "measured" if bundle.plan.measured else "not measured"
        words["plan"] = f"{quantities.plural(len(bundle.plan.assignments), 'weight')}, {size}, {measured}"
    if bundle.scores is not None:
        count = len({entry.weight for entry in bundle.scores.entries})
        formats = len({entry.format for entry in bundle.scores.entries})
        words["scores"] = f"{quantities.plural(count, 'weight')} in {quantities.plural(formats, 'format')}"
    if bundle.bench is not None:
        rows = [row for row in bundle.bench["rows"] if row["status"] == "ok"]
        cpu = bundle.bench["environment"]["cpu"]
        words["bench"] = f"{quantities.plural(len(rows), 'row')}, measured on {cpu}"
    return words
