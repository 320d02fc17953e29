"""What a plan's loss means, in words: the verdict, and the figures it rests on."""

from PySide6.QtWidgets import QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import hint, label, row
from kl_lens_desktop.gui.plan.draft import Draft
from kl_lens_desktop.gui.state.translation import mark, tr
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.plan.verdict import STEPS, WORST, unchanged_share, verdict

# As `plan.verdict` has them, which knows no translation.
VERDICTS = (
    mark("Practically identical"),
    mark("Hard to notice"),
    mark("Noticeable at times"),
    mark("Clearly different"),
    mark("Badly damaged"),
)


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
            unchanged, source, about = float(plan.measured["top1_agreement"]["mean"]), tr("Measured"), ""
        else:
            kl = draft.totals(plan.assignments).kl
            found = unchanged_share(kl, draft.change_rate)
            unchanged, source, about = -1.0 if found is None else found, tr("Predicted"), tr("about ")
        known = unchanged >= 0
        self.words.setText(tr(verdict(kl, unchanged if known else None)))
        share = (
            tr(", {about}{unchanged} of next words unchanged").format(
                about=about, unchanged=quantities.unchanged(unchanged)
            )
            if known
            else ""
        )
        words = tr("{source}: KL {kl} nats per token{share}.").format(
            source=source, kl=quantities.significant(kl), share=share
        )
        self.figures.setText(words.replace(" %", "\N{NO-BREAK SPACE}%"))


def _explanation() -> str:
    lines = [
        tr("{words}: KL up to {kl:g}, and at least {unchanged} of next words unchanged").format(
            words=tr(step.words), kl=step.kl, unchanged=quantities.percent(step.unchanged)
        )
        for step in STEPS
    ]
    return "\n".join(
        [
            tr("The verdict is the first of these that the plan meets in both figures:"),
            *lines,
            tr("{worst}: anything beyond").format(worst=tr(WORST)),
            tr(
                "A rule of thumb from formats that many people use; the help page “Method” "
                "says where it comes from. Your own prompts decide: try them on the "
                "Benchmark page."
            ),
        ]
    )
