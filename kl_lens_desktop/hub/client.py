"""The Hub through huggingface_hub: search, what a repository holds, the token, and refusals in words."""

import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import (
    HfApi,
    ModelInfo,
    get_session,
    get_token,
    hf_hub_url,
    hf_raise_for_status,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import HubError
from kl_lens_desktop.hub import session
from kl_lens_desktop.hub.facts import Facts, facts
from kl_lens_desktop.repository.names import is_model_id

SUGGESTED = (
    "ibm-granite/granite-4.0-h-350m",
    "LiquidAI/LFM2-350M",
    "tiiuae/Falcon-H1-0.5B-Instruct",
    "ibm-granite/granite-4.0-h-1b",
    "LiquidAI/LFM2-1.2B",
    "Zyphra/Zamba2-1.2B",
)
_KEYRING = ("kl-lens", "huggingface")
_ADDRESS = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXPAND: list[Any] = [
    "downloads",
    "likes",
    "gated",
    "tags",
    "config",
    "safetensors",
    "cardData",
    "lastModified",
]


class PassingError(HubError):
    """What may be over when asked again; `retry_after_s` is how long the Hub asks to wait, if it says."""

    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its size in bytes, and the hash that names its content in the cache.

    `etag` is the SHA-256 of a large file, and the SHA-1 of git's blob of a small one.
    """

    name: str
    size: int
    etag: str

    def new_digest(self) -> "hashlib._Hash":
        """What to feed the content to; its hexadecimal digest is then the `etag`."""
        if _SHA256.fullmatch(self.etag):
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit: its id as the Hub spells it, all files, and what the Hub says of it."""

    id: str
    commit: str
    files: tuple[HubFile, ...]
    about: ModelInfo
    kind: str = "model"


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit hash, which always means the same files."""
    return bool(_COMMIT.fullmatch(revision))


def endpoint() -> str:
    """``HF_ENDPOINT`` (a mirror), or the Hub itself, without a slash at the end.

    Raises
    ------
    HubError
        If ``HF_ENDPOINT`` is not an http or https address.
    """
    usual = "https://huggingface.co"
    address = (os.environ.get("HF_ENDPOINT") or usual).strip().rstrip("/")
    if not _ADDRESS.fullmatch(address):
        why = f"HF_ENDPOINT is {address!r}, which is not an address"
        raise HubError("The Hub cannot be reached", why, f"Unset it, or set it like {usual}")
    return address


def read_token() -> str | None:
    """The token of ``HF_TOKEN`` or ``hf auth login``, else the system's keyring; None if there is none.

    Raises
    ------
    HubError
        If it is malformed.
    """
    token = get_token() or saved_token()
    if token and not re.fullmatch(r"[!-~]+", token):
        why = "the saved token (or HF_TOKEN) contains invalid characters"
        raise HubError("Cannot ask the Hub", why, f"Copy it again from {endpoint()}/settings/tokens")
    return token or None


def saved_token() -> str | None:
    """The token in the system's keyring; None if there is none, or no keyring, or it is locked."""
    import keyring
    from keyring.errors import KeyringError

    try:
        token: str | None = keyring.get_password(*_KEYRING)
    except KeyringError:  # public models need no token, so this is not an error
        return None
    return token


def save_token(token: str) -> None:
    """Keep a token in the system's keyring, never in a file; `HubError` if that is absent or stays locked."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(*_KEYRING, token.strip())
    except KeyringError as error:
        why = f"the system's keyring cannot be used ({error})"
        step = "Unlock it, or set the environment variable HF_TOKEN"
        raise HubError("The token was not saved", why, step) from error


def forget_token() -> None:
    """Remove the token from the keyring, if there is one; `HubError` if the keyring stays locked."""
    import keyring
    from keyring.errors import KeyringError, NoKeyringError, PasswordDeleteError

    try:
        keyring.delete_password(*_KEYRING)
    except (NoKeyringError, PasswordDeleteError):  # nothing was saved
        return
    except KeyringError as error:
        why = f"the system's keyring cannot be used ({error})"
        raise HubError("The token was not removed", why, "Unlock it and try again") from error


def api() -> HfApi:
    """huggingface_hub's client for the Hub in use, with the token."""
    return HfApi(endpoint(), token=read_token() or False, library_name="kl-lens", library_version=__version__)


def headers() -> dict[str, str]:
    """Of every request of our own; httpx2 drops the token when another host is next."""
    made = build_hf_headers(token=read_token() or False, library_name="kl-lens", library_version=__version__)
    return {**made, "Accept-Encoding": "identity"}


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
    """Models with safetensors whose id matches `query`, the most downloaded first.

    huggingface_hub's `list_models` would ask six times, for half a minute, before it says that nothing
    answers.

    Parameters
    ----------
    query : str
    architecture : str
        A ``model_type``.
    author : str
    licence : str
        As the Hub calls it, such as ``apache-2.0``.
    most_parameters : str
        Such as ``3B``.
    open_only : bool
        Leave out models whose authors must be asked for access.
    limit : int
        How many at most.

    Raises
    ------
    HubError
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
            raise _not_the_hub()
        return [facts(ModelInfo(**row)) for row in rows if is_model_id(str(row.get("id", "")))]


def suggested() -> list[Facts]:
    """Small hybrids to begin with, as the Hub has them now; one that is gone is left out.

    Raises
    ------
    HubError
        If none can be had.
    """
    asked, found, refused = api(), [], None
    for name in SUGGESTED:
        try:
            with worded("Cannot ask for suggestions", name):
                found.append(facts(asked.model_info(name, expand=_EXPAND, timeout=session.READ_TIMEOUT_S)))
        except HubError as error:
            refused = error
            if not found and not isinstance(error.__cause__, RepositoryNotFoundError):
                break  # nothing answers
    if not found and refused:
        raise refused
    return found


def repository(name: str, revision: str | None = None, kind: str = "model") -> Repository:
    """What a repository holds at a branch, tag or commit (``main`` by default).

    `kind` is ``model`` or ``dataset``. Files without a size or hash to verify them by are left out.

    Raises
    ------
    HubError
        If it is absent, private or gated, the token is wrong, or the Hub cannot be reached.
    """
    what = f"Cannot open {name}"
    if not is_model_id(name):
        raise HubError(what, "it is neither a folder nor a Hub id", "Write owner/name")
    with worded(what, name, revision):
        info: Any = api().repo_info(
            name,
            revision=revision or "main",
            repo_type=kind,
            files_metadata=True,
            timeout=session.READ_TIMEOUT_S,
        )
        files = tuple(
            HubFile(
                file.rfilename,
                -1 if file.size is None else int(file.size),
                str(file.lfs.sha256 if file.lfs else file.blob_id),
            )
            for file in info.siblings or ()
        )
    if not is_model_id(info.id) or not is_commit(info.sha or "") or info.siblings is None:
        raise _not_the_hub()
    return Repository(info.id, info.sha, files, info, kind)


def is_verifiable(file: HubFile) -> bool:
    """Whether the Hub gives a size and a hash to check the content by."""
    return file.size >= 0 and bool(_SHA256.fullmatch(file.etag) or _COMMIT.fullmatch(file.etag))


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
        step = "Try again later, or without HF_ENDPOINT"
        raise PassingError(what, f"{file.name} arrived with a wrong hash", step)
    return bytes(content)


@contextlib.contextmanager
def worded(what: str, name: str = "", revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub and its connections raise into a `HubError` that begins with `what`."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        switch = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
        step = "Unset it, or choose a model on this computer"
        raise HubError("Cannot ask the Hub", f"{switch} is set", step) from error
    except HfHubHTTPError as error:
        raise _refusal(error, what, name, revision) from error
    except httpx2.HTTPError as error:
        raise unreachable(error, what) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # no such JSON
        raise _not_the_hub() from error


def _refusal(error: HfHubHTTPError, what: str, name: str, revision: str | None) -> HubError:
    """The error that a status of 400 or more means, with the step that helps."""
    response = error.response
    status, words = response.status_code, (error.server_message or "").rstrip(".")[:200]
    signed = any("authorization" in r.request.headers for r in (response, *response.history))
    make_token = f"create a token at {endpoint()}/settings/tokens and save it (or set HF_TOKEN)"
    page = f"{endpoint()}/{name}"
    if isinstance(error, GatedRepoError) or (status == 403 and "gated" in words.lower()):
        step = f"Ask for access at {page}, {'then pull again' if signed else make_token}"
        return HubError(what, "it is gated: its authors give access on request", step)
    if isinstance(error, RevisionNotFoundError):
        return HubError(what, f"it has no revision {revision or 'main'}", f"See {page}/commits")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        hint = "" if signed else "; if it is private, " + make_token
        return HubError(what, "the Hub has no such model, or it is private", "Check the spelling" + hint)
    if status == 401:
        return HubError(what, "the Hub does not accept your token", make_token[0].upper() + make_token[1:])
    if status == 403:
        step = f"Check the token's permissions, or see {page}"
        return HubError(what, words or "your token does not allow it", step)
    if status == 429 or status >= 500:
        return _busy(response, what, signed=signed)
    return HubError(what, f"the Hub answered {status} {words}".rstrip(), "Try again later")


def unreachable(error: httpx2.HTTPError, what: str) -> HubError:
    """The error that a failed connection means: no network, a slow one, a proxy or a certificate."""
    host = httpx2.URL(endpoint()).host
    reason = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return HubError(
            what,
            f"the certificate of {host} is not trusted here",
            "Behind a company proxy, set SSL_CERT_FILE to the proxy's certificate authority",
        )
    if isinstance(error, httpx2.ProxyError):
        return HubError(what, f"the proxy refused ({reason})", "Check HTTPS_PROXY")
    if isinstance(error, httpx2.TimeoutException):
        return PassingError(what, f"{host} did not answer in time", "Check the network and try again")
    if isinstance(error, httpx2.ConnectError):
        step = "Check the network, or choose a model on this computer"
        return HubError(what, f"{host} cannot be reached ({_why_unreachable(error)})", step)
    why = f"the connection to {host} broke ({reason or type(error).__name__})"
    return PassingError(what, why, "Try again")


def _why_unreachable(error: BaseException) -> str:
    """In words, from the system's own error under those of the libraries."""
    under: BaseException | None = error
    while under is not None and not isinstance(under, OSError):
        under = under.__cause__ or under.__context__
    if isinstance(under, socket.gaierror):
        return "its address was not found; this computer seems to be offline"
    if isinstance(under, ConnectionRefusedError):
        return "it refused the connection"
    return (under and under.strerror) or str(error)


def _busy(response: httpx2.Response, what: str, *, signed: bool) -> PassingError:
    status, after = response.status_code, response.headers.get("retry-after", "")
    limit = parse_ratelimit_headers(response.headers)
    pause = float(after) if after.isdigit() else float(limit.reset_in_seconds) if limit else None
    when = f"in {pause:.0f} s" if pause else "in a few minutes"
    if status == 429:
        more = "" if signed else "; a token raises the limit"
        error = PassingError(what, "too many requests (429)", f"Try again {when}{more}")
    else:
        error = PassingError(what, f"the Hub has a problem ({status})", f"Try again {when}")
    error.retry_after_s = pause
    return error


def _not_the_hub() -> HubError:
    return HubError(
        f"{endpoint()} did not answer like the Hub",
        "a login page or a proxy may have answered instead",
        "Open it in a browser, then try again",
    )
