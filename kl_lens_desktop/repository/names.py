"""Names from strangers: of models, and of files that must stay in their folder on every system."""

import re

_NAME_LIMIT = 120
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
# Names that Windows gives to devices, with any extension: writing to NUL.safetensors writes to nowhere.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')


def is_model_id(text: str) -> bool:
    """Whether `text` has the form of a Hub id: ``name`` or ``owner/name``."""
    return bool(_MODEL_ID.fullmatch(text)) and ".." not in text and "--" not in text


def is_owned_id(text: str) -> bool:
    """Whether `text` has the form of a Hub id with its owner."""
    return is_model_id(text) and "/" in text


def is_safe_name(name: str) -> bool:
    """Whether `name` is that of a plain file in its folder on every system.

    It is not if it is empty, ``.`` or ``..``, holds a separator, colon or control character, is a device name
    of Windows, ends in a dot or space, or is too long.
    """
    bad = _FORBIDDEN.search(name) or _RESERVED.fullmatch(name)
    return not bad and bool(name.strip(". ")) and name[-1] not in ". " and len(name) <= _NAME_LIMIT
