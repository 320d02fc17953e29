"""An exported folder on the Hub: what would be uploaded, its model card, and the upload, which is private."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from kl_lens_desktop import quantities
from kl_lens_desktop.errors import HubError, InputError
from kl_lens_desktop.exported import damage
from kl_lens_desktop.files import CARD, read_json
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Progress
from kl_lens_desktop.process.job import Job
from kl_lens_desktop.repository.names import is_model_id

README = "README.md"
_COLUMNS = {
    "device": "device",
    "size": "size",
    "perplexity": "perplexity ± se",
    "kl_to_fp16": "KL to FP16 ± se",
    "tokens_per_s": "tokens/s ± sd",
    "ttft": "first token ± sd",
    "peak_rss": "peak memory",
    "precision": "precision",
}


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
        Whether a repository that is made can be seen by all.
    """

    NAME: ClassVar[str] = "push"
    LONG: ClassVar[bool] = True

    folder: Path
    repository: str
    bench: Path | None = None
    public: bool = False

    def check(self) -> None:
        if not is_model_id(self.repository) or "/" not in self.repository:
            raise InputError(f"Cannot push to {self.repository}", "it is no Hub id", "Write owner/name")

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.session import answer

        self.check()
        publication = publish_plan(self.folder, self.bench)
        size = quantities.size(publication.bytes)
        yield Progress("push", 0, 0, f"uploading {size} to {self.repository}")
        yield self.finished(answer(lambda: self._upload(publication), cancel))

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
        with worded(what, self.repository):
            asked = api()
            asked.create_repo(self.repository, private=not self.public, exist_ok=True)
            made = asked.create_commit(
                self.repository, operations, commit_message="Exported by KL Lens Desktop"
            )
        return {"url": f"{endpoint()}/{self.repository}", "commit": made.oid}


def publish_plan(folder: Path, bench: Path | None = None) -> Publication:
    """What an upload of an exported folder would consist of: only files that the export wrote itself.

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
    names = [name for name in about.get("files", ()) if isinstance(name, str)]
    files = {name: folder / name for name in names if Path(name).name == name and (folder / name).is_file()}
    model = about.get("model")
    model = model if isinstance(model, dict) else {}
    base = str(model.get("id", ""))
    base = base if "/" in base and is_model_id(base) else ""
    files |= _licences(base, model.get("revision"))
    return Publication(_card(folder, about, base, bench), files, base)


def _licences(base: str, revision: object) -> dict[str, Path]:
    """The licence files of the original, if it is on this computer."""
    from kl_lens_desktop.hub import store

    stored = store.find(base, revision if isinstance(revision, str) else None) if base else None
    found = sorted(stored.folder.glob("LICENSE*")) if stored else []
    return {path.name: path for path in found}


def _card(folder: Path, about: dict[str, Any], base: str, bench: Path | None) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    licence = _licence(base, about)
    data = ModelCardData(
        base_model=base or None,
        base_model_relation="quantized" if base else None,
        license=licence or None,
        library_name="openvino",
        pipeline_tag="text-generation",
        tags=["openvino", "nncf"],
    )
    audit = about.get("audit", {})
    formats = ", ".join(f"{count} weights in {name}" for name, count in audit.get("formats", {}).items())
    origin = f"[{base}](https://huggingface.co/{base})" if base else "a local model"
    text = [
        f"# {_plain(base.rpartition('/')[2] or folder.name)} for OpenVINO",
        f"This is {origin}, compressed for OpenVINO by {_plain(about.get('made_by', 'KL Lens Desktop'))}.",
        f"Formats: {_plain(formats)}." if formats else "",
        *_figures(folder, bench),
        "## Use",
        "```python\nimport huggingface_hub, openvino_genai\n\n"
        'folder = huggingface_hub.snapshot_download("owner/name")  # of this repository\n'
        'pipeline = openvino_genai.LLMPipeline(folder, "CPU")\n'
        'print(pipeline.generate("The sea was", max_new_tokens=100))\n```',
        "`kl_lens.json` records how the export was checked, and the SHA-256 of every file.",
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, text)) + "\n")
    return str(card)


def _licence(base: str, about: dict[str, Any]) -> str:
    """As the card of the original states it, if that card is on this computer."""
    from huggingface_hub import ModelCard

    from kl_lens_desktop.hub import store

    stored = store.find(base) if base else None
    path = stored.folder / README if stored else None
    if path is None or not path.is_file():
        return ""
    try:
        licence = ModelCard.load(path, ignore_metadata_errors=True).data.license
    except (ValueError, OSError):
        return ""
    return licence if isinstance(licence, str) else ""


def _figures(folder: Path, bench: Path | None) -> list[str]:
    """The table of a benchmark, of the rows of this folder's variant."""
    if bench is None:
        return []
    from kl_lens_desktop.bench.report import load_bench, table

    rows = [row for row in load_bench(bench)["rows"] if row["variant"] == folder.name]
    if not rows:
        raise InputError(f"Cannot use {bench}", f"it has no row of {folder.name}", "Choose its benchmark")
    head = f"| {' | '.join(_COLUMNS.values())} |\n|{'---|' * len(_COLUMNS)}\n"
    lines = (f"| {' | '.join(_plain(line[name]) for name in _COLUMNS)} |" for line in table(rows))
    return ["## Measured", head + "\n".join(lines)]


def _plain(text: object) -> str:
    """Text of others without what Markdown obeys."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(str(text).split()))
