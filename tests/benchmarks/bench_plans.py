"""The KL plan, repaired, against every baseline at no fewer bytes, by joint KL on text that none has seen.

    python -m tests.benchmarks.bench_plans                  # the sample
    python -m tests.benchmarks.bench_plans --stressed       # the same with outlier channels
    python -m tests.benchmarks.bench_plans --by-data        # plans rounded by data against all of these
    python -m tests.benchmarks.bench_plans --rounding       # integers chosen by data against the nearest
    python -m tests.benchmarks.bench_plans --sequence       # and what rounding in sequence adds to them

With --by-data, the plan of data-aware candidates takes the bytes of the repaired plan of nearest rounding,
and stands beside that, every other baseline, and what NNCF's own AWQ, scale estimation and GPTQ make of the
formats of NNCF's best metric, fitted to the same windows. Both plans are measured on a play, too.

With --rounding, plans of data-aware candidates stand beside the repaired plans of nearest rounding, at no
more bytes, on *Nostromo* and on texts of other domains.

Three texts without an overlap: weights are scored on the start of the bundled calibration novels, plans are
repaired on windows spread over the rest of them, and the figures printed are of *Nostromo*. Differences are
paired, window by window. A baseline that takes a budget gets no fewer bytes than the plan; one that sets its
own size (uniform formats, the paper's prefixes) stands beside the plan if it takes at most 5 % more bytes.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.export.graph_measured import compared
from kl_lens_desktop.export.nncf_choice import NNCF_ALGORITHMS, NNCF_METRICS, Chooser, Order
from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.allocate import Front
from kl_lens_desktop.plan.baselines import paper_prefixes, paper_walk, random_assignment
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.document import assignments_sha256
from kl_lens_desktop.plan.joint import Bench, Joint, joint_of, spread_windows
from kl_lens_desktop.plan.options import WeightOptions, total, weight_options
from kl_lens_desktop.plan.repair import NEAREST, Repair, repair
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Repaired, returned
from kl_lens_desktop.quant.formats import all_formats, parse_format, stored_bytes
from kl_lens_desktop.quant.integers import open_integers
from kl_lens_desktop.quant.roundings import NEAREST as NEAREST_ROUNDING
from kl_lens_desktop.quant.roundings import Roundings, kept_in
from kl_lens_desktop.sensitivity.data_rounding import calibration_of
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import Analysis
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from kl_lens_desktop.sensitivity.sequential import record_of, round_in_sequence
from kl_lens_desktop.text.bundled import calibration_text, dialogue_text, held_out_text
from kl_lens_desktop.text.windows import windows
from tests.stress import stressed_folder

BITS = (3.0, 3.5, 4.25, 5.0, 6.0)
_GROUPED = ("int4_sym", "int4_asym", "nf4", "int3_sym", "int2_sym")
MENU = ("int8_sym", *(f"{base}_g{group}" for base in _GROUPED for group in (32, 64, 128)))
QUICK_MENU = (
    "int8_sym", "int4_sym_g32", "int4_sym_g64", "int4_asym_g32", "nf4_g32", "int3_sym_g32", "int3_sym_g64",
    "int2_sym_g32",
)  # fmt: skip
NNCF_LOWS = ("int2_sym_g64", "int3_sym_g64", "int4_sym_g64", "int4_asym_g64", "nf4_g64")
NNCF_FINEST = 3  # of these that fit, the finest: with an INT8 backup a coarser one only loses
SEEDS = 2
FIXED_GRACE = 1.05  # a baseline that sets its own size may take this many times the plan's bytes
FIXED_FLOOR = 0.7  # and uniform formats smaller than this share of it are no rivals
WINDOW = 256

Assignment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One plan of one budget: the bytes of its quantizable weights and its measurement on unseen text."""

    name: str
    bytes: int
    joint: Joint


