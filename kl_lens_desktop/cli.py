"""The command line: the same stages as the window, progress on standard error, results on standard output."""

import argparse
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import Cancelled, ChildError, InputError, KLLensError
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.events import Event, Failed, Finished, Measured, Note, Progress, Repaired, Weights

FAILED, USAGE, CANCELLED = 1, 2, 130
Arguments = argparse.Namespace


def run(argv: list[str]) -> int:
    """Run one command; return its exit status: 0 done, 1 failed, 2 usage, 130 cancelled."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # Windows consoles default to a legacy code page
    parser = _parser()
    arguments = parser.parse_args(argv or ["app"])
    if getattr(arguments, "diff", True) is None and not (arguments.scores and arguments.out):
        parser.error("plan takes a score file and --out, or --diff")
    if hasattr(arguments, "compare") and bool(arguments.folders) == bool(arguments.compare):
        parser.error("bench takes exported folders, or --compare and two bench files")
    try:
        return int(arguments.command(arguments) or 0)
    except (KeyboardInterrupt, Cancelled):
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except KLLensError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"kl-lens: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        return FAILED
    except Exception as error:  # noqa: BLE001  (the program's last frame: one line instead of a traceback)
        if arguments.debug:
            traceback.print_exc()
        print(
            f"kl-lens: {type(error).__name__}: {error}. Run again with --debug and report it.",
            file=sys.stderr,
        )
        return FAILED


# Commands
# --------------------------------------------------------------------------------------------------------


def _app(arguments: Arguments) -> int:
    places = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    if sys.platform.startswith("linux") and not any(os.environ.get(place) for place in places):
        raise InputError(
            "Cannot open a window", "there is no display here", "Use the commands: see kl-lens --help"
        )
    from kl_lens_desktop.gui.application import run as run_application

    return run_application(arguments.model)


def _pull(arguments: Arguments) -> None:
    result = _finish("pull", {"model": arguments.model, "revision": arguments.revision})
    print(result["folder"])


def _inspect(arguments: Arguments) -> None:
    result = _finish("inspect", {"model": arguments.model})
    if arguments.json:
        _print_json({"model": result["model"], "weights": result["weights"]})
        return
    about = result["model"]
    print(
        f"{about['id']}: {about['architecture']}, "
        f"{about['parameters']:,} parameters in {about['blocks']} blocks"
    )
    rows = [
        [
            w["name"],
            w["kind"],
            "" if w["block"] is None else w["block"],
            _shape(w["shape"]),
            w["parameters"],
            w["uses"],
        ]
        for w in result["weights"]
    ]
    _print_table(["weight", "kind", "block", "shape", "parameters", "uses"], rows)


def _analyze(arguments: Arguments) -> None:
    params = {"model": arguments.model, "out": str(arguments.out), "device": arguments.device}
    result = _finish("analyze", params | {"bits": arguments.bits} | _measuring(arguments))
    if arguments.json:
        print(Path(result["scores"]).read_text(encoding="utf-8"))
        return
    from kl_lens_desktop.sensitivity.scores import load_scores

    scores = load_scores(arguments.out)
    entries = sorted(scores.entries, key=lambda entry: -entry.kl_pq.mean)
    rows = [
        [
            entry.weight,
            entry.format,
            f"{entry.kl_pq.mean:.3g} ± {entry.kl_pq.se:.1g}",
            f"{entry.sqnr_db.mean:.1f}",
            entry.kl_pq.n,
            "settled" if entry.settled else "",
        ]
        for entry in entries
    ]
    header = ["weight", "format", "KL(full‖quantized), nats/token", "SQNR, dB", "tokens", "racing"]
    _print_table(header, rows[: arguments.top])
    early = sum(entry.settled for entry in entries)
    settled = f", {early} of them settled on fewer than {scores.text['tokens']:,} tokens" if early else ""
    print(f"{len(rows)} entries in {arguments.out}{settled}; text: {scores.text['name']}")


def _agree(arguments: Arguments) -> None:
    params = {
        "model": arguments.model,
        "scores": str(arguments.scores),
        "out": str(arguments.out or "") or None,
    }
    result = _finish("agree", params)
    if arguments.json:
        _print_json(result)
        return
    rows = [
        [name, f"{a['tau']:.3f}", f"{a['low']:.3f} … {a['high']:.3f}"]
        for name, a in result["metrics"].items()
    ]
    _print_table(["metric", "Kendall τ with perplexity", "95 % interval"], rows)
    print(f"Perplexity itself, measured on two halves of the text, agrees with τ = {result['ceiling']:.3f}.")


def _plan(arguments: Arguments) -> None:
    if arguments.diff:
        _print_difference(arguments)
        return
    from kl_lens_desktop.plan.constraints import Constraints, parse_limits
    from kl_lens_desktop.plan.document import save_plan
    from kl_lens_desktop.plan.propose import average_bits, propose
    from kl_lens_desktop.sensitivity.scores import load_scores

    scores = load_scores(arguments.scores)
    measured, weights = (
        {entry.weight for entry in scores.entries},
        [w for w in scores.weights if w["kind"] != "conv"],
    )
    if len(measured) < len(weights):
        rest = f"only {len(measured)} of {len(weights)} weights are measured, the others stay FP16"
        print(f"{arguments.scores}: {rest}.", file=sys.stderr)
    size = None if arguments.size_mb is None else int(arguments.size_mb * 1e6)
    percent = arguments.max_perplexity_increase
    least, forbidden = parse_limits(arguments.limit)
    pins = dict(arguments.pin)
    plan = propose(
        scores,
        size_bytes=size,
        bits=arguments.bits,
        max_kl=arguments.max_kl,
        max_perplexity_increase=None if percent is None else percent / 100,
        method=arguments.method,
        constraints=Constraints(pins, arguments.fused, least, forbidden, arguments.device),
    )
    save_plan(arguments.out, plan)
    if arguments.json:
        print(arguments.out.read_text(encoding="utf-8"))
        return
    counts: dict[str, int] = {}
    for name in plan.assignments.values():
        counts[name] = counts.get(name, 0) + 1
    formats = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    kl = plan.predicted["kl"]
    predicted = "" if kl is None else f", predicted KL {kl:.3g} ± {plan.predicted['se']:.1g} nats per token"
    megabytes = (plan.predicted["bytes"] or 0) / 1e6
    bits = average_bits(scores, plan.assignments)
    print(f"{formats}; {megabytes:.2f} MB, {bits:.2f} bits per weight{predicted}")
    print(f"Wrote {arguments.out}")


def _print_difference(arguments: Arguments) -> None:
    from dataclasses import asdict

    from kl_lens_desktop.plan.compare import difference
    from kl_lens_desktop.plan.document import load_plan

    first, second = (load_plan(path) for path in arguments.diff)
    found = difference(first, second)
    if arguments.json:
        changes = [asdict(change) for change in found.changes]
        _print_json({"summary": found.as_words(), "same": found.same, "changes": changes})
        return
    if found.changes:
        names = [str(path) for path in arguments.diff]
        _print_table(["weight", *names], [[c.weight, c.before, c.after] for c in found.changes])
        rows = [
            [part, ", ".join(f"{n} × {a} → {b}" for (a, b), n in counts.most_common())]
            for part, counts in found.by_part.items()
        ]
        _print_table(["part", "what became what"], rows)
    print(found.as_words())


def _verify(arguments: Arguments) -> None:
    beside = arguments.plan.with_name("scores.json")
    scores = arguments.scores or (beside if beside.is_file() else None)
    paths = {"text": arguments.text, "scores": scores, "repair_text": arguments.repair_text}
    params = {
        "model": arguments.model,
        "plan": str(arguments.plan),
        "tokens": arguments.tokens,
        "repair": arguments.repair,
        "repair_tokens": arguments.repair_tokens,
        "minutes": arguments.minutes,
        "consent": arguments.other_revision,
    }
    result = _finish("verify", params | {name: str(path) for name, path in paths.items() if path})
    measured = result["measured"]
    if arguments.json:
        _print_json(measured | ({"repair": result["repair"]} if "repair" in result else {}))
        return
    if done := result.get("repair"):
        print(
            f"Repaired: joint KL {done['kl_before']:.4g} → {done['kl_after']:.4g} on the repair text, "
            f"{done['gain']:.2g} ± {done['gain_se']:.1g} less. On held-out text:"
            if done["gain"]
            else "No exchange helps beyond its error. On held-out text:"
        )
    rows = [[name, f"{v['mean']:.5g}", f"{v['se']:.2g}"] for name, v in measured.items() if name != "text"]
    _print_table(["figure", "measured", "± se"], rows)


def _baselines(arguments: Arguments) -> None:
    from kl_lens_desktop.plan.document import load_plan

    params = {
        "model": arguments.model,
        "scores": str(arguments.scores),
        "plan": str(arguments.plan),
        "out": str(arguments.out),
        "tokens": arguments.tokens,
        "gamma": arguments.gamma,
        "only": _names(arguments.only),
    }
    if arguments.text:
        params["text"] = str(arguments.text)
    plans = {name: load_plan(Path(path)) for name, path in _finish("baselines", params)["plans"].items()}
    rows = [
        {"plan": name, "bytes": int(plan.predicted["bytes"] or 0), **measured["kl_pq"]}
        | {"perplexity": measured["perplexity"]["mean"]}
        for name, plan in plans.items()
        if (measured := plan.measured)
    ]
    rows.sort(key=lambda row: row["mean"])
    kl = [f"{row['mean']:.4g} ± {row['se']:.1g}" for row in rows]
    if arguments.json:
        _print_json(rows)
        return
    _print_table(
        ["plan", "MB", "KL(full‖quantized), nats/token", "perplexity"],
        [
            [row["plan"], f"{row['bytes'] / 1e6:.3f}", figure, f"{row['perplexity']:.2f}"]
            for row, figure in zip(rows, kl, strict=True)
        ],
    )
    print(f"Wrote {len(rows)} plans into {arguments.out}; each can be exported as any other.")


def _export(arguments: Arguments) -> None:
    params = {
        "model": arguments.model,
        "out": str(arguments.out),
        "consent": arguments.other_revision,
        "npu": arguments.npu,
    }
    plan = {"plan": str(arguments.plan)} if arguments.plan else {"format": arguments.format}
    result = _finish("export", {**params, **plan})
    if arguments.json:
        _print_json(result)
        return
    formats = ", ".join(f"{count} {name}" for name, count in result["audit"]["formats"].items())
    print(f"Wrote {result['folder']}: {result['size_bytes'] / 1e6:.2f} MB; audited: {formats}")


def _bench(arguments: Arguments) -> None:
    if arguments.compare:
        _compare_benches(arguments)
        return
    from kl_lens_desktop.bench.page import export_html
    from kl_lens_desktop.bench.report import export_csv, load_bench

    params = {
        "folders": [str(folder) for folder in arguments.folders],
        "devices": _names(arguments.devices),
        "text": str(arguments.text) if arguments.text else None,
        "out": str(arguments.out),
        "contexts": arguments.contexts,
        "tokens": arguments.tokens,
        "window": arguments.window,
        "stride": arguments.stride,
        "precision": arguments.precision,
        "speed_minutes": arguments.minutes,
        "cool_down_s": arguments.cool_down,
    }
    rows = [event.row for event in _events("bench", params) if isinstance(event, Measured)]
    if not any(row["status"] == "ok" for row in rows):
        print_bench(rows)
        raise ChildError("Nothing could be measured", "every row failed", "See the reasons above")
    if arguments.csv:
        export_csv(load_bench(arguments.out), arguments.csv)
    if arguments.html:
        export_html(load_bench(arguments.out), arguments.html)
    if arguments.json:
        print(arguments.out.read_text(encoding="utf-8"))
        return
    print_bench(rows)
    print(f"Wrote {arguments.out}")


def _measuring(arguments: Arguments) -> dict[str, Any]:
    return {
        "text": [str(path) for path in arguments.text] or None,
        "tokens": arguments.tokens,
        "window": arguments.window,
        "formats": _names(arguments.formats),
        "source": arguments.calibration,
        "exhaustive": arguments.exhaustive,
        "seed": arguments.seed,
        "precision": arguments.precision,
    }


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


def _compare_benches(arguments: Arguments) -> None:
    from kl_lens_desktop.bench.compare import compare
    from kl_lens_desktop.bench.page import export_comparison_html
    from kl_lens_desktop.bench.report import comparison_table, load_bench

    first, second = (str(path) for path in arguments.compare)
    found = compare(*(load_bench(path) for path in arguments.compare))
    if arguments.html:
        export_comparison_html((first, second), found, arguments.html)
    if arguments.json:
        _print_json(found.as_dict())
        return
    columns = {
        "variant": "variant", "other": "in the second", "device": "device", "figure": "figure",
        "first": first, "second": second, "ratio": "second to first (95 %)", "verdict": "",
    }  # fmt: skip
    lines = comparison_table(found)
    _print_table(list(columns.values()), [[line[key] for key in columns] for line in lines])
    for side, rows in ((first, found.only_first), (second, found.only_second)):
        for row in rows:
            print(f"Only in {side}: {row['variant']} on {row['device']}, {row['status']}")
    if found.environment:
        _print_table(["what differs around them", first, second], [list(line) for line in found.environment])
    for caution in found.cautions:
        print(caution)


def _run(arguments: Arguments) -> None:
    params: dict[str, Any] = {"model": arguments.model, "out": str(arguments.out), "bits": arguments.bits}
    params |= {"quick": arguments.quick, "devices": _names(arguments.devices), **_measuring(arguments)}
    rows, result = [], {}
    for event in _events("run", params):
        if isinstance(event, Measured):
            rows.append(event.row)
        elif isinstance(event, Finished):
            result = event.result
    if arguments.json:
        _print_json({**result, "rows": rows})
        return
    print_bench(rows)
    print(f"Wrote scores.json, plan.json, bench.json and {', '.join(result['folders'])} into {arguments.out}")


# Events to text
# --------------------------------------------------------------------------------------------------


def _events(task: str, params: dict[str, Any]) -> Iterator[Event]:
    """The events of a task, with its progress shown as they pass."""
    from kl_lens_desktop.tasks import TASKS

    meter = _Meter()
    try:
        for event in TASKS[task](params, Cancel()):
            if isinstance(event, Progress):
                meter.show(event)
            elif isinstance(event, Note):
                meter.say(event.text)
            elif isinstance(event, Repaired):
                gain = f"{event.gain:.2g} ± {event.gain_se:.1g}"
                meter.say(f"{len(event.changes)} formats exchanged: KL {event.kl:.4g}, {gain} less")
            elif not isinstance(event, (Weights, Failed)):
                yield event
    finally:
        meter.clear()


def _finish(task: str, params: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for event in _events(task, params):
        if isinstance(event, Finished):
            result = event.result
    return result


class _Meter:
    """One line of progress, rewritten on a terminal; elsewhere new lines, but not too many."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""
        self._width = 0

    def show(self, progress: Progress) -> None:
        share = f" {100 * progress.done / progress.total:3.0f} %" if progress.total else ""
        left = f", {duration(progress.eta_s)} left" if progress.eta_s is not None else ""
        if self._terminal:
            text = f"{progress.stage}{share}{left}: {progress.message}"[:110]
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
            return
        # In a log: each new message or, where they come by the hundred, each tenth of the way.
        tenth = int(10 * progress.done / progress.total) if progress.total else 0
        step = f"{tenth}0 %{left}" if progress.unit and progress.total else progress.message
        if (key := f"{progress.stage}: {tenth if progress.unit else step}") != self._last:
            print(f"{progress.stage}: {step}", file=sys.stderr, flush=True)
            self._last = key

    def say(self, text: str) -> None:
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal and self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def print_bench(rows: list[dict[str, Any]]) -> None:
    """The closing table: one row a variant and device, and a line on what the figures mean."""
    from kl_lens_desktop.bench.report import pairs, table

    columns = {
        "variant": "variant",
        "device": "device",
        "size": "size",
        "perplexity": "perplexity ± se",
        "kl_to_fp16": "KL to FP16 ± se",
        "tokens_per_s": "tokens/s ± sd",
        "speed": "",
        "ttft": "TTFT ± sd",
        "peak_rss": "peak RSS",
        "precision": "precision",
        "status": "status",
    }
    lines = table(rows)
    _print_table(list(columns.values()), [[line[key] for key in columns] for line in lines])
    for line in lines:
        if line["note"]:
            print(f"{line['variant']} on {line['device']}: {line['note']}")
    for pair in pairs(rows):
        print(
            f"{pair['second']} decodes at {pair['ratio']} of {pair['first']} on {pair['device']}: "
            f"{pair['verdict']} after {pair['rounds']} rounds"
        )
    print("Perplexity and KL (nats per token, against the FP16 variant in f32) are of held-out text, on the")
    print("device in its default precision; ≈ marks a speed that noise does not tell apart from the fastest.")


