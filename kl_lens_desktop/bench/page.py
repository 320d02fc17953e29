"""A bench file as one HTML page that needs nothing else: charts as SVG, light or dark as the reader's is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from kl_lens_desktop.bench import report
from kl_lens_desktop.bench.compare import Comparison
from kl_lens_desktop.bench.judgement import levelled
from kl_lens_desktop.bench.labels import device_notes, setting
from kl_lens_desktop.bench.report import figure, table
from kl_lens_desktop.files import write_text
from kl_lens_desktop.printable import printable

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 380, 64, 110, 20, 52
_LABEL = 13  # height of a line of text in the charts
_MOST_LABELS = 60  # beyond them nobody could read one; a bubble says its name when it is pointed at
_LARGEST = 22  # radius of the largest bubble
_COLOURS = (
    "#4477AA",
    "#AA3377",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#EE6677",
)  # for devices, colour-blind safe
_HEADERS = {
    "variant": "Variant",
    "device": "Device",
    "status": "Status",
    "size": "Weights",
    "perplexity": "Perplexity ± se",
    "kl_to_fp16": "KL to FP16 ± se",
    "tokens_per_s": "Tokens/s ± sd",
    "speed": "",
    "ttft": "First token ± sd",
    "prefill_tokens_per_s": "Prefill tokens/s ± sd",
    "peak_rss": "Peak RSS",
    "precision": "Precision",
    "backend": "Attention",
}
_PAIRS = {
    "first": "First", "second": "Second", "device": "Device", "ratio": "Second to first (95 %)",
    "verdict": "", "rounds": "Rounds",
}  # fmt: skip
_PAIRS_WORDS = (
    "Decode speed of the second divided by the first. The 95 % interval comes from "
    "alternating rounds and allows for repeated looks at the data. Differences below 4 % "
    "always count as noise."
)
_STYLE = """
:root { color-scheme: light dark; --back: #FAFAF9; --surface: #FFFFFF; --line: #E3E3E0; --text: #1C1C1A;
  --quiet: #5F5F5A; --bad: #B3261E; }
@media (prefers-color-scheme: dark) { :root { --back: #161615; --surface: #1F1F1D; --line: #34342F;
  --text: #F1F1EE; --quiet: #A6A69E; --bad: #FF8A80; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 24px auto;
  max-width: 1320px; padding: 0 16px; }
h1 { font-size: 26px; } h2 { font-size: 18px; margin-top: 32px; }
.scroll { overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 6px 10px; text-align: left; border-top: 1px solid var(--line); white-space: nowrap; }
th { border-top: 0; color: var(--quiet); font-weight: 600; }
tr.note td { border-top: 0; padding-top: 0; white-space: normal; color: var(--quiet); }
.failed { color: var(--bad); font-weight: 600; } .unavailable { color: var(--quiet); }
.charts { display: flex; flex-wrap: wrap; gap: 16px; }
figure { margin: 0; background: var(--surface); border: 1px solid var(--line); border-radius: 6px;
  padding: 12px; flex: 1 1 480px; max-width: 720px; }
figcaption { color: var(--quiet); } svg { width: 100%; height: auto; }
svg text { fill: var(--text); font-size: 12px; paint-order: stroke; stroke: var(--surface);
  stroke-width: 3px; }
svg .quiet { fill: var(--quiet); } svg .line { stroke: var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 16px; }
dt { color: var(--quiet); } dd { margin: 0 0 4px; overflow-wrap: anywhere; }
"""


def export_html(bench: dict[str, Any], path: Path) -> None:
    """Write a bench file (as `load_bench` returns it) as one HTML page without scripts or references."""
    rows = levelled(bench["rows"])
    charts = [
        _chart(rows, "Speed against perplexity; a bubble's area is peak memory. Lower right is better.",
               ("tokens_per_s", "decode, tokens/s"), ("perplexity", "perplexity")),
        _chart(rows, "Size against perplexity; a bubble's area is peak memory. Lower left is better.",
               ("size", "weights, MB"), ("perplexity", "perplexity")),
        _chart(rows, "Speed against peak memory. Lower right is better.",
               ("tokens_per_s", "decode, tokens/s"), ("peak", "peak RSS, MiB")),
    ]  # fmt: skip
    created = bench["environment"]["created"]
    body = [
        "<h1>KL Lens benchmark</h1>",
        f"<p>{_shown(bench['environment']['cpu'])}, {_shown(created)}</p>",
        f'<div class="scroll">{_table(rows)}</div>',
        "<p>“≈ fastest”: its decode speed is within noise of the fastest on its device. se is "
        "the standard error over windows of text; sd is the standard deviation of one "
        "generation.</p>",
        f'<div class="charts">{"".join(charts)}</div>',
        *_section("Comparison of speeds", report.pairs(rows), _PAIRS, _PAIRS_WORDS),
        *_section("By prompt length, and loading", report.contexts(rows), _contexts(rows), ""),
        "<h2>Where and how</h2>",
        _environment(bench["environment"]),
    ]
    write_text(path, _document(body))


def export_comparison_html(names: tuple[str, str], comparison: Comparison, path: Path) -> None:
    """Write the comparison of two bench files, under their names, as one page like that of `export_html`."""
    first, second = names
    headers = {
        "variant": "Variant", "other": "In the second", "device": "Device", "figure": "Figure",
        "first": first, "second": second, "ratio": "Second to first (95 %)", "verdict": "The second is",
    }  # fmt: skip
    left = [f"{row['variant']} on {row['device']} ({side})" for side, rows in
            ((first, comparison.only_first), (second, comparison.only_second)) for row in rows]  # fmt: skip
    places = {"what": "", "first": first, "second": second}
    body = [
        "<h1>Two KL Lens benchmarks</h1>",
        f"<p>{_shown(first)} and {_shown(second)}</p>",
        *(f"<p><strong>{_shown(caution)}</strong></p>" for caution in comparison.cautions),
        _plain_table(report.comparison_table(comparison), headers),
        f"<p>{_shown(report.ratio_words('the first', 'the second'))}</p>",
        f"<p>Only in one of them: {_shown(', '.join(left))}.</p>" if left else "",
        *_section("Environment", report.around_table(comparison), places, ""),
    ]
    write_text(path, _document(body))


@dataclass(frozen=True, slots=True)
class _Point:
    """A bubble: its place, the half lengths of its error bars, and its words."""

    x: float
    y: float
    x_error: float
    y_error: float
    radius: float
    label: str
    device: str
    title: str


def _shown(text: str) -> str:
    """As text of the page, whatever is in it."""
    return escape(printable(text))


def _document(body: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>KL Lens benchmark</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th scope='col'>{_shown(title)}</th>" for title in _HEADERS.values())
    lines = []
    for line in table(rows):
        cells = [
            f'<td class="{_shown(line["status"]) if name == "status" else ""}">{_shown(line[name])}</td>'
            for name in _HEADERS
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
        if line["note"]:
            lines.append(f'<tr class="note"><td colspan="{len(_HEADERS)}">{_shown(line["note"])}</td></tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _section(title: str, lines: list[dict[str, str]], headers: dict[str, str], words: str) -> list[str]:
    if not lines:
        return []
    return [
        f"<h2>{_shown(title)}</h2>",
        f"<p>{_shown(words)}</p>" if words else "",
        _plain_table(lines, headers),
    ]


def _plain_table(lines: list[dict[str, str]], headers: dict[str, str]) -> str:
    head = "".join(f'<th scope="col">{_shown(title)}</th>' for title in headers.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{_shown(line[name])}</td>" for name in headers) + "</tr>" for line in lines
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _contexts(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    titles = {"tokens_per_s": "tokens/s", "ttft_ms": "first token, ms", "prefill_tokens_per_s": "prefill/s"}
    names = {name for line in report.contexts(rows) for name in line}
    lengths = sorted({int(name.rpartition("_")[2]) for name in names if name.rpartition("_")[2].isdecimal()})
    return {
        "variant": "Variant", "device": "Device",
        **{f"{name}_{n}": f"{n:,}: {title}" for n in lengths for name, title in titles.items()},
        "raw": "Plain requests, tokens/s", "bandwidth": "Weights read", "load": "Load, ms",
        "load_cached": "Load from cache, ms", "compile": "Compile", "rounds": "Rounds",
    }  # fmt: skip


def _environment(environment: dict[str, Any]) -> str:
    words = {
        "System": f"{environment['os']}, Python {environment['python']}",
        "Memory": figure(environment["ram_mb"] / 1024, None, "GiB")
        + (
            f", read at {figure(read, None, 'GB/s')}" if (read := environment.get("memory_read_gb_s")) else ""
        ),
        "Power": environment["power"],
        "Packages": ", ".join(f"{name} {version}" for name, version in environment["packages"].items()),
        "Text": "{name}, {tokens:,} tokens in windows of {window}, sha256 {sha256}".format(
            **environment["text"]
        ),
        "Settings": ", ".join(f"{setting(name)} {value}" for name, value in environment["settings"].items()),
    }
    for device in environment["devices"]:
        told = [
            device["full_name"],
            f"driver {device['driver']}" if device.get("driver") else "",
            f"architecture {device['architecture']}" if device.get("architecture") else "",
            figure(device["memory_mb"] / 1024, None, "GiB") if device.get("memory_mb") else "",
            f"computes in {', '.join(device['precisions'])}" if device.get("precisions") else "",
            "with matrix engines (XMX)" if device.get("matrix_engines") else "",
            *(f"{count} {kind} cores" for kind, count in (device.get("core_types") or {}).items()),
            device["reason"],
        ]
        notes = device_notes(device)
        words[device["name"]] = ", ".join(filter(None, told)) + (f". {' '.join(notes)}" if notes else "")
    return "<dl>" + "".join(f"<dt>{_shown(k)}</dt><dd>{_shown(v)}</dd>" for k, v in words.items()) + "</dl>"


def _chart(rows: Sequence[dict[str, Any]], caption: str, across: tuple[str, str], up: tuple[str, str]) -> str:
    points = _points(rows, across[0], up[0])
    if not points:
        return f"<figure><figcaption>{_shown(caption)} Nothing was measured.</figcaption></figure>"
    x_ticks = _ticks([p.x - p.x_error for p in points], [p.x + p.x_error for p in points])
    y_ticks = _ticks([p.y - p.y_error for p in points], [p.y + p.y_error for p in points])

    def place(point: _Point) -> tuple[float, float]:
        return _across(point.x, x_ticks), _upward(point.y, y_ticks)

    devices = list(dict.fromkeys(point.device for point in points))
    drawn = [_axes(x_ticks, y_ticks, across[1], up[1])]
    for point in sorted(points, key=lambda each: -each.radius):
        x, y = place(point)
        colour = _COLOURS[devices.index(point.device) % len(_COLOURS)]
        left, right = _across(point.x - point.x_error, x_ticks), _across(point.x + point.x_error, x_ticks)
        low, high = _upward(point.y - point.y_error, y_ticks), _upward(point.y + point.y_error, y_ticks)
        drawn.append(
            f'<g stroke="{colour}"><line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:.1f}" fill="{colour}" fill-opacity="0.35">'
            f"<title>{_shown(point.title)}</title></circle></g>"
        )
    drawn += _labels([(*place(point), point) for point in points])
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_shown(caption)}">'
        f"{''.join(drawn)}</svg><figcaption>{_shown(caption)}</figcaption></figure>"
    )


def _points(rows: Sequence[dict[str, Any]], across: str, up: str) -> list[_Point]:
    shown = [
        row
        for row in rows
        if row["status"] == "ok"
        and (row["peak_rss_mb"] if up == "peak" else row[up])
        and (across == "size" or row[across])
    ]
    largest = max((row["peak_rss_mb"] or 0.0 for row in shown), default=0.0)
    points = []
    for row in shown:
        peak = row["peak_rss_mb"] or 0.0
        size = {"mean": row["size_bytes"] / 1e6, "sd": 0.0}
        x = size if across == "size" else row[across]
        y = {"mean": peak, "se": 0.0} if up == "peak" else row[up]
        words = f"{row['variant']} on {row['device']}: {figure(x['mean'])}, {figure(y['mean'], y['se'])}"
        points.append(_Point(
            x["mean"], y["mean"], x["sd"] or 0.0, y["se"] or 0.0,
            _LARGEST * math.sqrt(peak / largest) if largest else 4.0,
            row["variant"], row["device"], f"{words}, {figure(peak, None, 'MiB')}",
        ))  # fmt: skip
    return points


def _axes(x_ticks: list[float], y_ticks: list[float], across: str, up: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for tick in x_ticks:
        x = _across(tick, x_ticks)
        lines.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        lines.append(_text(x, bottom + 18, _tick_words(tick, x_ticks), "middle", "quiet"))
    for tick in y_ticks:
        y = _upward(tick, y_ticks)
        lines.append(f'<line class="line" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(_LEFT - 8, y + 4, _tick_words(tick, y_ticks), "end", "quiet"))
    middle = (_TOP + bottom) / 2
    lines.append(_text((_LEFT + right) / 2, _HEIGHT - 10, across, "middle", "quiet"))
    lines.append(
        f'<text class="quiet" text-anchor="middle" transform="translate(14 {middle:.1f}) rotate(-90)">'
        f"{_shown(up)}</text>"
    )
    return "".join(lines)


def _labels(placed: list[tuple[float, float, _Point]]) -> list[str]:
    """Names to the right of the bubbles, pushed down where one would cover another, then with a line.

    Of many only the highest are named.
    """
    drawn: list[str] = []
    taken: list[tuple[float, float]] = []
    for x, y, point in sorted(placed, key=lambda each: each[1])[:_MOST_LABELS]:
        at = x + point.radius + 6
        line = y + 4
        while any(abs(line - other) < _LABEL and abs(at - where) < 150 for where, other in taken):
            line += 1
        taken.append((at, line))
        if line - y - 4 > 2:
            drawn.append(
                f'<line class="line" x1="{x:.1f}" y1="{y:.1f}" x2="{at - 2:.1f}" y2="{line - 4:.1f}"/>'
            )
        drawn.append(_text(at, line, f"{point.label[:24]} · {point.device}", "start", ""))
    return drawn


def _text(x: float, y: float, words: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_shown(words)}</text>'


def _across(value: float, ticks: list[float]) -> float:
    return _LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_WIDTH - _LEFT - _RIGHT)


def _upward(value: float, ticks: list[float]) -> float:
    return _HEIGHT - _BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(lows: list[float], highs: list[float]) -> list[float]:
    """About five round numbers that take in everything, with a little room."""
    low, high = min(lows), max(highs)
    width = max(high - low, 1e-6 * abs(high)) or 1.0
    low, high = low - 0.05 * width, high + 0.05 * width
    power = 10 ** math.floor(math.log10(width / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= width / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _tick_words(tick: float, ticks: list[float]) -> str:
    step = ticks[1] - ticks[0]
    return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
