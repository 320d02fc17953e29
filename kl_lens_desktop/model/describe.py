"""What a model is, from its structure alone: no weight is read."""

from collections.abc import Iterator

from kl_lens_desktop.families import family_of
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.fit import folder_sizes, stage_needs
from kl_lens_desktop.model.inventory import blocks, experts_chosen, inventory, kept_bytes
from kl_lens_desktop.model.jobs import About, InspectJob
from kl_lens_desktop.model.load import empty_model
from kl_lens_desktop.process.events import Event, Progress, Weights
from kl_lens_desktop.repository.model_files import model_files


def describe(local: LocalModel, job: InspectJob) -> Iterator[Event]:
    """Yield the weights, and last Finished with `jobs.Inspected`."""
    size = model_files(local.folder).size_bytes
    yield Progress("inspect", 0, 1, "Reading the structure")
    model = empty_model(local.folder)
    found = inventory(model)
    weights = [weight.as_dict() for weight in found]
    config = model.config.get_text_config()
    chosen = experts_chosen(config)
    yield Weights(weights, chosen)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    by_block: dict[int, set[str]] = {}
    for weight in weights:
        if weight["block"] is not None:
            by_block.setdefault(weight["block"], set()).add(weight["kind"])
    kinds = {kind: sum(kind in held for held in by_block.values()) for kind in ("ssm", "attention", "mlp")}
    about: About = {
        "id": local.id,
        "folder": str(local.folder),
        "revision": local.revision,
        "architecture": family_of(model.config.model_type).title,
        "model_type": model.config.model_type,
        "parameters": parameters,
        "blocks": len(blocks(model)),
        "block_kinds": {kind: count for kind, count in kinds.items() if count},
        "size_bytes": size,
        "vocabulary": config.vocab_size,
        "experts_chosen": chosen,
    }
    yield job.finished(
        {
            "model": about,
            "weights": weights,
            "kept_bytes": kept_bytes(model, found),
            "fit": [
                {"stage": need.stage, "ram_mb": need.ram_mb, "disk_mb": need.disk_mb}
                for need in stage_needs(parameters, size, folder_sizes(local.folder))
            ],
        }
    )
