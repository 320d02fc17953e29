"""Families are files: what a record says of an architecture is true, and nothing else names one."""

import ast
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kl_lens_desktop.errors import ModelError
from kl_lens_desktop.families import FAMILIES, Family, family_of
from kl_lens_desktop.families.page import page
from kl_lens_desktop.kernels.replace import kernel_functions, unreplaced
from kl_lens_desktop.kernels.table import KERNELS
from kl_lens_desktop.model.inventory import inventory
from kl_lens_desktop.model.load import empty_model
from tests.models import CONFIGURATIONS, build, build_folder

PACKAGE = Path(__file__).parents[1] / "kl_lens_desktop"
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def modelling_module(family: Family) -> str:
    family.known()
    config = CONFIG_MAPPING[family.text.get("model_type", family.model_type)]
    return MODEL_FOR_CAUSAL_LM_MAPPING[config].__module__


@EACH
def test_a_family_is_the_file_of_its_model_type(family: Family) -> None:
    assert find_spec(f"kl_lens_desktop.families.{family.model_type}") is not None
    assert family_of(family.model_type) is family
    assert version("transformers") in SpecifierSet(family.transformers)


@EACH
def test_its_kernels_are_those_of_its_modelling_code(family: Family) -> None:
    modelling = modelling_module(family)
    kernels = [KERNELS[name] for name in family.kernels]
    assert unreplaced(modelling, kernels) == []
    called = kernel_functions(modelling)
    for kernel in kernels:
        # Where its modelling code has no such function, the family's patch or its module calls the kernel.
        assert not called or kernel.function in called or family.patch


@EACH
def test_it_is_tried_by_the_tests(family: Family) -> None:
    """Those of models that see share their text part's record and modelling module, which is tried."""
    if not family.tiny:
        assert any(other.mixers == family.mixers and other.tiny for other in FAMILIES.values())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_matrix_belongs_to_a_named_part(name: str) -> None:
    model = build(name)
    kinds = {weight.kind for weight in inventory(model)}
    assert kinds <= {"ssm", "attention", "mlp", "embedding", "head", "conv"}
    assert ("ssm" in kinds) == bool(FAMILIES[name.split()[0]].kernels)


def test_an_unknown_part_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = FAMILIES["mamba2"]
    monkeypatch.setitem(FAMILIES, "mamba2", Family("mamba2", record.title, record.kernels, {"Other": "ssm"}))
    with pytest.raises(ModelError, match="a part that is not known here: Mamba2Mixer"):
        inventory(empty_model(build_folder("mamba2", tmp_path)))


def test_nothing_else_names_an_architecture() -> None:
    """Neither in a string nor in a name: only their files do. Docstrings may name what they explain."""
    names = set(FAMILIES) | {name.replace("_", "") for name in FAMILIES}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "families" in path.parts or "resources" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                if node.value in names:
                    found.append(f"{path.name}: {node.value!r}")
            elif isinstance(node, (ast.Name, ast.Attribute, ast.FunctionDef, ast.ClassDef, ast.arg)):
                said = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
                if said and said.lower() in names:
                    found.append(f"{path.name}: {said}")
    assert found == []


def test_the_documentation_lists_every_family() -> None:
    """If it does not: ``python -m kl_lens_desktop.families.page > resources/docs/models.md``."""
    path = PACKAGE.parent / "resources" / "docs" / "models.md"
    assert path.read_text(encoding="utf-8") == page()
