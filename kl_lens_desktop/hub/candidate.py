"""A repository on the Hub, judged before any weight is downloaded."""

from collections.abc import Callable

from kl_lens_desktop.errors import HubError, ModelError
from kl_lens_desktop.hub import client
from kl_lens_desktop.hub.refusals import worded
from kl_lens_desktop.repository.candidate import UsableRepository, candidate
from kl_lens_desktop.repository.listing import HubFile, Repository
from kl_lens_desktop.repository.model_files import PicklesError, UnusableError


def examine(of: Repository, read: Callable[[HubFile], bytes] | None = None) -> UsableRepository:
    """Judge a repository by its list of files and its config.json; `HubError` if it cannot be used.

    `read` gives the content of a file; by default the Hub does.
    """
    what = f"Cannot use {of.id}"
    try:
        return candidate(of, read or (lambda file: client.read_file(of, file)))
    except UnusableError as error:
        step = (isinstance(error, PicklesError) and _twin(of)) or error.next_step
        raise HubError(what, error.why, step) from error
    except ModelError as error:
        name = error.what.rpartition(" ")[2]
        raise HubError(what, f"its {name} is damaged: {error.why}", "Choose another model") from error


def _twin(of: Repository) -> str:
    """Where the same weights are as safetensors: in a proposal of the Hub's own converter, or beside it."""
    try:
        with worded("Cannot look for safetensors"):
            proposals = client.api().get_repo_discussions(
                of.id, author="SFconvertbot", discussion_status="open"
            )
            if proposal := next(iter(proposals), None):
                pull = f"kl-lens pull {of.id} --revision refs/pr/{proposal.num}"
                return f"Run `{pull}`: the same as safetensors"
        owner, _, name = of.id.rpartition("/")
        found = (hit.id for hit in client.search(name, author=owner))
        other = next((other for other in found if other.startswith(of.id) and other != of.id), "")
        return f"Choose {other}: the same authors give it as safetensors" if other else ""
    except HubError:
        return ""
