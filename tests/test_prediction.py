"""Predicted formats: what they follow from, how far off they are, and what an analysis says of them."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kl_lens_desktop.errors import Cancelled, InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model import fit
from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import load_model
from kl_lens_desktop.plan.device_limits import menu
from kl_lens_desktop.plan.options import weight_options
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note, Scored
from kl_lens_desktop.quant.formats import parse_format
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.sensitivity import clock, decision, local_error
from kl_lens_desktop.sensitivity.engine import analyze
from kl_lens_desktop.sensitivity.estimate import Costs, seconds
from kl_lens_desktop.sensitivity.jobs import ANCHOR, MENU, Analysis
from kl_lens_desktop.sensitivity.local_error import LocalErrors
from kl_lens_desktop.sensitivity.moments import Remembered, Seen, _OfExperts
from kl_lens_desktop.sensitivity.prediction import Place, predict
from kl_lens_desktop.sensitivity.scores import Scores, load_scores, save_scores
from kl_lens_desktop.text.bundled import calibration_text
from kl_lens_desktop.text.windows import windows
from tests.models import build, build_folder

NAMES = ("int8_sym", ANCHOR, "nf4_g64", "int2_sym_g64")
SMALL = Analysis((calibration_text(),), tokens=256, window=64, menu=NAMES, rounding="nearest")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return LocalModel("small", build_folder("granitemoehybrid", tmp_path_factory.mktemp("small") / "model"))


def _made_up(count: int, spread: float, seed: int) -> tuple[dict[tuple[str, str], float], ...]:
    """Local errors, and the true KL whose ratio to them varies by `spread` from format to format."""
    draw, errors, true = np.random.default_rng(seed), {}, {}
    for place in range(count):
        gain = math.exp(draw.normal(-3, 1))
        for name, error in zip(NAMES, (0.004, 1.0, 0.9, 20.0), strict=True):
            errors[f"w{place}", name] = error * math.exp(draw.normal(0, 0.3))
            off = draw.normal(0, spread) if name != ANCHOR else 0.0
            true[f"w{place}", name] = gain * errors[f"w{place}", name] * math.exp(off)
    return errors, true


PLACES = {f"w{place}": Place("mamba.in_proj.weight", place, "ssm") for place in range(400)}


def test_where_kl_goes_with_the_local_error_the_prediction_is_exact() -> None:
    errors, true = _made_up(3, 0.0, seed=1)
    series = {pair: [0.9 * kl, 1.1 * kl] for pair, kl in true.items() if pair[1] == ANCHOR}
    found = predict(errors, series, PLACES).found
    assert found.keys() == true.keys() - series.keys()
    for pair, told in found.items():
        assert told.mean == pytest.approx(true[pair])
        assert told.se > 0.1 * told.mean
        assert told.n == 2


def test_error_bars_hold_what_they_say_once_pairs_tell_the_spread() -> None:
    errors, true = _made_up(400, 0.25, seed=2)
    weights = list(PLACES)
    series = {pair: [kl, kl] for pair, kl in true.items() if pair[1] == ANCHOR or pair[0] in weights[:60]}
    prediction = predict(errors, series, PLACES)
    inside = [abs(told.mean - true[pair]) <= 1.96 * told.se for pair, told in prediction.found.items()]
    assert len(inside) == 3 * 340
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
    for name, held in prediction.held.items():
        off = [
            math.log(true[w, name] / true[w, ANCHOR] * errors[w, ANCHOR] / errors[w, name])
            for w in weights[:60]
        ]
        assert held.n == 60
        assert held.ratio == pytest.approx(math.exp(np.median(off)))
        assert held.spread == pytest.approx(np.std(off, ddof=1))


def test_a_weight_of_which_nothing_is_measured_follows_its_neighbours() -> None:
    """Logarithms of gains lie on a line between blocks; error bars are wider than beside an anchor."""
    errors = {(f"w{block}", ANCHOR): 2.0 for block in range(5)}
    series = {(f"w{block}", ANCHOR): [math.exp(-block)] * 2 for block in (0, 2, 4)}
    found = predict(errors, series, PLACES).found
    assert {pair[0] for pair in found} == {"w1", "w3"}
    assert found["w1", ANCHOR].mean == pytest.approx(math.exp(-1))
    assert found["w3", ANCHOR].mean == pytest.approx(math.exp(-3))
    assert found["w1", ANCHOR].se > 0.15 * found["w1", ANCHOR].mean


def test_a_measurement_is_worth_what_it_gains_on_average() -> None:
    from scipy.stats import norm  # takes two seconds to load

    """Against chance: the gain of knowing one of two losses exactly before choosing the cheaper one."""
    sizes = np.array([[16.0, 4.0, 3.0]])
    means, spreads = np.array([[0.0, 1.0, 1.3]]), np.array([[0.0, 0.0, 0.5]])
    gains = decision.worth_measuring(sizes, means, spreads, 4.0)
    price = [decision.price_of_a_byte(means, sizes, budget) for budget in (4.4, 4.0, 3.6)]
    draws = norm.rvs(1.3, 0.5, size=200_000, random_state=3)
    plain = []
    for each in price:
        assert each is not None
        costs = means[0] + each * sizes[0]
        known = np.minimum(np.delete(costs, 2).min(), draws + each * sizes[0, 2])
        plain.append(costs.min() - known.mean())
    assert gains[0, 2] == pytest.approx(max(plain), rel=0.03)
    assert gains[0, :2].tolist() == [0, 0], "what is measured needs no measuring"
    assert not decision.worth_measuring(sizes, means, spreads, 100.0).any(), "FP16 fits, and loses nothing"


class _Kept(dict[tuple[str, str], float]):
    def __init__(self) -> None:
        super().__init__()
        self.fitted: set[tuple[str, str]] = set()

    def lacks_error(self, pair: tuple[str, str]) -> bool:
        return pair not in self

    def local_error(self, pair: tuple[str, str]) -> float:
        return self[pair]

    def is_fitted(self, pair: tuple[str, str]) -> bool:
        return pair in self.fitted

    def add_local_error(self, pair: tuple[str, str], error: float, *, nearest: bool) -> None:
        if not nearest:
            self.fitted.add(pair)
        self[pair] = error


def test_a_local_error_is_the_mean_square_of_what_the_outputs_change_by(small: LocalModel) -> None:
    loaded = load_model(small.folder)
    ids, _ = windows(loaded, [calibration_text()], 256, 64)
    weights = quantizable(inventory(loaded.model))
    (weight,) = (each for each in weights if each.name.endswith("layers.0.shared_mlp.output_linear.weight"))
    fmt, kept = parse_format("int2_sym_g64"), _Kept()
    for _ in LocalErrors(loaded.model, [weight], [fmt], kept, by_data=False).collect(
        Remembered(ids[:2], ids[2:]), Cancel()
    ):
        pass
    inputs: list[torch.Tensor] = []
    module = loaded.model.get_submodule(weight.name.removesuffix(".weight"))
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        loaded.model(ids[2:])  # the windows to judge by
    handle.remove()
    stored = weight_parameters(loaded.model)[weight.name].detach()
    change = inputs[0].flatten(0, -2) @ (fake_quantize(stored, fmt) - stored).T
    assert kept == {(weight.name, fmt.name): pytest.approx(float(change.square().sum(-1).mean()), rel=1e-3)}
    assert not kept.fitted


def test_local_errors_stand_for_all_rows_however_many_are_compared(small: LocalModel) -> None:
    loaded = load_model(small.folder)
    ids, _ = windows(loaded, [calibration_text()], 256, 64)
    (weight,) = (each for each in quantizable(inventory(loaded.model)) if each.shape[0] > 2000)
    found = []
    for brief in (False, True):
        kept, fmt = _Kept(), parse_format("int4_sym_g64")
        errors = LocalErrors(loaded.model, [weight], [fmt], kept, by_data=False, brief=brief)
        for _ in errors.collect(Remembered(ids[:2], ids[2:]), Cancel()):
            pass
        found.append(kept[weight.name, fmt.name])
    assert found[1] == pytest.approx(found[0], rel=0.2)
    assert found[1] != found[0]


def test_local_errors_of_an_older_version_are_found_anew(
    told: tuple[Path, Scores, Scores], small: LocalModel, tmp_path: Path
) -> None:
    """They were sums over the rows that were compared."""
    path, scores, _ = told
    held = json.loads(path.read_text(encoding="utf-8"))
    assert held["settings"].pop("local_errors")
    for item in held["local_errors"]:
        item["errors"] = {name: 4 * error for name, error in item["errors"].items()}
    old = tmp_path / "scores.json"
    old.write_text(json.dumps(held), encoding="utf-8")
    for _ in analyze(small, old, SMALL, Cancel()):
        pass
    after = load_scores(old)
    assert after.local_errors == scores.local_errors
    assert after.entries == scores.entries


def test_a_guess_takes_from_its_neighbour_what_each_format_gains_by_data(small: LocalModel) -> None:
    loaded = load_model(small.folder)
    weights = [
        each
        for each in quantizable(inventory(loaded.model))
        if each.name.endswith(("shared_mlp.output_linear.weight", "shared_mlp.input_linear.weight"))
    ]
    known, alike, other = weights[0], weights[2], weights[1]
    formats = [parse_format(name) for name in ("int4_sym_g64", "int8_sym", "int2_sym_g64")]
    kept, stored = _Kept(), weight_parameters(loaded.model)
    gains = {"int4_sym_g64": 0.5, "int8_sym": 1.0, "int2_sym_g64": 0.3}

    def plain(name: str, fmt: str) -> float:
        values = stored[name].detach()
        return float((fake_quantize(values, parse_format(fmt)) - values).square().sum())

    for name, gain in gains.items():
        kept.add_local_error((known.name, name), gain * plain(known.name, name), nearest=name == "int8_sym")
    LocalErrors(loaded.model, [known, alike, other], formats, kept, by_data=True).guess()
    for weight in (alike, other):
        for name, gain in gains.items():
            assert kept[weight.name, name] == pytest.approx(gain * plain(weight.name, name), rel=1e-3)
            assert kept.is_fitted((weight.name, name)) is (name != "int8_sym")


def test_experts_that_no_judging_token_chose_still_lose_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A skewed router may leave all experts on which formats are compared without a token."""
    monkeypatch.setattr(local_error, "_EXPERTS", 2)  # the first and the last
    model, names = build("granitemoehybrid with experts"), ("int4_sym_g64", "int2_sym_g64")
    stack = next(each for each in quantizable(inventory(model)) if len(each.shape) == 3)
    count, _, channels = stack.shape
    rows = {place: [torch.randn(16, channels)] for place in range(1, count - 1)}
    assert rows
    seen, kept = Seen((stack,), _OfExperts(count, channels, rows), _OfExperts(count, channels, rows)), _Kept()
    formats = [parse_format(name) for name in names]
    LocalErrors(model, [stack], formats, kept, by_data=False).note(seen, Cancel())
    assert 0 < kept[stack.name, names[0]] < kept[stack.name, names[1]]


