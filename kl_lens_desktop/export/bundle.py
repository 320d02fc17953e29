"""The IR folder: graph, tokenizer models, the Hugging Face files, the plan, and cards saying what it is."""

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from openvino_tokenizers import convert_tokenizer
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from kl_lens_desktop import __version__
from kl_lens_desktop.disk_space import room_for
from kl_lens_desktop.errors import ExportError, InputError, in_words
from kl_lens_desktop.export import traced
from kl_lens_desktop.export.compress import Audit, audit, compress, fill, to_fp16
from kl_lens_desktop.export.in_pieces import elements
from kl_lens_desktop.export.mapped_file import MappedFile
from kl_lens_desktop.export.model_card import README, model_card
from kl_lens_desktop.export.paged import runs_paged
from kl_lens_desktop.export.proof import (
    LARGE,
    TorchAnswers,
    as_exported,
    difference_from,
    graph_answers,
    reference,
    save_reference,
)
from kl_lens_desktop.export.proof import TOKENS as PROMPT_TOKENS
from kl_lens_desktop.export.runtime_options import DYNAMIC_QUANTIZATION, KEPT_IN_FP16, set_options
from kl_lens_desktop.export.stateful import begin, make_stateful
from kl_lens_desktop.export.static import free_of_beams, read_shared, share_weights
from kl_lens_desktop.export.streamed import HollowWeights, weights_of
from kl_lens_desktop.export.trace import State, trace
from kl_lens_desktop.export.values import expected_sha256
from kl_lens_desktop.exported import contents
from kl_lens_desktop.families import FAMILIES, Family, family_of
from kl_lens_desktop.files import CARD, NPU_MODEL, WEIGHTS, atomic_folder, behind_links, write_json
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.checkpoint import weights_sha256
from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable
from kl_lens_desktop.model.load import LoadedModel, is_read_as, open_model, warnings
from kl_lens_desktop.plan.device_limits import is_distrusted
from kl_lens_desktop.plan.document import Plan, check_applies, load_plan, save_plan
from kl_lens_desktop.plan.integers import beside
from kl_lens_desktop.plan.propose import uniform_plan
from kl_lens_desktop.plan.roundings import plan_roundings
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.quant.activations import LARGEST, check_groups, largest_group
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.quant.roundings import Change, Roundings
from kl_lens_desktop.repository.model_files import (
    CONFIG,
    GENERATION,
    TOKENIZER,
    TOKENIZER_CONFIG,
    licence_files,
    model_files,
    parse_object,
    read_bytes,
    read_object,
    strict_json,
)
from kl_lens_desktop.repository.text_part import text_config
from kl_lens_desktop.sensitivity.scores import ModelIdentity
from kl_lens_desktop.temporary import partial_of
from kl_lens_desktop.text.bundled import CHARACTERS_PER_TOKEN, calibration_text, read_text

PREFILL_CHUNK = 256  # tokens that a runtime is advised to give in a call: more take memory in proportion
MOST_DIFFERENT = 0.01  # of the spread of the logits: a right graph is a thousand times nearer to the model

STAGE = "export"
_NPU = {
    "graph": NPU_MODEL,
    "weights": "openvino_model.bin, shared with the main graph",
    "made_for": "openvino_genai.LLMPipeline(graph, weights, tokenizer, 'NPU'), which gives the graph fixed "
    "shapes. One row at a time, without beam search.",
    "tried": "The fixed-shape graphs of every architecture on the CPU, and LLMPipeline with OpenVINO's NPU "
    "plugin running on the CPU (NPUW_DEVICES=CPU). Never a real NPU. The plugin does not accept INT4 with "
    "zero points, INT3, INT2, or these architectures: "
    f"{', '.join(family.model_type for family in FAMILIES.values() if family.npu)}.",
    "properties": "NPUW_ONLINE_PIPELINE=NONE, NPUW_DCOFF_SCALE=NO, NPUW_LLM_PREFILL_CHUNK_SIZE=256. For "
    "Mamba-1, add NPUW_LLM_SHARED_HEAD=NO.",
}
_PAGED = (
    "It runs on the paged backend, with OpenVINO's own kernels for the recurrent states: continuous "
    "batching, prefix cache, ContinuousBatchingPipeline with enable_prefix_caching (without it, OpenVINO "
    "2026.4 answers wrongly). It reads prompts faster with ATTENTION_BACKEND=SDPA. Not tried on a GPU."
)
_NOT_PAGED = (
    "It takes its SDPA backend: for the paged one, export the model for servers, if its architecture allows."
)


