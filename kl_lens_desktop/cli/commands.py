"""The command line: the same stages as the window, progress on standard error, results on standard output."""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kl_lens_desktop import quantities
from kl_lens_desktop.cli.arguments import empty_argument, parser
from kl_lens_desktop.cli.console import (
    Carry,
    duration,
    events,
    finish,
    in_child,
    print_bench,
    print_comparison,
    print_json,
    print_json_text,
    print_table,
    say,
    tell,
    tell_traceback,
)
from kl_lens_desktop.cli.display import check_display
from kl_lens_desktop.cli.hub import check, push, search, verify_files
from kl_lens_desktop.cli.jobs import (
    agree_job,
    analyze_job,
    baselines_job,
    bench_job,
    export_job,
    run_job,
    verify_job,
)
from kl_lens_desktop.cli.plans import make_plan, print_prices
from kl_lens_desktop.cli.sharing import receive, share
from kl_lens_desktop.errors import ChildError, InputError, KLLensError, is_fault
from kl_lens_desktop.files import check_file, check_replaceable
from kl_lens_desktop.hub.jobs import PullJob
from kl_lens_desktop.model.jobs import InspectJob
from kl_lens_desktop.process.events import Finished, Measured
from kl_lens_desktop.process.job import perform
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.sensitivity.jobs import RELIABLE, highest_tau
from kl_lens_desktop.sensitivity.labels import NAMES, with_unit

if TYPE_CHECKING:
    from kl_lens_desktop.sensitivity.scores import Held

FAILED = 1
BUDGETS = ("size_mb", "bits", "max_kl", "max_perplexity_increase", "min_tokens_per_s", "memory_mb")
_GOES_ON = "is kept, and the same command goes on from there."
KEPT = {
    "analyze": f"What was measured {_GOES_ON}",
    "run": f"What was measured and exported {_GOES_ON}",
    "pull": f"What was downloaded {_GOES_ON}",
    "export": "No unfinished folder is left.",
}
Arguments = argparse.Namespace


