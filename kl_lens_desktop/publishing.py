"""An exported folder on the Hub: what would be uploaded, its model card, and the upload, which is private."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import HubError, InputError
from kl_lens_desktop.export.model_card import README, base_model, model_card, read_card, with_figures
from kl_lens_desktop.exported import damage
from kl_lens_desktop.files import CARD, read_json
from kl_lens_desktop.plan.document import load_plan
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.repository.model_files import licence_files
from kl_lens_desktop.repository.names import is_owned_id


class Pushed(TypedDict):
    """Where an upload can be seen, and the commit that it made."""

    url: str
    commit: str


@dataclass(frozen=True, slots=True)
class Publication:
    """What an upload consists of.

    Attributes
    ----------
    card : str
        The model card, README.md, as it will be.
    files : dict of str to Path
        Every other file by its name in the repository.
    base_model : str
        The Hub id of the original; empty for a model that came from no Hub.
    """

    card: str
    files: dict[str, Path]
    base_model: str

    @property
    def bytes(self) -> int:
        return len(self.card.encode()) + sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True, slots=True)
class Existing:
    """A repository that is on the Hub already.

    Attributes
    ----------
    files : frozenset of str
        The names of its files.
    is_public : bool
        Whether everybody can see it.
    commit : str
        Its newest commit.
    """

    files: frozenset[str]
    is_public: bool
    commit: str

    @property
    def is_ours(self) -> bool:
        """Whether it holds an earlier upload of KL Lens, so that a newer one belongs there."""
        return CARD in self.files

    def replaced(self, publication: Publication) -> list[str]:
        """The names of the files that an upload would replace."""
        return sorted(self.files & {README, *publication.files})

    def foreign(self, publication: Publication) -> list[str]:
        """Those of them that KL Lens did not write."""
        return [] if self.is_ours else self.replaced(publication)


@dataclass(frozen=True, slots=True)
class PushJob(Job[Pushed]):
    """Upload an exported folder.

    Attributes
    ----------
    folder : Path
    repository : str
        A Hub id, ``owner/name``; made if it does not exist.
    bench : Path, optional
        A bench file whose rows of this folder the card shows.
    public : bool
        Whether everybody may see the repository. One that exists keeps its visibility.
    replace : bool
        Whether files that KL Lens did not write may be replaced.
    """

    NAME: ClassVar[str] = "push"
    LONG: ClassVar[bool] = True

    folder: Path
    repository: str
    bench: Path | None = None
    public: bool = False
    replace: bool = False

    def check(self) -> None:
        if not is_owned_id(self.repository):
            raise InputError(f"Cannot push to {self.repository}", "it is no Hub id", "Write owner/name")

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.session import answer

        self.check()
        publication = publish_plan(self.folder, self.bench)
        size = quantities.size(publication.bytes)
        yield Progress("push", 0, 0, f"uploading {size} to {self.repository}")
        yield self.finished(answer(lambda: self._upload(publication), cancel))

    def missing_consent(self, there: Existing, publication: Publication) -> str:
        """The field without which the upload would do more than was agreed to; empty if none is missing."""
        if there.is_public and not self.public:
            return "public"
        return "replace" if there.foreign(publication) and not self.replace else ""

    def check_existing(self, there: Existing, publication: Publication) -> None:
        """Raise `InputError` if a consent is missing."""
        what, missing = f"Cannot push to {self.repository}", self.missing_consent(there, publication)
        if missing == "public":
            raise InputError(
                what, "everybody can see it", "If that is what you want, push as public (--public)"
            )
        if missing == "replace":
            why = f"it holds {', '.join(there.foreign(publication))}, which KL Lens did not write"
            raise InputError(what, why, "Choose another repository, or let them be replaced (--replace)")

    def _upload(self, publication: Publication) -> Pushed:
        from huggingface_hub import CommitOperationAdd

        from kl_lens_desktop.hub.access_token import read_token
        from kl_lens_desktop.hub.client import api
        from kl_lens_desktop.hub.refusals import endpoint, worded

        what = f"Cannot push to {self.repository}"
        if read_token() is None:
            step = f"Create one that may write at {endpoint()}/settings/tokens, and save it"
            raise HubError(what, "there is no token", step)
        operations = [CommitOperationAdd(name, str(path)) for name, path in publication.files.items()]
        operations.append(CommitOperationAdd(README, publication.card.encode()))
        there = existing(self.repository)
        if there:
            self.check_existing(there, publication)
        with worded(what, self.repository):
            asked = api()
            if not there:
                asked.create_repo(self.repository, private=not self.public)
            made = asked.create_commit(
                self.repository,
                operations,
                commit_message="Exported by KL Lens Desktop",
                parent_commit=there.commit if there else None,
            )
        return {"url": f"{endpoint()}/{self.repository}", "commit": made.oid}


def existing(repository: str) -> Existing | None:
    """What is on the Hub under a name already, as far as the token may see it; asks the Hub.

    Raises
    ------
    HubError
        If the Hub cannot be reached or does not accept the token.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    from kl_lens_desktop.hub import client

    try:
        found = client.repository(repository)
    except HubError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            return None
        raise
    return Existing(frozenset(file.name for file in found.files), not found.about.private, found.commit)


