"""The Hub's API: search, what a repository holds, which files of it are needed, the token, refusals."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from kl_lens_desktop import __version__
from kl_lens_desktop.errors import HubError, ModelError
from kl_lens_desktop.hub.library import is_model_id, refuse_unsafe_name
from kl_lens_desktop.hub.model_files import (
    CONFIG,
    INDEX,
    SINGLE,
    UnclearWeightsError,
    most_bytes,
    parse_index,
    weight_names,
)

DEFAULT_ENDPOINT = "https://huggingface.co"
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_KEYRING = ("kl-lens", "huggingface")
_ADDRESS = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DOCUMENTS = re.compile(r"README\.md|LICENSE(\.\w+)?")
_MOST_DOCUMENT_BYTES = 16 * 2**20


class HubBusyError(HubError):
    """The Hub refused for now (429 or 5xx); `retry_after_s` is how long it asks to wait, if it says."""

    retry_after_s: float | None = None


@dataclass(frozen=True)
class SearchHit:
    """A model found on the Hub.

    Attributes
    ----------
    id : str
    downloads, likes : int
        Downloads count the last 30 days.
    gated : bool
        Whether its authors must be asked for access.
    architecture : str or None
        transformers' model type, for example ``granitemoehybrid``.
    parameters : int or None
        Number of weights in its safetensors.
    library_name : str or None
    tags : tuple of str
    """

    id: str
    downloads: int
    likes: int
    gated: bool
    architecture: str | None
    parameters: int | None
    library_name: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its size in bytes, its SHA-256 (large files) or git blob SHA-1 (small ones)."""

    name: str
    size: int
    sha256: str | None
    blob_sha1: str | None


@dataclass(frozen=True)
class ModelInfo:
    """A repository at one commit.

    Attributes
    ----------
    id : str
        As the Hub spells it.
    revision : str
        The commit, 40 hexadecimal digits.
    gated : bool
    files : tuple of HubFile
        Everything it holds.
    kind : str
        ``models`` or ``datasets``.
    """

    id: str
    revision: str
    gated: bool
    files: tuple[HubFile, ...]
    kind: str = "models"


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
    address = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    if not _ADDRESS.fullmatch(address):
        raise HubError(
            "The Hub cannot be reached",
            f"HF_ENDPOINT is {address!r}, which is not an address",
            f"Unset it, or set it like {DEFAULT_ENDPOINT}",
        )
    return address


def read_token() -> str | None:
    """``HF_TOKEN``, else the token saved in the system's keyring; None if there is none or it is locked."""
    if token := os.environ.get("HF_TOKEN", "").strip():
        return token
    import keyring
    from keyring.errors import KeyringError

    try:
        saved: str | None = keyring.get_password(*_KEYRING)
    except KeyringError:  # public models need no token, so a computer without a keyring is not an error
        return None
    return saved or None


def save_token(token: str) -> None:
    """Keep a token in the system's keyring, never in a file.

    Raises
    ------
    HubError
        If there is no keyring or it stays locked.
    """
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(*_KEYRING, token.strip())
    except KeyringError as error:
        raise HubError(
            "The token was not saved",
            f"the system's keyring cannot be used ({error})",
            "Unlock it, or set the environment variable HF_TOKEN",
        ) from error


def forget_token() -> None:
    """Remove the saved token, if there is one.

    Raises
    ------
    HubError
        If the keyring stays locked.
    """
    import keyring
    from keyring.errors import KeyringError, NoKeyringError, PasswordDeleteError

    try:
        keyring.delete_password(*_KEYRING)
    except (NoKeyringError, PasswordDeleteError):  # nothing was saved
        return
    except KeyringError as error:
        raise HubError(
            "The token was not removed",
            f"the system's keyring cannot be used ({error})",
            "Unlock it and try again",
        ) from error