@dataclass(slots=True)
class Traced:
    """What several exports of one model share, made by the first that needs it.

    Attributes
    ----------
    graph, fixed : ov.Model or None
        Stateful, without its weights: as it ships, and in the form of which an NPU's graphs are made.
    states : list of State
        The variables of `graph`.
    against_torch : float or None
        How far `graph` is off the model: see `export.traced.difference`.
    """

    graph: ov.Model | None = None
    states: list[State] = field(default_factory=list)
    fixed: ov.Model | None = None
    against_torch: float | None = None


def export_model(
    local: LocalModel,
    plan: Plan | str,
    out: Path,
    cancel: Cancel,
    source: Path | None = None,
    npu: bool = False,
    paged: bool = False,
    shared: Traced | None = None,
    activation_group: int = 0,
) -> Iterator[Event]:
    """Write the IR folder of a plan, or of the uniform plan of a format.

    Parameters
    ----------
    plan : Plan or str
        A plan made for this model, or the name of a format.
    out : Path
        The folder to make; it appears when it is complete.
    source : Path, optional
        Where the plan was read from, for messages.
    npu : bool
        Write a second graph too, with the same weights, from which an NPU's graphs of fixed shapes are made.
    paged : bool
        Let OpenVINO's paged runtime take the graph: for servers, with continuous batching and a prefix cache.
    shared : Traced, optional
        What earlier exports of this model have made, and what later ones may use.
    activation_group : int
        In groups of so many, devices are to quantize activations by default: a size or
        `quant.activations.LARGEST`; 0 leaves it to them.

    Yields
    ------
    Progress, and last Finished with ``folder``, ``size_bytes`` (of the weights file), ``audit``, ``proof``
    (``tokens`` of a prompt; by how much the graph's logits on the CPU in f32 are off the model's in torch
    with the same rounded weights, before compression (None for a large model) and as written; and whether the
    graph ran ``in_pieces``: see `export.proof`) and ``seconds``.

    Raises
    ------
    InputError
        If the plan is for another model, or `out` cannot be written.
    ExportError
        If a weight did not come out as planned, or the graph does not answer as the model does.
    """
    started, shared, done = time.monotonic(), shared or Traced(), itertools.count()
    steps = 7 + 2 * (shared.graph is None) + npu

    def step(message: str) -> Progress:
        cancel.check()
        return Progress(STAGE, next(done), steps, message)

    with atomic_folder(out, CARD) as staging, contextlib.ExitStack() as stack:
        yield step("Opening the model")
        loaded = open_model(local.folder)
        plan = _applicable(plan, local, loaded, source or out)
        options, needed = _options(loaded, plan, activation_group), _bytes_needed(loaded, plan, npu)
        stack.enter_context(room_for("the exported model", needed, behind_links(out).parent))
        if activation_group == LARGEST:
            yield Note(_taken_group(options))
        npu = npu and (yield from _takes_npu(family_of(loaded.model.config.model_type)))
        yield from _warnings(plan, npu)
        yield from replacing(out, plan)
        yield from _frozen(loaded.model.config.get_text_config())
        plan = plan.without_strange_figures
        yield from warnings(loaded)
        roundings = yield from _roundings(loaded, plan, source or out.with_name("plan.json"), cancel)
        work = _Work(local, loaded, plan, roundings, out, staging, step, cancel)
        ids = _prompt(loaded)
        if shared.graph is None:
            yield from _trace(work, shared, ids, paged)
        yield step("Running the original model")
        said = reference(loaded.model, ids, work.changes, cancel)
        yield from _write_graph(work, shared, options)
        if npu:
            yield from _write_fixed_graph(work, shared)
        yield step("Converting the tokenizer")
        write_small_files(local.folder, loaded.model.generation_config, staging)
        write_tokenizer(loaded.tokenizer, staging)
        save_plan(staging / "plan.json", plan)
        expected = expected_sha256(work.tensors, work.changes, cancel)
        checked, proven = yield from _verified(staging, plan, said, expected, step, cancel)
        proven["fp16_against_torch"] = shared.against_torch
        if paged and not proven["runs_paged"]:
            yield Note("OpenVINO's paged backend has no kernels for this architecture.", "warning")
        _write_card(staging, local, plan, asdict(checked), proven, options)
        cancel.check()
    yield Progress(STAGE, steps, steps, "Exported")
    yield Finished(
        {
            "folder": str(out),
            "size_bytes": (out / WEIGHTS).stat().st_size,
            "audit": {"checked": checked.checked, "formats": checked.formats},
            "proof": proven,
            "seconds": time.monotonic() - started,
        }
    )


