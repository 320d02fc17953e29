"""A whole menu of formats, mostly predicted, against all of them measured, and against two.

    python -m tests.benchmarks.bench_menu                  # the sample
    python -m tests.benchmarks.bench_menu --stressed       # the same with outlier channels

Printed are: forward work, in multiplications of all blocks and heads that ran, against that of two formats
measured; how many of the predicted error bars (1.96 standard errors of prediction and measurement together)
hold what is measured on all of the text; and at each budget, the joint KL on unseen text of the plan from the
menu beside that from all formats measured, with the paired difference.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.inventory import blocks
from kl_lens_desktop.model.load import LoadedModel, load_model
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.joint import Bench
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.roundings import Roundings
from kl_lens_desktop.sensitivity.data_rounding import roundings_of
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.jobs import MENU, ROUNDINGS, Analysis
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from kl_lens_desktop.text.bundled import held_out_text
from kl_lens_desktop.text.windows import windows
from tests.stress import stressed_folder

TWO = ("int4_sym_g64", "int8_sym")
BITS = (3.0, 4.25, 5.0)


@dataclass(slots=True)
class Work:
    """Multiplications of blocks and heads, whoever runs them."""

    block: type[nn.Module]
    vocabulary: int
    done: float = 0.0

    def note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, self.block):
            given = args[0] if args else None
            tokens = given.shape[0] * given.shape[1] if given is not None else 0
            self.done += tokens * sum(parameter.numel() for parameter in module.parameters())
        elif isinstance(module, nn.Linear) and module.out_features == self.vocabulary:
            self.done += math.prod(args[0].shape[:-1]) * module.weight.numel()


def analyzed(local: LocalModel, path: Path, how: Analysis, loaded: LoadedModel) -> tuple[Scores, float]:
    """Scores, and the forward work that they took."""
    work = Work(type(blocks(loaded.model)[0]), loaded.embedded)
    handle = register_module_forward_pre_hook(work.note)
    try:
        for _ in analyze(local, path, how, Cancel()):
            pass
    finally:
        handle.remove()
    return load_scores(path), work.done


def coverage(menu: Scores, whole: Scores) -> tuple[int, int]:
    """Predicted entries that hold what was measured, and how many there are."""
    measured = {(entry.weight, entry.format): entry.kl_pq for entry in whole.entries}
    held, count = 0, 0
    for entry in menu.entries:
        if entry.is_predicted:
            true = measured[entry.weight, entry.format]
            reach = 1.96 * math.hypot(entry.kl_pq.se, true.se)
            held, count = held + (abs(entry.kl_pq.mean - true.mean) <= reach), count + 1
    return held, count


def compare(
    local: LocalModel, folder: Path, bits: Sequence[float], usual: Analysis, final_tokens: int
) -> None:
    loaded = load_model(local.folder)
    _, two = analyzed(local, folder / "two.json", replace(usual, formats=TWO), loaded)
    whole, all_work = analyzed(
        local, folder / "whole.json", replace(usual, formats=MENU, exhaustive=True), loaded
    )
    if all_work:
        words = f"forward work of all {len(MENU)} formats on all text: {all_work / two:.1f} times that of two"
        print(words, flush=True)
    final, _ = windows(loaded, [held_out_text()], final_tokens, 256)
    for each in bits:
        path = folder / f"menu-{each:g}.json"
        path.unlink(missing_ok=True)
        menu, work = analyzed(local, path, replace(usual, bits=each), loaded)
        held, count = coverage(menu, whole)
        measured = len(menu.entries) - count
        print(
            f"{each:g} bits: {work / two:.2f} times the work of two formats; {measured} entries measured, "
            f"{count} predicted, whose error bars hold {held / count:.1%}"
        )
        joints = []
        for scores in (menu, whole):
            plan = propose(scores, bits=each)
            bench = Bench(loaded, final, Cancel(), roundings=_roundings(loaded, plan, folder))
            joints.append(bench.measure(plan.assignments))
            about = f"predicted {plan.predicted['kl']:.5f} ± {plan.predicted['se']:.5f}"
            print(f"  joint KL {joints[-1].mean:.5f} ± {joints[-1].se:.5f}, {about}")
        gain, error = joints[0].less_than(joints[1])
        verdict = "holds" if -gain <= 2 * error else "does not hold"
        print(f"  from the menu less by {gain:+.5f} ± {error:.5f}: the bar {verdict}", flush=True)


def _roundings(loaded: LoadedModel, plan: Plan, folder: Path) -> Roundings:
    """The integers of a plan, those that its scores had no need of computed now."""
    files = [*sorted(folder.glob("*.safetensors")), folder / "others.safetensors"]
    work = roundings_of(loaded, plan.model.sha256, plan.rounding, plan.fitted, files[::-1], Cancel(), "plan")
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: Roundings = done.value
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stressed", action="store_true")
    parser.add_argument("--bits", type=float, nargs="+", default=list(BITS))
    parser.add_argument("--tokens", type=int, default=4096, help="scored on")
    parser.add_argument("--rounding", choices=ROUNDINGS, default=ROUNDINGS[0])
    parser.add_argument("--final-tokens", type=int, default=8192)
    parser.add_argument("--keep", type=Path, help="a folder for scores, used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = arguments.keep or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        local = resolve_model("sample")
        if arguments.stressed:
            stressed_folder(local.folder, Path(temporary) / "stressed")
            local = LocalModel("stressed", Path(temporary) / "stressed")
        usual = Analysis(tokens=arguments.tokens, rounding=arguments.rounding)
        compare(local, kept, arguments.bits, usual, arguments.final_tokens)


if __name__ == "__main__":
    main()