def open_client() -> httpx.Client:
    """A client with the token and the system's certificates; httpx drops the token when another host is next.

    Raises
    ------
    HubError
        If ``HF_HUB_OFFLINE`` forbids the network, or the token is malformed.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError(
            "Cannot ask the Hub", "HF_HUB_OFFLINE is set", "Unset it, or choose a model on this computer"
        )
    headers = {"User-Agent": f"kl-lens/{__version__}", "Accept-Encoding": "identity"}
    if token := read_token():
        if not re.fullmatch(r"[!-~]+", token):
            raise HubError(
                "Cannot ask the Hub",
                "the saved token (or HF_TOKEN) contains invalid characters",
                f"Copy it again from {endpoint()}/settings/tokens",
            )
        headers["Authorization"] = f"Bearer {token}"
    context = httpx.create_ssl_context()
    context.load_default_certs()  # company networks put their own authority there
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx.Client(headers=headers, timeout=timeout, follow_redirects=True, verify=context)


def search(query: str, *, filters: Sequence[str] = ("safetensors",), limit: int = 30) -> list[SearchHit]:
    """Models whose id matches `query`, the most downloaded first.

    Parameters
    ----------
    query : str
    filters : sequence of str
        Tags that each must have; ``safetensors`` by default, since nothing else can be opened.
    limit : int
        How many at most.

    Raises
    ------
    HubError
    """
    expand = ("downloads", "likes", "gated", "tags", "library_name", "config", "safetensors")
    params: list[tuple[str, str | int | float | bool | None]] = [
        ("search", query),
        ("sort", "downloads"),
        ("direction", "-1"),
        ("limit", limit),
        *(("filter", tag) for tag in filters),
        *(("expand[]", field) for field in expand),
    ]
    with open_client() as client, _worded(f"Cannot search for {query!r}"):
        response = client.get(f"{endpoint()}/api/models", params=params)
        if not response.is_success:
            raise refusal(response, f"Cannot search for {query!r}", "")
        rows = _json(response)
    if not isinstance(rows, list):
        raise _not_the_hub()
    return [_hit(row) for row in rows if isinstance(row, dict) and is_model_id(str(row.get("id", "")))]


def model_info(
    client: httpx.Client, model_id: str, revision: str | None = None, kind: str = "models"
) -> ModelInfo:
    """What a repository holds at a branch, tag or commit (``main`` by default), with sizes and hashes.

    `kind` is ``models`` or ``datasets``.

    Raises
    ------
    HubError
        If it is absent, private or gated, the token is wrong, or the Hub cannot be reached.
    """
    if not is_model_id(model_id):
        raise HubError(f"Cannot open {model_id}", "it is neither a folder nor a Hub id", "Write owner/name")
    url = f"{endpoint()}/api/{kind}/{model_id}/revision/{quote(revision or 'main', safe='')}"
    with _worded(f"Cannot open {model_id}"):
        response = client.get(url, params={"blobs": "true"})
    if not response.is_success:
        raise refusal(response, f"Cannot open {model_id}", model_id, revision)
    value = _json(response)
    try:
        info = ModelInfo(
            value["id"],
            value["sha"],
            bool(value.get("gated")),
            tuple(_file(sibling) for sibling in value["siblings"]),
            kind,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_the_hub() from error
    if not is_model_id(info.id) or not is_commit(info.revision):
        raise _not_the_hub()
    return info


def choose_files(client: httpx.Client, info: ModelInfo) -> tuple[HubFile, ...]:
    """The files that opening the model takes, small first: safetensors, configs, tokenizer, card, licence.

    Of several copies of the weights one is taken, as transformers would: ``model.safetensors``, else what the
    repository's index names (which is read here), else its shards. Folders in the repository hold further
    copies and are left.

    Raises
    ------
    HubError
        If there is no config.json or no safetensors, it is unclear which of them belong together, a file has
        no size or hash to verify it by or is too large, or a name is not safe to store.
    """
    files = {file.name: file for file in info.files if _is_needed(file.name)}
    for name in files:
        for part in name.split("/"):
            refuse_unsafe_name(part)
    names = {name for name in files if "/" not in name}
    try:
        index = {}
        if INDEX in names and SINGLE not in names:
            index = _index(client, info, files[INDEX])
        weights = weight_names(names | {file.name for file in info.files if "/" not in file.name}, index)
    except UnclearWeightsError as error:
        raise HubError(f"Cannot use {info.id}", error.why, error.next_step) from error
    if CONFIG not in names:
        raise HubError(
            f"Cannot use {info.id}", "it has no config.json", "Choose a model in transformers' layout"
        )
    small = [name for name in names if not name.endswith(".safetensors") and (name != INDEX or index)]
    chosen = [files[name] for name in (*weights, *small)]
    for file in chosen:
        _check_listed(info, file)
    return tuple(sorted(chosen, key=lambda file: (file.size, file.name)))


def _is_needed(name: str) -> bool:
    base = re.split(r"[\\/]", name)[-1]
    return base.endswith(".safetensors") or most_bytes(base) is not None or bool(_DOCUMENTS.fullmatch(base))


def _check_listed(info: ModelInfo, file: HubFile) -> None:
    """Refuse a file that cannot be verified, or is larger than any real one of its name."""
    if file.size < 0 or not (file.sha256 or file.blob_sha1):
        raise HubError(
            f"Cannot use {info.id}",
            f"the Hub gives no size or hash for {file.name}",
            "Try without HF_ENDPOINT",
        )
    most = most_bytes(file.name) or (_MOST_DOCUMENT_BYTES if _DOCUMENTS.fullmatch(file.name) else None)
    if most and file.size > most:
        raise HubError(
            f"Cannot use {info.id}",
            f"its {file.name} is larger than {most // 2**20} MB, which no real one is",
            "Choose another model",
        )


def _index(client: httpx.Client, info: ModelInfo, file: HubFile) -> dict[str, str]:
    """The file name of every tensor, from the index of a repository."""
    _check_listed(info, file)
    what = f"Cannot use {info.id}"
    content = bytearray()
    with _worded(what), client.stream("GET", file_url(info, file.name)) as response:
        if not response.is_success:
            response.read()
            raise refusal(response, what, info.id, info.revision)
        for piece in response.iter_raw():
            content += piece
            if len(content) > file.size:
                break
    if len(content) != file.size:
        raise HubError(what, f"{file.name} arrived with a wrong size", "Try again later")
    try:
        return parse_index(bytes(content), Path(file.name))
    except ModelError as error:
        raise HubError(what, f"its {file.name} is damaged: {error.why}", "Choose another model") from error


def file_url(info: ModelInfo, name: str) -> str:
    """Where the Hub serves a file of a repository at its commit."""
    place = info.id if info.kind == "models" else f"{info.kind}/{info.id}"
    return f"{endpoint()}/{place}/resolve/{info.revision}/{quote(name)}"


def refusal(response: httpx.Response, what: str, model_id: str, revision: str | None = None) -> HubError:
    """The error that a status of 400 or more means, with the step that helps."""
    status = response.status_code
    code = response.headers.get("x-error-code", "")
    words = response.headers.get("x-error-message", "").rstrip(".")[:200]
    signed = "authorization" in response.request.headers or any(
        "authorization" in earlier.request.headers for earlier in response.history
    )
    page = f"{endpoint()}/{model_id}"
    make_token = f"create a token at {endpoint()}/settings/tokens and save it (or set HF_TOKEN)"
    if code == "GatedRepo" or (status == 403 and "gated" in words.lower()):
        then = "then pull again" if signed else make_token
        return HubError(
            what, "it is gated: its authors give access on request", f"Ask for access at {page}, {then}"
        )
    if status == 401 and signed and code != "RepoNotFound":
        return HubError(what, "the Hub does not accept your token", make_token[0].upper() + make_token[1:])
    if status == 401:
        return HubError(
            what, "no public model has that name", "Check the spelling; if it is private, " + make_token
        )
    if status == 403:
        return HubError(
            what, words or "your token does not allow it", f"Check the token's permissions, or see {page}"
        )
    if status == 404 and code == "RevisionNotFound":
        return HubError(what, f"it has no revision {revision or 'main'}", f"See {page}/commits")
    if status == 404:
        hint = "" if signed else "; if it is private, " + make_token
        return HubError(what, "the Hub has no such model, or it is private", "Check the spelling" + hint)
    if status == 429 or status >= 500:
        return _busy(response, what, signed=signed)
    return HubError(what, f"the Hub answered {status} {words}".rstrip(), "Try again later")


@contextmanager
def _worded(what: str) -> Iterator[None]:
    """Turn a failing connection inside the block into a `HubError` that begins with `what`."""
    try:
        yield
    except httpx.HTTPError as error:
        raise unreachable(error, what) from error


def unreachable(error: httpx.HTTPError, what: str) -> HubError:
    """The error that a failed connection means: no network, a slow one, a proxy or a certificate."""
    host = urlsplit(endpoint()).hostname
    reason = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return HubError(
            what,
            f"the certificate of {host} is not trusted here",
            "Behind a company proxy, set SSL_CERT_FILE to the proxy's certificate authority",
        )
    if isinstance(error, httpx.ProxyError):
        return HubError(what, f"the proxy refused ({reason})", "Check HTTPS_PROXY")
    if isinstance(error, httpx.TimeoutException):
        return HubError(what, f"{host} did not answer in time", "Check the network and try again")
    if isinstance(error, httpx.ConnectError):
        return HubError(
            what,
            f"{host} cannot be reached ({reason})",
            "Check the network, or choose a model on this computer",
        )
    return HubError(what, f"the connection to {host} broke ({reason or type(error).__name__})", "Try again")


def _busy(response: httpx.Response, what: str, *, signed: bool) -> HubBusyError:
    status = response.status_code
    pause = _retry_after_s(response)
    when = f"in {pause:.0f} s" if pause else "in a few minutes"
    if status == 429:
        more = "" if signed else "; a token raises the limit"
        error = HubBusyError(what, "too many requests (429)", f"Try again {when}{more}")
    else:
        error = HubBusyError(what, f"the Hub has a problem ({status})", f"Try again {when}")
    error.retry_after_s = pause
    return error


def _retry_after_s(response: httpx.Response) -> float | None:
    after = response.headers.get("retry-after", "")
    if after.isdigit():
        return float(after)
    window = re.search(r"\bt=(\d+)", response.headers.get("ratelimit", ""))
    return float(window[1]) if window else None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_the_hub() from error


def _not_the_hub() -> HubError:
    return HubError(
        f"{endpoint()} did not answer like the Hub",
        "a login page or a proxy may have answered instead",
        "Open it in a browser, then try again",
    )


def _hit(row: dict[str, Any]) -> SearchHit:
    config, weights = row.get("config"), row.get("safetensors")
    architecture = config.get("model_type") if isinstance(config, dict) else None
    parameters = weights.get("total") if isinstance(weights, dict) else None
    tags = row.get("tags")
    return SearchHit(
        id=row["id"],
        downloads=_count(row.get("downloads")) or 0,
        likes=_count(row.get("likes")) or 0,
        gated=bool(row.get("gated")),
        architecture=architecture if isinstance(architecture, str) else None,
        parameters=_count(parameters),
        library_name=row["library_name"] if isinstance(row.get("library_name"), str) else None,
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
    )


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _file(sibling: dict[str, Any]) -> HubFile:
    name, size = sibling["rfilename"], sibling.get("size")
    sha256, blob = (sibling.get("lfs") or {}).get("sha256"), sibling.get("blobId")
    if not isinstance(name, str) or not name:
        raise TypeError(name)
    return HubFile(
        name,
        size if isinstance(size, int) else -1,
        sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
        blob if isinstance(blob, str) and _COMMIT.fullmatch(blob) else None,
    )
