"""What a plan may not do: the menu of limits."""

from dataclasses import replace
from functools import partial

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction, QActionGroup
from PySide6.QtWidgets import QMenu, QPushButton

from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import KIND_NAMES
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.constraints import KINDS, Constraints
from kl_lens_desktop.plan.device_limits import DISTRUSTED, distrusted_words

LEAST_BITS = (4, 8, 16)


class LimitsButton(QPushButton):
    """A menu of limits; the button says how many there are.

    Signals
    -------
    chosen : Constraints
        What the limits are to be.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__(tr("Limits"))
        self._limits = Constraints()
        self.setProperty("menu", "true")
        self.setAutoDefault(False)
        self.setToolTip(tr("Forbid formats, or let weights share one"))
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self._fused = menu.addAction(tr("One format for q, k, v; one for gate, up"))
        self._fused.setToolTip(tr("A device can then compute each group as one product"))
        self._fused.setCheckable(True)
        self._fused.toggled.connect(lambda on: self._choose(fused=on))
        self._devices: dict[str, QAction] = {}
        for device in DISTRUSTED:
            words = distrusted_words(device)
            action = menu.addAction(tr("For {device}: no {words}").format(device=device, words=words))
            action.setToolTip(
                plain_tip(tr("OpenVINO's {device} plugin computes them wrongly").format(device=device))
            )
            action.setCheckable(True)
            action.toggled.connect(lambda on, device=device: self._choose(device=device if on else None))
            self._devices[device] = action
        menu.addSeparator()
        self._least: dict[tuple[str, int], QAction] = {}
        for kind in KINDS:
            words = KIND_NAMES[kind]
            inside = menu.addMenu(
                tr("{upper}{words}: at least").format(upper=words[0].upper(), words=words[1:])
            )
            choices = QActionGroup(inside)
            for bits in (0, *LEAST_BITS):
                action = inside.addAction(f"{bits} bits" if bits else tr("No minimum"))
                action.setCheckable(True)
                action.triggered.connect(partial(self._choose_bits, kind, bits))
                choices.addAction(action)
                self._least[kind, bits] = action
        self.setMenu(menu)
        self.show_limits(self._limits)

    def show_limits(self, limits: Constraints) -> None:
        """Tick what holds, without asking for it."""
        self._limits = limits
        for action, on in [
            (self._fused, limits.fused),
            *((action, limits.device == device) for device, action in self._devices.items()),
            *(
                (action, limits.least_bits.get(kind, 0) == bits)
                for (kind, bits), action in self._least.items()
            ),
        ]:
            action.blockSignals(True)
            action.setChecked(on)
            action.blockSignals(False)
        said = limits.as_words()
        count = len(str(said.get("limits", "")).split()) + ("fused" in said) + ("device" in said)
        self.setText(tr("Limits ({count})").format(count=count) if count else tr("Limits"))

    def _choose(self, **changes: object) -> None:
        self.chosen.emit(replace(self._limits, **changes))  # type: ignore[arg-type]

    def _choose_bits(self, kind: str, bits: int, *_: object) -> None:
        least = {k: b for k, b in {**self._limits.least_bits, kind: bits}.items() if b}
        self._choose(least_bits=least)
