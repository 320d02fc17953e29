"""The families of models that this program knows: a file each, named by its ``model_type``.

To add a family whose recurrences have kernels already, add its file and nothing else: the tests, the window,
the inventory, the exporter and the documentation read the record in it. Needs no torch.
"""

import pkgutil
from importlib import import_module

from kl_lens_desktop.families.family import Family

FAMILIES: dict[str, Family] = {
    name: import_module(f"{__name__}.{name}").FAMILY
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in ("family", "own", "page")
}


def family_of(model_type: str) -> Family:
    """The family of that ``model_type``; `KeyError` if there is none."""
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "family_of"]
