"""A whole plan measured at once, on text that no weight was scored on."""

from collections.abc import Iterator
from pathlib import Path

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.jobs.cancel import Cancel
from kl_lens_desktop.jobs.events import Event, Finished, Progress
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.inventory import inventory, quantizable
from kl_lens_desktop.model.load import load_model
from kl_lens_desktop.plan.document import check_applies, load_plan, save_plan
from kl_lens_desktop.sensitivity.engine import measure_plan
from kl_lens_desktop.sensitivity.scores import ModelIdentity
from kl_lens_desktop.texts import held_out_text

DEFAULT_TOKENS = 8192
DEFAULT_WINDOW = 256
STAGE = "verify"


def verify(
    local: LocalModel,
    path: Path,
    cancel: Cancel,
    *,
    text: Path | str | None = None,
    tokens: int = DEFAULT_TOKENS,
    window: int = DEFAULT_WINDOW,
) -> Iterator[Event]:
    """Measure the joint KL and perplexity of the plan at `path` and write them into it.

    Yields
    ------
    Progress, and last Finished with ``plan`` and ``measured``.

    Raises
    ------
    InputError
        If the plan is for another model.
    """
    plan = load_plan(path)
    yield Progress(STAGE, 0, 2, "Opening the model")
    loaded = load_model(local.folder)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(loaded.files))
    check_applies(plan, identity, [weight.name for weight in quantizable(inventory(loaded.model))], path)
    yield Progress(STAGE, 1, 2, "Measuring the whole plan on held-out text")
    texts = [Path(text) if text else held_out_text()]
    measured = measure_plan(loaded, plan.assignments, texts, tokens, window, cancel)
    if load_plan(path) != plan:
        raise InputError(
            f"{path} was changed while it was measured", "the figures are of the plan before", "Verify again"
        )
    save_plan(path, plan.with_measured(measured))
    yield Progress(STAGE, 2, 2, "Measured")
    yield Finished({"plan": str(path), "measured": measured})
