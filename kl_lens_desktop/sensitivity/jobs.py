"""The jobs that measure every weight, and how: needs no torch until they run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.quant.formats import DEFAULT_BITS, all_formats
from kl_lens_desktop.text.bundled import HELD_OUT_TOKENS, SCORED_TOKENS, WINDOW

QUICK_TOKENS = 1024
ANCHOR = "int4_sym_g64"  # the format of a menu in which every weight is measured
# Per channel is for runtimes that take nothing else, and costs much else.
MENU = tuple(name for name in all_formats() if name != "fp16" and not name.endswith("_pc"))
ROUNDINGS = ("data", "nearest")


@dataclass(frozen=True, slots=True)
class Analysis:
    """How sensitivity is measured.

    Attributes
    ----------
    text : tuple of Path
        A person's own; without it, `source` says which text of ours it is, one of `text.calibration.SOURCES`.
    tokens, window : int
        How much text at most, and the length of its windows.
    formats : tuple of str
        That every weight is measured in. Without any, those of `menu` are told of each weight: measured in
        one of them, predicted in the others, and measured there too where the plan's decision hangs on it.
    menu : tuple of str
        What the plan in mind may choose from.
    exhaustive : bool
        Measure every entry on the whole text, instead of stopping those whose rank is settled (see `race`).
    bits : float
        Average bits per quantizable parameter of the plan in mind: its decisions matter when entries are
        stopped.
    seed : int
        Of the order in which windows are measured, and of generated text.
    precision : str
        ``f32``, or ``bf16`` for products of matrices in bfloat16 with float32 sums, where the CPU has them;
        what that costs is measured and kept in the settings as ``rounding_floor``.
    device : str
        Of torch: ``cpu``, ``cuda`` or ``xpu``.
    minutes : float or None
        After so many, the best that is known is kept; with more the next time, it goes on from there.
    rounding : str
        ``data``, which chooses each weight's integers by the inputs that a text gives it, or ``nearest``.
    cluster : str or None
        Address of a Ray cluster whose computers measure; see `sensitivity.cluster.joined`.
    """

    text: tuple[Path, ...] = ()
    source: str = "novels"
    tokens: int = SCORED_TOKENS
    window: int = WINDOW
    formats: tuple[str, ...] = ()
    menu: tuple[str, ...] = MENU
    exhaustive: bool = False
    bits: float = DEFAULT_BITS
    seed: int = 0
    precision: str = "f32"
    device: str = "cpu"
    minutes: float | None = None
    rounding: str = ROUNDINGS[0]
    cluster: str | None = None

    @property
    def offered(self) -> tuple[str, ...]:
        """The formats of which the scores will tell."""
        return self.formats or self.menu

    @property
    def quick(self) -> "Analysis":
        """The same on less text, with wider errors."""
        return replace(self, tokens=QUICK_TOKENS)

    def continues(self, other: "Analysis") -> bool:
        """Whether the scores of `other` can be added to: further formats and more of the text may come."""
        same = (self.text, self.source, self.window, self.rounding) == (
            other.text,
            other.source,
            other.window,
            other.rounding,
        )
        return same and self.tokens >= other.tokens

    def check(self) -> None:
        """Raise `InputError` for what can be refused without the model."""
        from kl_lens_desktop.model.devices import check_device
        from kl_lens_desktop.quant.formats import formats_to_measure
        from kl_lens_desktop.text.bundled import check_text, check_windows

        formats_to_measure(self.offered)
        if self.rounding not in ROUNDINGS:
            raise InputError(
                f"Unknown rounding {self.rounding!r}", f"it is one of {', '.join(ROUNDINGS)}", "Choose one"
            )
        if not 0 <= self.bits <= 16:
            raise InputError(f"Cannot plan for {self.bits:g} bits", "FP16 takes 16", "Choose 16 or fewer")
        check_windows(self.tokens, self.window, max(len(self.text), 1))
        for text in self.text:
            check_text(text)
        check_device(self.device)


class Analyzed(TypedDict):
    """Path of the score file."""

    scores: str


@dataclass(frozen=True, slots=True)
class AnalyzeJob(Job[Analyzed]):
    """Score every weight in every format; what `out` holds already is not measured again.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    out : Path
        The score file.
    """

    NAME: ClassVar[str] = "analyze"
    LONG: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "What was measured is kept, and starting again continues"
    SAVES_MEMORY: ClassVar[str] = (
        "Close other programs, shorten the window, set OMP_NUM_THREADS=1, or choose a smaller model"
    )

    model: str
    out: Path
    analysis: Analysis = field(default_factory=Analysis)

    def writes(self) -> set[Path]:
        return {self.out}

    def memory_mb(self) -> int | None:
        from kl_lens_desktop.model.fit import memory_mb

        return memory_mb(self.model, "analyze")

    def check(self) -> None:
        from kl_lens_desktop.files import check_writable
        from kl_lens_desktop.sensitivity.scores import load_scores

        self.analysis.check()
        out = self.out.absolute()
        check_writable(out.parent)
        if out.exists():
            load_scores(out)

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)

        from kl_lens_desktop.sensitivity import engine

        yield from engine.analyze(local, self.out, self.analysis, cancel)
        yield self.finished({"scores": str(self.out)})


class MeasuredCosts(TypedDict):
    """What parts of an analysis take on this computer: the fields of `estimate.Costs`."""

    open_s: float
    block_s: list[float]
    widen_s: list[float]
    head_s: float
    element_s: float
    fitting: float


@dataclass(frozen=True, slots=True)
class CalibrateJob(Job[MeasuredCosts]):
    """Time what an analysis of `model` (a Hub id, a folder or ``sample``) takes, for a few seconds."""

    NAME: ClassVar[str] = "calibrate"

    model: str

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)

        from kl_lens_desktop.sensitivity.calibrate import calibrate

        costs = calibrate(local.folder, cancel)
        yield self.finished(
            {
                "open_s": costs.open_s,
                "block_s": list(costs.block_s),
                "widen_s": list(costs.widen_s),
                "head_s": costs.head_s,
                "element_s": costs.element_s,
                "fitting": costs.fitting,
            }
        )


class Tau(TypedDict):
    """Kendall's τ of a metric with perplexity, and its 95 % interval."""

    tau: float
    low: float
    high: float


