"""Which formats a device is offered, and not: some it computes wrongly, does not take, or only unpacks."""

from collections.abc import Iterable, Mapping, Sequence

from kl_lens_desktop.plan.prices import ModelPrices
from kl_lens_desktop.quant.formats import all_formats, parse_format
from kl_lens_desktop.sensitivity.jobs import MENU

# Formats a device is known to compute wrongly or not to take. GPU: OpenVINO issue 37419 on an Arc 140V; 2-bit
# embeddings come out wrong and 2-bit products end the process (2026.4). NPU: with zero points or of uncommon
# widths (2026.4).
DISTRUSTED: Mapping[str, tuple[str, ...]] = {
    "GPU": ("int4_asym_g64", *(name for name in all_formats() if name.startswith("int2"))),
    "NPU": tuple(name for name in all_formats() if name.startswith(("int4_asym", "int3", "int2"))),
}


# Formats whose weights a plugin unpacks to 32 bits when it loads a model (2026.4): the file is small, and the
# memory is not.
UNPACKED: Mapping[str, tuple[str, ...]] = {
    "CPU": tuple(name for name in all_formats() if name.startswith("int3"))
}
SMALL_BITS = 4.0  # a plan of fewer is asked for its small file


def only_small(device: str, prices: ModelPrices | None) -> tuple[str, ...]:
    """Formats that save disk on a device, and cost memory there.

    Parameters
    ----------
    prices : ModelPrices, optional
        As measured on it; without them what is known of devices of its kind.
    """
    return prices.wasteful() if prices is not None else UNPACKED.get(device.upper().split(".")[0], ())


def menu(
    devices: Iterable[str], bits: float, measured: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """What a plan for all of the devices may choose from, if nobody names formats.

    Parameters
    ----------
    bits : float
        Average bits of the plan.
    measured : mapping of str to sequence of str, optional
        The formats that only save disk, by device, of those that were measured: `ModelPrices.wasteful`.
    """
    devices, measured = tuple(devices), measured or {}
    kinds = {device.upper().split(".")[0] for device in devices}
    avoided = {name for kind in kinds for name in DISTRUSTED.get(kind, ())}
    if bits >= SMALL_BITS:
        avoided |= {n for device in devices for n in measured.get(device, only_small(device, None))}
    per_channel = ("int4_sym_pc",) if "NPU" in kinds else ()  # other groups are slow there
    return tuple(name for name in (*MENU, *per_channel) if name not in avoided)


def is_distrusted(device: str, name: str) -> bool:
    """Whether a device (``GPU.0``, ``NPU``, …) computes the format `name` wrongly or does not take it."""
    return name in DISTRUSTED.get(device.split(".")[0], ())


def distrusted_words(device: str) -> str:
    """The formats of `DISTRUSTED` in words: ``INT4 asym g64, INT2``."""
    bases: dict[str, list[str]] = {}
    for name in DISTRUSTED[device]:
        bases.setdefault(name.rsplit("_", 1)[0], []).append(name)
    said = []
    for base, names in bases.items():
        labels = [parse_format(name).label for name in names]
        whole = len(names) == sum(name.startswith(f"{base}_") for name in all_formats())
        said += [labels[0].rsplit(" ", 1)[0]] if whole else labels
    return ", ".join(said)


def strictest_device(devices: Iterable[str]) -> str | None:
    """That of `devices` whose limits hold for all of them; None if none has any."""
    kinds = {device.upper().split(".")[0] for device in devices}
    return next((kind for kind in ("NPU", "GPU") if kind in kinds), None)
