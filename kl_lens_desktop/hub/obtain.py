"""The model that a person names, as a folder on this computer: downloaded first where it is not here yet."""

from collections.abc import Generator
from pathlib import Path

from kl_lens_desktop.hub import store
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.hub.resolve import SAMPLE, LocalModel, resolve_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished
from kl_lens_desktop.repository.names import is_model_id


def obtain(model: str, cancel: Cancel, revision: str | None = None) -> Generator[Event, None, LocalModel]:
    """Find `model`, or pull it from the Hub; raises what `pull` and `resolve_model` do."""
    if is_on_the_hub(model) and store.find(model, revision) is None:
        for event in pull(model, revision, cancel):
            if not isinstance(event, Finished):
                yield event
    return resolve_model(model, revision)


def is_on_the_hub(model: str) -> bool:
    """Whether `model` can only be a Hub id: it is neither the sample nor a file or folder here."""
    return model != SAMPLE and not Path(model).expanduser().exists() and is_model_id(model)
