"""A plan's predicted figures beside those measured on held-out text."""

from PySide6.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import card, column, label
from kl_lens_desktop.gui.kit.words import explain
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.quant.integers import IN_SEQUENCE


class MeasuredCard(QWidget):
    """The figures of one plan, and the text they were measured on."""

    def __init__(self) -> None:
        super().__init__()
        self._figures: dict[str, QLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for index, (key, words, tip) in enumerate(
            (
                (
                    "predicted",
                    tr("KL predicted"),
                    tr("The sum of the KLs of the single weights, in nats per token"),
                ),
                (
                    "kl",
                    tr("KL measured"),
                    tr(
                        "How far this plan's predictions are from the original's, in nats per token. "
                        "0 is identical; 0.01 is hard to notice."
                    ),
                ),
                (
                    "top1",
                    tr("Top-1 agreement"),
                    tr("Share of tokens whose most likely next token stays the same"),
                ),
                (
                    "perplexity",
                    tr("Perplexity"),
                    tr("Roughly, how many words the model hesitates between at each step. Lower is better."),
                ),
                ("full", tr("… in full precision"), tr("Perplexity of the original model on the same text")),
            )
        ):
            self._figures[key] = label("–", select=True)
            self._figures[key].setFont(theme.text_font())
            name = label(words, "secondary")
            for widget in (name, self._figures[key]):
                explain(widget, tip)
            grid.addWidget(name, index, 0)
            grid.addWidget(self._figures[key], index, 1)
        self._words = label("", "secondary", wrap=True)
        frame = card(column(label(tr("On held-out text"), "heading"), grid, self._words))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(frame)

    def show_plan(self, plan: Plan) -> None:
        kl = plan.predicted.get("kl")
        texts = {
            "predicted": "–"
            if kl is None
            else quantities.plus_minus(kl, plan.predicted.get("se") or 0.0, "nats")
        }
        measured = plan.measured or {}
        for key, name, unit in (
            ("kl", "kl_pq", "nats"),
            ("top1", "top1_agreement", ""),
            ("perplexity", "perplexity", ""),
            ("full", "perplexity_full", ""),
        ):
            value = measured.get(name)
            texts[key] = (
                quantities.plus_minus(value["mean"], value["se"], unit) if value else tr("not measured yet")
            )
        for key, text in texts.items():
            self._figures[key].setText(text)
        read = measured.get("text")
        words = (
            tr("{tokens:,} tokens of {name}").format(tokens=read["tokens"], name=read["name"])
            if read
            else tr("Verify measures the whole plan on text that was not used for scoring.")
        )
        self._words.setText(" ".join([words + "." * bool(read), *rounding_words(plan)]).strip())


def rounding_words(plan: Plan) -> list[str]:
    """How a plan is rounded, in sentences, and what that gains where it was measured."""
    if not plan.roundings or plan.rounding is None:
        return []
    one_by_one = plan.rounding["method"] == IN_SEQUENCE
    how = tr(", each making up for the errors of those before it") if one_by_one else ""
    words = [
        tr(
            "Rounding: the integers of {count} weights were chosen to keep what they "
            "compute on {text}{how}. Size and speed are those of rounding to nearest."
        ).format(count=len(plan.roundings), text=plan.rounding["text"], how=how)
    ]
    measured = plan.measured or {}
    if nearest := measured.get("nearest"):
        loss = quantities.plus_minus(nearest["kl_pq"]["mean"], nearest["kl_pq"]["se"])
        words.append(tr("Rounded to nearest, the same plan has KL {loss}.").format(loss=loss))
    if elsewhere := measured.get("elsewhere"):
        here, there = (quantities.plus_minus(each["kl_pq"]["mean"], each["kl_pq"]["se"])
                       for each in (elsewhere, elsewhere["nearest"]))  # fmt: skip
        words.append(
            tr("On {name}: {here}, and {there} rounded to nearest.").format(
                name=elsewhere["text"]["name"], here=here, there=there
            )
        )
    return words
