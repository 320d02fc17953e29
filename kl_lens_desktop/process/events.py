"""The typed events that stages yield, and their JSON lines between processes."""

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, get_args

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is: `done` of `total` in `unit`; the time left in seconds and the pace, where known."""

    stage: str
    done: float
    total: float
    message: str = ""
    unit: str = ""
    eta_s: float | None = None
    per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A remark worth keeping in the log; `level` is ``info`` or ``warning``."""

    text: str
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Weights:
    """The inventory a stage works on, before its first result: the rows of ``kl-lens inspect``.

    And how many experts of a layer a token passes; 0 without experts.
    """

    weights: list[dict[str, Any]]
    experts_chosen: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """One finished (weight, format): an entry of the score file (schema ``kl-lens/scores/1``)."""

    entry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished row of the benchmark (schema ``kl-lens/bench/1``)."""

    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Repaired:
    """A better plan was found by measuring: its joint KL on the repair text, in nats per token.

    Attributes
    ----------
    kl, se : float
        Of the plan as it is now.
    gain, gain_se : float
        How much less than before, window by window on the same text.
    changes : list of [weight, format before, format now]
    """

    kl: float
    se: float
    gain: float
    gain_se: float
    changes: list[list[str]]


@dataclass(frozen=True, slots=True)
class Exported:
    """A model is written into a folder, and the devices here were asked about it; others may follow."""

    folder: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job that takes orders answers to one of them, as the job documents."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Memory:
    """A sample of the memory while a child process works, in MB (2**20 bytes); the figures overlap.

    Attributes
    ----------
    label : str
        Whose work it is, such as ``plan on CPU``.
    rss_mb, peak_mb : float
        Resident set of the child now, and the largest sampled.
    system_used_mb, system_total_mb : float
        Of the whole computer.
    """

    label: str
    rss_mb: float
    peak_mb: float
    system_used_mb: float
    system_total_mb: float


@dataclass(frozen=True, slots=True)
class Generated:
    """Newly generated text of one variant in a chat."""

    variant: str
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a job that ended well: paths and summary values, as the type of its result says."""

    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a job that did not: a `KLLensError` in parts, and the traceback for the log."""

    what: str
    why: str = ""
    next_step: str = ""
    kind: str = "KLLensError"
    traceback: str = ""


Event = (
    Progress
    | Note
    | Weights
    | Scored
    | Measured
    | Repaired
    | Exported
    | Answer
    | Memory
    | Generated
    | Finished
    | Failed
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


def to_line(event: Event) -> str:
    """One line of JSON without a line break."""
    return json.dumps({"event": type(event).__name__, **asdict(event)})  # ASCII, whatever names hold


def from_line(line: str) -> Event:
    """The event of a line written by `to_line`.

    Raises
    ------
    ValueError
        If the line is not one of ours.
    """
    try:
        value = json.loads(line)
        event: Event = _KINDS[value.pop("event")](**value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {line[:200]}") from error
    return event


def returned(steps: Generator[object, None, T]) -> T:
    """What a stage comes to, whatever it yields on the way."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
