"""What the background answers late belongs to what was open when it was asked, and is shown there alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kl_lens_desktop.errors import KLLensError
from kl_lens_desktop.files import write_json
from kl_lens_desktop.gui.sensitivity.page import SensitivityPage
from kl_lens_desktop.gui.shell.window import Window
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.plan.document import Plan, save_plan
from kl_lens_desktop.process.events import Progress
from tests.gui.test_benchmark import bench_document, bench_row


class Held:
    """Questions to the background that wait until a test lets each be read and answered, in any order."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Callable[[], Any], Callable[[Any], None], Callable[[KLLensError], None]]] = []
        monkeypatch.setattr(session.background, "run", lambda *question: self.asked.append(question))

    def answer(self, place: int = 0) -> None:
        ask, done, failed = self.asked.pop(place)
        try:
            found = ask()
        except KLLensError as error:
            failed(error)
        else:
            done(found)


def open_another(session: Session) -> None:
    """A model of the same family, whose weights have the same names."""
    assert session.model is not None
    about = {**session.model.about, "id": "another"}
    session.model = replace(session.model, reference="/another", about=about)  # type: ignore[arg-type]
    session.forget_results()


def test_a_plan_is_not_applied_to_a_model_that_was_opened_meanwhile(
    scored: Window, plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, held = scored.session, Held(scored.session, monkeypatch)
    save_plan(tmp_path / "plan.json", plan_of(bits=9))
    session.load_plan(tmp_path / "plan.json")
    open_another(session)
    held.answer()
    assert session.plan is None


def test_of_two_readings_of_the_work_folder_the_later_one_counts(
    opened: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, held = opened.session, Held(opened.session, monkeypatch)
    place = session.workspace.bench
    write_json(place, bench_document())
    session.reload()
    before, done, _ = held.asked.pop()
    earlier = before()
    write_json(place, bench_document() | {"rows": [bench_row("plan")]})
    session.reload()
    held.answer()
    done(earlier)
    assert [row["variant"] for row in session.bench] == ["plan"]


def test_another_work_folder_is_not_filled_from_the_one_before(
    opened: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, held = opened.session, Held(opened.session, monkeypatch)
    write_json(session.workspace.bench, bench_document())
    session.reload()
    opened.page("Settings").change_work(tmp_path / "elsewhere")  # type: ignore[attr-defined]
    held.answer()
    assert not session.bench


def test_while_everything_is_measured_anew_no_earlier_benchmark_is_shown(
    opened: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened.session
    write_json(session.workspace.bench, bench_document())
    held = Held(session, monkeypatch)
    session.reload()
    held.answer()
    assert session.bench
    monkeypatch.setattr(
        session.job, "start", lambda *steps, place=None: setattr(session.job, "current", steps[0])
    )
    session.compress()
    for stage in ("verify", "export", "bench"):
        session.job.progress.emit(Progress(stage, 0, 1, "…"))
    session.job.measured.emit(bench_row("plan"))
    while held.asked:
        held.answer()
    assert [row["variant"] for row in session.bench] == ["plan"], "rows of two runs stand in one table"
    session.job.current = None
    session.job.ended.emit("cancelled")
    while held.asked:
        held.answer()
    assert len(session.bench) == len(bench_document()["rows"]), "it is back when nothing came of it"


def test_values_of_a_weight_are_of_the_model_that_is_open(
    opened: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, held = opened.page("Sensitivity"), Held(opened.session, monkeypatch)
    assert isinstance(page, SensitivityPage)
    weight = opened.session.model.matrices[0]["name"]  # type: ignore[union-attr]
    page.detail.tabs.setCurrentIndex(1)
    held.asked.clear()
    page.choose(weight)
    (_, show, _), values = held.asked.pop(), page.detail.values
    show(np.arange(7, dtype=np.float32))
    assert values.accessibleDescription().startswith("7 values")
    open_another(opened.session)
    assert values.accessibleDescription() == "Select a weight"
    page.choose(weight)
    show(np.arange(7, dtype=np.float32))
    assert values.accessibleDescription() == "Select a weight", "those of the model before"
    held.answer()
    assert values.accessibleDescription().startswith("1,")


def test_scores_that_were_set_aside_do_not_come_back_and_nor_does_their_agreement(
    scored: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, held = scored.session, Held(scored.session, monkeypatch)
    assert session.scores is not None
    write_json(session.workspace.agree, {"points": []})
    session.agreement = {"points": []}  # type: ignore[typeddict-item]
    session.reload()
    ask, done, _ = held.asked.pop()
    earlier = ask()
    session.set_analysis(replace(session.analysis, tokens=1024, text=(Path("other.txt"),)))
    done(earlier)
    session.reload()
    held.answer()
    assert session.scores is None
    assert not session.entries
    assert session.agreement is None
    assert session.workspace.agree.with_name("agree-before.json").exists()