@dataclass(frozen=True, slots=True)
class Comparison:
    """The repaired plan and all that stands beside it at one budget."""

    bits: float
    plan: Row
    baselines: list[Row]
    elsewhere: tuple[Joint, Joint] | None = None  # the plan and the repaired plan of nearest rounding

    def rows_of(self, *prefixes: str) -> list[Row]:
        return [row for row in self.baselines if row.name.startswith(prefixes)]

    def beats(self, *prefixes: str, errors: float = 2.0) -> bool:
        """Whether the plan has less KL than each of those, by more than so many paired standard errors."""
        gains = [self.plan.joint.less_than(row.joint) for row in self.rows_of(*prefixes)]
        return bool(gains) and all(gain > errors * error for gain, error in gains)

    def is_no_worse(self) -> bool:
        """Whether no baseline has less KL by more than two paired standard errors."""
        gains = [self.plan.joint.less_than(row.joint) for row in self.baselines]
        return all(gain >= -2 * error for gain, error in gains)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Scores of weights rounded by data, their integers, and the windows these were fitted to."""

    scores: Scores
    roundings: Roundings
    ids: Tensor


def compare(
    loaded: LoadedModel,
    scores: Scores,
    bits: Sequence[float],
    *,
    repair_tokens: int,
    final_tokens: int,
    seconds: float,
    nncf_lows: Sequence[str] = NNCF_LOWS,
    nncf_metrics: Sequence[str] = tuple(NNCF_METRICS),
    nearest: int = NEAREST,
    uniform: Sequence[str] | None = None,
    memory: Path | None = None,
    say: bool = False,
    fitted: Fitted | None = None,
    algorithms: Sequence[str] = tuple(NNCF_ALGORITHMS),
) -> Iterator[Comparison]:
    """The comparison at each budget, as it is done; of the plan rounded by data, where that is `fitted`."""
    cancel = Cancel()
    scored = int(scores.text["tokens"])
    between = spread_windows(loaded, calibration_text(), repair_tokens, WINDOW, scored)
    final, _ = windows(loaded, [held_out_text()], final_tokens, WINDOW)
    about = {"model": scores.model.sha256, "scored": scored, "window": WINDOW}
    remember = [memory and memory / f"{name}.json" for name in ("repair", "final")]
    repairs = Bench(loaded, between, cancel, remember[0], {**about, "tokens": between.numel()})
    finals = Bench(loaded, final, cancel, remember[1], {**about, "tokens": final.numel()})
    calibration, _ = windows(loaded, [calibration_text()], min(scored, 4096), WINDOW)
    if fitted:
        calibration = fitted.ids
        by_data = Bench(loaded, final, cancel, roundings=fitted.roundings)
        play, _ = windows(loaded, [dialogue_text()], final_tokens // 2, WINDOW)
        there = Bench(loaded, play, cancel, roundings=fitted.roundings)
    options = weight_options(scores)
    shapes = {option.weight: option.shape for option in options}
    parameters = sum(option.parameters for option in options)
    chooser = Chooser(loaded, calibration, cancel)
    orders = {metric: chooser.order(metric) for metric in nncf_metrics}
    prefixes = paper_prefixes(weight_options(scores, "kl_qp"))
    uniforms = {name: dict.fromkeys(shapes, name) for name in uniform or all_formats()}

    def row(name: str, assignment: Assignment) -> Row:
        size = sum(stored_bytes(shapes[w], parse_format(f)) for w, f in assignment.items())
        return Row(name, size, finals.measure(dict(assignment)))

    for each in bits:
        limit = int(each * parameters / 8)
        fronts = {m: Front(weight_options(scores, m)) for m in ("kl", "kl_qp", "sqnr", "mse", "delta_ce")}
        repaired = _repaired(repairs, options, fronts, limit, seconds, nearest, say)
        plan = row("KL, repaired", repaired)
        rows = [
            row(f"knapsack {name}", front.no_smaller(plan.bytes, limit)) for name, front in fronts.items()
        ]
        rows += _paper(options, scores, plan.bytes, prefixes, row)
        for seed in range(SEEDS):
            drawn = random_assignment(options, plan.bytes, int(plan.bytes * 1.004), seed)
            rows.append(row(f"random {seed}", drawn))
        fitting = sorted(
            (low for low in nncf_lows if _size(shapes, low) <= limit), key=partial(_size, shapes)
        )
        found = _nncf(chooser, orders, fitting[-NNCF_FINEST:], plan.bytes, row)
        rows += found.rows
        near = [row(f"uniform {name}", assignment) for name, assignment in uniforms.items()
                if FIXED_FLOOR * plan.bytes <= _size(shapes, name) <= FIXED_GRACE * plan.bytes]  # fmt: skip
        rows += sorted(near, key=lambda r: r.joint.mean)[:3]
        repairs.remember()
        finals.remember()
        if fitted is None:
            yield Comparison(each, plan, rows)
            continue
        rows = [plan, *rows, *_nncf_by_data(loaded, chooser, found, algorithms, final, row)]
        assignment = Front(weight_options(fitted.scores)).within_bytes(plan.bytes)
        elsewhere = there.measure(assignment), there.measure_rounded(repaired, NEAREST_ROUNDING)
        ours = Row("KL, by data", total(options, assignment)[0], by_data.measure(assignment))
        yield Comparison(each, ours, rows, elsewhere)
    chooser.close()


def _size(shapes: Mapping[str, Sequence[int]], name: str) -> int:
    return sum(stored_bytes(shape, parse_format(name)) for shape in shapes.values())


def _repaired(
    bench: Bench,
    options: Sequence[WeightOptions],
    fronts: Mapping[str, Front],
    limit: int,
    seconds: float,
    nearest: int,
    say: bool,
) -> Assignment:
    start = fronts["kl"].within_bytes(limit)
    others = [front.within_bytes(limit) for name, front in fronts.items() if name != "kl"]
    found: Assignment = start
    limits = Constraints()
    for event in repair(
        bench, start, options, limits, starts=others, budget=limit, seconds=seconds, nearest=nearest
    ):
        if isinstance(event, Repair):
            found = event.assignments
        elif isinstance(event, Repaired) and say:
            gain = f"{event.gain:.5f} ± {event.gain_se:.5f}"
            print(f"  repair: KL {event.kl:.5f}, less by {gain}, {len(event.changes)} formats", flush=True)
    return found


@dataclass(frozen=True, slots=True)
class NNCFRows:
    """NNCF's plans at one budget, and what the best of them is: metric, low format, ratio and formats."""

    rows: list[Row]
    metric: str
    low: str
    ratio: float
    assignments: Assignment


