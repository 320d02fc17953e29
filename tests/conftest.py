"""What the tests share: a home of their own, and the sample's scores and exported variants, made once."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # read when torch is loaded; test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["KL_LENS_HOME"] = tempfile.mkdtemp(prefix="kl-lens-tests-")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="kl-lens-tests-hf-")
os.environ["HF_HUB_OFFLINE"] = "1"

from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.sensitivity.scores import Scores, load_scores
from tests.gpu_on_cpu.emulator import Unavailable, environment
from tests.models import build_short_sample
from tests.tiers import Recorder, Stopwatch, arrange

settings.register_profile("patient", deadline=None)  # a bar in seconds is one that load breaks
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help="write tests/durations.json anew")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-durations"):
        config.pluginmanager.register(Stopwatch())
        if "PYTEST_XDIST_WORKER" not in os.environ:
            config.pluginmanager.register(Recorder())


def pytest_unconfigure() -> None:
    for home in ("KL_LENS_HOME", "HF_HOME"):
        shutil.rmtree(os.environ[home], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    arrange(items)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, for what is made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def sample() -> LocalModel:
    return resolve_model("sample")


@pytest.fixture(scope="session")
def sample_scores_path(sample: LocalModel, shared: Path) -> Path:
    """The sample, scored on 512 tokens in two formats."""
    from kl_lens_desktop.sensitivity.engine import analyze
    from kl_lens_desktop.sensitivity.jobs import Analysis
    from kl_lens_desktop.text.bundled import calibration_text

    path = shared / "scores.json"
    with FileLock(shared / "scores.lock"):
        if not path.exists():
            part = shared / "part.json"
            how = Analysis(
                (calibration_text(),),
                tokens=512,
                window=128,
                formats=("int4_sym_g64", "int8_sym"),
                rounding="nearest",
            )
            for _ in analyze(sample, part, how, Cancel()):
                pass
            part.rename(path)
    return path


@pytest.fixture(scope="session")
def sample_scores(sample_scores_path: Path) -> Scores:
    return load_scores(sample_scores_path)


@pytest.fixture(scope="session")
def export_sample(sample: LocalModel, shared: Path) -> Callable[[str], Path]:
    """A function from a format to the sample's IR folder in that format; each is made once."""
    return exporter(sample, shared)


@pytest.fixture(scope="session")
def sample_ir(export_sample: Callable[[str], Path]) -> dict[str, Path]:
    return {"fp16": export_sample("fp16"), "int4": export_sample("int4_sym_g64")}


@pytest.fixture(scope="session")
def short_sample(shared: Path) -> LocalModel:
    """Two of the sample's blocks: for tests of what is done with any model."""
    folder = shared / "short"
    with FileLock(shared / "short.lock"):
        if not folder.exists():
            build_short_sample(shared / "short.part").rename(folder)
    return LocalModel("short", folder)


@pytest.fixture(scope="session")
def short_ir(short_sample: LocalModel) -> dict[str, Path]:
    """As `sample_ir`, of the short sample."""
    export = exporter(short_sample, short_sample.folder)
    return {"fp16": export("fp16"), "int4": export("int4_sym_g64")}


def exporter(local: LocalModel, shared: Path) -> Callable[[str], Path]:
    from kl_lens_desktop.export.bundle import Traced, export_model

    traced = Traced()

    def export(name: str) -> Path:
        folder = shared / name  # appears whole or not at all
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                for _ in export_model(local, name, folder, Cancel(), shared=traced):
                    pass
        return folder

    return export


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
