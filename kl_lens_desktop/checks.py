"""What can be refused at once: the arguments of each task, before a model is fetched or opened.

Each takes the parameters of the task in `tasks` and raises `InputError` in one sentence. What only the model
can tell, such as how many tokens a text has, is checked where it is used.
"""

from pathlib import Path
from typing import Any

from kl_lens_desktop.bench.devices import check_device_name
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import CARD, check_folder, check_replaceable, check_writable
from kl_lens_desktop.model.devices import check_device
from kl_lens_desktop.plan.baselines import FAMILIES, check_families
from kl_lens_desktop.plan.document import Plan, load_plan
from kl_lens_desktop.quant.formats import DEFAULT_BITS, DEFAULT_FORMATS, formats_to_measure, parse_format
from kl_lens_desktop.sensitivity.scores import load_rankable, load_scores
from kl_lens_desktop.text.bundled import (
    HELD_OUT_TOKENS,
    REPAIR_TOKENS,
    SCORED_TOKENS,
    WINDOW,
    calibration_text,
    check_repair_text,
    check_repair_tokens,
    check_text,
    check_windows,
    held_out_text,
)

Params = dict[str, Any]
QUICK_TOKENS = 1024  # scored on by a quick run


def check_analysis(params: Params) -> None:
    formats_to_measure(params.get("formats") or DEFAULT_FORMATS)
    texts = [Path(text) for text in params.get("text") or ()]
    check_windows(params.get("tokens") or SCORED_TOKENS, params.get("window") or WINDOW, max(len(texts), 1))
    for text in texts:
        check_text(text)
    check_device(params.get("device") or "cpu")
    out = Path(params["out"]).absolute()
    check_writable(out.parent)
    if out.exists():
        load_scores(out)


def check_verification(params: Params) -> None:
    path = Path(params["plan"])
    plan = load_plan(path)
    check_writable(path.absolute().parent)
    held_out = _check_held_out(params)
    if not params.get("repair"):
        return
    if params.get("scores") and not params.get("consent"):  # by which the plan is made one of this model
        _check_same_model(Path(params["scores"]), plan)
    text = Path(params["repair_text"]) if params.get("repair_text") else calibration_text()
    check_text(text)
    check_repair_text(text, held_out)
    check_repair_tokens(params.get("repair_tokens") or REPAIR_TOKENS, params.get("window") or WINDOW)


def check_baselines(params: Params) -> None:
    check_families(params.get("only") or FAMILIES)
    _check_same_model(Path(params["scores"]), load_plan(Path(params["plan"])))
    _check_held_out(params)
    check_writable(Path(params["out"]).absolute())


def check_agreement(params: Params) -> None:
    load_rankable(Path(params["scores"]))
    _check_held_out(params)
    if params.get("out"):
        check_replaceable(Path(params["out"]), "agreement")


def check_export(params: Params) -> None:
    if params.get("plan"):
        load_plan(Path(params["plan"]))
    else:
        parse_format(params["format"])
    check_folder(Path(params["out"]), CARD)


def check_run(params: Params) -> None:
    out = Path(params["out"]).absolute()
    check_writable(out)
    bits = DEFAULT_BITS if params.get("bits") is None else params["bits"]
    least = min(parse_format(name).bits for name in params.get("formats") or DEFAULT_FORMATS)
    if bits < least:
        why = f"the smallest format takes {least} bits and its scales"
        raise InputError(f"No plan fits in {bits:g} bits", why, "Allow more bits")
    for name in params.get("devices") or ():
        check_device_name(name)
    tokens = params.get("tokens") or (QUICK_TOKENS if params.get("quick") else None)
    check_analysis({**params, "tokens": tokens, "out": out / "scores.json"})
    for kind in ("plan", "bench"):
        check_replaceable(out / f"{kind}.json", kind)


def _check_held_out(params: Params) -> Path:
    text = Path(params["text"]) if params.get("text") else held_out_text()
    check_windows(params.get("tokens") or HELD_OUT_TOKENS, params.get("window") or WINDOW)
    check_text(text)
    return text


def _check_same_model(scores: Path, plan: Plan) -> None:
    load_scores(scores).model.check_same(
        plan.model, scores, "Choose the score file that the plan was made from"
    )
