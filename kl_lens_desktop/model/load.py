"""A model folder as a transformers model in memory: safetensors only, no code from the folder."""

import contextlib
import json
import math
import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    TokenizersBackend,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from kl_lens_desktop.errors import InputError, ModelError, in_words
from kl_lens_desktop.families import family_of
from kl_lens_desktop.files import reason
from kl_lens_desktop.kernels.replace import unreplaced
from kl_lens_desktop.kernels.table import KERNELS
from kl_lens_desktop.model.checkpoint import tensor_shapes
from kl_lens_desktop.model.config import check_sizes, read_config
from kl_lens_desktop.model.fit import folder_sizes, too_large
from kl_lens_desktop.model.mapped import mapped_tensors, without_copies
from kl_lens_desktop.model.tokenizer import check_tokenizer
from kl_lens_desktop.process.events import Event, Note
from kl_lens_desktop.repository.model_files import (
    CONFIG,
    GENERATION,
    TOKENIZER,
    TOKENIZER_CONFIG,
    ModelFiles,
    UnusableError,
    listed,
    model_files,
    parse_object,
    read_bytes,
)
from kl_lens_desktop.repository.support import check_tokenizer_files
from kl_lens_desktop.repository.text_part import is_for_seeing, text_name
from kl_lens_desktop.temporary import temporary_folder

