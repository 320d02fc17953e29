"""Checking a file of ours against its published JSON Schema."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kl_lens_desktop import resources
from kl_lens_desktop.errors import InputError

if TYPE_CHECKING:
    import jsonschema


def check_schema(value: Any, schema: str, path: Path) -> None:
    """Raise `InputError`, in one sentence, unless `value` follows `schema`, such as ``kl-lens/plan/1``."""
    kind, version = schema.split("/")[1:]
    said = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(said, str) or not said.startswith(f"kl-lens/{kind}/"):
        raise InputError(f"Cannot use {path}", f"it is not a KL Lens {kind} file", "Choose another file")
    if said != schema:
        raise InputError(
            f"Cannot use {path}",
            f"it says {said[:40]!r} and this program reads version {version}",
            "Update KL Lens Desktop",
        )
    error = next(
        iter(
            sorted(_validator(f"{kind}-{version}").iter_errors(value), key=lambda e: list(map(str, e.path)))
        ),
        None,
    )
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top level"
        raise InputError(
            f"Cannot use {path}", f"at {where[:120]}: {error.message[:200]}", "Create the file again"
        )


@cache
def _validator(name: str) -> "jsonschema.Draft202012Validator":
    import jsonschema  # which takes longer than most commands need to start

    text = resources.path("schemas", f"{name}.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))
