"""The figures of a bench row as the window shows them: names, explanations, words; variants' colours."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtGui import QColor

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.figures import allocated, number, value_of
from kl_lens_desktop.bench.labels import LABELS
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.quant.formats import parse_format

Row = dict[str, Any]
GROUPS = (tr("Speed"), tr("By prompt length"), tr("Loading"), tr("Quality"), tr("Memory"), tr("How it ran"))
ORDER = ("fp16", "int8_sym", "int4_sym_g64", "plan")
SYMBOLS = ("o", "s", "t1", "d", "p", "star")
# Beside those of the formats, and told apart by people who do not see all colours; names stand beside them.
_COLOURS = ("#AA3377", "#228833", "#EE6677", "#BBBBBB", "#EE7733", "#009988")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a row.

    Attributes
    ----------
    key : str
        Its name in the bench file; with ``@128`` behind it that after a prompt of 128 tokens.
    group : str
        One of `GROUPS`.
    heading, name, tip : str
        For a column, for a list, and what exactly it is.
    best : callable or None
        ``min`` or ``max``; None where neither end is better.
    width : int
        Of its column, in pixels at 100 %.
    usual : bool
        Whether its column is shown until the person chooses.
    scale : float
        100 for shares that are shown as percentages.
    """

    key: str
    group: str
    heading: str
    name: str
    tip: str
    best: Callable[..., Any] | None = None
    width: int = 100
    usual: bool = False
    scale: float = 1.0


def _figure(key: str, group: str, heading: str, tip: str, width: int, usual: bool = False) -> Figure:
    said = LABELS[key]
    return Figure(key, group, heading, said.name, tip, said.best, width, usual, said.scale)