def duration(seconds: float) -> str:
    """``2 min 10 s``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _print_table(header: list[str], rows: list[list[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(header):
        numbers = all(isinstance(row[column], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


# Arguments
# -------------------------------------------------------------------------------------------------------


OTHER_REVISION = (
    "apply a plan made for another revision or model whose weights have the same names and shapes"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kl-lens",
        description="Make hybrid SSM-Transformer language models small and fast on Intel laptops.",
        epilog="MODEL is a Hub id, a local folder, or `sample`. "
        "Exit status: 0 done, 1 failed, 2 usage, 130 cancelled.",
    )
    parser.add_argument("--version", action="version", version=f"KL Lens Desktop {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(
        name: str, function: Any, summary: str, *examples: str, table: bool = True
    ) -> argparse.ArgumentParser:
        text = "examples:\n" + "\n".join(f"  kl-lens {example}" for example in examples)
        layout = argparse.RawDescriptionHelpFormatter
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=summary, epilog=text, formatter_class=layout
        )
        command.set_defaults(command=function)
        command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
        if table:
            command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return command

    app = add("app", _app, "Open the window.", "app", "app sample", "app plan.json", table=False)
    app.add_argument("model", nargs="?", metavar="MODEL", help="a model or a plan.json to open")

    pull = add(
        "pull",
        _pull,
        "Download a model, or go on with it.",
        "pull ibm-granite/granite-4.0-h-350m",
        table=False,
    )
    pull.add_argument("model", metavar="MODEL")
    pull.add_argument("--revision", help="branch, tag or commit")

    inspect = add(
        "inspect", _inspect, "List a model's weight matrices.", "inspect sample", "inspect sample --json"
    )
    inspect.add_argument("model", metavar="MODEL")

    analyze = add(
        "analyze",
        _analyze,
        "Measure how much each weight matters; interrupted, the same command resumes.",
        "analyze sample --out scores.json",
        "analyze sample --out scores.json --formats int4_sym_g64,int4_sym_g128,int8_sym --tokens 16384",
    )
    analyze.add_argument("model", metavar="MODEL")
    analyze.add_argument("--out", type=Path, required=True, metavar="scores.json")
    _add_measuring(analyze)
    analyze.add_argument(
        "--bits", type=_number, help="of the plan in mind: what it decides stops sooner (default 5)"
    )
    analyze.add_argument("--device", default="cpu", help="of torch: cpu (default), cuda or xpu")
    analyze.add_argument("--top", type=_positive, default=20, help="rows to print (default 20)")

    agree = add(
        "agree",
        _agree,
        "Kendall's τ of every metric against measured perplexity.",
        "agree sample --scores scores.json --out agree.json",
    )
    agree.add_argument("model", metavar="MODEL")
    agree.add_argument("--scores", type=Path, required=True, metavar="scores.json")
    agree.add_argument("--out", type=Path, metavar="agree.json")

    plan = add(
        "plan",
        _plan,
        "Choose a format for every weight under a budget.",
        "plan scores.json --out plan.json --bits 5",
        "plan scores.json --out plan.json --size-mb 5.5 --method sqnr",
        "plan scores.json --out plan.json --method uniform-int8_sym",
        "plan scores.json --out plan.json --max-perplexity-increase 1 --device GPU --fused --limit ssm>=8",
        "plan --diff plan.json other.json",
    )
    plan.add_argument("scores", type=Path, nargs="?")
    plan.add_argument("--out", type=Path, metavar="plan.json")
    plan.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="say what sets two plans apart, and make none"
    )
    budget = plan.add_mutually_exclusive_group()
    budget.add_argument(
        "--size-mb", type=_number, help="all exported weights, in MB of 10^6 bytes, without the tokenizer"
    )
    budget.add_argument("--bits", type=_number, help="average bits per quantizable weight, scales included")
    budget.add_argument("--max-kl", type=_number, help="largest summed KL(full‖quantized), nats per token")
    budget.add_argument(
        "--max-perplexity-increase", type=_number, metavar="PERCENT", help="largest predicted increase"
    )
    plan.add_argument(
        "--method", default="kl", help="kl (default), sqnr, mse, delta-ce, paper, or uniform-FORMAT"
    )
    plan.add_argument(
        "--pin", type=_pin, action="append", default=[], metavar="WEIGHT=FORMAT", help="decide one weight"
    )
    plan.add_argument(
        "--limit",
        action="append",
        default=[],
        help="ssm>=8: no fewer bits in weights of a kind; mlp!=nf4_g64 or !=nf4_g64: not that format",
    )
    plan.add_argument(
        "--fused",
        action="store_true",
        help="q, k, v and gate, up share a format, so that they can be fused",
    )
    plan.add_argument(
        "--device", type=_device, help="CPU, GPU or NPU: leave out formats it is known to compute wrongly"
    )

    verify = add(
        "verify",
        _verify,
        "Measure a whole plan on held-out text; repair it first, if asked.",
        "verify sample --plan plan.json",
        "verify sample --plan plan.json --repair --scores scores.json --minutes 10",
    )
    verify.add_argument("model", metavar="MODEL")
    verify.add_argument("--plan", type=Path, required=True, metavar="plan.json")
    verify.add_argument("--text", type=Path, metavar="FILE")
    verify.add_argument("--tokens", type=_positive, help="tokens of text (default 8192)")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="exchange formats at equal bytes as long as that lowers the joint KL on a third text; "
        "interrupted, the same command goes on",
    )
    verify.add_argument(
        "--scores",
        type=Path,
        metavar="scores.json",
        help="formats to try (default: that beside the plan)",
    )
    verify.add_argument(
        "--repair-text", type=Path, metavar="FILE", help="default: calibration text that was not scored on"
    )
    verify.add_argument("--repair-tokens", type=_positive, help="tokens of it (default 4096)")
    verify.add_argument("--minutes", type=_number, help="for the repair at most (default 20)")
    verify.add_argument("--other-revision", action="store_true", help=OTHER_REVISION)

    baselines = add(
        "baselines",
        _baselines,
        "Every baseline at a plan's bytes, as plans, measured on the same held-out text.",
        "baselines sample --scores scores.json --plan plan.json --out baselines",
    )
    baselines.add_argument("model", metavar="MODEL")
    baselines.add_argument("--scores", type=Path, required=True, metavar="scores.json")
    baselines.add_argument("--plan", type=Path, required=True, metavar="plan.json")
    baselines.add_argument("--out", type=Path, required=True, metavar="DIR")
    baselines.add_argument("--text", type=Path, metavar="FILE", help="held-out text")
    baselines.add_argument("--tokens", type=_positive, help="tokens of it (default 8192)")
    baselines.add_argument("--only", metavar="FAMILIES", help="of uniform,metrics,paper,random,nncf")
    baselines.add_argument("--gamma", type=_number, help="of the paper's greedy (default 1.1)")

    export = add(
        "export",
        _export,
        "Write an OpenVINO folder.",
        "export sample --plan plan.json --out sample-mixed",
        "export sample --format int8_sym --out sample-int8",
        "export sample --format int4_sym_pc --npu --out sample-npu",
    )
    export.add_argument("model", metavar="MODEL")
    source = export.add_mutually_exclusive_group(required=True)
    source.add_argument("--plan", type=Path, metavar="plan.json")
    source.add_argument("--format", help="every weight in this one format")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--other-revision", action="store_true", help=OTHER_REVISION)
    export.add_argument("--npu", action="store_true", help="a graph for an NPU too, with the same weights")

    bench = add(
        "bench",
        _bench,
        "Measure exported folders side by side.",
        "bench out/fp16 out/plan --out bench.json",
        "bench out/* --devices CPU,GPU",
        "bench out/* --text wikitext-2-raw-test.txt --tokens 1000000 --html bench.html",
        "bench --compare mine.json yours.json",
    )
    bench.add_argument("folders", type=Path, nargs="*", metavar="DIR")
    bench.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="compare two bench files, and measure nothing",
    )
    bench.add_argument("--devices", help="comma-separated OpenVINO devices (default: all there are)")
    bench.add_argument(
        "--text", type=Path, metavar="FILE", help="held-out text; WikiText is read as lm-eval's task does"
    )
    bench.add_argument("--tokens", type=_positive, help="tokens of it (default 8192)")
    bench.add_argument("--window", type=_positive, help="tokens in a window (default 256; WikiText 2048)")
    bench.add_argument("--stride", type=_positive, help="from window to window (default: side by side)")
    bench.add_argument(
        "--precision", choices=("user", "f32"), help="of the quality run: the device's own (default), or f32"
    )
    bench.add_argument(
        "--contexts",
        type=_lengths,
        metavar="N,N,…",
        help="prompt lengths to time besides 256 (default 128,512,2048)",
    )
    bench.add_argument("--minutes", type=_number, help="of timing on one device at most (default 10)")
    bench.add_argument("--cool-down", type=_number, metavar="S", help="rest before each turn (default 0.2)")
    bench.add_argument("--out", type=Path, default=Path("bench.json"), metavar="bench.json")

    bench.add_argument("--csv", type=Path, metavar="FILE", help="the rows as CSV as well")
    bench.add_argument("--html", type=Path, metavar="FILE", help="a self-contained page as well")

    everything = add(
        "run",
        _run,
        "Analyze, plan, export with baselines and benchmark: all of it.",
        "run sample --out kl-lens-out",
        "run ./my-model --out out --bits 4.5",
    )
    everything.add_argument("model", metavar="MODEL")
    everything.add_argument("--out", type=Path, required=True, metavar="DIR")
    everything.add_argument(
        "--bits", type=_number, help="average bits per quantizable weight of the plan (default 5)"
    )
    everything.add_argument(
        "--quick", action="store_true", help="less text and fewer repetitions, wider errors"
    )
    everything.add_argument(
        "--devices", help="to benchmark on, comma-separated OpenVINO devices (default: all there are)"
    )
    _add_measuring(everything)
    return parser


def _add_measuring(command: argparse.ArgumentParser) -> None:
    text = command.add_mutually_exclusive_group()
    text.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="FILE", help="your own calibration text"
    )
    text.add_argument(
        "--calibration",
        choices=("novels", "wikitext-2", "generated"),
        help="a text of ours: bundled novels (default), WikiText-2 from the Hub, or the model's own writing",
    )
    command.add_argument("--tokens", type=_positive, help="tokens of calibration text (default 4096)")
    command.add_argument("--window", type=_positive, help="tokens per window (default 256)")
    command.add_argument("--formats", help="comma-separated (default int4_sym_g64,int8_sym)")
    command.add_argument(
        "--exhaustive",
        action="store_true",
        help="use all of the text for every entry, also for those whose rank is settled earlier",
    )
    command.add_argument(
        "--seed", type=_natural, help="of the order of windows and of generated text (default 0)"
    )
    command.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        help="bf16 multiplies faster where the processor can; what it costs is measured and said",
    )


def _device(text: str) -> str:
    name = text.upper()
    if name.partition(".")[0] not in ("CPU", "GPU", "NPU"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of CPU, GPU, NPU")
    return name


def _pin(text: str) -> tuple[str, str]:
    weight, equals, name = text.rpartition("=")
    if not equals or not weight:
        raise argparse.ArgumentTypeError(f"{text!r} is not WEIGHT=FORMAT")
    return weight, name


def _lengths(text: str) -> list[int]:
    return [_positive(length) for length in text.split(",")]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    return _positive(text) if text != "0" else 0


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return value
