"""What the person calls MODEL, found on this computer: the bundled sample, a folder, or a pulled Hub id."""

from dataclasses import dataclass
from pathlib import Path

from kl_lens_desktop import resources
from kl_lens_desktop.errors import HubError, InputError, ModelError
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.hub import store
from kl_lens_desktop.repository.model_files import model_files
from kl_lens_desktop.repository.names import is_model_id

SAMPLE = "sample"
_WANTED = "Choose a folder with config.json and *.safetensors"


@dataclass(frozen=True)
class LocalModel:
    """A model folder that can be opened.

    Attributes
    ----------
    id : str
        ``sample``, the folder's name, or the Hub id.
    folder : Path
        Holds config.json and at least one ``*.safetensors``.
    revision : str or None
        The commit of a Hub model.
    """

    id: str
    folder: Path
    revision: str | None = None


def resolve_model(model: str, revision: str | None = None) -> LocalModel:
    """Find a model without the network.

    Parameters
    ----------
    model : str
        ``sample``, a local folder, or a Hub id that was pulled before.
    revision : str, optional
        For a Hub id: which of the pulled ones (see `store.find`); the last pulled by default.

    Raises
    ------
    InputError
        If the folder is absent, empty, or a file.
    ModelError
        If it is an exported model or an unfinished download, or `model_files` refuses it.
    HubError
        If the Hub id was not pulled yet.
    """
    if model == SAMPLE:
        return LocalModel(SAMPLE, resources.path("sample-hybrid"))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _open_folder(folder.resolve())
    if folder.exists():
        raise InputError(f"Cannot open {model}", "it is a file, not a folder", _WANTED)
    if not is_model_id(model):
        raise InputError(f"Cannot open {model}", "there is no such folder", _WANTED)
    stored = store.find(model, revision)
    if stored is None:
        at = f" at revision {revision}" if revision else ""
        raise HubError(
            f"{model}{at} is not on this computer",
            "no folder has that name, and it was not downloaded yet",
            f"Run `kl-lens pull {model}`, or search for it on the Model page",
        )
    return _open_folder(stored.folder)


def _open_folder(folder: Path) -> LocalModel:
    try:
        names = [path.name for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise InputError(f"Cannot open {folder}", error.strerror or str(error), _WANTED) from error
    if not names:
        why = "it contains only folders" if any(folder.iterdir()) else "it is empty"
        raise InputError(f"Cannot open {folder}", why, _WANTED)
    kept = folder.parent.name == "snapshots" or store.OLD_MANIFEST in names
    pulled = store.at(folder) if kept else None
    if pulled and not pulled.complete and pulled.is_half_pulled:
        raise ModelError(
            f"{pulled.id} cannot be opened yet",
            "its download is not complete",
            f"Run `kl-lens pull {pulled.id}` to resume it",
        )
    if MODEL_XML in names:
        raise ModelError(
            f"Cannot open {folder}",
            "it is an exported OpenVINO model",
            "Measure it with `kl-lens bench`, or open the original model",
        )
    model_files(folder)
    if pulled:
        return LocalModel(pulled.id, folder, pulled.revision)
    return LocalModel(folder.name, folder)