def _takes_npu(family: Family) -> Generator[Event, None, bool]:
    """Whether a graph of fixed shapes can be made of the model."""
    if family.begins:
        yield Note(f"No graph for an NPU is written: {family.npu}.", "warning")
    return not family.begins


@dataclass(frozen=True, eq=False)
class _Work:
    """An export under way: of what, and into which folder."""

    local: LocalModel
    loaded: LoadedModel
    plan: Plan
    roundings: Roundings
    out: Path
    staging: Path
    step: Callable[[str], Progress]
    cancel: Cancel

    @functools.cached_property
    def changes(self) -> dict[str, Change]:
        return self.roundings.changes(self.plan.assignments)

    @functools.cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        return weights_of(self.loaded.model)


def _trace(work: _Work, shared: Traced, ids: list[int], paged: bool) -> Iterator[Progress]:
    """Trace the model for this and later exports, and compare the graph with it."""
    yield work.step("Tracing the graph")
    shared.graph, shared.states = stateful_graph(work.loaded.model, paged=paged)
    if paged and not runs_paged(shared.graph):  # a part of it would, and answer wrongly
        shared.graph, shared.states = stateful_graph(work.loaded.model)
    yield work.step("Comparing the graph with the model")
    with _scratch(work.out) as file:
        weights = HollowWeights(work.tensors, file)
        shared.against_torch = _compared(shared, work.loaded.model, ids, weights, work.cancel)


def _write_graph(work: _Work, shared: Traced, options: dict[str, str]) -> Iterator[Progress]:
    assert shared.graph is not None
    with _scratch(work.out) as file:
        yield work.step("Compressing the weights")
        graph = shared.graph.clone()
        compress(graph, work.plan.assignments, work.cancel, HollowWeights(work.tensors, file), work.roundings)
        _begin(graph, shared.states, work.loaded.model, work.changes, work.cancel)
        yield work.step("Writing the model")
        set_options(graph, options)
        _save(graph, work.staging / "openvino_model.xml", work.local, work.plan)
        del graph  # before the file is closed, which its constants lie in


def _write_fixed_graph(work: _Work, shared: Traced) -> Iterator[Progress]:
    yield work.step("Writing the graph for an NPU")
    if shared.fixed is None:
        shared.fixed, _ = stateful_graph(work.loaded.model, fixed=True)
    with _scratch(work.out) as file:
        weights = HollowWeights(work.tensors, file)
        _write_npu_graph(
            work.local, work.plan, work.staging, work.cancel, shared.fixed, weights, work.roundings
        )


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[MappedFile]:
    """A file for constants beside the folder to make: there, disk space is promised."""
    with partial_of(behind_links(out)) as path:
        file = MappedFile(path)
        try:
            yield file
        finally:
            file.close()


