"""A plan made for other weights of the same names and shapes, applied because a person agreed to it."""

from pathlib import Path

from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.checkpoint import weight_files, weights_sha256
from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable
from kl_lens_desktop.model.load import empty_model
from kl_lens_desktop.plan.document import Plan, adapted
from kl_lens_desktop.sensitivity.scores import ModelIdentity


def adapted_to(local: LocalModel, plan: Plan, path: Path) -> Plan:
    """The plan read from `path` as one of the model; `InputError` if names or shapes do not match."""
    model = empty_model(local.folder)
    weights = inventory(model)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(weight_files(local.folder)))
    shapes = {weight.name: weight.shape for weight in quantizable(weights)}
    return adapted(plan, identity, shapes, kept_bytes(model, weights), path)