def test_an_error_of_nothing_is_not_believed_where_the_anchor_loses_something() -> None:
    errors = dict.fromkeys([("w0", name) for name in NAMES], 0.0)
    assert not predict(errors, {("w0", ANCHOR): [0.01, 0.012]}, PLACES).found
    told = predict(errors, {("w0", ANCHOR): [0.0, 0.0]}, PLACES).found
    assert {each.mean for each in told.values()} == {0.0}, "a weight that every format holds exactly"


@pytest.fixture(scope="module", params=["weights in memory", "weights on disk"])
def told(
    request: pytest.FixtureRequest, small: LocalModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Scores, Scores]:
    """The scores of a menu, and all of it measured."""
    place = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "weights on disk":
            patch.setattr(fit, "free_mb", lambda: 0)
        for _ in analyze(small, place / "menu.json", SMALL, Cancel()):
            pass
        for _ in analyze(small, place / "whole.json", replace(SMALL, exhaustive=True), Cancel()):
            pass
    return place / "menu.json", load_scores(place / "menu.json"), load_scores(place / "whole.json")


def test_a_menu_has_every_format_of_every_weight_and_says_which_are_predicted(
    told: tuple[Path, Scores, Scores],
) -> None:
    _, menu_scores, whole = told
    true = {(entry.weight, entry.format): entry for entry in whole.entries}
    entries = {(entry.weight, entry.format): entry for entry in menu_scores.entries}
    assert entries.keys() == true.keys()
    assert all(not entry.is_predicted for entry in entries.values() if entry.format == ANCHOR)
    predicted = [entry for entry in entries.values() if entry.is_predicted]
    assert len(predicted) > len(entries) / 3
    for pair, entry in entries.items():
        if not entry.is_predicted and entry.kl_pq.n == true[pair].kl_pq.n:
            assert entry.kl_pq.mean == pytest.approx(true[pair].kl_pq.mean, rel=1e-3)
    for metric in ("kl_pq", "kl_qp", "mse"):
        off = [
            math.log(getattr(e, metric).mean / getattr(true[e.weight, e.format], metric).mean)
            for e in predicted
        ]
        assert abs(np.median(off)) < 0.1
        assert np.std(off) < 0.4
    for entry in predicted:
        assert entry.delta_ce is entry.top1_agreement is None
        assert entry.bytes == true[entry.weight, entry.format].bytes
        assert entry.sqnr_db.mean == pytest.approx(true[entry.weight, entry.format].sqnr_db.mean, abs=3)


