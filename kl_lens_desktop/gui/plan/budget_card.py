"""How a plan is asked for: method, limits and budget, with the figures of what comes of them."""

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QGridLayout, QLineEdit, QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import Elided, JobButton, card, column, combo, hint, label, row
from kl_lens_desktop.gui.plan.budget_slider import STEPS, BudgetSlider
from kl_lens_desktop.gui.plan.draft import DEVICE_UNITS, UNITS, Draft, Totals
from kl_lens_desktop.gui.plan.limits import LimitsButton
from kl_lens_desktop.gui.state.session import MISSING, Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.document import Plan
from kl_lens_desktop.quant.formats import parse_format

METHODS = (
    (
        tr("KL full‖quantized"),
        "kl",
        tr("For each size, the predictions closest to the original's (lowest KL)"),
    ),
    ("SQNR", "sqnr", tr("For each size, the least noise in the logits relative to the signal")),
    (tr("Logit error (MSE)"), "mse", tr("For each size, the lowest mean squared error of the logits")),
    (
        tr("Cross-entropy (ΔCE)"),
        "delta-ce",
        tr("For each size, the least added cross-entropy on the calibration text"),
    ),
    (
        tr("The paper's greedy"),
        "paper",
        tr("One list of all reductions by KL(quantized‖full), applied from the least harmful on"),
    ),
)
READINGS = (
    ("size", tr("Size of all weights")),
    ("bits", tr("Average bits")),
    ("kl", tr("Predicted KL, nats per token")),
)