def stateful_graph(
    model: PreTrainedModel, fixed: bool = False, paged: bool = False
) -> tuple[ov.Model, list[State]]:
    """The stateful graph of a model, without its weights; and its variables."""
    graph, states = trace(model, fixed=fixed, hollow=True, paged=paged)
    make_stateful(graph, states)
    if fixed:
        free_of_beams(graph)
    # Before NNCF: the writer's own FP16 conversion leaves a graph alone that has decompression in it already.
    to_fp16(graph)
    return graph, states


def _begin(
    graph: ov.Model,
    states: list[State],
    model: PreTrainedModel,
    changes: Mapping[str, Change],
    cancel: Cancel,
) -> None:
    """`stateful.begin` with these weights."""
    if family_of(model.config.model_type).begins:
        with as_exported(model, changes, cancel):
            begin(graph, states, model)


def _save(graph: ov.Model, path: Path, local: LocalModel, plan: Plan) -> None:
    _describe(graph, local, plan)
    ov.save_model(graph, path, compress_to_fp16=False)


def _applicable(plan: Plan | str, local: LocalModel, loaded: LoadedModel, source: Path) -> Plan:
    """The plan, or the uniform one of a format, held to the model's own weights."""
    weights = inventory(loaded.model)
    identity = ModelIdentity(local.id, local.revision, weights_sha256(loaded.files))
    if isinstance(plan, str):
        kept = kept_bytes(loaded.model, weights)
        plan = uniform_plan(identity, [weight.as_dict() for weight in weights], kept, plan)
    check_applies(plan, identity, [weight.name for weight in quantizable(weights)], source)
    return plan


def _roundings(
    loaded: LoadedModel, plan: Plan, source: Path, cancel: Cancel
) -> Generator[Event, None, Roundings]:
    """The integers of a plan, of a file beside `source` or computed again."""
    return (yield from plan_roundings(loaded, plan, beside(source), cancel, STAGE))


def _options(loaded: LoadedModel, plan: Plan, activation_group: int) -> dict[str, str]:
    """The runtime options of the graph."""
    options = dict(KEPT_IN_FP16) if family_of(loaded.model.config.model_type).attends else {}
    weights = quantizable(inventory(loaded.model))
    formats = [(w.shape[-1], parse_format(plan.assignments.get(w.name, "fp16"))) for w in weights]
    if activation_group == LARGEST:
        activation_group = largest_group(formats)
    elif activation_group:
        check_groups(activation_group, formats)
    if activation_group:
        options[DYNAMIC_QUANTIZATION] = str(activation_group)
    return options


def _taken_group(options: Mapping[str, str]) -> str:
    """What became of the wish for the largest group, as a sentence."""
    if DYNAMIC_QUANTIZATION in options:
        size = options[DYNAMIC_QUANTIZATION]
        return f"Devices quantize activations in groups of {size}, where nobody asks them otherwise."
    return "Devices quantize activations as usual: the formats allow no larger groups."


def _bytes_needed(loaded: LoadedModel, plan: Plan, npu: bool) -> int:
    """On disk, at most at a time."""
    weights = inventory(loaded.model)
    chosen = [(w.shape, parse_format(plan.assignments.get(w.name, "fp16"))) for w in quantizable(weights)]
    written = kept_bytes(loaded.model, weights) + sum(stored_bytes(shape, fmt) for shape, fmt in chosen)
    parameters = sum(weight.parameters for weight in weights)
    compared = 2 * parameters if parameters <= LARGE else 0
    # Weights lie there as they are made and as they are written, a second graph's until both share them.
    return max(written * (2 + npu), compared)


