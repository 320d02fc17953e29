"""What OpenVINO's GPU plugin makes of exported graphs: the CPU's answers, and no others.

The plugin and its kernels are real, the GPU is emulated (see `tests.gpu_on_cpu`). Matrix engines are not, so
experts, whose product the plugin has for matrix engines only, are multiplied densely here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from kl_lens_desktop.export import trace as trace_module
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.compress import compress, to_fp16
from kl_lens_desktop.export.stateful import begin, make_stateful
from kl_lens_desktop.export.trace import trace
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.kernels.experts.forms import dense_experts
from kl_lens_desktop.kernels.parts import branch
from kl_lens_desktop.model.inventory import inventory, quantizable
from kl_lens_desktop.plan.device_limits import is_distrusted
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import all_formats
from kl_lens_desktop.quant.roundings import NEAREST
from tests.gpu_on_cpu.compare import ROOT, TOLERANCE, Comparison, compared
from tests.models import CONFIGURATIONS, build, build_folder
from tests.rounded import scaled_roundings

MOST_KL = {"f32": 1e-6, "f16": 1e-4}
LAYER = {"num_hidden_layers": 1}
# Of two experts that score all but alike, rounding chooses.
WITH_EXPERTS = 3e-3  # dense products sum more
CHOOSE_ALL = {"num_experts_per_tok": 4}
IN_FORMATS = 1e-2  # kernels that unpack weights round more than those that read f16
IN_HALF = ("granitemoehybrid", "jamba", "qwen3_next", "lfm2")  # a family of each kind of recurrence


def export(family: str, folder: Path, fmt: str = "fp16", *, scaled: bool = False, **changes: object) -> Path:
    """A small model's graph, every weight in one format, and the columns of some scaled if so said."""
    model = build(family, **changes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trace_module, "grouped_experts", dense_experts)
        graph, states = trace(model)
    make_stateful(graph, states)
    with torch.no_grad():
        begin(graph, states, model)
    to_fp16(graph)
    if fmt != "fp16":
        assignments = {weight.name: fmt for weight in quantizable(inventory(model))}
        roundings = scaled_roundings(model, assignments) if scaled else NEAREST
        compress(graph, assignments, Cancel(), roundings=roundings)
    ov.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)
    model.config.save_pretrained(folder)
    return folder


def check(comparisons: Sequence[Comparison], tolerance: float | None = None) -> None:
    for found in comparisons:
        said = replace(found, folder=Path(found.folder).name)
        assert found.failure is None, said
        assert found.error < (tolerance or TOLERANCE[found.precision]), said
        assert found.kl < MOST_KL[found.precision], said


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_a_layer_is_right_however_it_is_fed(
    family: str, emulated_gpu: dict[str, str], tmp_path: Path
) -> None:
    check(compared([export(family, tmp_path, **LAYER)], ["f32"], ["mixed", "again"]))


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_every_family_is_right(family: str, emulated_gpu: dict[str, str], tmp_path: Path) -> None:
    precisions = ["f32", "f16"] if family in IN_HALF else ["f32"]
    if "with experts" in family:
        check(compared([export(family, tmp_path, **CHOOSE_ALL)], precisions, ["mixed"]), WITH_EXPERTS)
    else:
        check(compared([export(family, tmp_path)], precisions, ["mixed"]))


@pytest.mark.slow
def test_every_format_offered_for_a_gpu_is_right(emulated_gpu: dict[str, str], tmp_path: Path) -> None:
    names = [name for name in all_formats() if not is_distrusted("GPU", name)]
    changes = {**LAYER, "layer_types": ["full_attention"]}
    folders = [export("granitemoehybrid", tmp_path / name, name, **changes) for name in names]
    check(compared(folders, ["f32"], ["chunks"]), IN_FORMATS)


@pytest.mark.slow
@pytest.mark.parametrize("family", IN_HALF)
def test_inputs_of_scaled_columns_are_divided(
    family: str, emulated_gpu: dict[str, str], tmp_path: Path
) -> None:
    folder = export(family, tmp_path, "int8_sym", scaled=True)
    check(compared([folder], ["f32"], ["whole", "mixed"]), IN_FORMATS)
    check(compared([folder], ["f16"], ["whole", "mixed"]))


def test_two_bit_embeddings_are_wrong_and_not_offered(emulated_gpu: dict[str, str], tmp_path: Path) -> None:
    """Once a plugin is right here, the rule in `plan.device_limits` can go."""
    folder = export("mamba", tmp_path / "fp16", **LAYER)
    graph = ov.Core().read_model(folder / "openvino_model.xml")
    compress(graph, {"backbone.embeddings.weight": "int2_sym_g32"}, Cancel())
    ov.save_model(graph, tmp_path / "int2" / "openvino_model.xml", compress_to_fp16=False)
    (tmp_path / "int2" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (found,) = compared([tmp_path / "int2"], ["f32"], ["whole"])
    assert found.first_wrong == 0
    assert is_distrusted("GPU.0", "int2_sym_g32")


# What a person is told
# -----------------------------------------------------------------------------------------------------------

ASK = """
import json, sys
from pathlib import Path
from kl_lens_desktop.bench.answers import check_answers
from kl_lens_desktop.process.cancel import Cancel

for folder in sys.argv[1:]:
    *_, finished = check_answers(Path(folder), Cancel())
    (found,) = finished.result["devices"]
    print(json.dumps(found), flush=True)
"""


GENERATE = """
import json, sys
import numpy as np, openvino, openvino_genai
from kl_lens_desktop.export.calls import FULL_PRECISION

folder = sys.argv[1]
with open(folder + "/kl_lens_reference.json", encoding="utf-8") as file:
    ids = np.array([json.load(file)["ids"][:150]])
prompt = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))

def answer(device, properties):
    pipeline = openvino_genai.LLMPipeline(folder, device, **properties)
    return pipeline.generate(prompt, max_new_tokens=32, ignore_eos=True, do_sample=False).tokens[0]

said = answer("CPU", FULL_PRECISION)
whole = np.concatenate([ids, [said]], 1)
compiled = openvino.Core().compile_model(folder + "/openvino_model.xml", "CPU", FULL_PRECISION)
logits = compiled({
    "input_ids": whole, "attention_mask": np.ones_like(whole),
    "position_ids": np.arange(whole.size)[None], "beam_idx": np.zeros(1, np.int32),
})["logits"][0, ids.size - 1 : -1]
print(json.dumps({
    "cpu": said,
    "gpu": answer("GPU", {}),
    "gpu_f32": answer("GPU", {"INFERENCE_PRECISION_HINT": "f32"}),
    "logits": (logits / logits.std()).tolist(),
}))
"""


def asked(folders: Sequence[Path], environment: dict[str, str]) -> list[dict]:
    """What `check_answers` finds on the one GPU there is."""
    command = [sys.executable, "-c", ASK, *map(str, folders)]
    child = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()]


