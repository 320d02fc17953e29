"""The arguments of every command, and what they may be; what is not given has the defaults of its job."""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from kl_lens_desktop import __version__
from kl_lens_desktop.bench.settings import MOST_CONTEXTS, Benchmark
from kl_lens_desktop.cli.console import print_script, tell
from kl_lens_desktop.export.jobs import BaselinesJob
from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.hub.resolve import SAMPLE
from kl_lens_desktop.plan.document import MOST_BITS, MOST_BYTES, MOST_KL
from kl_lens_desktop.plan.jobs import RepairSettings, VerifyJob
from kl_lens_desktop.quant.activations import GROUPS, LARGEST
from kl_lens_desktop.run import RunJob
from kl_lens_desktop.sensitivity.jobs import ANCHOR, ROUNDINGS, AgreeJob, Analysis
from kl_lens_desktop.text.bundled import LONGEST_WINDOW, MOST_TOKENS, REPAIR_TOKENS

USAGE = 2  # the exit status of arguments that are none
MOST_PERCENT = 1e12
MOST_HITS = 500
LONGEST_S = 7 * 24 * 3600
LARGEST_SEED = 2**32 - 1
MODEL = "a Hub id, a local folder, or `sample`"
COMBINED = ", a combination such as AUTO:GPU,CPU last"
ACTIVATION_GROUPS = {str(size): size for size in GROUPS} | {"largest": LARGEST}
OTHER_REVISION = (
    "apply a plan made for another model or revision whose weights have the same names and shapes"
)


SHELLS = ("bash", "zsh", "fish", "powershell", "tcsh")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        tell(f"{self.prog}: {message}. See {self.prog} --help.")
        raise SystemExit(USAGE)


