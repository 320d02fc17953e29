"""The job that measures a whole plan, and repairs it first where asked: needs no torch until it runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.text.bundled import HELD_OUT_TOKENS, REPAIR_TOKENS, WINDOW


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """How a plan is to be repaired before it is verified.

    Attributes
    ----------
    scores : Path, optional
        The score file the plan was made from: its formats are tried, the nearest to the margin first. Without
        it the formats of the plan and the usual ones are, ranked by how much they change the weights.
    text : Path, optional
        By default what the bundled calibration text holds beyond the tokens that were scored on.
    tokens : int, optional
        How much of it; without it 4,096, and more where nothing more is found and time is left.
    minutes : float
        After which the best plan found so far is taken.
    """

    scores: Path | None = None
    text: Path | None = None
    tokens: int | None = None
    minutes: float = 20.0


class RepairDone(TypedDict):
    """What a repair gained, in nats per token on the repair text."""

    kl_before: float
    kl_after: float
    gain: float
    gain_se: float
    rounds: int


class RefineDone(TypedDict):
    """What rounding in sequence gained, in nats per token on text that judges it; and whether it was kept."""

    kl_before: float
    kl_after: float
    gain: float
    gain_se: float
    kept: bool


class VerifiedPlan(TypedDict):
    """The plan's path and figures, and what a repair and rounding in sequence gained."""

    plan: str
    measured: dict[str, Any]
    repair: NotRequired[RepairDone]
    refine: NotRequired[RefineDone]


@dataclass(frozen=True, slots=True)
class VerifyJob(Job[VerifiedPlan]):
    """Measure the joint KL and perplexity of a plan and write them into it.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    plan : Path
        The plan file.
    text : Path, optional
        Held-out text; the bundled one without it.
    tokens, window : int
        How much of it at most, and the length of its windows.
    repair : RepairSettings, optional
        With it, better plans of the same bytes are looked for first.
    refine : bool
        Round the plan's weights in sequence first, and keep that where it is better.
    refine_text : Path, optional
        The text that they were fitted to, if it is not the bundled one.
    consent : bool
        Apply a plan of another revision whose names and shapes match.
    cluster : str, optional
        Address of a Ray cluster whose computers measure; see `sensitivity.cluster.joined`.
    """

    NAME: ClassVar[str] = "verify"
    LONG: ClassVar[bool] = True

    model: str
    plan: Path
    text: Path | None = None
    tokens: int = HELD_OUT_TOKENS
    window: int = WINDOW
    repair: RepairSettings | None = None
    refine: bool = False
    refine_text: Path | None = None
    consent: bool = False
    cluster: str | None = None

    def writes(self) -> set[Path]:
        return {self.plan}

    def memory_mb(self) -> int | None:
        from kl_lens_desktop.model.fit import memory_mb

        return memory_mb(self.model, "verify")

    def check(self) -> None:
        from kl_lens_desktop.files import check_writable
        from kl_lens_desktop.plan.document import load_plan
        from kl_lens_desktop.text import bundled

        plan = load_plan(self.plan)
        check_writable(self.plan.absolute().parent)
        held_out = bundled.check_held_out(self.text, self.tokens, self.window)
        plan.check_unseen(held_out)
        if self.refine_text:
            bundled.check_text(self.refine_text)
        if self.repair is None:
            return
        if self.repair.scores and not self.consent:  # by which the plan is made one of this model
            check_same_model(self.repair.scores, self.plan)
        text = self.repair.text or bundled.calibration_text()
        bundled.check_text(text)
        bundled.check_repair_text(text, held_out)
        tokens = REPAIR_TOKENS if self.repair.tokens is None else self.repair.tokens
        bundled.check_repair_tokens(tokens, self.window)

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)

        from kl_lens_desktop.plan.consent import adapted_to
        from kl_lens_desktop.plan.document import load_plan, save_plan
        from kl_lens_desktop.plan.verify import verify

        if self.consent:
            save_plan(self.plan, adapted_to(local, load_plan(self.plan), self.plan))
        yield from verify(local, self, cancel)


def check_same_model(scores: Path, plan: Path) -> None:
    """Raise `InputError` unless both files are of the same model."""
    from kl_lens_desktop.plan.document import load_plan
    from kl_lens_desktop.sensitivity.scores import load_scores

    made = load_plan(plan)
    load_scores(scores).model.check_same(
        made.model, scores, "Choose the score file that the plan was made from"
    )