@pytest.mark.slow
def test_an_export_is_checked_on_the_gpu_at_once_and_generates_as_on_the_cpu(
    emulated_gpu: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "kl_lens_desktop", "export", "sample", "--format", "int4_sym_g64"]
    child = subprocess.run(
        [*command, "--out", str(tmp_path / "ir")], env=emulated_gpu, cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert "GPU (Intel(R) Arc(TM) 140V GPU (16GB) (iGPU)) answers like the CPU, within 0." in child.stderr
    proof = json.loads((tmp_path / "ir" / "kl_lens.json").read_text(encoding="utf-8"))["proof"]
    assert [device["status"] for device in proof["devices"]] == ["ok"]
    assert proof["cpu_f32_against_torch"] < 1e-3
    assert proof["devices"][0]["fidelity"]["relative_difference"] < 0.005
    child = subprocess.run(
        [sys.executable, "-c", GENERATE, str(tmp_path / "ir")],
        env=emulated_gpu, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    said = json.loads(child.stdout.splitlines()[-1])
    assert len(said["cpu"]) == 32
    assert said["gpu_f32"] == said["cpu"]
    # Where two tokens are all but alike, float16 may choose the other, and what follows then differs.
    parted = [place for place, (a, b) in enumerate(zip(said["cpu"], said["gpu"], strict=True)) if a != b]
    if parted:
        logits, ours, theirs = (said[name][parted[0]] for name in ("logits", "cpu", "gpu"))
        assert abs(logits[ours] - logits[theirs]) < TOLERANCE["f16"] / 10, (parted[0], ours, theirs)


@pytest.mark.slow
def test_the_gate_finds_each_fault_that_the_plugin_has_shown(
    sample: LocalModel, emulated_gpu: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs in the forms that went wrong, all right on the CPU."""
    mamba = LocalModel("mamba", build_folder("mamba", tmp_path / "mamba"))
    product, shares, embedding = (tmp_path / name for name in ("product", "shares", "embedding"))
    list(export_model(sample, "int8_sym", product, Cancel()))
    with_products_of_five_dimensions(product / "openvino_model.xml")
    list(export_model(mamba, "int2_sym_g32", embedding, Cancel()))
    with monkeypatch.context() as patched:
        patched.setattr(branch, "_whole", lambda source: source)
        list(export_model(mamba, "fp16", shares, Cancel()))
    for found in asked([product, shares, embedding], emulated_gpu):
        assert found["status"].startswith("wrong answers (its logits against CPU f32: "), found
        assert found["fidelity"]["torch_difference"] < 1e-3


def with_products_of_five_dimensions(path: Path) -> None:
    """Let a factor and a sum stand right behind the products that the chunk scan keeps apart from them."""
    graph = ov.Core().read_model(path)
    scaled = [op for body in bodies(graph) for op in body.get_ordered_ops() if is_scaled(op)]
    assert scaled
    for op in scaled:
        product, factor = (value.get_node().input_value(0) for value in op.input_values())
        total = reader(op)
        other = next(value.get_node() for value in total.input_values() if value.get_node() != op)
        wide = ops.multiply(product, ops.unsqueeze(factor, ops.constant(-2)))
        reader(total).output(0).replace(ops.add(wide, other.input_value(0)).output(0))
    ov.save_model(graph, path.with_name("changed.xml"), compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        path.with_name(f"changed{suffix}").replace(path.with_suffix(suffix))


def reader(op: ov.Node) -> ov.Node:
    (target,) = op.output(0).get_target_inputs()
    return target.get_node()


def bodies(graph: ov.Model) -> Iterator[ov.Model]:
    """The branches of a graph that are taken for several tokens, inner ones too."""
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "If":
            yield op.get_function(0)
            yield from bodies(op.get_function(0))


def is_scaled(op: ov.Node) -> bool:
    """Whether it is a product of five dimensions, made one of four, times a factor made one of four."""
    if op.get_type_name() != "Multiply" or len(op.get_output_partial_shape(0)) != 4:
        return False
    sides = [value.get_node() for value in op.input_values()]
    if [side.get_type_name() for side in sides] != ["Reshape", "Reshape"]:
        return False
    return sides[0].input_value(0).get_node().get_type_name() == "MatMul"
