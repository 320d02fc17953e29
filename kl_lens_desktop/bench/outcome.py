"""What a compression came to, in three figures: size, speed, and how much it answers as before.

Needs no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.figures import number
from kl_lens_desktop.bench.noise import Difference, difference

PLAN, FULL = "plan", "fp16"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The plan against the model in FP16, on one device.

    Attributes
    ----------
    device : str
    size_bytes, full_bytes : float
        Of the weights' files.
    speed : Difference
        Of tokens per second: the plan's over FP16's.
    unchanged : float or None
        Share of the text's tokens for which both find the same one most likely.
    """

    device: str
    size_bytes: float
    full_bytes: float
    speed: Difference
    unchanged: float | None

    @property
    def size(self) -> str:
        """``5.03 MB instead of 15.9 MB``."""
        return f"{quantities.size(self.size_bytes)} instead of {quantities.size(self.full_bytes)}"

    @property
    def pace(self) -> str:
        """``1.3× as fast``, or that noise explains the difference or there are too few rounds to say."""
        if self.speed.apart is False:
            return "about as fast"
        doubt = "" if self.speed.apart else f" ({self.speed.measurements}: not certain)"
        return f"{self.speed.ratio:.2g}× as fast{doubt}"

    @property
    def alike(self) -> str:
        """``96 % of next words unchanged``; empty where that was not measured."""
        if self.unchanged is None:
            return ""
        return f"{quantities.unchanged(self.unchanged)} of next words unchanged"

    @property
    def sentence(self) -> str:
        return " · ".join(filter(None, (self.size, self.pace, self.alike)))


def outcome(rows: Sequence[dict[str, Any]]) -> Outcome | None:
    """That of a benchmark, on the device where the plan is fastest; None unless some device ran both."""
    done = {(row["variant"], row["device"]): row for row in rows if row["status"] == "ok"}
    found = []
    for (variant, device), plan in done.items():
        full = done.get((FULL, device))
        if variant == PLAN and full is not None and (speed := difference(full, plan)):
            made = Outcome(
                device, plan["size_bytes"], full["size_bytes"], speed, number(plan, "top1_agreement")
            )
            found.append((number(plan, "tokens_per_s") or 0.0, made))
    return max(found, key=lambda pair: pair[0])[1] if found else None