Value = TypeVar("Value")
_AGAIN = "Download the model again"
# What quantized weights are multiplied with or unpacked by, and what adapters add to weights.
_CHANGES = re.compile(
    r"[._](weight_scales?(_inv|_\d)?|scale_weight|scale_inv|input_scale|qweight|qzeros|g_idx|absmax|quant_map"
    r"|quant_state|weight_packed|weight_zero_point|lora_[AB]|lora_magnitude_vector)\b"
)
# What tokenizers cut by different rules.
_PROBE = (
    "In 1999 there weren't 12345.67 CAFÉS:\n\n\tx_1 = 3.14;  naïve — “DON'T” 船は日本 😀 a.b/c?d=e\r\n  f()"
)
# Where a file of settings names others for newer programs, which would be read in its place.
_OTHERS = {CONFIG: "configuration_files", TOKENIZER_CONFIG: "fast_tokenizer_files"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with its tokenizer and the files it came from.

    Where it is `mapped`, the parameters lie in these files, and `by_block.ByBlock` runs it. `unused` are the
    tensors in these files that the model has no place for.
    """

    model: PreTrainedModel
    tokenizer: Any
    files: list[Path]
    mapped: bool = False
    unused: tuple[str, ...] = ()

    @property
    def embedded(self) -> int:
        """How many token ids, from 0, the model has embeddings for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def borrows_head(self) -> bool:
        """Whether its head is its embedding."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    def ids(self, text: str, source: str) -> list[int]:
        """Token ids of `text`, no special tokens added; `source` is what a message calls it.

        Raises
        ------
        InputError
            If the model has no embedding for one of them: fine-tunes add tokens to the tokenizer alone.
        """
        with in_words(f"Cannot read {source}", "the model's tokenizer failed", _AGAIN):
            ids: list[int] = self.tokenizer(
                text, add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
        most = self.embedded
        if beyond := sorted({number for number in ids if number >= most}):
            raise InputError(
                f"Cannot use {source} with this model",
                f"it contains tokens that the model has no embedding for: {_named(self.tokenizer, beyond)}",
                "Remove them from the text, or use the tokenizer of the original model",
            )
        return ids


def warnings(loaded: LoadedModel) -> Iterator[Note]:
    """What of a model's files does not fit together, though it can be used."""
    tokenizer, most = loaded.tokenizer, loaded.embedded
    if len(tokenizer) > most:
        beyond = sorted(number for number in tokenizer.get_vocab().values() if number >= most)
        yield Note(
            f"The model has no embedding for these tokens of its tokenizer: {_named(tokenizer, beyond)}. "
            "Texts and prompts that contain them cannot be used.",
            "warning",
        )
    named = loaded.model.config.architectures or []
    if loaded.borrows_head and named and all(name.endswith("Model") for name in named):
        yield Note(
            f"The files hold {listed(named)}, which has no head, as models for search do. Its embeddings "
            "take the place of the head. If it was not made to predict text, the figures mean nothing.",
            "warning",
        )
    seeing = [name for name in loaded.unused if is_for_seeing(name)]
    if seeing:
        yield Note(
            f"Only the text part of this model is used. The weights of its vision part are left out: "
            f"{listed(seeing)}.",
            "warning",
        )
    if odd := [name for name in loaded.unused if name not in seeing]:
        yield Note(
            f"These tensors of the model's files belong to no part of its text model, and are not used: "
            f"{listed(odd)}.",
            "warning",
        )


def load_model(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> LoadedModel:
    """Open a model folder for inference.

    Raises
    ------
    ModelError
        If the folder is not a supported model, its weights do not fit its configuration, or it lacks a
        tokenizer.
    """
    files = model_files(folder)
    with _small_files(files) as small:
        empty, unused = _structure(files, small)
        tokenizer = _tokenizer(files, small)
        generation = _generation(files, small)
    with _words(folder, "its weights cannot be loaded"), _tensors(files) as tensors:
        tensors = _as_named(tensors, empty.config)
        # Nothing is chosen here: transformers gets the tensors of the files that are hashed, and no folder.
        model = type(empty).from_pretrained(None, config=empty.config, state_dict=tensors, dtype=dtype)
    model.config.name_or_path, model.generation_config = str(folder), generation
    _limit_steps(model)
    model = model.eval().requires_grad_(False).to(device)
    return LoadedModel(model, tokenizer, list(files.weights), unused=unused)


def load_or_open(folder: Path, stage: str, device: str = "cpu") -> Generator[Event, None, LoadedModel]:
    """`load_model` where the memory that is free takes what the stage needs, else `open_model` and a note.

    Raises
    ------
    ModelError
        As `load_model` does.
    """
    if device == "cpu" and (note := too_large(folder_sizes(folder), stage)):
        yield note
        return open_model(folder)
    return load_model(folder, device=device)


def open_model(folder: Path) -> LoadedModel:
    """As `load_model`, but the parameters stay in the files, in the files' own precision, and are mapped.

    They take no memory of this process's own and may not be written to. Experts that lie apart in the files
    are a `mapped.Stack`. Buffers are those of `load_model`.

    Raises
    ------
    ModelError
        As `load_model` does.
    """
    files = model_files(folder)
    with _small_files(files) as small:
        model, unused = _structure(files, small)
        tokenizer = _tokenizer(files, small)
        generation = _generation(files, small)
    with _words(folder, "its weights cannot be loaded"):
        how = LoadStateDictConfig(
            device_map={"": "cpu"},
            dtype_plan={"*": None},  # as they are
            weight_mapping=without_copies(get_model_conversion_mapping(model)),
        )
        tensors = _as_named(mapped_tensors(files.weights), model.config)
        found, _ = convert_and_load_state_dict_in_model(model, tensors, how)
        model._finalize_model_loading(model, how, found)
    for module in model.modules():
        for name, value in module.named_buffers(recurse=False):
            if value.is_floating_point() and name not in module._non_persistent_buffers_set:
                setattr(module, name, value.float())
    model.config.name_or_path, model.generation_config = str(folder), generation
    _limit_steps(model)
    model = model.eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, list(files.weights), mapped=True, unused=unused)


def empty_model(folder: Path) -> PreTrainedModel:
    """The model's structure without memory for its weights: for an inventory in a second at any size.

    Raises
    ------
    ModelError
        If `load_model` would refuse the folder.
    """
    files = model_files(folder)
    with _small_files(files) as small:
        model, _ = _structure(files, small)
        _tokenizer(files, small)
        _generation(files, small)
    return model


@contextlib.contextmanager
def _small_files(files: ModelFiles) -> Iterator[Path]:
    """The small files of a model, bounded and of the right kind, alone in a folder for transformers to read.

    Of others it would choose some by itself, such as templates in further folders.
    """
    with temporary_folder() as alone:
        for file in files.small:
            content = read_bytes(file)
            if file.suffix == ".json":
                described = parse_object(content, file)
                if file.name == TOKENIZER:
                    check_tokenizer(described, file)
                if file.name == CONFIG and (text := read_config(files)) != described:
                    described, content = text, json.dumps(text).encode()
                if described.pop(_OTHERS.get(file.name, ""), None) is not None:
                    content = json.dumps(described).encode()
            try:
                (alone / file.name).write_bytes(content)
            except OSError as error:
                raise InputError(f"Cannot write into {alone}", reason(error), "Free some space") from error
        try:
            yield alone
        except ModelError as error:
            raise ModelError(
                error.what, error.why.replace(str(alone), str(files.folder)), error.next_step
            ) from error


def _structure(files: ModelFiles, small: Path) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model without memory for its weights, which are known to fit it; and those that it does not use."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder = files.folder
    kind = read_config(files)["model_type"]
    family_of(kind).known()
    shapes = tensor_shapes(files)
    if changes := [name for name in sorted(shapes) if _CHANGES.search(name)]:
        raise ModelError(
            f"Cannot open {folder}",
            f"its weights are quantized, or to be changed by an adapter ({changes[0][:120]}), and its "
            f"{CONFIG} does not say how",
            "Choose the model in full precision",
        )
    with _words(folder, f"its {CONFIG} does not describe a model of the kind {kind}"):
        config = AutoConfig.from_pretrained(small, local_files_only=True, trust_remote_code=False)
        config.name_or_path = str(folder)
        layers, held = config.get_text_config().num_hidden_layers, len(shapes)
        check_sizes(folder, {"num_hidden_layers": layers})
        if layers > held:
            raise ModelError(
                f"Cannot open {folder}",
                f"its {CONFIG} asks for {layers:,} layers, and its weights have only {held:,} tensors",
                _AGAIN,
            )
        _check_recurrence(folder, config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        unused = _check_fit(folder, model, _as_named(shapes, config))
    return model, unused


def _as_named(tensors: dict[str, Value], config: Any) -> dict[str, Value]:
    """The same by the names that the model's parameters have."""
    name = family_of(config.model_type).names(config)
    return {name(each): value for each, value in tensors.items()}


def _limit_steps(model: PreTrainedModel) -> None:
    """Bound the time steps of Mamba-2 as the configuration says: without a word, not at all.

    That is what its authors' kernels do, with which these models were trained. For Nemotron-H and Zamba2,
    transformers 5.23 raises the steps of a prompt, and not those of single tokens, to ``time_step_min``, from
    which weights are only initialized (transformers#48989).
    """
    limit = tuple(getattr(model.config, "time_step_limit", None) or (0.0, math.inf))
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = limit


def _check_recurrence(folder: Path, config: Any) -> None:
    """Refuse a model with a recurrence that no kernel of ours stands in for, which would trace wrong."""
    family = family_of(config.model_type)
    modelling = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__module__
    left = unreplaced(modelling, [KERNELS[name] for name in family.kernels])
    if left:
        raise ModelError(
            f"Cannot open {folder}",
            f"{config.model_type} computes a recurrence that is not known here: {', '.join(left)}",
            "Choose another model",
        )


def _check_fit(folder: Path, model: PreTrainedModel, shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Load the shapes alone, with all that transformers renames, joins and splits.

    Gives the names of the tensors that the model has no place for.
    """
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    how = LoadStateDictConfig(
        device_map={"": "meta"}, dtype=torch.float32, weight_mapping=get_model_conversion_mapping(model)
    )
    found, _ = convert_and_load_state_dict_in_model(model, tensors, how)
    model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(found)
    if found.conversion_errors:
        name, why = sorted(found.conversion_errors.items())[0]
        raise ModelError(
            f"Cannot open {folder}", f"{name} cannot be made of its weights ({why[:200]})", _AGAIN
        )
    if odd := sorted(found.mismatched_keys):
        name, stored, wanted = odd[0]
        raise ModelError(
            f"Cannot open {folder}",
            f"its weights do not fit its {CONFIG}: {name} is {_shape(stored)} and not {_shape(wanted)}",
            _AGAIN,
        )
    if missing := sorted(found.missing_keys):
        why = f"{len(missing)} weights are missing, such as {missing[0]}"
        raise ModelError(f"Cannot open {folder}", why, _AGAIN)
    return tuple(sorted(found.unexpected_keys))


def _tokenizer(files: ModelFiles, small: Path) -> Any:
    folder, names = files.folder, {file.name for file in files.small}
    try:
        check_tokenizer_files({path.name for path in folder.iterdir()})
    except UnusableError as error:
        raise ModelError(f"Cannot open {folder}", error.why, error.next_step) from error
    named = " or ".join(name for name in (TOKENIZER, TOKENIZER_CONFIG) if name in names) or "its vocabulary"
    with _words(folder, f"{named} is damaged, or needs the model's own code"):
        tokenizer = AutoTokenizer.from_pretrained(small, local_files_only=True, trust_remote_code=False)
        if TOKENIZER in names and type(tokenizer) is not TokenizersBackend:
            tokenizer = _as_published(tokenizer, small)
        if vocabulary := getattr(tokenizer, "vocab_file", None):
            tokenizer.vocab_file = str(folder / Path(vocabulary).name)
        tokenizer("a")
    return tokenizer


def _as_published(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer, or that of ``tokenizer.json`` alone if it cuts a text otherwise.

    Since version 5, transformers' classes for GPT-2, GPT-NeoX and others take their vocabulary from that file
    and make the rules themselves. Often tokenizer_config.json names one of them, although the model was
    trained with the rules of the file.
    """
    plain = TokenizersBackend.from_pretrained(folder, local_files_only=True)
    return tokenizer if _cut(tokenizer) == _cut(plain) else plain


def is_read_as(tokenizer: Any, folder: Path) -> bool:
    """Whether transformers makes the same tokens of a text with a folder's files as `tokenizer` does."""
    found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return _cut(found) == _cut(tokenizer)


def _cut(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    return ids


def _generation(files: ModelFiles, small: Path) -> GenerationConfig:
    """As transformers makes it: without a file of its own, of the configuration."""
    own = (small / GENERATION).is_file()
    name = GENERATION if own else CONFIG
    with _words(files.folder, f"{name} does not describe how to generate"):
        return GenerationConfig.from_pretrained(
            small,
            name,
            local_files_only=True,
            _from_auto=True,
            **({} if own else {"_from_model_config": True}),
        )


def _named(tokenizer: Any, ids: list[int]) -> str:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return listed(f"{token} (id {number})" for number, token in zip(ids, tokens, strict=True))


@contextlib.contextmanager
def _tensors(files: ModelFiles) -> Iterator[dict[str, Any]]:
    """Every tensor of the weights, read when it is asked for."""
    backend = "pread" if sys.platform == "win32" else "mmap"  # Windows would reserve memory for whole files
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(safe_open(file, framework="pt", backend=backend)) for file in files.weights
        ]
        yield {
            text_name(name): file.get_slice(name)
            for file in opened
            for name in file.keys()  # noqa: SIM118
        }


def _words(folder: Path, why: str) -> contextlib.AbstractContextManager[None]:
    return in_words(f"Cannot open {folder}", why, _AGAIN)


def _shape(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))
