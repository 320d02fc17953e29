"""Exported folders in which a test has changed the graph."""

import shutil
from pathlib import Path
from typing import Any

from kl_lens_desktop.exported import contents
from kl_lens_desktop.files import CARD, MODEL_XML, read_json, write_json


def save_changed(graph: Any, folder: Path, out: Path) -> Path:
    """A copy of an IR folder with another graph in it; its card records the files as they are now."""
    import openvino

    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("openvino_model.*"), dirs_exist_ok=True)
    openvino.save_model(graph, out / MODEL_XML, compress_to_fp16=False)
    write_json(out / CARD, read_json(out / CARD) | {"contents": contents(out)})
    return out
