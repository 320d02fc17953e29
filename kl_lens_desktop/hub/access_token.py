"""The token for the Hub: huggingface_hub's own, else that of the system's keyring; in no file of ours."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from huggingface_hub import get_token

from kl_lens_desktop.errors import HubError
from kl_lens_desktop.hub.refusals import endpoint

_PLACE = ("kl-lens", "huggingface")


def read_token() -> str | None:
    """The token of ``HF_TOKEN`` or ``hf auth login``, else the keyring's; `HubError` if it is malformed."""
    token = get_token() or saved_token()
    if token and not re.fullmatch(r"[!-~]+", token):
        why = "the saved token (or HF_TOKEN) contains invalid characters"
        raise HubError("Cannot ask the Hub", why, f"Copy it again from {endpoint()}/settings/tokens")
    return token or None


def saved_token() -> str | None:
    """The token in the keyring; None if there is none, or no keyring, or it is locked."""
    try:
        with _keyring("The token cannot be read", "Unlock it") as keyring:
            token: str | None = keyring.get_password(*_PLACE)
    except HubError:  # public models need no token
        return None
    return token


def save_token(token: str) -> None:
    """Keep a token in the keyring; `HubError` if that is absent or stays locked."""
    step = "Unlock it, or set the environment variable HF_TOKEN"
    with _keyring("The token was not saved", step) as keyring:
        keyring.set_password(*_PLACE, token.strip())


def forget_token() -> None:
    """Remove the token from the keyring, if there is one; `HubError` if the keyring stays locked."""
    with _keyring("The token was not removed", "Unlock it and try again", absent_is_well=True) as keyring:
        keyring.delete_password(*_PLACE)


@contextlib.contextmanager
def _keyring(what: str, step: str, *, absent_is_well: bool = False) -> Iterator[Any]:
    import keyring
    from keyring.errors import KeyringError, NoKeyringError, PasswordDeleteError

    absent = (NoKeyringError, PasswordDeleteError) if absent_is_well else ()
    try:
        with contextlib.suppress(*absent):
            yield keyring
    except NoKeyringError as error:
        why, instead = "this system has no keyring to store it in", "Set HF_TOKEN, or run `hf auth login`"
        raise HubError(what, why, instead) from error
    except KeyringError as error:
        raise HubError(what, f"the system's keyring cannot be used ({error})", step) from error