def publish_plan(folder: Path, bench: Path | None = None) -> Publication:
    """What an upload of an exported folder would consist of: only files that the export wrote itself.

    The card is the one in the folder, as it is now.

    Raises
    ------
    InputError
        If the folder is not one that KL Lens has exported, is damaged, or the bench file is none.
    """
    if not (folder / CARD).is_file():
        why = "it is not a folder that KL Lens exported"
        raise InputError(f"Cannot push {folder}", why, "Choose a folder with kl_lens.json")
    if why := damage(folder):
        raise InputError(f"Cannot push {folder}", why, "Export it again")
    about: dict[str, Any] = read_json(folder / CARD)
    names = [name for name in about.get("files", ()) if isinstance(name, str) and name != README]
    files = {name: folder / name for name in names if Path(name).name == name and (folder / name).is_file()}
    base, original = base_model(about), _original(about)
    licences = licence_files(original) if original else ()
    files |= {path.name: path for path in licences if path.name not in files}
    card = read_card(folder) or model_card(folder.name, about, original)
    if bench:
        card = with_figures(card, _figures(folder, bench))
    return Publication(card, files, base)


def _original(about: dict[str, Any]) -> Path | None:
    """Where the original lies, if it came from the Hub and is still on this computer."""
    from kl_lens_desktop.hub import store

    name = base_model(about)
    revision = about["model"].get("revision") if name else None
    stored = store.find(name, revision if isinstance(revision, str) else None) if name else None
    return stored.folder if stored else None


def has_figures(folder: Path, bench: Path) -> bool:
    """Whether a bench file measured this folder, and not another export of its name.

    Raises
    ------
    InputError
        If either cannot be read.
    """
    from kl_lens_desktop.bench.model_card import figures
    from kl_lens_desktop.bench.report import load_bench

    return bool(figures(_rows_of(folder, load_bench(bench)["rows"]), folder.name))


def _figures(folder: Path, bench: Path) -> str:
    from kl_lens_desktop.bench.model_card import figures
    from kl_lens_desktop.bench.report import load_bench

    rows = load_bench(bench)["rows"]
    if found := figures(_rows_of(folder, rows), folder.name):
        return found
    what = f"Cannot use {bench}"
    if figures(rows, folder.name):
        raise InputError(what, f"it measured another export called {folder.name}", "Benchmark this one")
    raise InputError(what, f"it has no figures of {folder.name}", "Choose its benchmark")


def _rows_of(folder: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without those of another export of the folder's name, by plan and model as far as a row tells.

    Rows of other variants stay: speeds are shown in the proportions of the rounds that all took in turn.
    """
    if not (folder / "plan.json").is_file():
        return list(rows)
    plan = load_plan(folder / "plan.json")
    own = (None, plan.sha256), (None, plan.model.sha256)
    return [
        row
        for row in rows
        if row["variant"] != folder.name
        or (row.get("plan_sha256") in own[0] and (row.get("model") or {}).get("sha256") in own[1])
    ]