def _verified(
    staging: Path,
    plan: Plan,
    said: TorchAnswers,
    expected: Mapping[str, str],
    step: Callable[[str], Progress],
    cancel: Cancel,
) -> Generator[Progress, None, tuple[Audit, dict[str, Any]]]:
    """Every weight of the written graphs, and how far the main one is off the model, whose answers are kept.

    The graph maps its file, and is gone at the end: Windows renames no folder with a mapped file.
    """
    yield step("Checking every weight against the plan")
    graph = ov.Core().read_model(staging / "openvino_model.xml")
    checked = audit(graph, plan.assignments, expected)
    if (staging / NPU_MODEL).exists():
        audit(read_shared(ov.Core(), staging), plan.assignments, expected)
    yield step("Comparing the exported graph with the model")
    save_reference(staging, said)
    logits = graph_answers(graph, said.ids, cancel)
    off = difference_from(said, (part[:, said.columns] for part in logits))
    if off > MOST_DIFFERENT:
        raise ExportError(
            "The exported graph does not answer like the model",
            f"on the CPU in f32, its logits differ by {off:.1%} of their spread",
            "Report this as a bug, with the model's name",
        )
    return checked, {
        "tokens": len(said.ids),
        "cpu_f32_against_torch": off,
        "in_pieces": elements(graph) > LARGE,
        "runs_paged": runs_paged(graph),
    }


def _warnings(plan: Plan, npu: bool) -> Iterator[Note]:
    """What of a plan a device is known to compute wrongly or not to take."""
    for device in ("GPU", *(("NPU",) if npu else ())):
        wrong = sorted(name for name in set(plan.assignments.values()) if is_distrusted(device, name))
        if wrong:
            words = ", ".join(parse_format(name).label for name in wrong)
            text = f"Not for a {device}: OpenVINO computes {words} wrongly there"
            yield Note(text, "warning")
    if plan.rounded_by:
        yield Note(
            "This plan was measured with integers that NNCF chose. A plan does not hold them, so its weights "
            "are rounded to nearest",
            "warning",
        )


def replacing(out: Path, plan: Plan) -> Iterator[Note]:
    """That `out` holds the export of another plan, which this one takes the place of."""
    with contextlib.suppress(InputError):  # there is none, or none that can be read
        if not load_plan(behind_links(out) / "plan.json").is_same_as(plan):
            yield Note(f"{out.name} holds the export of another plan, which this one replaces")


def _frozen(config: Any) -> Iterator[Note]:
    """What a model does otherwise in longer texts, and its graph does not."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)]
    if any("dynamic" in str(kind) for kind in kinds):
        yield Note(
            f"In texts of more than {config.max_position_embeddings:,} tokens, this model changes its rotary "
            "frequencies (rope_type dynamic). The exported graph does not: it is right up to that length.",
            "warning",
        )


def _prompt(loaded: LoadedModel) -> list[int]:
    text = read_text(calibration_text())[: CHARACTERS_PER_TOKEN * PROMPT_TOKENS]
    return loaded.ids(text, calibration_text().name)[:PROMPT_TOKENS]


def _compared(
    shared: Traced, model: PreTrainedModel, ids: list[int], weights: HollowWeights, cancel: Cancel
) -> float | None:
    """How far the traced graph is off the model; None for a large one, of which only the outcome is compared.

    Raises
    ------
    ExportError
        If it is off by more than `MOST_DIFFERENT`: with the first block that is.
    """
    assert shared.graph is not None
    if elements(shared.graph) > LARGE:
        return None
    graph = shared.graph.clone()
    fill(graph, weights, weights.tensors, cancel)
    _begin(graph, shared.states, model, {}, cancel)
    found = traced.difference(graph, model, ids, cancel)
    if found > MOST_DIFFERENT:
        where = traced.first_wrong_block(model, ids, MOST_DIFFERENT, weights, cancel)
        raise ExportError(
            "The traced graph does not answer like the model",
            f"before compression, its logits differ by {found:.1%} of their spread, and the first part that "
            f"differs is {where or 'the head'}",
            "Report this as a bug, with the model's name",
        )
    return found


def _write_npu_graph(
    local: LocalModel,
    plan: Plan,
    staging: Path,
    cancel: Cancel,
    fixed: ov.Model,
    weights: HollowWeights,
    roundings: Roundings,
) -> None:
    """Compressed anew in its own form; equal weights come out as equal bytes and are shared."""
    graph = fixed.clone()
    compress(graph, plan.assignments, cancel, weights, roundings)
    _save(graph, staging / NPU_MODEL, local, plan)
    share_weights(staging / NPU_MODEL, staging / "openvino_model.xml")


def _describe(graph: ov.Model, local: LocalModel, plan: Plan) -> None:
    """Provenance inside the graph, where OpenVINO's own tools show it."""
    about = {
        "version": __version__,
        "model": local.id,
        "revision": local.revision or "",
        "method": plan.method,
    }
    for key, value in about.items():
        graph.set_rt_info(value, ["kl_lens_desktop", key])
    graph.set_rt_info(str(PREFILL_CHUNK), ["kl_lens_desktop", "prefill_chunk"])


