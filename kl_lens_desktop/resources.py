"""Where the bundled model, texts, icons and schemas lie: in a checkout, a wheel or a frozen application."""

from importlib.resources import files
from pathlib import Path


def path(*parts: str) -> Path:
    """The path of a bundled resource, for example ``path("texts", "calibration-novels.txt")``."""
    package = Path(str(files("kl_lens_desktop")))
    inside = package / "resources"  # wheels and frozen applications carry it here
    root = inside if inside.is_dir() else package.parent / "resources"
    return root.joinpath(*parts)
