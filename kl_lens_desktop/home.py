"""The user's folder, where this program keeps what is its own."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """``KL_LENS_HOME``, or the platform's place for an application's data."""
    chosen = os.environ.get("KL_LENS_HOME")
    return Path(chosen) if chosen else platformdirs.user_data_path("kl-lens", appauthor=False)
