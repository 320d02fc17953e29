"""What a plan may not do: formats that are ruled out, weights that share one, and what a person decided."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.families import FAMILIES
from kl_lens_desktop.plan.device_limits import is_distrusted
from kl_lens_desktop.plan.options import Choice, WeightOptions
from kl_lens_desktop.quant.formats import parse_format

MOST_BITS = 16

_FUSED = tuple(dict.fromkeys(parts for family in FAMILIES.values() for parts in family.fused))
KINDS = ("ssm", "attention", "mlp", "embedding", "head")


@dataclass(frozen=True, slots=True)
class Constraints:
    """Limits on a plan; none by default.

    Attributes
    ----------
    pins : mapping of str to str
        Weight to the format a person chose; it outranks every other limit.
    fused : bool
        Weights that a runtime can multiply by one call share a format.
    least_bits : mapping of str to int
        Kind of weight to the fewest bits of an element it may have.
    forbidden : tuple of (str, str)
        Kind (or ``*`` for all) and format that may not be used.
    device : str or None
        A device whose distrusted formats may not be used.
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    fused: bool = False
    least_bits: Mapping[str, int] = field(default_factory=dict)
    forbidden: tuple[tuple[str, str], ...] = ()
    device: str | None = None

    def allows(self, kind: str, name: str) -> bool:
        """Whether a weight of `kind` may have the format `name`; pins aside."""
        if not (self.device or self.least_bits or self.forbidden):
            return True
        return not self.against(kind, name)

    def against(self, kind: str, name: str) -> str:
        """The limit that a weight of `kind` in the format `name` would break, as it is typed; or nothing."""
        if is_distrusted(self.device or "", name):
            return f"the device {self.device}"
        if parse_format(name).bits < self.least_bits.get(kind, 0):
            return f"the limit {kind}>={self.least_bits[kind]}"
        broken = (of for of, banned in self.forbidden if name == banned and of in ("*", kind))
        of = next(broken, None)
        return "" if of is None else f"the limit {'' if of == '*' else of}!={name}"

    def as_words(self) -> dict[str, str | float | None]:
        """For the provenance of a plan: only the limits that were set."""
        limits = [f"{kind}>={bits}" for kind, bits in sorted(self.least_bits.items())]
        limits += [f"{'' if kind == '*' else kind}!={name}" for kind, name in self.forbidden]
        words: dict[str, str | float | None] = {
            "fused": "yes" if self.fused else "",
            "limits": " ".join(limits),
            "device": self.device or "",
        }
        return {key: text for key, text in words.items() if text}


@dataclass(frozen=True, slots=True)
class Item:
    """One decision of the knapsack: weights that get the same format, and what each format costs them."""

    weights: tuple[str, ...]
    choices: tuple[Choice, ...]


def parse_limits(
    texts: Iterable[str],
) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """``ssm>=8`` (fewest bits of a kind), ``mlp!=int2_sym_g64`` and ``!=nf4_g64`` (forbidden) as values.

    Raises
    ------
    InputError
        If a text is none of these, or two differ about a kind.
    """
    least: dict[str, int] = {}
    forbidden: list[tuple[str, str]] = []
    for text in texts:
        kind, bits = text.split(">=") if text.count(">=") == 1 else ("", "")
        if kind in KINDS and bits.isdecimal():
            if int(bits) > MOST_BITS:
                why = f"no weight has more than {MOST_BITS} bits"
                raise InputError(f"Cannot use the limit {text!r}", why, f"Choose 0 to {MOST_BITS}")
            if least.setdefault(kind, int(bits)) != int(bits):
                why = f"{kind}>={least[kind]} limits the same weights"
                raise InputError(f"Cannot use the limit {text!r}", why, "Choose one of them")
            continue
        kind, name = text.split("!=") if text.count("!=") == 1 else ("?", "")
        if kind in ("", *KINDS) and name:
            forbidden.append((kind or "*", parse_format(name).name))
            continue
        raise InputError(
            f"Cannot use the limit {text!r}",
            "it is not KIND>=BITS or KIND!=FORMAT",
            f"KIND is one of {', '.join(KINDS)}",
        )
    return least, tuple(dict.fromkeys(forbidden))


