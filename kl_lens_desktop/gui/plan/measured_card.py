"""A plan's predicted figures beside those measured on held-out text."""

from PySide6.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import card, column, hint, label, row
from kl_lens_desktop.gui.kit.words import explain
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.quant.integers import IN_SEQUENCE

# Of each figure: its key, its words, and what it is.
_ROWS = (
    ("predicted", tr("KL predicted"), tr("The sum of the KLs of the single weights, in nats per token")),
    (
        "kl",
        tr("KL measured"),
        tr(
            "How far this plan's predictions are from the original's, in nats per token. "
            "0 is identical; 0.01 is hard to notice."
        ),
    ),
    ("there", tr("KL on other text"), ""),  # which text, a plan says
    ("top1", tr("Top-1 agreement"), tr("Share of tokens whose most likely next token stays the same")),
    (
        "perplexity",
        tr("Perplexity"),
        tr("Roughly, how many words the model hesitates between at each step. Lower is better."),
    ),
    ("full", tr("… in full precision"), tr("Perplexity of the original model on the same text")),
)
_MEASURED = {"kl": "kl_pq", "top1": "top1_agreement", "perplexity": "perplexity", "full": "perplexity_full"}
_KL = ("predicted", "kl", "there")


class MeasuredCard(QWidget):
    """The figures of one plan, and the text they were measured on."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, QLabel] = {}
        self._names: dict[str, QLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for index, (key, words, tip) in enumerate(_ROWS):
            self.figures[key], self._names[key] = label("–", select=True), label(words, "secondary")
            self.figures[key].setFont(theme.text_font())
            for column_index, widget in enumerate((self._names[key], self.figures[key])):
                explain(widget, tip)
                grid.addWidget(widget, index, column_index)
        self._words = label("", "secondary", wrap=True)
        self._rounding = hint("")
        self._rounding.setAccessibleName(tr("Explanation of the rounding"))
        head = row(label(tr("On held-out text"), "heading"), None, self._rounding)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(card(column(head, grid, self._words)))

    def show_plan(self, plan: Plan) -> None:
        figures = _figures(plan)
        powers = quantities.need_powers(figures[key][0] for key in _KL if key in figures)
        for key, shown in self.figures.items():
            known = figures.get(key)
            absent = "–" if key == "predicted" else tr("not measured yet")
            shown.setText(absent if known is None else _in_words(key, *known, powers=powers))
            for widget in (self._names[key], shown):
                widget.setVisible(known is not None or key != "there")  # seen only where it was measured
        read = (plan.measured or {}).get("text")
        words = (
            tr("{tokens:,} tokens of {name}.").format(tokens=read["tokens"], name=read["name"])
            if read
            else tr("Verify measures the whole plan on text that was not used for scoring.")
        )
        rounded, sentences = len(plan.roundings), rounding_words(plan)
        if rounded:
            words += " " + tr("{count} weights are rounded by data.").format(count=rounded)
        self._words.setText(words)
        if "there" in figures:
            other = tr("On {name}: is the rounding as good on another kind of text?").format(
                name=(plan.measured or {})["elsewhere"]["text"]["name"]
            )
            for widget in (self._names["there"], self.figures["there"]):
                explain(widget, other)
        explain(self._rounding, *sentences)
        self._rounding.setVisible(bool(sentences))


def _figures(plan: Plan) -> dict[str, tuple[float, float]]:
    """Mean and standard error of what is known of a plan, by the keys of `_ROWS`."""
    measured, kl = plan.measured or {}, plan.predicted.get("kl")
    found = {key: measured.get(name) for key, name in _MEASURED.items()}
    found["there"] = (measured.get("elsewhere") or {}).get("kl_pq")
    known = {key: (each["mean"], each["se"]) for key, each in found.items() if each}
    return known if kl is None else {**known, "predicted": (kl, plan.predicted.get("se") or 0.0)}


def _in_words(key: str, mean: float, se: float, *, powers: bool) -> str:
    """All KLs in one notation, to be compared."""
    return quantities.plus_minus(mean, se, powers=powers) if key in _KL else quantities.plus_minus(mean, se)


def rounding_words(plan: Plan) -> list[str]:
    """How a plan is rounded, in two sentences, and what that gains where it was measured."""
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
    of_texts = [(measured.get("text"), measured, measured.get("nearest"))]
    if elsewhere := measured.get("elsewhere"):
        of_texts.append((elsewhere["text"], elsewhere, elsewhere["nearest"]))
    for text, ours, nearest in of_texts:
        if text and nearest:
            means = [each["kl_pq"] for each in (ours, nearest)]
            powers = quantities.need_powers(each["mean"] for each in means)
            here, there = (quantities.plus_minus(each["mean"], each["se"], powers=powers) for each in means)
            words.append(
                tr("On {name}: KL {here}. Rounded to nearest, the same formats have {there}.").format(
                    name=text["name"], here=here, there=there
                )
            )
    return words
