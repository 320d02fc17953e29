"""The job that downloads a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypedDict

from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event
from kl_lens_desktop.process.job import Job


class Pulled(TypedDict):
    """Where a model lies; the revision is the commit, None for a folder that no Hub gave."""

    folder: str
    id: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class PullJob(Job[Pulled]):
    """Download a model from the Hub, or go on with it; what is on this computer is only found.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    revision : str, optional
        Branch, tag or commit.
    move : bool
        Move a copy that an earlier version pulled to the cache that all Hugging Face tools share.
    tokenizer : bool
        Where the model has no tokenizer, also download the one that its authors use from its own repository.
    """

    NAME: ClassVar[str] = "pull"
    LONG: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "What has arrived is kept, and starting again continues"

    model: str
    revision: str | None = None
    move: bool = False
    tokenizer: bool = False

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.download import pull
        from kl_lens_desktop.hub.obtain import is_on_the_hub
        from kl_lens_desktop.hub.resolve import resolve_model

        if is_on_the_hub(self.model):
            yield from pull(self.model, self.revision, cancel, move=self.move, tokenizer=self.tokenizer)
            return
        local = resolve_model(self.model)
        yield self.finished({"folder": str(local.folder), "id": local.id, "revision": local.revision})


class Verified(TypedDict):
    """The files of a downloaded model, and those with a wrong content, which may be repaired by now."""

    id: str
    folder: str
    files: list[str]
    damaged: list[str]
    repaired: bool


@dataclass(frozen=True, slots=True)
class VerifyFilesJob(Job[Verified]):
    """Compare every file of a downloaded model with its hash.

    Attributes
    ----------
    model : str
        A Hub id, or the folder of a model that was pulled.
    revision : str, optional
        Which of the pulled ones; the last by default.
    repair : bool
        Download damaged files again.
    """

    NAME: ClassVar[str] = "verify-files"

    model: str
    revision: str | None = None
    repair: bool = False

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.verify import verify_files

        yield from verify_files(self, cancel)
