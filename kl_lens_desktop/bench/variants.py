"""The exported folders that a benchmark compares, and the names they go by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.exported import damage
from kl_lens_desktop.files import CARD, WEIGHTS, read_json
from kl_lens_desktop.plan.document import Plan, load_plan

SDPA = "SDPA"


@dataclass(frozen=True, slots=True)
class Variant:
    """An IR folder under the name its rows carry; `reference` is the FP16 variant of its model, if any.

    `backend` is the one of `LLMPipeline` that it is opened with; empty for the one that it takes by itself.
    """

    name: str
    folder: Path
    plan: Plan | None
    reference: Path | None = None
    backend: str = ""


def find_variants(folders: Sequence[Path]) -> list[Variant]:
    """The variants in `folders`, named by folder (with the parent's name or a number where two are alike).

    A folder that runs on the paged backend is a second variant too: on SDPA.

    Raises
    ------
    InputError
        If there is none, or one of them is no IR folder or is damaged.
    """
    if not folders:
        raise InputError("Nothing to measure", "you named no folder", "Choose at least one exported model")
    for folder in folders:
        if why := damage(folder):
            advice = "Choose the folder of an exported model, or export it again"
            raise InputError(f"Cannot measure {folder}", why, advice)
    plans = [load_plan(path) if (path := folder / "plan.json").is_file() else None for folder in folders]
    variants = [
        Variant(name, folder, plan)
        for name, folder, plan in zip(_names(folders), folders, plans, strict=True)
    ]
    variants = [replace(variant, reference=_reference(variant, variants)) for variant in variants]
    return [each for variant in variants for each in (variant, *_others(variant))]


def _others(variant: Variant) -> Iterator[Variant]:
    """The same folder on the backends that are not its default."""
    path = variant.folder / CARD
    card = read_json(path) if path.is_file() else {}
    proof = card.get("proof") if isinstance(card, dict) else None
    if isinstance(proof, dict) and proof.get("runs_paged") is True:
        yield replace(variant, name=f"{variant.name}, {SDPA}", backend=SDPA)


def weights_bytes(variant: Variant) -> int:
    """Size of a variant's weights file."""
    return (variant.folder / WEIGHTS).stat().st_size


def _names(folders: Sequence[Path]) -> list[str]:
    resolved = [folder.resolve() for folder in folders]
    short = [folder.name for folder in resolved]
    names = [
        name if short.count(name) == 1 else f"{folder.parent.name}/{name}"
        for folder, name in zip(resolved, short, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _reference(variant: Variant, variants: list[Variant]) -> Path | None:
    def of_the_same_model(other: Variant) -> bool:
        if variant.plan and other.plan:
            return variant.plan.model.sha256 == other.plan.model.sha256
        return _tokenizer(variant.folder) == _tokenizer(other.folder)

    full = (each for each in variants if _is_fp16(each) and of_the_same_model(each))
    return next((each.folder for each in full), None)


def _is_fp16(variant: Variant) -> bool:
    if variant.plan is not None:
        return set(variant.plan.assignments.values()) == {"fp16"}
    return variant.folder.resolve().name.lower() == "fp16"


def _tokenizer(folder: Path) -> bytes:
    path = folder / "tokenizer.json"
    return path.read_bytes() if path.is_file() else b""