_PAIRED = tr(
    "≈ marks values not shown to differ from the best by more than 4 % (95 % "
    "confidence). Variants that took turns are shown in the proportions of their "
    "common rounds."
)
_FIGURES = (
    _figure(
        "tokens_per_s",
        tr("Speed"),
        tr("Tokens/s"),
        tr(
            "Decoding speed in openvino_genai after the standard prompt: mean of single "
            "generations ± their standard deviation. {paired}"
        ).format(paired=_PAIRED),
        116,
        True,
    ),
    _figure(
        "ttft_ms",
        tr("Speed"),
        tr("First token, ms"),
        tr("From the prompt's token ids to the first new token, ± standard deviation of one generation."),
        118,
        True,
    ),
    _figure(
        "prefill_tokens_per_s",
        tr("Speed"),
        tr("Prefill/s"),
        tr(
            "How fast the prompt is read: its tokens divided by the time to the first "
            "new token, ± standard deviation."
        ),
        126,
        True,
    ),
    _figure(
        "raw.tokens_per_s",
        tr("Speed"),
        tr("Plain requests/s"),
        tr(
            "The same prompt and tokens with plain inference requests, without openvino_genai. A cross-check."
        ),
        126,
    ),
    _figure(
        "bandwidth_gb_s",
        tr("Speed"),
        tr("Weights read"),
        tr(
            "Bytes of weights read for each token × tokens/s, in 10⁹ bytes per second, "
            "and as a share of the memory bandwidth measured with all cores. Only cached "
            "data can exceed 100 %."
        ),
        126,
    ),
    _figure(
        "rounds",
        tr("Speed"),
        tr("Rounds"),
        tr(
            "Rounds in which this variant was timed next to the others. They continue "
            "until it clearly differs from each of them, or until their ratio is known "
            "to 5 %."
        ),
        84,
    ),
    _figure(
        "load_ms",
        tr("Loading"),
        tr("Load, ms"),
        tr("Time to read and compile the model."),
        92,
    ),
    _figure(
        "load_cached_ms",
        tr("Loading"),
        tr("From cache, ms"),
        tr("The same with OpenVINO's model cache filled, as on the second start of a program that uses it."),
        108,
    ),
    _figure(
        "cache_bytes",
        tr("Loading"),
        tr("Cache"),
        tr("Size of OpenVINO's model cache on disk. Empty if the device makes none."),
        84,
    ),
    _figure(
        "perplexity",
        tr("Quality"),
        tr("Perplexity"),
        tr(
            "Perplexity of the exported model on held-out text, on this device, ± "
            "standard error over windows of text. All variants read the same text, so "
            "differences are more certain than the errors suggest."
        ),
        98,
        True,
    ),
    _figure(
        "word_perplexity",
        tr("Quality"),
        tr("Word perplexity"),
        tr(
            "Perplexity for each word of the original text, as lm-eval's task wikitext "
            "defines it. Only for WikiText."
        ),
        120,
    ),
    _figure(
        "kl_to_fp16",
        tr("Quality"),
        tr("KL to FP16"),
        tr(
            "How far the predictions on this device are from those of FP16 on the CPU in "
            "float32, ± standard error. For FP16 itself, this is the rounding of the "
            "device's arithmetic."
        ),
        146,
        True,
    ),
    _figure(
        "kl_reverse",
        tr("Quality"),
        tr("KL reverse"),
        tr("The other direction. It penalizes probability where FP16 has none."),
        146,
    ),
    _figure(
        "delta_ce",
        tr("Quality"),
        tr("ΔCE"),
        tr("Additional nats per token compared with FP16 on the same tokens. Noise can make it negative."),
        146,
    ),
    _figure(
        "top1_agreement",
        tr("Quality"),
        tr("Top-1 as FP16, %"),
        tr("Share of positions where the most likely next token is the same as with FP16, ± standard error."),
        128,
    ),
    _figure(
        "fidelity.relative_difference",
        tr("Quality"),
        tr("Off CPU f32, %"),
        tr(
            "How far this device's logits are from those of the same variant on the CPU "
            "in float32. Above 15 % (25 % in bf16, or if the device does not report its "
            "precision), the answers are wrong and the device's other figures do not "
            "count."
        ),
        112,
    ),
    _figure(
        "peak_rss_mb",
        tr("Memory"),
        tr("Peak RSS, MiB"),
        tr(
            "Largest resident set of the process, as the operating system counts it. It "
            "includes memory-mapped weights. For a GPU too, this is host memory."
        ),
        108,
        True,
    ),
    _figure(
        "peak_rss_sampled_mb",
        tr("Memory"),
        tr("Sampled RSS, MiB"),
        tr("The same, sampled 20 times per second. Short peaks may be missed."),
        124,
    ),
    _figure(
        "system_used_change_mb",
        tr("Memory"),
        tr("System change, MiB"),
        tr(
            "Change in memory use of the whole computer during the speed run. It "
            "includes a GPU's buffers, but also changes in other programs."
        ),
        134,
    ),
    _figure(
        "gpu_memory_mb",
        tr("Memory"),
        tr("Device memory, MiB"),
        tr(
            "Memory that OpenVINO allocated on a GPU or NPU: the largest value after any "
            "turn of the speed run, in total and by kind. An integrated device shares "
            "the computer's memory, so do not add this to the other figures."
        ),
        150,
    ),
    _figure(
        "precision",
        tr("How it ran"),
        tr("Precision"),
        tr("The device's precision in the speed run."),
        80,
    ),
    _figure(
        "quality_precision",
        tr("How it ran"),
        tr("Quality in"),
        tr("The device's precision when perplexity and KL were measured."),
        84,
    ),
    _figure(
        "kv_cache_precision",
        tr("How it ran"),
        tr("KV cache"),
        "",
        80,
    ),
    _figure(
        "backend",
        tr("How it ran"),
        tr("Attention"),
        tr("SDPA, paged (PA) or static."),
        84,
    ),
    _figure("threads", tr("How it ran"), tr("Threads"), "", 76),
    _figure("core_type", tr("How it ran"), tr("Cores"), tr("As set in OpenVINO."), 100),
    _figure("performance_hint", tr("How it ran"), tr("Hint"), "", 90),
    _figure("execution_devices", tr("How it ran"), tr("Ran on"), "", 100),
    _figure("power", tr("How it ran"), tr("Power"), tr("When the row was finished."), 84),
)
_BY_LENGTH = (
    ("tokens_per_s", tr("/s at {n}"), tr("Decode after {n} tokens, tokens/s"), max, 104),
    ("ttft_ms", tr("First at {n}, ms"), tr("First token after {n} tokens, ms"), min, 124),
    ("prefill_tokens_per_s", tr("Prefill at {n}"), tr("Prefill of {n} tokens, tokens/s"), max, 124),
)


