"""What a plan's loss means, in words: the verdict, and the figures it rests on."""

from PySide6.QtWidgets import QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import hint, label, row
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.verdict import STEPS, WORST, unchanged_share, verdict


class VerdictLine(QWidget):
    """``Hard to notice``, and below it whether that is predicted or measured, from which figures."""

    def __init__(self) -> None:
        super().__init__()
        self.words = label("–", "number")
        self.words.setFont(theme.text_font(13, semibold=True))
        self.figures = label("", "secondary", wrap=True)
        # Nothing jumps while one drags.
        self.figures.setMinimumHeight(2 * self.figures.fontMetrics().height())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(row(self.words, None, hint(_explanation())))
        layout.addWidget(self.figures)

    def show_plan(self, plan: Plan | None, draft: Draft | None) -> None:
        """The verdict on a plan: by what was measured of it, or else by what these scores predict."""
        if plan is None or draft is None:
            self.words.setText("–")
            self.figures.setText("")
            return
        if plan.measured:
            kl = float(plan.measured["kl_pq"]["mean"])
            unchanged, source, about = float(plan.measured["top1_agreement"]["mean"]), "Measured", ""
        else:
            kl = draft.totals(plan.assignments).kl
            found = unchanged_share(kl, draft.change_rate)
            unchanged, source, about = -1.0 if found is None else found, "Predicted", "about "
        known = unchanged >= 0
        self.words.setText(verdict(kl, unchanged if known else None))
        share = f", {about}{quantities.unchanged(unchanged)} of next words unchanged" if known else ""
        self.figures.setText(f"{source}: KL {quantities.significant(kl)} nats per token{share}.")


def _explanation() -> str:
    lines = [
        f"{step.words}: KL up to {step.kl:g}, and at least {quantities.percent(step.unchanged)} of next "
        "words unchanged"
        for step in STEPS
    ]
    return "\n".join(
        [
            "The verdict is the first of these that the plan meets in both figures:",
            *lines,
            f"{WORST}: anything beyond",
            "A rule of thumb from formats that many people use; the help page “Method” says where it comes "
            "from. Your own prompts decide: try them on the Benchmark page.",
        ]
    )
