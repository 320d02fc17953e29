"""Second moments are those of the inputs that transformers' own modules get, whatever multiplies a weight."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kl_lens_desktop import resources
from kl_lens_desktop.errors import Cancelled
from kl_lens_desktop.kernels.experts.forms import holds_experts
from kl_lens_desktop.model.inventory import inventory, quantizable, weight_parameters
from kl_lens_desktop.model.load import load_model, open_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.gptq import pieces
from kl_lens_desktop.sensitivity import moments
from kl_lens_desktop.sensitivity.moments import DAMP, DAMP_TIED, Moment, Seen, second_moments, weighted_error
from kl_lens_desktop.text.bundled import calibration_text, read_text
from kl_lens_desktop.text.windows import calibration_windows
from tests.models import CONFIGURATIONS, build, build_bf16_folder

IDS = torch.randint(0, 4096, (6, 48), generator=torch.Generator().manual_seed(3))
FIT, JUDGE = IDS[:4], IDS[4:]


def _seen(model: PreTrainedModel) -> dict[str, Seen]:
    events = second_moments(model, FIT, JUDGE, Cancel())
    return {weight.name: each for each in events if isinstance(each, Seen) for weight in each.weights}


def _inputs(model: PreTrainedModel, ids: Tensor) -> dict[int, Tensor]:
    """All inputs (tokens, channels) of the modules of a model, by the id of their weight."""
    found: dict[int, list[Tensor]] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.setdefault(id(module.weight), []).append(args[0].flatten(0, -2).double())

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_pre_hook(note) for module in linear]
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return {key: torch.cat(rows) for key, rows in found.items()}


def _agrees(moment: Moment, rows: Tensor) -> None:
    wanted = rows.t() @ rows / len(rows)
    assert moment.tokens == len(rows)
    assert torch.allclose(moment.matrix.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_every_weight_has_the_moments_of_its_inputs(family: str) -> None:
    model = build(family)
    seen, named = _seen(model), weight_parameters(model)
    assert seen.keys() == {weight.name for weight in quantizable(inventory(model))}
    for ids, half in ((FIT, "fit"), (JUDGE, "judge")):
        for key, rows in _inputs(model, ids).items():
            names = [name for name in seen if id(named[name]) == key]
            _agrees(getattr(seen[names[0]], half)[0], rows)


def test_weights_with_one_input_share_its_moment() -> None:
    seen = _seen(build("lfm2"))
    query = next(name for name in seen if "q_proj" in name)
    together = {name for name in seen if seen[name] is seen[query]}
    assert together == {query, query.replace("q_proj", "k_proj"), query.replace("q_proj", "v_proj")}


def test_what_a_models_code_multiplies_itself_is_seen_too() -> None:
    model = build("mamba")
    given: list[Tensor] = []
    mixer = model.base_model.layers[1].mixer
    rank = mixer.dt_proj.weight.shape[1]
    mixer.x_proj.register_forward_hook(lambda _, __, output: given.append(output[..., :rank]))
    with torch.no_grad():
        model(FIT, use_cache=False)
    rows = given[0].flatten(0, -2).double()
    _agrees(_seen(build("mamba"))["backbone.layers.1.mixer.dt_proj.weight"].fit[0], rows)


def test_a_tied_embedding_has_the_heads_inputs_and_one_alone_has_none() -> None:
    tied, apart = _seen(build("lfm2")), _seen(build("falcon_h1"))
    assert tied["model.embed_tokens.weight"].damp == DAMP_TIED
    assert apart["lm_head.weight"].damp == DAMP
    assert torch.equal(apart["model.embed_tokens.weight"].fit[0].matrix, torch.eye(64))


def test_an_expert_has_the_moments_of_the_tokens_it_got() -> None:
    model = build("granitemoehybrid with experts")
    layer = next(module for module in model.modules() if holds_experts(module))
    name = next(name for name, module in model.named_modules() if module is layer)
    routed: list[tuple[Tensor, ...]] = []
    layer.register_forward_pre_hook(lambda _, args: routed.append(args))
    with torch.no_grad():
        model(FIT, use_cache=False)
    hidden, chosen, _ = routed[0]
    seen = _seen(build("granitemoehybrid with experts"))
    outer, inner = seen[f"{name}.gate_up_proj.weight"].fit, seen[f"{name}.down_proj.weight"].fit
    assert sum(each.tokens for each in outer) == chosen.numel()
    every = hidden[torch.arange(len(hidden)).repeat_interleave(chosen.shape[1])].double()
    for expert, moment in enumerate(outer):
        rows = hidden[(chosen == expert).any(1)].double()
        few = 16 / (len(rows) + 16)
        wanted = (1 - few) * rows.t() @ rows / max(len(rows), 1) + few * every.t() @ every / len(every)
        assert moment.tokens == len(rows) == inner[expert].tokens
        assert torch.allclose(moment.matrix.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["jamba with experts", "zamba2", "falcon_h1"])
def test_a_model_on_disk_has_the_same_moments(family: str, tmp_path: Path) -> None:
    folder = build_bf16_folder(family, tmp_path / "model")
    ours, theirs = _seen(open_model(folder).model), _seen(load_model(folder).model)
    assert _same(ours, theirs)


def _same(ours: Mapping[str, Seen], theirs: Mapping[str, Seen]) -> bool:
    pairs = [
        (a.matrix, b.matrix)
        for name, seen in ours.items()
        for half in ("fit", "judge")
        for a, b in zip(getattr(seen, half), getattr(theirs[name], half), strict=True)
    ]
    return ours.keys() == theirs.keys() and all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs)


def test_what_takes_little_memory_is_kept_for_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build("lfm2"), moments.Remembered(FIT, JUDGE)
    names = {weight.name for weight in quantizable(inventory(model))}
    first = [each for each in inputs.seen(model, Cancel(), names) if isinstance(each, Seen)]
    some = {first[1].weights[0].name, first[3].weights[0].name}
    with monkeypatch.context() as patch:
        patch.setattr(moments, "second_moments", lambda *_: pytest.fail("ran again"))
        again = [each for each in inputs.seen(model, Cancel(), some) if isinstance(each, Seen)]
    assert {weight.name for each in again for weight in each.weights} == some
    assert all(any(each.about() is other.about() for other in first) for each in again)
    monkeypatch.setattr(moments, "HELD_ELEMENTS", 64)
    inputs = moments.Remembered(FIT, JUDGE)
    assert all(each for each in inputs.seen(model, Cancel(), names))
    assert not inputs.holds({first[0].weights[0].name})


def test_experts_are_factored_once_as_far_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    stock = moments.curvature
    monkeypatch.setattr(moments, "curvature", lambda *args: made.append(args[0]) or stock(*args))
    seen = _seen(build("granitemoehybrid with experts"))
    stack = next(each for each in seen.values() if len(each.fit) > 1)
    experts = len(stack.fit)
    for _ in range(2):
        assert all(stack.about(place)[0] for place in range(experts))
    assert len(made) == experts
    monkeypatch.setattr(moments, "HELD_ELEMENTS", 1)
    stack = replace(stack, _made={})
    for place in (0, 1, 0, 1):
        stack.about(place)
    assert len(made) == experts + 3
    assert torch.equal(stack.judge[1].matrix, stack.about(1)[1].matrix)


def test_the_mean_of_experts_is_made_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = moments._OfExperts(8, 16, {place: [torch.randn(20, 16)] for place in range(8)})
    summed: list[int] = []
    stock = moments._Sum.add
    monkeypatch.setattr(moments._Sum, "add", lambda self, rows: summed.append(1) or stock(self, rows))
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda place: start.wait() is not None and stack[place], range(8)))
    assert len(summed) == 8 + 8, "all rows for the mean, and each expert's own"


def test_what_memory_does_not_take_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "ALWAYS_ELEMENTS", 0)
    monkeypatch.setattr(moments.memory, "free_mb", lambda: 0)
    monkeypatch.setattr(moments, "_Sum", lambda _: pytest.fail("it was begun"))
    for family in ("lfm2", "falcon_h1", "granitemoehybrid with experts"):
        model = build(family)
        events = [each for each in second_moments(model, FIT, JUDGE, Cancel()) if not isinstance(each, float)]
        told = [each for each in events if isinstance(each, moments.Unseen)]
        assert told == events
        names = sorted(weight.name for each in told for weight in each.weights)
        assert names == sorted(weight.name for weight in quantizable(inventory(model)))
        assert all(each.needed > each.free == 0 for each in told)


def test_memory_is_asked_only_for_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments.memory, "free_mb", lambda: 0)
    assert moments.lacking_memory(2048) is None
    assert moments.lacking_memory(4096) == (moments.memory.rounding_bytes(4096), 0)
    enough = 1 + int(moments.memory.rounding_bytes(4096) / 0.9) // 2**20
    monkeypatch.setattr(moments.memory, "free_mb", lambda: enough)
    assert moments.lacking_memory(4096) is None
    assert moments.lacking_memory(4096, 100 * 2**20) is not None


def test_each_thread_that_rounds_takes_memory() -> None:
    one, seven = (moments.memory.rounding_bytes(8192, threads) for threads in (1, 7))
    largest = max(part.numel() for part in pieces(torch.empty(2048, 8192, device="meta")))
    assert seven - one > 6 * 40 * largest


def test_the_weighted_error_is_the_error_of_the_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, error = torch.randn(500, 24, generator=generator), torch.randn(10, 24, generator=generator)
    moment = Moment(rows.t() @ rows / len(rows), len(rows))
    outputs = (rows.double() @ error.double().t()).square().sum(1).mean()
    assert weighted_error(error, moment) == pytest.approx(float(outputs), rel=1e-5)


def test_a_cancel_is_heard() -> None:
    cancel = Cancel()
    events = second_moments(build("lfm2"), FIT, JUDGE, cancel)
    next(events)
    cancel.cancel()
    with pytest.raises(Cancelled):
        list(events)


def test_calibration_windows_lie_apart_and_behind_what_is_scored(
    short_text: tuple[Any, Path, list[int]],
) -> None:
    loaded, file, ids = short_text
    for scored in (0, 2000):
        found = calibration_windows(loaded, file, 64, scored=scored)
        assert found is not None
        fit, judge, skip = found
        assert skip == max(len(ids) // 4, scored)
        starts = [_place(ids, row.tolist()) for row in (*fit, *judge)]
        assert min(starts) == skip
        assert all(later - earlier >= 64 for earlier, later in pairwise(sorted(starts)))
        assert len(judge) == (len(fit) + len(judge)) // 5
        again = calibration_windows(loaded, file, 64, skip=skip)
        assert again is not None
        assert torch.equal(again[0], fit)
    assert calibration_windows(loaded, file, 64, scored=len(ids) - 100) is None


def _place(ids: list[int], row: list[int]) -> int:
    return next(start for start in range(len(ids)) if ids[start : start + len(row)] == row)


@pytest.fixture
def short_text(tmp_path: Path) -> tuple[Any, Path, list[int]]:
    file = tmp_path / "text.txt"
    file.write_text(read_text(calibration_text())[:16000], encoding="utf-8")
    loaded = load_model(resources.path("sample-hybrid"))
    return loaded, file, loaded.ids(read_text(file), "text")
