"""What a score file must mean, beyond its form, so that plans can be made from it. Needs no torch."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kl_lens_desktop.quant.formats import all_formats, parse_format, stored_bytes

KEPT = "conv"  # the kind of weight that no format applies to
_FORMATS = frozenset(all_formats())


def objections(value: dict[str, Any]) -> Iterator[str]:
    """What cannot be true in a score file of the right form, in words."""
    weights, text = {weight["name"]: weight for weight in value["weights"]}, value["text"]
    if text["window"] > text["tokens"]:
        yield "its text is shorter than one window"
    yield from _of_weights(value["weights"])
    unmeasurable = value.get("unmeasurable", [])
    for (name, fmt), count in Counter(map(_pair, (*value["entries"], *unmeasurable))).items():
        if count > 1:
            yield f"{name} in {fmt} appears twice"
        elif name not in weights:
            yield f"{name} is not among the weights"
        elif weights[name]["kind"] == KEPT:
            yield f"{name} is a convolution, which no format applies to"
        elif fmt not in _FORMATS:
            yield f"{fmt!r} is not a format"
    for entry in value["entries"]:
        yield from _of_entry(entry, weights[entry["weight"]])
    for name, count in Counter(item["weight"] for item in value.get("local_errors", [])).items():
        if count > 1 or name not in weights:
            yield f"{name} has local errors twice" if count > 1 else f"{name} is not among the weights"


def _of_weights(weights: list[dict[str, Any]]) -> Iterator[str]:
    for name, count in Counter(weight["name"] for weight in weights).items():
        if count > 1:
            yield f"the weight {name} appears twice"
    for weight in weights:
        if weight["parameters"] != math.prod(weight["shape"]):
            yield f"{weight['name']} has {math.prod(weight['shape']):,} parameters by its shape"
    if all(weight["kind"] == KEPT for weight in weights):
        yield "it has no weight that a format applies to"


def _of_entry(entry: dict[str, Any], weight: dict[str, Any]) -> Iterator[str]:
    if (entry["kind"], entry["block"]) != (weight["kind"], weight["block"]):
        yield f"{entry['weight']} is described in two ways"
    if entry.get("source") != "predicted" and None in (entry["delta_ce"], entry["top1_agreement"]):
        yield f"{entry['weight']} in {entry['format']} lacks a measure, and is not predicted"
    size = stored_bytes(weight["shape"], parse_format(entry["format"]))
    if entry["bytes"] != size:
        yield f"{entry['weight']} takes {size:,} bytes in {entry['format']}, not {entry['bytes']:,}"


def _pair(item: dict[str, Any]) -> tuple[str, str]:
    return item["weight"], item["format"]
