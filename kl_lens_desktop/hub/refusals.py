"""Refusals of the Hub and failures on the way to it, in words, with the step that helps."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from kl_lens_desktop.errors import HubError

TRY_LATER = "Try again later, or without HF_ENDPOINT"
_ATTEMPTS = 6  # in a row that brought next to nothing
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
_ADDRESS = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", re.ASCII)


class PassingError(HubError):
    """What may be over when asked again; `retry_after_s` is how long the Hub asks to wait, if it says."""

    retry_after_s: float | None = None

    def delay_s(self, failures: int) -> float:
        """How long to wait after so many failures: as the Hub asks, or longer each time; the last raises."""
        pause = self.retry_after_s
        if failures >= _ATTEMPTS or (pause or 0) > _LONGEST_DELAY_S:
            raise self
        return pause or min(_FIRST_DELAY_S * 2 ** (failures - 1), _LONGEST_DELAY_S)


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
        raise _unreachable(error, what) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # no such JSON
        raise not_the_hub() from error


def not_the_hub() -> HubError:
    """What an answer means that the Hub would not give."""
    return HubError(
        f"{endpoint()} did not answer like the Hub",
        "a login page or a proxy may have answered instead",
        "Open it in a browser, then try again",
    )


def _refusal(error: HfHubHTTPError, what: str, name: str, revision: str | None) -> HubError:
    """What a status of 400 or more means."""
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
        return _busy(response, what, "" if signed else "; a token raises the limit")
    return HubError(what, f"the Hub answered {status} {words}".rstrip(), "Try again later")


def _busy(response: httpx2.Response, what: str, hint: str) -> PassingError:
    status, after = response.status_code, response.headers.get("retry-after", "")
    limit = parse_ratelimit_headers(response.headers)
    pause = float(after) if after.isdigit() else float(limit.reset_in_seconds) if limit else None
    step = f"Try again {f'in {pause:.0f} s' if pause else 'in a few minutes'}"
    if status == 429:
        error = PassingError(what, "too many requests (429)", step + hint)
    else:
        error = PassingError(what, f"the Hub has a problem ({status})", step)
    error.retry_after_s = pause
    return error


def _unreachable(error: httpx2.HTTPError, what: str) -> PassingError:
    """What a failed connection means: no network, a slow one, a proxy or a certificate."""
    host, reason = httpx2.URL(endpoint()).host, str(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        why = f"the certificate of {host} is not trusted here"
        step = "Behind a company proxy, set SSL_CERT_FILE to the proxy's certificate authority"
    elif isinstance(error, httpx2.ProxyError):
        why, step = f"the proxy refused ({reason})", "Check HTTPS_PROXY"
    elif isinstance(error, httpx2.TimeoutException):
        why, step = f"{host} did not answer in time", "Check the network and try again"
    elif isinstance(error, httpx2.ConnectError):
        why = f"{host} cannot be reached ({_why_unreachable(error)})"
        step = "Check the network, or choose a model on this computer"
    else:
        why, step = f"the connection to {host} broke ({reason or type(error).__name__})", "Try again"
    return PassingError(what, why, step)


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