class Agreed(TypedDict):
    """What `AgreeJob` found, as the file at its `out` holds it.

    ``ceiling`` is τ between the perplexities of two halves of the text, and ``ceiling_interval`` its 95 %
    interval: what a metric can reach follows from it by `highest_tau`. ``points`` hold weight, format,
    perplexity and every metric's mean.
    """

    metrics: dict[str, Tau]
    ceiling: NotRequired[float]  # files of older versions lack it
    ceiling_interval: NotRequired[list[float]]
    points: list[dict[str, Any]]
    text: dict[str, Any]
    perplexity_full: float


RELIABLE = 0.5  # τ of perplexity between halves; from 0.5 on, a perfect metric can reach 0.73


def highest_tau(halves: float) -> float:
    """The τ that a metric without any noise would have with perplexity on the whole text.

    `halves` is τ between the perplexities of two halves of it. For normal values a correlation is
    r = sin(πτ/2) (Kendall 1949). The whole text is twice as long as a half, so its perplexities correlate
    with what they estimate by √(2r/(1 + r)) (Spearman and Brown 1910).
    """
    r = max(math.sin(math.pi * halves / 2), 0.0)
    return 2 / math.pi * math.asin(math.sqrt(2 * r / (1 + r)))


@dataclass(frozen=True, slots=True)
class AgreeJob(Job[Agreed]):
    """Measure how well each metric of a score file foretells perplexity.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    scores : Path
        The score file.
    out : Path, optional
        Where the result is kept.
    text : Path, optional
        Held-out text; the bundled one without it.
    tokens, window : int
        How much of it at most, and the length of its windows.
    formats : tuple of str
        Which of the measured formats to compare; all of them without any.
    """

    NAME: ClassVar[str] = "agree"
    LONG: ClassVar[bool] = True

    model: str
    scores: Path
    out: Path | None = None
    text: Path | None = None
    tokens: int = HELD_OUT_TOKENS
    window: int = WINDOW
    formats: tuple[str, ...] = ()

    def writes(self) -> set[Path]:
        return {self.out} if self.out else set()

    def memory_mb(self) -> int | None:
        from kl_lens_desktop.model.fit import memory_mb

        return memory_mb(self.model, "analyze")

    def check(self) -> None:
        from kl_lens_desktop.files import check_replaceable
        from kl_lens_desktop.sensitivity.scores import load_rankable
        from kl_lens_desktop.text.bundled import check_held_out, check_unseen

        scores = load_rankable(self.scores, self.formats)
        held_out = check_held_out(self.text, self.tokens, self.window)
        scored = [scores.text.get("sha256"), *scores.text.get("files", ())]
        check_unseen(held_out, scored, (scores.rounding or {}).get("sha256"))
        if self.out:
            check_replaceable(self.out, "agreement")

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)

        from kl_lens_desktop.sensitivity.agreement import agree

        yield from agree(local, self, cancel)
