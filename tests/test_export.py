"""The exported folder is the model: the same logits and greedy tokens, every constant as the plan says."""

import copy
import functools
import hashlib
import json
import math
import re
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
import pytest
import torch
from huggingface_hub import ModelCard
from openvino import opset13 as ops
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3_5Config
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForConditionalGeneration

from kl_lens_desktop.bench.genai import open_pipeline
from kl_lens_desktop.bench.stateful_model import StatefulModel, bytes_per_token
from kl_lens_desktop.bench.static_model import StaticModel
from kl_lens_desktop.errors import ExportError, InputError, ModelError
from kl_lens_desktop.export import bundle, mapped_file, streamed
from kl_lens_desktop.export.bundle import export_model
from kl_lens_desktop.export.compress import audit, base_name, compress, fill, to_fp16, weight_constants
from kl_lens_desktop.export.in_pieces import InPieces
from kl_lens_desktop.export.mapped_file import MappedFile
from kl_lens_desktop.export.proof import pieces
from kl_lens_desktop.export.stateful import begin, make_stateful
from kl_lens_desktop.export.static import free_of_beams, read_shared, static_variant
from kl_lens_desktop.export.streamed import HollowWeights, weights_of
from kl_lens_desktop.export.trace import INPUT_NAMES, all_ops, trace
from kl_lens_desktop.exported import damage
from kl_lens_desktop.exporting import ExportAllJob, ExportJob
from kl_lens_desktop.families import family_of
from kl_lens_desktop.files import CARD, read_json
from kl_lens_desktop.hub.resolve import LocalModel, resolve_model
from kl_lens_desktop.model.checkpoint import weight_files, weights_sha256
from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable, weight_parameters
from kl_lens_desktop.plan.document import Plan, load_plan, save_plan
from kl_lens_desktop.plan.propose import predicted, propose, uniform_plan
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Exported, Finished, Progress
from kl_lens_desktop.quant.formats import all_formats, parse_format, stored_bytes
from kl_lens_desktop.quant.rounding import fake_quantize
from kl_lens_desktop.quant.roundings import changed_values
from kl_lens_desktop.sensitivity.scores import ModelIdentity, Scores
from tests.benchmarks.bench_memory import measured
from tests.models import CONFIGURATIONS, PLAIN, VARIATIONS, build, build_bf16_folder, build_folder, saved
from tests.rounded import round_to_fp16, scaled_roundings

# What each kernel leaves in a graph of fixed shapes.
_LOOPS = {
    "selective_scan": "TensorIterator",
    "linear_recurrence": "TensorIterator",
    "channel_delta_rule": "TensorIterator",
    "gated_delta_rule": "Loop",
}
F32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