class BudgetCard(QWidget):
    """Choices above, the budget as a slider and as a number below, between them the figures of the plan.

    Attributes
    ----------
    bytes : int
        The budget, of all exported weights; the slider shows it as finely as it can.

    Signals
    -------
    changed
        A person chose another method, or another budget on the slider.
    typed(float value, str unit)
        A person gave the budget as a number.
    prices_wanted
        A person asks what formats cost on the device.
    """

    changed = Signal()
    typed = Signal(float, str)
    prices_wanted = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._draft: Draft | None = None
        self._offered = 0  # methods; below them one more may stand, of a plan from elsewhere
        self._totals: Totals | None = None
        self._shown_exact = ""
        self.bytes = 0
        self.method = combo(
            tr("Method"), [(words, value) for words, value, _ in METHODS], tr("How formats are chosen")
        )
        self.limits_button = LimitsButton()
        self.prices = JobButton(
            tr("Prices"),
            session,
            lambda: "" if session.model else MISSING,
            self.prices_wanted.emit,
            tr(
                "Measure on this computer what every format costs in speed and memory. It "
                "takes about a minute and is remembered. Then a budget can be a speed."
            ),
        )
        self.readings = {name: label("–", "number") for name, _ in READINGS}
        self.on_device = label("", "secondary")
        self.on_device.hide()
        self.over = label("", "bad")
        self.over.hide()
        self.slider = BudgetSlider()
        self.exact = QLineEdit()
        self.exact.setAccessibleName(tr("Budget as a number"))
        self.exact.setToolTip(tr("Type a budget and press Enter"))
        self.exact.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.exact.setFixedWidth(84)
        self.unit = combo(tr("Unit of the budget"), UNITS)
        explain = hint(
            tr(
                "The budget is the size of the exported weights, including scales and "
                "everything that stays FP16, but not the tokenizer. The predicted KL is the "
                "sum of the KLs of the single weights."
            )
        )
        top = row(self.method, self.limits_button, self.prices, None, explain)
        spend = row(self.slider, self.exact, self.unit)
        spend.setStretch(0, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        figures = column(self._make_readings(), self.on_device, spacing=4)
        layout.addWidget(card(column(top, figures, self.over, spend, spacing=10)))
        self._throttle = QTimer(self, interval=0, singleShot=True)
        self._throttle.timeout.connect(self.changed)
        self.method.currentIndexChanged.connect(self._method_changed)
        self.slider.valueChanged.connect(self._slid)
        self.exact.editingFinished.connect(self._typed)
        self.unit.currentIndexChanged.connect(self._show_exact)

    def show_draft(self, draft: Draft) -> None:
        """Offer the methods of these scores, on a slider from their smallest plan to FP16."""
        self._draft = draft
        self._offer_units(draft.prices is not None)
        kept = self.method.currentData()
        self.method.blockSignals(True)
        self.method.clear()
        for words, value, tip in METHODS:
            self.method.addItem(words, value)
            self.method.setItemData(self.method.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        for name in draft.formats:
            self.method.addItem(f"Uniform {parse_format(name).label}", f"uniform-{name}")
        self._offered = self.method.count()
        self.method.setCurrentIndex(max(self.method.findData(kept), 0))
        self.method.blockSignals(False)
        self.slider.set_marks(
            {self._place(draft.uniform(name).bytes): parse_format(name).label for name in draft.formats[1:]}
        )
        self.set_bytes(self.bytes)

    def show_plan(self, plan: Plan, *, pinned: bool) -> None:
        """The figures of a plan, and whether its pins take more than the budget."""
        assert self._draft is not None
        self.take_method(plan.method)
        self._totals = totals = self._draft.totals(plan.assignments)
        self.readings["size"].setText(quantities.size(totals.bytes))
        self.readings["bits"].setText(f"{totals.bits:.2f}")
        self.readings["kl"].setText(quantities.plus_minus(totals.kl, totals.se))
        price = totals.price
        self.on_device.setVisible(price is not None)
        if price is not None:
            speed = f"{quantities.significant(1 / price.seconds)} tokens/s"
            self.on_device.setText(
                tr("Predicted on {device}: {speed}, {memory} of memory").format(
                    device=self._draft.device, speed=speed, memory=quantities.size(price.memory)
                )
            )
        uniform = plan.method.startswith("uniform-")
        self.slider.setEnabled(not uniform)
        self.slider.setAccessibleDescription(
            tr("{bytes}, {bits:.2f} bits on average").format(
                bytes=quantities.size(totals.bytes), bits=totals.bits
            )
        )
        over = totals.bytes - self.bytes
        self.over.setVisible(over > 0 and pinned and not uniform)
        self.over.setText(
            tr("The pinned weights exceed the budget by {max}.").format(max=quantities.size(max(over, 0)))
        )
        self._show_exact()

    def show_no_plan(self) -> None:
        """No figures, where there is no plan or these scores cannot weigh it."""
        self._totals = None
        for reading in self.readings.values():
            reading.setText("–")
        self.on_device.hide()
        self.slider.setEnabled(not (self.method.currentData() or "").startswith("uniform-"))
        self.slider.setAccessibleDescription("")
        self.over.hide()
        self._shown_exact = ""
        self.exact.clear()

    def set_bytes(self, size: int) -> None:
        """Choose a budget, or the nearest there can be, without asking for a plan."""
        assert self._draft is not None
        self.bytes = min(max(size, self._draft.smallest), self._draft.largest)
        self.slider.blockSignals(True)
        self.slider.setValue(self._place(self.bytes))
        self.slider.blockSignals(False)
        self.slider.update()

    def _offer_units(self, priced: bool) -> None:
        """Speed and memory only where the device was measured."""
        offered = (*UNITS, *DEVICE_UNITS) if priced else UNITS
        if self.unit.count() != len(offered):
            kept = self.unit.currentData()
            self.unit.blockSignals(True)
            self.unit.clear()
            for words, value in offered:
                self.unit.addItem(words, value)
            self.unit.setCurrentIndex(max(self.unit.findData(kept), 0))
            self.unit.blockSignals(False)

    def take_method(self, method: str) -> None:
        """Choose a method without asking for a plan; one from elsewhere stands below those on offer."""
        self.method.blockSignals(True)
        while self.method.count() > self._offered:
            self.method.removeItem(self._offered)
        if self.method.findData(method) < 0:
            self.method.addItem(method, method)
        self.method.setCurrentIndex(self.method.findData(method))
        self.method.blockSignals(False)

    def _make_readings(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(0)
        for place, (name, words) in enumerate(READINGS):
            caption = Elided(words, "secondary")
            grid.addWidget(caption, 0, place)
            self.readings[name].setFont(theme.text_font(13, semibold=True))
            grid.addWidget(self.readings[name], 1, place)
            grid.setColumnStretch(place, caption.fontMetrics().horizontalAdvance(words))
        return grid

    def _place(self, size: int) -> int:
        assert self._draft is not None
        low, high = self._draft.smallest, self._draft.largest
        return min(max(round(STEPS * (size - low) / max(high - low, 1)), 0), STEPS)

    def _slid(self) -> None:
        if self._draft is not None:
            low, high = self._draft.smallest, self._draft.largest
            self.bytes = low + round((high - low) * self.slider.value() / STEPS)
            self._throttle.start()

    def _method_changed(self) -> None:
        method = self.method.currentData()
        if self._draft is not None and method.startswith("uniform-"):
            self.set_bytes(self._draft.uniform(method.removeprefix("uniform-")).bytes)
        self.changed.emit()

    def _typed(self) -> None:
        text = self.exact.text()
        if text == self._shown_exact:
            return
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            value = -1.0
        if 0 <= value < 1e9:
            self.typed.emit(value, self.unit.currentData())
        else:
            self._session.say(
                "warning", tr("{text!r} is not a budget. Enter a number of 0 or more.").format(text=text)
            )
        self._show_exact()

    def _show_exact(self) -> None:
        """The plan in the unit chosen, until a person types something else."""
        if self._totals is not None:
            value = self._totals.in_unit(self.unit.currentData())
            self._shown_exact = quantities.significant(value, 4).replace(",", "")
            self.exact.setText(self._shown_exact)