def _nncf(
    chooser: Chooser,
    orders: Mapping[str, Order],
    lows: Sequence[str],
    least: int,
    row: Callable[[str, Assignment], Row],
) -> NNCFRows:
    """Every metric's and low format's plan of the fewest bytes that are enough.

    All follow from NNCF's own orders; the best of them is made by its public call and read back.
    """
    rows, settings = [], []
    for low in lows:
        for metric, order in orders.items():
            count = order.count(least, low)
            if count is None or order.bytes(count, low) > FIXED_GRACE * least:
                continue  # even all weights in this format take more: it is no plan of this size
            rows.append(row(f"NNCF {metric} {low}", order.assignments(count, low)))
            settings.append((metric, low, order.ratio(count), order.assignments(count, low)))
    best = min(range(len(rows)), key=lambda place: rows[place].joint.mean)
    metric, low, ratio, expected = settings[best]
    made = chooser.choose(metric, low, ratio)
    if made != expected:
        raise AssertionError(f"NNCF's {metric} with ratio {ratio} gave other formats than its order says")
    return NNCFRows(rows, metric, low, ratio, expected)


def _nncf_by_data(
    loaded: LoadedModel,
    chooser: Chooser,
    found: NNCFRows,
    algorithms: Sequence[str],
    ids: Tensor,
    row: Callable[[str, Assignment], Row],
) -> Iterator[Row]:
    """What NNCF's own algorithms make of its best formats, each measured as the graph it made."""
    size = row("", found.assignments).bytes
    for name in algorithms:
        graph = chooser.same(found.assignments, found.metric, found.low, found.ratio, name)
        yield Row(f"NNCF {name} {found.low}", size, joint_of(compared(loaded, graph, ids, Cancel())))


