"""What formats cost on a device, on the Plan page: shown, and a budget of its own."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt

from kl_lens_desktop.bench.jobs import PricesJob
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.plan.page import PlanPage
from kl_lens_desktop.gui.plan.table import FORMAT
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.plan.constraints import Constraints
from kl_lens_desktop.plan.prices import DeviceKey, ModelPrices, Prices, Product, Whole, save_prices
from kl_lens_desktop.plan.propose import propose
from kl_lens_desktop.sensitivity.scores import Estimate, Scores

KEY = DeviceKey("CPU", "a processor", "", version("openvino"), 2)


def _prices(scores: Scores) -> ModelPrices:
    costs = {"fp16": (0.9, 2.0), "int8_sym": (0.5, 1.0), "int4_sym_g64": (0.3, 0.55)}
    shapes = sorted({tuple(w["shape"]) for w in scores.weights if w["kind"] != "conv"})
    products = [
        Product(*shape, name, 1e-9 * shape[0] * shape[1] * ns, round(shape[0] * shape[1] * memory))
        for shape in shapes
        for name, (ns, memory) in costs.items()
    ]
    whole = Whole(scores.model.sha256, "int4_sym_g64", 0.004, 150_000_000)
    return ModelPrices(Prices(KEY, tuple(products), (whole,)), scores.weights, 0, whole)


@pytest.fixture
def priced(scored: Window) -> Iterator[PlanPage]:
    page = scored.page("Plan")
    assert isinstance(page, PlanPage)
    assert scored.session.scores is not None
    assert page.budget.on_device.isHidden()
    save_prices(_prices(scored.session.scores).prices)
    page._new_scores()
    yield page
    Path(KEY.path).unlink()


def test_a_plan_tells_its_speed_and_memory_where_they_were_measured(priced: PlanPage) -> None:
    plan = priced.session.plan
    assert plan is not None
    priced.replan()
    assert not priced.budget.on_device.isHidden()
    words = priced.budget.on_device.text()
    assert words.startswith("Predicted on CPU: ")
    assert words.endswith(" MB of memory")
    assert priced.session.plan is not None
    assert priced.session.plan.predicted["tokens_per_s"]
    index = priced.weights.table.index(0, FORMAT)
    tip = priced.weights.table.data(index, Qt.ItemDataRole.ToolTipRole)
    assert all(words in tip for words in ("On CPU", "INT4 g64:", "INT8:", "FP16:", "of memory", "µs"))


def test_a_budget_can_be_a_speed_or_an_amount_of_memory(priced: PlanPage) -> None:
    unit = priced.budget.unit
    fast, lean = (unit.findData(name) for name in ("speed", "memory"))
    assert min(fast, lean) > 0
    slowest, fastest = (priced._draft.uniform(name).in_unit("speed") for name in ("fp16", "int4_sym_g64"))  # type: ignore[union-attr]
    wanted = (slowest + fastest) / 2
    priced.set_budget(wanted, "speed")
    plan = priced.session.plan
    assert plan is not None
    assert wanted <= (plan.predicted["tokens_per_s"] or 0) < 1.1 * wanted
    priced.set_budget((plan.predicted["memory_bytes"] or 0) / 1e6 - 1, "memory")
    smaller = priced.session.plan
    assert smaller is not None
    assert (smaller.predicted["memory_bytes"] or 0) <= (plan.predicted["memory_bytes"] or 0) - 1e6


def test_a_speed_typed_gives_the_plan_of_the_command_line(priced: PlanPage) -> None:
    scores, draft = priced.session.scores, priced._draft
    assert scores is not None
    assert draft is not None
    slowest, fastest = (draft.uniform(name).in_unit("speed") for name in ("fp16", "int4_sym_g64"))
    for share in (0.3, 0.6, 0.9):
        wanted = slowest + share * (fastest - slowest)
        priced.set_budget(wanted, "speed")
        plan = priced.session.plan
        assert plan is not None
        asked = propose(scores, min_tokens_per_s=wanted, prices=_prices(scores))
        assert plan.assignments == asked.assignments
        assert plan.budget == {"tokens_per_s": wanted}
    weight = next(w for w, name in plan.assignments.items() if name != "int8_sym")
    priced.pin({weight: "int8_sym"})
    assert (priced.session.plan.predicted["tokens_per_s"] or 0) >= wanted, "a pin keeps the speed"  # type: ignore[union-attr]
    priced.budget.slider.setValue(500)
    priced._replan_for_size()
    assert list(priced.session.plan.budget or {}) == ["bytes"]  # type: ignore[union-attr]


def test_a_speed_that_no_plan_has_is_refused_in_words(priced: PlanPage) -> None:
    before = priced.session.plan
    unit = priced.budget.unit
    unit.setCurrentIndex(unit.findData("speed"))
    shown = priced.budget.exact.text()
    priced.budget.exact.setText("1000000")
    priced.budget.exact.editingFinished.emit()
    assert "No plan decodes 1e+06 tokens/s on CPU" in priced._window.banner.text.text()  # type: ignore[attr-defined]
    assert priced.session.plan is before
    assert priced.budget.exact.text() == shown
    assert not priced.undo.canUndo()


def test_a_quality_typed_is_kept_without_formats_that_only_save_disk(sample_scores: Scores) -> None:
    draw, entries = np.random.default_rng(0), []
    for entry in (each for each in sample_scores.entries if each.format == "int8_sym"):
        level = 2e-4 * np.exp(draw.normal(0, 1.5))
        for name, share in (("int8_sym", 0.0055), ("int4_sym_g64", 1.0), ("int3_sym_g64", 4.5)):
            entries.append(replace(entry, format=name, kl_pq=Estimate(share * level, 0.0, 4096)))
    draft = Draft(replace(sample_scores, entries=entries))
    assert "int3_sym_g64" in draft.costly
    whole = draft.uniform("int4_sym_g64").kl
    for limit in (share * whole for share in (0.2, 0.5, 1.0, 2.0)):
        size = draft.bytes_within(limit, "kl", "kl", Constraints())
        assert draft.totals(draft.assign("kl", size, Constraints())).kl <= limit * (1 + 1e-9)


def test_the_button_measures_the_model_on_this_computer(
    scored: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = scored.page("Plan")
    assert isinstance(page, PlanPage)
    started = []
    monkeypatch.setattr(scored.session, "start", lambda *steps: started.extend(steps))
    page.budget.prices.click()
    assert [type(step.job) for step in started] == [PricesJob]
    assert started[0].job.device == "CPU"


def test_a_format_that_only_saves_disk_is_proposed_where_nothing_else_is_small_enough(
    sample_scores: Scores,
) -> None:
    draft = Draft(sample_scores)
    draft.costly = ("int4_sym_g64",)
    middle = (draft.smallest + draft.largest) // 2
    assert "int4_sym_g64" not in draft.assign("kl", middle, Constraints()).values()
    assert "int4_sym_g64" in draft.assign("kl", draft.smallest, Constraints()).values()
