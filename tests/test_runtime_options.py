"""Options in an exported graph: plugins take them, a client's own count more, and the card tells."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from kl_lens_desktop.bench.genai import open_pipeline
from kl_lens_desktop.errors import InputError, ModelError
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.runtime_options import DYNAMIC_QUANTIZATION
from kl_lens_desktop.files import CARD
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Note
from kl_lens_desktop.quant.activations import LARGEST, check_groups, largest_group
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
    assert card["runtime_options"] == {"KV_CACHE_PRECISION": "f16", DYNAMIC_QUANTIZATION: "64"}
    open_pipeline(folder, "CPU")
    graph = folder / "openvino_model.xml"
    text = graph.read_text(encoding="utf-8")
    graph.write_text(text.replace(f'{DYNAMIC_QUANTIZATION} value="64"', f'{DYNAMIC_QUANTIZATION} value="x"'))
    with pytest.raises(ModelError):  # so the pipeline reads it too
        open_pipeline(folder, "CPU")


GENERATE = """
import sys, openvino_genai

pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU", INFERENCE_PRECISION_HINT="f32")
prompts = "The ship", "He looked at the house for a long while and then went", "It was"
how = {"max_new_tokens": 12, "apply_chat_template": False, "ignore_eos": True}
alone = [pipeline.generate(prompt, **how) for prompt in prompts]
assert pipeline.generate(list(prompts), **how).texts == alone
"""


def test_rows_that_a_later_call_adds_are_answered_rightly(short_ir: dict[str, Path]) -> None:
    """With memory that holds rubbish where nobody has written (in glibc)."""
    child = subprocess.run(
        [sys.executable, "-c", GENERATE, str(short_ir["fp16"])],
        env={**os.environ, "MALLOC_PERTURB_": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


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


@pytest.mark.parametrize(("weights", "size"), [
    ({"int8_sym": 768, "int4_sym_g128": 1536}, 128), ({"int8_sym": 768, "int4_sym_g64": 1536}, 64),
    ({"int8_sym": 768, "int4_sym_g32": 1536}, 0), ({"int4_sym_pc": 192, "fp16": 100}, 64),
    ({"int8_sym": 100}, 0), ({"fp16": 768}, 0), ({}, 0),
])  # fmt: skip
def test_the_largest_group_is_one_that_all_weights_allow(weights: dict[str, int], size: int) -> None:
    assert largest_group((channels, parse_format(name)) for name, channels in weights.items()) == size


@pytest.mark.parametrize(("name", "size"), [("int8_sym", 128), ("int4_sym_g64", 64), ("fp16", 32)])
def test_an_export_takes_the_largest_group_and_says_so(
    short_sample: LocalModel, tmp_path: Path, cancel: Cancel, name: str, size: int
) -> None:
    folder = tmp_path / name
    events = export_model(short_sample, name, folder, cancel, activation_group=LARGEST)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("activations" in note and (str(size) in note) == (size > 32) for note in notes), notes
    assert _group(folder) == size
