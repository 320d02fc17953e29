"""The job that makes and measures the baselines: needs no torch until it runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypedDict

from kl_lens_desktop.plan.baselines import FAMILIES
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.text.bundled import HELD_OUT_TOKENS, WINDOW


class Baselines(TypedDict):
    """Paths of the plans by name."""

    plans: dict[str, str]


@dataclass(frozen=True, slots=True)
class BaselinesJob(Job[Baselines]):
    """Every baseline as a plan beside a plan of the same bytes, each measured on the same held-out text.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    scores, plan : Path
        Files of that model.
    out : Path
        The folder of the baselines' plans.
    text : Path, optional
        Held-out text; the bundled one without it.
    tokens, window : int
        How much of it at most, and the length of its windows.
    gamma : float
        Of the paper's greedy.
    only : tuple of str
        Which of `plan.baselines.FAMILIES`.
    cluster : str, optional
        Address of a Ray cluster whose computers measure; see `sensitivity.cluster.joined`.
    """

    NAME: ClassVar[str] = "baselines"
    LONG: ClassVar[bool] = True

    model: str
    scores: Path
    plan: Path
    out: Path
    text: Path | None = None
    tokens: int = HELD_OUT_TOKENS
    window: int = WINDOW
    gamma: float = 1.1
    only: tuple[str, ...] = FAMILIES
    cluster: str | None = None

    def writes(self) -> set[Path]:
        return {self.out}

    def memory_mb(self) -> int | None:
        from kl_lens_desktop.model.fit import memory_mb

        return memory_mb(self.model, "export")

    def check(self) -> None:
        from kl_lens_desktop.files import check_writable
        from kl_lens_desktop.plan.baselines import check_families
        from kl_lens_desktop.plan.document import load_plan
        from kl_lens_desktop.plan.jobs import check_same_model
        from kl_lens_desktop.text.bundled import check_held_out

        check_families(self.only)
        check_same_model(self.scores, self.plan)
        held_out = check_held_out(self.text, self.tokens, self.window)
        load_plan(self.plan).check_unseen(held_out)
        check_writable(self.out.absolute())

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain
        from kl_lens_desktop.process.events import Progress

        local = yield from obtain(self.model, cancel)
        yield Progress("baselines", 0, 0, "Starting")
        from kl_lens_desktop.export.baseline_plans import baselines  # takes seconds to import

        yield from baselines(local, self, cancel)