def test_plans_are_made_of_predictions_too_where_the_method_can_be_predicted(
    told: tuple[Path, Scores, Scores],
) -> None:
    _, scores, _ = told
    for method in ("kl", "sqnr", "mse"):
        assert propose(scores, bits=5, method=method).predicted["bytes"]
    assert propose(scores, bits=5).predicted["kl"] is not None
    offered = {choice.format for option in weight_options(scores, "delta_ce") for choice in option.choices}
    measured = {entry.format for entry in scores.entries if not entry.is_predicted}
    assert offered == measured | {"fp16"}


def test_a_menu_that_is_done_measures_nothing_again(
    told: tuple[Path, Scores, Scores], small: LocalModel, tmp_path: Path
) -> None:
    path, scores, _ = told
    again = tmp_path / "scores.json"
    again.write_bytes(path.read_bytes())
    for _ in analyze(small, again, SMALL, Cancel()):
        pass
    after = load_scores(again)
    assert after.windows == scores.windows
    assert after.entries == scores.entries


def test_a_file_is_the_same_in_whatever_order_things_were_found(
    told: tuple[Path, Scores, Scores], tmp_path: Path
) -> None:
    """Threads and interruptions change that order."""
    path, scores, _ = told
    backwards = replace(
        scores,
        local_errors=dict(reversed(scores.local_errors.items())),
        prediction=dict(reversed(scores.prediction.items())),
    )
    assert list(backwards.local_errors) != list(scores.local_errors)
    save_scores(tmp_path / "scores.json", backwards)
    assert (tmp_path / "scores.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_a_menu_that_was_cut_off_goes_on_to_the_same_bits(
    share: float, small: LocalModel, tmp_path: Path
) -> None:
    """Early, it has rounded but not measured: what is measured further must not hang on what memory holds."""
    how = replace(SMALL, rounding="data")
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    events = list(analyze(small, whole, how, Cancel()))
    first = next(place for place, event in enumerate(events) if isinstance(event, Scored))
    stop, cancel = first + int(share * (len(events) - first)), Cancel()
    with pytest.raises(Cancelled):
        for place, _ in enumerate(analyze(small, cut, how, cancel)):
            if place == stop:
                cancel.cancel()
    assert cut.read_bytes() != whole.read_bytes()
    list(analyze(small, cut, how, Cancel()))
    assert cut.read_bytes() == whole.read_bytes()


