"""How much a benchmark measures."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.text.bundled import HELD_OUT_TOKENS, LONGEST_WINDOW

MOST_CONTEXTS = 16  # beside the usual prompt, that a bench file takes


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What a person may choose, and the defaults.

    Attributes
    ----------
    text : Path, optional
        Held-out text for quality; the bundled one without it.
    tokens, window, stride : int
        Of it: see `text.passage.passage`; None for its own defaults.
    chunk : int
        The most tokens given to a model at once in the quality run.
    precision : str
        Of the quality run: ``user`` for what a user gets on the device, ``f32`` for the exported weights'
        own quality.
    prompt_tokens, new_tokens : int
        Of every timed generation that is compared.
    repeats, turn_s : int, float
        Timed generations in a round, and seconds after which it does not begin another.
    rounds, max_rounds, speed_minutes : int, int, float
        Rounds in which the variants take turns: at least, and, until their speeds are told apart or known
        well enough (see `bench.noise`), at most; on one device for so long.
    contexts : tuple of int
        Other lengths of prompt to time, in the first two rounds.
    raw : bool
        Also time plain requests, and how fast this computer reads memory.
    cache : bool
        Also time loading with OpenVINO's model cache, in a temporary folder.
    combinations : tuple of str
        Of devices, such as ``AUTO:GPU,CPU``: measured beside the devices found where none are named.
    cool_down_s : float
        Rest before every turn and every process.
    time_limit_s : float
        Without progress, for each child process, and each turn of it.
    memory_limit_mb : float or None
        Private memory at which a child is ended; None for 90 % of what is free when it starts.
    """

    text: Path | None = None
    tokens: int = HELD_OUT_TOKENS
    window: int | None = None
    stride: int | None = None
    chunk: int = 256
    precision: str = "user"
    prompt_tokens: int = 256
    new_tokens: int = 64
    repeats: int = 3
    turn_s: float = 3.0
    rounds: int = 4
    max_rounds: int = 32
    speed_minutes: float = 10.0
    contexts: tuple[int, ...] = (128, 512, 2048)
    raw: bool = True
    cache: bool = True
    combinations: tuple[str, ...] = ()
    cool_down_s: float = 0.2
    time_limit_s: float = 1200.0
    memory_limit_mb: float | None = None

    @property
    def most_rounds(self) -> int:
        return max(self.rounds, self.max_rounds)

    @property
    def longest_prompt(self) -> int:
        """The most tokens of a prompt that any generation is given."""
        return max(self.prompt_tokens, *self.contexts, 1)

    @property
    def quick(self) -> "Benchmark":
        """The same with less text and fewer repetitions: a first answer in minutes, with wider errors."""
        return replace(
            self, tokens=2048, new_tokens=32, rounds=2, max_rounds=2, contexts=(), raw=False, cache=False
        )

    def as_measured(self) -> dict[str, Any]:
        """As a bench file keeps them; it says elsewhere on which text and devices."""
        about = asdict(self) | {"contexts": list(self.contexts)}
        return {name: value for name, value in about.items() if name not in ("text", "combinations")}

    def check(self) -> None:
        """Raise `InputError` unless something can be measured with these."""
        least = {"rounds": 1, "repeats": 1, "prompt_tokens": 1, "new_tokens": 2, "chunk": 1}
        for name, count in least.items():
            if getattr(self, name) < count:
                raise InputError("Cannot measure", f"{name} is less than {count}", f"Choose at least {count}")
        if any(not 1 <= length <= LONGEST_WINDOW for length in self.contexts):
            why = f"a prompt length is not between 1 and {LONGEST_WINDOW:,}"
            raise InputError("Cannot measure", why, "Choose another length")
        if len(self.contexts) > MOST_CONTEXTS:
            why = f"{len(self.contexts)} prompt lengths are more than {MOST_CONTEXTS}"
            raise InputError("Cannot measure", why, "Choose fewer lengths")
        if self.precision not in ("user", "f32"):
            raise InputError("Cannot measure", f"{self.precision!r} is not a precision", "Choose user or f32")