def _paper(
    options: Sequence[WeightOptions],
    scores: Scores,
    least: int,
    prefixes: Mapping[str, Assignment],
    row: Callable[[str, Assignment], Row],
) -> list[Row]:
    """The paper's walk over the whole menu, and its ten prefixes, at the fewest bytes that are enough."""
    table = {(o.weight, c.format): c.bytes for o in options for c in o.choices}

    def size(assignment: Assignment) -> int:
        return sum(table[item] for item in assignment.items())

    walk = [a for a in paper_walk(weight_options(scores, "kl_qp")) if size(a) >= least]
    rows = [row("paper's list", walk[-1])]
    near = {name: a for name, a in prefixes.items() if size(a) <= FIXED_GRACE * least}
    if near:
        name = max(near, key=lambda key: size(near[key]))
        rows.append(row(f"paper's {name}", near[name]))
    return rows


def print_comparison(one: Comparison, parameters: int) -> None:
    """All rows of one budget."""
    print(f"{'bits':>5}  {'plan':<34}{'bits now':>9}  {'KL ± se':<20}{'the plan is better by':<24}in se")
    print(f"{one.bits:5g}  {_cells(one.plan, parameters)}")
    for row in sorted(one.baselines, key=lambda r: r.joint.mean):
        gain, error = one.plan.joint.less_than(row.joint)
        ratio = f"{gain / error:+.1f}" if error else "same plan"
        print(f"       {_cells(row, parameters)}{f'{gain:+.5f} ± {error:.5f}':<24}{ratio}")
    if one.elsewhere:
        ours, theirs = one.elsewhere
        added, error = ours.perplexity_over(theirs)
        home, there = one.plan.joint.mean / one.baselines[0].joint.mean, ours.mean / theirs.mean
        print(f"{one.bits:5g}  KL over that of the repaired plan: {home:.3f}, on the play {there:.3f}; "
              f"ΔCE there {added:+.5f} ± {error:.5f}")  # fmt: skip


def print_verdicts(comparisons: Sequence[Comparison]) -> None:
    """At how many budgets the plan is better than what."""
    for words, holds in (
        ("better than every baseline by two paired standard errors", lambda c: c.beats("")),
        ("no worse than any baseline (two paired standard errors)", Comparison.is_no_worse),
        ("better than the uniform formats by two paired standard errors", lambda c: c.beats("uniform")),
        ("better than NNCF's best by two paired standard errors", lambda c: c.beats("NNCF")),
        ("better than random by two paired standard errors", lambda c: c.beats("random")),
    ):
        true = [f"{c.bits:g}" for c in comparisons if holds(c)]
        print(f"{words}: {len(true)} of {len(comparisons)} ({', '.join(true) or 'none'})")


def _cells(row: Row, parameters: int) -> str:
    measured = f"{row.joint.mean:.5f} ± {row.joint.se:.5f}"
    return f"{row.name:<34}{8 * row.bytes / parameters:9.4f}  {measured:<20}"


def print_small_loss(loaded: LoadedModel, scores: Scores, final_tokens: int, share: float = 0.45) -> None:
    """Perplexity of uniform INT4 g64, and of a KL plan at `share` of the true FP16 size, against FP16."""
    final, _ = windows(loaded, [held_out_text()], final_tokens, WINDOW)
    bench = Bench(loaded, final, Cancel())
    options = weight_options(scores)
    full = sum(option.choices[0].bytes for option in options)
    limit = int(share * (full + scores.kept_bytes)) - scores.kept_bytes - 1
    fp16 = bench.measure({option.weight: "fp16" for option in options})
    for name, assignment in (
        ("uniform INT4 g64", {option.weight: "int4_sym_g64" for option in options}),
        (f"KL plan at {100 * share:g} % of FP16's bytes", Front(options).within_bytes(limit)),
    ):
        added, error = bench.measure(assignment).perplexity_over(fp16)
        print(f"{name}: {added:+.5f} ± {error:.5f} nats of cross-entropy over FP16, {added / error:+.1f} se")