class _PrintCompletion(argparse.Action):
    """Made by shtab, which is read for this alone."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option_string: str | None = None
    ) -> NoReturn:
        if shell not in SHELLS:
            parser.error(f"{shell} is none of {', '.join(SHELLS)}")
        import shtab

        print_script(shtab.complete(parser, shell))
        parser.exit(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Idle:
    """Options that would change nothing, `why`, and whether that is `now` so."""

    why: str
    now: Callable[[argparse.Namespace], bool]
    options: Sequence[argparse.Action]


Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def parser() -> argparse.ArgumentParser:
    """Of the whole command line; ``command`` is the name of the command given."""
    whole = _Parser(
        prog="kl-lens",
        description="Make hybrid SSM-Transformer language models small and fast on Intel laptops.",
        epilog="MODEL is a Hub id, a local folder, or `sample`. "
        "Exit status: 0 done, 1 failed, 2 usage, 130 cancelled.",
    )
    whole.add_argument("--version", action="version", version=f"KL Lens Desktop {__version__}")
    whole.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        metavar="SHELL",
        help=f"print what makes a shell complete commands and options ({', '.join(SHELLS)}), and exit",
    )
    whole.add_argument(
        "--self-test",
        nargs="?",
        const=SAMPLE,
        metavar="MODEL",
        help="check that this installation works: take the bundled sample, or MODEL, through a short form of "
        "every step on the CPU, and exit with 0 or, with a sentence that says why, 1",
    )
    whole.set_defaults(command="self-test", debug=False)
    commands = whole.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    for add in (
        _add_app,
        _add_search,
        _add_pull,
        _add_verify_files,
        _add_inspect,
        _add_analyze,
        _add_agree,
        _add_prices,
        _add_plan,
        _add_verify,
        _add_baselines,
        _add_export,
        _add_bench,
        _add_run,
        _add_push,
        _add_share,
        _add_receive,
    ):
        add(commands)
    return whole


def empty_argument(argv: Sequence[str]) -> str | None:
    """The first argument that says nothing, by the option that it belongs to; None if there is none."""
    for before, argument in pairwise(["", *argv]):
        if not argument.strip():
            return before if before.startswith("--") else "an argument"
        if argument.startswith("--") and argument.endswith("="):
            return argument[:-1]
    return None


def _command(
    commands: Commands, name: str, summary: str, *examples: str, table: bool = True
) -> argparse.ArgumentParser:
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


def _add_app(commands: Commands) -> None:
    command = _command(commands, "app", "Open the window.", "app", "app sample", "app plan.json", table=False)
    command.add_argument("model", nargs="?", metavar="MODEL", help="a model, a plan or a bundle to open")


def _add_search(commands: Commands) -> None:
    command = _command(
        commands,
        "search",
        "Find models on the Hugging Face Hub.",
        "search",
        "search granite-4.0-h --max-parameters 3B",
        "search --architecture zamba2 --licence apache-2.0 --open",
    )
    command.add_argument("query", nargs="?", default="", help="a part of the id; nothing for suggestions")
    command.add_argument("--architecture", default="", choices=tuple(FAMILIES), metavar="MODEL_TYPE")
    command.add_argument("--author", default="", help="such as ibm-granite")
    command.add_argument(
        "--max-parameters", type=_parameters, metavar="N", help="most weights, such as 3B or 500M"
    )
    command.add_argument("--licence", default="", help="as the Hub calls it, such as apache-2.0")
    command.add_argument(
        "--open", action="store_true", help="leave out models that need the authors' consent"
    )
    command.add_argument("--limit", type=_limit, default=30, help="models to list (default 30)")


def _add_pull(commands: Commands) -> None:
    command = _command(
        commands,
        "pull",
        "Download a model. Run it again to resume.",
        "pull ibm-granite/granite-4.0-h-350m",
        "pull ibm-granite/granite-4.0-h-350m --check",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--revision", help="branch, tag or commit")
    command.add_argument(
        "--check",
        action="store_true",
        help="only say whether the model can be used and fits; download nothing",
    )
    command.add_argument(
        "--move", action="store_true", help="move a model of an earlier version to the Hugging Face cache"
    )
    command.add_argument(
        "--with-tokenizer",
        action="store_true",
        help="where a model has no tokenizer, download the one that its authors use too",
    )


def _add_verify_files(commands: Commands) -> None:
    command = _command(
        commands,
        "verify-files",
        "Compare the files of a downloaded model with their hashes.",
        "verify-files ibm-granite/granite-4.0-h-350m",
        "verify-files ibm-granite/granite-4.0-h-350m --repair",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--revision", help="branch, tag or commit that was downloaded")
    command.add_argument("--repair", action="store_true", help="download damaged files again")


def _add_inspect(commands: Commands) -> None:
    command = _command(
        commands, "inspect", "List a model's weight matrices.", "inspect sample", "inspect sample --json"
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)


def _add_analyze(commands: Commands) -> None:
    command = _command(
        commands,
        "analyze",
        "Measure how much each weight matters. Run it again to resume.",
        "analyze sample --out scores.json",
        "analyze sample --out scores.json --formats int4_sym_g64,int4_sym_g128,int8_sym --tokens 16384",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--out", type=Path, required=True, metavar="scores.json")
    _add_measuring(command)
    bits = _usual(Analysis, "bits")
    command.add_argument(
        "--bits",
        type=_bits,
        help="average bits of the plan you intend to make; weights whose format it settles stop sooner "
        f"(default {bits})",
    )
    command.add_argument(
        "--device", help=f"torch device: {_usual(Analysis, 'device')} (default), cuda or xpu"
    )
    command.add_argument("--top", type=_tokens, default=20, help="rows to print (default 20)")


def _add_agree(commands: Commands) -> None:
    command = _command(
        commands,
        "agree",
        "Compare every metric with measured perplexity (Kendall's τ).",
        "agree sample --scores scores.json --out agree.json",
        "agree sample --scores scores.json --formats int2_sym_g32 --tokens 16384",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--scores", type=Path, required=True, metavar="scores.json")
    command.add_argument("--out", type=Path, metavar="agree.json")
    command.add_argument("--text", type=Path, metavar="FILE", help="held-out text")
    command.add_argument(
        "--tokens", type=_tokens, help=f"tokens of that text (default {_usual(AgreeJob, 'tokens')})"
    )
    command.add_argument(
        "--formats",
        metavar="FORMATS",
        help="comma-separated: which of the measured formats to compare (default: all)",
    )


def _add_prices(commands: Commands) -> None:
    command = _command(
        commands,
        "prices",
        "Measure what every format costs a model on a device: size, memory and speed. It is measured once.",
        "prices sample",
        "prices ibm-granite/granite-4.0-h-350m --device GPU",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--device", type=_device, default="CPU", help="CPU (default) or GPU")
    command.add_argument("--again", action="store_true", help="measure what is known too")


def _add_plan(commands: Commands) -> None:
    command = _command(
        commands,
        "plan",
        "Choose a format for every weight under a budget.",
        "plan scores.json --out plan.json --bits 5",
        "plan scores.json --out plan.json --size-mb 5.5 --method sqnr",
        "plan scores.json --out plan.json --method uniform-int8_sym",
        "plan scores.json --out plan.json --max-perplexity-increase 1 --device GPU --fused --limit ssm>=8",
        "plan scores.json --out plan.json --min-tokens-per-s 40 --device CPU",
        "plan scores.json --out plan.json --max-kl 0.02 --fastest",
        "plan --diff plan.json other.json",
    )
    making = [
        command.add_argument(
            "scores", type=Path, nargs="?", metavar="SCORES", help="the score file that `analyze` wrote"
        ),
        command.add_argument("--out", type=Path, metavar="plan.json"),
    ]
    command.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="show how two plans differ; makes no plan"
    )
    making += [*_add_budget(command), *_add_limits(command)]
    command.set_defaults(idle=[Idle("plan --diff makes no plan", lambda a: bool(a.diff), making)])


def _add_budget(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """How large, good or fast a plan is to be."""
    budget = command.add_mutually_exclusive_group()
    return [
        budget.add_argument(
            "--size-mb",
            type=_megabytes,
            help="size of all exported weights in MB (10^6 bytes), without the tokenizer",
        ),
        budget.add_argument(
            "--bits", type=_bits, help="average bits per quantizable weight, scales included"
        ),
        budget.add_argument("--max-kl", type=_kl, help="largest summed KL(full‖quantized), nats per token"),
        budget.add_argument(
            "--max-perplexity-increase",
            type=_percent,
            metavar="PERCENT",
            help="largest predicted increase",
        ),
        budget.add_argument(
            "--min-tokens-per-s",
            type=_speed,
            metavar="SPEED",
            help="least speed of decoding on the device (CPU without --device)",
        ),
        budget.add_argument(
            "--memory-mb",
            type=_megabytes,
            help="memory on the device in MB (10^6 bytes), weights and all else",
        ),
        command.add_argument(
            "--fastest",
            action="store_true",
            help="with --max-kl or --max-perplexity-increase: the fastest plan there, not the smallest",
        ),
        command.add_argument(
            "--model",
            metavar="MODEL",
            help="where the scored model is, if the plan needs prices that are not measured yet",
        ),
    ]


def _add_limits(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """How a plan is made, and what may be in it."""
    return [
        command.add_argument(
            "--method", default="kl", help="kl (default), sqnr, mse, delta-ce, paper, or uniform-FORMAT"
        ),
        command.add_argument(
            "--pin",
            type=_pin,
            action="append",
            default=[],
            metavar="WEIGHT=FORMAT",
            help="fix the format of one weight",
        ),
        command.add_argument(
            "--limit",
            action="append",
            default=[],
            help=(
                "ssm>=8: at least 8 bits in weights of a kind; mlp!=nf4_g64 or !=nf4_g64: never that format"
            ),
        ),
        command.add_argument(
            "--fused",
            action="store_true",
            help="use one format for q, k, v and one for gate, up, so they can be fused",
        ),
        command.add_argument(
            "--device",
            type=_device,
            help="CPU, GPU or NPU: leave out formats that it computes wrongly, or that save "
            "disk and cost time there",
        ),
    ]


def _add_verify(commands: Commands) -> None:
    command = _command(
        commands,
        "verify",
        "Measure a whole plan on held-out text. Repair it first with --repair.",
        "verify sample --plan plan.json",
        "verify sample --plan plan.json --repair --scores scores.json --minutes 10",
        "verify sample --plan plan.json --refine",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--plan", type=Path, required=True, metavar="plan.json")
    command.add_argument("--text", type=Path, metavar="FILE", help="held-out text")
    command.add_argument(
        "--tokens",
        type=_tokens,
        help=f"tokens of that text (default {_usual(VerifyJob, 'tokens')})",
    )
    command.add_argument(
        "--repair",
        action="store_true",
        help=(
            "exchange formats at equal size while that lowers the joint KL on a third text; run "
            "it again to resume"
        ),
    )
    minutes = _usual(RepairSettings, "minutes")
    repairing = [
        command.add_argument(
            "--scores",
            type=Path,
            metavar="scores.json",
            help="formats that the repair tries (default: scores.json next to the plan)",
        ),
        command.add_argument(
            "--repair-text",
            type=Path,
            metavar="FILE",
            help="text for the repair (default: the bundled novels, without what was scored of them)",
        ),
        command.add_argument(
            "--repair-tokens",
            type=_tokens,
            help=f"tokens of that text (default: {REPAIR_TOKENS}, and more while time is left)",
        ),
        command.add_argument(
            "--minutes", type=_minutes, help=f"longest time for the repair (default {minutes})"
        ),
    ]
    command.add_argument(
        "--refine",
        action="store_true",
        help="round the weights again, one after the other, so that each makes up for the errors of those "
        "before it; kept if the joint KL falls by more than its error",
    )
    refining = command.add_argument(
        "--refine-text",
        type=Path,
        metavar="FILE",
        help="the text that the weights were rounded by (default: the bundled novels)",
    )
    command.set_defaults(
        idle=[
            Idle("verify exchanges no formats without --repair", lambda a: not a.repair, repairing),
            Idle("verify rounds nothing again without --refine", lambda a: not a.refine, [refining]),
        ]
    )
    command.add_argument("--other-revision", action="store_true", help=OTHER_REVISION)
    _add_cluster(command)


def _add_baselines(commands: Commands) -> None:
    command = _command(
        commands,
        "baselines",
        "Make baseline plans of a plan's size, and measure them on the same held-out text.",
        "baselines sample --scores scores.json --plan plan.json --out baselines",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--scores", type=Path, required=True, metavar="scores.json")
    command.add_argument("--plan", type=Path, required=True, metavar="plan.json")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--text", type=Path, metavar="FILE", help="held-out text")
    tokens, gamma = _usual(BaselinesJob, "tokens"), _usual(BaselinesJob, "gamma")
    command.add_argument("--tokens", type=_tokens, help=f"tokens of that text (default {tokens})")
    command.add_argument(
        "--only", metavar="FAMILIES", help=f"comma-separated: {_usual(BaselinesJob, 'only')} (default: all)"
    )
    command.add_argument("--gamma", type=_percent, help=f"γ of the paper's greedy method (default {gamma})")
    _add_cluster(command)


def _add_export(commands: Commands) -> None:
    command = _command(
        commands,
        "export",
        "Write an OpenVINO folder.",
        "export sample --plan plan.json --out sample-mixed",
        "export sample --format int8_sym --out sample-int8",
        "export sample --format int4_sym_pc --npu --out sample-npu",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--plan", type=Path, metavar="plan.json")
    source.add_argument("--format", help="use this one format for every weight")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--other-revision", action="store_true", help=OTHER_REVISION)
    command.add_argument(
        "--npu", action="store_true", help="also write a graph for an NPU, with the same weights"
    )
    command.add_argument(
        "--paged",
        action="store_true",
        help="for servers: a graph that runs on OpenVINO's paged backend, with continuous batching and a "
        "prefix cache; it reads prompts more slowly",
    )
    command.add_argument(
        "--activation-group",
        choices=tuple(ACTIVATION_GROUPS),
        help="let devices quantize activations in groups of so many, at most those of the weights, where "
        "nobody asks them otherwise: larger groups are faster on processors with VNNI, and less exact",
    )


def _add_bench(commands: Commands) -> None:
    command = _command(
        commands,
        "bench",
        "Measure exported folders side by side.",
        "bench out/fp16 out/plan --out bench.json",
        "bench out --devices CPU,GPU",
        "bench out --text wikitext-2-raw-test.txt --tokens 1000000 --html bench.html",
        "bench --compare mine.json yours.json",
    )
    command.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="exported models, or a folder with several, such as `run` writes",
    )
    command.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="compare two bench files; measures nothing",
    )
    measuring = _add_benchmark(command)
    command.set_defaults(
        idle=[Idle("bench --compare measures nothing", lambda a: bool(a.compare), measuring)]
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="also write the table as CSV")
    command.add_argument("--html", type=Path, metavar="FILE", help="also write a self-contained page")


def _add_benchmark(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """What to measure, and on what: none of it goes with ``--compare``."""
    return [
        command.add_argument(
            "--devices", help=f"comma-separated OpenVINO devices{COMBINED} (default: all available)"
        ),
        *_add_quality(command),
        *_add_timing(command),
        command.add_argument("--out", type=Path, metavar="FILE", help="the bench file (default bench.json)"),
        command.add_argument(
            "--gguf",
            type=Path,
            action="append",
            metavar="FILE",
            help="also time this GGUF file with llama.cpp, which must be installed",
        ),
        command.add_argument(
            "--llama-bench", type=Path, metavar="PROGRAM", help="llama.cpp's llama-bench (default: in PATH)"
        ),
    ]


def _add_quality(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        command.add_argument(
            "--text",
            type=Path,
            metavar="FILE",
            help="held-out text; WikiText is read as lm-eval's task reads it",
        ),
        command.add_argument(
            "--tokens",
            type=_tokens,
            help=f"tokens of that text (default {_usual(Benchmark, 'tokens')})",
        ),
        command.add_argument(
            "--window", type=_window, help="tokens in a window (default 256; WikiText 2048)"
        ),
        command.add_argument(
            "--stride",
            type=_window,
            help="tokens from one window to the next (default: no overlap)",
        ),
        command.add_argument(
            "--precision",
            choices=("user", "f32"),
            help="precision of the quality run: the device's default (user, the default), or f32",
        ),
    ]


def _add_timing(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        command.add_argument(
            "--contexts",
            type=_lengths,
            metavar="N,N,…",
            help=f"prompt lengths to time in addition to {_usual(Benchmark, 'prompt_tokens')} "
            f"(default {_usual(Benchmark, 'contexts')})",
        ),
        command.add_argument(
            "--minutes",
            type=_minutes,
            help=f"longest time for timing on each device (default {_usual(Benchmark, 'speed_minutes')})",
        ),
        command.add_argument(
            "--quick",
            action="store_const",
            const=True,
            help="less text and fewer repetitions, with wider errors",
        ),
        command.add_argument(
            "--cool-down",
            type=_seconds,
            metavar="S",
            help=f"rest before each turn (default {_usual(Benchmark, 'cool_down_s')})",
        ),
    ]


def _add_run(commands: Commands) -> None:
    command = _command(
        commands,
        "run",
        "Analyze, plan, export and benchmark a model. Run it again and it resumes; only the "
        "benchmark is repeated.",
        "run sample --out kl-lens-out",
        "run ./my-model --out out --bits 4.5",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    bits = _usual(Analysis, "bits")
    command.add_argument(
        "--bits",
        type=_bits,
        help=f"average bits of the plan per quantizable weight (default {bits})",
    )
    command.add_argument(
        "--quick", action="store_true", help="less text and fewer repetitions, with wider errors"
    )
    command.add_argument(
        "--devices", help=f"devices to benchmark, comma-separated{COMBINED} (default: all available)"
    )
    minutes = RunJob("", Path()).benchmark.speed_minutes
    command.add_argument(
        "--bench-minutes",
        type=_minutes,
        metavar="N",
        help=f"longest time for timing on each device (default {minutes:g})",
    )
    command.add_argument(
        "--contexts", type=_lengths, metavar="N,N,…", help="prompt lengths to time, as in bench"
    )
    command.add_argument(
        "--bench-text", type=Path, metavar="FILE", help="held-out text for the benchmark, as in bench"
    )
    command.add_argument("--bench-tokens", type=_tokens, metavar="N", help="tokens of that text, as in bench")
    command.add_argument(
        "--bench-precision", choices=("user", "f32"), help="precision of the quality run, as in bench"
    )
    _add_measuring(command)


def _add_push(commands: Commands) -> None:
    command = _command(
        commands,
        "push",
        "Upload an exported folder to the Hugging Face Hub, as a private repository.",
        "push out/plan me/granite-4.0-h-350m-openvino",
        "push out/plan me/granite-4.0-h-350m-openvino --bench bench.json --public --yes",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="a folder that `export` or `run` wrote")
    command.add_argument("repository", metavar="OWNER/NAME")
    command.add_argument("--bench", type=Path, metavar="bench.json", help="figures for the model card")
    command.add_argument(
        "--public", action="store_true", help="let everybody see it; a repository that exists stays as it is"
    )
    command.add_argument(
        "--replace", action="store_true", help="let it replace files that KL Lens did not write"
    )
    command.add_argument("--yes", action="store_true", help="upload without asking")


def _add_share(commands: Commands) -> None:
    command = _command(
        commands,
        "share",
        "Write the plan, scores and benchmark of a model as one file to send, without weights and paths.",
        "share kl-lens-out",
        "share kl-lens-out --out granite.kl-lens.json",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="a folder that `run` wrote into")
    command.add_argument("--out", type=Path, metavar="FILE", help="the bundle (default: DIR.kl-lens.json)")


def _add_receive(commands: Commands) -> None:
    command = _command(
        commands,
        "receive",
        "Check a bundle that somebody shared, and show what is in it.",
        "receive granite.kl-lens.json",
        "receive granite.kl-lens.json --out theirs",
        "receive granite.kl-lens.json --bench kl-lens-out/bench.json",
    )
    command.add_argument("bundle", type=Path, metavar="FILE")
    command.add_argument("--out", type=Path, metavar="DIR", help="write its parts as files")
    command.add_argument(
        "--bench", type=Path, metavar="bench.json", help="compare its benchmark with this one of yours"
    )


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
    tokens, window, seed = (_usual(Analysis, name) for name in ("tokens", "window", "seed"))
    command.add_argument("--tokens", type=_tokens, help=f"tokens of calibration text (default {tokens})")
    command.add_argument("--window", type=_window, help=f"tokens per window (default {window})")
    command.add_argument(
        "--formats",
        help=f"measure exactly these, comma-separated (default: all, predicted from {ANCHOR}, and measured "
        "where that is too rough for the plan)",
    )
    command.add_argument(
        "--minutes",
        type=_minutes,
        help="longest time for measuring; every weight has its best known figures then, and running it again "
        "improves them",
    )
    command.add_argument(
        "--exhaustive",
        action="store_true",
        help="use all of the text for every weight, even if its rank is settled earlier",
    )
    command.add_argument(
        "--seed",
        type=_seed,
        help=f"random seed for the order of windows and for generated text (default {seed})",
    )
    command.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        help="bf16 is faster on processors that support it; its error is measured and reported",
    )
    command.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        help=(
            "data (default) chooses each weight's integers by the inputs that a text gives it; nearest "
            "rounds each number on its own"
        ),
    )
    _add_cluster(command)


def _add_cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cluster",
        type=_address,
        metavar="ADDRESS",
        help="measure on the computers of a Ray cluster: HOST:PORT, ray://HOST:PORT, or auto on one of them",
    )


def _usual(kind: type[Any], name: str) -> str:
    """The default of a record's field, as it is typed on a command line."""
    (usual,) = (field.default for field in dataclasses.fields(kind) if field.name == name)
    if isinstance(usual, tuple):
        return ",".join(map(str, usual))
    return f"{usual:g}" if isinstance(usual, float) else str(usual)


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


