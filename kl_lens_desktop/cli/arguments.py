"""The arguments of every command, and what they may be."""

import argparse
import math
import sys
from pathlib import Path
from typing import NoReturn

from kl_lens_desktop import __version__

USAGE = 2  # the exit status of arguments that are none
OTHER_REVISION = (
    "apply a plan made for another model or revision whose weights have the same names and shapes"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(USAGE)


def parser() -> argparse.ArgumentParser:
    """Of the whole command line; ``command`` is the name of the command given."""
    whole = _Parser(
        prog="kl-lens",
        description="Make hybrid SSM-Transformer language models small and fast on Intel laptops.",
        epilog="MODEL is a Hub id, a local folder, or `sample`. "
        "Exit status: 0 done, 1 failed, 2 usage, 130 cancelled.",
    )
    whole.add_argument("--version", action="version", version=f"KL Lens Desktop {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, summary: str, *examples: str, table: bool = True) -> argparse.ArgumentParser:
        text = "examples:\n" + "\n".join(f"  kl-lens {example}" for example in examples)
        layout = argparse.RawDescriptionHelpFormatter
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=summary, description=summary, epilog=text, formatter_class=layout
        )
        command.set_defaults(command=name)
        command.add_argument("--debug", action="store_true", help="show the traceback of a failure")
        if table:
            command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return command

    app = add("app", "Open the window.", "app", "app sample", "app plan.json", table=False)
    app.add_argument("model", nargs="?", metavar="MODEL", help="a model or a plan.json to open")

    pull = add(
        "pull",
        "Download a model. Run it again to resume.",
        "pull ibm-granite/granite-4.0-h-350m",
        table=False,
    )
    pull.add_argument("model", metavar="MODEL")
    pull.add_argument("--revision", help="branch, tag or commit")

    inspect = add("inspect", "List a model's weight matrices.", "inspect sample", "inspect sample --json")
    inspect.add_argument("model", metavar="MODEL")

    analyze = add(
        "analyze",
        "Measure how much each weight matters. Run it again to resume.",
        "analyze sample --out scores.json",
        "analyze sample --out scores.json --formats int4_sym_g64,int4_sym_g128,int8_sym --tokens 16384",
    )
    analyze.add_argument("model", metavar="MODEL")
    analyze.add_argument("--out", type=Path, required=True, metavar="scores.json")
    _add_measuring(analyze)
    analyze.add_argument(
        "--bits",
        type=_number,
        help=(
            "average bits of the plan you intend to make; weights whose format it settles stop "
            "sooner (default 5)"
        ),
    )
    analyze.add_argument("--device", default="cpu", help="torch device: cpu (default), cuda or xpu")
    analyze.add_argument("--top", type=_positive, default=20, help="rows to print (default 20)")

    agree = add(
        "agree",
        "Compare every metric with measured perplexity (Kendall's τ).",
        "agree sample --scores scores.json --out agree.json",
    )
    agree.add_argument("model", metavar="MODEL")
    agree.add_argument("--scores", type=Path, required=True, metavar="scores.json")
    agree.add_argument("--out", type=Path, metavar="agree.json")

    plan = add(
        "plan",
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
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="show how two plans differ; makes no plan"
    )
    budget = plan.add_mutually_exclusive_group()
    budget.add_argument(
        "--size-mb",
        type=_number,
        help="size of all exported weights in MB (10^6 bytes), without the tokenizer",
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
        "--pin",
        type=_pin,
        action="append",
        default=[],
        metavar="WEIGHT=FORMAT",
        help="fix the format of one weight",
    )
    plan.add_argument(
        "--limit",
        action="append",
        default=[],
        help=("ssm>=8: at least 8 bits in weights of a kind; mlp!=nf4_g64 or !=nf4_g64: never that format"),
    )
    plan.add_argument(
        "--fused",
        action="store_true",
        help="use one format for q, k, v and one for gate, up, so they can be fused",
    )
    plan.add_argument(
        "--device", type=_device, help="CPU, GPU or NPU: leave out formats that it computes wrongly"
    )

    verify = add(
        "verify",
        "Measure a whole plan on held-out text. Repair it first with --repair.",
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
        help=(
            "exchange formats at equal size while that lowers the joint KL on a third text; run "
            "it again to resume"
        ),
    )
    verify.add_argument(
        "--scores",
        type=Path,
        metavar="scores.json",
        help="formats to try (default: scores.json next to the plan)",
    )
    verify.add_argument(
        "--repair-text",
        type=Path,
        metavar="FILE",
        help="text for the repair (default: calibration text that was not used for scoring)",
    )
    verify.add_argument("--repair-tokens", type=_positive, help="tokens of that text (default 4096)")
    verify.add_argument("--minutes", type=_number, help="longest time for the repair (default 20)")
    verify.add_argument("--other-revision", action="store_true", help=OTHER_REVISION)

    baselines = add(
        "baselines",
        "Make baseline plans of a plan's size, and measure them on the same held-out text.",
        "baselines sample --scores scores.json --plan plan.json --out baselines",
    )
    baselines.add_argument("model", metavar="MODEL")
    baselines.add_argument("--scores", type=Path, required=True, metavar="scores.json")
    baselines.add_argument("--plan", type=Path, required=True, metavar="plan.json")
    baselines.add_argument("--out", type=Path, required=True, metavar="DIR")
    baselines.add_argument("--text", type=Path, metavar="FILE", help="held-out text")
    baselines.add_argument("--tokens", type=_positive, help="tokens of that text (default 8192)")
    baselines.add_argument(
        "--only", metavar="FAMILIES", help="comma-separated: uniform,metrics,paper,random,nncf (default: all)"
    )
    baselines.add_argument("--gamma", type=_number, help="γ of the paper's greedy method (default 1.1)")

    export = add(
        "export",
        "Write an OpenVINO folder.",
        "export sample --plan plan.json --out sample-mixed",
        "export sample --format int8_sym --out sample-int8",
        "export sample --format int4_sym_pc --npu --out sample-npu",
    )
    export.add_argument("model", metavar="MODEL")
    source = export.add_mutually_exclusive_group(required=True)
    source.add_argument("--plan", type=Path, metavar="plan.json")
    source.add_argument("--format", help="use this one format for every weight")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--other-revision", action="store_true", help=OTHER_REVISION)
    export.add_argument(
        "--npu", action="store_true", help="also write a graph for an NPU, with the same weights"
    )

    bench = add(
        "bench",
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
        help="compare two bench files; measures nothing",
    )
    measuring = [
        bench.add_argument("--devices", help="comma-separated OpenVINO devices (default: all available)"),
        bench.add_argument(
            "--text",
            type=Path,
            metavar="FILE",
            help="held-out text; WikiText is read as lm-eval's task reads it",
        ),
        bench.add_argument("--tokens", type=_positive, help="tokens of that text (default 8192)"),
        bench.add_argument(
            "--window", type=_positive, help="tokens in a window (default 256; WikiText 2048)"
        ),
        bench.add_argument(
            "--stride", type=_positive, help="tokens from one window to the next (default: no overlap)"
        ),
        bench.add_argument(
            "--precision",
            choices=("user", "f32"),
            help="precision of the quality run: the device's default (user, the default), or f32",
        ),
        bench.add_argument(
            "--contexts",
            type=_lengths,
            metavar="N,N,…",
            help="prompt lengths to time in addition to 256 (default 128,512,2048)",
        ),
        bench.add_argument(
            "--minutes", type=_number, help="longest time for timing on each device (default 10)"
        ),
        bench.add_argument(
            "--quick",
            action="store_const",
            const=True,
            help="less text and fewer repetitions, with wider errors",
        ),
        bench.add_argument(
            "--cool-down", type=_number, metavar="S", help="rest before each turn (default 0.2)"
        ),
        bench.add_argument("--out", type=Path, metavar="FILE", help="the bench file (default bench.json)"),
    ]
    bench.set_defaults(measuring=measuring)
    bench.add_argument("--csv", type=Path, metavar="FILE", help="also write the table as CSV")
    bench.add_argument("--html", type=Path, metavar="FILE", help="also write a self-contained page")

    everything = add(
        "run",
        "Analyze, plan, export and benchmark a model. Run it again and it resumes; only the "
        "benchmark is repeated.",
        "run sample --out kl-lens-out",
        "run ./my-model --out out --bits 4.5",
    )
    everything.add_argument("model", metavar="MODEL")
    everything.add_argument("--out", type=Path, required=True, metavar="DIR")
    everything.add_argument(
        "--bits", type=_number, help="average bits of the plan per quantizable weight (default 5)"
    )
    everything.add_argument(
        "--quick", action="store_true", help="less text and fewer repetitions, with wider errors"
    )
    everything.add_argument(
        "--devices", help="devices to benchmark, comma-separated (default: all available)"
    )
    _add_measuring(everything)
    return whole


def _add_measuring(command: argparse.ArgumentParser) -> None:
    text = command.add_mutually_exclusive_group()
    text.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="FILE", help="your own calibration text"
    )
    text.add_argument(
        "--calibration",
        choices=("novels", "wikitext-2", "generated"),
        help=(
            "calibration text: bundled novels (default), WikiText-2 from the Hub, or text that "
            "the model writes"
        ),
    )
    command.add_argument("--tokens", type=_positive, help="tokens of calibration text (default 4096)")
    command.add_argument("--window", type=_positive, help="tokens per window (default 256)")
    command.add_argument("--formats", help="comma-separated (default int4_sym_g64,int8_sym)")
    command.add_argument(
        "--exhaustive",
        action="store_true",
        help="use all of the text for every weight, even if its rank is settled earlier",
    )
    command.add_argument(
        "--seed",
        type=_natural,
        help="random seed for the order of windows and for generated text (default 0)",
    )
    command.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        help="bf16 is faster on processors that support it; its error is measured and reported",
    )


def _device(text: str) -> str:
    name = text.upper()
    if name.partition(".")[0] not in ("CPU", "GPU", "NPU"):
        raise argparse.ArgumentTypeError(f"{text!r} is not CPU, GPU or NPU")
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number greater than 0")
    return int(text)


def _natural(text: str) -> int:
    return _positive(text) if text != "0" else 0


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value
