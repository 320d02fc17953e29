"""What a compression came to, in three figures: size, speed, and how much it answers as before.

Needs no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.figures import number
from kl_lens_desktop.bench.judgement import levelled
from kl_lens_desktop.bench.noise import Difference, difference

PLAN, FULL = "plan", "fp16"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The plan against the model in FP16, on one device.

    Attributes
    ----------
    device : str
    size_bytes, full_bytes : float or None
        Of the weights' files; None where no row has FP16's.
    tokens_per_s : float or None
        The plan's.
    speed : Difference or None
        Of tokens per second: the plan's over FP16's, where FP16 ran.
    unchanged : float or None
        Share of the text's tokens for which both find the same one most likely.
    """

    device: str
    size_bytes: float
    full_bytes: float | None
    tokens_per_s: float | None
    speed: Difference | None
    unchanged: float | None

    @property
    def size(self) -> str:
        """``5.03 MB instead of 15.9 MB``, or the first alone."""
        size = quantities.size(self.size_bytes)
        return f"{size} instead of {quantities.size(self.full_bytes)}" if self.full_bytes else size

    @property
    def pace(self) -> str:
        """``1.3× as fast``, or that noise explains the difference or there are too few rounds to say.

        Without FP16's speed ``12.3 tokens/s``; empty without the plan's.
        """
        if self.speed is None:
            return f"{quantities.significant(self.tokens_per_s)} tokens/s" if self.tokens_per_s else ""
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
    """That of a benchmark, on the device where the plan is fastest; None if the plan ran on none.

    A device that ran FP16 too goes before one that did not: a large model's often does not fit the memory.
    """
    done = {(row["variant"], row["device"]): row for row in levelled(rows) if row["status"] == "ok"}
    full_bytes = next((r["size_bytes"] for r in rows if r["variant"] == FULL and r.get("size_bytes")), None)
    found = []
    for (variant, device), plan in done.items():
        if variant != PLAN or not plan.get("size_bytes"):
            continue
        full, pace = done.get((FULL, device)), number(plan, "tokens_per_s")
        speed = None if full is None else difference(full, plan)
        unchanged = number(plan, "top1_agreement")
        made = Outcome(device, plan["size_bytes"], full_bytes, pace, speed, unchanged)
        found.append(((speed is not None, pace or 0.0), made))
    return max(found, key=lambda pair: pair[0])[1] if found else None
