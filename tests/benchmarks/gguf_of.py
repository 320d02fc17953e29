"""Write a Granite hybrid or a Mamba-2 as GGUF, as llama.cpp's converter does, and let libllama quantize it.

``python gguf_of.py MODEL_FOLDER OUT.gguf LIBLLAMA`` runs in an environment of its own with ``gguf``,
``safetensors`` and ``torch``. Q4_0 is what libllama's own function makes: its mixture of types for the
embedding included.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

_Q4_0, _Q8_0 = 2, 7  # of llama.h's enum llama_ftype
_PARAMETERS = 512  # bytes; more than what follows the known fields of llama_model_quantize_params
_ARCHITECTURES = {"granitemoehybrid": "granitehybrid", "mamba2": "mamba2"}


def main(folder: Path, out: Path, library: Path) -> None:
    plain = out.with_suffix(".f16")
    write(folder, plain)
    quantize(plain, out, library, _Q8_0 if "q8" in out.name else _Q4_0)
    plain.unlink()


def write(folder: Path, out: Path) -> None:
    """In FP16, vectors in float32."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = _ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(out, name)
    _describe(writer, config)
    _add_tokens(writer, gguf, config["vocab_size"])
    names, groups = names_of(config), groups_of(config)
    for key, tensor in load_file(folder / "model.safetensors").items():
        for part, values in parts(key, tensor.float().numpy(), groups):
            target = names.get_name(part, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise KeyError(part)
            matrix = values.ndim == 2 and min(values.shape) > 4 and "ssm_norm" not in target
            writer.add_tensor(target, values.astype("float16" if matrix else "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def names_of(config: dict[str, Any]) -> Any:
    """What llama.cpp calls the tensors of a model."""
    import gguf

    name = _ARCHITECTURES[config["model_type"]]
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    return gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])


def groups_of(config: dict[str, Any]) -> int:
    """The groups of Mamba-2's B and C."""
    return int(config.get("mamba_n_groups") or config["n_groups"])


def _describe(writer: Any, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", config.get("layer_norm_epsilon", 1e-5)))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(2**20)
    if config["model_type"] == "mamba2":
        inner = config["expand"] * config["hidden_size"]
        writer.add_ssm_conv_kernel(config["conv_kernel"])
        writer.add_ssm_state_size(config["state_size"])
        writer.add_ssm_group_count(config["n_groups"])
        writer.add_ssm_time_step_rank(config["num_heads"])
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
    else:
        inner = config["mamba_n_heads"] * config["mamba_d_head"]
        attends = [kind not in ("linear_attention", "mamba") for kind in config["layer_types"]]
        writer.add_ssm_conv_kernel(config["mamba_d_conv"])
        writer.add_ssm_state_size(config["mamba_d_state"])
        writer.add_ssm_group_count(config["mamba_n_groups"])
        writer.add_ssm_time_step_rank(config["mamba_n_heads"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv([config["num_key_value_heads"] if each else 0 for each in attends])
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
        writer.add_rope_scaling_finetuned(False)
        writer.add_feed_forward_length(config["shared_intermediate_size"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    writer.add_ssm_inner_size(inner)


def _add_tokens(writer: Any, gguf: Any, size: int) -> None:
    """Words of no meaning: prompts are given as numbers."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["t 0"])


def parts(key: str, values: Any, groups: int) -> list[tuple[str, Any]]:
    """A tensor as llama.cpp holds it, under the names that its converter knows."""
    import numpy as np

    key = key.replace("shared_mlp.output_linear", "mlp.down_proj")
    if "shared_mlp.input_linear" in key:
        stem = key.replace("shared_mlp.input_linear", "mlp.{}_proj")
        gate, up = np.split(values, 2)
        return [(stem.format("gate"), gate), (stem.format("up"), up)]
    if key.endswith("conv1d.weight"):
        return [(key, values.squeeze(1))]
    if key.endswith("A_log"):
        return [(key, -np.exp(values)[:, None])]
    if key.endswith(".D"):
        return [(key, values[:, None])]
    if key.endswith("dt_bias"):
        return [(key.replace("dt_bias", "dt_proj.bias"), values)]
    if key.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        return [(key, values.reshape(groups, -1))]
    return [(key, values)]


class _Importance(ctypes.Structure):
    """``llama_model_imatrix_data``."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Parameters(ctypes.Structure):
    """``llama_model_quantize_params``."""

    _fields_ = (
        ("threads", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("types", ctypes.c_int32 * 2),
        ("switches", ctypes.c_bool * 6),
        ("importance", ctypes.c_void_p),
        ("rest", ctypes.c_byte * _PARAMETERS),
    )


def quantize(
    source: Path, out: Path, library: Path, kind: int, importance: dict[str, Any] | None = None
) -> None:
    """Have libllama quantize a file; `importance` is mean squares of input channels by GGUF tensor."""
    llama = ctypes.CDLL(str(library))
    llama.llama_model_quantize_default_params.restype = _Parameters
    llama.llama_model_quantize.restype = ctypes.c_uint32
    parameters = llama.llama_model_quantize_default_params()
    parameters.kind = kind
    table = [
        _Importance(name.encode(), values.ctypes.data, values.size)
        for name, values in (importance or {}).items()
    ]
    listed = (_Importance * (len(table) + 1))(*table)  # which ends with one without a name
    if table:
        parameters.importance = ctypes.addressof(listed)
    failed = llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters))
    if failed:
        raise OSError(f"libllama did not quantize {source} ({failed}).")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