def _address(text: str) -> str:
    host, _, port = text.removeprefix("ray://").rpartition(":")
    is_port = port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535
    if text not in ("auto", "local") and not (is_port and re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", host)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, ray://HOST:PORT or auto")
    return text


def _lengths(text: str) -> tuple[int, ...]:
    lengths = tuple(map(_window, text.split(",")))
    if len(lengths) > MOST_CONTEXTS:
        raise argparse.ArgumentTypeError(f"{len(lengths)} lengths are more than {MOST_CONTEXTS}")
    return lengths


def _parameters(text: str) -> str:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?[KMB]", text.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of weights such as 3B or 500M")
    return text.upper()


def _whole(least: int, most: int, text: str) -> int:
    if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most:,}")
    return int(text)


def _number(most: float, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most:,g}")
    return value


# The files that these are written into take no more.
_tokens, _window = partial(_whole, 1, MOST_TOKENS), partial(_whole, 1, LONGEST_WINDOW)
_seed, _limit = partial(_whole, 0, LARGEST_SEED), partial(_whole, 1, MOST_HITS)
_speed = partial(_number, 1e6)
_bits, _kl, _megabytes = (
    partial(_number, MOST_BITS),
    partial(_number, MOST_KL),
    partial(_number, MOST_BYTES / 1e6),
)
_percent = partial(_number, MOST_PERCENT)
_seconds, _minutes = partial(_number, LONGEST_S), partial(_number, LONGEST_S / 60)