def figures(rows: Iterable[Row]) -> list[Figure]:
    """All figures, with those after other lengths of prompt that the rows have, in the order of `GROUPS`."""
    lengths = sorted({each["prompt_tokens"] for row in rows for each in row.get("by_context") or ()})
    by_length = [
        Figure(
            f"{key}@{length}",
            tr("By prompt length"),
            heading.format(n=f"{length:,}"),
            name.format(n=f"{length:,}"),
            tr("From two rounds, ± standard deviation of one generation."),
            best,
            width,
        )
        for key, heading, name, best, width in _BY_LENGTH
        for length in lengths
    ]
    return sorted([*_FIGURES, *by_length], key=lambda figure: GROUPS.index(figure.group))


def error_of(row: Row, key: str) -> float:
    """Standard error or deviation of a measured figure; 0 where there is none."""
    value = value_of(row, key)
    return float(value.get("se") or value.get("sd") or 0.0) if isinstance(value, dict) else 0.0


def words(row: Row, figure: Figure, memory_read_gb_s: float | None = None) -> str:
    """A figure of a row as it is shown; a dash where there is none."""
    value = value_of(row, figure.key)
    if value is None:
        return "–"
    if figure.key == "gpu_memory_mb":
        kinds = [f"{kind} {quantities.significant(size)}" for kind, size in value.items() if size]
        total = quantities.significant(allocated(value) or 0.0)
        return f"{total} ({' · '.join(kinds)})" if len(kinds) > 1 else total
    if figure.key == "cache_bytes":
        return quantities.size(value)
    if figure.key == "rounds":
        return tr("{value}, too few").format(value=value) if row.get("settled") is False else str(value)
    if isinstance(value, list):
        return ", ".join(value)
    mean = number(row, figure.key)
    if mean is None:
        return str(value)
    text = quantities.plus_minus(figure.scale * mean, figure.scale * error_of(row, figure.key))
    if figure.key == "bandwidth_gb_s" and memory_read_gb_s:
        return f"{text} ({quantities.percent(mean / memory_read_gb_s)})"
    return text


def problem(row: Row | None) -> tuple[str, str]:
    """Level and words where a row has no figures to trust: ``bad`` if it failed, ``grey`` if not here."""
    if row is None or row["status"] == "ok":
        return "", ""
    if row["status"] == "unavailable":
        return "grey", tr("not available: {why}").format(why=row.get("reason") or tr("no such device"))
    why = row["status"].removeprefix("failed: ")
    return "bad", why[:1].upper() + why[1:]


def sorted_variants(names: Iterable[str]) -> list[str]:
    """Each once: full precision first, the plan last of ours, then others as they come."""
    return sorted(dict.fromkeys(names), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def variant_title(name: str) -> str:
    """``INT4 g64`` for ``int4_sym_g64``, ``Plan`` for ``plan``, and any other name as it is."""
    if name == "plan":
        return tr("Plan")
    try:
        return parse_format(name).label
    except InputError:
        return name


def variant_colours(names: Sequence[str]) -> dict[str, QColor]:
    """One colour for each variant: the plan's, the formats', and for other names one that none has."""
    chosen: dict[str, QColor] = {}
    spare = [QColor(each) for each in _COLOURS]
    for name in names:
        try:
            colour = QColor(theme.colours().accent) if name == "plan" else theme.format_colour(name)
        except InputError:
            colour = spare[0]
        if colour in chosen.values():
            colour = next((each for each in spare if each not in chosen.values()), colour)
        if colour in spare:
            spare.append(spare.pop(spare.index(colour)))
        chosen[name] = colour
    return chosen