def overruled(
    assignments: Mapping[str, str], kinds: Mapping[str, str], constraints: Constraints
) -> list[str]:
    """In sentences, which weights break limits all the same: those that are pinned, or of a uniform plan.

    Parameters
    ----------
    kinds : mapping of str to str
        Weight to its kind.
    """
    broken: dict[tuple[str, str], list[str]] = {}
    for weight, name in assignments.items():
        if limit := constraints.against(kinds[weight], name):
            broken.setdefault((name, limit), []).append(weight)
    return [
        f"{weights[0]}{f' and {len(weights) - 1} more' if weights[1:] else ''} "
        f"{'stay' if weights[1:] else 'stays'} {name} as you chose, against {limit}."
        for (name, limit), weights in broken.items()
    ]


def fused_groups(weights: Sequence[str]) -> list[tuple[str, ...]]:
    """Which of `weights` a runtime can multiply by one call, in the order of `weights`."""
    groups: dict[tuple[str, int], list[str]] = {}
    for weight in weights:
        module, _, part = weight.removesuffix(".weight").rpartition(".")
        for number, parts in enumerate(_FUSED):
            if part in parts:
                groups.setdefault((module, number), []).append(weight)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def items(options: Sequence[WeightOptions], constraints: Constraints) -> list[Item]:
    """The decisions left to the allocation.

    Raises
    ------
    InputError
        If a pin names no weight or format that was measured, or pins of weights that share a format differ,
        or nothing is left for a weight.
    """
    by_name = {option.weight: option for option in options}
    for weight in constraints.pins:
        if weight not in by_name:
            raise InputError(
                f"Cannot pin {weight}", "the score file has no weight with that name", "Check the name"
            )
    grouped = fused_groups(list(by_name)) if constraints.fused else []
    inside = {weight for group in grouped for weight in group}
    alone = [(weight,) for weight in by_name if weight not in inside]
    order = {weight: place for place, weight in enumerate(by_name)}
    whole = sorted([*grouped, *alone], key=lambda group: order[group[0]])
    return [_item([by_name[weight] for weight in group], constraints) for group in whole]


def _item(members: Sequence[WeightOptions], constraints: Constraints) -> Item:
    pinned = {constraints.pins[o.weight] for o in members if o.weight in constraints.pins}
    names = tuple(option.weight for option in members)
    if len(pinned) > 1:
        raise InputError(
            f"Cannot pin {', '.join(names)} to {' and '.join(sorted(pinned))}",
            "these weights share a format",
            "Choose one format for all of them",
        )
    if pinned:
        (name,) = pinned
        return Item(names, (_sum([option.choice(name) for option in members]),))
    if len(members) == 1:
        (only,) = members
        choices = tuple(choice for choice in only.choices if constraints.allows(only.kind, choice.format))
    else:
        tables = [{choice.format: choice for choice in option.choices} for option in members]
        common = [
            choice.format
            for choice in members[0].choices
            if all(choice.format in table for table in tables)
            and all(constraints.allows(option.kind, choice.format) for option in members)
        ]
        choices = tuple(_sum([table[name] for table in tables]) for name in common)
    if not choices:
        raise InputError(
            f"No format is left for {names[0]}", "the limits exclude every measured format", "Relax a limit"
        )
    return Item(names, choices)


def _sum(choices: Sequence[Choice]) -> Choice:
    """Errors are added, not their squares: all weights were scored on the same windows."""
    if len(choices) == 1:
        return choices[0]
    return Choice(
        choices[0].format,
        sum(choice.bytes for choice in choices),
        sum(choice.loss for choice in choices),
        sum(choice.se for choice in choices),
        sum(choice.seconds for choice in choices),
        sum(choice.memory for choice in choices),
    )
