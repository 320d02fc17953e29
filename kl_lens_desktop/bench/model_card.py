"""The figures of a benchmark in the model card of the folder that was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kl_lens_desktop.bench.report import table
from kl_lens_desktop.export.model_card import README, plain, read_card, with_figures
from kl_lens_desktop.files import write_text

_COLUMNS = {
    "device": "device",
    "size": "size",
    "perplexity": "perplexity ± se",
    "kl_to_fp16": "KL to FP16 ± se",
    "tokens_per_s": "tokens/s ± sd",
    "ttft": "first token ± sd",
    "peak_rss": "peak memory",
    "precision": "precision",
}


def figures(rows: Sequence[dict[str, Any]], variant: str) -> str:
    """The rows of a variant that were measured, as a table in Markdown; empty if there is none.

    `rows` are all of the benchmark: speeds are shown in the proportions of the rounds that variants took.
    """
    measured = [line for line in table(rows) if line["variant"] == variant and line["status"] == "ok"]
    if not measured:
        return ""
    head = f"| {' | '.join(_COLUMNS.values())} |\n|{'---|' * len(_COLUMNS)}\n"
    lines = (f"| {' | '.join(plain(line[name]) for name in _COLUMNS)} |" for line in measured)
    return "## Measured\n\n" + head + "\n".join(lines)


def fill(folder: Path, rows: Sequence[dict[str, Any]], variant: str) -> None:
    """Write the figures of a variant into its model card, if it has one of ours and there are some."""
    card, found = read_card(folder), figures(rows, variant)
    if found and (filled := with_figures(card, found)) != card:
        write_text(folder / README, filled)