def compare_roundings(
    local: LocalModel,
    loaded: LoadedModel,
    kept: Path,
    menu: Sequence[str],
    bits: Sequence[float],
    arguments: argparse.Namespace,
) -> None:
    """Print, for each budget and text, the KL of both roundings, their ratio and what is added to ΔCE."""
    cancel = Cancel()
    nearest = scores_of(local, kept / "scores.json", arguments.tokens, menu)
    data = scores_of(local, kept / "data.json", arguments.tokens, menu, "data")
    integers = Roundings(kept_in(open_integers(kept / "data.safetensors"), data.shapes))
    between = spread_windows(loaded, calibration_text(), arguments.repair_tokens, WINDOW, arguments.tokens)
    texts = [held_out_text(), *arguments.domain]
    benches = {}
    for text in texts:
        ids, _ = windows(loaded, [text], arguments.final_tokens, WINDOW)
        benches[text] = [Bench(loaded, ids, cancel, roundings=each) for each in (Roundings(), integers)]
    repairs = Bench(loaded, between, cancel)
    options, fitted = weight_options(nearest), weight_options(data)
    fronts = {m: Front(weight_options(nearest, m)) for m in ("kl", "kl_qp", "sqnr", "mse", "delta_ce")}
    front, parameters = Front(fitted), sum(option.parameters for option in options)
    titles = "".join(f"{title:<10}" for title in ("nearest", "same plan", "by data"))
    print(f"{'bits':>5}  {'text':<28}{titles}{'ratio':<8}ΔCE by data − nearest")
    for each in bits:
        limit = int(each * parameters / 8)
        seconds = 60 * arguments.minutes
        theirs = _repaired(repairs, options, fronts, limit, seconds, arguments.nearest, say=False)
        ours = front.within_bytes(total(options, theirs)[0])
        for text, (by_nearest, by_data) in benches.items():
            plain, same, best = by_nearest.measure(theirs), by_data.measure(theirs), by_data.measure(ours)
            added, error = best.perplexity_over(plain)
            means = "".join(f"{joint.mean:<10.5f}" for joint in (plain, same, best))
            ratio = f"{best.mean / plain.mean:<8.3f}"
            row = f"{each:5g}  {text.name[:26]:<28}{means}{ratio}{added:+.5f} ± {error:.5f}"
            print(row, flush=True)


