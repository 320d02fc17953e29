"""Checkpoints in the layout of the authors of Mamba, as their package mamba-ssm writes them. Needs no torch.

Their config.json (``MambaConfig`` of mamba-ssm, models/config_mamba.py) names no architecture, one of their
tensors has another name than in transformers, and they have no tokenizer: the authors' scripts take that of
GPT-NeoX.
"""

from typing import Any

from kl_lens_desktop.repository.model_files import UnusableError

TOKENIZER_OF = "EleutherAI/gpt-neox-20b"
_EPSILON = 1e-5  # of every norm, which the layout does not tell
_OTHERS = "Choose a copy in transformers' layout, or another model"
# Arguments of the mixers, what transformers calls them, and what they are where nothing is said.
_BOTH = {
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "conv_bias": ("use_conv_bias", True),
    "bias": ("use_bias", False),
}
_MAMBA = {**_BOTH, "d_state": ("state_size", 16), "dt_rank": ("time_step_rank", "auto")}
_MAMBA2 = {
    **_BOTH,
    "d_state": ("state_size", 128),
    "headdim": ("head_dim", 64),
    "ngroups": ("n_groups", 1),
    "chunk_size": ("chunk_size", 256),
    "dt_limit": ("time_step_limit", [0.0, float("inf")]),
}
# What transformers has no place for, and the value with which that does not matter.
_NOWHERE = {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False}
_INITIAL = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init")
_IGNORED = ("use_fast_path", "use_mem_eff_path", "layer")


def is_native(config: dict[str, Any]) -> bool:
    """Whether a configuration is in that layout."""
    return (
        {"d_model", "n_layer"} <= config.keys() and "hidden_size" not in config and "model_type" not in config
    )


def in_transformers(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as transformers would have it; any other than a native one as it is.

    Raises
    ------
    UnusableError
        If transformers' Mamba or Mamba-2 does not compute such a model.
    """
    if not is_native(config):
        return config
    given = config.get("ssm_cfg") or {}
    try:
        layers, hidden, vocabulary = (int(config[name]) for name in ("n_layer", "d_model", "vocab_size"))
        multiple = int(config.get("pad_vocab_size_multiple", 8))
        kind = given.get("layer", "Mamba1")
        table = {"Mamba1": _MAMBA, "Mamba2": _MAMBA2}.get(kind)
        if table is None:
            raise UnusableError(f"its layers are of the kind {str(kind)[:40]}", _OTHERS)
        _check_representable(config, given, table)
        sizes = {name: given.get(key, usual) for key, (name, usual) in table.items()}
        if kind == "Mamba2":
            sizes["num_heads"] = sizes["expand"] * hidden // sizes["head_dim"]
        else:
            sizes["intermediate_size"] = sizes["expand"] * hidden
        padded = -(-vocabulary // multiple) * multiple
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise UnusableError("its config.json is damaged", "Download the model again") from error
    return {
        "architectures": [f"{kind.removesuffix('1')}ForCausalLM"],
        "model_type": kind.lower().removesuffix("1"),
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "vocab_size": padded,
        "residual_in_fp32": config.get("residual_in_fp32", True),
        "tie_word_embeddings": config.get("tie_embeddings", True),
        "layer_norm_epsilon": _EPSILON,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),  # <|endoftext|>
        **sizes,
    }


def name_in_transformers(tensor: str) -> str:
    """What transformers calls the tensor of that name; it has no other tensor of this name."""
    return "backbone.embeddings.weight" if tensor == "backbone.embedding.weight" else tensor


def _check_representable(config: dict[str, Any], given: dict[str, Any], table: dict[str, Any]) -> None:
    """Refuse what transformers would compute otherwise than mamba-ssm."""
    if config.get("attn_layer_idx"):
        raise UnusableError("it has layers of attention, which transformers' Mamba lacks", _OTHERS)
    if config.get("d_intermediate"):
        raise UnusableError("it has layers of perceptrons, which transformers' Mamba lacks", _OTHERS)
    if config.get("rms_norm", True) is not True:
        raise UnusableError("its norms subtract the mean, and those of transformers' Mamba do not", _OTHERS)
    odd = [name for name, value in _NOWHERE.items() if given.get(name, value) != value]
    known = {*table, *_NOWHERE, *_INITIAL, *_IGNORED}
    if odd := odd or sorted(map(str, given.keys() - known)):
        raise UnusableError(f"transformers' Mamba cannot follow its ssm_cfg: {odd[0][:40]}", _OTHERS)
