"""The Hub through huggingface_hub: search, and what a repository holds."""

from typing import Any

from huggingface_hub import HfApi, ModelInfo, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import HubError
from kl_lens_desktop.hub.access_token import read_token
from kl_lens_desktop.hub.facts import Facts, facts
from kl_lens_desktop.hub.refusals import TRY_LATER, PassingError, endpoint, not_the_hub, worded
from kl_lens_desktop.repository.listing import HubFile, Repository, is_commit
from kl_lens_desktop.repository.names import is_model_id

SUGGESTED = (
    "ibm-granite/granite-4.0-h-350m",
    "LiquidAI/LFM2-350M",
    "tiiuae/Falcon-H1-0.5B-Instruct",
    "ibm-granite/granite-4.0-h-1b",
    "LiquidAI/LFM2-1.2B",
    "Zyphra/Zamba2-1.2B",
)
_EXPAND: Any = ["downloads", "likes", "gated", "tags", "config", "safetensors", "cardData", "lastModified"]
_LIBRARY: Any = {"library_name": "kl-lens", "library_version": __version__}


def api() -> HfApi:
    """huggingface_hub's client for the Hub in use, with the token."""
    return HfApi(endpoint(), token=read_token() or False, **_LIBRARY)


def headers() -> dict[str, str]:
    """Of every request of our own; httpx2 drops the token when another host is next."""
    return {**build_hf_headers(token=read_token() or False, **_LIBRARY), "Accept-Encoding": "identity"}


def search(
    query: str,
    *,
    architecture: str = "",
    author: str = "",
    licence: str = "",
    most_parameters: str = "",
    open_only: bool = False,
    limit: int = 30,
) -> list[Facts]:
    """Models with safetensors whose id matches `query`, the most downloaded first; raises `HubError`.

    huggingface_hub's `list_models` would ask six times, for half a minute, before it says that nothing
    answers.

    Parameters
    ----------
    architecture : str
        A ``model_type``.
    licence, most_parameters : str
        As the Hub calls them, such as ``apache-2.0`` and ``3B``.
    open_only : bool
        Leave out models whose authors must be asked for access.
    limit : int
        How many at most.
    """
    filters = ["safetensors", architecture, f"license:{licence}" if licence else ""]
    wanted = {
        "search": query,
        "author": author,
        "num_parameters": f"max:{most_parameters}" if most_parameters else "",
        "gated": "false" if open_only else "",
        "filter": [tag for tag in filters if tag],
        "sort": "downloads",
        "limit": str(limit),
        "expand": _EXPAND,
    }
    params = {name: value for name, value in wanted.items() if value}
    with worded(f"Cannot search for {query!r}"):
        response = get_session().get(f"{endpoint()}/api/models", params=params, headers=headers())
        hf_raise_for_status(response)
        rows = response.json()
        if not isinstance(rows, list):
            raise not_the_hub()
        return [facts(ModelInfo(**row)) for row in rows if is_model_id(str(row.get("id", "")))]


def suggested() -> list[Facts]:
    """Small hybrids to begin with, as the Hub has them now, but for those that are gone."""
    asked, found = api(), []
    for name in SUGGESTED:
        try:
            with worded("Cannot ask for suggestions", name):
                found.append(facts(asked.model_info(name, expand=_EXPAND)))
        except HubError as error:
            if not found and not isinstance(error.__cause__, RepositoryNotFoundError):
                raise  # nothing answers
    return found


def repository(name: str, revision: str | None = None, kind: str = "model") -> Repository:
    """What a repository holds at a branch, tag or commit (``main`` by default).

    `kind` is ``model`` or ``dataset``.

    Raises
    ------
    HubError
        If it is absent, private or gated, the token is wrong, or the Hub cannot be reached.
    """
    what = f"Cannot open {name}"
    if not is_model_id(name):
        raise HubError(what, "it is neither a folder nor a Hub id", "Write owner/name")
    with worded(what, name, revision):
        info: Any = api().repo_info(name, revision=revision or "main", repo_type=kind, files_metadata=True)
        if not is_model_id(info.id) or not is_commit(info.sha or ""):
            raise not_the_hub()
        files = tuple(
            HubFile(
                file.rfilename,
                -1 if file.size is None else int(file.size),
                str(file.lfs.sha256 if file.lfs else file.blob_id),
            )
            for file in info.siblings
        )
    return Repository(info.id, info.sha, files, info, kind)


def file_url(of: Repository, name: str) -> str:
    """Where the Hub serves a file of a repository at its commit."""
    return hf_hub_url(of.id, name, repo_type=of.kind, revision=of.commit, endpoint=endpoint())


def read_file(of: Repository, file: HubFile) -> bytes:
    """The whole content of a small file.

    Raises
    ------
    HubError
        If the Hub refuses, cannot be reached, or gives another content than it lists.
    """
    what, content = f"Cannot use {of.id}", bytearray()
    request = get_session().stream("GET", file_url(of, file.name), headers=headers())
    with worded(what, of.id, of.commit), request as response:
        hf_raise_for_status(response)
        for piece in response.iter_raw():
            content += piece
            if len(content) > file.size:
                break
    digest = file.new_digest()
    digest.update(content)
    if digest.hexdigest() != file.etag:
        raise PassingError(what, f"{file.name} arrived with a wrong hash", TRY_LATER)
    return bytes(content)