def compare_sequence(
    loaded: LoadedModel, fitted: Fitted, kept: Path, bits: Sequence[float], final_tokens: int
) -> None:
    """Print, for each budget and text, the KL of a plan rounded by data and of the same in sequence."""
    cancel, options = Cancel(), weight_options(fitted.scores)
    front, parameters = Front(options), sum(option.parameters for option in options)
    sha256 = fitted.scores.model.sha256
    texts = {
        text.name: windows(loaded, [text], tokens, WINDOW)[0]
        for text, tokens in ((held_out_text(), final_tokens), (dialogue_text(), final_tokens // 2))
    }
    print(f"{'bits':>5}  {'text':<28}{'by data':<10}{'sequence':<10}{'ratio':<8}{'gain':<24}ΔCE")
    for each in bits:
        plan = front.within_bytes(int(each * parameters / 8))
        record = record_of(fitted.scores.rounding or {}, assignments_sha256(plan))
        steps = round_in_sequence(
            loaded,
            sha256,
            kept / "sequence.safetensors",
            plan,
            fitted.roundings,
            fitted.ids,
            record,
            cancel,
            "",
        )
        sequential = returned(steps)
        for name, ids in texts.items():
            bench = Bench(loaded, ids, cancel, roundings=fitted.roundings)
            before, after = bench.measure(plan), bench.measure_rounded(plan, sequential)
            gain, gain_se = after.less_than(before)
            added, error = after.perplexity_over(before)
            means = f"{before.mean:<10.5f}{after.mean:<10.5f}{after.mean / before.mean:<8.3f}"
            gained = f"{gain:+.6f} ± {gain_se:.6f}"
            print(f"{each:5g}  {name:<28}{means}{gained:<24}{added:+.5f} ± {error:.5f}", flush=True)


def fitted_of(local: LocalModel, loaded: LoadedModel, kept: Path, menu: Sequence[str], tokens: int) -> Fitted:
    """Scores of weights rounded by data, made or found in the folder `kept`."""
    scores = scores_of(local, kept / "data.json", tokens, menu, "data")
    integers = Roundings(kept_in(open_integers(kept / "data.safetensors"), scores.shapes))
    assert scores.rounding is not None
    return Fitted(scores, integers, calibration_of(loaded, scores.rounding, ()).fit)


def scores_of(
    local: LocalModel,
    path: Path,
    tokens: int,
    formats: Sequence[str] = MENU,
    rounding: str = "nearest",
) -> Scores:
    # To the end: racing stops by KL's ranking, which would favour KL over the metrics it is compared with.
    how = Analysis(
        (calibration_text(),), tokens=tokens, formats=tuple(formats), exhaustive=True, rounding=rounding
    )
    for _ in analyze(local, path, how, Cancel()):
        pass
    return load_scores(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stressed", action="store_true")
    parser.add_argument("--quick", action="store_true", help="half as many formats")
    parser.add_argument("--bits", type=float, nargs="+", default=list(BITS))
    parser.add_argument("--tokens", type=int, default=8192, help="scored on")
    parser.add_argument("--repair-tokens", type=int, default=4096)
    parser.add_argument("--final-tokens", type=int, default=8192)
    parser.add_argument("--minutes", type=float, default=20, help="for the repair of each plan")
    parser.add_argument("--nearest", type=int, default=NEAREST, help="formats tried for each weight")
    parser.add_argument("--by-data", action="store_true", help="the plan rounded by data against all others")
    parser.add_argument(
        "--algorithms", nargs="*", default=list(NNCF_ALGORITHMS), help="of NNCF, that look at data"
    )
    parser.add_argument(
        "--sequence", action="store_true", help="what rounding in sequence adds, nothing else"
    )
    parser.add_argument("--rounding", action="store_true", help="compare roundings, and nothing else")
    parser.add_argument("--domain", type=Path, nargs="*", default=[], help="texts of other domains")
    parser.add_argument("--keep", type=Path, help="a folder for scores and measurements, used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = arguments.keep or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        local = resolve_model("sample")
        if arguments.stressed:
            folder = kept / "stressed"
            if not folder.is_dir():
                stressed_folder(local.folder, folder)
            local = LocalModel("stressed", folder)
        loaded = load_model(local.folder)
        menu = QUICK_MENU if arguments.quick else MENU
        if arguments.rounding:
            compare_roundings(local, loaded, kept, menu, arguments.bits, arguments)
            return
        if arguments.sequence:
            by_data = fitted_of(local, loaded, kept, menu, arguments.tokens)
            compare_sequence(loaded, by_data, kept, arguments.bits, arguments.final_tokens)
            return
        scores = scores_of(local, kept / "scores.json", arguments.tokens, menu)
        fitted = fitted_of(local, loaded, kept, menu, arguments.tokens) if arguments.by_data else None
        parameters = sum(option.parameters for option in weight_options(scores))
        done = []
        for comparison in compare(
            loaded,
            scores,
            arguments.bits,
            repair_tokens=arguments.repair_tokens,
            final_tokens=arguments.final_tokens,
            seconds=60 * arguments.minutes,
            nearest=arguments.nearest,
            memory=kept,
            say=True,
            fitted=fitted,
            algorithms=arguments.algorithms,
        ):
            done.append(comparison)
            print_comparison(comparison, parameters)
            print(f"{comparison.bits:g} bits are done", flush=True)
        print_verdicts(done)
        print_small_loss(loaded, scores, arguments.final_tokens)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from error