class Client:
    """A loop that feeds the four inputs, as any client of the folder does."""

    def __init__(self, graph: ov.Model | ov.CompiledModel) -> None:
        if isinstance(graph, ov.Model):
            graph = ov.Core().compile_model(graph, "CPU", F32)
        self._request = graph.create_infer_request()
        self.past = 0

    def reset(self) -> None:
        self._request.reset_state()
        self.past = 0

    def __call__(
        self,
        ids: np.ndarray,
        beams: list[int] | None = None,
        mask: np.ndarray | None = None,
        positions: np.ndarray | None = None,
    ) -> np.ndarray:
        rows, new = ids.shape
        if mask is None:
            mask = np.ones((rows, self.past + new), np.int64)
        if positions is None:
            positions = (mask.cumsum(1) - 1).clip(0)[:, -new:]
        feed = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "beam_idx": np.array(beams or range(rows), np.int32),
        }
        self.past += new
        return self._request.infer(feed)["logits"].copy()

    def pieces(self, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
        self.reset()
        ends = np.cumsum([0, *sizes])
        return np.concatenate([self(ids[:, a:b]) for a, b in pairwise(ends)], 1)


@functools.lru_cache(2)  # the tests of a family run one after the other
def traced(family: str) -> tuple[PreTrainedModel, ov.Model]:
    """A small model and its graph, of which tests change copies only."""
    model = build(family)
    graph, states = trace(model)
    make_stateful(graph, states)
    with torch.no_grad():
        begin(graph, states, model)
    return model, graph


@functools.lru_cache(1)
def compiled(family: str) -> ov.CompiledModel:
    return ov.Core().compile_model(traced(family)[1], "CPU", F32)


@pytest.mark.parametrize("family", [*CONFIGURATIONS, *VARIATIONS])
def test_logits_for_any_feeding(family: str) -> None:
    model, graph = traced(family)
    # More tokens than two chunks of Mamba-2's dual form hold.
    ids = torch.randint(1, 4000, (2, 150), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    assert [port.get_any_name() for port in graph.inputs if port.get_any_name() in INPUT_NAMES] == [
        port.get_any_name() for port in graph.inputs
    ]
    assert {port.get_any_name() for port in graph.inputs} == set(INPUT_NAMES)
    assert [port.get_any_name() for port in graph.outputs] == ["logits"]
    compiled.cache_clear()  # no call has come before
    client, ids, bound = Client(compiled(family)), ids.numpy(), 2e-3 * expected.std()
    # In a call with more tokens than any before, the CPU plugin has been seen to lose what a branch gave.
    for sizes in ([1, 8], [9, 1, 30], [1, 89]):
        logits = client.pieces(ids[:1], sizes)
        assert np.abs(logits - expected[:1, : sum(sizes)]).max() < bound, sizes
    for sizes in ([150], [7, 13, 1, 1, 128], [1] * 40, [65, 64]):
        logits = client.pieces(ids, sizes)
        assert np.abs(logits - expected[:, : sum(sizes)]).max() < bound, sizes
    # Beams change places in the middle: what follows must follow the other row's past.
    for sizes in ([20, 60], [20, 1]):
        client.reset()
        client(ids[:, :20])
        swapped = client(ids[::-1, 20 : sum(sizes)].copy(), [1, 0])
        assert np.abs(swapped - expected[::-1, 20 : sum(sizes)]).max() < bound, sizes
    # Both rows go on from the first one's past, as beams do when one of them dies.
    client.reset()
    client(ids[:, :20])
    followed = client(np.repeat(ids[:1, 20:21], 2, 0), [0, 0])
    assert np.abs(followed - expected[:1, 20:21]).max() < bound


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_padding_is_as_if_it_were_not_there(family: str) -> None:
    model = traced(family)[0]
    ids = torch.randint(1, 4000, (3, 80), generator=torch.Generator().manual_seed(3))
    own = [70, 41, 2]  # tokens of each row's prompt, before which it is padded
    with torch.no_grad():
        expected = [model(ids[row : row + 1, 70 - own[row] :]).logits[0].numpy() for row in range(3)]
    mask = np.array([[0] * (70 - n) + [1] * (n + 10) for n in own])
    client, bound = Client(compiled(family)), 2e-3 * expected[0].std()
    for sizes in ([70, *[1] * 10], [30, 39, 1, 10], [60, 10, 10]):
        client.reset()
        ends = np.cumsum([0, *sizes])
        logits = [client(ids[:, a:b].numpy(), mask=mask[:, :b]) for a, b in pairwise(ends)]
        for row, alone in enumerate(expected):
            difference = np.concatenate(logits, 1)[row, 70 - own[row] :] - alone
            assert np.abs(difference).max() < bound, (sizes, row)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[MappedFile]:
    opened = MappedFile(tmp_path / "constants")
    yield opened
    opened.close()


def constants(graph: ov.Model) -> list[tuple[str, ...]]:
    """Operations of a graph in order, with the values of those that are constants."""
    return [
        (
            op.get_type_name(),
            str([output.get_partial_shape() for output in op.outputs()]),
            str(op.get_element_type()) if op.get_type_name() == "Constant" else "",
            hashlib.sha256(op.data.tobytes()).hexdigest() if op.get_type_name() == "Constant" else "",
        )
        for op in graph.get_ordered_ops()
    ]


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_a_graph_traced_without_weights_and_given_them_is_the_one_traced_with_them(
    family: str, file: MappedFile
) -> None:
    model, expected = traced(family)[0], traced(family)[1].clone()
    held = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    graph, states = trace(model, hollow=True)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == held
    make_stateful(graph, states)
    with torch.no_grad():
        begin(graph, states, model)
    for each in (graph, expected):
        to_fp16(each)
    weights = HollowWeights(weights_of(model), file)
    assert not any(weight_constants(graph)[name].data.any() for name in weights.tensors)
    fill(graph, weights, weights.tensors, Cancel())
    assert constants(graph) == constants(expected)


def test_weights_rounded_piece_by_piece_are_those_rounded_whole(
    file: MappedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "_PIECE", 2**14)
    monkeypatch.setattr(mapped_file, "_SEGMENT", 2**17)
    model, whole = traced("granitemoehybrid with experts")
    graph, states = trace(model, hollow=True)
    make_stateful(graph, states)
    weights, formats = HollowWeights(weights_of(model), file), all_formats()
    several = {name for name in weights.tensors if len(list(weights.pieces(name, Cancel()))) > 1}
    assert {"expert" in name for name in several} == {"expert" in name for name in weights.tensors}
    whole = whole.clone()
    for each in (graph, whole):
        to_fp16(each)
    for start in range(0, len(formats), 4):  # every format meets a matrix of several pieces
        assignments = {name: formats[(start + i) % len(formats)] for i, name in enumerate(sorted(several))}
        ours, expected = graph.clone(), whole.clone()
        compress(ours, assignments, Cancel(), weights)
        compress(expected, assignments, Cancel())
        assert constants(ours) == constants(expected), assignments


def test_numbers_that_fp16_does_not_have_are_as_openvino_rounds_them(file: MappedFile) -> None:
    spread = np.random.default_rng(0).uniform(-12, 3, (64, 64))
    weight = (10.0**spread * np.random.default_rng(1).choice([-1, 1], (64, 64))).astype(np.float32)
    weight[0, :4] = [np.inf, -np.inf, np.nan, 65519.9]  # what is finite and beyond FP16 is refused
    tokens = ops.parameter([1, 64], np.float32)
    graph = ov.Model([ops.matmul(tokens, ops.constant(weight), False, True)], [tokens])
    to_fp16(graph)
    (expected,) = (op.data for op in graph.get_ops() if op.get_type_name() == "Constant")
    ours = HollowWeights({"it": torch.from_numpy(weight)}, file).constant("it", Cancel()).data
    assert np.array_equal(ours.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_a_graph_that_runs_in_pieces_answers_as_the_model(family: str) -> None:
    model, graph = traced(family)[0], traced(family)[1].clone()
    ids = torch.randint(1, 4000, (1, 90), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    # Twice: a prompt begins where none came before, whatever the one before it has left.
    calls = 2 * list(pieces(ids[0].tolist(), (40, 1, 1, 40, 1, 7)))
    most = max(parameter.numel() for parameter in model.parameters()) // 8
    in_pieces = InPieces(graph, calls, most)
    for piece in in_pieces.graphs:
        shapes = [op.get_output_shape(0) for op in piece.get_ops() if op.get_type_name() == "Constant"]
        weights = [count for count in map(math.prod, shapes) if count > 1024]
        assert sum(weights) <= most or len(weights) == 1
    logits = np.concatenate(list(in_pieces.answers(Cancel())))
    assert np.abs(logits - np.concatenate([expected, expected])).max() < 2e-3 * expected.std()


@pytest.mark.parametrize("family", PLAIN)
def test_compressed_logits_are_those_of_rounded_weights(family: str) -> None:
    """Of every second one, the columns are scaled by powers of two before."""
    model, graph = copy.deepcopy(traced(family)[0]), traced(family)[1].clone()
    names = [weight.name for weight in quantizable(inventory(model))]
    formats = all_formats()
    assignments = {name: formats[5 * i % len(formats)] for i, name in enumerate(names)}
    to_fp16(graph)
    round_to_fp16(model)
    parameters = weight_parameters(model)
    roundings = scaled_roundings(model, dict(list(assignments.items())[::2]))
    compress(graph, assignments, Cancel(), roundings=roundings)
    assert audit(graph, assignments).checked == len(names)
    ids = torch.randint(1, 4000, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for name, chosen in assignments.items():
            parameters[name].copy_(changed_values(parameters[name], roundings.change(name, chosen)))
        expected = model(ids).logits.numpy()
    # What no format applies to is FP16 in the graph, rounded before or after a matrix was made from it.
    off = np.abs(Client(graph).pieces(ids.numpy(), [30, 1, 9]) - expected).max(-1).ravel() / expected.std()
    # For one token of the eighty a router may choose between two experts that score all but alike.
    assert np.sort(off)[-2 if "with experts" in family else -1] < 5e-3


@pytest.mark.parametrize("family", PLAIN)
def test_far_positions_are_exact_in_fp16(family: str) -> None:
    model, graph = copy.deepcopy(traced(family)[0]), traced(family)[1].clone()
    to_fp16(graph)
    round_to_fp16(model)
    ids = torch.randint(1, 4000, (1, 24), generator=torch.Generator().manual_seed(4))
    places = torch.cat([torch.arange(12), torch.arange(30_000, 30_012)])[None]
    options = {} if not family_of(model.config.model_type).attends else {"position_ids": places}
    with torch.no_grad():
        expected = model(ids, **options).logits.numpy()
    logits = Client(graph)(ids.numpy(), positions=places.numpy())
    assert np.abs(logits - expected).max() < 2e-3 * expected.std()


@pytest.mark.parametrize("family", ["mamba", "phi4flash"])
def test_decay_rates_stay_in_float32_inside_loops_too(family: str) -> None:
    model, graph = traced(family)[0], traced(family)[1].clone()
    to_fp16(graph)
    parameters = {name: p.numpy(force=True) for name, p in model.named_parameters()}
    rates = {name: np.exp(value) for name, value in parameters.items() if name.endswith("A_log")}
    constants = [op for op in all_ops(graph) if op.get_type_name() == "Constant"]
    for name, rate in rates.items():
        alike = [op.data for op in constants if op.data.size == rate.size and op.data.dtype.kind == "f"]
        signless = [np.abs(each).reshape(rate.shape) for each in alike]
        held = [each for each in signless if np.allclose(each, rate, rtol=1e-2)]
        assert len(held) == 2, name  # for the last token and in the loop for those before it
        assert all(np.allclose(each, rate, rtol=1e-6) for each in held), name


@pytest.mark.parametrize("family", [*CONFIGURATIONS, *VARIATIONS])
def test_a_prompt_passes_the_head_with_its_last_token_only(family: str) -> None:
    """Where `find_llm_matmul` of openvino_genai looks for the head: last, or before a soft cap."""
    node = traced(family)[1].output("logits").get_node().input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        for kind in ("Multiply", "Tanh", "Divide"):
            assert node.get_type_name() == kind
            node = node.input_value(0).get_node()
    assert node.get_type_name() == "MatMul"
    assert len(node.input_value(0).get_partial_shape()) == 3


@pytest.mark.parametrize("family", PLAIN)
def test_graphs_of_fixed_shapes(family: str) -> None:
    model = build(family)
    ids = torch.randint(1, 4000, (1, 50), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    graph, states = trace(model, fixed=True)
    make_stateful(graph, states)
    free_of_beams(graph)
    for tokens in (1, 16):
        static = static_variant(graph, tokens, 50)
        outputs = [output for op in static.get_ops() for output in op.outputs()]
        assert not any(output.get_partial_shape().is_dynamic for output in outputs)
        kinds = {op.get_type_name() for op in static.get_ops()}
        assert not kinds & {"If", "ReadValue", "Assign"}
        kernels = family_of(model.config.model_type).kernels
        loops = {_LOOPS[kernel] for kernel in kernels if kernel in _LOOPS}
        assert kinds & {"TensorIterator", "Loop"} == loops
    # Two whole chunks, one of 8 tokens after as much padding, single tokens; then once more from the start.
    client = StaticModel(graph, "CPU", F32, 16, 50)
    for _ in range(2):
        logits = np.concatenate([part.copy() for part in client.logits(ids[0].tolist(), 10)])
        assert np.abs(logits - expected).max() < 2e-3 * expected.std()


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, dict[str, int]]:
    """A folder most of whose bytes are experts, of formats that the CPU multiplies as they are stored; its
    plan, and the bytes of each weight."""
    folder = tmp_path_factory.mktemp("experts")
    sizes = {"hidden_size": 256, "moe_intermediate_size": 128, "num_experts": 16}
    local = LocalModel("experts", build_folder("qwen3_next with experts", folder / "model", **sizes))
    model = AutoModelForCausalLM.from_pretrained(local.folder)
    weights = inventory(model)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(weight_files(local.folder)))
    kept = kept_bytes(model, weights)
    plan = uniform_plan(identity, [weight.as_dict() for weight in weights], kept, "int4_sym_g64")
    stored = ["int4_sym_g64", "int8_asym", "int4_asym_g32", "int8_sym", "int4_sym_pc"]
    stacks = [weight.name for weight in weights if ".experts." in weight.name]
    plan.assignments.update({name: stored[i % 5] for i, name in enumerate(stacks)})
    taken = {
        w.name: stored_bytes(w.shape, parse_format(plan.assignments[w.name])) for w in quantizable(weights)
    }
    plan = replace(plan, predicted={**plan.predicted, "bytes": kept + sum(taken.values())})
    list(export_model(local, plan, folder / "ir", Cancel()))
    return folder / "ir", plan, taken


def test_experts_take_the_bytes_of_their_formats(experts: tuple[Path, Plan, dict[str, int]]) -> None:
    folder, plan, _ = experts
    assert plan.predicted["bytes"] == pytest.approx((folder / "openvino_model.bin").stat().st_size, rel=1e-3)


def test_only_chosen_experts_are_read_and_as_they_are_stored(
    experts: tuple[Path, Plan, dict[str, int]],
) -> None:
    folder, plan, taken = experts
    graph = ov.Core().read_model(folder / "openvino_model.xml")
    products = [
        node.input(1).get_element_type().get_type_name()
        for node in ov.Core().compile_model(graph, "CPU", F32).get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"] == "GatherMatmul"
    ]
    stored = {"int4_sym": "i4", "int4_asym": "u4", "int8_sym": "i8", "int8_asym": "u8"}
    stacks = [name for name in taken if ".experts." in name]
    assert sorted(products) == sorted(stored[base_name(parse_format(plan.assignments[n]))] for n in stacks)
    unread = taken["model.embed_tokens.weight"] + sum(taken[name] for name in stacks) * (1 - 2 / 16)
    assert bytes_per_token(graph) == pytest.approx(plan.predicted["bytes"] - unread, rel=0.01)


def test_an_export_takes_the_memory_that_is_said_of_it(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "shared_intermediate_size": 2048, "mamba_n_heads": 16, "mamba_d_head": 64}
    folder = build_bf16_folder("granitemoehybrid", tmp_path / "model", **sizes)
    found = measured(folder, "export-fp16", Namespace(seconds=600, in_memory=False, limit_mb=None))
    assert (folder / "fp16" / CARD).is_file()
    assert found["private_mb"] < found["fit_mb"] < 2 * found["private_mb"]


def test_transformers_is_as_it_was_after_an_export() -> None:
    from transformers.cache_utils import LinearAttentionLayer

    model = build("granitemoehybrid")
    module = sys.modules[type(model).__module__]
    before = (
        module.mamba2_chunk_scan,
        LinearAttentionLayer.update_conv_state,
        LinearAttentionLayer.update_recurrent_state,
    )
    trace(model)
    model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace(model)
    after = (
        module.mamba2_chunk_scan,
        LinearAttentionLayer.update_conv_state,
        LinearAttentionLayer.update_recurrent_state,
    )
    assert after == before


@pytest.fixture(scope="module")
def motley(
    sample: LocalModel, sample_scores: Scores, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Plan]:
    """The sample under a plan that uses every format there is."""
    names = [weight["name"] for weight in sample_scores.weights if weight["kind"] != "conv"]
    formats = all_formats()
    assignments = {name: formats[i % len(formats)] for i, name in enumerate(names)}
    plan = Plan(sample_scores.model, assignments, None, "kl", predicted(sample_scores, assignments))
    folder = tmp_path_factory.mktemp("motley") / "ir"
    result = list(export_model(sample, plan, folder, Cancel()))[-1]
    assert isinstance(result, Finished)
    assert set(result.result["audit"]["formats"]) == set(formats)
    return folder, plan


_CONSUMERS = ("MatMul", "Gather")


def _seen_by(consumer: str, output: ov.Output, shape: tuple[int, int]) -> np.ndarray:
    """The weight that the plugin computes with: its product with an identity, or every row looked up."""
    rows, channels = shape
    if consumer == "MatMul":
        x = ops.parameter([-1, channels], np.float32)
        model, feed = ov.Model([ops.matmul(x, output, False, True)], [x]), np.eye(channels, dtype=np.float32)
        return ov.Core().compile_model(model, "CPU", F32)(feed)[0].T
    ids = ops.parameter([-1], np.int64)
    model = ov.Model([ops.gather(output, ids, ops.constant(np.int64(0)))], [ids])
    return ov.Core().compile_model(model, "CPU", F32)(np.arange(rows))[0]


def test_constants_dequantize_to_what_was_simulated(sample: LocalModel, motley: tuple[Path, Plan]) -> None:
    folder, plan = motley
    graph = ov.Core().read_model(folder / "openvino_model.xml")
    model = AutoModelForCausalLM.from_pretrained(sample.folder, dtype=torch.float32)
    parameters = dict(model.named_parameters())
    for weight, constant in weight_constants(graph).items():
        if weight not in plan.assignments:
            continue
        output = constant.output(0)
        # Down the decompression, to where the weight meets the activations.
        while (node := next(iter(output.get_target_inputs())).get_node()).get_type_name() not in _CONSUMERS:
            output = node.output(0)
        values = _seen_by(node.get_type_name(), output, parameters[weight].shape)
        ours = fake_quantize(parameters[weight], parse_format(plan.assignments[weight])).numpy()
        assert np.array_equal(values, ours), (weight, plan.assignments[weight])


def test_predicted_bytes_are_the_files(motley: tuple[Path, Plan], sample_scores: Scores) -> None:
    folder, plan = motley
    size = (folder / "openvino_model.bin").stat().st_size
    assert plan.predicted["bytes"] == pytest.approx(size, rel=1e-3)


def test_the_audit_finds_a_wrong_type(sample_ir: dict[str, Path]) -> None:
    graph = ov.Core().read_model(sample_ir["int4"] / "openvino_model.xml")
    planned = load_plan(sample_ir["int4"] / "plan.json").assignments
    assert audit(graph, planned).checked == 37
    weight = "model.layers.5.mamba.in_proj.weight"
    for wrong in ("int8_sym", "fp16", "int4_asym_g64", "int4_sym_g32", "int4_sym_pc"):
        with pytest.raises(ExportError, match=re.escape(weight)):
            audit(graph, {**planned, weight: wrong})


def test_perplexity_of_the_fp16_folder_is_torchs(sample: LocalModel, sample_ir: dict[str, Path]) -> None:
    from kl_lens_desktop.text.bundled import held_out_text

    tokenizer = AutoTokenizer.from_pretrained(sample.folder)
    text = held_out_text().read_bytes().decode("utf-8")
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][:2048]).view(-1, 256)
    model = AutoModelForCausalLM.from_pretrained(sample.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(ids).logits
    client = Client(ov.Core().read_model(sample_ir["fp16"] / "openvino_model.xml"))
    logits = torch.from_numpy(np.concatenate([client.pieces(row[None], [100, 156]) for row in ids.numpy()]))
    ours, theirs = (
        torch.nn.functional.cross_entropy(z[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).exp().item()
        for z in (logits, expected)
    )
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_llm_pipeline_generates_what_transformers_does(
    sample: LocalModel, sample_ir: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sample.folder)
    model = AutoModelForCausalLM.from_pretrained(sample.folder, dtype=torch.float32).eval()
    pipeline = genai.LLMPipeline(str(sample_ir["fp16"]), "CPU", **F32)
    for prompt in ("It was a dark night", "The captain said that", "She opened the letter and"):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=64, min_new_tokens=64, do_sample=False)
        expected = out[0, ids.shape[1] :].tolist()
        encoded = genai.TokenizedInputs(ov.Tensor(ids.numpy()), ov.Tensor(np.ones_like(ids.numpy())))
        result = pipeline.generate(encoded, max_new_tokens=64, ignore_eos=True, do_sample=False)
        assert result.tokens[0] == expected


@pytest.mark.parametrize("family", ["mamba", "mamba2", "lfm2", "qwen3_next", "phi4flash"])
def test_llm_pipeline_takes_prompts_of_unequal_length(family: str, tmp_path: Path) -> None:
    local = LocalModel(family, build_folder(family, tmp_path / "source"))
    list(export_model(local, "fp16", tmp_path / "ir", Cancel()))
    pipeline = genai.LLMPipeline(str(tmp_path / "ir"), "CPU", **F32)
    ids = np.random.default_rng(5).integers(1, 4000, (2, 30))
    mask = np.array([[1] * 30, [0] * 11 + [1] * 19])

    def generated(ids: np.ndarray, mask: np.ndarray) -> list[list[int]]:
        inputs = genai.TokenizedInputs(ov.Tensor(ids.copy()), ov.Tensor(mask.copy()))
        return pipeline.generate(inputs, max_new_tokens=12, ignore_eos=True, do_sample=False).tokens

    together = generated(ids, mask)
    assert together == generated(ids[:1], mask[:1]) + generated(ids[1:, 11:], mask[1:, 11:])


@pytest.mark.parametrize(
    ("family", "fmt"),
    [
        ("granitemoehybrid", "int4_sym_g64"),
        ("jamba with experts", "nf4_g64"),
        ("zamba2", "int8_asym"),
        ("lfm2", "int4_sym_g32"),
        ("olmo_hybrid", "int8_sym"),
        ("recurrent_gemma", "int4_sym_pc"),
        ("granite", "int4_sym_g64"),
        ("phi4flash", "int4_sym_g32"),
    ],
)
def test_llm_pipeline_for_an_npu(family: str, fmt: str, tmp_path: Path) -> None:
    """OpenVINO's NPU plugin prepares the graph, and the CPU stands in for the NPU."""
    local, out = LocalModel(family, build_folder(family, tmp_path / "source")), tmp_path / "ir"
    (local.folder / "generation_config.json").unlink()  # not every model has one, and the pipeline wants it
    list(export_model(local, fmt, out, Cancel(), npu=True))
    ids = np.random.default_rng(6).integers(1, 4000, (1, 40))
    inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
    settings = {"max_new_tokens": 12, "ignore_eos": True, "do_sample": False}
    expected = genai.LLMPipeline(str(out), "CPU", **F32).generate(inputs, **settings).tokens
    # The second chunk of the prompt is padded before its 8 tokens.
    small = {"MAX_PROMPT_LEN": 64, "NPUW_LLM_PREFILL_CHUNK_SIZE": "32", "MIN_RESPONSE_LEN": 12}
    stand_in = {"NPUW_DEVICES": "CPU", "INFERENCE_PRECISION_HINT": "f32"}
    pipeline, backend = open_pipeline(out, "NPU", **small, **stand_in)
    assert backend == "static"
    assert pipeline.generate(inputs, **settings).tokens == expected


def test_both_graphs_share_the_weights(
    sample: LocalModel, sample_ir: dict[str, Path], tmp_path: Path
) -> None:
    list(export_model(sample, "int4_sym_g64", tmp_path / "npu", Cancel(), npu=True))
    sizes = [
        (folder / "openvino_model.bin").stat().st_size for folder in (sample_ir["int4"], tmp_path / "npu")
    ]
    assert sizes[1] < 1.01 * sizes[0]
    graph = read_shared(ov.Core(), tmp_path / "npu")
    assert audit(graph, load_plan(tmp_path / "npu" / "plan.json").assignments).checked == 37
    ids = list(range(5, 45))
    models = [
        StaticModel(graph, "CPU", F32, 16, 40),
        StatefulModel(ov.Core(), sample_ir["int4"], "CPU", F32, 16),
    ]
    ours, theirs = (np.concatenate([part.copy() for part in model.logits(ids)]) for model in models)
    assert np.abs(ours - theirs).max() < 2e-3 * theirs.std()


def test_a_folder_without_a_graph_for_an_npu_says_so(sample_ir: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"without a graph for an NPU.*--npu"):
        open_pipeline(sample_ir["int4"], "NPU")


def test_the_folder_holds_what_clients_need(sample_ir: dict[str, Path]) -> None:
    names = {path.name for path in sample_ir["int4"].iterdir()}
    assert names >= {
        "openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_detokenizer.xml",
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "plan.json",
    }  # fmt: skip
    assert "model.safetensors" not in names
    assert (
        json.loads((sample_ir["int4"] / "kl_lens.json").read_text(encoding="utf-8"))["prefill_chunk"] == 256
    )


def test_the_folder_has_a_model_card_and_the_licence_of_the_model(
    short_sample: LocalModel, tmp_path: Path
) -> None:
    model = tmp_path / "mine"
    shutil.copytree(short_sample.folder, model)
    (model / "README.md").write_text("---\nlicense: mit\n---\nMine.", encoding="utf-8")
    (model / "LICENSE.txt").write_text("Do as you like.", encoding="utf-8")
    (tmp_path / "secret").write_text("not yours", encoding="utf-8")
    (model / "NOTICE").symlink_to(tmp_path / "secret")
    list(export_model(resolve_model(str(model)), "int8_sym", tmp_path / "out", Cancel()))
    card = ModelCard((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert (card.data.license, card.data.library_name) == ("mit", "openvino")
    assert "# mine for OpenVINO" in card.text
    assert (tmp_path / "out" / "LICENSE.txt").read_text(encoding="utf-8") == "Do as you like."
    assert not (tmp_path / "out" / "NOTICE").exists()
    about = read_json(tmp_path / "out" / CARD)
    assert set(about["files"]) == {path.name for path in (tmp_path / "out").iterdir()}
    assert damage(tmp_path / "out", hashes=True) == ""


def test_the_same_plan_gives_the_same_bytes_twice(
    sample: LocalModel, export_sample: Callable[[str], Path], tmp_path: Path
) -> None:
    list(export_model(sample, "int4_sym_g64", tmp_path / "again", Cancel()))
    first, second = (
        folder / "openvino_model.bin" for folder in (export_sample("int4_sym_g64"), tmp_path / "again")
    )
    assert first.read_bytes() == second.read_bytes()


def test_several_exports_of_a_model_trace_it_once_and_give_the_bytes_of_single_ones(
    short_sample: LocalModel, short_ir: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []

    def counted(model: PreTrainedModel, **how: bool) -> object:
        traced.append(how["fixed"])
        return trace(model, **how)

    monkeypatch.setattr(bundle, "trace", counted)
    formats = {"fp16": "fp16", "int4": "int4_sym_g64"}
    model = str(short_sample.folder)
    jobs = [ExportJob(model, tmp_path / name, format=fmt, npu=True) for name, fmt in formats.items()]
    *events, finished = ExportAllJob(tuple(jobs)).run(Cancel())
    assert traced == [False, True]
    assert isinstance(finished, Finished)
    told = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert told == sorted(told), "the bar of a job goes forward"
    assert [event.folder for event in events if isinstance(event, Exported)] == [str(job.out) for job in jobs]
    for job, alone in zip(jobs, short_ir.values(), strict=True):
        ours, single = (ov.Core().read_model(folder / "openvino_model.xml") for folder in (job.out, alone))
        constants, expected = weight_constants(ours), weight_constants(single)
        assert constants.keys() == expected.keys()
        assert all((constants[name].data == expected[name].data).all() for name in constants)
        proofs = [read_json(folder / CARD)["proof"] for folder in (job.out, alone)]
        assert proofs[0] == pytest.approx(proofs[1])


def test_a_plan_for_another_model_is_refused_before_any_work(sample_scores: Scores, tmp_path: Path) -> None:
    other = LocalModel("bamba", build_folder("bamba", tmp_path / "bamba"))
    plan = propose(sample_scores, bits=6)
    save_plan(tmp_path / "plan.json", plan)
    with pytest.raises(InputError, match=r"is for another model: .*such as model\.layers"):
        list(export_model(other, plan, tmp_path / "out", Cancel(), tmp_path / "plan.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bamba", "plan.json"], (
        "no half folder is left"
    )


def test_somebody_elses_folder_is_not_overwritten(sample: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="contains other files"):
        list(export_model(sample, "int8_sym", tmp_path, Cancel()))
    assert (tmp_path / "thesis.txt").exists()


def test_cancel_leaves_nothing(sample: LocalModel, tmp_path: Path) -> None:
    from kl_lens_desktop.errors import Cancelled

    cancel = Cancel()
    with pytest.raises(Cancelled):
        for event in export_model(sample, "int8_sym", tmp_path / "out", cancel):
            if "Compressing" in getattr(event, "message", ""):
                cancel.cancel()
    assert list(tmp_path.iterdir()) == []


def test_identity_of_a_folder_travels_with_it(sample_ir: dict[str, Path], sample_scores: Scores) -> None:
    assert load_plan(sample_ir["fp16"] / "plan.json").model == sample_scores.model
    assert isinstance(sample_scores.model, ModelIdentity)


def test_of_a_model_that_sees_the_text_part_is_exported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    config = Qwen3_5Config(
        text_config=build("qwen3_5_text").config.to_dict(),
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 64,
        },
    )
    torch.manual_seed(0)
    model = Qwen3_5ForConditionalGeneration(config).eval()
    saved(model, source)
    list(export_model(LocalModel("seeing", source), "fp16", tmp_path / "ir", Cancel()))
    ids = np.random.default_rng(7).integers(1, 4000, (1, 20))
    with torch.no_grad():
        expected = model.half().float()(input_ids=torch.tensor(ids)).logits.numpy()
    logits = Client(ov.Core().read_model(tmp_path / "ir" / "openvino_model.xml"))(ids)
    assert np.abs(logits - expected).max() < 2e-3 * expected.std()
    generated = genai.LLMPipeline(str(tmp_path / "ir"), "CPU", **F32).generate(
        genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), max_new_tokens=1, ignore_eos=True
    )
    assert generated.tokens[0] == [int(expected[0, -1].argmax())]
