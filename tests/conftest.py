"""What the tests share: a home of their own, and the sample's exported variants, made once."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["KL_LENS_HOME"] = tempfile.mkdtemp(prefix="kl-lens-tests-")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["HF_HUB_OFFLINE"] = "1"

from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from tests.gpu_on_cpu.emulator import Unavailable, environment


@pytest.fixture(scope="session")
def sample() -> LocalModel:
    return resolve_model("sample")


@pytest.fixture(scope="session")
def sample_scores_path(sample: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, scored on 512 tokens in the default formats."""
    from kl_lens_desktop.sensitivity.engine import analyze
    from kl_lens_desktop.sensitivity.jobs import Analysis
    from kl_lens_desktop.text.bundled import calibration_text

    path = tmp_path_factory.mktemp("scores") / "scores.json"
    for _ in analyze(sample, path, Analysis((calibration_text(),), tokens=512, window=128), Cancel()):
        pass
    return path


@pytest.fixture(scope="session")
def sample_scores(sample_scores_path: Path) -> Scores:
    return load_scores(sample_scores_path)


@pytest.fixture(scope="session")
def export_sample(sample: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a format to the sample's IR folder in that format; each is made once."""
    from kl_lens_desktop.export.bundle import export_model

    root = tmp_path_factory.mktemp("ir")

    def export(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            for _ in export_model(sample, name, folder, Cancel()):
                pass
        return folder

    return export


@pytest.fixture(scope="session")
def sample_ir(export_sample: Callable[[str], Path]) -> dict[str, Path]:
    return {"fp16": export_sample("fp16"), "int4": export_sample("int4_sym_g64")}


@pytest.fixture(scope="session")
def emulated_gpu() -> dict[str, str]:
    """The environment of a child process in which OpenVINO finds a GPU; see `tests.gpu_on_cpu`."""
    try:
        return environment()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def cancel() -> Cancel:
    return Cancel()