def run(argv: list[str], carry: Carry = in_child) -> int:
    """Run one command; return its exit status: 0 done, 1 failed, 2 usage.

    Parameters
    ----------
    carry : callable
        Does the command's job: see `console.events`.

    Raises
    ------
    Stopped
        If a signal ended it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # Windows consoles default to a legacy code page
    try:
        arguments = _parsed(argv)
    except BrokenPipeError:  # whoever read the help or the completion has gone
        return FAILED
    arguments.carry = carry
    try:
        return int(COMMANDS[arguments.command](arguments) or 0)
    except KLLensError as error:
        if arguments.debug:
            tell_traceback()
        tell(f"kl-lens: {error}")
        return FAILED
    except BrokenPipeError:
        return FAILED
    except BaseException as error:
        if not is_fault(error):
            raise
        if arguments.debug:
            tell_traceback()
        tell(f"kl-lens: {type(error).__name__}: {error}. Run again with --debug and report it.")
        return FAILED


def _parsed(argv: list[str]) -> Arguments:
    """The arguments; a usage error, or a request for help, ends the program."""
    whole = parser()
    if (empty := empty_argument(argv)) is not None:
        whole.error(f"{empty} is empty")
    arguments = whole.parse_args(argv or ["app"])
    _check_usage(whole, arguments)
    return arguments


def _check_usage(whole: argparse.ArgumentParser, arguments: Arguments) -> None:
    """End with a usage error where arguments do not go together."""
    if (arguments.command == "self-test") == (arguments.self_test is None):
        whole.error("--self-test takes no command")
    if getattr(arguments, "diff", True) is None and not (arguments.scores and arguments.out):
        whole.error("plan needs a score file and --out, or --diff")
    if getattr(arguments, "diff", True) is None:
        _check_budget(whole, arguments)
    pinned: dict[str, str] = {}
    for weight, name in getattr(arguments, "pin", ()):
        if pinned.setdefault(weight, name) != name:
            whole.error(f"{weight} is pinned to {pinned[weight]} and to {name}")
    if hasattr(arguments, "compare") and bool(arguments.folders) == bool(arguments.compare):
        whole.error("bench needs exported folders, or --compare and two bench files")
    for idle in getattr(arguments, "idle", ()):
        given = [
            (option.option_strings or [option.metavar or option.dest])[0]
            for option in idle.options
            if getattr(arguments, option.dest) != option.default
        ]
        if given and idle.now(arguments):
            whole.error(f"{idle.why}; remove {', '.join(given)}")


def _check_budget(whole: argparse.ArgumentParser, arguments: Arguments) -> None:
    """Before the prices of formats are measured for a plan that could not be made."""
    given = {name for name in BUDGETS if getattr(arguments, name) is not None}
    if not given and not arguments.method.startswith("uniform-"):
        options = [f"--{name.replace('_', '-')}" for name in BUDGETS]
        whole.error(f"plan needs a budget: {', '.join(options[:-1])} or {options[-1]}")
    if arguments.fastest and given & {"size_mb", "bits"}:
        whole.error("--fastest needs --max-kl or --max-perplexity-increase instead of a size")


def cancelled(argv: Sequence[str]) -> str:
    """What a command that was ended says: that it was, and what is left of its work."""
    command = next((each for each in argv if each in COMMANDS), "")
    return " ".join(filter(None, ["Cancelled.", KEPT.get(command)]))


def _app(arguments: Arguments) -> int:
    if sys.platform.startswith("linux"):
        check_display(os.environ)
    if (arguments.model or "").endswith(".json") and not Path(arguments.model).is_file():
        raise InputError(f"Cannot open {arguments.model}", "there is no such file", "Check the name")
    from kl_lens_desktop.gui.shell.application import run as run_application

    return run_application(arguments.model)


def _self_test(arguments: Arguments) -> None:
    if sys.platform.startswith("linux"):
        check_display({**os.environ, "QT_QPA_PLATFORM": "offscreen"})
    from kl_lens_desktop.gui.shell.self_test import self_test

    started = time.monotonic()
    self_test(arguments.self_test, tell)
    say(f"The self-test passed in {duration(time.monotonic() - started)}: KL Lens works on this computer.")


def _pull(arguments: Arguments) -> None:
    if arguments.check:
        check(arguments)
        return
    result = finish(
        PullJob(arguments.model, arguments.revision, arguments.move, arguments.with_tokenizer), perform
    )
    if arguments.json:
        print_json(result)
    else:
        say(result["folder"])


def _inspect(arguments: Arguments) -> None:
    result = finish(InspectJob(arguments.model), arguments.carry)
    if arguments.json:
        print_json({"model": result["model"], "weights": result["weights"]})
        return
    about = result["model"]
    say(
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
    print_table(["weight", "kind", "block", "shape", "parameters", "uses"], rows)


def _analyze(arguments: Arguments) -> None:
    result = finish(analyze_job(arguments), arguments.carry)
    if arguments.json:
        print_json_text(Path(result["scores"]).read_text(encoding="utf-8"))
        return
    from kl_lens_desktop.sensitivity.scores import load_scores

    scores = load_scores(arguments.out)
    entries = sorted(scores.entries, key=lambda entry: -entry.kl_pq.mean)
    rows = [
        [
            entry.weight,
            entry.format,
            f"{'≈ ' if entry.is_predicted else ''}{entry.kl_pq.mean:.3g} ± {entry.kl_pq.se:.1g}",
            f"{entry.sqnr_db.mean:.1f}",
            "" if entry.is_predicted else entry.kl_pq.n,
            "predicted" if entry.is_predicted else "settled" if entry.settled else "",
        ]
        for entry in entries
    ]
    header = ["weight", "format", "KL(full‖quantized), nats/token", "SQNR, dB", "tokens", "source"]
    print_table(header, rows[: arguments.top])
    early = sum(entry.settled for entry in entries)
    settled = f", {early} of them settled with fewer than {scores.text['tokens']:,} tokens" if early else ""
    foretold = sum(entry.is_predicted for entry in entries)
    predicted = f", {foretold} of them predicted (≈) from other formats" if foretold else ""
    say(f"{len(rows)} entries in {arguments.out}{predicted}{settled}; text: {scores.text['name']}")
    if scores.prediction:
        header = ["format", "measured / predicted, median", "spread", "weights"]
        print_table(header, held_lines(scores.prediction))


def held_lines(prediction: "Mapping[str, Held]") -> list[list[object]]:
    """How well predictions held, by format; one weight has no spread."""
    return [
        [parse_format(name).label, f"{of.ratio:.2f}", f"{of.spread:.0%}" if of.n > 1 else "–", of.n]
        for name, of in prediction.items()
    ]


def _agree(arguments: Arguments) -> None:
    result = finish(agree_job(arguments), arguments.carry)
    if arguments.json:
        print_json(result)
        return
    if "ceiling_interval" in result:
        low, high = result["ceiling_interval"]
        ceiling = f"{result['ceiling']:.3f} ({low:.3f} … {high:.3f})"
        highest = highest_tau(result["ceiling"])
        say(f"Perplexity agrees with itself, on two halves of the text, with τ = {ceiling}.")
        say(f"On the whole text, a perfect metric could therefore reach about τ = {highest:.2f}.")
        if result["ceiling"] < RELIABLE:
            say("Noise limits every metric. Use more text (--tokens) or a smaller format (--formats).")
    rows = [
        [
            NAMES[name][0],
            f"{a['tau']:.3f}",
            quantities.interval(a["low"], a["high"], len(result["points"]), ".3f"),
        ]
        for name, a in result["metrics"].items()
    ]
    print_table(["metric", "Kendall τ with perplexity", "95 % interval"], rows)


def _verify(arguments: Arguments) -> None:
    result = finish(verify_job(arguments), arguments.carry)
    measured = result["measured"]
    if arguments.json:
        print_json(measured | {name: done for name, done in result.items() if name in ("repair", "refine")})
        return
    if done := result.get("repair"):
        say(
            (
                f"Repaired: joint KL {done['kl_before']:.4g} → {done['kl_after']:.4g} on the repair "
                f"text, lower by {done['gain']:.2g} ± {done['gain_se']:.1g}. On held-out text:"
            )
            if done["gain"]
            else "No exchange improves the plan by more than its error. On held-out text:"
        )
    if refined := result.get("refine"):
        gain = f"lower by {refined['gain']:.2g} ± {refined['gain_se']:.1g}"
        before, after = f"{refined['kl_before']:.4g}", f"{refined['kl_after']:.4g}"
        kept = "Kept the new integers." if refined["kept"] else "Kept the old integers."
        say(f"Rounded in sequence: joint KL {before} → {after}, {gain}. {kept}")
    figures = [(with_unit(name), value) for name, value in measured.items() if "mean" in value]
    kl = with_unit("kl_pq")
    if nearest := measured.get("nearest"):
        figures.append((f"{kl}, rounded to nearest", nearest["kl_pq"]))
    if elsewhere := measured.get("elsewhere"):
        name = elsewhere["text"]["name"]
        figures.append((f"{kl}, on {name}", elsewhere["kl_pq"]))
        figures.append((f"{kl}, on {name}, rounded to nearest", elsewhere["nearest"]["kl_pq"]))
    rows = [[name, f"{value['mean']:.5g}", f"{value['se']:.2g}"] for name, value in figures]
    print_table(["figure", "measured", "± se"], rows)


def _baselines(arguments: Arguments) -> None:
    from kl_lens_desktop.plan.document import load_plan

    plans = {
        name: load_plan(Path(path))
        for name, path in finish(baselines_job(arguments), arguments.carry)["plans"].items()
    }
    rows = [
        {"plan": name, "bytes": int(plan.predicted["bytes"] or 0), **measured["kl_pq"]}
        | {"perplexity": measured["perplexity"]["mean"]}
        for name, plan in plans.items()
        if (measured := plan.measured)
    ]
    rows.sort(key=lambda row: row["mean"])
    kl = [f"{row['mean']:.4g} ± {row['se']:.1g}" for row in rows]
    if arguments.json:
        print_json(rows)
        return
    print_table(
        ["plan", "MB", "KL(full‖quantized), nats/token", "perplexity"],
        [
            [row["plan"], f"{row['bytes'] / 1e6:.3f}", figure, f"{row['perplexity']:.2f}"]
            for row, figure in zip(rows, kl, strict=True)
        ],
    )
    say(f"Wrote {len(rows)} plans to {arguments.out}. You can export each of them.")
    if strange := [name for name, plan in plans.items() if plan.rounded_by]:
        say(f"Plans do not hold NNCF's own integers: an export rounds {', '.join(strange)} to nearest.")


def _export(arguments: Arguments) -> None:
    result = finish(export_job(arguments), arguments.carry)
    if arguments.json:
        print_json(result)
        return
    formats = ", ".join(f"{count} {name}" for name, count in result["audit"]["formats"].items())
    say(f"Wrote {result['folder']}: {result['size_bytes'] / 1e6:.2f} MB; audited: {formats}")
    off = result["proof"]["cpu_f32_against_torch"]
    say(f"The graph answers like the model: its logits differ from torch's by {off:.0e} of their spread.")


def _bench(arguments: Arguments) -> None:
    for path in filter(None, (arguments.csv, arguments.html)):
        check_file(path)
    if arguments.compare:
        _compare_benches(arguments)
        return
    job = bench_job(arguments)
    check_replaceable(job.out, "bench")
    from kl_lens_desktop.bench.page import export_html
    from kl_lens_desktop.bench.report import export_csv, load_bench

    rows = [event.row for event in events(job, arguments.carry) if isinstance(event, Measured)]
    if not any(row["status"] == "ok" for row in rows):
        if arguments.json:
            print_json({"rows": rows})
        else:
            print_bench(rows)
        raise _nothing_measured()
    bench = load_bench(job.out)
    if arguments.csv:
        export_csv(bench, arguments.csv)
    if arguments.html:
        export_html(bench, arguments.html)
    if arguments.json:
        print_json_text(job.out.read_text(encoding="utf-8"))
        return
    print_bench(rows, bench["environment"]["devices"])
    say(f"Wrote {job.out}")


def _compare_benches(arguments: Arguments) -> None:
    from kl_lens_desktop.bench.compare import compare
    from kl_lens_desktop.bench.page import export_comparison_html
    from kl_lens_desktop.bench.report import export_comparison_csv, load_bench

    first, second = (str(path) for path in arguments.compare)
    found = compare(*(load_bench(path) for path in arguments.compare))
    if arguments.csv:
        export_comparison_csv(found, arguments.csv)
    if arguments.html:
        export_comparison_html((first, second), found, arguments.html)
    if arguments.json:
        print_json(found.as_dict())
    else:
        print_comparison(found, first, second)


def _run(arguments: Arguments) -> None:
    job = run_job(arguments)
    *stages, last = events(job, arguments.carry)
    assert isinstance(last, Finished)
    rows, result = [event.row for event in stages if isinstance(event, Measured)], job.result(last)
    if arguments.json:
        print_json({**result, "rows": rows})
    else:
        from kl_lens_desktop.bench.report import load_bench

        print_bench(rows, load_bench(Path(result["bench"]))["environment"]["devices"])
        names = ", ".join(result["folders"])
        say(f"Wrote scores.json, plan.json, bench.json and {names} to {arguments.out}")
    if not any(row["status"] == "ok" for row in rows):
        raise _nothing_measured()


def _nothing_measured() -> ChildError:
    return ChildError("Cannot measure anything", "every row failed", "See the reasons above")


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


COMMANDS: dict[str, Callable[[Arguments], int | None]] = {
    "app": _app,
    "self-test": _self_test,
    "search": search,
    "pull": _pull,
    "verify-files": verify_files,
    "inspect": _inspect,
    "analyze": _analyze,
    "agree": _agree,
    "prices": print_prices,
    "plan": make_plan,
    "verify": _verify,
    "baselines": _baselines,
    "export": _export,
    "bench": _bench,
    "run": _run,
    "push": push,
    "share": share,
    "receive": receive,
}