def write_small_files(folder: Path, generation: GenerationConfig, staging: Path) -> None:
    for file in model_files(folder).small:
        content = read_bytes(file)
        if file.name == CONFIG:
            described = parse_object(content, file)
            if (text := text_config(described)) is not described:
                content = json.dumps(text, indent=2).encode()
        (staging / file.name).write_bytes(strict_json(content) if file.suffix == ".json" else content)
    if not (staging / GENERATION).exists():  # LLMPipeline wants one
        with in_words("Cannot write how to generate", f"{CONFIG} has impossible settings", "Correct them"):
            generation.save_pretrained(staging)
    # Of prompts of unequal length, the recurrent states are right only where the shorter ones begin later.
    path = staging / TOKENIZER_CONFIG
    described = read_object(path) if path.exists() else {}
    if described.get("padding_side") != "left":
        write_json(path, {**described, "padding_side": "left"})


def write_tokenizer(tokenizer: Any, staging: Path) -> None:
    with in_words(
        "Cannot convert the tokenizer", "OpenVINO refused it", "Choose a model with a fast tokenizer"
    ):
        tokenizer.padding_side = "left"
        models = convert_tokenizer(tokenizer, with_detokenizer=True)
    for part, graph in zip(("tokenizer", "detokenizer"), models, strict=True):
        ov.save_model(graph, staging / f"openvino_{part}.xml")
    if (staging / TOKENIZER).exists() and not is_read_as(tokenizer, staging):
        path = staging / TOKENIZER_CONFIG
        # What versions 4 and 5 of transformers both call the one that follows its file.
        write_json(path, {**read_object(path), "tokenizer_class": "PreTrainedTokenizerFast"})


def _write_card(
    staging: Path,
    local: LocalModel,
    plan: Plan,
    checked: dict[str, Any],
    proven: dict[str, Any],
    options: dict[str, str],
) -> None:
    packages = ("torch", "transformers", "openvino", "openvino-tokenizers", "nncf")
    for licence in licence_files(local.folder):
        (staging / licence.name).write_bytes(licence.read_bytes())
    about = {
        "made_by": f"KL Lens Desktop {__version__}",
        "model": asdict(plan.model),
        "source": local.id,
        "prefill_chunk": PREFILL_CHUNK,
        "inputs": "input_ids, attention_mask and position_ids (batch, tokens); beam_idx (batch)",
        "output": "logits (batch, tokens, vocabulary) of every position. Calls keep the state.",
        "clients_tried": [
            "openvino_genai.LLMPipeline on the CPU, greedy and with beam search. "
            + (_PAGED if proven["runs_paged"] else _NOT_PAGED),
            "Loops that feed the four inputs, with prompts in pieces of any length.",
        ],
        "rows_of_a_batch": "Shorter prompts are padded on the left, where attention_mask is 0. The "
        "tokenizer in this folder does so. Calls with one token for each row need no padding.",
        **({"runtime_options": options} if options else {}),
        **({"npu": _NPU} if (staging / NPU_MODEL).exists() else {}),
        "audit": checked,
        "proof": proven,
        "files": sorted([CARD, README, *(path.name for path in staging.iterdir())]),
        "contents": contents(staging),
        "packages": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
    }
    write_json(staging / CARD, about)
    (staging / README).write_text(model_card(local.id, about, local.folder), encoding="utf-8", newline="\n")
