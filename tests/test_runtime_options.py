"""Options in an exported graph: plugins take them, a client's own count more, and the card tells."""

import json
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from kl_lens_desktop.bench.genai import open_pipeline
from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.runtime_options import DYNAMIC_QUANTIZATION, check_groups
from kl_lens_desktop.files import CARD
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import parse_format


def _group(folder: Path, **hints: Any) -> int:
    compiled = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", hints)
    return int(compiled.get_property(DYNAMIC_QUANTIZATION))


def test_a_device_takes_the_group_of_activations_from_the_graph(
    short_sample: LocalModel, tmp_path: Path, cancel: Cancel
) -> None:
    folder = tmp_path / "int4"
    list(export_model(short_sample, "int4_sym_g64", folder, cancel, activation_group=64))
    assert _group(folder) == 64
    assert _group(folder, DYNAMIC_QUANTIZATION_GROUP_SIZE="0") == 0, "a client's own counts more"
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    assert card["runtime_options"] == {DYNAMIC_QUANTIZATION: "64"}
    open_pipeline(folder, "CPU")
    graph = folder / "openvino_model.xml"
    text = graph.read_text(encoding="utf-8")
    graph.write_text(text.replace(f'{DYNAMIC_QUANTIZATION} value="64"', f'{DYNAMIC_QUANTIZATION} value="x"'))
    with pytest.raises(ModelError):  # so the pipeline reads it too
        open_pipeline(folder, "CPU")


@pytest.mark.parametrize(("size", "channels", "name", "fits"), [
    (128, 768, "int4_sym_g128", True), (128, 768, "int8_sym", True), (128, 768, "int4_sym_g64", False),
    (64, 768, "int4_sym_g64", True), (64, 192, "int4_sym_g128", True), (128, 192, "int4_sym_g128", False),
    (128, 192, "fp16", True),
])  # fmt: skip
def test_groups_of_activations_fit_those_of_the_weights(
    size: int, channels: int, name: str, fits: bool
) -> None:
    given = [(channels, parse_format(name))]
    if fits:
        check_groups(size, given)
    else:
        with pytest.raises(InputError, match="Cannot quantize activations"):
            check_groups(size, given)