def test_files_without_a_source_are_measured_and_a_measure_may_lack_only_where_it_is_predicted(
    told: tuple[Path, Scores, Scores], tmp_path: Path
) -> None:
    path, _, whole = told
    old = tmp_path / "old.json"
    save_scores(old, whole)
    value = json.loads(old.read_text(encoding="utf-8"))
    for entry in value["entries"]:
        del entry["source"]
    old.write_text(json.dumps(value), encoding="utf-8")
    assert load_scores(old).entries == whole.entries
    value = json.loads(path.read_text(encoding="utf-8"))
    item = next(entry for entry in value["entries"] if entry["source"] == "measured")
    item["delta_ce"] = None
    old.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match="lacks a measure, and is not predicted"):
        load_scores(old)


def test_when_the_time_is_up_everything_has_a_figure_and_more_time_goes_on(
    small: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ticks = tmp_path / "scores.json", itertools.count()
    enough = 40  # looks at the clock, before the time is up
    left = property(lambda self: 100.0 if next(ticks) < enough else 0.0)
    monkeypatch.setattr(clock.Clock, "left", left)
    how = replace(SMALL, minutes=5.0)
    events = list(analyze(small, out, how, Cancel()))
    assert any("of 5 minutes" in event.text for event in events if isinstance(event, Note))
    first = load_scores(out)
    pairs = {(entry.weight, entry.format) for entry in first.entries}
    measured = {pair for pair, samples in ((first.windows and first.windows.samples) or {}).items()}
    weights = [weight["name"] for weight in first.weights if weight["kind"] != "conv"]
    assert pairs == set(itertools.product(weights, NAMES))
    assert 0 < len(measured) < len(pairs) / 4, "some of the anchors were measured"
    assert propose(first, bits=5).predicted["kl"] is not None

    monkeypatch.undo()
    again = [event for event in analyze(small, out, SMALL, Cancel()) if isinstance(event, Scored)]
    more = load_scores(out)
    assert again
    assert first.windows is not None
    assert more.windows is not None
    for pair, samples in first.windows.samples.items():
        assert more.windows.samples[pair].kl_pq[: len(samples)] == samples.kl_pq, "nothing is measured again"
    anchors = {entry.weight: entry for entry in more.entries if entry.format == ANCHOR}
    assert not any(entry.is_predicted for entry in anchors.values())


def test_formats_that_a_person_names_are_measured_and_no_others(small: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    for _ in analyze(small, out, replace(SMALL, formats=("int8_sym", "nf4_g64")), Cancel()):
        pass
    scores = load_scores(out)
    assert {entry.format for entry in scores.entries} == {"int8_sym", "nf4_g64"}
    assert not any(entry.is_predicted for entry in scores.entries)
    assert not scores.local_errors


def test_a_menu_is_what_the_devices_compute_from_packed_weights() -> None:
    assert menu([], 5) == MENU
    unpacked = [name for name in MENU if name.startswith("int3")]
    assert set(MENU) - set(menu(["CPU"], 5)) == set(unpacked)
    assert menu(["CPU"], 3) == MENU, "where the small file is what is asked for"
    assert not any(name.startswith("int2") for name in menu(["CPU", "GPU.0"], 3))
    assert "int4_sym_pc" in menu(["NPU"], 5)


def test_the_time_expected_grows_with_what_is_to_be_done() -> None:
    costs = Costs(2.0, (1e-4, 1e-4), (0.0, 0.0), 1e-3, 0.0)
    weights = [
        {"name": "a", "kind": "mlp", "block": 0, "shape": [8, 8], "parameters": 64},
        {"name": "b", "kind": "mlp", "block": 1, "shape": [8, 8], "parameters": 64},
    ]
    plain = Analysis(tokens=2048, window=256, formats=(ANCHOR,), exhaustive=True)
    clean, entries = 2048 * 1.2e-3, 2048 * (1.2e-3 + 1.1e-3)
    assert seconds(costs, weights, plain) == pytest.approx(2 + clean + entries)
    two = replace(plain, formats=(ANCHOR, "int8_sym"))
    assert seconds(costs, weights, two) == pytest.approx(2 + clean + 2 * entries)
    assert seconds(costs, weights, replace(two, exhaustive=False)) < seconds(costs, weights, two)
    assert seconds(costs, weights, replace(two, minutes=0.05)) == pytest.approx(3.0)
